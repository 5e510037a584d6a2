"""The few numbers that pictures, pages and terminals show of a score table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError
from guda_lightning.functional.moments import Moments
from guda_lightning.scores.verdicts import Lead

if TYPE_CHECKING:
    from guda_lightning.scores.views import View

UNDECIDED_BELOW = 2.0  # combined standard errors between the two top groups, about 95 %


@dataclass(frozen=True)
class GroupSummary:
    """A group over all queries.

    Attributes:
        group: Name.
        mean: Mean score over queries.
        stderr: Standard error of that mean. Over queries, so it holds their differences and the draws' noise,
            and over seeds where there are several; with one query the score's own.
        top: Number of queries whose highest score it has.
    """

    group: str
    mean: float
    stderr: float
    top: int


class Tally:
    """Numbers over all queries of one method and weighting, which may come in parts.

    Attributes:
        groups: The groups, in the order of the first part.
        queries: Number of queries so far.
        undecided: Number of queries so far whose two top groups are too close to call.
    """

    def __init__(self) -> None:
        self.groups: tuple[str, ...] = ()
        self.queries = self.undecided = 0

    def add(self, view: View) -> None:
        """Take the next part.

        Raises:
            ConfigError: It scores other groups than the parts before it.
        """
        scores, stderr = view.scores, view.stderr
        if not self.queries:
            self.groups, self._single = view.groups, stderr[0]
            self._moments = Moments.zeros(len(view.groups))
            self._of_seeds = torch.zeros_like(view.by_seed[:, 0])
            self._top = torch.zeros(len(view.groups), dtype=torch.int64)
            self._gaps = torch.zeros(2, len(view.groups), dtype=torch.float64)
        if view.groups != self.groups:
            raise ConfigError(
                "the parts of a score table do not score the same groups",
                found=", ".join(view.groups),
                expected=", ".join(self.groups),
                fix="score all queries alike with guda attribute",
            )
        self._moments = self._moments.merge(Moments.of(scores))
        self._of_seeds += view.by_seed.sum(dim=1)
        self._between = view.between
        self._top += torch.bincount(scores.argmax(dim=1), minlength=len(self.groups))
        if len(self.groups) > 1:
            gap, variance, first = _two_best(scores, stderr)
            self._gaps = self._gaps.index_add(1, first, torch.stack([gap, variance]))
        self.undecided += int((margins(scores, stderr) < UNDECIDED_BELOW).sum())
        self.queries += len(scores)

    def summaries(self) -> list[GroupSummary]:
        """Every group over the queries so far."""
        # A seed moves a group's scores of all queries together: their differences do not show it.
        training = self._between(self._of_seeds / self.queries)
        errors = (self._moments.stderr.square() + training).sqrt() if self.queries > 1 else self._single
        rows = zip(self.groups, self._moments.mean.tolist(), errors.tolist(), self._top.tolist(), strict=True)
        return [GroupSummary(*row) for row in rows]

    def leads(self) -> dict[str, Lead]:
        """How far each group that leads a query so far stands above the second, over those that it leads."""
        counts, (gaps, variances) = self._top.tolist(), self._gaps.tolist()
        rows = zip(self.groups, counts, gaps, variances, strict=True)
        return {
            name: Lead(gap / count, math.sqrt(variance) / count, count)
            for name, count, gap, variance in rows
            if count and len(self.groups) > 1
        }


def group_summaries(view: View) -> list[GroupSummary]:
    """Summarise every group over the queries, in the view's order."""
    tally = Tally()
    tally.add(view)
    return tally.summaries()


def margins(scores: Tensor, stderr: Tensor) -> Tensor:
    """How far the top group stands above the second, in combined standard errors.

    The two scores share the full model's draws; combining their errors as if they did not is cautious.

    Args:
        scores: ``[queries, groups]``.
        stderr: ``[queries, groups]``, standard errors of the scores.

    Returns:
        ``[queries]`` float64 ≥ 0: 0 for a tie, infinite with one group or without any error.
        Below `UNDECIDED_BELOW` the query is undecided.
    """
    if scores.shape[1] < 2:
        return scores.new_full((len(scores),), math.inf, dtype=torch.float64)
    gap, variance, _ = _two_best(scores, stderr)
    return torch.where(gap > 0, gap / variance.sqrt(), 0.0)


def _two_best(scores: Tensor, stderr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Difference of the two highest scores of each query, its variance, and the column of the highest."""
    top, index = scores.double().topk(2, dim=1)
    return top[:, 0] - top[:, 1], stderr.double().gather(1, index).square().sum(dim=1), index[:, 0]


def with_error(value: float, stderr: float) -> str:
    """Write a score with its standard error, to the two digits that the error leaves: ``125.3 ± 4.2``."""
    if not (math.isfinite(stderr) and stderr > 0):
        return _minus(f"{value:.3g}")
    decimals = max(0, 1 - math.floor(math.log10(stderr)))
    if decimals > 6:
        return f"{_minus(f'{value:.2e}')} ± {_minus(f'{stderr:.1e}')}".replace("e−0", "e−")
    return f"{_minus(f'{value:.{decimals}f}')} ± {stderr:.{decimals}f}"


def _minus(number: str) -> str:
    return number.replace("-", "−")
