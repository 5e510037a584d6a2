"""What the scores of a new picture are worth: what was found about those of the run by the same posterior."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from guda_lightning.evaluation.sizes import stored_sizes
from guda_lightning.report.estimand import UNTESTED
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.views import Sizes
from guda_lightning.storage.runs import RunFolder


class Worth(NamedTuple):
    """What is known of scores by one posterior.

    Attributes:
        level: ``chance``, ``untested``, ``tested`` or ``yardstick``; see ``report.standing``.
        headline: The verdict.
        sizes: What was measured of their size.
    """

    level: str
    headline: str
    sizes: Sizes


def worth_of(run: RunFolder, method: str, weights: frozenset[str]) -> Worth:
    """What is known of scores by a posterior, from its newest table in a run.

    Args:
        run: The run folder.
        method: The kind of the posterior.
        weights: Hashes of the stored weights that make the scores.
    """
    paths = _tables(run, method, weights)
    sizes = {path: stored_sizes(run.evaluation, path) for path in paths}
    return Worth("untested", f"Untested: {UNTESTED}.", next((one for one in sizes.values() if one), {}))


def _tables(run: RunFolder, method: str, weights: frozenset[str]) -> list[Path]:
    """The tables of a run that the same weights made, the newest first."""
    paths = sorted(run.scores.glob(f"{method}-*.parquet"), key=lambda path: -path.stat().st_mtime)
    return [path for path in paths if ScoreTable.load_record(path).details.weights == weights]
