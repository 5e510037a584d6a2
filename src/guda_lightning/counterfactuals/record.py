"""What tells a counterfactual from others, and how it was made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from guda_lightning.errors import ConfigError
from guda_lightning.storage.files import sha256_json, slug
from guda_lightning.storage.weights_record import WeightsRecord
from guda_lightning.types import JOINT

RETRAIN = "retrain"  # the operator of the oracle: training from scratch without the groups
ENSEMBLE = "ensemble"  # what scores by means of independent models without half of the groups each are called
SUBSETS = "subsets"  # what score tables are called where that oracle leaves out many groups at once


@dataclass(frozen=True)
class CounterfactualKey:
    """What tells one counterfactual from another in a store.

    Attributes:
        operator: How it was made: the name of an objective, or ``RETRAIN`` for the oracle.
        groups: Names of the removed groups, at least one; kept sorted and without repeats.
        seed: Seed of its training.
        hparams_hash: ``sha256_json`` of its hyper-parameters.
    """

    operator: str
    groups: tuple[str, ...]
    seed: int
    hparams_hash: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(sorted(set(self.groups))))
        if not self.groups:
            raise ConfigError(
                "a counterfactual without groups is the full model",
                found="no groups",
                expected="the name of at least one group",
                fix="name the groups that it has to forget",
            )

    @property
    def name(self) -> str:
        """Names of the groups, joined."""
        return JOINT.join(self.groups)

    @property
    def folder_name(self) -> str:
        """Readable operator and groups, and a hash that makes the name unique and safe."""
        return f"{slug(self.operator)}-{slug(self.name)}-{sha256_json(vars(self))[:12]}"


@dataclass(frozen=True, kw_only=True)
class CounterfactualRecord(WeightsRecord):
    """How a counterfactual was made; ``groups`` are those that were removed.

    Attributes:
        operator: How it was made: the name of an objective, or ``RETRAIN`` for the oracle.
        members_hash: Hash of the set of samples to forget.
        history: Influence measured while unlearning, one entry per measurement.
        sized: Whether scores by it have the size of retraining by construction; retraining itself has.
    """

    operator: str
    members_hash: str
    history: list[dict[str, Any]] = field(default_factory=list)
    sized: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "sized", self.sized or self.operator == RETRAIN)

    @property
    def key(self) -> CounterfactualKey:
        """The key that the counterfactual is stored under."""
        return CounterfactualKey(self.operator, self.groups, self.seed, self.hparams_hash)

    @property
    def last_quarter(self) -> float | None:
        """How much of the influence on the groups' own samples came in the last quarter of the steps.

        A share of the influence at the end; None where it was not measured then and before.
        """
        curve = {row["step"]: float(row["own"]) for row in self.history}
        before = [step for step in curve if step <= 0.75 * self.steps]
        if not before or not curve.get(self.steps):
            return None
        end = curve[self.steps]
        return (end - curve[max(before)]) / abs(end)
