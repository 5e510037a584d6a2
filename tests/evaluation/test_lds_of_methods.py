"""LDS of methods and of the oracle, against scipy; files and text through `guda evaluate --lds`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from guda_lightning.cli.main import main
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.evaluation import lds
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.evaluation.subsets import ADDITIVE, SubsetEvaluation
from guda_lightning.functional.coalition_plans import subsets
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Ensemble
from guda_lightning.scores.record import ScoringRecord
from toys import message

GROUPS = tuple("abcdef")
QUERIES = 30
REMOVED = ~subsets(6, 3, 12, 0)
JOINT = tuple("+".join(name for name, out in zip(GROUPS, row, strict=True) if out) for row in REMOVED)
RECORD = {"query_hash": "q" * 20, "full_hash": "f" * 20, "schedule_hash": "s" * 20, "grouping_hash": "g" * 20}
MAGNITUDE = 10.0


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TRUTH = MAGNITUDE * noise(99, QUERIES, 6)
GAME = TRUTH @ REMOVED.double().T  # additive


def numbers(frame: pd.DataFrame, column: str = "value", **values: str) -> dict[str, float]:
    for name, value in values.items():
        frame = frame[frame[name] == value]
    return dict(zip(frame["method"], frame[column], strict=True))


def test_of_an_additive_game_it_is_one_for_the_truth_and_zero_for_chance() -> None:
    measured = torch.stack([GAME, GAME + noise(1, QUERIES, 1)])  # another seed: an offset a query
    methods = {"truth": TRUTH, "opposite": -TRUTH, "chance": noise(2, QUERIES, 6)}
    frame = lds(methods, measured, REMOVED, resamples=200)
    for yardstick in ("all seeds", "other seeds"):
        found = numbers(frame, yardstick=yardstick)
        assert found["truth"] == pytest.approx(1)
        assert found["opposite"] == pytest.approx(-1)
        low, high = (numbers(frame, end, yardstick=yardstick)["chance"] for end in ("low", "high"))
        assert low < found["chance"] < high and low < 0 < high
    assert numbers(frame, yardstick="other seeds")["oracle"] == pytest.approx(1)
    assert set(frame["chance"]) == {0}


def test_it_is_the_mean_of_scipys_correlations() -> None:
    measured = torch.stack([GAME + 20 * noise(seed, *GAME.shape) for seed in (1, 2, 3)])
    frame = lds({"m": TRUTH}, measured, REMOVED, resamples=300)

    def mean(x: Tensor, y: Tensor) -> float:
        return float(np.mean([spearmanr(*pair).statistic for pair in zip(x, y, strict=True)]))

    others = [measured[[other for other in range(3) if other != one]].mean(dim=0) for one in range(3)]
    assert numbers(frame, yardstick="all seeds")["m"] == pytest.approx(mean(GAME, measured.mean(dim=0)))
    found = numbers(frame, yardstick="other seeds")
    assert found["m"] == pytest.approx(np.mean([mean(GAME, other) for other in others]))
    assert found["oracle"] == pytest.approx(
        np.mean([mean(*pair) for pair in zip(measured, others, strict=True)])
    )
    for end, sign in (("low", -1), ("high", 1)):
        ends = numbers(frame, end, yardstick="other seeds")
        assert all(sign * (ends[name] - value) > 0 for name, value in found.items())


def test_the_interval_is_that_of_resampled_queries_and_subsets() -> None:
    """Where every query says the same, what varies is which subsets were drawn."""
    x, y = noise(5, 1, 6).expand(QUERIES, 6), (noise(5, 1, 6) @ REMOVED.double().T + 2 * noise(6, 1, 12))
    frame = lds({"m": x}, y.expand(QUERIES, 12)[None], REMOVED, resamples=2000)
    predicted = (x[:1] @ REMOVED.double().T)[0].numpy()
    rng = np.random.default_rng(0)
    drawn = [
        spearmanr(predicted[rows], y[0].numpy()[rows]).statistic for rows in rng.integers(12, size=(2000, 12))
    ]
    expected = np.quantile(drawn, (0.025, 0.975))
    np.testing.assert_allclose(frame[["low", "high"]].to_numpy()[0], expected, atol=0.04)


def test_wrong_shapes_are_refused() -> None:
    expected = message(
        "the oracle's losses have the wrong shape",
        "losses (30, 12), subsets (12, 6)",
        "losses (seeds, queries, subsets), and subsets (subsets, groups)",
        "stack one matrix per oracle seed, its columns in the order of the subsets",
    )
    with pytest.raises(ConfigError, match=expected):
        lds({"m": TRUTH}, GAME, REMOVED)


# --- through the command line

Plant = Callable[..., Path]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "planted"


@pytest.fixture
def plant(run: Path) -> Plant:
    def write(name: str, scores: Tensor, groups: tuple[str, ...] = GROUPS, **changes: Any) -> Path:
        method, seed = name.split("-")[:2]
        shared = {"query_ids": [f"q{i}" for i in range(QUERIES)], "groups": groups, "n_draws": 2}
        record = ScoreRecord.from_json({**RECORD, **changes})
        tables = [
            ScoreTable.from_matrix(
                factor * scores,
                torch.ones_like(scores),
                **shared,
                method=method,
                weighting=weighting,
                seed=int(seed),
                record=record,
            )
            for weighting, factor in (("elbo", 1.0), ("uniform", 0.001))
        ]
        path = run / "scores" / f"{name}.parquet"
        ScoreTable.concat(tables).save(path)
        return path

    return write


def plant_subsets(plant: Plant) -> None:
    for seed in (0, 1):
        plant(f"retrain-{seed}-subsets", GAME + MAGNITUDE * noise(seed, *GAME.shape), JOINT)


def evaluated(run: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[pd.DataFrame, str]:
    assert main(["evaluate", str(run), "--resamples", "100", *options]) == 0
    return SubsetEvaluation.load(run / "evaluation").lds, capsys.readouterr().out


def test_methods_oracle_and_sums_of_retrained_groups_are_compared(
    run: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_subsets(plant)
    plant("good-0", TRUTH + noise(7, QUERIES, 6))
    plant("bad-0", noise(8, QUERIES, 6))
    plant("half-0", TRUTH[:, :3], GROUPS[:3])
    for seed in (0, 1):
        plant(f"retrain-{seed}", TRUTH + noise(seed, QUERIES, 6))
    frame, out = evaluated(run, capsys, "--lds")
    assert list(dict.fromkeys(frame["weighting"])) == ["elbo", "uniform"]
    found = numbers(frame, weighting="elbo", yardstick="other seeds")
    assert set(found) == {"good-0", "bad-0", ADDITIVE, "oracle"}
    assert min(found["good-0"], found[ADDITIVE]) > 0.6 > 0.2 > abs(found["bad-0"])
    assert numbers(frame, weighting="uniform", yardstick="other seeds") == pytest.approx(found)
    assert Evaluation.exists(run / "evaluation")  # the usual comparison, too
    for line in ("LDS: rank correlation over 12 subsets", "another oracle seed", "summed retrainings"):
        assert line in out
    assert "half-0 is left out: half does not score all groups that subsets leave out" in out
    assert max(map(len, out[out.index("LDS:") :].splitlines()[:-1])) <= 100
    assert main(["evaluate", str(run), "--resamples", "20"]) == 0  # subsets are no method there
    assert "subsets" not in capsys.readouterr().out
    assert not (run / "evaluation" / "lds.parquet").exists()  # nothing stale stays


def test_models_without_one_group_each_are_not_needed(
    run: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_subsets(plant)
    frame, _ = evaluated(run, capsys, "--lds")
    assert set(frame["method"]) == {"oracle"}
    plant("good-0", TRUTH)
    frame, _ = evaluated(run, capsys, "--lds")
    assert set(frame["method"]) == {"oracle", "good-0"}
    assert not Evaluation.exists(run / "evaluation")
    own = plant("retrain-4-mine", GAME, JOINT)
    frame, _ = evaluated(run, capsys, "--lds", str(own))
    assert numbers(frame, weighting="elbo") == {"good-0": pytest.approx(1)}


def test_scores_by_an_ensemble_are_a_method_and_no_retrained_groups(
    run: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_subsets(plant)
    path = plant("ensemble-0", TRUTH)
    of_members = Ensemble(counterfactuals={}, members=["w", "x"], unseen={group: [0, 1] for group in GROUPS})
    table = ScoreTable.load(path)
    scoring = ScoringRecord(0, {"draws": 1, "starts": [0]}, "within strata", "fp32")
    replace(table, record=replace(table.record, details=of_members, scoring=scoring)).save(path)
    frame, _ = evaluated(run, capsys, "--lds")
    assert set(frame["method"]) == {"oracle", "ensemble-0"}
    assert not Evaluation.exists(run / "evaluation")
    plant("bad-0", noise(8, QUERIES, 6))
    frame, _ = evaluated(run, capsys, "--lds", "--oracle", str(path))
    assert set(frame["method"]) == {"oracle", "ensemble-0", "bad-0"}


def refused(run: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    capsys.readouterr()
    assert main(["evaluate", str(run), *options]) == 2
    out, err = capsys.readouterr()
    assert out == "" and not (run / "evaluation").exists()
    return [line.partition(":")[2].strip() for line in err.splitlines()]


def test_no_subsets_too_few_and_nothing_to_compare_are_refused(
    run: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant("good-0", TRUTH)
    assert refused(run, capsys, "--lds") == [
        f"{run} has no models of subsets to compare with",
        f"no retrain-SEED-subsets.parquet in {run}/scores",
        "score tables of models retrained on subsets of the groups, one a seed",
        "guda retrain -c ... --subsets 16 --seeds 0,1, then guda attribute -c ... --operator retrain "
        "--subsets 16 --seed 0,1; or name tables after --lds",
    ]
    path = plant("retrain-0-subsets", GAME[:, :2], JOINT[:2])
    assert refused(run, capsys, "--lds") == [
        f"{path} has too few subsets to rank",
        f"2: {', '.join(JOINT[:2])}",
        "at least 3",
        "guda retrain and guda attribute with --subsets 16",
    ]
    path = plant("retrain-0-subsets", GAME, JOINT)
    (run / "scores" / "good-0.parquet").unlink()
    assert refused(run, capsys, "--lds") == [
        "there is nothing to compare with the models of subsets",
        "one seed, retrain-0-subsets, and no score table of all groups",
        "a method, or a second seed",
        "score the same queries with guda attribute",
    ]


def test_a_named_table_that_does_not_fit_is_refused(
    run: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_subsets(plant)
    path = plant("half-0", TRUTH[:, :3], GROUPS[:3])
    first = next(name for name in JOINT if set(name) & set("def"))
    unknown = next(letter for letter in first if letter in "def")
    problem, found, *rest = refused(run, capsys, "--lds", "--scores", str(path))
    assert problem == "half does not score all groups that subsets leave out"
    assert found == f"3 groups; of the subset without {first}: unknown group '{unknown}'"
    assert rest == [
        "a score of every group",
        "score all groups with guda attribute, or leave it out of --scores",
    ]
    path = plant("other-0", TRUTH, full_hash="other")
    assert refused(run, capsys, "--lds", "--scores", str(path)) == [
        f"{path} is about another full model than {run}/scores/retrain-0-subsets.parquet",
        "full_hash other",
        "full_hash ffffffffffffffff",
        "score both alike with guda attribute, or leave one out with --scores or --lds",
    ]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=rf"^{tmp_path}/lds.parquet cannot be read\n"):
        SubsetEvaluation.load(tmp_path)
