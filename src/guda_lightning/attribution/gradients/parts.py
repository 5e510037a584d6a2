"""What is computed of the training samples, part by part: on disk, so that it goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from guda_lightning.distributed.ranks import Ranks
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.sealed import read_tensors, write_tensors
from guda_lightning.storage.seals import intact
from guda_lightning.storage.written import wrote


class Parts:
    """Named parts of one computation; each is made once.

    Args:
        features: Folder for what is computed of the training samples: the parts are files in a folder of
            their own there. None keeps them in memory.
        identity: All that the parts depend on, as JSON values; it names the folder and stands in each file.

    Attributes:
        folder: Where they are files; None where they are kept in memory.
    """

    def __init__(self, features: Path | None, identity: Mapping[str, object]) -> None:
        self.folder = None if features is None else features / f"gradients-{sha256_json(identity)[:16]}"
        self._about = {"identity": identity}
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
        # The first rank looks alone: whoever finds damage removes the file, perhaps that of a faster one.
        missing = ranks.broadcast(self.missing(names) if ranks.rank == 0 else [])
        for name in missing if self.folder is None else missing[ranks.rank :: ranks.count]:
            self._save(name, of(name))
        ranks.barrier()
        if self.folder is not None:  # whichever rank it was
            wrote(*(self._path(self.folder, name) for name in missing))

    def load(self, name: str) -> Mapping[str, Tensor]:
        """Read a part, on the CPU.

        Raises:
            StoreError: It is missing or damaged.
        """
        if self.folder is None:
            return self._kept[name]
        return read_tensors(self._path(self.folder, name), "rerun guda attribute")

    def _save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        here = {key: value.cpu().contiguous() for key, value in tensors.items()}
        if self.folder is None:
            self._kept[name] = here
        else:
            write_tensors(self._path(self.folder, name), here, self._about)

    def _has(self, name: str) -> bool:
        if self.folder is None:
            return name in self._kept
        return intact(self._path(self.folder, name), "it is computed again")

    @staticmethod
    def _path(folder: Path, name: str) -> Path:
        return folder / f"{name}.safetensors"
