"""Stages that are killed or interrupted and run again give the scores of a run that nothing happened to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import struck
from guda_lightning import CounterfactualStore, ScoreTable
from guda_lightning.attribution.chunks import CHUNK_QUERIES
from guda_lightning.cli.main import main
from warm import Server

CONF = Path(__file__).parent / "conf"
KILLED = -9
INTERRUPTED = "\ninterrupted: the same command goes on from the last whole epoch, group or batch\n"
STAGES = {
    "fit": [],
    "sample": ["sample"],
    "unlearn": ["unlearn"],
    "retrain": [],
    "attribute": ["attribute"],
}
Hit = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # as the children: sums come out the same


def command(stage: str, *arguments: object) -> list[str]:
    files = [CONF / f"{name}.yaml" for name in ["digits", *STAGES[stage]]]
    return [stage, *(part for file in files for part in ("-c", str(file))), *map(str, arguments)]


@pytest.fixture
def hit(warm: Server, tmp_path: Path) -> Hit:
    """Run guda, send a signal just before the n-th rename to a path; its exit status and what it printed."""

    def run(
        signal: str, number: int, path: str, arguments: list[str], chunk: int = CHUNK_QUERIES
    ) -> tuple[int, str]:
        log = tmp_path / "log.txt"
        with warm.process(log, struck.guda, arguments, chunk, signal, number, path) as process:
            return process.wait(), log.read_text()

    return run


def whole(folder: Path) -> list[str]:
    """Names in a folder that are no leftovers of a killed process."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_ctrl_c_while_training_and_while_writing_the_model(
    hit: Hit, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit = command("fit", "--run", run)
    code, out = hit("SIGINT", 2, "checkpoints/fit/resume", fit)
    assert code == 130
    assert out.startswith("fit: 12 steps of 16 images: about ")
    assert out.endswith(INTERRUPTED) and "Traceback" not in out
    assert not (run / "full").exists()
    assert sorted(path.name for path in (run / "checkpoints" / "fit").iterdir()) == ["record.json", "resume"]

    code, out = hit("SIGINT", 1, f"{run}/full", fit)
    assert code == 130
    assert f"going on from {run}/checkpoints/fit/resume/trainer.ckpt\n" in out and out.endswith(INTERRUPTED)
    assert [path.name for path in run.iterdir()] == ["checkpoints"]

    assert main(fit) == 0
    assert f"fit: {run}/full written, " in capsys.readouterr().out
    costs = [
        json.loads((folder / "full" / "record.json").read_text())["network_evaluations"]
        for folder in (run, finished_run)
    ]
    assert costs[0] == costs[1]  # of all three attempts, without what was lost
    name = "unet/diffusion_pytorch_model.safetensors"
    assert (run / "full" / name).read_bytes() == (finished_run / "full" / name).read_bytes()
    assert whole(run / "checkpoints") == []


def test_a_stage_that_is_killed_goes_on_and_changes_no_score(
    hit: Hit, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shared = ["--run", run]

    # In training: before the second of three epochs is kept, and then before the third one is.
    for _ in range(2):
        assert hit("SIGKILL", 2, "checkpoints/fit/resume", command("fit", *shared))[0] == KILLED
    assert main(command("fit", *shared)) == 0
    full = [json.loads((folder / "full" / "record.json").read_text()) for folder in (run, finished_run)]
    assert full[0]["full_hash"] == full[1]["full_hash"]
    assert full[0]["steps"] == full[1]["steps"] == 12
    assert full[0]["network_evaluations"] == full[1]["network_evaluations"]  # what was lost is not counted

    # In sampling: before the first and then before the third of three batches is kept, after the record is.
    sample = command("sample", *shared)
    assert hit("SIGKILL", 2, "checkpoints/sample/", sample)[0] == KILLED
    code, out = hit("SIGINT", 4, "checkpoints/sample/", sample)
    assert code == 130 and out.endswith(INTERRUPTED)
    assert not (run / "queries").exists()
    assert whole(run / "checkpoints" / "sample") == ["0.safetensors", "2.safetensors", "record.json"]
    assert main(sample) == 0
    for path in (finished_run / "queries").iterdir():
        assert (run / "queries" / path.name).read_bytes() == path.read_bytes(), path.name

    # In unlearning: in the second epoch of the first group, then while the third group is stored.
    three = ["--groups", "0,1,2"]
    unlearn = command("unlearn", *shared, *three)
    assert hit("SIGKILL", 2, "/resume", unlearn)[0] == KILLED
    code, out = hit("SIGKILL", 3, f"{run}/store/", unlearn)
    assert code == KILLED and f"going on from {run}/checkpoints/retrack-0-" in out
    assert [name.split("-")[1] for name in whole(run / "store")] == ["0", "1"]
    capsys.readouterr()
    assert main(unlearn) == 0
    out = capsys.readouterr().out
    assert out.startswith("unlearn: 2 complete, skipped: 0, 1\nunlearn: 1 groups x 4 steps (retrack): about ")
    stores = [CounterfactualStore(folder / "store").records() for folder in (run, finished_run)]
    for mine, theirs in zip(stores[0], stores[1][:3], strict=True):
        assert mine.key == theirs.key
        assert mine.files == theirs.files  # the same weights, bit for bit
        assert mine.history == theirs.history
        assert mine.steps == theirs.steps == 4
        # Of the group killed in training, validation measured the full model once more: 20 images x 2.
        again = 40 if mine.groups == ("0",) else 0
        assert mine.network_evaluations == theirs.network_evaluations + again

    # In scoring: the errors of three models are kept.
    attribute = command("attribute", *shared, *three)
    assert main(command("attribute", "--run", finished_run, *three)) == 0
    assert hit("SIGKILL", 4, "scores/errors/", attribute)[0] == KILLED
    assert list((run / "scores").glob("*.parquet")) == []
    capsys.readouterr()
    assert main(attribute) == 0
    out = capsys.readouterr().out
    assert out.startswith("attribute: 5 queries, 3 groups, 50 network evaluations: about ")
    tables = [ScoreTable.load(folder / "scores" / "retrack-0.parquet") for folder in (run, finished_run)]
    assert tables[0].record == tables[1].record
    for weighting in ("elbo", "uniform"):
        mine, theirs = (table.select(weighting=weighting) for table in tables)
        assert torch.equal(mine.matrix(), theirs.matrix())
        assert torch.equal(mine.stderr_matrix(), theirs.stderr_matrix())


def test_a_retraining_that_is_killed_while_training_and_while_storing(
    hit: Hit, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "killed"))
    options = ["--groups", "3,7", "--seeds", 1]
    assert main(command("retrain", "--run", finished_run, *options)) == 0
    retrain = command("retrain", "--run", run, *options)
    assert hit("SIGKILL", 2, "/resume", retrain)[0] == KILLED  # in the second of four epochs
    (unfinished,) = whole(run / "checkpoints")
    assert unfinished.startswith("retrain-3-")
    code, out = hit("SIGKILL", 2, f"{run}/store/", retrain)
    assert code == KILLED
    assert f"going on from {run}/checkpoints/{unfinished}/resume/trainer.ckpt\n" in out
    assert [name.split("-")[1] for name in whole(run / "store") if name.startswith("retrain")] == ["3"]
    capsys.readouterr()
    assert main(retrain) == 0
    out = capsys.readouterr().out
    assert out.startswith("retrain: 1 complete, skipped: 3 (seed 1)\nretrain: 12 steps of 16 images: about ")
    assert f"\ngoing on from {run}/checkpoints/retrain-7-" in out
    stores = [CounterfactualStore(folder / "store").records() for folder in (run, finished_run)]
    assert len(stores[0]) == len(stores[1]) == 12
    for mine, theirs in zip(*stores, strict=True):
        assert mine.key == theirs.key
        assert mine.files == theirs.files  # the same weights, bit for bit
        assert (mine.steps, mine.network_evaluations) == (theirs.steps, theirs.network_evaluations)
    assert whole(run / "checkpoints") == []


def test_a_kill_while_a_finished_table_is_replaced_leaves_the_old_one(hit: Hit, finished_run: Path) -> None:
    table = finished_run / "scores" / "retrack-0.parquet"
    before = table.read_bytes()
    again = command("attribute", "--run", finished_run, "--groups", "3")
    assert hit("SIGKILL", 1, str(table), again)[0] == KILLED
    assert table.read_bytes() == before
    assert main(["report", str(finished_run)]) == 0
    assert main(again) == 0
    assert ScoreTable.load(table).groups == ("3",)


def test_a_training_whose_time_is_over_is_not_taken_for_a_finished_one(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit = command("fit", "--run", run)
    assert main([*fit, "--trainer.max_time", "00:00:00:00"]) == 2
    assert capsys.readouterr().err.endswith(
        "trainer.max_time was over before the training was\n"
        "  found:    0 of 12 (max_steps)\n"
        "  expected: all steps or epochs\n"
        "  fix:      raise max_time, which counts all attempts, or leave it out: the same command goes on "
        "from the last whole epoch\n"
    )
    assert not (run / "full").exists()
    assert main([*fit, "--trainer.max_time", "01:00:00:00"]) == 0
    hashes = [
        json.loads((folder / "full" / "record.json").read_text())["full_hash"]
        for folder in (run, finished_run)
    ]
    assert hashes[0] == hashes[1]


def test_a_scoring_in_chunks_that_is_killed_over_and_over_scores_nothing_twice(
    hit: Hit, finished_run: Path
) -> None:
    scores = finished_run / "scores"
    before = ScoreTable.load(scores / "retrack-0.parquet")
    shutil.rmtree(scores)
    attribute, parts = command("attribute", "--run", finished_run), scores / "retrack-0.parts"

    def done(count: int) -> str:
        return f"attribute: {count} of 5 queries are scored already\n"

    def killed(number: int, path: object) -> str:
        code, out = hit("SIGKILL", number, str(path), attribute, chunk=2)
        assert code == KILLED and not (scores / "retrack-0.parquet").exists()
        return out

    # Five queries in three chunks, 10 groups and the full model, 5 strata x 2 draws.
    out = killed(2, parts)  # before the second part is written
    assert out.startswith("attribute: 5 queries, 10 groups, 550 network evaluations")
    assert whole(parts) == ["0.parquet"]
    out = killed(3, scores / "errors")  # in the third chunk, when the errors of two models are kept
    assert out.startswith(f"{done(2)}attribute: 3 queries, 10 groups, 110 network evaluations")
    assert whole(parts) == ["0.parquet", "2.parquet"]  # the second one from kept errors
    out = killed(1, scores / "retrack-0.parquet")
    assert out.startswith(f"{done(4)}attribute: 1 queries, 10 groups, 90 network evaluations")
    code, out = hit("SIGINT", 1, str(scores / "queries"), attribute, chunk=2)
    assert code == 130 and out.startswith(done(5))

    assert hit("SIGKILL", 1, "never", attribute, chunk=2)[0] == 0
    table = ScoreTable.load(scores / "retrack-0.parquet")
    assert whole(scores) == ["costs", "errors", "nearest", "queries", "retrack-0.parquet"]
    assert replace(table.record, chunks=()) == replace(before.record, chunks=())
    for weighting in before.weightings:
        mine, theirs = (one.select(weighting=weighting).matrix() for one in (table, before))
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6 * float(theirs.abs().max()))
