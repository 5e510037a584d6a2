"""A score table at one glance, as notebooks show it: text, the first groups of each query, HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, cast

from guda_lightning.errors import ConfigError, check_range
from guda_lightning.scores.summaries import UNDECIDED_BELOW, margins
from guda_lightning.scores.views import View, views
from guda_lightning.storage.files import atomic_file

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

    from guda_lightning.scores.table import ScoreTable

_QUERIES, _GROUPS = 10, 3  # that a notebook shows at one glance


class Shown:
    """How a score table shows itself, to notebooks above all."""

    @property
    def _whole(self) -> ScoreTable:
        return cast("ScoreTable", self)

    def __repr__(self) -> str:
        table = self._whole
        seeds = ", ".join(map(str, table.seeds))
        return (
            f"ScoreTable({'+'.join(table.methods)}, seed {seeds}, {_size(table.queries, 'x', table.groups)}, "
            f"weightings {', '.join(table.weightings)})"
        )

    def _repr_html_(self) -> str | None:
        """The first groups of the first queries; None where that is no rectangle of one method."""
        try:
            return _html(self._whole, view_of(self._whole, None))
        except ConfigError:
            return None

    def to_csv(self, path: str | Path) -> Path:
        """Write all rows as CSV with a line of names, in the method's unit; returns the path."""
        target = Path(path)
        with atomic_file(target) as temporary:
            self._whole.to_pandas().to_csv(temporary, index=False, lineterminator="\n")
        return target

    def top(self, k: int = 3, weighting: str | None = None) -> pd.DataFrame:
        """The k groups with the highest scores for every query, in the unit that the scores may claim.

        Args:
            k: How many groups; more than there are is all of them.
            weighting: Under which weighting; left out, ``elbo``, or the first that the table has.

        Returns:
            Columns ``query``, ``rank`` from 1, ``group``, ``score``, ``stderr``, ``unit``, ``margin`` of the
            first group over the second, in combined standard errors, and ``undecided``, where that is below
            2. Of several seeds, their mean.

        Raises:
            ConfigError: The table holds several methods or lacks the weighting, or k is below 1.
        """
        check_range("k", k, ge=1, fix="take the usual 3")
        return _top(view_of(self._whole, weighting), k)

    def plot(self, weighting: str | None = None) -> alt.Chart:
        """Draw query × group scores as a heat map, the one of the page and of W&B.

        Args:
            weighting: As ``top`` takes it.

        Returns:
            An altair chart, which a notebook shows.

        Raises:
            ConfigError: As ``top``.
            MissingExtraError: The extra ``report`` is not installed.
        """
        from guda_lightning.report.charts import heatmap  # the one import upwards: docs/decisions.md

        return heatmap(view_of(self._whole, weighting))


def view_of(table: ScoreTable, weighting: str | None) -> View:
    """One method's scores under one weighting, in the unit that they may claim.

    Args:
        table: The scores.
        weighting: Which; None: ``elbo``, or the first that the table has.

    Raises:
        ConfigError: The table holds no rows, several methods, or not that weighting.
    """
    if len(table.methods) != 1:
        raise ConfigError(
            "one method is shown at a time",
            found=", ".join(table.methods) or "no rows",
            expected="the scores of one method",
            fix="choose it with select(method=...)",
        )
    chosen = weighting or ("elbo" if "elbo" in table.weightings else table.weightings[0])
    return views(table.select(weighting=chosen))[0]


def _top(view: View, k: int) -> pd.DataFrame:
    """The first groups of every query."""
    import pandas as pd

    scores, stderr = view.scores, view.stderr
    leads = margins(scores, stderr)
    values, columns = scores.topk(min(k, len(view.groups)), dim=1)
    rows, each = len(view.queries), values.shape[1]
    return pd.DataFrame(
        {
            "query": [query for query in view.queries for _ in range(each)],
            "rank": list(range(1, each + 1)) * rows,
            "group": [view.groups[column] for column in columns.flatten().tolist()],
            "score": values.flatten().tolist(),
            "stderr": stderr.gather(1, columns).flatten().tolist(),
            "unit": view.unit.symbol or view.unit.name,
            "margin": leads.repeat_interleave(each).tolist(),
            "undecided": (leads < UNDECIDED_BELOW).repeat_interleave(each).tolist(),
        }
    )


def _html(table: ScoreTable, view: View) -> str:
    """The first groups of the first queries."""
    unit = view.unit
    first = min(_GROUPS, len(view.groups))
    scores, stderr = view.scores[:_QUERIES], view.stderr[:_QUERIES]
    leads = margins(scores, stderr).tolist()
    values, columns = scores.topk(first, dim=1)
    errors = stderr.gather(1, columns)
    lines = []
    for row, (query, lead) in enumerate(zip(view.queries, leads, strict=False)):
        cells = [
            f"<td><b>{escape(view.groups[column])}</b> {escape(unit.number(value, error))}</td>"
            for column, value, error in zip(
                columns[row].tolist(), values[row].tolist(), errors[row].tolist(), strict=True
            )
        ]
        undecided = "undecided" if lead < UNDECIDED_BELOW else ""
        lines.append(f"<tr><th>{escape(query)}</th>{''.join(cells)}<td>{undecided}</td></tr>")
    names = "".join(f"<th>{name}</th>" for name in ("first", "second", "third")[:first])
    more = len(view.queries) - len(lines)
    others = [name for name in table.weightings if name != view.weighting]
    said = [
        _size(view.queries, "×", view.groups) + (f", {more} more" if more else ""),
        f"score: {unit.name}",
        f"±: {unit.covers}" if unit.covers else "",
        f"other weightings: {', '.join(others)}" if others else "",
    ]
    return (
        f"<table><caption>{escape(view.title)}</caption>"
        f"<thead><tr><th>query</th>{names}<th></th></tr></thead><tbody>{''.join(lines)}</tbody></table>"
        f"<p><small>{escape('; '.join(filter(None, said)))}</small></p>"
    )


def _size(queries: Sequence[str], times: str, groups: Sequence[str]) -> str:
    rows = "1 query" if len(queries) == 1 else f"{len(queries)} queries"
    return f"{rows} {times} {len(groups)} group{'' if len(groups) == 1 else 's'}"
