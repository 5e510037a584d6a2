"""What two processes make together, under DDP and under FSDP2, against what one makes alone."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import several_processes
from guda_lightning import ScoreTable
from several_processes import ONE, QUERIES, TWO

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller"),
]


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    outside = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "NODE_RANK")}
    return subprocess.run(
        [sys.executable, "-W", "ignore", several_processes.__file__, *map(str, arguments)],
        env={**outside, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same stages, in one process here and in two elsewhere."""
    root = tmp_path_factory.mktemp("processes")
    several_processes.whole_run(root, ONE)
    several_processes.stopped_run(root, ONE)
    finished = script(root)
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("going on from") == 6  # from the checkpoints, not from the start
    for strategy in TWO:
        several_processes.resumed_run(root, strategy, ONE)
    return root


def refuse_difference(first: Path, second: Path, tolerance: float = 2e-6) -> None:
    """Weights are of the size of one."""
    ours, theirs = load_file(first), load_file(second)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], rtol=0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("strategy", TWO)
def test_weights_are_those_of_one_process_with_the_same_batches(folder: Path, strategy: str) -> None:
    files = sorted((folder / ONE).glob("store/re*/*.safetensors")) + sorted(
        (folder / ONE).glob("full/unet/*.safe*")
    )
    assert [file.parent.name.rsplit("-", 1)[0] for file in files] == [
        *("retrack-bright", "retrack-bright", "retrack-dark", "retrack-dark"),
        *("retrack-noisy", "retrack-noisy", "retrain-dark", "unet"),
    ]
    for file in files:  # under the same names: processes are no part of a counterfactual's identity
        refuse_difference(file, folder / strategy / file.relative_to(folder / ONE))
    student = load_file(next(file for file in files if file.name == "model.safetensors"))
    full = load_file(files[-1])
    assert (
        max(float((full[name] - value).abs().max()) for name, value in student.items() if name in full) > 1e-3
    )


@pytest.mark.parametrize("strategy", TWO)
def test_a_classifier_is_as_good_as_that_of_one_process(folder: Path, strategy: str) -> None:
    # AdamW, and a last batch that is dealt unevenly.
    one, two = (
        next((folder / name / "store").glob("guidance-*/model.safetensors")) for name in (ONE, strategy)
    )
    assert one.parent.name == two.parent.name
    refuse_difference(one, two, tolerance=0.02)


@pytest.mark.parametrize("strategy", TWO)
@pytest.mark.parametrize("table", ["retrack-0", "retrack-1", "guidance-0", "guidance_race-0"])
def test_scores_are_those_of_one_process_each_query_once(folder: Path, strategy: str, table: str) -> None:
    one = ScoreTable.load(folder / ONE / "scores" / f"{table}-queries.parquet")
    two = ScoreTable.load(folder / f"scored-{strategy}" / "scores" / f"{table}-queries.parquet")
    assert one.queries == two.queries == tuple(f"sample-{number}" for number in range(QUERIES))
    assert one.groups == two.groups
    assert one.record == two.record
    assert len(one) == len(two)
    for weighting in one.weightings:
        first, second = (part.select(weighting=weighting) for part in (one, two))
        scale = 1e-5 * float(first.matrix().abs().max())
        torch.testing.assert_close(second.matrix(), first.matrix(), rtol=1e-5, atol=scale)
        torch.testing.assert_close(second.stderr_matrix(), first.stderr_matrix(), rtol=1e-5, atol=scale)


@pytest.mark.parametrize("strategy", TWO)
def test_samples_are_those_of_one_process(folder: Path, strategy: str) -> None:
    one, two = (
        json.loads((folder / name / "queries" / "record.json").read_text()) for name in (ONE, strategy)
    )
    names = {path.name for path in (folder / ONE / "queries").iterdir()}
    assert {path.name for path in (folder / strategy / "queries").iterdir()} == names
    assert len(names) == QUERIES + 2
    assert one["config"]["num"] == two["config"]["num"]


@pytest.mark.parametrize("strategy", TWO)
def test_the_callback_logs_what_it_does_in_one_process(folder: Path, strategy: str) -> None:
    def logged(name: str) -> dict[str, float]:
        (file,) = (folder / name).rglob("metrics.csv")
        with file.open(newline="") as opened:
            (row,) = csv.DictReader(opened)
        return {key: float(value) for key, value in row.items() if key.startswith("influence/")}

    assert logged(strategy) == pytest.approx(logged(ONE), rel=1e-4)
    assert set(logged(ONE)) == {"influence/dark", "influence/bright", "influence/noisy"}


@pytest.mark.parametrize("strategy", TWO)
def test_only_rank_zero_logs_to_wandb(folder: Path, strategy: str) -> None:
    def runs(name: str) -> int:
        return len(list((folder / name / "wandb").glob("offline-run-*")))

    assert runs(strategy) == runs(ONE) == 1 + 3 + 1  # fit, a group each, a table


def test_every_file_has_one_writer(folder: Path) -> None:
    zero, one = (set(json.loads((folder / f"written-{rank}.json").read_text())) for rank in (0, 1))
    own = {name for name in one if name.endswith("-1.yaml")}  # of this test
    assert not (zero & one) - own
    assert any(name.endswith("retrack-0-queries.parquet") for name in zero)
    parts = [Path(name) for name in one - own]
    assert parts
    assert {part.parent.name for part in parts} == {"sample"}  # the batches that it drew


@pytest.mark.parametrize("stopped", [ONE, *TWO])
@pytest.mark.parametrize("strategy", [ONE, *TWO])
def test_each_strategy_goes_on_from_the_checkpoint_of_another(
    folder: Path, stopped: str, strategy: str
) -> None:
    if stopped == strategy == ONE:
        pytest.skip("tests/test_end_to_end.py")
    resumed, whole = folder / f"{stopped}-{strategy}", folder / ONE
    weights = "full/unet/diffusion_pytorch_model.safetensors"
    refuse_difference(whole / weights, resumed / weights)
    record = json.loads((resumed / "full/record.json").read_text())
    assert record["steps"] == 6


@pytest.mark.parametrize(("dead", "strategy"), [(0, "ddp"), (1, "fsdp2")])
def test_a_rank_that_dies_ends_the_others_with_a_message(tmp_path: Path, dead: int, strategy: str) -> None:
    finished = script(tmp_path, dead, strategy)
    left = 1 - dead
    prefix = f"error (process {left}): " if left else "error: "
    assert f"{prefix}rank {left} of 2 has lost another one\n  found:    " in finished.stderr
    assert (
        "  expected: all processes alive until the end\n"
        "  fix:      see what the other process printed last, nothing where it was killed, as for want of "
        "memory; then the same command goes on from the last whole epoch, group or batch\n"
    ) in finished.stderr
    assert "Traceback" not in finished.stderr
    assert finished.returncode == (-9 if dead == 0 else 0)
