"""`guda evaluate` on planted score tables, through the command line."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from guda_lightning.cli.main import main
from guda_lightning.evaluation.comparison import OFFSET
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.functional.ranking import METRICS
from guda_lightning.report.agreement_verdicts import NO_UPPER_BOUND, ONE_SEED
from guda_lightning.report.yardstick_text import method_rows
from guda_lightning.scores import ScoreRecord, ScoreTable, SquaredErrors
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.provenance import Provenance

GROUPS = tuple("abcdef")
QUERIES = 60
RACE = {"models": {}, "delta": 0.05, "rounds": [3, 20], "race_weighting": "uniform"}
SIZES = {group: 10 * (position + 1) for position, group in enumerate(GROUPS)}
RECORD = {
    "query_hash": "q" * 20,
    "full_hash": "f" * 20,
    "schedule_hash": "s" * 20,
    "grouping_hash": "g" * 20,
    "group_sizes": SIZES,
}
Plant = Callable[..., Path]
Guda = Callable[..., str]


def noise(seed: int, queries: int = QUERIES) -> Tensor:
    return torch.randn(queries, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TRUTH = 10 * noise(99)


def table(
    scores: Tensor | Mapping[str, Tensor], method: str = "retrack", seed: int = 0, **changes: Any
) -> ScoreTable:
    """One of 60 queries and 6 groups; scores under both weightings, or by weighting."""
    by_weighting = scores if isinstance(scores, Mapping) else {"elbo": scores, "uniform": scores / 1000}
    columns: dict[str, Any] = {
        "query_ids": [f"q{i}" for i in range(QUERIES)],
        "groups": GROUPS,
    }
    record, kind = changes.get("record", RECORD), changes.pop("kind", None)
    return ScoreTable.concat(
        [
            ScoreTable.from_matrix(
                matrix,
                torch.zeros_like(matrix),
                n_draws=2,
                method=method,
                weighting=weighting,
                seed=seed,
                **{**columns, **changes, "record": ScoreRecord.from_json(record, kind)},
            )
            for weighting, matrix in by_weighting.items()
        ]
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "planted"


@pytest.fixture
def plant(run: Path) -> Plant:
    """Write a score table into the run folder; what is not said is that of `table`."""

    def write(name: str, scores: Tensor | Mapping[str, Tensor], **changes: Any) -> Path:
        path = run / "scores" / f"{name}.parquet"
        method, seed = name.split("-")[:2]
        table(scores, **{"method": method, "seed": int(seed), **changes}).save(path)
        return path

    return write


@pytest.fixture
def guda(capsys: pytest.CaptureFixture[str]) -> Guda:
    """Run a command that must succeed; returns what it printed."""

    def call(*arguments: object) -> str:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return out

    return call


def paired(run: Path, seed: int = 0) -> None:
    """Say which seed the full model of the planted tables was trained with."""
    (run / "full").mkdir(parents=True)
    record = FullRecord(
        full_hash=str(RECORD["full_hash"]),
        schedule_hash="",
        config={"seed_everything": seed},
        steps=1,
        seconds=1.0,
        network_evaluations=1,
    )
    (run / "full" / "record.json").write_text(record.to_json())


def metrics(run: Path, **values: str) -> dict[tuple[str, str], float]:
    """(method, metric) to value, for the weighting elbo on all draws unless said otherwise."""
    frame = Evaluation.load(run / "evaluation").metrics
    seeds = "other seeds" if "oracle" in set(frame["method"]) else "all seeds"
    wanted = {"weighting": "elbo", "noise": "all draws", "yardstick": seeds, **values}
    for column, value in wanted.items():
        frame = frame[frame[column] == value]
    return {(row["method"], row["metric"]): row["value"] for row in frame.to_dict("records")}


# --- what it computes


def test_a_table_agrees_with_itself_perfectly(run: Path, plant: Plant, guda: Guda) -> None:
    plant("retrain-0", TRUTH)
    plant("retrack-0", TRUTH)
    out = guda("evaluate", run, "--resamples", 50)
    best = {("retrack-0", metric): 1.0 for metric in METRICS} | {("retrack-0", "rbo"): 1 - 0.9**6}
    for weighting in ("elbo", "uniform"):
        assert metrics(run, weighting=weighting) == pytest.approx(best)
    magnitudes = Evaluation.load(run / "evaluation").magnitudes
    for quantity, value in (("slope", 1.0), ("offset", 0.0), ("r2", 1.0), ("sign_agreement", 1.0)):
        found = magnitudes[magnitudes["quantity"] == quantity]
        assert len(found) in (4, 6)  # two weightings, and two or three ways to pool
        for column in ("value", "low", "high"):
            np.testing.assert_allclose(found[column], value, atol=1e-9)
    assert re.search(r"^retrack-0 +1\.00 1\.0–1\.0 1\.00 ", out, re.MULTILINE)


def test_random_scores_agree_as_chance_does(run: Path, plant: Plant, guda: Guda) -> None:
    for seed in range(3):
        plant(f"retrain-{seed}", TRUTH + noise(seed))
    plant("random-0", noise(7))
    guda("evaluate", run, "--resamples", 500)
    frame = Evaluation.load(run / "evaluation").metrics
    rows = frame[(frame["method"] == "random-0") & (frame["yardstick"] == "all seeds")]
    assert len(rows) == 2 * len(METRICS)
    half = (rows["high"] - rows["low"]) / 2
    assert (abs(rows["value"] - rows["chance"]) < 2 * half).all()  # four standard errors
    top1 = rows[rows["metric"] == "top1"]
    assert top1["chance"].tolist() == pytest.approx([1 / 6] * 2)
    assert (half < 0.2).all()


def test_agreement_is_what_numpy_and_scipy_say_in_any_order_of_rows(
    run: Path, plant: Plant, guda: Guda
) -> None:
    seeds = [TRUTH + 12 * noise(seed) for seed in range(3)]
    method = TRUTH + 15 * noise(5)
    plant("retrain-0", seeds[0])
    queries, groups = torch.randperm(QUERIES), torch.randperm(6)
    named = {"query_ids": [f"q{i}" for i in queries], "groups": [GROUPS[i] for i in groups]}
    for seed in (1, 2):
        plant(f"retrain-{seed}", seeds[seed][queries][:, groups], **named)
    plant("retrack-0", method.flip(0), query_ids=[f"q{i}" for i in reversed(range(QUERIES))])
    out = guda("evaluate", run, "--resamples", 50)
    oracles, scores = [seed.numpy() for seed in seeds], method.numpy()
    others = [(oracles[1] + oracles[2]) / 2, (oracles[0] + oracles[2]) / 2, (oracles[0] + oracles[1]) / 2]

    def mean_of(agreement: Callable[[Any, Any], float]) -> tuple[float, float]:
        of_method = [agreement(a, b) for other in others for a, b in zip(scores, other, strict=True)]
        of_oracle = [
            agreement(a, b)
            for oracle, other in zip(oracles, others, strict=True)
            for a, b in zip(oracle, other, strict=True)
        ]
        return float(np.mean(of_method)), float(np.mean(of_oracle))

    top1 = mean_of(lambda a, b: a.argmax() == b.argmax())
    rank = mean_of(lambda a, b: spearmanr(a, b).statistic)
    found = metrics(run)
    assert (found["retrack-0", "top1"], found["oracle", "top1"]) == pytest.approx(top1)
    assert (found["retrack-0", "spearman"], found["oracle", "spearman"]) == pytest.approx(rank)
    assert all(0.25 < value < 0.75 for value in top1)  # neither perfect nor chance
    against_all = float(np.mean(scores.argmax(1) == np.mean(oracles, axis=0).argmax(1)))
    assert metrics(run, yardstick="all seeds")["retrack-0", "top1"] == pytest.approx(against_all)
    assert f"top1 against the mean of all 3 seeds: retrack-0 {against_all:.3f}".replace("0.", ".") in out


def test_the_best_method_is_compared_with_every_other_and_the_oracle(
    run: Path, plant: Plant, guda: Guda
) -> None:
    for seed in range(2):
        plant(f"retrain-{seed}", TRUTH + 12 * noise(seed))
    plant("best-0", TRUTH)
    plant("a_bad-0", noise(8))  # before the best one in the alphabet, so that the comparison is turned round
    out = guda("evaluate", run, "--resamples", 200)
    frame = Evaluation.load(run / "evaluation").comparisons
    frame = frame[(frame["weighting"] == "elbo") & (frame["yardstick"] == "other seeds")]
    assert set(zip(frame["first"], frame["second"], strict=True)) == {
        ("a_bad-0", "best-0"),
        ("a_bad-0", "oracle"),
        ("best-0", "oracle"),
    }
    found = metrics(run)
    block = out[out.index("P(best-0 is better)") :].split("\n\n")[0].splitlines()
    assert [line.split()[0] for line in block[1:]] == ["than", "a_bad-0", "oracle"]
    cells = block[2].split()
    assert cells[1:3] == [
        "1.0",
        f"+{found['best-0', 'top1'] - found['a_bad-0', 'top1']:.3f}".replace("0.", "."),
    ]
    (row,) = frame[(frame["first"] == "best-0") & (frame["metric"] == "top1")].to_dict("records")
    assert row["difference"] == pytest.approx(found["best-0", "top1"] - found["oracle", "top1"])


def test_a_weighting_meets_its_own_and_a_foreign_one_meets_all(run: Path, plant: Plant, guda: Guda) -> None:
    plant("retrain-0", {"elbo": TRUTH, "uniform": TRUTH.flip(1)})
    plant("both-0", {"elbo": TRUTH, "uniform": TRUTH.flip(1)})
    plant("half-0", {"uniform": TRUTH.flip(1)})
    without_model = {"query_hash": RECORD["query_hash"], "grouping_hash": RECORD["grouping_hash"]}
    plant("similarity-0", {"cosine": TRUTH}, record=without_model)
    plant("two-0", {"cosine": TRUTH, "dot": -TRUTH})
    guda("evaluate", run, "--resamples", 50)
    elbo, uniform = metrics(run), metrics(run, weighting="uniform")
    cosines = ["similarity-0", "two-0 cosine", "two-0 dot"]
    assert {method for method, _ in elbo} == {"both-0", *cosines}
    assert {method for method, _ in uniform} == {"both-0", "half-0", *cosines}
    assert elbo["both-0", "top1"] == uniform["both-0", "top1"] == uniform["half-0", "top1"] == 1
    assert elbo["similarity-0", "top1"] == 1 > uniform["similarity-0", "top1"]
    assert elbo["two-0 dot", "spearman"] == pytest.approx(-1)


def test_only_the_oracles_groups_count(run: Path, plant: Plant, guda: Guda) -> None:
    chosen = [1, 3, 4]
    plant("retrain-0", TRUTH[:, chosen], groups=[GROUPS[i] for i in chosen])
    method = TRUTH + 10 * noise(3)
    plant("retrack-0", method)
    out = guda("evaluate", run, "--resamples", 50)
    assert out.startswith("60 queries, 3 of 6 groups, 1 oracle seed (0); scores per group; ")
    expected = (method[:, chosen].argmax(1) == TRUTH[:, chosen].argmax(1)).double().mean().item()
    assert metrics(run)["retrack-0", "top1"] == pytest.approx(expected)


def test_the_oracle_alone_tells_its_agreement(run: Path, plant: Plant, guda: Guda) -> None:
    for seed in range(2):
        plant(f"retrain-{seed}", TRUTH + 12 * noise(seed))
    out = guda("evaluate", run, "--resamples", 50)
    found = metrics(run)
    assert {method for method, _ in found} == {"oracle"}
    both = [(TRUTH + 12 * noise(seed)).argmax(1) for seed in range(2)]
    assert found["oracle", "top1"] == pytest.approx((both[0] == both[1]).double().mean().item())
    assert re.search(r"^oracle agreement +\.\d{3} ", out, re.MULTILINE)
    assert " ".join(NO_UPPER_BOUND.split()) in " ".join(out.split())


def test_four_oracle_seeds_tell_how_far_two_of_them_can_be_agreed_with(
    run: Path, plant: Plant, guda: Guda
) -> None:
    for seed in range(4):
        plant(f"retrain-{seed}", TRUTH + 12 * noise(seed))
    out = " ".join(guda("evaluate", run, "--resamples", 50).split())
    pattern = (
        r"top1 against the mean of 2 seeds, where the oracle is the mean of the 2 others: oracle \.(\d{3})"
    )
    shown = [int(number) / 1000 for number in re.findall(pattern, out)]
    assert metrics(run, yardstick="half of the seeds")["oracle", "top1"] == pytest.approx(shown[0], abs=5e-4)
    assert len(shown) == 2  # weightings
    rows = {row.method: row.numbers for row in method_rows(Evaluation.load(run / "evaluation"))}
    assert rows["2 seeds against 2"]["top1"][0] == pytest.approx(shown[1], abs=5e-4)
    assert rows["2 seeds against 2"]["top1"] > rows["oracle agreement"]["top1"]


def test_one_oracle_seed_has_no_agreement_of_its_own(run: Path, plant: Plant, guda: Guda) -> None:
    plant("retrain-4", TRUTH)
    plant("retrack-0", noise(1))
    out = guda("evaluate", run, "--resamples", 50)
    assert "oracle agreement" not in out
    assert ONE_SEED in out
    assert set(Evaluation.load(run / "evaluation").metrics["yardstick"]) == {"all seeds"}


def test_scores_per_sample_are_divided_by_the_sizes_of_the_groups(
    run: Path, plant: Plant, guda: Guda
) -> None:
    paired(run)
    plant("retrain-0", TRUTH)
    plant("retrack-0", TRUTH + 10 * noise(2))
    out = guda("evaluate", run, "--per", "sample", "--resamples", 50)
    sizes = torch.tensor(list(SIZES.values()))
    same = ((TRUTH + 10 * noise(2)) / sizes).argmax(1) == (TRUTH / sizes).argmax(1)
    assert metrics(run)["retrack-0", "top1"] == pytest.approx(same.double().mean().item())
    assert metrics(run, per="group") == {}
    assert "scores per sample" in out


@pytest.mark.parametrize("per", ["group", "sample"])
def test_the_offset_of_another_seeds_start_changes_no_magnitude(
    per: str, run: Path, plant: Plant, guda: Guda
) -> None:
    """Seed 1 scores as seed 0 does but for one number per query, as ELBO(full) of another start gives."""
    paired(run)
    plant("retrack-0", TRUTH / 2 + 10 * noise(2))
    plant("retrain-0", TRUTH)
    guda("evaluate", run, "--per", per, "--resamples", 50)
    alone = Evaluation.load(run / "evaluation").magnitudes
    plant(
        "retrain-1",
        {name: TRUTH * scale + noise(3)[:, :1] for name, scale in (("elbo", 1), ("uniform", 1e-3))},
    )
    guda("evaluate", run, "--per", per, "--resamples", 50)
    both = Evaluation.load(run / "evaluation")
    chosen = both.magnitudes[both.magnitudes["noise"] == "all draws"]
    of_oracle = chosen["method"] == "oracle"
    rest = chosen[~of_oracle].reset_index(drop=True)
    pd.testing.assert_frame_equal(rest, alone.reset_index(drop=True), atol=1e-9)
    assert set(chosen[of_oracle & chosen["quantity"].isin(["slope", "r2"])]["value"].round(9)) == {1.0}
    assert metrics(run)["oracle", "top1"] == 1
    assert OFFSET not in both.record["notes"]


def test_without_the_full_models_seed_the_offset_is_named_and_sizes_are_refused(
    run: Path, plant: Plant, guda: Guda, refused: Callable[..., None]
) -> None:
    paired(run, seed=7)
    plant("retrain-0", TRUTH)
    plant("retrack-0", TRUTH + noise(2))
    refused(
        "--per",
        "sample",
        problem="scores per sample need an oracle of the full model's seed",
        found="oracle seeds 0",
        expected="the full model's seed: other seeds and ensembles add an offset to every group",
        fix="guda retrain and guda attribute for that seed too",
    )
    guda("evaluate", run, "--resamples", 50)
    assert OFFSET in Evaluation.load(run / "evaluation").record["notes"]


@pytest.mark.parametrize(("top", "decided"), [(1, ["top1"]), (3, ["top1", "ndcg@3"])])
def test_a_race_is_judged_by_what_it_decides(
    top: int, decided: list[str], run: Path, plant: Plant, guda: Guda
) -> None:
    for seed in range(2):
        oracle = TRUTH + 8 * noise(seed)
        plant(f"retrain-{seed}", {"elbo": oracle + 50 * noise(9 + seed), "uniform": oracle / 1000})
    plant("guidance-0", TRUTH)
    race = {**RECORD, **RACE, "top": top}
    plant("guidance_race-0", {"uniform": TRUTH / 1000}, record=race)
    out = guda("evaluate", run, "--resamples", 50, "--calibrate", "a,b,c")
    evaluation = Evaluation.load(run / "evaluation")
    found, whole = metrics(run, weighting="uniform"), "guidance-0"
    for metric in METRICS:
        expected = found[whole, metric] if metric in decided else float("nan")
        assert found["guidance_race-0", metric] == pytest.approx(expected, nan_ok=True), metric
        assert np.isfinite(found["oracle", metric]) and np.isfinite(found[whole, metric])
    pairs = evaluation.comparisons
    pairs = pairs[(pairs[["first", "second"]] == "guidance_race-0").any(axis=1)]
    assert set(pairs[pairs["probability"].notna()]["metric"]) == set(decided)
    assert set(evaluation.magnitudes["method"]) == {"guidance-0", "oracle"}
    assert evaluation.calibration is not None and set(evaluation.calibration["method"]) == {"guidance-0"}

    note = (
        f"guidance_race-0 is a race for the top {top} of each query: other groups got no more evaluations "
        f"once they could not lead, so that it is judged by {' and '.join(decided)} alone. Its other ranks, "
        "and the size of its scores, mean nothing: score with attribute/elbo.yaml to compare those."
    )
    assert evaluation.record["notes"][0] == note
    assert note in " ".join(out.split())
    row = next(line for line in out.split("weighting uniform")[1].splitlines() if "race" in line)
    assert len(re.findall(r"(?<= )–(?= |$)", row)) == len(METRICS) - len(decided)
    text = " ".join(out.split())
    said = [
        re.search(rf"{name} \(weighting uniform\) (.*? worse in top1){end}", text)
        for name, end in (("guidance-0", "; "), ("guidance_race-0", r"\."))  # the race has no size
    ]
    assert said[0] and said[1] and said[0][1] == said[1][1]


def test_a_race_for_whole_groups_says_nothing_of_scores_per_sample(
    run: Path, plant: Plant, guda: Guda
) -> None:
    paired(run)
    for seed in range(2):
        plant(f"retrain-{seed}", TRUTH + 8 * noise(seed))
    race = {**RECORD, **RACE, "top": 1}
    plant("guidance_race-0", {"uniform": TRUTH / 1000}, record=race)
    out = guda("evaluate", run, "--resamples", 50, "--per", "sample")
    note = "guidance_race-0 is left out: a race finds the groups that lead as a whole, not per sample"
    assert note in " ".join(out.split())
    assert set(Evaluation.load(run / "evaluation").metrics["method"]) == {"oracle"}


def test_the_oracle_is_no_method(run: Path, plant: Plant, guda: Guda, refused: Callable[..., None]) -> None:
    drawn = {"seed": 0, "plan": {"draws": 1, "starts": [0]}, "stderr": "", "precision": "fp32"}
    models = {**RECORD, **drawn, "counterfactuals": {"a": "hash of a"}}
    oracle = plant("retrain-0", TRUTH, record=models)
    again = plant("retrain-0-again", TRUTH, record=models)
    plant("retrack-0", noise(1))
    refused(
        "--scores",
        again,
        problem=f"{again} cannot be compared with {oracle}",
        found="scores of the same models",
        expected="counterfactuals of a method, and retrained ones",
        fix="leave it out of --scores: the oracle's agreement with itself is always printed",
    )
    out = guda("evaluate", run, "--resamples", 50)
    assert {method for method, _ in metrics(run)} == {"retrack-0"}
    assert "retrain-0-again is left out: it is the oracle itself" in out


def test_a_planted_line_is_found_and_tested_on_other_groups(run: Path, plant: Plant, guda: Guda) -> None:
    plant("retrain-0", {"elbo": TRUTH, "uniform": TRUTH})
    plant("exact-0", {"elbo": (TRUTH - 3) / 2, "uniform": TRUTH})
    noisy = TRUTH + 10 * noise(4)
    plant("noisy-0", noisy)
    out = guda("evaluate", run, "--resamples", 50, "--calibrate", "b, d")
    frame = Evaluation.load(run / "evaluation").calibration
    assert frame["method"].tolist() == ["exact-0", "noisy-0"] * 2  # the best on the calibration groups first
    row = frame[frame["weighting"] == "elbo"].iloc[0]
    assert (row["scale"], row["offset"], row["r2"]) == pytest.approx((2, 3, 1))
    assert row["error"] == pytest.approx(0, abs=1e-9)
    others = TRUTH[:, [0, 2, 4, 5]]
    assert row["uncalibrated_error"] == pytest.approx(
        ((others - 3) / 2 - others).square().mean().sqrt().item()
    )
    assert "fitted on b, d, tested on the other 4 groups" in out
    assert frame["preferred"].tolist() == [True, False] * 2
    found = float(np.corrcoef(noisy[:, [1, 3]].flatten(), TRUTH[:, [1, 3]].flatten())[0, 1] ** 2)
    assert frame["fitted_r2"].tolist() == pytest.approx([1, found] * 2)
    choice = "to choose on b, d, whatever the other groups say: exact-0 (R² 1.00 there), before noisy-0"
    assert f"{choice} (R² .{found * 1000:.0f})" in out
    guda("evaluate", run, "--resamples", 50)
    assert not (run / "evaluation" / "calibration.parquet").exists()  # it belonged to the run before


def test_what_runs_against_the_oracle_on_the_calibration_groups_is_not_preferred(
    run: Path, plant: Plant, guda: Guda
) -> None:
    plant("retrain-0", TRUTH)
    plant("opposite-0", -TRUTH)
    plant("worse-0", -TRUTH - 10 * noise(4))
    out = guda("evaluate", run, "--resamples", 50, "--calibrate", "b,d")
    assert not Evaluation.load(run / "evaluation").calibration["preferred"].any()
    assert "whatever the other groups say: none, the scores of all run against the oracle" in out


# --- which tables


def test_only_tables_about_the_same_queries_are_compared(run: Path, plant: Plant, guda: Guda) -> None:
    plant("retrain-0", TRUTH)
    plant("retrain-0-mine", noise(1), record={**RECORD, "query_hash": "mine"})
    plant("retrack-0-mine", noise(2), record={**RECORD, "query_hash": "mine"})
    plant("retrack-0", noise(3))
    guda("evaluate", run, "--resamples", 50)
    assert {method for method, _ in metrics(run)} == {"retrack-0"}
    guda("evaluate", run, "--resamples", 50, "--oracle", run / "scores" / "retrain-0-mine.parquet")
    assert {method for method, _ in metrics(run)} == {"retrack-0-mine"}


def test_a_table_that_does_not_fit_is_left_out_aloud_unless_it_was_named(
    run: Path, plant: Plant, guda: Guda, capsys: pytest.CaptureFixture[str]
) -> None:
    plant("retrain-0", TRUTH)
    plant("retrack-0", noise(1))
    stale = plant("old-0", noise(2), record={**RECORD, "full_hash": "another"})
    out = guda("evaluate", run, "--resamples", 50)
    reason = (
        "old-0 is left out: scores/old-0.parquet is about another full model than scores/retrain-0.parquet"
    )
    assert f"{reason} (full_hash another)" in out.replace("\n  ", " ")
    assert {method for method, _ in metrics(run)} == {"retrack-0"}
    assert main(["evaluate", str(run), "--scores", str(stale)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {stale} is about another full model than ")


def test_named_tables_may_lie_anywhere(run: Path, plant: Plant, guda: Guda, tmp_path: Path) -> None:
    plant("retrain-0", TRUTH)
    plant("retrack-0", noise(1))
    mine = tmp_path / "mine.parquet"
    table(TRUTH, "mine").save(mine)
    guda("evaluate", run, "--scores", mine, run / "scores" / "retrack-0.parquet", "--resamples", 50)
    found = metrics(run)
    assert {method for method, _ in found} == {"mine", "retrack-0"}
    assert found["mine", "top1"] == 1


# --- what it writes


def test_the_files_say_what_made_them_and_are_the_same_again(run: Path, plant: Plant, guda: Guda) -> None:
    oracle, method = plant("retrain-0", TRUTH), plant("retrack-0", noise(1))
    (run / "evaluation").mkdir()
    (run / "evaluation" / "left.parquet").write_text("from an earlier version")
    first = guda("evaluate", run, "--resamples", 60)
    written = {path.name: path.read_bytes() for path in (run / "evaluation").iterdir()}
    seal = written.pop("seal.json")
    assert set(written) == {"metrics.parquet", "comparisons.parquet", "magnitudes.parquet"}
    assert guda("evaluate", run, "--resamples", 60) == first
    again = {path.name: path.read_bytes() for path in (run / "evaluation").iterdir()}
    assert again == {**written, "seal.json": seal}
    for name in written:
        schema = pq.read_schema(run / "evaluation" / name)
        assert schema.names[:3] == ["weighting", "noise", "per"]
        record = json.loads(schema.metadata[b"guda_lightning"])["record"]
        assert record["methods"] == {"retrack-0": ScoreTable.load(method).record.hash}
        assert record["oracles"] == {"retrain-0": ScoreTable.load(oracle).record.hash}
        assert (record["resamples"], record["level"], record["seed"], record["per"]) == (60, 0.95, 0, "group")
        assert record["query_hash"] == RECORD["query_hash"]
    assert pd.read_parquet(run / "evaluation" / "metrics.parquet").columns.tolist() == [
        *("weighting", "noise", "per", "method", "yardstick", "metric", "value", "low", "high", "chance")
    ]
    assert first.endswith(f"evaluate: {run}/evaluation written; `guda report {run}` shows it on the page\n")


def test_every_line_fits_a_terminal_whatever_the_names(run: Path, plant: Plant, guda: Guda) -> None:
    for seed in range(6):  # whose names are as long as those of many
        plant(f"retrain-{10**12 + seed}", TRUTH + 12 * noise(seed))
    for number in range(3):
        long = "a very long name " * 8
        table(-1e-9 * TRUTH + 1e-8 * noise(number)).save(run / "scores" / f"\x1b[31m{long}{number}.parquet")
    table({"cosine": -TRUTH}, "bad").save(run / "scores" / "bad.parquet")
    out = guda("evaluate", run, "--resamples", 50, "--calibrate", "a,b,c")
    assert max(map(len, out.splitlines()[:-1])) <= 100  # the last holds the folder's name
    assert "\x1b" not in out
    assert re.search(r"^bad .* −\.\d{3}$", out, re.MULTILINE)  # below zero too


# --- shared noise


def score_on_noise(folder: Path, finished: Path, names: Mapping[str, float]) -> None:
    """Plant tables of tiny groups whose squared errors share one noise and have a signal of their own.

    Args:
        folder: Run folder.
        finished: A run folder whose noise schedule to take.
        names: Name of a table to the weight of what its groups share with the other tables.
    """
    from guda_lightning.diffusion import open_schedule
    from guda_lightning.scores import Scoring, score_table
    from guda_lightning.scores.stored import error_identity, error_path

    shutil.copytree(finished / "full", folder / "full")
    schedule, scoring = open_schedule(folder / "full"), Scoring(strata=5, draws=2)
    ids = tuple(f"q{i}" for i in range(QUERIES))
    timesteps = scoring.plan(schedule).draw(scoring.seed, ids)
    # Nothing but noise, which the models of a group share: no group is any better than another.
    shared = torch.rand(QUERIES, 6, *timesteps.shape[1:], dtype=torch.float64)
    for name, common in names.items():
        method, seed = name.split("-")
        own = torch.rand(QUERIES, 6, *timesteps.shape[1:], dtype=torch.float64)
        measured = {None: torch.ones_like(own[:, 0])}
        for column, group in enumerate(GROUPS):
            measured[group] = 2 + common * shared[:, column] + (1 - common) * own[:, column]
        counterfactuals = {group: f"{name} without {group}" for group in GROUPS}
        record = replace(
            ScoreRecord.from_json({**RECORD, "counterfactuals": counterfactuals}),
            provenance=Provenance("f" * 20, schedule.hash, "g" * 20),
            scoring=scoring.record(schedule),
        )
        errors = {}
        for group, values in measured.items():
            model = "f" * 20 if group is None else counterfactuals[group]
            identity = error_identity(record, model)
            errors[group] = SquaredErrors(ids, values, timesteps, identity)
            errors[group].save(error_path(folder / "scores" / "errors", identity))
        full = errors.pop(None)
        planted = score_table(full, errors, schedule, scoring, method=method, seed=int(seed), record=record)
        planted.save(folder / "scores" / f"{name}.parquet")


def test_agreement_that_noise_makes_is_gone_on_disjoint_draws(
    run: Path, finished_run: Path, guda: Guda
) -> None:
    score_on_noise(run, finished_run, {"retrain-0": 0.9, "retrain-1": 0.9, "retrack-0": 0.9, "other-0": 0.0})
    table({"cosine": noise(1)}, "similarity").save(run / "scores" / "similarity-0.parquet")
    out = guda("evaluate", run, "--resamples", 100)
    every, shared, disjoint = (
        metrics(run, weighting="uniform", noise=name)
        for name in ("all draws", "shared draw", "disjoint draws")
    )
    error = (1 / 6 * 5 / 6 / QUERIES) ** 0.5
    for name in ("retrack-0", "oracle"):
        assert every[name, "top1"] > 0.6 and shared[name, "top1"] > 0.6
        assert disjoint[name, "top1"] < 1 / 6 + 4 * error
    assert max(part["other-0", "top1"] for part in (every, shared, disjoint)) < 1 / 6 + 4 * error
    # A table without draws stands on both sides as it is, but the oracle that it meets is another.
    assert {method for method, _ in disjoint} == {"retrack-0", "oracle", "other-0", "similarity-0"}
    block = out[out.index("weighting uniform") :]
    block = block[block.index("what shared noise hides") :].split("\n\n")[0]
    cells = re.search(r"^retrack-0 +(\S+) +(\S+) +(\S+) ", block, re.MULTILINE)
    assert cells is not None
    values = shared["retrack-0", "top1"], disjoint["retrack-0", "top1"]
    expected = [f"{values[0]:.3f}", f"{values[1]:.3f}", f"+{values[0] - values[1]:.3f}"]
    assert list(cells.groups()) == [text.replace("0.", ".") for text in expected]


def test_a_finished_run_is_compared_draw_by_draw(finished_run: Path, guda: Guda) -> None:
    """Both oracle seeds are the same models: perfect on shared draws, and only on them."""
    scores = finished_run / "scores"
    original = ScoreTable.load(scores / "retrack-0.parquet")
    for seed in (0, 1):
        columns = original.to_pandas().assign(method="retrain", seed=seed)
        copied = original.table.from_pandas(columns, schema=original.table.schema, preserve_index=False)
        ScoreTable(copied, original.record).save(scores / f"retrain-{seed}.parquet")
    out = guda("evaluate", finished_run, "--per", "sample", "--resamples", 50)
    for noise_kind in ("all draws", "shared draw"):
        found = metrics(finished_run, noise=noise_kind)
        assert found["oracle", "top1"] == 1
    assert metrics(finished_run, noise="disjoint draws")["oracle", "top1"] < 1
    assert "retrack-0 is left out: it is the oracle itself" in out
    assert "what shared noise hides" in out
    assert "disjoint noise is left out" not in out


@pytest.mark.parametrize("what", ["errors", "schedule", "draws", "noise"])
def test_why_disjoint_noise_is_left_out_is_said(what: str, run: Path, finished_run: Path, guda: Guda) -> None:
    score_on_noise(run, finished_run, {"retrain-0": 0.9, "retrack-0": 0.9})
    path = run / "scores" / "retrack-0.parquet"
    planted = ScoreTable.load(path)
    plan = planted.record.scoring.plan
    if what == "errors":
        shutil.rmtree(run / "scores" / "errors")
        expected = r"scores/errors/\w+\.safetensors cannot be read \(no such file\)"
    elif what == "schedule":
        shutil.rmtree(run / "full")
        expected = r"full/scheduler/scheduler_config\.json cannot be read \(No such file or directory\)"
    elif what == "noise":
        measured(planted, seed=1).save(path)
        expected = (
            r"the tables do not share noise \(retrack-0 and retrain-0 differ in draws, timesteps, seed or "
            r"what keys it\)"
        )
    else:
        for name in ("retrain-0", "retrack-0"):
            loaded = ScoreTable.load(run / "scores" / f"{name}.parquet")
            measured(loaded, plan={**plan, "draws": 1}).save(run / "scores" / f"{name}.parquet")
        expected = r"it needs two draws and two strata \(scored with draws 1, strata 5\)"
    out = guda("evaluate", run, "--resamples", 50)
    flat = " ".join(out.split())
    assert re.search(rf"Agreement on disjoint noise is left out: {expected}", flat)
    assert "what shared noise hides" not in out
    assert set(Evaluation.load(run / "evaluation").metrics["noise"]) == {"all draws"}


def measured(table: ScoreTable, **changes: Any) -> ScoreTable:
    """The table as if it had been scored on other noise."""
    assert table.record.scoring is not None
    scoring = replace(table.record.scoring, **changes)
    return replace(table, record=replace(table.record, scoring=scoring))


# --- bad input


@pytest.fixture
def refused(run: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Run a command that must fail with exactly this message and write nothing."""

    def check(*arguments: object, problem: str, found: object, expected: object, fix: str) -> None:
        capsys.readouterr()
        assert main(["evaluate", str(run), *map(str, arguments)]) == 2
        out, err = capsys.readouterr()
        assert err == f"error: {problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}\n"
        assert out == ""
        assert not (run / "evaluation").exists()

    return check


NO_ORACLE = {
    "expected": "score tables of models retrained without each group, one a seed",
    "fix": "guda retrain -c ... --seeds 0,1,2, then guda attribute -c ... --operator retrain "
    "--seed 0,1,2; or name tables with --oracle; without any, guda evaluate --yardstick digits "
    "measures the method on an oracle that comes along",
}
ALIKE = "score both alike with guda attribute, or leave one out with --scores or --oracle"


def test_a_run_without_an_oracle(run: Path, plant: Plant, refused: Callable[..., None]) -> None:
    refused(
        problem=f"{run} is no run folder",
        found=f"nothing at {run}",
        expected="a folder that the stages wrote, with full, store or scores in it",
        fix="`guda runs` lists those below this folder",
    )
    plant("retrack-0", TRUTH)
    plant("retrain-0-mine", TRUTH)  # about other queries than the run's
    found = f"no retrain-SEED.parquet in {run}/scores"
    refused(problem=f"{run} has no oracle to compare with", found=found, **NO_ORACLE)


def test_a_table_that_does_not_exist(run: Path, plant: Plant, refused: Callable[..., None]) -> None:
    plant("retrain-0", TRUTH)
    missing = run / "scores" / "nope.parquet"
    for option in ("--scores", "--oracle"):
        refused(
            option,
            missing,
            problem=f"there is no score table {missing}",
            found=f"nothing at {missing}",
            expected="a .parquet file that guda attribute wrote: retrain-0",
            fix="run `guda attribute`, or correct the path",
        )


@pytest.mark.parametrize(
    ("key", "what"),
    [("query_hash", "other queries"), ("full_hash", "another full model"), ("grouping_hash", "other groups")],
)
def test_a_table_about_something_else(
    key: str, what: str, run: Path, plant: Plant, refused: Callable[..., None]
) -> None:
    oracle = plant("retrain-0", TRUTH)
    other = plant("retrain-1", TRUTH, record={**RECORD, key: "z" * 20})
    refused(
        problem=f"{other} is about {what} than {oracle}",
        found=f"{key} {'z' * 16}",
        expected=f"{key} {RECORD[key][:16]}",
        fix=ALIKE,
    )


def test_a_table_that_lacks_a_group_or_a_query(run: Path, plant: Plant, refused: Callable[..., None]) -> None:
    oracle = plant("retrain-0", TRUTH)
    fewer = plant("retrack-0", TRUTH[:, :4], groups=GROUPS[:4])
    refused(
        "--scores",
        fewer,
        problem=f"{fewer} lacks the group 'e' of {oracle}",
        found="4 groups",
        expected="the 6 groups of the oracle",
        fix=ALIKE,
    )
    ids = [f"q{i}" for i in range(QUERIES)]
    fewer = plant("retrack-0", TRUTH[1:], query_ids=ids[1:])
    refused(
        "--scores",
        fewer,
        problem=f"{fewer} lacks the query 'q0' of {oracle}",
        found="59 queries",
        expected="the 60 queries of the oracle",
        fix=ALIKE,
    )
    more = plant("retrack-0", torch.cat([TRUTH, TRUTH[:1]]), query_ids=[*ids, "more"])
    refused(
        "--scores",
        more,
        problem=f"{more} adds the query 'more' to those of {oracle}",
        found="61 queries",
        expected="the 60 queries of the oracle",
        fix=ALIKE,
    )


def test_oracle_seeds_that_do_not_score_the_same(
    run: Path, plant: Plant, refused: Callable[..., None]
) -> None:
    first = plant("retrain-0", TRUTH[:, :4], groups=GROUPS[:4])
    second = plant("retrain-1", TRUTH)
    refused(
        problem=f"{second} and {first} do not score the same",
        found="6 groups under elbo, uniform",
        expected="4 groups under elbo, uniform",
        fix="score all oracle seeds alike with guda attribute, or name those that fit with --oracle",
    )


def ensemble(**details: object) -> dict[str, object]:
    """The record of scores by an ensemble of four members, two of which never saw the one group there is."""
    drawn = {"seed": 0, "plan": {"draws": 1, "starts": [0]}, "stderr": "", "precision": "fp32"}
    entries = {"counterfactuals": {"a": "mean"}, "members": list("wxyz"), "unseen": {"a": [0, 1]}, **details}
    return {**RECORD, **drawn, **entries}


def test_oracle_seeds_that_were_not_made_alike(run: Path, plant: Plant, refused: Callable[..., None]) -> None:
    retrained = plant("retrain-0", TRUTH)
    members = plant("ensemble-0", TRUTH, record=ensemble(), kind="ensemble")
    fix = "score all oracle seeds alike with guda attribute, or name those that fit with --oracle"
    expected = "oracle seeds that differ in nothing but their seed"
    for other, found in (
        (retrained, "kind custom and ensemble"),
        (
            plant("ensemble-1", TRUTH, record=ensemble(hparams_hash="h"), kind="ensemble"),
            "hparams_hash h and None",
        ),
        (
            plant("ensemble-2", TRUTH, record=ensemble(members=list("uvwxyz")), kind="ensemble"),
            "members 6 and 4",
        ),
        (
            plant("ensemble-3", TRUTH, record=ensemble(unseen={"a": [0]}), kind="ensemble"),
            "leave_one_out True and False",
        ),
    ):
        refused(
            *("--oracle", members, other),
            problem=f"{other} and {members} were not made alike",
            found=found,
            expected=expected,
            fix=fix,
        )


def test_scores_by_an_ensemble_are_no_yardstick_per_sample(
    run: Path, plant: Plant, refused: Callable[..., None]
) -> None:
    plant("ensemble-0", TRUTH, record=ensemble(), kind="ensemble")
    plant("retrack-0", TRUTH)
    paired(run)
    refused(
        *("--per", "sample"),
        problem="scores per sample need an oracle of the full model's seed",
        found="oracle seeds 0",
        expected="the full model's seed: other seeds and ensembles add an offset to every group",
        fix="guda retrain and guda attribute for that seed too",
    )


def test_a_member_of_the_oracle_is_no_method(run: Path, plant: Plant, guda: Guda) -> None:
    plant("ensemble-0", TRUTH, record=ensemble(), kind="ensemble")
    both = ensemble(counterfactuals={"a": "mean of others"}, members=list("uvwx"))
    plant("ensemble-0-more", TRUTH, record=both, kind="ensemble")
    plant("ensemble-0-other", TRUTH, record=ensemble(members=list("abcd")), kind="ensemble")
    plant("retrack-0", noise(1))
    out = guda("evaluate", run, "--resamples", 50)
    assert "ensemble-0-more is left out: it is the oracle itself" in out
    assert {method for method, _ in metrics(run)} == {"retrack-0", "ensemble-0-other"}


def test_one_oracle_seed_twice(run: Path, plant: Plant, refused: Callable[..., None]) -> None:
    first, second = plant("retrain-0", TRUTH), plant("retrain-1", noise(1), seed=0)
    refused(
        "--oracle",
        first,
        second,
        problem="two oracle tables are of seed 0",
        found=f"{first} and {second}",
        expected="one table a seed: the same seed twice would agree with itself",
        fix="name each seed once with --oracle",
    )


def test_a_table_of_another_method_under_the_name_of_the_oracle(
    run: Path, plant: Plant, refused: Callable[..., None]
) -> None:
    plant("retrain-0", TRUTH)
    path = plant("retrack-0", noise(1)).rename(run / "scores" / "retrain-1.parquet")
    refused(
        problem=f"{path} is another table than its name says",
        found="scores by retrack, seed 0",
        expected="scores by retrain, seed 1",
        fix="call it retrack-0.parquet, or name the oracle's tables with --oracle",
    )


def test_nothing_to_compare(run: Path, plant: Plant, refused: Callable[..., None]) -> None:
    plant("retrain-0", TRUTH)
    refused(
        problem="there is nothing to compare with the oracle",
        found="one oracle seed, retrain-0, and no score table of a method",
        expected="a method, or a second oracle seed",
        fix="run guda unlearn and guda attribute, or guda retrain -c ... --seeds 0,1",
    )


@pytest.mark.parametrize(("kind", "kinds"), [("query", "queries"), ("group", "groups")])
def test_one_query_or_group(
    kind: str, kinds: str, run: Path, plant: Plant, refused: Callable[..., None]
) -> None:
    one = {"groups": ["a"]} if kind == "group" else {"query_ids": ["q0"]}
    for name in ("retrain-0", "retrack-0"):
        plant(name, TRUTH[:, :1] if kind == "group" else TRUTH[:1], **one)
    refused(
        problem=f"one {kind} is too few to compare rankings",
        found=f"the oracle has only the {kind} '{'a' if kind == 'group' else 'q0'}'",
        expected=f"at least two {kinds}",
        fix=f"score more {kinds} with guda attribute",
    )


def test_a_table_of_two_seeds(run: Path, plant: Plant, refused: Callable[..., None]) -> None:
    plant("retrain-0", TRUTH)
    joined = run / "scores" / "joined.parquet"
    ScoreTable.concat([table(TRUTH, seed=0), table(TRUTH, seed=1)]).save(joined)
    refused(
        problem=f"{joined} is no table of one method and one seed",
        found="methods retrack; seeds 0, 1",
        expected="one of each, as guda attribute writes it",
        fix="write one file for each with ScoreTable.select and save",
    )


def test_two_tables_of_one_name(
    run: Path, plant: Plant, refused: Callable[..., None], tmp_path: Path
) -> None:
    alike = {"expected": "files of different names, which name the methods", "fix": "rename one of them"}
    for name in ("retrain-0", "retrack-0"):
        planted, other = plant(name, TRUTH), tmp_path / f"{name}.parquet"
        shutil.copyfile(planted, other)
        more = [planted] if name == "retrack-0" else []
        problem = f"two score tables have the name {name}"
        refused("--scores", *more, other, problem=problem, found=f"{planted} and {other}", **alike)


def test_one_table_may_stand_on_both_sides(run: Path, plant: Plant, guda: Guda) -> None:
    path = plant("retrain-0", TRUTH)
    guda("evaluate", run, "--scores", path, path, "--resamples", 50)
    assert metrics(run)["retrain-0", "top1"] == 1


def test_a_method_with_the_oracles_name(run: Path, plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    plant("retrain-0", TRUTH)
    table(TRUTH, "mine").save(run / "scores" / "oracle.parquet")
    assert main(["evaluate", str(run)]) == 2
    assert capsys.readouterr().err.startswith("error: invalid method name: reserved for the oracle\n")


def test_scores_per_sample_beside_scores_per_group(
    run: Path, plant: Plant, refused: Callable[..., None], guda: Guda
) -> None:
    paired(run)
    plant("retrain-0", TRUTH)
    table(TRUTH).per_sample().save(run / "scores" / "mine.parquet")
    refused(
        problem="the scores of mine are per sample",
        found="a table that per_sample() gave",
        expected="scores per group",
        fix="pass --per sample, or leave it out of --scores",
    )
    guda("evaluate", run, "--per", "sample", "--resamples", 50)
    assert metrics(run)["mine", "top1"] == 1


def test_sizes_that_nobody_wrote(run: Path, plant: Plant, refused: Callable[..., None]) -> None:
    without = {name: value for name, value in RECORD.items() if name != "group_sizes"}
    for name in ("retrain-0", "retrack-0"):
        plant(name, TRUTH, record=without)
    paired(run)
    refused(
        "--per",
        "sample",
        problem="the record of the scores does not say how large the groups are",
        found="no group_sizes",
        expected="the number of samples in each group",
        fix="score again with guda attribute, and divide before tables are joined",
    )


def test_groups_to_calibrate_on_that_do_not_exist(
    run: Path, plant: Plant, refused: Callable[..., None]
) -> None:
    plant("retrain-0", TRUTH)
    plant("retrack-0", TRUTH)
    refused(
        "--calibrate",
        "b,z",
        problem="unknown group 'z'",
        found="'z'",
        expected="one of 6 groups: 'a', 'b', 'c', 'd', 'e', …",
        fix="correct the name",
    )


def test_a_calibration_without_groups_to_test_it_on_is_refused_before_any_work(
    run: Path, plant: Plant, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant("retrain-0", TRUTH)
    plant("retrack-0", TRUTH)
    monkeypatch.delattr("guda_lightning.evaluation.comparison.agreement")  # which would cost a bootstrap
    refused(
        "--calibrate",
        "a,b,c,d,e,f",
        problem="no group is left to test the calibration on",
        found="all 6 groups used for calibration",
        expected="at least one group held out",
        fix="calibrate on fewer groups",
    )


def test_resamples_out_of_range(run: Path, plant: Plant, refused: Callable[..., None]) -> None:
    plant("retrain-0", TRUTH)
    plant("retrack-0", TRUTH)
    refused(
        "--resamples",
        0,
        problem="resamples is out of range",
        found=0,
        expected="resamples >= 1",
        fix="take the usual 2000",
    )


def test_wandb_without_the_report_extra(
    run: Path, plant: Plant, refused: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from guda_lightning.report import charts

    plant("retrain-0", TRUTH)
    plant("retrack-0", TRUTH)
    monkeypatch.setattr(charts, "find_spec", lambda module: None)
    refused(
        "--wandb",
        "guda",
        problem="altair is not installed",
        found="no package named altair",
        expected="the optional dependencies of the extra 'report'",
        fix='pip install "guda-lightning[report]"',
    )


def test_a_script_reads_what_was_found_as_json(
    run: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        plant(f"retrain-{seed}", TRUTH + noise(seed), method="retrain")
    plant("retrack-0", TRUTH)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--resamples", "20", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert {"metrics", "comparisons", "magnitudes"} <= found.keys()
    rows = [row for row in found["metrics"] if row["metric"] == "top1" and row["method"] == "retrack-0"]
    assert all(0 <= row["value"] <= 1 for row in rows) and rows
    assert "evaluate: " in err
