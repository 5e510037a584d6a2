"""Which samples of a validation are scored: drawn over all of it, the same for any batches and processes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, DistributedSampler

from guda_lightning.data.gathering import Collected, drawn, evenly
from guda_lightning.distributed.ranks import Ranks


class Lots(NamedTuple):
    """What was drawn for some samples of a batch.

    Attributes:
        rows: Their rows in the batch.
        places: Where each stands in its loader, over all processes.
        values: What was drawn: a pure function of the seed and of the sample's name, else of its place.
    """

    rows: tuple[int, ...]
    places: tuple[int, ...]
    values: tuple[int, ...]


@dataclass
class Draw:
    """Draws without replacement from samples that come one after the other, however many there will be.

    Those with the smallest lots are kept, so the draw needs no length, holds ``most`` samples of a loader at
    a time, and depends neither on batches nor on processes, where each sample has a name or a distributed
    sampler deals them.

    Attributes:
        most: Samples to draw, over all loaders.
        seed: Seed of the lots.
    """

    most: int
    seed: int
    _kept: dict[int, Collected] = field(default_factory=dict, init=False)
    _seen: dict[int, int] = field(default_factory=dict, init=False)  # by this process, of each loader

    def start(self, trainer: Trainer) -> None:
        """Forget the samples of the last validation."""
        self._kept, self._seen = {}, {}
        self._ranks = Ranks.of(trainer)

    def lots(self, trainer: Trainer, names: Sequence[str | None], loader: int) -> Lots:
        """The lots of those samples of the next batch that may be taken; repeats of a sampler may not.

        Args:
            trainer: Whose loaders they come from.
            names: What the batch calls its samples; None for one without a name.
            loader: The number of the loader.
        """
        first, length = self._seen.get(loader, 0), _dealt_length(trainer, loader)
        kept = self._kept.get(loader)
        worst = kept.lots[-1] if kept is not None and len(kept.lots) >= self.most else None
        found = []
        for row, name in enumerate(names):
            place = (first + row) * self._ranks.count + self._ranks.rank  # as a sampler deals them
            text = f"{self.seed}\n{loader}\n{f'place {place}' if name is None else f'name {name}'}"
            value = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")
            if (length is None or place < length) and (worst is None or value < worst):
                found.append((row, place, value))
        return Lots(*zip(*found, strict=True)) if found else Lots((), (), ())

    def pass_by(self, count: int, loader: int) -> None:
        """Count the samples of a batch."""
        self._seen[loader] = self._seen.get(loader, 0) + count

    def take(self, part: Collected, loader: int) -> None:
        """Keep samples, and drop those that are too many now."""
        held = self._kept.get(loader)
        self._kept[loader] = drawn([part] if held is None else [held, part], self.most)

    def gathered(self, trainer: Trainer) -> tuple[Collected, int | None] | None:
        """What was drawn over all ranks and loaders, and of how many samples; None where there are none.

        Of how many is None where nobody knows which samples several processes have in common.
        """
        everyone = self._ranks.all_gather((self._kept, self._seen))
        loaders = sorted({loader for kept, _ in everyone for loader in kept})
        if not loaders:
            return None
        hands = [
            drawn([kept[loader] for kept, _ in everyone if loader in kept], self.most) for loader in loaders
        ]
        seen = {loader: sum(theirs.get(loader, 0) for _, theirs in everyone) for loader in loaders}
        lengths = {loader: _dealt_length(trainer, loader) for loader in loaders}
        found = evenly(hands, self.most)
        if self._ranks.count > 1 and None in lengths.values():
            return found, None if len(found.ids) == self.most else len(found.ids)
        return found, sum(min(seen[one], lengths[one] or seen[one]) for one in loaders)


def _dealt_length(trainer: Trainer, loader: int) -> int | None:
    """How many samples a distributed sampler deals, repeats not counted; None where nobody knows."""
    loaders = trainer.val_dataloaders
    loaders = list(loaders) if isinstance(loaders, list | tuple) else [loaders]
    found = loaders[loader] if loader < len(loaders) else None
    if not (isinstance(found, DataLoader) and isinstance(found.sampler, DistributedSampler)):
        return None
    return len(found.sampler.dataset)  # type: ignore[arg-type]
