"""What random groups say about the queries of a score table, as text and as a section of the page."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from guda_lightning.evaluation import PlaceboTest
from guda_lightning.evaluation.placebo_test import placebo_frame, placebo_tests, random_groups
from guda_lightning.report.text import cut, listed
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.files import write_atomic

NAMED = 12  # queries, and pairs of near-duplicates, that the text names


@dataclass(frozen=True)
class Placebo:
    """What the page shows.

    Attributes:
        lines: One sentence each.
        missed: Queries that are not attributable, by weighting.
        near_duplicates: Number of pairs of nearly equal training images in different groups, if it is known.
    """

    lines: Sequence[str]
    missed: Mapping[str, frozenset[str]]
    near_duplicates: int | None = None

    @classmethod
    def of(cls, observed: ScoreTable, random: ScoreTable) -> Placebo:
        """Test a score table against the random groups that ``guda placebo`` scored."""
        tests = placebo_tests(observed, random)
        frame = placebo_frame(observed, tests)
        missed = frame[~frame["attributable"]]
        return cls(
            placebo_lines(observed, random, tests),
            {name: frozenset(missed["query"][missed["weighting"] == name]) for name in tests},
            random_groups(random).near_duplicate_pairs,
        )


def placebo_lines(observed: ScoreTable, random: ScoreTable, tests: Mapping[str, PlaceboTest]) -> list[str]:
    """What was found, one sentence a line."""
    lines = []
    for weighting, test in tests.items():
        pairs = zip(observed.queries, test.attributable.tolist(), strict=True)
        missed = [query for query, attributable in pairs if not attributable]
        count = len(observed.queries)
        lines.append(
            f"weighting {weighting}: {count - len(missed)} of {count} queries are attributable: a group "
            "influences them more than random groups of its size do, at a false discovery rate of "
            f"{test.level:.0%} ({test.partitions} random partitions: no p-value below {test.floor:.2g})."
        )
        if missed:
            lines.append(f"Not attributable: {listed([cut(query, 30) for query in missed], NAMED)}.")
    details = random_groups(random)
    found = details.near_duplicate_pairs
    if found:
        twins = details.near_duplicates
        named = [f"{cut(pair['first'], 30)} and {cut(pair['second'], 30)}" for pair in twins]
        lines.append(
            f"{found} pairs of training images in different groups are nearly the same: without one group, "
            f"the other still explains their queries. {listed(named, NAMED, found)}."
        )
    else:
        lines.append("No two training images of different groups are nearly the same.")
    return lines


def write_parquet(path: Path, frame: pd.DataFrame) -> None:
    """Write a frame, atomically."""
    file = io.BytesIO()
    frame.to_parquet(file, index=False)
    write_atomic(path, file.getvalue())
