"""What was measured of a counterfactual without an oracle, and whether its scores can be believed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from guda_lightning.storage.files import canonical_json

Grade = Literal["valid", "doubtful", "invalid"]
_ORDER: tuple[Grade, ...] = get_args(Grade)  # the worst last


@dataclass(frozen=True)
class Rise:
    """How much a counterfactual's loss on some training samples lies above the full model's.

    Losses are squared noise errors at middle noise levels, all models on the same noise; a rise is in units
    of the full model's own loss on the same samples, so 0.5 is half more.

    Attributes:
        mean: Mean over the samples.
        stderr: Standard error of that mean, over samples.
        predicted: The mean that the posterior predicts; None where there is no posterior.
    """

    mean: float
    stderr: float
    predicted: float | None = None


@dataclass(frozen=True)
class Lead:
    """How far a group stands above the second, over the queries that it leads.

    Attributes:
        gap: Mean difference of the two scores.
        stderr: Its standard error, from those of the scores.
        queries: How many queries it leads.
    """

    gap: float
    stderr: float
    queries: int


@dataclass(frozen=True)
class Evidence:
    """All that a verdict rests on.

    Attributes:
        forget: On samples of the group.
        retain: On samples of all other groups.
        neighbour: On samples of the other group that the posterior expects to lose most; None without one.
        neighbour_name: That group.
        last_quarter: How much of the rise on samples of the group came in the last quarter of the steps of
            unlearning; None where that was not measured.
        lead: On queries; None where the group leads none.
    """

    forget: Rise
    retain: Rise
    neighbour: Rise | None = None
    neighbour_name: str | None = None
    last_quarter: float | None = None
    lead: Lead | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a counterfactual stands for a model that never saw its group.

    Attributes:
        grade: ``valid``, ``doubtful`` or ``invalid``.
        reason: Why, in one sentence with the numbers that decided.
        evidence: What was measured.
        posterior: Hash of the posterior that predicted; None without one.
    """

    grade: Grade
    reason: str
    evidence: Evidence
    posterior: str | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values, by name."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Verdict:
        """The verdict of what ``to_json`` gave.

        Raises:
            KeyError: An entry is missing.
            TypeError: An entry is unknown.
        """
        measured = dict(stored["evidence"])
        kinds: dict[str, Any] = {"forget": Rise, "retain": Rise, "neighbour": Rise, "lead": Lead}
        parts = {name: kind(**measured[name]) for name, kind in kinds.items() if measured[name] is not None}
        return cls(**{**stored, "evidence": Evidence(**{**measured, **parts})})


def worst(by_seed: Mapping[int, Mapping[str, Verdict]]) -> dict[str, Verdict]:
    """The worst verdict on each group over seeds, of which the reason names the first that has it.

    Args:
        by_seed: Seed to the verdicts by group; a seed that nobody has judged has none.
    """
    found: dict[str, tuple[int, Verdict]] = {}
    for seed, verdicts in by_seed.items():
        for group, verdict in verdicts.items():
            before = found.get(group)
            if before is None or _ORDER.index(verdict.grade) > _ORDER.index(before[1].grade):
                found[group] = seed, verdict
    if len(by_seed) < 2:
        return {group: verdict for group, (_, verdict) in found.items()}
    return {
        group: replace(verdict, reason=f"seed {seed}: {verdict.reason}")
        for group, (seed, verdict) in found.items()
    }


def verdicts_to_text(verdicts: Mapping[str, Verdict]) -> str:
    """Verdicts by group as JSON, in their order."""
    return canonical_json([[group, verdict.to_json()] for group, verdict in verdicts.items()])


def verdicts_of_text(text: str | bytes) -> dict[str, Verdict]:
    """The verdicts of what ``verdicts_to_text`` gave; raises as ``Verdict.from_json``, or ``ValueError``."""
    return {group: Verdict.from_json(stored) for group, stored in json.loads(text)}
