"""Tensors that are computed once: each file is named by the hash of all that its contents depend on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.sealed import read_tensors, write_tensors
from guda_lightning.storage.seals import intact


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
            StoreError: The disk is full.
        """
        if self.folder is None:
            return dict(compute())
        path = self._path(self.folder, key)
        if not intact(path, "what it held is computed again"):
            write_tensors(path, compute())
        # Of two processes that compute it at once, both take what the later one wrote.
        return read_tensors(path, "run the command again")

    def has(self, key: object) -> bool:
        """Whether there is a file of a key, damaged or not."""
        return self.folder is not None and self._path(self.folder, key).is_file()

    @staticmethod
    def _path(folder: Path, key: object) -> Path:
        return folder / f"{sha256_json(key)[:32]}.safetensors"
