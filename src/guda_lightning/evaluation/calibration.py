"""Fit scores to the oracle on a few groups, and check them on the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from guda_lightning.data.group_names import unknown_group
from guda_lightning.errors import ConfigError, GroupError, NumericsError
from guda_lightning.evaluation.line import least_squares
from guda_lightning.functional.checks import checked_scores
from guda_lightning.functional.ranking import spearman

_METHOD, _ORACLE = "the scores of the method", "the scores of the oracle"  # in errors


@dataclass(frozen=True)
class Calibration:
    """The line ``oracle = scale * score + offset``, fitted on some groups and tested on the others.

    Attributes:
        scale: Slope of the line; below zero, the scores run against the oracle.
        offset: The oracle's score, in its unit, where the score is zero.
        groups: Groups that the line was fitted on.
        held_out: The other groups.
        error: Root mean squared error of the calibrated scores on the held-out groups, in the oracle's unit.
        uncalibrated_error: The same of the scores as they were.
        r2: ``1 - error² / variance of the oracle`` there: 1 is perfect; 0 is no better than the held-out
            groups' own mean, and less is worse.
    """

    scale: float
    offset: float
    groups: tuple[str, ...]
    held_out: tuple[str, ...]
    error: float
    uncalibrated_error: float
    r2: float

    def apply(self, scores: Tensor) -> Tensor:
        """Bring scores ``[...]`` to the oracle's scale, ``[...]`` in the oracle's unit."""
        return self.scale * scores + self.offset


def calibrate(
    scores: Tensor, oracle: Tensor, groups: Sequence[str], calibration_groups: Sequence[str]
) -> Calibration:
    """Fit scores to the oracle by least squares over all queries and the calibration groups.

    Args:
        scores: ``[queries, groups]``.
        oracle: ``[queries, groups]``, e.g. the mean of several oracle seeds.
        groups: Names of the columns.
        calibration_groups: Those to fit on; at least one other is left to test on.

    Raises:
        ConfigError: Shapes do not fit, or there are no groups to fit on or none to test on.
        GroupError: A group is unknown or named twice.
        NumericsError: A score is not finite, or a side does not vary.

    Example:
        >>> import torch
        >>> from guda_lightning.evaluation import calibrate
        >>> scores = torch.tensor([[1.0, 2.0, 3.0], [2.0, 0.0, 4.0]])
        >>> line = calibrate(scores, 10 * scores + 5, groups=["a", "b", "c"], calibration_groups=["a", "b"])
        >>> line.apply(torch.tensor([1.5]))
        tensor([20.])
    """
    chosen = _columns(groups, calibration_groups)
    refuse_none_held_out(groups, calibration_groups)
    others = [column for column in range(len(groups)) if column not in chosen]
    shape = (len(oracle), len(groups))
    scores = checked_scores(_METHOD, scores, shape).cpu()
    oracle = checked_scores(_ORACLE, oracle, shape).cpu()
    x, y = _varying(_METHOD, scores, chosen), _varying(_ORACLE, oracle, chosen)
    before, truth = scores[:, others], _varying(_ORACLE, oracle, others)
    line = least_squares(x, y)
    scale, offset = line.slope.item(), line.offset.item()
    error = _rmse(scale * before + offset, truth)
    return Calibration(
        scale=scale,
        offset=offset,
        groups=tuple(groups[column] for column in chosen),
        held_out=tuple(groups[column] for column in others),
        error=error,
        uncalibrated_error=_rmse(before, truth),
        r2=1 - error**2 / truth.var(correction=0).item(),
    )


def refuse_none_held_out(groups: Sequence[str], calibration_groups: Sequence[str]) -> None:
    """Refuse calibration groups that leave no group to test on.

    Raises:
        ConfigError: They do.
    """
    if set(groups) <= set(calibration_groups):
        raise ConfigError(
            "no group is left to test the calibration on",
            found=f"all {len(groups)} groups used for calibration",
            expected="at least one group held out",
            fix="calibrate on fewer groups",
        )


def choose(
    candidates: Mapping[str, Tensor],
    oracle: Tensor,
    groups: Sequence[str],
    calibration_groups: Sequence[str],
) -> pd.DataFrame:
    """Rank candidates by how well a line in their scores gives the oracle's, on calibration groups only.

    Scores of other groups play no part, so that they can test the choice; there may be none. Candidates
    whose scores run against the oracle come last, whatever their r2.

    Args:
        candidates: Name, e.g. a setting of a method, to scores ``[queries, groups]``.
        oracle: ``[queries, groups]``.
        groups: Names of the columns.
        calibration_groups: Those to choose on.

    Returns:
        Columns ``candidate, r2, spearman, error``, best first: share of the oracle's variance explained, rank
        correlation over all queries and calibration groups at once, and root mean squared error of the
        calibrated scores in the oracle's unit.

    Raises:
        ConfigError: No candidates, no calibration groups, or shapes that do not fit.
        GroupError: A group is unknown or named twice.
        NumericsError: A score is not finite, or a side does not vary.
    """
    if not candidates:
        raise ConfigError(
            "there are no candidates to choose from",
            found="no candidates",
            expected="at least one",
            fix="score the queries with several settings",
        )
    chosen, shape = _columns(groups, calibration_groups), (len(oracle), len(groups))
    truth = _varying(_ORACLE, checked_scores(_ORACLE, oracle, shape).cpu(), chosen)
    rows = []
    for name, matrix in candidates.items():
        whose = f"the scores of candidate '{name}'"
        scores = _varying(whose, checked_scores(whose, matrix, shape).cpu(), chosen)
        line = least_squares(scores, truth)
        correlation = spearman(scores.reshape(1, -1), truth.reshape(1, -1)).item()
        error = _rmse(line.slope * scores + line.offset, truth)
        merit = (line.slope.sign() * line.r2).item()
        rows.append((merit, (name, line.r2.item(), correlation, error)))
    rows.sort(key=lambda row: row[0], reverse=True)
    return pd.DataFrame([row for _, row in rows], columns=["candidate", "r2", "spearman", "error"])


def _columns(groups: Sequence[str], calibration_groups: Sequence[str]) -> list[int]:
    """Columns of the calibration groups, in the order of the columns."""
    if isinstance(calibration_groups, str) or not calibration_groups:
        raise ConfigError(
            "invalid calibration groups: expected a list of names",
            found=repr(calibration_groups),
            expected="a list of one or more group names",
            fix=f"name groups, such as ['{groups[0]}']",
        )
    for kind, names in (("group", groups), ("calibration group", calibration_groups)):
        if repeated := [name for position, name in enumerate(names) if name in names[:position]]:
            raise GroupError(
                f"{kind} '{repeated[0]}' is named twice",
                found=", ".join(names),
                expected="each name once",
                fix="remove or rename one of them",
            )
    for name in calibration_groups:
        if name not in groups:
            raise unknown_group(name, groups)
    return sorted(list(groups).index(name) for name in calibration_groups)


def _varying(whose: str, scores: Tensor, columns: list[int]) -> Tensor:
    selected = scores[:, columns]
    if (selected == selected.flatten()[:1]).all():
        raise NumericsError(
            f"{whose} are all the same",
            found=f"one number for {len(selected)} queries and {len(columns)} groups",
            expected="numbers that differ between queries or groups",
            fix="take more queries or other groups",
        )
    return selected


def _rmse(scores: Tensor, truth: Tensor) -> float:
    return (scores - truth).square().mean().sqrt().item()
