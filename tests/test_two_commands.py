"""Two commands on one run folder: the second waits, and both end with what one alone makes."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

import struck
from guda_lightning import ScoreTable
from guda_lightning.cli.main import main
from guda_lightning.storage.locks import Lock, at_work, locked
from warm import Process, Server

CONF = Path(__file__).parent / "conf"
STAGES = {
    "fit": [],
    "sample": ["sample"],
    "guide": ["guide"],
    "unlearn": ["unlearn"],
    "attribute": ["attribute"],
}
WAITS = r"{path}: another command works on it since \S+ \S+: .* \(process \d+ of \S+ on \S+\); waiting for it"
INTERRUPTED = "\ninterrupted: the same command goes on from the last whole epoch, group or batch\n"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # as the children: sums come out the same


def command(stage: str, run: Path, *arguments: str) -> list[str]:
    files = [CONF / f"{name}.yaml" for name in ["digits", *STAGES[stage]]]
    return [stage, *(part for file in files for part in ("-c", str(file))), "--run", str(run), *arguments]


def at_once(warm: Server, logs: Path, commands: Sequence[list[str]]) -> list[Process]:
    """Run commands at the same time, all to their end."""
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                warm.process(logs / f"{number}.log", struck.guda, one, 1024, "SIGKILL", 1, "never")
            )
            for number, one in enumerate(commands)
        ]
        codes = [process.wait() for process in running]
        assert codes == [0] * len(commands), [process.log.read_text()[-1000:] for process in running]
        return running


def weights(run: Path) -> dict[str, bytes]:
    """What models and pictures there are, byte by byte."""
    patterns = ("full/unet/*.safetensors", "queries/*.png", "store/**/*.safetensors")
    return {str(path.relative_to(run)): path.read_bytes() for name in patterns for path in run.glob(name)}


def refuse_other_scores(run: Path, alone: Path) -> None:
    tables = sorted(path.name for path in (alone / "scores").glob("*.parquet"))
    assert sorted(path.name for path in (run / "scores").glob("*.parquet")) == tables and tables
    for name in tables:
        one, other = (ScoreTable.load(folder / "scores" / name) for folder in (run, alone))
        assert one.record == other.record
        for weighting in one.weightings:
            found, expected = (table.select(weighting=weighting).matrix() for table in (one, other))
            torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_the_second_of_two_fits_waits_says_so_and_skips(
    warm: Server, finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fit = command("fit", run)
    held = Lock(run, run / "checkpoints" / "fit")
    assert held.acquire()
    with (
        warm.process(tmp_path / "1.log", struck.guda, fit, 1024, "SIGKILL", 1, "never") as first,
        warm.process(tmp_path / "2.log", struck.guda, fit, 1024, "SIGKILL", 1, "never") as second,
    ):
        for process in (first, second):
            process.until_matched(WAITS.format(path=re.escape(f"{run}/checkpoints/fit")))
        assert [owner.path for owner in at_work(run)] == ["checkpoints/fit"]
        held.release()
        assert (first.wait(), second.wait()) == (0, 0)
    ends = sorted(log.read_text().splitlines()[-1] for log in (first.log, second.log))
    assert ends[0].startswith(f"fit: {run}/full written, ")
    assert ends[1] == "fit: made by another command meanwhile, skipped"
    name = "full/unet/diffusion_pytorch_model.safetensors"
    assert (run / name).read_bytes() == (finished_run / name).read_bytes()
    assert sorted(path.name for path in run.iterdir()) == [".fit.json", "checkpoints", "full", "history"]


@pytest.mark.parametrize(
    ("stage", "path"),
    [("fit", "checkpoints/fit"), ("sample", "queries"), ("attribute", "scores/retrack-0.parquet")],
)
def test_ctrl_c_while_waiting(
    warm: Server, finished_run: Path, tmp_path: Path, stage: str, path: str
) -> None:
    run = finished_run
    for name in {"fit": ["full"], "sample": ["queries"], "attribute": ["scores"]}[stage]:
        shutil.rmtree(run / name)
    arguments = command(stage, run)
    with (
        locked(run, run / path),
        warm.process(tmp_path / "log", struck.guda, arguments, 1024, "SIGKILL", 1, "never") as waiting,
    ):
        waiting.until_matched(WAITS.format(path=re.escape(f"{run}/{path}")))
        os.kill(waiting.pid, signal.SIGINT)
        assert waiting.wait() == 130
    out = waiting.log.read_text()
    assert out.endswith(INTERRUPTED) and "Traceback" not in out


def test_another_configuration_that_was_first_is_refused_after_the_wait(
    warm: Server, finished_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    fit = command("fit", run, "--trainer.max_steps", "8")
    with warm.process(tmp_path / "log", struck.guda, fit, 1024, "SIGKILL", 1, "never") as waiting:
        with locked(run, run / "checkpoints" / "fit"):
            waiting.until_matched(WAITS.format(path=re.escape(f"{run}/checkpoints/fit")))
            shutil.copytree(finished_run / "full", run / "full")
        assert waiting.wait() == 2
    assert waiting.log.read_text().endswith(
        f"error: {run}/full was made with another configuration\n"
        "  found:    trainer.max_steps = 12\n"
        "  expected: trainer.max_steps = 8\n"
        f"  fix:      use another --run, restore the configuration, or remove {run}/full\n"
    )


@pytest.mark.torture
def test_two_commands_of_every_stage_at_once_make_what_one_makes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for stage in STAGES:
        options = ["--operator", "retrack"] if stage == "attribute" else []
        assert main(command(stage, one, *options)) == 0
        program = [sys.executable, "-m", "guda_lightning", *command(stage, two, *options)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        running = [
            subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
            for _ in range(2)
        ]
        printed = [process.communicate()[0].decode() for process in running]
        assert [process.returncode for process in running] == [0, 0], (stage, printed)
        assert weights(two) == weights(one), stage
    refuse_other_scores(two, one)
    assert [path.name for path in two.rglob(".*")] == [".fit.json"]


@pytest.mark.torture
def test_eight_processes_work_on_groups_of_one_run_side_by_side(
    warm: Server, finished_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished_run, tmp_path / "eight"))
    shutil.rmtree(run / "store")
    commands = [command("unlearn", run, "--groups", f"{group},{(group + 1) % 8}") for group in range(8)]
    at_once(warm, tmp_path, commands)  # of every group two want it, and others none of it
    expected = {
        name: content
        for name, content in weights(finished_run).items()
        if not re.match("store/retrack-[89]-", name)
    }
    assert weights(run) == expected
    assert list(run.rglob(".*")) == []
    # An array of jobs on groups of their own never waits.
    shutil.rmtree(run / "store")
    arrays = [command("unlearn", run, "--groups", str(group)) for group in range(8)]
    for process in at_once(warm, tmp_path, arrays):
        assert "waiting" not in process.log.read_text()
    assert weights(run) == expected


@pytest.mark.torture
def test_tables_of_different_methods_are_scored_side_by_side(
    warm: Server, finished_run: Path, tmp_path: Path
) -> None:
    assert main(command("guide", finished_run)) == 0
    shutil.rmtree(finished_run / "scores")
    alone = Path(shutil.copytree(finished_run, tmp_path / "alone"))
    methods = [
        ("--operator", "retrack"),
        ("--operator", "guidance"),
        ("--operator", "retrack", "--name", "again"),
        ("--operator", "guidance", "--name", "again"),
        ("--attributor", "guda_lightning.attribution.PixelSimilarity"),
    ]
    for method in methods:
        assert main(command("attribute", alone, *method)) == 0
    side_by_side = [command("attribute", finished_run, *method) for method in methods]
    for process in at_once(warm, tmp_path, side_by_side):
        assert "waiting" not in process.log.read_text()
    refuse_other_scores(finished_run, alone)
    shared = [
        sorted(path.name for path in (run / "scores/errors").iterdir()) for run in (finished_run, alone)
    ]
    assert shared[0] == shared[1]


def test_a_checkpoint_that_stepped_aside_before_a_kill_is_gone_on_from(
    warm: Server, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit = command("fit", run)
    # The second of three epochs: the first checkpoint is aside, the second one has not come.
    moment = ("SIGKILL", 3, "checkpoints/fit/resume")
    with warm.process(tmp_path / "log", struck.guda_without_exchange, fit, *moment) as process:
        assert process.wait() == -signal.SIGKILL
    assert {path.name for path in (run / "checkpoints/fit").iterdir()} >= {"record.json", ".resume.aside"}
    assert not (run / "checkpoints/fit/resume").exists()
    assert main(fit) == 0
    assert f"going on from {run}/checkpoints/fit/resume/trainer.ckpt\n" in capsys.readouterr().out
    name = "full/unet/diffusion_pytorch_model.safetensors"
    assert (run / name).read_bytes() == (finished_run / name).read_bytes()
    assert [path.name for path in run.rglob(".*")] == [".fit.json"]


def test_unfinished_work_of_what_is_complete_goes_with_the_next_command(
    finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = finished_run / "store"
    (key,) = (path.name for path in store.glob("retrack-3-*"))
    provenance = ("full_hash", "schedule_hash", "grouping_hash", "data_hash")
    record = json.loads((store / key / "record.json").read_text())
    full = json.loads((finished_run / "full/record.json").read_text())
    fitted = {**full["config"], "data_hash": full["data_hash"]}
    for name, made_from in (("fit", fitted), (key, {one: record[one] for one in provenance})):
        folder = finished_run / "checkpoints" / name
        (folder / "resume").mkdir(parents=True)
        (folder / "resume" / "trainer.ckpt").write_bytes(b"half")
        (folder / "record.json").write_text(json.dumps({"config": made_from}))
    other = finished_run / "checkpoints" / "fit-of-another"
    other.mkdir()
    for stage in ("fit", "unlearn"):
        (finished_run / ".fit.json").unlink(missing_ok=True)
        assert main(command(stage, finished_run)) == 0
    assert [path.name for path in (finished_run / "checkpoints").iterdir()] == ["fit-of-another"]
