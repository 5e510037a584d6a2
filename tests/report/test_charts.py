from __future__ import annotations

import io
import math
import re
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from guda_lightning.errors import ConfigError, MissingExtraError
from guda_lightning.report import charts
from guda_lightning.scores import ScoreRecord, ScoreTable, summaries
from guda_lightning.scores.kinds import Custom
from guda_lightning.scores.views import views
from toys import message


def _table(scores: torch.Tensor, stderr: torch.Tensor | None = None, weighting: str = "elbo") -> ScoreTable:
    return ScoreTable.from_matrix(
        scores,
        torch.ones_like(scores) if stderr is None else stderr,
        query_ids=[f"q{i}" for i in range(len(scores))],
        groups=[f"group {i}" for i in range(scores.shape[1])],
        n_draws=2,
        method="retrack",
        weighting=weighting,
        seed=0,
        record=ScoreRecord(Custom()),
    )


def _values(spec: dict[str, Any]) -> list[dict[str, Any]]:
    (values,) = spec["datasets"].values()
    return list(values)


def _curves(groups: int, steps: int = 3) -> list[dict[str, object]]:
    return [
        {"group": f"group {g}", "step": 10 * s, "own": 2.0 * s + g, "other": 0.1 * s}
        for g in range(groups)
        for s in range(steps)
    ]


def test_group_summaries_agree_with_numpy() -> None:
    scores = torch.randn(30, 4, dtype=torch.float64)
    rows = summaries.group_summaries(*views(_table(scores)))
    values = scores.numpy()
    assert [row.group for row in rows] == [f"group {i}" for i in range(4)]
    np.testing.assert_allclose([row.mean for row in rows], values.mean(0))
    np.testing.assert_allclose([row.stderr for row in rows], values.std(0, ddof=1) / np.sqrt(30))
    assert [row.top for row in rows] == [(values.argmax(1) == g).sum() for g in range(4)]


def test_one_query_keeps_its_own_standard_errors() -> None:
    rows = summaries.group_summaries(*views(_table(torch.tensor([[3.0, 1.0]]), torch.tensor([[0.5, 0.25]]))))
    assert [(row.mean, row.stderr, row.top) for row in rows] == [(3.0, 0.5, 1), (1.0, 0.25, 0)]


def test_margin_is_the_gap_of_the_two_top_groups_in_combined_standard_errors() -> None:
    scores = torch.tensor([[9.0, 4.0, -50.0], [4.0, 5.0, 1.0], [2.0, 2.0, 1.0], [3.0, 1.0, 0.0]])
    stderr = torch.tensor([[3.0, 4.0, 99.0], [1.0, 1.0, 9.0], [0.0, 0.0, 0.0], [0.0, 0.0, 5.0]])
    expected = torch.tensor([1.0, 1 / math.sqrt(2), 0.0, math.inf], dtype=torch.float64)
    torch.testing.assert_close(summaries.margins(scores, stderr), expected)


def test_one_group_has_no_rival() -> None:
    assert summaries.margins(torch.zeros(2, 1), torch.ones(2, 1)).tolist() == [math.inf, math.inf]


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (125.3456, 4.23, "125.3 ± 4.2"),
        (-0.012345, 0.00123, "−0.0123 ± 0.0012"),
        (12345.6, 123.0, "12346 ± 123"),
        (3.0, 1.0, "3.0 ± 1.0"),
        (-1.25e-9, 2.5e-10, "−1.25e−9 ± 2.5e−10"),
        (0.123456, 0.0, "0.123"),
    ],
)
def test_a_score_shows_the_digits_that_its_error_leaves(value: float, stderr: float, text: str) -> None:
    assert summaries.with_error(value, stderr) == text


def test_color_is_full_where_nine_of_ten_queries_are_strongest() -> None:
    strongest = torch.arange(1.0, 12.0)
    strongest[-1] = 1e6  # one extreme query
    scores = torch.stack([strongest, -strongest / 2], dim=1)
    assert charts.color_limit(scores) == pytest.approx(10.0)
    assert charts.color_limit(torch.zeros(3, 2)) == 1.0


def test_heatmap_holds_every_score_on_a_scale_symmetric_about_zero() -> None:
    scores = torch.randn(5, 3, dtype=torch.float64)
    spec = charts.heatmap(*views(_table(scores))).to_dict()
    shown = {(row["query"], row["group"]): row["score"] for row in _values(spec)}
    assert shown == {(f"q{q}", f"group {g}"): float(scores[q, g]) for q in range(5) for g in range(3)}
    low, middle, high = spec["encoding"]["color"]["scale"]["domain"]
    assert (low, middle) == (-high, 0)


def test_long_tables_are_cut_and_say_so() -> None:
    queries = charts.MAX_HEATMAP_QUERIES + 1
    spec = charts.heatmap(
        *views(_table(torch.randn(queries, 30)))
    ).to_dict()  # more rows than altair's own limit
    assert len(_values(spec)) == charts.MAX_HEATMAP_QUERIES * 30
    assert spec["title"]["subtitle"].startswith(f"the first {queries - 1} of {queries} queries")
    groups = charts.MAX_CURVE_GROUPS + 1
    spec = charts.influence_curves(_curves(groups)).to_dict()
    assert {row["group"] for row in _values(spec)} == {f"group {g}" for g in range(groups - 1)}
    assert spec["title"]["subtitle"].endswith(f"the first {groups - 1} of {groups} groups")


def test_every_chart_renders_to_a_picture() -> None:
    table = _table(torch.randn(6, 3))
    rows = [{"method": "retrack-0", "metric": "top1", "value": 0.5, "low": 0.4, "high": 0.6}]
    oracle = {"top1": {"value": 0.7, "low": 0.6, "high": 0.8}}
    agreements = [
        charts.agreement(
            dots, band, {"top1": 0.1, "ndcg@3": 0.3}, title="Agreement", subtitle="of one method"
        )
        for dots, band in ((rows, oracle), (rows, {}), ([], oracle))
    ]
    others = [charts.heatmap(*views(table)), charts.influence_curves(_curves(3))]
    for chart in (*others, *agreements):
        assert charts.svg(chart).startswith("<svg")
        small, large = (Image.open(io.BytesIO(charts.png(chart, scale))) for scale in (1.0, 2.0))
        assert large.size == pytest.approx((2 * small.width, 2 * small.height), abs=2)
        assert len(small.convert("RGB").getcolors(1 << 20)) > 20  # not blank


@pytest.mark.parametrize(("module", "package"), [("altair", "altair"), ("vl_convert", "vl-convert-python")])
def test_a_missing_extra_is_named(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    message = (
        f"{package} is not installed\n"
        f"  found:    no package named {package}\n"
        "  expected: the optional dependencies of the extra 'report'\n"
        '  fix:      pip install "guda-lightning[report]"'
    )
    with pytest.raises(MissingExtraError, match=f"^{re.escape(message)}$"):
        charts.heatmap(*views(_table(torch.randn(2, 2))))


def test_a_tally_of_parts_has_the_numbers_of_all_queries() -> None:
    scores = 1e8 + torch.randn(7, 3, dtype=torch.float64)  # squares would lose what differs
    tally = summaries.Tally()
    for rows in (slice(0, 1), slice(1, 5), slice(5, 7)):
        tally.add(*views(_table(scores[rows])))
    found = tally.summaries()
    reference = scores.numpy()
    assert tally.queries == 7
    assert [row.mean for row in found] == pytest.approx(list(reference.mean(axis=0)), rel=1e-14)
    errors = reference.std(axis=0, ddof=1) / 7**0.5
    assert [row.stderr for row in found] == pytest.approx(list(errors), rel=1e-6)
    assert [row.top for row in found] == np.bincount(reference.argmax(axis=1), minlength=3).tolist()


def test_parts_of_other_groups_are_refused() -> None:
    tally = summaries.Tally()
    tally.add(*views(_table(torch.randn(2, 2))))
    expected = message(
        "the parts of a score table do not score the same groups",
        "group 0, group 1, group 2",
        "group 0, group 1",
        "score all queries alike with guda attribute",
    )
    with pytest.raises(ConfigError, match=expected):
        tally.add(*views(_table(torch.randn(2, 3))))
