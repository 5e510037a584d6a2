"""Tensors that are computed once: each file is named by the hash of all that its contents depend on."""

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
    """A folder of tensors by what they are computed from.

    Args:
        folder: The folder; created with the first tensors. None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def get(self, key: object, compute: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of a key, read or computed.

        Args:
            key: JSON values that tell these tensors from all others.
            compute: Computes them.

        Raises:
            StoreError: The file is damaged, or the disk is full.
        """
        if self.folder is None:
            return dict(compute())
        path = self.folder / f"{sha256_json(key)[:32]}.safetensors"
        if path.is_file():
            try:
                return load_file(path)
            except SafetensorError as error:
                raise StoreError(
                    f"{path} is damaged",
                    found=error,
                    expected="tensors that were written whole",
                    fix="remove the file: it is computed again",
                ) from error
        tensors = {name: value.contiguous() for name, value in compute().items()}
        write_atomic(path, to_safetensors(tensors))
        return load_file(path)  # of two processes that compute it at once, both take what the later one wrote
