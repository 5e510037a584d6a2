"""What tells one posterior from another in a store, and how it was made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.weights_record import WeightsRecord

# Of what was learnt, in the last quarter of the steps. Digits: 13 % after 200 steps, with a loss that is a
# sixth above that of 1 000, 3 % after 350, .4 % after 1 000.
STILL_LEARNING = 0.05


@dataclass(frozen=True)
class PosteriorKey:
    """What tells one posterior from another in a store.

    Attributes:
        kind: Which of ``KINDS``.
        groups: Names of the groups that it tells apart; kept sorted.
        seed: Seed of its training.
        hparams_hash: ``sha256_json`` of its hyper-parameters.
    """

    kind: str
    groups: tuple[str, ...]
    seed: int
    hparams_hash: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(sorted(self.groups)))

    @property
    def operator(self) -> str:
        """What the counterfactuals that follow from it are called."""
        return self.kind

    @property
    def folder_name(self) -> str:
        """A name that is unique and safe."""
        return f"{self.kind}-{sha256_json(asdict(self))[:12]}"


@dataclass(frozen=True, kw_only=True)
class PosteriorRecord(WeightsRecord):
    """How a posterior was made; ``groups`` are those that it tells apart.

    Attributes:
        kind: Which of ``KINDS``.
        levels: One entry per noise level: how well a classifier does on held-out samples, the window of a
            patch kernel and how near its ε is to the full model's, the weight of each member of a mixture.
        last_quarter: Of a classifier, how much of what it learnt came in the last quarter of its steps
            (``HeldOutStopping.last_quarter``); of a mixture, the most of its members. None where nobody has
            tested it.
        tested_on_trained: Of a recalibrated classifier: sets of groups without held-out samples, whose
            ``levels`` come from what it learnt from.
        members: Of a mixture: folder name and ``hash`` of each posterior that it is made of, in the order of
            its weights.
    """

    kind: str
    levels: list[dict[str, Any]] = field(default_factory=list)
    members: list[dict[str, str]] = field(default_factory=list)
    tested_on_trained: int = 0
    last_quarter: float | None = None

    @property
    def is_settled(self) -> bool:
        """Whether it no longer changed when its training ended: else its scores have no size."""
        return self.last_quarter is None or self.last_quarter <= STILL_LEARNING

    @property
    def key(self) -> PosteriorKey:
        """The key that the posterior is stored under."""
        return PosteriorKey(self.kind, self.groups, self.seed, self.hparams_hash)

    @property
    def weights_hash(self) -> str:
        """What identifies the posterior: its weights, or where it has none, all that it follows from."""
        if self.files:
            return super().weights_hash
        made = (self.full_hash, self.schedule_hash, self.grouping_hash, self.levels, self.members)
        return sha256_json([asdict(self.key), *made])
