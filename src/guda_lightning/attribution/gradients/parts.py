"""What is computed of the training samples, part by part: on disk, so that it goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import StoreError
from guda_lightning.storage.files import canonical_json, sha256_json, write_atomic


class Parts:
    """Named parts of one computation; each is made once.

    Args:
        features: Folder for what is computed of the training samples: the parts are files in a folder of
            their own there. None keeps them in memory.
        identity: All that the parts depend on, as JSON values; it names the folder and stands in each file.
    """

    def __init__(self, features: Path | None, identity: Mapping[str, object]) -> None:
        self._folder = None if features is None else features / f"gradients-{sha256_json(identity)[:16]}"
        self._about = {"guda_lightning": canonical_json(identity)}
        self._kept: dict[str, Mapping[str, Tensor]] = {}

    def missing(self, names: Sequence[str]) -> list[str]:
        """Which of these parts are not there."""
        return [name for name in names if not self._has(name)]

    def make(self, names: Sequence[str], of: Callable[[str], Mapping[str, Tensor]], ranks: Ranks) -> None:
        """Make the parts that are missing; every rank calls it, and makes a share of those that become files.

        Args:
            names: All parts that are needed.
            of: Computes one.
            ranks: Who shares the work.
        """
        missing = ranks.broadcast(self.missing(names))
        for name in missing if self._folder is None else missing[ranks.rank :: ranks.count]:
            self._save(name, of(name))
        ranks.barrier()

    def load(self, name: str) -> Mapping[str, Tensor]:
        """Read a part, on the CPU.

        Raises:
            StoreError: It is missing or damaged.
        """
        if self._folder is None:
            return self._kept[name]
        path = self._path(self._folder, name)
        try:
            return safetensors.torch.load_file(path)
        except (OSError, SafetensorError) as error:
            raise StoreError(
                f"{path} cannot be read",
                found="no such file" if isinstance(error, FileNotFoundError) else error,
                expected="what guda attribute computed of the training samples",
                fix="remove the file and rerun guda attribute",
            ) from error

    def _save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        here = {key: value.cpu().contiguous() for key, value in tensors.items()}
        if self._folder is None:
            self._kept[name] = here
        else:
            write_atomic(self._path(self._folder, name), safetensors.torch.save(here, self._about))

    def _has(self, name: str) -> bool:
        return name in self._kept if self._folder is None else self._path(self._folder, name).is_file()

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        return folder / f"{name}.safetensors"
