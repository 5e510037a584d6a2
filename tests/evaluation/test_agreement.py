from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.evaluation import Agreement, agreement
from guda_lightning.functional.ranking import METRICS
from toys import message


def row(found: Agreement, method: str, yardstick: str, metric: str) -> pd.Series[Any]:
    table = found.metrics.set_index(["method", "yardstick", "metric"])
    return table.loc[(method, yardstick, metric)]


def pair(found: Agreement, first: str, second: str, yardstick: str, metric: str = "top1") -> pd.Series[Any]:
    table = found.comparisons.set_index(["first", "second", "yardstick", "metric"])
    return table.loc[(first, second, yardstick, metric)]


def two_groups(queries: int, seeds: int, noise: float, **methods: float) -> tuple[dict[str, Tensor], Tensor]:
    """Two groups whose true difference is N(0, 1); sides add N(0, noise²) of their own to it."""
    truth = torch.randn(queries).double()

    def seen(level: float) -> Tensor:
        difference = truth + level * torch.randn(queries)
        return torch.stack([difference / 2, -difference / 2], dim=1)

    return {name: seen(level) for name, level in methods.items()}, torch.stack(
        [seen(noise) for _ in range(seeds)]
    )


def same_sign(first_variance: float, second_variance: float) -> float:
    """P(both sides rank two such groups alike), by the arcsine law of a correlated normal pair."""
    return 0.5 + math.asin(1 / math.sqrt((1 + first_variance) * (1 + second_variance))) / math.pi


def test_the_rows_of_every_table() -> None:
    methods, oracles = {"a": torch.randn(6, 4), "b": torch.randn(6, 4)}, torch.randn(3, 6, 4)
    found = agreement(methods, oracles, resamples=10)
    assert list(found.metrics) == ["method", "yardstick", "metric", "value", "low", "high", "chance"]
    assert list(found.comparisons) == [
        *("first", "second", "yardstick", "metric", "difference", "low", "high", "probability")
    ]
    sides = [("a", "all seeds"), ("b", "all seeds")]
    sides += [("a", "other seeds"), ("b", "other seeds"), ("oracle", "other seeds")]
    expected = [(*side, metric) for side in sides for metric in METRICS]
    columns = found.metrics[["method", "yardstick", "metric"]]
    assert list(columns.itertuples(index=False, name=None)) == expected
    pairs = [("a", "b", "all seeds"), ("a", "b", "other seeds")]
    pairs += [("a", "oracle", "other seeds"), ("b", "oracle", "other seeds")]
    expected = [(*names, metric) for names in pairs for metric in METRICS]  # type: ignore[misc]
    columns = found.comparisons[["first", "second", "yardstick", "metric"]]
    assert list(columns.itertuples(index=False, name=None)) == expected
    assert list(found.magnitudes["method"].unique()) == ["a", "b", "oracle"]


def test_values_are_means_over_queries_and_held_out_seeds() -> None:
    scores, oracles = torch.randn(5, 4).double(), torch.randn(3, 5, 4).double()
    found = agreement({"a": scores}, oracles, resamples=10)
    others = [(oracles[1] + oracles[2]) / 2, (oracles[0] + oracles[2]) / 2, (oracles[0] + oracles[1]) / 2]
    for name, metric in METRICS.items():
        for method, yardstick, expected in (
            ("a", "all seeds", metric(scores, oracles.mean(dim=0)).mean()),
            ("a", "other seeds", sum(metric(scores, other).mean() for other in others) / 3),
            (
                "oracle",
                "other seeds",
                sum(metric(one, other).mean() for one, other in zip(oracles, others, strict=True)) / 3,
            ),
        ):
            assert row(found, method, yardstick, name)["value"] == pytest.approx(float(expected))
        difference = pair(found, "a", "oracle", "other seeds", name)["difference"]
        values = [row(found, method, "other seeds", name)["value"] for method in ("a", "oracle")]
        assert difference == pytest.approx(values[0] - values[1])


def test_means_of_half_of_the_seeds_agree_as_their_noise_allows() -> None:
    noise = 0.8
    methods, oracles = two_groups(3000, 4, noise, a=0.0)
    found = agreement(methods, oracles, resamples=10)
    of_half = noise**2 / 2
    for method, variance in (("a", 0.0), ("oracle", of_half)):
        value = row(found, method, "half of the seeds", "top1")["value"]
        assert value == pytest.approx(same_sign(variance, of_half), abs=0.02)
    few = agreement({"a": methods["a"][:9]}, oracles[:3, :9], resamples=10).metrics
    assert "half of the seeds" not in set(few["yardstick"])


def test_half_of_the_seeds_meets_the_other_half_in_all_ways() -> None:
    oracles = torch.randn(4, 3, 4).double()
    found = agreement({}, oracles, resamples=10)
    splits = [((0, 1), (2, 3)), ((0, 2), (1, 3)), ((0, 3), (1, 2))]
    means = [[oracles[list(half)].mean(dim=0) for half in pair] for pair in splits]
    for name, metric in METRICS.items():
        values = [metric(*pair).mean() for one, other in means for pair in ((one, other), (other, one))]
        expected = float(torch.stack(values).mean())
        assert row(found, "oracle", "half of the seeds", name)["value"] == pytest.approx(expected)


def test_the_oracles_own_size_is_that_of_one_seed_against_the_others() -> None:
    noise, seeds = 0.5, 3
    _, oracles = two_groups(3000, seeds, noise)
    found = agreement({}, oracles, resamples=200, level=0.999).magnitudes
    found = found[found["pooling"] == "within"].set_index(["method", "quantity"])
    slope = 1 / (1 + noise**2)
    for quantity, expected in (("slope", slope), ("r2", slope / (1 + noise**2 / (seeds - 1)))):
        line = found.loc[("oracle", quantity)]
        assert line["low"] < expected < line["high"]
        assert line["high"] - line["low"] < 0.15


@settings(deadline=None, max_examples=30)  # the machine may be busy
@given(st.integers(2, 7), st.integers(2, 6), st.integers(1, 3), st.integers(0, 9))
def test_a_table_agrees_perfectly_with_itself(queries: int, groups: int, seeds: int, seed: int) -> None:
    scores = torch.randn(queries, groups, generator=torch.Generator().manual_seed(seed))
    found = agreement({"same": scores}, scores.expand(seeds, -1, -1), resamples=20)
    best = {name: 1.0 for name in METRICS} | {"rbo": 1 - 0.9**groups}
    for line in found.metrics.itertuples():
        assert [line.value, line.low, line.high] == pytest.approx([best[str(line.metric)]] * 3)
    assert set(found.metrics["method"]) == ({"same", "oracle"} if seeds > 1 else {"same"})
    assert (found.comparisons["probability"] == 0.5).all()
    assert np.allclose(found.comparisons["difference"], 0)


def test_random_tables_agree_at_the_level_of_chance() -> None:
    found = agreement({"random": torch.randn(3000, 5)}, torch.randn(3, 3000, 5), resamples=200, level=0.999)
    for line in found.metrics.itertuples():
        assert line.low <= line.chance <= line.high, line
        assert line.high - line.low < 0.1, line
    chances = found.metrics.set_index(["method", "yardstick", "metric"])["chance"]
    known = {"top1": 1 / 5, "mrr": (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5, "wpra": 0.5, "spearman": 0}
    for name, chance in known.items():
        assert chances.xs(name, level="metric").tolist() == pytest.approx([chance] * 3)


def test_one_oracle_seed_has_no_other_seeds() -> None:
    methods, oracles = {"a": torch.randn(6, 4), "b": torch.randn(6, 4)}, torch.randn(1, 6, 4)
    found = agreement(methods, oracles, resamples=10)
    for table in (found.metrics, found.comparisons):
        assert set(table["yardstick"]) == {"all seeds"}
    assert set(found.metrics["method"]) == {"a", "b"}


def test_the_oracle_agreement_without_methods() -> None:
    oracles = torch.randn(3, 50, 4)
    alone = agreement({}, oracles, resamples=50)
    beside = agreement({"a": torch.randn(50, 4)}, oracles, resamples=50)
    of_oracle = beside.metrics[beside.metrics["method"] == "oracle"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone.metrics, of_oracle)
    assert alone.comparisons.empty
    assert set(alone.magnitudes["method"]) == {"oracle"}


def test_planted_noise_gives_the_known_agreement() -> None:
    # Three oracle seeds with noise variance 1: the mean of two of them has 1/2, of three 1/3.
    methods, oracles = two_groups(4000, 3, 1.0, good=0.5, bad=2.0)
    found = agreement(methods, oracles, resamples=500, level=0.99)
    for method, yardstick, probability in (
        ("good", "all seeds", same_sign(0.25, 1 / 3)),
        ("bad", "all seeds", same_sign(4, 1 / 3)),
        ("good", "other seeds", same_sign(0.25, 1 / 2)),
        ("bad", "other seeds", same_sign(4, 1 / 2)),
        ("oracle", "other seeds", same_sign(1, 1 / 2)),
    ):
        # With two groups every ranking metric is a line in top-1 agreement.
        for metric, expected in (
            ("top1", probability),
            ("mrr", (1 + probability) / 2),
            ("spearman", 2 * probability - 1),
        ):
            line = row(found, method, yardstick, metric)
            assert line["low"] <= expected <= line["high"]
            assert line["value"] == pytest.approx(expected, abs=0.03)


def test_a_method_with_less_noise_beats_one_oracle_seed() -> None:
    methods, oracles = two_groups(2000, 3, 1.5, clean=0.1, worse=4.0)
    found = agreement(methods, oracles, resamples=500)
    assert (
        row(found, "clean", "other seeds", "top1")["low"]
        > row(found, "oracle", "other seeds", "top1")["high"]
    )
    better, worse = (pair(found, name, "oracle", "other seeds") for name in ("clean", "worse"))
    assert better["probability"] == 1
    assert better["low"] > 0.05
    assert worse["probability"] == 0
    assert worse["high"] < -0.05


def test_intervals_cover_the_truth_about_as_often_as_they_say(monkeypatch: pytest.MonkeyPatch) -> None:
    # The one metric that it is about, and no sizes.
    module = sys.modules[agreement.__module__]
    monkeypatch.setattr(module, "METRICS", {"top1": METRICS["top1"]})
    monkeypatch.setattr(module, "magnitudes", lambda *_, **options: pd.DataFrame())
    hits: dict[str, list[bool]] = {"method": [], "oracle": [], "difference": []}
    truth = {"method": same_sign(0.25, 1 / 5), "oracle": same_sign(1, 1 / 4)}
    truth["difference"] = same_sign(0.25, 1 / 5) - same_sign(1, 1 / 5)
    for repetition in range(100):
        methods, oracles = two_groups(100, 5, 1.0, method=0.5, like=1.0)
        found = agreement(methods, oracles, resamples=300, level=0.9, seed=repetition)
        for name, line in (
            ("method", row(found, "method", "all seeds", "top1")),
            ("oracle", row(found, "oracle", "other seeds", "top1")),
            ("difference", pair(found, "method", "like", "all seeds")),
        ):
            hits[name].append(bool(line["low"] <= truth[name] <= line["high"]))
    # 90 % ± 3 standard errors; resampling queries and seeds apart is on the safe side.
    assert 0.81 <= np.mean(hits["method"]) <= 0.99
    assert 0.81 <= np.mean(hits["difference"]) <= 0.99
    assert np.mean(hits["oracle"]) >= 0.9


def test_comparisons_are_paired() -> None:
    scores = torch.randn(400, 5).double()
    slightly = scores.clone()
    slightly[:40] = slightly[:40].flip(1)  # wrong for a tenth of the queries, equal elsewhere
    methods = {"one": scores, "copy": 2 * scores - 1, "slightly": slightly, "random": torch.randn(400, 5)}
    oracles = scores + torch.randn(3, 400, 5)
    found = agreement(methods, oracles, resamples=300)
    for yardstick in ("all seeds", "other seeds"):
        for metric in METRICS:
            copy = pair(found, "one", "copy", yardstick, metric)
            assert copy[["difference", "low", "high", "probability"]].tolist() == pytest.approx(
                [0, 0, 0, 0.5]
            )
        assert pair(found, "one", "random", yardstick)["probability"] == 1
        assert pair(found, "one", "slightly", yardstick)["probability"] == 1
        # The intervals of the two overlap by far: only their pairing tells them apart.
        one, other = (row(found, name, yardstick, "top1") for name in ("one", "slightly"))
        assert other["high"] > one["low"]
    # A method's chance to beat the other is what is left of the other's.
    swapped = agreement(dict(reversed(methods.items())), oracles, resamples=300)
    for metric in METRICS:
        there = pair(found, "copy", "slightly", "all seeds", metric)
        back = pair(swapped, "slightly", "copy", "all seeds", metric)
        assert there["probability"] + back["probability"] == pytest.approx(1)
        assert [there["low"], there["high"]] == pytest.approx([-back["high"], -back["low"]])


def test_held_out_seeds_can_come_from_other_noise() -> None:
    # Noise that all seeds share makes them agree; drawn anew for the held-out seed, it does not.
    truth, shared, anew = torch.randn(3, 3000).double()
    own = torch.randn(3, 3000).double()

    def stack(difference: Tensor) -> Tensor:
        return torch.stack([difference, -difference], dim=-1)

    oracles, held_out = stack(truth + shared + 0.1 * own), stack(truth + anew + 0.1 * own)
    flattering = row(agreement({}, oracles, resamples=50), "oracle", "other seeds", "top1")
    honest = row(agreement({}, oracles, held_out=held_out, resamples=50), "oracle", "other seeds", "top1")
    assert flattering["value"] > 0.95
    assert honest["low"] <= same_sign(1.01, 1.005) <= honest["high"]


def test_the_same_seed_gives_the_same_numbers_in_any_type_or_layout() -> None:
    methods, oracles = {"a": torch.randn(9, 4)}, torch.randn(4, 9, 3).permute(2, 1, 0)
    first = agreement(methods, oracles, resamples=20, seed=3)
    again = agreement(
        {"a": methods["a"].double().requires_grad_()}, oracles.contiguous(), resamples=20, seed=3
    )
    other = agreement(methods, oracles, resamples=20, seed=4)
    for table in ("metrics", "comparisons", "magnitudes"):
        pd.testing.assert_frame_equal(getattr(first, table), getattr(again, table))
        assert not getattr(first, table).equals(getattr(other, table))


def test_order_of_groups_does_not_matter() -> None:
    scores, oracles, order = torch.randn(20, 6), torch.randn(3, 20, 6), torch.randperm(6)
    first = agreement({"a": scores}, oracles, resamples=20)
    other = agreement({"a": scores[:, order]}, oracles[..., order], resamples=20)
    for table in ("metrics", "comparisons", "magnitudes"):
        pd.testing.assert_frame_equal(getattr(first, table), getattr(other, table))


FIX_SHAPE = "take the same queries and groups from all score tables, in the same order"


@pytest.mark.parametrize("shape", [(5, 4), (6, 3), (6,), (1, 6, 4)])
def test_methods_of_another_shape(shape: tuple[int, ...]) -> None:
    expected = message(
        "the scores of method 'b' have the wrong shape",
        f"shape {shape}",
        "shape (6, 4): queries, groups",
        FIX_SHAPE,
    )
    with pytest.raises(ConfigError, match=expected):
        agreement({"a": torch.randn(6, 4), "b": torch.randn(shape)}, torch.randn(2, 6, 4))


@pytest.mark.parametrize("shape", [(6, 4), (0, 6, 4), (2, 1, 4), (2, 6, 1), (), (1, 2, 6, 4)])
def test_oracles_that_cannot_be_compared_with(shape: tuple[int, ...]) -> None:
    expected = message(
        "the oracle's scores have the wrong shape",
        f"shape {shape}",
        "shape (seeds, queries, groups) with at least one seed, two queries and two groups",
        "stack one matrix per oracle seed, and score more queries or groups",
    )
    with pytest.raises(ConfigError, match=expected):
        agreement({"a": torch.randn(shape[1:])}, torch.randn(shape))


def test_held_out_seeds_of_another_shape() -> None:
    expected = message(
        "the oracle's scores have the wrong shape",
        "shape (2, 6, 4), held out (3, 6, 4)",
        "shape (seeds, queries, groups) with at least one seed, two queries and two groups",
        "stack one matrix per oracle seed, and score more queries or groups",
    )
    with pytest.raises(ConfigError, match=expected):
        agreement({}, torch.randn(2, 6, 4), held_out=torch.randn(3, 6, 4))


def test_the_name_of_the_oracle_is_taken() -> None:
    expected = message(
        "invalid method name: reserved for the oracle",
        "a method named 'oracle'",
        "any other name: 'oracle' is the row of the oracle agreement",
        "rename the method",
    )
    with pytest.raises(ConfigError, match=expected):
        agreement({"a": torch.randn(6, 4), "oracle": torch.randn(6, 4)}, torch.randn(2, 6, 4))


def test_nothing_to_compare() -> None:
    expected = message(
        "there is nothing to compare with the oracle",
        "no method and one oracle seed",
        "a method, or a second oracle seed",
        "score the same queries with guda attribute",
    )
    with pytest.raises(ConfigError, match=expected):
        agreement({}, torch.randn(1, 6, 4))


def broken(value: float) -> Tensor:
    matrix = torch.rand(6, 4)
    matrix[3, 2] = value
    return matrix


def test_what_is_no_number_is_named() -> None:
    whole = torch.rand(6, 4)
    for methods, oracles, name in (
        ({"a": whole, "b": broken(math.nan)}, whole[None], "method 'b'"),
        ({"a": whole}, torch.stack([whole, broken(math.nan)]), "oracle seed 2 of 2"),
    ):
        expected = message(
            f"the scores of {name} are not all finite",
            "nan at query 3, group 2",
            "finite numbers",
            "score that query again",
        )
        with pytest.raises(NumericsError, match=expected):
            agreement(methods, oracles)


def test_what_ranks_nothing_is_named() -> None:
    whole, constant = torch.rand(6, 4), torch.rand(6, 4)
    constant[5] = 0.5
    for methods, oracles, name in (
        ({"a": whole, "b": constant}, whole[None], "method 'b'"),
        ({"a": whole}, torch.stack([constant, whole]), "oracle seed 1 of 2"),
    ):
        expected = message(
            f"the scores of {name} do not differ between groups",
            "the same number for all 4 groups of query 5",
            "numbers that differ between groups",
            "leave that query out, or score it with more digits",
        )
        with pytest.raises(NumericsError, match=expected):
            agreement(methods, oracles)


@pytest.mark.parametrize("options", [{"resamples": 0}, {"level": 1.0}, {"seed": -1}])
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"^{next(iter(options))} is out of range\n"):
        agreement({"a": torch.randn(6, 4)}, torch.randn(2, 6, 4), **options)
