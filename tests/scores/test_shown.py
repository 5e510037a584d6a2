"""A table in a notebook: the first groups, hostile names, files and the chart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from guda_lightning.errors import ConfigError
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Custom, Likelihood
from toys import message

HOSTILE = "<script>alert(1)</script>"
SCORES = torch.tensor([[1.0, 5.0, 3.0], [2.0, 2.5, -7.0]])
STDERR = torch.tensor([[0.5, 0.3, 0.4], [1.0, 1.0, 1.0]])


def table(groups: tuple[str, ...] = ("a", HOSTILE, "c"), sized: bool = True, rows: int = 2) -> ScoreTable:
    details = Likelihood(counterfactuals={group: group for group in groups}, sized=sized)
    repeated = SCORES.repeat(-(-rows // 2), 1)[:rows, : len(groups)]
    return ScoreTable.from_matrix(
        repeated,
        STDERR.repeat(-(-rows // 2), 1)[:rows, : len(groups)],
        query_ids=[f"<i>{row}" for row in range(rows)],
        groups=groups,
        n_draws=2,
        method="toy",
        weighting="elbo",
        seed=0,
        record=ScoreRecord(details),
    )


def test_the_first_groups_of_every_query() -> None:
    found = table().top(2)
    assert found.drop(columns=["margin", "stderr"]).to_dict("list") == {
        "query": ["<i>0", "<i>0", "<i>1", "<i>1"],
        "rank": [1, 2, 1, 2],
        "group": [HOSTILE, "c", HOSTILE, "a"],
        "score": [5.0, 3.0, 2.5, 2.0],
        "unit": ["nats"] * 4,
        "undecided": [False, False, True, True],
    }
    assert found["stderr"].tolist() == pytest.approx([0.3, 0.4, 1.0, 1.0])
    assert found["margin"].tolist() == pytest.approx([4.0, 4.0, 0.5 / 2**0.5, 0.5 / 2**0.5])
    assert len(table().top(9)) == 6
    shares = table(sized=False).top(1)
    assert shares["unit"].tolist() == ["%", "%"]
    assert shares["score"].tolist() == pytest.approx([500 / 9, 250 / 11.5])


def test_names_of_groups_and_queries_are_no_html() -> None:
    shown = table()._repr_html_()
    assert shown is not None and "<script>" not in shown and "<i>" not in shown
    assert "&lt;script&gt;alert(1)&lt;/script&gt;</b> 5.00 ± 0.30 nats" in shown
    assert shown.count("undecided") == 1 and "2 queries × 3 groups; score: nats" in shown
    long = table(rows=500)._repr_html_()
    assert long is not None and long.count("<tr>") == 11 and "500 queries × 3 groups, 490 more" in long
    assert "first</th><th>second</th><th></th>" in str(table(("a", "b"))._repr_html_())
    two = ScoreTable.concat([table(), replace(of_method(table(), "other"))])
    assert two._repr_html_() is None  # a notebook shows its text
    assert repr(two) == "ScoreTable(toy+other, seed 0, 2 queries x 3 groups, weightings elbo)"


def test_one_is_no_plural_and_the_shown_weighting_is_no_other_one() -> None:
    one = table(("a",), rows=1)
    columns = one.table.to_pydict() | {"weighting": ["uniform"]}
    rows = type(one.table).from_pydict(columns, schema=one.table.schema)
    both = ScoreTable.concat([one, replace(one, table=rows)])
    assert "1 query × 1 group; " in str(one._repr_html_()) and "other" not in str(one._repr_html_())
    assert "; other weightings: uniform</small>" in str(both._repr_html_())
    assert repr(both) == "ScoreTable(toy, seed 0, 1 query x 1 group, weightings elbo, uniform)"


def of_method(given: ScoreTable, method: str) -> ScoreTable:
    columns = given.table.to_pydict() | {"method": [method] * len(given)}
    rows = type(given.table).from_pydict(columns, schema=given.table.schema)
    return ScoreTable(rows, ScoreRecord(Custom(entries={"method": method})))


def test_csv_holds_every_row(tmp_path: Path) -> None:
    path = table().to_csv(tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(pd.read_csv(path), table().to_pandas())


def test_the_chart_is_the_pages() -> None:
    chart = table().plot().to_dict()
    (rows,) = chart["datasets"].values()
    assert {row["group"] for row in rows} == {"a", HOSTILE, "c"}
    assert chart["encoding"]["color"]["title"] == "nats"


def test_several_methods_are_no_ranking() -> None:
    two = ScoreTable.concat([table(), of_method(table(), "other")])
    text = message(
        "one method is shown at a time",
        "toy, other",
        "the scores of one method",
        "choose it with select(method=...)",
    )
    with pytest.raises(ConfigError, match=text):
        two.top()
    with pytest.raises(ConfigError, match="k is out of range"):
        table().top(0)
