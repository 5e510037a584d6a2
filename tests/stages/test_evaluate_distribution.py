"""`guda evaluate --distribution` on three tiny trainings, through the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from guda_lightning.cli.main import main
from guda_lightning.errors import StoreError
from guda_lightning.evaluation.distribution import DistributionEvaluation
from guda_lightning.report.distribution_section import distribution_section
from guda_lightning.scores import ScoreTable
from guda_lightning.stages.distribution import evaluate_distribution
from guda_lightning.storage.runs import RunFolder
from toys import edit_json, message
from wandb_files import runs

CONF = Path(__file__).parent.parent / "conf"
GROUPS, SEEDS = ("3", "7"), (0, 1, 2)


def options(folder: Path, seed: int) -> list[str]:
    common = ["-c", f"{CONF}/digits.yaml", "--run", str(folder), "--trainer.max_steps", "2"]
    return [*common, "--seed_everything", str(seed), "--model.init_args.seed", str(seed)]


def make(root: Path) -> None:
    """Three trainings, each with its own models without 3, without 7 and without both."""
    subsets = root / "subsets.txt"
    lines = [",".join(str(name) for name in range(10) if str(name) not in out) for out in ("3", "7", "37")]
    subsets.write_text("\n".join(lines))
    for seed in SEEDS:
        folder = root / f"tiny-{seed}"
        common = options(folder, seed)
        assert main(["fit", *common]) == 0
        if seed == 0:
            assert main(["sample", *common, "-c", f"{CONF}/sample.yaml"]) == 0
        assert main(["retrain", *common, "--subsets", str(subsets), "--seeds", str(seed)]) == 0
        scored = ["attribute", *common, "-c", f"{CONF}/attribute.yaml", "--operator", "retrain"]
        scored += [
            "--seed",
            str(seed),
            *([] if seed == 0 else ["--queries", str(root / "tiny-0" / "queries")]),
        ]
        assert main([*scored, "--groups", ",".join(GROUPS)]) == 0
        assert main([*scored, "--subsets", str(subsets)]) == 0


@pytest.fixture
def trainings(shared: Callable[[str, Callable[[Path], None]], Path], tmp_path: Path) -> list[Path]:
    root = shared("trainings", make)
    return [Path(shutil.copytree(root / f"tiny-{seed}", tmp_path / f"tiny-{seed}")) for seed in SEEDS]


def evaluate(folders: list[Path], *more: str) -> int:
    return main(["evaluate", str(folders[0]), "--distribution", *map(str, folders[1:]), *more])


def test_three_trainings_say_which_group_is_unstable(
    trainings: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(trainings, "--wandb", "demo", "--resamples", "20") == 0
    out = capsys.readouterr().out
    found = DistributionEvaluation.load(trainings[0] / "distribution.parquet")
    assert found.record["seeds"] == {"retrain": {group: list(SEEDS) for group in GROUPS}}
    assert found.record["full_seeds"] == list(SEEDS)
    assert {row["method"] for row in found.record["lds"]} == {"retrain"}
    for weighting in found.record["weightings"]:  # the mean is that of the scores that each training has
        scores = torch.stack(
            [ScoreTable.load(path).select(weighting=weighting).matrix() for path in map(_single, trainings)]
        )
        frame = found.differences
        rows = frame[(frame["delta"] == "mean") & (frame["weighting"] == weighting) & frame["query"].notna()]
        for column, group in enumerate(GROUPS):
            means = torch.tensor(rows[rows["group"] == group]["value"].to_numpy())
            torch.testing.assert_close(means, scores.mean(dim=0)[:, column])
    assert "needs 3 seeds" not in out and "Distributional LDS" in out
    logged = runs(trainings[0])["distribution"]
    assert logged.about == ("tiny-0", "evaluate", "distribution")
    assert logged.table("distribution/table")[0][0] == "group"
    assert main(["report", str(trainings[0])]) == 0
    page = (trainings[0] / "report" / "index.html").read_text("utf-8")
    assert 'id="distribution"' in page and "Which group makes the model unstable" in page
    # another page shows it no more
    found.save(trainings[1] / "distribution.parquet")
    assert main(["report", str(trainings[1])]) == 0
    assert 'id="distribution"' not in (trainings[1] / "report" / "index.html").read_text("utf-8")


def _single(folder: Path) -> Path:
    (path,) = [path for path in folder.glob("scores/*.parquet") if not path.stem.endswith("subsets")]
    return path


def test_one_training_says_means_alone(trainings: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(trainings[:1]) == 0
    out = capsys.readouterr().out
    assert out.count("needs 3 seeds") == 6 and "±" not in out.split("retrain ", 1)[1].split("\n\n")[0]
    found = DistributionEvaluation.load(trainings[0] / "distribution.parquet")
    assert set(found.differences["delta"]) == {"mean"}


def change(path: Path, **fields: Any) -> None:
    """Give a table another record."""
    table = ScoreTable.load(path)
    replace(table, record=replace(table.record, **fields)).save(path)


def test_a_table_that_was_scored_again_makes_the_section_stale(trainings: list[Path]) -> None:
    first, second = trainings[:2]
    assert evaluate(trainings) == 0
    own, other = ScoreTable.load(_single(first)), ScoreTable.load(_single(second))
    run = RunFolder(first)
    assert distribution_section(run, own) is not None
    assert distribution_section(run, replace(own, record=replace(own.record, provenance=None))) is None
    regrouped = replace(own.record.provenance, grouping_hash="0" * 64)
    assert distribution_section(run, replace(own, record=replace(own.record, provenance=regrouped))) is None
    change(_single(second), scoring=replace(other.record.scoring, seed=7))
    assert distribution_section(run, own) is None
    _single(second).unlink()
    assert distribution_section(run, own) is not None


def test_tables_that_were_made_otherwise_are_left_out(trainings: list[Path]) -> None:
    """One that was scored otherwise, and one of models with other hyper-parameters, beside one that fits."""
    first, second, third = trainings
    change(
        _single(second), scoring=replace(ScoreTable.load_record(_single(second)).scoring, precision="bf16")
    )
    change(_single(third), details=replace(ScoreTable.load_record(_single(third)).details, hparams_hash="0"))
    found = evaluate_distribution(first, [second, third], resamples=20)
    assert found.record["seeds"] == {"retrain": {group: [0] for group in GROUPS}}
    assert found.record["notes"][:2] == [
        f"tiny-1/{_single(second).stem} is left out: it was made with other precision than tiny-0/retrain-0",
        f"tiny-2/{_single(third).stem} is left out: it was made with other hyper-parameters than "
        "tiny-0/retrain-0",
    ]
    for path in third.glob("scores/*.parquet"):
        change(path, details=replace(ScoreTable.load_record(path).details, hparams_hash="0"))
    hparams = ScoreTable.load_record(_single(first)).details.hparams_hash
    refused(
        [first, second, third],
        f"{_single(third)} and {first}/scores/retrain-0.parquet were made with other hyper-parameters",
        "0",
        hparams,
        f"make counterfactuals with the hyper-parameters of {first}/scores/retrain-0.parquet, then "
        f"guda attribute -c ... --run {third} --queries {first}/queries with the options of retrain-0",
    )


def test_posteriors_of_each_full_model_are_compared_with_a_note(trainings: list[Path]) -> None:
    """Their identity is part of the hyper-parameters of what follows from them."""
    for number, folder in enumerate(trainings):
        for path in folder.glob("scores/*.parquet"):
            details = ScoreTable.load_record(path).details
            change(path, details=replace(details, classifier=f"c{number}", hparams_hash=f"h{number}"))
    found = evaluate_distribution(trainings[0], trainings[1:], resamples=20)
    assert found.record["seeds"] == {"retrain": {group: list(SEEDS) for group in GROUPS}}
    assert found.record["notes"] == ["retrain follows from posteriors of other hyper-parameters, or models"]


# refused


def refused(folders: list[Path], *expected: str) -> None:
    with pytest.raises(StoreError, match=message(*expected)):
        evaluate_distribution(folders[0], folders[1:])


def rewrite(path: Path, change: Callable[[Any], None]) -> None:
    def changed(record: dict[str, Any]) -> dict[str, Any]:
        change(record)
        return record

    edit_json(path, changed)


def test_run_folders_that_are_no_other_training_are_refused(trainings: list[Path], tmp_path: Path) -> None:
    first, other = trainings[:2]
    ending = ("one run folder a seed", "guda fit -c ... --seed_everything 1 --run OTHER")
    refused([first, first], f"{first} is no other training", f"seed 0, as in {first}", *ending)
    none = tmp_path / "none"
    refused([first, none], f"{none} is no other training", "no full model of guda fit", *ending)
    rewrite(other / "full" / "record.json", lambda record: record["config"].update(seed_everything=False))
    refused([first, other], f"{other} is no other training", "a full model without a seed", *ending)


def test_models_that_differ_in_more_than_their_seed_are_refused(trainings: list[Path]) -> None:
    first, other, third = trainings
    rewrite(other / "full" / "record.json", lambda record: record["config"]["trainer"].update(max_steps=3))
    refused(
        [first, other],
        f"the full models of {first} and {other} differ in more than their seed",
        "trainer.max_steps = 3",
        "trainer.max_steps = 2",
        f"guda fit with the configuration of {first}, another seed and another --run",
    )
    rewrite(third / "full" / "record.json", lambda record: record.update(data_hash="0" * 20))
    trained_on = json.loads((first / "full" / "record.json").read_text())["data_hash"]
    refused(
        [first, third],
        f"{third} was trained on other data than {first}",
        f"data_hash {'0' * 16}",
        f"data_hash {trained_on[:16]}",
        "train on the same data; where data.limit draws samples, pass the same data.seed to all",
    )


def test_what_was_not_scored_alike_is_refused(trainings: list[Path]) -> None:
    first, other, third = trainings
    for path in other.glob("scores/*.parquet"):
        path.unlink()
    refused(
        [first, other],
        f"{other} has no scores of counterfactuals to compare trainings by",
        f"no table about the queries of {first}/scores/retrain-0.parquet in {other}/scores",
        "squared errors of the full model and of counterfactuals on the same queries",
        f"guda attribute -c ... --run {other} --queries {first}/queries",
    )
    for path in third.glob("scores/*.parquet"):
        change(path, scoring=replace(ScoreTable.load_record(path).scoring, precision="bf16"))
    refused(
        [first, third],
        f"{_single(third)} and {first}/scores/retrain-0.parquet were made with other precision",
        "bf16",
        "fp32",
        f"guda attribute -c ... --run {third} --queries {first}/queries with the options of retrain-0",
    )
    for path in first.glob("scores/*.parquet"):
        path.unlink()
    refused(
        [first, third],
        f"{first} has no scores of counterfactuals to compare trainings by",
        f"no table about the run's own queries in {first}/scores",
        "squared errors of the full model and of counterfactuals on the same queries",
        f"guda attribute -c ... --run {first}",
    )


@pytest.mark.parametrize(
    ("options", "option", "found"),
    [
        (["--lds"], "--lds", "--lds"),
        (["--calibrate", "3"], "--calibrate", "--calibrate 3"),
        (["--per", "sample"], "--per", "--per sample"),
    ],
)
def test_options_of_other_comparisons_are_refused(
    options: list[str], option: str, found: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(tmp_path), "--distribution", *options]) == 2
    assert capsys.readouterr().err == (
        f"error: {option} is about agreement with the oracle, and trainings are compared\n"
        f"  found:    --distribution and {found}\n  expected: one of them\n"
        f"  fix:      leave out {option}, or --distribution\n"
    )


def test_a_method_of_unknown_size_claims_no_nats(finished_run: Path) -> None:
    found = evaluate_distribution(finished_run, [], resamples=20)
    assert found.methods == ["retrack"]
    assert found.record["notes"][-1] == (
        "The size of retrack's differences is not known: compare groups by them, they are no claim in nats."
    )
