"""The section of the page about agreement, and the numbers that all views of an evaluation share."""

from __future__ import annotations

import base64
import html
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from guda_lightning.errors import MissingExtraError
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.functional.ranking import METRICS
from guda_lightning.report.agreement_table import (
    agreement_chart,
    agreement_table,
    interval,
    share,
)
from guda_lightning.report.agreement_verdicts import NO_UPPER_BOUND, ONE_SEED
from guda_lightning.scores import ScoreTable

Build = Callable[..., Evaluation]
HOSTILE = "</table><script>alert(1)</script>&\"'"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.8194, 3, ".819"),
        (-0.0312, 3, "−.031"),
        (1.0, 3, "1.00"),
        (0.99996, 3, "1.00"),
        (-1.0, 2, "−1.0"),
        (-0.00001, 3, ".000"),
        (float("nan"), 3, "–"),
    ],
)
def test_a_share_has_no_leading_zero(value: float, digits: int, text: str) -> None:
    assert share(value, digits) == text


def test_an_interval_has_two_digits() -> None:
    assert interval((-0.0623, 0.8571)) == "−.06–.86"


def test_the_table_is_sorted_and_sets_the_oracle_apart(evaluation: Build) -> None:
    built = evaluation("b", "a", "c")
    table = agreement_table(built, "elbo")
    frame = built.metrics
    frame = frame[(frame["weighting"] == "elbo") & (frame["yardstick"] == "other seeds")]
    top1 = frame[frame["metric"] == "top1"].set_index("method")["value"]
    assert [row.label for row in table.methods] == top1.drop("oracle").sort_values(
        ascending=False
    ).index.tolist()
    assert table.oracle is not None and table.oracle.values["top1"] == top1["oracle"]
    assert table.yardstick == "other seeds"
    assert set(table.chance.values) == set(METRICS)
    assert table.chance.values["top1"] == pytest.approx(0.2)


def test_with_one_seed_methods_meet_the_seed(evaluation: Build) -> None:
    table = agreement_table(evaluation("a", seeds=1), "elbo")
    assert (table.yardstick, table.oracle) == ("all seeds", None)


def cells(page: Path) -> list[list[str]]:
    """Text of the tables' cells, row by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", page.read_text("utf-8"), re.DOTALL)
    return [
        [html.unescape(re.sub(r"<[^>]+>", " ", cell)) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)]
        for row in rows
    ]


def test_the_page_shows_every_number(
    page: Callable[..., Path], score_table: Callable[..., ScoreTable], evaluation: Build
) -> None:
    built = evaluation("retrack-0", "guidance-0")
    shown = cells(page(score_table(torch.randn(3, 2)), evaluation=built))
    expected = []
    for weighting in built.weightings:
        table = agreement_table(built, weighting)
        expected.append(["method", *(f" {metric} " for metric in METRICS)])
        for row in (*table.rows, table.chance):
            ends = [f" {interval(row.intervals[m])} " if row.intervals else "" for m in METRICS]
            expected.append(
                [row.label, *(share(row.values[m]) + e for m, e in zip(METRICS, ends, strict=True))]
            )
    assert shown == expected


def test_the_page_says_what_the_oracle_agreement_is(
    page: Callable[..., Path], score_table: Callable[..., ScoreTable], evaluation: Build
) -> None:
    table = score_table(torch.randn(3, 2))
    several, one = (
        html.unescape(page(table, evaluation=evaluation("a", seeds=seeds)).read_text("utf-8"))
        for seeds in (2, 1)
    )
    assert NO_UPPER_BOUND in several and ONE_SEED not in several
    assert ONE_SEED in one and NO_UPPER_BOUND not in one
    assert (
        "40 queries, 5 groups, 2 oracle seeds (0, 1); scores per group; 95 % intervals, 100 resamples"
        in several
    )


def test_a_page_without_evaluation_has_no_such_section(
    page: Callable[..., Path], score_table: Callable[..., ScoreTable]
) -> None:
    text = page(score_table(torch.randn(3, 2))).read_text("utf-8")
    assert "Agreement with retraining" not in text and 'href="#agreement"' not in text


def test_names_of_methods_are_escaped_and_nothing_points_outside(
    page: Callable[..., Path], score_table: Callable[..., ScoreTable], evaluation: Build
) -> None:
    built = evaluation(HOSTILE, "other")
    path = page(score_table(torch.randn(3, 2)), evaluation=built)
    text = path.read_text("utf-8")
    assert "<script>alert" not in text
    assert HOSTILE in [row[0] for row in cells(path)]
    pictures = re.findall(r'<img class="chart" src="data:image/svg\+xml;base64,([^"]*)"', text)
    assert len(pictures) == 2
    for picture in pictures:
        svg = base64.b64decode(picture).decode()
        assert svg.startswith("<svg") and "<script" not in svg and "</table" not in svg
        assert "&lt;/table&gt;&lt;script" in svg  # long names are cut
    links = {link for link in re.findall(r'(?:src|href)="([^"#]*)', text) if not link.startswith("data:")}
    assert links <= {""}


def test_the_chart_holds_the_numbers_of_the_table(evaluation: Build) -> None:
    built = evaluation("a", "b")
    table = agreement_table(built, "elbo")
    spec = agreement_chart(built, "elbo").to_dict()
    values = [tuple(data) for data in map(_rows, spec["datasets"].values())]
    assert table.oracle is not None
    for metric in ("top1", "ndcg@3"):
        dots = [
            (
                "high",
                row.intervals[metric][1],
                "low",
                row.intervals[metric][0],
                "method",
                row.label,
                "metric",
                metric,
                "value",
                row.values[metric],
            )
            for row in table.methods
        ]
        assert tuple(dots) in values
        low, high = table.oracle.intervals[metric]
        assert (("high", high, "low", low, "value", table.oracle.values[metric]),) in values
        assert (("value", table.chance.values[metric]),) in values


def _rows(rows: list[dict[str, object]]) -> list[tuple[object, ...]]:
    return [tuple(part for item in sorted(row.items()) for part in item) for row in rows]


def test_the_section_needs_altair(
    page: Callable[..., Path],
    score_table: Callable[..., ScoreTable],
    evaluation: Build,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(MissingExtraError, match=r"^vl-convert-python is not installed\n"):
        page(score_table(torch.randn(1, 2)), evaluation=evaluation("a"))
