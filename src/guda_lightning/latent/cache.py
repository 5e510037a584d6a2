"""Tensors that are made once: each file is named by the hash of all that its contents depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from guda_lightning.errors import StoreError
from guda_lightning.storage.files import sha256_json, write_atomic


class TensorCache:
    """A folder of tensors by what they are made from.

    Args:
        folder: The folder; made when the first tensors are kept. None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: object, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of a key, read or made.

        Args:
            key: JSON values that tell these tensors from all others.
            make: Makes them.

        Raises:
            StoreError: The file is damaged, or the disk is full.
        """
        if self.folder is None:
            return dict(make())
        path = self.folder / f"{sha256_json(key)[:32]}.safetensors"
        if path.is_file():
            try:
                return load_file(path)
            except SafetensorError as error:
                raise StoreError(
                    f"{path} is damaged",
                    found=error,
                    expected="tensors that were written whole",
                    fix="remove the file: it is made again",
                ) from error
        made = {name: value.contiguous() for name, value in make().items()}
        write_atomic(path, to_safetensors(made))
        return load_file(path)  # of two processes that make it at once, both take what the later one wrote
