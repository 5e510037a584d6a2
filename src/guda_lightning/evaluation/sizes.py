"""What an evaluation says of the size of scores, for those who show them."""

from __future__ import annotations

import math

from guda_lightning.evaluation.result import EVERY, Evaluation
from guda_lightning.scores.units import Measured
from guda_lightning.scores.views import Sizes


def sizes_of(evaluation: Evaluation, name: str, method: str, seed: int) -> Sizes:
    """How large the oracle's scores are against those of one table.

    Scores are taken as they are if their size is right; if not, and they were calibrated on some groups and
    are right on the others, as the calibration makes them.

    Args:
        evaluation: What ``guda evaluate`` found.
        name: Name of the table.
        method: Its method.
        seed: Its seed.

    Returns:
        By method, weighting and seed; nothing of a table that was not compared, was compared per sample or
        with an ensemble, whose scores have a size of their own, or under weightings that were not.
    """
    record = evaluation.record
    if name not in record["methods"] or record["per"] != "group" or "oracle" in record:
        return {}
    found = {}
    for weighting in evaluation.weightings:
        measured = [_as_they_are(evaluation, name, weighting), _calibrated(evaluation, name, weighting)]
        known = [one for one in measured if one is not None]
        if known:
            right = [one for one in known if one.right]
            found[method, weighting, seed] = (right or known)[0]
    return found


def _as_they_are(evaluation: Evaluation, name: str, weighting: str) -> Measured | None:
    frame = evaluation.magnitudes
    rows = frame[
        (frame["weighting"] == weighting)
        & (frame["noise"] == EVERY)
        & (frame["method"] == name)
        & (frame["pooling"] == "all")
        & (frame["quantity"] == "slope")
    ]
    if not len(rows) or not math.isfinite(rows["low"].iloc[0]):
        return None
    row = rows.iloc[0]
    groups = len(evaluation.record["groups"])
    return Measured(float(row["value"]), float(row["low"]), float(row["high"]), groups)


def _calibrated(evaluation: Evaluation, name: str, weighting: str) -> Measured | None:
    frame = evaluation.calibration
    if frame is None or "slope" not in frame:  # an evaluation of before
        return None
    rows = frame[(frame["weighting"] == weighting) & (frame["method"] == name)]
    if not len(rows) or not math.isfinite(rows["low"].iloc[0]):
        return None
    row, fitted_on = rows.iloc[0], tuple(evaluation.record["calibration_groups"])
    return Measured(
        float(row["slope"]),
        float(row["low"]),
        float(row["high"]),
        len(evaluation.record["groups"]) - len(fitted_on),
        fitted_on,
        float(row["scale"]),
        float(row["offset"]),
    )
