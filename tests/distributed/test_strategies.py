from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from diffusers import DDPMScheduler
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.fsdp import fully_shard

from guda_lightning import DiffusionModule, FSDP2Strategy, GudaTrainer
from guda_lightning.distributed.ranks import ALONE, Ranks, lost_rank
from guda_lightning.distributed.sharding import gather, is_sharded, load_whole, shard, whole
from guda_lightning.distributed.strategies import refuse_strategy, refuse_unsharded
from guda_lightning.errors import ConfigError, RankError
from toys import message, tiny_unet

ON_CPU: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}


def test_the_name_stands_for_all_processes_and_single_files(tmp_path: Path) -> None:
    trainer = GudaTrainer(strategy="fsdp2", devices=2, default_root_dir=tmp_path, **ON_CPU)
    assert isinstance(trainer.strategy, FSDP2Strategy)
    assert trainer.world_size == 2
    assert not trainer.strategy._save_distributed_checkpoint


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_that_hand_nothing_back_are_refused(tmp_path: Path, strategy: str) -> None:
    expected = message(
        "this strategy hands no trained weights back from its processes",
        "DDPStrategy that spawns or forks",
        "a strategy whose processes run the same command",
        "set trainer.strategy to ddp or fsdp2; in a notebook, run the command in a shell",
    )
    with pytest.raises(ConfigError, match=expected):
        GudaTrainer(strategy=strategy, devices=2, default_root_dir=tmp_path, **ON_CPU)


def test_checkpoints_in_pieces_are_refused(tmp_path: Path) -> None:
    expected = message(
        "checkpoints in pieces cannot be resumed by other strategies",
        "ModelParallelStrategy with save_distributed_checkpoint=True",
        "checkpoints of a single file",
        "set trainer.strategy to fsdp2",
    )
    with pytest.raises(ConfigError, match=expected):
        GudaTrainer(strategy=ModelParallelStrategy(), devices=2, default_root_dir=tmp_path, **ON_CPU)
    expected = message(
        "tensor parallelism is not supported",
        "ModelParallelStrategy with tensor_parallel_size='auto'",
        "1: processes share batches and queries, and spread weights over all of them",
        "set trainer.strategy to fsdp2",
    )
    split = ModelParallelStrategy(save_distributed_checkpoint=False)
    with pytest.raises(ConfigError, match=expected):
        GudaTrainer(strategy=split, devices=2, default_root_dir=tmp_path, **ON_CPU)
    in_one = ModelParallelStrategy(2, 1, save_distributed_checkpoint=False)
    GudaTrainer(strategy=in_one, devices=2, default_root_dir=tmp_path, **ON_CPU)


@pytest.mark.parametrize(
    "environment",
    [{"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2"}, {"SLURM_STEP_NUM_TASKS": "2"}],
    ids=["torchrun", "srun"],
)
def test_processes_that_would_repeat_the_work_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    expected = message(
        "the trainer does not have all processes that were started",
        "2 processes by torchrun or srun, and a trainer of 1",
        "as many: each process too many would do the same work, into the same files",
        "set trainer.devices to the processes of a machine, trainer.num_nodes to the machines, and "
        "trainer.strategy to ddp or fsdp2",
    )
    with pytest.raises(ConfigError, match=expected):
        GudaTrainer(devices=1, default_root_dir=tmp_path, **ON_CPU)


def test_the_older_sharding_is_refused() -> None:
    expected = message(
        "FSDP1 is not supported",
        "FSDPStrategy",
        "FSDP2, which shards frozen weights too and works on any device",
        "set trainer.strategy to fsdp2",
    )
    trainer: Any = SimpleNamespace(strategy=FSDPStrategy())  # Lightning itself refuses it on a CPU
    with pytest.raises(ConfigError, match=expected):
        refuse_strategy(trainer)


def test_a_module_that_would_not_spread_is_refused(tmp_path: Path) -> None:
    class Foreign(LightningModule):
        pass

    expected = message(
        "Foreign does not shard its weights, as fsdp2 needs",
        "no method configure_model",
        "one that calls guda_lightning.diffusion.shard(network, mesh) for each of its networks",
        "write it, with mesh = self.device_mesh['data_parallel'], or set trainer.strategy to ddp",
    )
    trainer = GudaTrainer(strategy="fsdp2", devices=2, default_root_dir=tmp_path, **ON_CPU)
    with pytest.raises(ConfigError, match=expected):
        refuse_unsharded(trainer, Foreign())
    refuse_unsharded(trainer, DiffusionModule(tiny_unet(), DDPMScheduler(20)))


def test_a_process_alone_agrees_with_itself() -> None:
    assert Ranks.of(None) is not None
    assert Ranks.of(None) == ALONE
    assert (ALONE.broadcast("yes"), ALONE.all_gather(3)) == ("yes", [3])
    ALONE.barrier()


def test_what_rank_zero_does_alone_fails_for_all() -> None:
    done: list[int] = []
    ALONE.on_rank_zero(lambda: done.append(1))
    assert done == [1]
    with pytest.raises(OSError, match=r"^full$"):
        ALONE.on_rank_zero(lambda: _fail())

    class Second(Ranks):
        def broadcast(self, value: Any) -> Any:
            return True  # rank zero says that it has failed

    expected = message(
        "rank zero has failed",
        "an error there",
        "its work, which the other ranks wait for",
        "see what it printed",
    )
    with pytest.raises(RankError, match=expected):
        Second(1, 2).on_rank_zero(lambda: done.append(2))
    assert done == [1]


def _fail() -> None:
    raise OSError("full")


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (
            "[/src/gloo/transport/tcp/pair.cc:537] Read error [10.0.0.1]:1: Connection reset by peer. More",
            "Read error [10.0.0.1]:1: Connection reset by peer",
        ),
        ("NCCL error: remote process exited or there was a network error", None),
        ("Duplicate GPU detected", None),
    ],
)
def test_a_lost_process_is_told_from_other_errors(
    monkeypatch: pytest.MonkeyPatch, said: str, found: str | None
) -> None:
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    error = lost_rank(RuntimeError(said))
    if said.startswith("Duplicate"):
        assert error is None
        return
    assert error is not None
    assert (error.problem, error.found) == ("rank 1 of 2 has lost another rank", found or said)


def test_errors_of_one_process_are_what_they_are() -> None:
    assert lost_rank(RuntimeError("[gloo/pair.cc:553] Connection closed by peer")) is None


@pytest.fixture
def one_process() -> Any:
    """A process group of one: what is spread over it is spread, and whole at once."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.device_mesh.init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


def test_a_spread_network_is_gathered_as_it_was(one_process: Any) -> None:
    original, module = tiny_unet(), nn.ModuleDict({"network": tiny_unet()})
    original.register_buffer("grid", torch.arange(3.0), persistent=False)
    module["network"].register_buffer("grid", torch.arange(3.0), persistent=False)
    expected = {name: value.clone() for name, value in original.state_dict().items()}
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 5])
    shard(module["network"], one_process)
    shard(module["network"], one_process)  # a second time changes nothing
    assert is_sharded(module["network"])
    assert not is_sharded(original)
    torch.testing.assert_close(module["network"](x, t).sample, original(x, t).sample)
    plain = whole(module["network"])
    assert type(plain) is type(original)
    assert {
        name: torch.equal(value, expected[name]) for name, value in plain.state_dict().items()
    } == dict.fromkeys(expected, True)
    assert torch.equal(plain.grid, torch.arange(3.0))
    assert whole(original) is original
    doubled = {name: 2 * value for name, value in expected.items()}
    load_whole(module["network"], doubled)
    gather(module)
    assert not is_sharded(module["network"])
    assert all(torch.equal(value, doubled[name]) for name, value in module["network"].state_dict().items())
    fully_shard(original, mesh=one_process)
    expected = message(
        "a network was sharded without guda_lightning.diffusion.shard, and cannot be made whole again",
        "FSDPUNet2DModel that fully_shard was applied to",
        "guda_lightning.diffusion.shard(network, mesh), which keeps that",
        "call it in configure_model in place of fully_shard",
    )
    with pytest.raises(ConfigError, match=expected):
        whole(original)
    copy.deepcopy(module)  # which torch refuses for spread networks
