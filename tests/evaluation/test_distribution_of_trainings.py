"""Laws with and without groups from planted trainings: values, intervals, and distributional LDS."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr, t
from torch import Tensor

from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.evaluation import lds
from guda_lightning.evaluation.distribution import DistributionEvaluation, compare_trainings
from guda_lightning.evaluation.trainings import Trainings
from guda_lightning.functional.distribution import DELTAS, halves, jackknife, log_variance_ratio
from guda_lightning.report.distribution_section import section_of
from guda_lightning.report.distribution_text import POWER, distribution_text
from toys import message

QUERIES, GROUPS, SEEDS = 12, tuple("abcd"), range(7)
IDENTITY = {"query_hash": "q", "grouping_hash": "g", "full_hashes": ["f"]}
SUBSETS = ("a+b", "a+c", "a+d", "b+c", "b+d", "c+d")
SPREAD = {"a": 0.3, "b": 1.0, "c": 1.0, "d": 3.0}  # of training without each group; with all of them 1


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(seeds: range = SEEDS) -> Trainings:
    """ELBOs whose law has a standard deviation of 10, times `SPREAD` without a group."""
    effects = 5 * noise(0, QUERIES, len(GROUPS))
    common = 10 * noise(1, len(SEEDS), QUERIES)

    def without(group: str, seed: int) -> Tensor:
        own = SPREAD[group] * (0.9 * common[seed] + 4.4 * noise(100 + 10 * seed + ord(group), QUERIES))
        return own - effects[:, GROUPS.index(group)]

    def of_subset(subset: str, seed: int) -> Tensor:
        lost = sum(effects[:, GROUPS.index(group)] for group in subset.split("+"))
        return common[seed] - lost + noise(1000 + 10 * SUBSETS.index(subset) + seed, QUERIES)

    return Trainings(
        tuple(f"q{query}" for query in range(QUERIES)),
        ("elbo",),
        IDENTITY,
        full={seed: {"elbo": common[seed]} for seed in seeds},
        without={"m": {g: {seed: {"elbo": without(g, seed)} for seed in seeds} for g in GROUPS}},
        subsets={s: {seed: {"elbo": of_subset(s, seed)} for seed in seeds} for s in SUBSETS},
    )


def sides(trainings: Trainings, group: str) -> tuple[Tensor, Tensor]:
    """``[seeds, queries]`` of both."""
    full = torch.stack([one["elbo"] for one in trainings.full.values()])
    return full, torch.stack([one["elbo"] for one in trainings.without["m"][group].values()])


def row(found: DistributionEvaluation, **values: Any) -> pd.Series:
    frame = found.differences
    for name, value in values.items():
        frame = frame[frame[name].isna() if value is None else frame[name] == value]
    (index,) = frame.index
    return frame.loc[index]


def test_values_and_intervals_are_those_of_the_sides() -> None:
    trainings = planted()
    found = compare_trainings(trainings, resamples=20)
    assert len(found.differences) == (len(DELTAS) + 1) * len(GROUPS) * (QUERIES + 1)
    for group in GROUPS:
        full, without = sides(trainings, group)
        for name, delta in DELTAS.items():
            mean, third = (row(found, group=group, delta=name, query=query) for query in (None, "q3"))
            assert third["value"] == pytest.approx(delta(full, without)[3].item())
            assert mean["value"] == pytest.approx(delta(full, without).mean().item())
            assert (mean["full"], mean["without"]) == (7, 7)
            assert math.isnan(mean["low"]) == math.isnan(third["high"]) == (name != "mean")
        variances = torch.stack([side.var(dim=0) for side in (without, full)])
        for query, (over, under) in ((None, variances.mean(dim=1)), ("q3", variances[:, 3])):
            ratio = row(found, group=group, delta="ratio", query=query)
            assert ratio["value"] == pytest.approx((over / under).item())
            half = math.log(ratio["high"] / ratio["low"]) / 2
            assert half == pytest.approx(t.ppf(0.975, 6) * ratio["stderr"])
            assert ratio["low"] * ratio["high"] == pytest.approx(ratio["value"] ** 2)
    paired = row(found, group="a", delta="mean", query="q3")
    full, without = (side[:, 3].numpy() for side in sides(trainings, "a"))
    interval = t.interval(0.95, 6, loc=np.mean(full - without), scale=np.std(full - without, ddof=1) / 7**0.5)
    assert (paired["low"], paired["high"]) == pytest.approx(interval)
    assert found.record["floor"]["elbo"] == pytest.approx(halves(sides(trainings, "a")[0]).mean().item())


def test_planted_instability_is_found() -> None:
    found = compare_trainings(planted(), resamples=20)
    ends = {group: row(found, group=group, delta="ratio", query=None) for group in GROUPS}
    assert ends["a"]["high"] < 1 < ends["d"]["low"]
    assert all(ends[group]["low"] < 1 < ends[group]["high"] for group in "bc")
    text = distribution_text(found)
    said = "m: makes training unstable: a; makes it stable: d; undecided: 2 of 4 groups, whose 95 %"
    assert said in " ".join(text.split()) and max(map(len, text.splitlines())) <= 100
    said = (
        "Each group is decided by itself: of 4 without any effect, up to 0.2 would be named by chance. Few "
        "trainings miss much: a variance four times as large is told by 3 in 4% of cases (37% where both "
        "sides are of the same trainings), 5 in 45% (85%), 10 in 90% (100%)."
    )
    assert said in " ".join(text.split())
    section = section_of(found, "another")
    assert section.lines[1] == said
    assert section.lines[0].startswith("m: makes training unstable: a;")
    assert [cells[0] for cells in section.rows][:1] == ["a"] and section.rows[-1][0] == "d"


def test_trainings_of_other_seeds_are_not_paired() -> None:
    trainings = planted()
    full, without = sides(trainings, "b")
    trainings.without["m"] = {"b": {10 + s: v for s, v in trainings.without["m"]["b"].items()}}
    trainings.subsets.clear()
    found = row(compare_trainings(trainings), group="b", delta="mean", query="q0")
    assert found["stderr"] == pytest.approx((full[:, 0].var() / 7 + without[:, 0].var() / 7).sqrt().item())


def test_the_mean_of_a_distributional_lds_is_the_ordinary_one() -> None:
    trainings = planted()
    found = compare_trainings(trainings, resamples=50)
    rows = {row["delta"]: row for row in found.record["lds"]}
    means = {g: (x - y).mean(dim=0) for g in GROUPS for x, y in [sides(trainings, g)]}
    scores = torch.stack(list(means.values()), dim=1)
    full = torch.stack([one["elbo"] for one in trainings.full.values()])
    measured = torch.stack(
        [full - torch.stack([of[seed]["elbo"] for seed in SEEDS]) for of in trainings.subsets.values()], dim=2
    )
    removed = torch.tensor([[group in subset for group in GROUPS] for subset in SUBSETS])
    ordinary = lds({"m": scores}, measured, removed, resamples=50)
    (expected,) = ordinary[ordinary["yardstick"] == "all seeds"].to_dict("records")
    assert {name: rows["mean"][name] for name in expected} == pytest.approx(expected)
    assert rows["mean"]["value"] > 0.5


@pytest.mark.parametrize("name", ["variance", "wasserstein"])
def test_a_distributional_lds_is_scipys_correlation(name: str) -> None:
    trainings = planted()
    delta, rows = DELTAS[name], compare_trainings(trainings, resamples=20).record["lds"]
    predicted = {group: delta(*sides(trainings, group)) for group in GROUPS}
    full = torch.stack([one["elbo"] for one in trainings.full.values()])
    pairs = []
    for subset, models in trainings.subsets.items():
        without = torch.stack([one["elbo"] for one in models.values()])
        pairs.append((sum(predicted[group] for group in subset.split("+")), delta(full, without)))
    sums, measured = (
        torch.stack([torch.as_tensor(side) for side in both]) for both in zip(*pairs, strict=True)
    )
    values = [spearmanr(sums[:, query], measured[:, query]).statistic for query in range(QUERIES)]
    (found,) = [row["value"] for row in rows if row["delta"] == name]
    assert found == pytest.approx(np.mean(values))


@pytest.mark.parametrize("count", [1, 2])
def test_below_three_trainings_only_means_are_told(count: int) -> None:
    found = compare_trainings(planted(range(count)), resamples=20)
    assert set(found.differences["delta"]) == {"mean"}
    assert found.differences["stderr"].isna().all() == (count == 1)
    text = " ".join(distribution_text(found).split())
    assert text.count("needs 3 seeds needs 3 seeds needs 3 seeds") == len(GROUPS)
    assert "m: whether a group makes training unstable needs 3 trainings with it and without it" in text
    assert "LDS of the variance is left out: 0 subsets have enough trainings, it needs 3" in text
    section = section_of(found, "m")
    assert section.chart is None and section.rows[0][2:5] == ["needs 3 seeds"] * 3
    assert not any("lacks groups" in note for note in found.record["notes"])


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("trainings", POWER)
def test_intervals_of_a_ratio_cover_and_have_the_power_that_is_told(trainings: int, paired: bool) -> None:
    """Of the mean over 16 queries that correlate by .5, in 600 repetitions at once; docs have this table."""
    repetitions, queries = 600, 16

    def drawn(seed: int) -> Tensor:
        common, own = noise(seed, trainings, repetitions, 1), noise(seed + 1, trainings, repetitions, queries)
        return (common + own) / 2**0.5

    statistic = torch.func.vmap(lambda x, y: log_variance_ratio(x, y)[0], in_dims=1)

    full, other = drawn(10 * trainings), drawn(10 * trainings + 2)
    without = 0.7**0.5 * full + 0.3**0.5 * other if paired else other
    width = t.ppf(0.975, trainings - 1)
    rates = {}
    for ratio in (1, 4, 25):
        values = statistic(full, ratio**0.5 * without)
        half = width * jackknife(statistic, full, ratio**0.5 * without, paired=paired)
        rates[ratio] = (values.abs() > half).double().mean().item()
        assert ((values - math.log(ratio)).abs() <= half).double().mean() > 0.92
    assert rates[1] < 0.08
    assert rates[4] == pytest.approx(POWER[trainings][paired], abs=0.06)
    wide = {3: (0.42, 0.85), 5: (0.98, 1.0), 10: (1.0, 1.0)}
    assert rates[25] == pytest.approx(wide[trainings][paired], abs=0.06)


def test_the_floor_is_that_of_seeds_in_any_order() -> None:
    trainings = planted()
    trainings.subsets.clear()
    floor = compare_trainings(trainings).record["floor"]
    trainings.full = {seed: trainings.full[seed] for seed in (3, 0, 6, 1, 5, 2, 4)}
    assert compare_trainings(trainings).record["floor"] == floor


def test_it_is_kept(tmp_path: Path) -> None:
    found = compare_trainings(planted(), resamples=20)
    found.save(tmp_path / "distribution.parquet")
    back = DistributionEvaluation.load(tmp_path / "distribution.parquet")
    pd.testing.assert_frame_equal(back.differences, found.differences)
    assert back.record == found.record
    with pytest.raises(StoreError, match=r"run guda evaluate RUN --distribution again$"):
        DistributionEvaluation.load(tmp_path / "other.parquet")


def test_models_of_subsets_alone_are_refused() -> None:
    trainings = planted()
    trainings.without.clear()
    expected = message(
        "there is nothing to compare trainings by",
        "models of subsets alone",
        "counterfactuals without single groups",
        "guda attribute -c ... --operator NAME",
    )
    with pytest.raises(ConfigError, match=expected):
        compare_trainings(trainings)
