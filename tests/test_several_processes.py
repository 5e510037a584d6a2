"""What two processes make together, under DDP and under FSDP2, against what one makes alone."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import several_processes
from guda_lightning import CounterfactualStore, ScoreTable
from guda_lightning.data import load_queries
from several_processes import BATCH, DDP, FSDP2, ONE, QUERIES, RESUMED, SCORED, TWO, WATCHED
from warm import Server, ranks

pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, warm: Server) -> Path:
    """The same stages, in one process here and in two elsewhere."""
    root = tmp_path_factory.mktemp("processes")
    several_processes.whole_run(root, ONE)
    several_processes.stopped_run(root, ONE)
    first, second = ranks(warm, root, several_processes.everything, root)
    assert first[0] == second[0] == 0, first[1][-3000:] + second[1][-3000:]
    assert first[1].count("going on from") == 2  # from the checkpoints, not from the start
    for stopped, strategy in RESUMED:
        if strategy == ONE:
            several_processes.resumed_run(root, stopped, strategy)
    return root


def refuse_difference(first: Path, second: Path, tolerance: float = 2e-6) -> None:
    """Weights are of the size of one; those of LoRAs, which take large steps, somewhat larger."""
    ours, theirs = load_file(first), load_file(second)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], rtol=1e-5, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("strategy", TWO)
def test_weights_are_those_of_one_process_with_the_same_batches(folder: Path, strategy: str) -> None:
    one, several = folder / ONE, folder / strategy
    files = [file for kind in ("store/re*", "full/unet") for file in sorted(several.glob(f"{kind}/*.safe*"))]
    assert [file.parent.name.rsplit("-", 1)[0] for file in files] == [
        *("retrack-bright", "retrack-dark", "retrack-dark", "retrack-noisy"),
        *(("retrain-dark", "unet") if strategy == DDP else ("unet",)),
    ]
    for file in files:  # under the same names: processes are no part of a counterfactual's identity
        refuse_difference(one / file.relative_to(several), file)
    student, full = load_file(files[0]), load_file(files[-1])
    assert max(float((full[name] - value).abs().max()) for name, value in student.items()) > 1e-3


@pytest.mark.parametrize("strategy", TWO)
def test_records_say_what_those_of_one_process_do(folder: Path, strategy: str) -> None:
    def full(name: str) -> int:
        evaluations: int = json.loads((folder / name / "full" / "record.json").read_text())[
            "network_evaluations"
        ]
        return evaluations

    trained, probe = 6 * BATCH, 9
    validations = (full(ONE) - trained) // probe
    assert full(strategy) == trained + validations * (probe + 1)  # both processes, which share 9 evenly
    curves = {
        name: CounterfactualStore(folder / name / "store").select("retrack", 0, groups=["dark"])
        for name in (ONE, strategy)
    }
    rows = {
        name: CounterfactualStore(folder / name / "store").record(keys["dark"]).history
        for name, keys in curves.items()
    }
    assert len(rows[ONE]) == len(rows[strategy]) > 1
    for ours, theirs in zip(rows[ONE], rows[strategy], strict=True):
        assert ours["step"] == theirs["step"]
        assert (theirs["own"], theirs["other"]) == pytest.approx((ours["own"], ours["other"]), rel=1e-3)


def test_a_classifier_is_as_good_as_that_of_one_process(folder: Path) -> None:
    # AdamW, and a last batch that is dealt unevenly.
    found = [sorted((folder / name).glob("store/posteriors/*/model.safetensors")) for name in (ONE, DDP)]
    assert len(found[0]) == len(found[1]) == 2  # a dense and a convolutional one
    for one, two in zip(*found, strict=True):
        assert one.parent.name == two.parent.name
        refuse_difference(one, two, tolerance=0.02)


@pytest.mark.parametrize(
    ("strategy", "table"), [(s, table) for s, tables in SCORED.items() for table in tables]
)
def test_scores_are_those_of_one_process_each_query_once(folder: Path, strategy: str, table: str) -> None:
    one = ScoreTable.load(folder / ONE / "scores" / f"{table}-queries.parquet")
    two = ScoreTable.load(folder / f"scored-{strategy}" / "scores" / f"{table}-queries.parquet")
    assert one.queries == two.queries == tuple(f"sample-{number}" for number in range(QUERIES))
    assert one.groups == two.groups
    assert [chunk.queries for chunk in two.record.chunks] == [2, 2, 1]
    assert replace(one.record, chunks=()) == replace(two.record, chunks=())
    assert len(one) == len(two)
    for weighting in one.weightings:
        first, second = (part.select(weighting=weighting) for part in (one, two))
        # Under FSDP2 a LoRA is added to the weights that it stands beside elsewhere.
        tolerance = 1e-4 if (strategy, table) == (FSDP2, "retrack-1") else 1e-5
        scale = tolerance * float(first.matrix().abs().max())
        torch.testing.assert_close(second.matrix(), first.matrix(), rtol=tolerance, atol=scale)
        torch.testing.assert_close(second.stderr_matrix(), first.stderr_matrix(), rtol=tolerance, atol=scale)


def test_samples_are_those_of_one_process(folder: Path) -> None:
    one, two = (load_queries(folder / name / "queries", (1, 8, 8)) for name in (ONE, DDP))
    assert one.ids == two.ids
    assert len(one) == QUERIES
    torch.testing.assert_close(one.images, two.images, rtol=0, atol=2 / 255)  # a level of gray


@pytest.mark.parametrize(("strategy", "watched"), [(s, name) for s in TWO for name in WATCHED[s]])
def test_the_callback_logs_what_it_does_in_one_process(folder: Path, strategy: str, watched: str) -> None:
    def logged(name: str) -> dict[str, float]:
        (file,) = (folder / name / watched).rglob("metrics.csv")
        with file.open(newline="") as opened:
            (row,) = csv.DictReader(opened)
        return {key: float(value) for key, value in row.items() if key.startswith("influence/")}

    assert logged(strategy) == pytest.approx(logged(ONE), rel=1e-4)
    assert set(logged(ONE)) == {"influence/dark", "influence/bright", "influence/noisy"}


def test_only_rank_zero_logs_to_wandb(folder: Path) -> None:
    def runs(name: str) -> int:
        return len(list((folder / name / "wandb").glob("offline-run-*")))

    assert runs(DDP) == runs(ONE) == 1 + 1  # fit, and a group


def test_every_file_has_one_writer(folder: Path) -> None:
    zero, one = (set(json.loads((folder / f"written-{rank}.json").read_text())) for rank in (0, 1))
    own = {name for name in one if name.endswith("-1.yaml")}  # of this test
    assert not (zero & one) - own
    assert any(name.endswith("retrack-0-queries.parquet") for name in zero)
    parts = [Path(name) for name in one - own]
    assert parts
    assert {part.parent.name for part in parts} == {"sample"}  # the batches that it drew


@pytest.mark.parametrize(("stopped", "strategy"), RESUMED)
def test_each_strategy_goes_on_from_the_checkpoint_of_another(
    folder: Path, stopped: str, strategy: str
) -> None:
    # Of the other pairs, a checkpoint says the same whoever wrote it.
    checkpoints = [_contents(folder / f"stopped-{name}") for name in (ONE, stopped)]
    assert checkpoints[0] == checkpoints[1]
    resumed, whole = folder / f"{stopped}-{strategy}", folder / ONE
    weights = "full/unet/diffusion_pytorch_model.safetensors"
    refuse_difference(whole / weights, resumed / weights)
    record = json.loads((resumed / "full/record.json").read_text())
    assert record["steps"] == 6


def _contents(run: Path) -> dict[str, object]:
    """What a checkpoint holds, by name: the shape of a tensor, the type of anything else."""
    found: dict[str, object] = {}

    def look(name: str, value: object) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                look(f"{name}.{key}", inner)
        else:
            found[name] = value.shape if type(value) is torch.Tensor else type(value)

    look("", torch.load(run / "checkpoints" / "fit" / "resume" / "trainer.ckpt", weights_only=True))
    return found


def refuse_silence(left: int, said: str) -> None:
    """What the process that is left says of the one that died."""
    prefix = f"error (process {left}): " if left else "error: "
    assert f"{prefix}rank {left} of 2 has lost another rank\n  found:    " in said
    assert (
        "  expected: all processes alive until the end\n"
        "  fix:      see what the other process printed last, nothing where it was killed, as for want of "
        "memory; then the same command goes on from the last whole epoch, group or batch\n"
    ) in said
    assert "Traceback" not in said


def test_the_first_rank_dies(warm: Server, tmp_path: Path) -> None:
    killed, left = ranks(warm, tmp_path, several_processes.dying, tmp_path, 0, DDP)
    assert (killed[0], left[0]) == (-9, 0)
    refuse_silence(1, left[1])


@pytest.mark.torture
def test_processes_that_lightning_starts_train_and_end_with_one_that_dies(tmp_path: Path) -> None:
    outside = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "NODE_RANK")}
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", several_processes.__file__, str(tmp_path)],
        env={**outside, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert json.loads((tmp_path / "whole" / "full" / "record.json").read_text())["steps"] == 6
    refuse_silence(0, ended.stderr)
    assert not (tmp_path / "dying" / "full").exists()
    assert ended.returncode == 0
