from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.functional import ranking

CASES = json.loads((Path(__file__).parents[1] / "reference" / "ranking.json").read_text())
METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "top1": ranking.top1_agreement,
    "mrr": ranking.mrr,
    "ndcg_3": lambda scores, oracle: ranking.ndcg(scores, oracle, 3),
    "ndcg_5": lambda scores, oracle: ranking.ndcg(scores, oracle, 5),
    "wpra_top3": ranking.wpra,
    "wpra_all": lambda scores, oracle: ranking.wpra(scores, oracle, top=None),
    "rbo_p09": ranking.rbo,
    "spearman": ranking.spearman,
}
PERFECT = {
    "top1": 1.0,
    "mrr": 1.0,
    "ndcg_3": 1.0,
    "ndcg_5": 1.0,
    "wpra_top3": 1.0,
    "wpra_all": 1.0,
    "spearman": 1.0,
}

finite = st.floats(-1e6, 1e6, width=32)


def distinct_pair(groups: int) -> st.SearchStrategy[tuple[list[float], list[float]]]:
    row = st.lists(finite, min_size=groups, max_size=groups, unique=True)
    return st.tuples(row, row)


pairs = st.integers(2, 8).flatmap(distinct_pair)
few_values = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=2, max_size=4)


def row(values: object) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("groups", sorted({len(case["scores"]) for case in CASES}))
def test_reference_numbers(name: str, groups: int) -> None:
    cases = [case for case in CASES if len(case["scores"]) == groups]
    scores, oracle, expected = (
        torch.tensor([case[key] for case in cases], dtype=torch.float64) for key in ("scores", "gold", name)
    )
    found = METRICS[name](scores, oracle)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_all_reference_cases_are_read() -> None:
    assert len(CASES) == 24


@settings(deadline=None)  # the machine may be busy
@given(few_values.filter(lambda pairs: all(len(set(side)) > 1 for side in zip(*pairs, strict=True))))
def test_spearman_with_ties_is_scipys(values: list[tuple[int, int]]) -> None:
    scores, oracle = zip(*values, strict=True)
    expected = scipy.stats.spearmanr(scores, oracle).statistic
    assert ranking.spearman(row(scores), row(oracle)).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["top1", "mrr", "ndcg_3", "rbo_p09"])
@settings(deadline=None)  # the machine may be busy
@given(values=few_values)
def test_ties_give_the_mean_over_all_ways_to_break_them(name: str, values: list[tuple[int, int]]) -> None:
    scores, oracle = zip(*values, strict=True)
    broken = torch.tensor(list(itertools.product(untied(scores), untied(oracle))), dtype=torch.float64)
    mean = METRICS[name](broken[:, 0], broken[:, 1]).mean().item()
    assert METRICS[name](row(scores), row(oracle)).item() == pytest.approx(mean, abs=1e-9)


def untied(values: tuple[int, ...]) -> list[list[float]]:
    """All rankings without ties that agree with the values, each exactly once."""
    orders = itertools.permutations(range(len(values)))
    return [
        [-float(order.index(i)) for i in range(len(values))]
        for order in orders
        if all(values[a] >= values[b] for a, b in itertools.pairwise(order))
    ]


@settings(deadline=None)  # the machine may be busy
@given(few_values.filter(lambda pairs: len({oracle for _, oracle in pairs}) > 1))
def test_a_pair_with_tied_scores_is_half_right(values: list[tuple[int, int]]) -> None:
    scores, oracle = zip(*values, strict=True)
    broken = [METRICS["wpra_all"](row(s), row(oracle)).item() for s in untied(scores)]
    assert METRICS["wpra_all"](row(scores), row(oracle)).item() == pytest.approx(
        math.fsum(broken) / len(broken)
    )


def test_a_tie_at_the_edge_of_the_top_belongs_to_it() -> None:
    oracle, scores = row([3.0, 2.0, 2.0, 0.0]), row([3.0, 2.0, 0.0, 1.0])
    # All pairs but those of the last group with none of the first three count; (2, 3) is the one wrong pair.
    assert ranking.wpra(scores, oracle, top=2).item() == pytest.approx(
        (1 + 1 + 3 + 2 + 0) / (1 + 1 + 3 + 2 + 2)
    )
    assert ranking.wpra(scores, oracle, top=1).item() == 1


@pytest.mark.parametrize("top", [1, 2, 3, 9, None])
@settings(deadline=None)  # the machine may be busy
@given(few_values.filter(lambda pairs: len({oracle for _, oracle in pairs}) > 1))
def test_wpra_is_its_definition_pair_by_pair(top: int | None, values: list[tuple[int, int]]) -> None:
    scores, oracle = zip(*values, strict=True)
    first = [sum(other > value for other in oracle) < (top or len(oracle)) for value in oracle]
    agreed = total = 0.0
    for i, j in itertools.combinations(range(len(oracle)), 2):
        if first[i] or first[j]:
            weight, product = abs(oracle[i] - oracle[j]), (oracle[i] - oracle[j]) * (scores[i] - scores[j])
            agreed += weight * (1 if product > 0 else 0 if product < 0 else 0.5)
            total += weight
    assert ranking.wpra(row(scores), row(oracle), top).item() == pytest.approx(agreed / total)


@pytest.mark.parametrize("groups", [2, 7])
def test_equal_scores_agree_by_chance(groups: int) -> None:
    oracle = torch.randn(5, groups)
    for name, chance in (("top1", 1 / groups), ("wpra_top3", 0.5), ("wpra_all", 0.5)):
        found = METRICS[name](torch.zeros(5, groups), oracle)
        torch.testing.assert_close(found, torch.full((5,), chance, dtype=torch.float64))


@settings(deadline=None)  # the machine may be busy
@given(pairs)
def test_a_ranking_agrees_perfectly_with_itself(pair: tuple[list[float], list[float]]) -> None:
    oracle = row(pair[0])
    for name, best in PERFECT.items():
        assert METRICS[name](oracle, oracle).item() == pytest.approx(best)
    assert ranking.rbo(oracle, oracle).item() == pytest.approx(1 - 0.9 ** len(pair[0]))
    assert ranking.spearman(-oracle, oracle).item() == pytest.approx(-1)
    assert ranking.wpra(-oracle, oracle).item() == pytest.approx(0)


@settings(deadline=None)  # the machine may be busy
@given(pairs, st.randoms(use_true_random=False))
def test_only_the_order_of_scores_counts_and_not_that_of_groups(
    pair: tuple[list[float], list[float]], random: object
) -> None:
    scores, oracle = row(pair[0]), row(pair[1])
    order = list(range(scores.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    for name, metric in METRICS.items():
        value = metric(scores, oracle).item()
        assert (-1 if name == "spearman" else 0) - 1e-9 <= value <= 1 + 1e-9
        assert metric(scores.argsort().argsort().double(), oracle).item() == pytest.approx(value, abs=1e-9)
        assert metric(scores[:, order], oracle[:, order]).item() == pytest.approx(value, abs=1e-9)


@settings(deadline=None)  # the machine may be busy
@given(pairs)
def test_symmetric_ones(pair: tuple[list[float], list[float]]) -> None:
    scores, oracle = row(pair[0]), row(pair[1])
    for name in ("top1", "rbo_p09", "spearman"):
        assert METRICS[name](scores, oracle).item() == pytest.approx(
            METRICS[name](oracle, scores).item(), abs=1e-12
        )


def test_rows_are_independent_and_any_float_type_or_layout_will_do() -> None:
    scores, oracle = torch.randn(9, 6).half(), torch.randn(6, 9).t()
    for metric in METRICS.values():
        rows = torch.cat([metric(s[None], o[None]) for s, o in zip(scores, oracle, strict=True)])
        torch.testing.assert_close(metric(scores, oracle), rows)
        assert metric(scores[:0], oracle[:0]).shape == (0,)


def test_a_thousand_groups_do_not_overflow() -> None:
    oracle = torch.arange(1500.0)[None]
    assert ranking.ndcg(oracle, oracle, 5).item() == pytest.approx(1)
    assert ranking.ndcg(-oracle, oracle, 5).item() == pytest.approx(0, abs=1e-12)


def message(problem: str, found: str, expected: str, fix: str) -> str:
    return "^" + re.escape(f"{problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}") + "$"


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(("scores", "oracle"), [((2, 3), (2, 4)), ((2, 3), (3, 3)), ((3,), (3, 3))])
def test_shapes_that_differ(name: str, scores: tuple[int, ...], oracle: tuple[int, ...]) -> None:
    expected = message(
        "the scores have the wrong shape",
        f"shape {scores}",
        f"shape {oracle}: queries, groups",
        "take the same queries and groups from all score tables, in the same order",
    )
    with pytest.raises(ConfigError, match=expected):
        METRICS[name](torch.rand(scores), torch.rand(oracle))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("shape", [(3,), (2, 1), (1, 2, 3)])
def test_shapes_that_cannot_be_ranked(name: str, shape: tuple[int, ...]) -> None:
    expected = message(
        "the oracle's scores cannot be ranked",
        f"shape {shape}",
        "shape (queries, groups), with at least two groups",
        "score more groups",
    )
    with pytest.raises(ConfigError, match=expected):
        METRICS[name](torch.rand(shape), torch.rand(shape))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_refused(name: str, bad: float) -> None:
    broken, whole = torch.rand(3, 4), torch.rand(3, 4)
    broken[1, 2] = bad
    for whose, sides in (("the scores", (broken, whole)), ("the oracle's scores", (whole, broken))):
        expected = message(
            f"{whose} are not all finite",
            f"{bad} at query 1, group 2",
            "finite numbers",
            "score that query again",
        )
        with pytest.raises(NumericsError, match=expected):
            METRICS[name](*sides)


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("spearman", "the scores"),
        ("spearman", "the oracle's scores"),
        ("wpra_top3", "the oracle's scores"),
        ("wpra_all", "the oracle's scores"),
    ],
)
def test_rows_without_an_order_are_refused(name: str, side: str) -> None:
    constant, whole = torch.rand(3, 4), torch.rand(3, 4)
    constant[2] = 5.0
    expected = message(
        f"{side} do not differ between groups",
        "the same number for all 4 groups of query 2",
        "numbers that differ between groups",
        "leave that query out, or score it with more digits",
    )
    with pytest.raises(NumericsError, match=expected):
        METRICS[name](*((constant, whole) if side == "the scores" else (whole, constant)))


@pytest.mark.parametrize("p", [0.0, 1.0, math.nan])
def test_p_out_of_range(p: float) -> None:
    with pytest.raises(
        ConfigError, match=message("p is out of range", str(p), "0 < p < 1", "take the usual 0.9")
    ):
        ranking.rbo(torch.rand(1, 2), torch.rand(1, 2), p)


@pytest.mark.parametrize("value", [0, -3])
def test_counts_out_of_range(value: int) -> None:
    two = torch.rand(1, 2)
    for name, call in (("k", ranking.ndcg), ("top", ranking.wpra)):
        expected = message(f"{name} is out of range", str(value), f"{name} >= 1", f"take a larger {name}")
        with pytest.raises(ConfigError, match=expected):
            call(two, two, value)
