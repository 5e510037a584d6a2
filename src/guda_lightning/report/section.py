"""What the page and W&B show beside scores: sentences with a table, a chart or pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from guda_lightning.errors import ConfigError

if TYPE_CHECKING:
    import altair as alt
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """A part of the page, and of a W&B run.

    Attributes:
        name: A slug: its place in the page (``#NAME``), and what its keys in W&B begin with.
        title: Its heading.
        lines: What was found, one sentence or paragraph each; the first one is the answer.
        columns: Titles of a table's columns; the first one is that of its rows.
        rows: Its cells, as text.
        chart: A picture of the numbers; the page needs altair and vl-convert for it.
        chart_text: What the chart shows, for those who cannot see it.
        pictures: Images ``[images, channels, height, width]`` in [-1, 1], one row for each title.
    """

    name: str
    title: str
    lines: Sequence[str]
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    chart: alt.TopLevelMixin | None = None
    chart_text: str = ""
    pictures: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        uneven = next((row for row in self.rows if len(row) != len(self.columns)), None)
        if uneven is not None:
            raise ConfigError(
                f"a row of the section {self.name} does not fit its columns",
                found=f"{len(uneven)} cells: {', '.join(uneven)}",
                expected=f"{len(self.columns)}: {', '.join(self.columns)}",
                fix="give every row a cell a column",
            )
