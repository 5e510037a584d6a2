"""One process under a strategy of several is connected, too: FSDP2 has no mesh before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from guda_lightning import GudaTrainer
from guda_lightning.distributed import strategies
from guda_lightning.distributed.strategies import agreed, connected


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """Names of the strategies whose processes are started, here without a launcher."""
    found: list[str] = []
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    mesh = DeviceMesh("cpu", [[0]], mesh_dim_names=("data_parallel", "tensor_parallel"))

    def start(trainer: GudaTrainer) -> None:
        found.append(type(trainer.strategy).__name__)
        trainer.strategy._device_mesh = mesh  # type: ignore[attr-defined]

    monkeypatch.setattr(strategies, "start_processes", start)
    yield found
    dist.destroy_process_group()


def trainer_of(strategy: str, folder: Path) -> GudaTrainer:
    options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    return GudaTrainer(strategy=strategy, devices=1, default_root_dir=folder, **options)


def test_one_process_of_fsdp2_has_its_mesh(started: list[str], tmp_path: Path) -> None:
    trainer = trainer_of("fsdp2", tmp_path)
    ranks = connected(trainer)
    assert (ranks.rank, ranks.count, started) == (0, 1, ["FSDP2Strategy"])
    assert agreed(trainer_of("fsdp2", tmp_path), ["a"], work=True) == ["a"]
    assert started == ["FSDP2Strategy"] * 2  # what follows asks for its ranks


@pytest.mark.parametrize("strategy", ["auto", "ddp"])
def test_others_start_nothing_for_one_process(started: list[str], tmp_path: Path, strategy: str) -> None:
    assert connected(trainer_of(strategy, tmp_path)).count == 1
    assert agreed(trainer_of(strategy, tmp_path), ["a"], work=True) == ["a"]
    assert started == []
