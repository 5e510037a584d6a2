from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import two_processes
from PIL import Image

from guda_lightning import DiffusionModule, FullModel, ScoreTable, UnlearnModule
from guda_lightning.unlearning import ReTrack
from toys import quiet_trainer

SCRIPT = Path(two_processes.__file__)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What the same validations write with one process and with two."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("ranks")
    data, module = two_processes.data(), two_processes.Foreign()
    full = FullModel.of(module, "unet", "noise_scheduler")
    for group in ("dark", "noisy"):
        student = UnlearnModule(full, ReTrack(), [group], lambda p: torch.optim.AdamW(p, lr=1e-2))
        quiet_trainer(root, max_steps=2).fit(student, datamodule=data.unlearning([group]))
        student.save(root / "store")
    for processes in (1, 2):
        (root / str(processes)).mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(pixels).save(root / str(processes) / "query.png")
    two_processes.run(root / "1", root / "store", 1)
    outside = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "NODE_RANK")}
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", SCRIPT, root / "2", root / "store", "2"],
        env={**outside, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return {processes: root / str(processes) for processes in (1, 2)}


pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller"),
]


@pytest.mark.parametrize(("name", "count"), [("store", 7), ("few", 3), ("fixed", 1), ("student", 9)])
def test_two_processes_score_what_one_does_each_query_once(
    folders: dict[int, Path], name: str, count: int
) -> None:
    one = ScoreTable.load(folders[1] / f"{name}-0.parquet")
    for rank in (0, 1):  # every rank holds all scores, so all would save the same checkpoint
        two = ScoreTable.load(folders[2] / f"{name}-{rank}.parquet")
        assert two.queries == one.queries
        assert len(set(one.queries)) == count
        assert two.groups == one.groups
        assert two.record == one.record
        scale = 1e-5 * float(one.matrix().abs().max())
        torch.testing.assert_close(two.matrix(), one.matrix(), rtol=1e-5, atol=scale)
        torch.testing.assert_close(two.stderr_matrix(), one.stderr_matrix(), rtol=1e-5, atol=scale)


@pytest.mark.parametrize(("name", "extra"), [("store", ()), ("student", ("own", "other"))])
def test_scalars_are_logged_once_from_rank_zero(
    folders: dict[int, Path], name: str, extra: tuple[str, ...]
) -> None:
    logged = {}
    for processes, folder in folders.items():
        files = sorted(path.name for path in (folder / name).iterdir())
        assert files == ["metrics.csv"]
        frame = pd.read_csv(folder / name / "metrics.csv")
        frame = frame.dropna(subset=[c for c in frame if c.startswith("influence/")])
        assert len(frame) == 1
        logged[processes] = frame.iloc[0].to_dict()
    table = ScoreTable.load(folders[2] / f"{name}-0.parquet")
    for group, mean in zip(table.groups, table.matrix().mean(dim=0).tolist(), strict=True):
        assert logged[2][f"influence/{group}"] == pytest.approx(mean, rel=1e-5)
    influence = [name for name in logged[2] if name.startswith("influence/")]
    assert set(influence) == {f"influence/{name}" for name in (*table.groups, *extra)}
    for scalar in influence:
        assert logged[2][scalar] == pytest.approx(logged[1][scalar], rel=1e-4)


def test_the_student_differs_from_its_full_model() -> None:
    student = two_processes.student()
    same = DiffusionModule(student.denoiser, student.scheduler)
    assert FullModel.of(same).hash != student.full_hash
