"""Two commands on one run folder: the second waits, and both end with what one alone makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import struck
from guda_lightning.storage.locks import Lock, at_work
from warm import Server

CONF = Path(__file__).parent / "conf"
STAGES = {
    "fit": [],
    "sample": ["sample"],
    "unlearn": ["unlearn"],
    "guide": ["guide"],
    "attribute": ["attribute"],
}
WAITS = r"{path}: another command works on it since \S+ \S+: .* \(process \d+ of \S+ on \S+\); waiting for it"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def command(stage: str, run: Path, *arguments: str) -> list[str]:
    files = [CONF / f"{name}.yaml" for name in ["digits", *STAGES[stage]]]
    return [stage, *(part for file in files for part in ("-c", str(file))), "--run", str(run), *arguments]


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
    assert sorted(path.name for path in run.iterdir()) == [".fit.json", "checkpoints", "full"]
