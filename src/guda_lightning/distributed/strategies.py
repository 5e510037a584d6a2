"""Strategies: how a stage uses several processes."""

from __future__ import annotations

import os
from typing import TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.utilities.model_helpers import is_overridden

from guda_lightning import compat
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError

FSDP2 = "fsdp2"

_Value = TypeVar("_Value")


class FSDP2Strategy(ModelParallelStrategy):
    """Weights, gradients and optimizer states spread over all processes; ``--trainer.strategy fsdp2``.

    Lightning's ``ModelParallelStrategy`` with one dimension, all processes, and with checkpoints of a single
    file each, which every other strategy resumes.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Set the number of processes, and connect to the others."""
        compat.set_data_parallel_size(self, self.num_nodes * self.num_processes)
        super().setup_environment()


if FSDP2 not in StrategyRegistry:
    StrategyRegistry.register(FSDP2, FSDP2Strategy, "FSDP2 over all processes, single-file checkpoints")


def refuse_strategy(trainer: Trainer) -> None:
    """Refuse a strategy under which a stage would lose its results, or could not go on.

    Raises:
        ConfigError: It starts processes that hand nothing back, writes checkpoints in pieces, splits layers,
            or has fewer processes than were started.
    """
    strategy = trainer.strategy
    name = type(strategy).__name__
    started = _started()
    if started > 1 and started != trainer.world_size:
        raise ConfigError(
            "the trainer does not have all processes that were started",
            found=f"{started} processes by torchrun or srun, and a trainer of {trainer.world_size}",
            expected="as many: each process too many would do the same work, into the same files",
            fix="set trainer.devices to the processes of a machine, trainer.num_nodes to the machines, and "
            "trainer.strategy to ddp or fsdp2",
        )
    if compat.hands_nothing_back(strategy):
        raise ConfigError(
            "this strategy hands no trained weights back from its processes",
            found=f"{name} that spawns or forks",
            expected="a strategy whose processes run the same command",
            fix="set trainer.strategy to ddp or fsdp2; in a notebook, run the command in a shell",
        )
    if isinstance(strategy, FSDPStrategy):
        raise ConfigError(
            "FSDP1 is not supported",
            found=name,
            expected="FSDP2, which shards frozen weights too and works on any device",
            fix="set trainer.strategy to fsdp2",
        )
    if isinstance(strategy, ModelParallelStrategy) and compat.saves_in_pieces(strategy):
        raise ConfigError(
            "checkpoints in pieces cannot be resumed by other strategies",
            found=f"{name} with save_distributed_checkpoint=True",
            expected="checkpoints of a single file",
            fix="set trainer.strategy to fsdp2",
        )
    if isinstance(strategy, ModelParallelStrategy) and not (
        isinstance(strategy, FSDP2Strategy) or compat.tensor_parallel_size(strategy) == 1
    ):
        raise ConfigError(
            "tensor parallelism is not supported",
            found=f"{name} with tensor_parallel_size={compat.tensor_parallel_size(strategy)!r}",
            expected="1: processes share batches and queries, and spread weights over all of them",
            fix="set trainer.strategy to fsdp2",
        )


def _started() -> int:
    """The processes that somebody else has started for this command."""
    variable = "WORLD_SIZE" if "TORCHELASTIC_RUN_ID" in os.environ else "SLURM_STEP_NUM_TASKS"
    return int(os.environ.get(variable, "1"))


def refuse_unsharded(trainer: Trainer, module: LightningModule) -> None:
    """Refuse a module that would not shard its weights where the trainer asks for that.

    Raises:
        ConfigError: It has no ``configure_model``.
    """
    if isinstance(trainer.strategy, ModelParallelStrategy) and not is_overridden("configure_model", module):
        raise ConfigError(
            f"{type(module).__name__} does not shard its weights, as {FSDP2} needs",
            found="no method configure_model",
            expected="one that calls guda_lightning.diffusion.shard(network, mesh) for each of its networks",
            fix="write it, with mesh = self.device_mesh['data_parallel'], or set trainer.strategy to ddp",
        )


def start_processes(trainer: Trainer) -> None:
    """Start the processes of a trainer that will not train, and connect to them; started ones stay."""
    strategy = trainer.strategy
    strategy.connect(LightningModule())  # some strategies give it their processes
    if strategy.launcher is None:
        strategy.setup_environment()
    else:
        strategy.launcher.launch(strategy.setup_environment, trainer=trainer)


def connected(trainer: Trainer) -> Ranks:
    """The processes of a trainer, started and connected to each other."""
    if trainer.world_size > 1 or isinstance(trainer.strategy, ModelParallelStrategy):  # which has a mesh then
        start_processes(trainer)
    return Ranks.of(trainer)


def agreed(trainer: Trainer, found: _Value, work: bool) -> _Value:
    """What the first process has found, on all of them: another command may have changed it in between.

    Args:
        trainer: The trainer.
        found: What this process has found.
        work: Whether there is work, for which a single process starts the others.
    """
    return connected(trainer).broadcast(found) if work or _are_started(trainer) else found


def _are_started(trainer: Trainer) -> bool:
    """Whether all processes run already: by torchrun, by srun, or because the first one has started them."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return environment is None or bool(environment.creates_processes_externally)
