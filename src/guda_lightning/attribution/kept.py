"""What attributors compute of the training samples alone, once: tensors in files of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from guda_lightning.distributed.ranks import Ranks
from guda_lightning.scores.squared_errors import unreadable
from guda_lightning.storage.files import sha256_json, write_atomic

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Part:
    """Tensors that are computed once and then read.

    Attributes:
        name: What they are, for the name of their file.
        identity: All that they depend on, as JSON values; its hash is the rest of that name.
        evaluations: Network evaluations that they cost; a backward pass counts as two.
        make: Computes them, on the CPU.
    """

    name: str
    identity: Mapping[str, object]
    evaluations: int
    make: Callable[[], Tensors]

    def path(self, folder: Path) -> Path:
        """Their file in a folder."""
        return folder / f"{self.name}-{sha256_json(self.identity)[:16]}.safetensors"

    def is_kept(self, folder: Path | None) -> bool:
        """Whether the folder has them; None has nothing."""
        return folder is not None and self.path(folder).is_file()

    def obtain(self, folder: Path | None, ranks: Ranks) -> Tensors:
        """Read them, or compute and keep them: rank zero where there is a folder, else every rank.

        Raises:
            StoreError: Their file is damaged.
        """
        if folder is None:
            return self.make()
        path = self.path(folder)
        if not ranks.broadcast(path.is_file()):
            ranks.on_rank_zero(lambda: write_atomic(path, save(dict(self.make()))))
        try:
            return load_file(path)
        except (OSError, SafetensorError) as error:
            raise unreadable(path, error, "tensors written by guda-lightning") from error
