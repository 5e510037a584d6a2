"""What a score's number may claim: its unit, why it has no better one, and what its ± covers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from guda_lightning.functional import ablation
from guda_lightning.functional.rises import OF_MEMBERS
from guda_lightning.scores.kinds import Coalitions, Ensemble, Influence, ModelDetails, Race, Student
from guda_lightning.scores.record import ScoreRecord
from guda_lightning.scores.summaries import with_error

WITHIN = 2.0  # the interval of a measured size is narrow where all of it is within this factor of one
SHARE = "share of the query's total, %"
TOTAL = "The total is the sum over the groups of this table, without signs."
RELATIVE = (
    "Scores by an ensemble are relative: each sets what a group's removal costs against what the removal of "
    "the others costs. Their order counts; zero, sign and size are no group's own."
)
_NATIVE = {
    "elbo": ("nats", "nats"),
    "uniform": ("difference of the mean squared noise error", ""),
    "middle": ("difference of the mean squared noise error at the middle timesteps", ""),
}
_OF_PATCHES = {
    "posterior": "share of the query's patches",
    "density": "nats by which a patch gets less likely in a model of patches",
}


@dataclass(frozen=True)
class Measured:
    """How large scores of retraining are against those of a method: what ``guda evaluate`` found.

    Attributes:
        slope: Of the least squares line of the oracle's scores over the method's, calibrated ones where
            ``calibrated_on`` names groups; 1 where they have the same size.
        low: Lower end of its interval.
        high: Upper end.
        groups: Number of groups that it was measured on; none of those that scores were calibrated on.
        calibrated_on: Groups that the calibration was fitted on; empty for scores as they are.
        scale: Factor of the calibration.
        offset: What the calibration then adds, in the oracle's unit.
    """

    slope: float
    low: float
    high: float
    groups: int
    calibrated_on: tuple[str, ...] = ()
    scale: float = 1.0
    offset: float = 0.0

    @property
    def right(self) -> bool:
        """Whether the size is known to be right: the interval holds 1, excludes 0 and is narrow."""
        return 1 / WITHIN <= self.low <= 1 <= self.high <= WITHIN

    @property
    def wrong(self) -> bool:
        """Whether the size is known to be wrong: none of the interval is."""
        return self.high < 1 / WITHIN or self.low > WITHIN

    @property
    def words(self) -> str:
        """The slope, its interval and what it was measured on."""
        on = "groups that had no part in the calibration" if self.calibrated_on else "groups"
        return (
            f"retraining's scores grow by {self.slope:.2f} ({self.low:.2f} to {self.high:.2f}) for every 1 "
            f"of these, on {self.groups} {on}"
        ).replace("-", "−")

    @classmethod
    def over(cls, seeds: Sequence[Measured]) -> Measured:
        """Of the mean over several seeds, each calibrated by itself: the widest interval."""
        first = seeds[0]
        return cls(
            sum(one.slope for one in seeds) / len(seeds),
            min(one.low for one in seeds),
            max(one.high for one in seeds),
            first.groups,
            first.calibrated_on,
        )


@dataclass(frozen=True)
class Unit:
    """What the numbers of some scores are in.

    Attributes:
        name: In words, such as ``nats``.
        symbol: What follows a number; may be empty.
        why: A sentence: where the size is known from, or why there is none.
        covers: What the ± of a score covers, in words; empty where there is none.
        sized: Whether the size of a score is known to be right.
        share: Whether scores are shown as shares.
    """

    name: str
    symbol: str
    why: str
    covers: str
    sized: bool = False
    share: bool = False

    def of(self, scores: Tensor, stderr: Tensor) -> tuple[Tensor, Tensor]:
        """Bring scores to this unit.

        A share is that of the sum of a query's scores without their signs: it lies in [−100, 100] % and keeps
        sign and order, whatever the scores' scale, where a sum of signed scores may vanish. Its ± takes that
        sum as known.

        Args:
            scores: ``[queries, groups]`` in the method's unit.
            stderr: ``[queries, groups]``, standard errors of them.

        Returns:
            Both in this unit; a query whose scores are all zero has no shares but zeros.
        """
        if not self.share:
            return scores, stderr
        total = scores.abs().sum(dim=1, keepdim=True)
        factor = torch.where(total > 0, 100 / total, torch.zeros_like(total))
        return scores * factor, stderr * factor

    def number(self, value: float, stderr: float) -> str:
        """A score with its ± and unit: ``125.3 ± 4.2 nats``."""
        return f"{with_error(value, stderr)} {self.symbol}".rstrip()

    def text(self, value: float, stderr: float) -> str:
        """The same, with what the ± covers: ``125.3 ± 4.2 nats (±: noise draws only)``."""
        number = self.number(value, stderr)
        return f"{number} (±: {self.covers})" if "±" in number and self.covers else number


def unit_of(
    record: ScoreRecord,
    method: str,
    weighting: str,
    groups: int,
    seeds: int = 1,
    measured: Measured | None = None,
) -> Unit:
    """The unit in which scores of one method and weighting may be shown.

    Scores of counterfactuals have the weighting's own unit, such as nats, where their size is known to be
    right: because it was measured, or by construction where nothing was measured. All others are
    shown as shares, but those by an ensemble, which are relative. Scores of other kinds have their own unit.

    Args:
        record: Of the table that holds them.
        method: Which scores.
        weighting: Under which weighting.
        groups: Number of groups; a single one has no share of anything.
        seeds: Number of seeds that they are the mean of.
        measured: What ``guda evaluate`` found about their size, if it was evaluated.
    """
    records = record.of_method(method)
    per = " per training sample" if record.per == "sample" else ""
    covers = _covers(records[0], seeds)
    if not all(isinstance(one.details, ModelDetails | Student | Influence) for one in records):
        if records[0].kind == "similarity":
            why = "It is no effect of a group: no model without one was compared."
            return Unit(f"{weighting} similarity{per}", "", why, covers)
        if records[0].kind == "nonparametric":
            return Unit(_OF_PATCHES[weighting] + per, "", "No model without the group was compared.", covers)
        return Unit(f"the unit of {method}{per}", "", f"What it measures, {method} defines.", covers)
    name, symbol = _NATIVE.get(weighting, (f"the unit of weighting {weighting}", ""))
    if any(isinstance(one.details, Ensemble) for one in records):
        return Unit(f"{name}, relative to the other groups{per}", symbol, RELATIVE, covers)
    known, why = _size(records, method, measured)
    if known:
        return Unit(name + per, symbol, why, covers, sized=True)
    if groups < 2:
        return Unit(f"the unit of {method}" + per, "", why, covers)
    of_samples = f", of scores{per}" if per else ""
    return Unit(SHARE + of_samples, "%", f"{why} {TOTAL}", covers, share=True)


def _size(records: Sequence[ScoreRecord], method: str, measured: Measured | None) -> tuple[bool, str]:
    """Whether a size is known to be right, and why."""
    details = [one.details for one in records]
    if any(isinstance(one, Student) for one in details):
        return False, f"The size is not known: {method} was still unlearning."
    if any(isinstance(one, Race) for one in details):
        return False, "The size is not known: a race stops when it knows which groups lead, not by how much."
    if measured is not None and measured.right:
        return True, f"The size was measured: {measured.words}."
    if measured is not None:
        off = "off" if not measured.low <= 1 <= measured.high else "not known well enough"
        found = "wrong" if measured.wrong else off
        return False, f"The size was measured and is {found}: {measured.words}."
    if all(isinstance(one, ModelDetails) and one.sized for one in details):
        return True, f"The size follows from how {method} is defined: it has no free scale."
    if any(isinstance(one, Influence) for one in details):
        return False, f"The size is not known: {method} makes no model without a group."
    trained = any(isinstance(one, ModelDetails) and one.classifier is None for one in details)
    grows = "grows with the strength of unlearning" if trained else "depends on how the posterior generalises"
    return False, (
        f"The size of {method}'s scores is not known: it {grows}, and guda evaluate --calibrate measures it "
        "where some groups were retrained."
    )


def _covers(record: ScoreRecord, seeds: int) -> str:
    """What the ± of a score covers, in words."""
    training = f" and {seeds} training seeds" if seeds > 1 else ""
    if record.scoring is None:
        return "" if record.kind == "similarity" else "as the method states it"
    if not isinstance(record.details, Coalitions):
        if ablation.OF_MEMBERS in record.scoring.stderr:
            return f"noise draws and the ensemble's members{training}, but not what other groups add"
        members = " and the draw of each group's members" if OF_MEMBERS in record.scoring.stderr else ""
        return f"noise draws{members}{training}" if members or training else "noise draws only"
    if record.scoring.stderr == "exact":
        return f"noise draws are not in it{', ' + training[5:] + ' are' if training else ''}"
    return f"the draw of coalitions{training}" if training else "the draw of coalitions only"
