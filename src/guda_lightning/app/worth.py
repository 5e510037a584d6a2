"""What the scores of a new picture are worth: what was found about those of the run by the same posterior."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from guda_lightning.report.standing import Findings, standing_of
from guda_lightning.scores import ScoreTable, Scoring
from guda_lightning.scores.kinds import NAME
from guda_lightning.scores.stored import scoring_of
from guda_lightning.scores.views import Sizes
from guda_lightning.storage.runs import RunFolder

_OTHER_NOISE = (
    " An earlier version drew the noise of this run's scores from the names of queries; the page draws it "
    "from their pixels, so its numbers for them are others, within their ±."
)


class Worth(NamedTuple):
    """What is known of scores by one posterior.

    Attributes:
        level: ``chance``, ``untested``, ``tested`` or ``yardstick``, as ``Standing`` has them.
        headline: The verdict.
        sizes: What was measured of their size.
        scoring: How they were scored; None where the run has none.
    """

    level: str
    headline: str
    sizes: Sizes
    scoring: Scoring | None


def worth_of(run: RunFolder, method: str, weights: frozenset[str]) -> Worth:
    """What is known of scores by a posterior, from the run's own queries.

    Args:
        run: The run folder.
        method: The kind of the posterior.
        weights: Hashes of the stored weights that make the scores.

    Raises:
        StoreError: What ``guda evaluate`` or ``guda placebo`` left is damaged.
    """
    found = [(path, standing_of(run, _shown(path))) for path in _tables(run, method, weights)]
    tested = [(path, one) for path, one in found if one.level != "untested"]
    for path, one in tested or found:
        about = "On this run's queries: " if tested else ""
        table = _shown(path)
        scoring = table.record.scoring
        how = None if scoring is None else scoring_of(scoring)
        noise = _OTHER_NOISE if table.record.noise == NAME else ""
        return Worth(one.level, about + one.headline + noise, Findings.of(run, table).sizes(table), how)
    headline = f"Untested: this run has no scores by {method}. guda attribute and guda evaluate test it."
    return Worth("untested", headline, {}, None)


def _tables(run: RunFolder, method: str, weights: frozenset[str]) -> list[Path]:
    """The tables of a run that the same weights made, the newest first."""
    paths = sorted(run.scores.glob(f"{method}-*.parquet"), key=lambda path: -path.stat().st_mtime)
    return [path for path in paths if ScoreTable.load_record(path).details.weights == weights]


def _shown(path: Path) -> ScoreTable:
    """A table, or its first chunk of queries."""
    return next(ScoreTable.load_parts(path))
