"""The processes that share a piece of work."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from lightning.pytorch import Trainer
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from guda_lightning import compat
from guda_lightning.errors import RankError

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Ranks:
    """All processes, as one of them sees them; every method must be called by all of them.

    Attributes:
        rank: This process.
        count: Number of processes.
        mesh: What weights are sharded over, under FSDP2; None: every process holds all of them.
    """

    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None

    @classmethod
    def of(cls, trainer: Trainer | None) -> Ranks:
        """The processes that a trainer distributes samples to, once it has started them."""
        dealt = None if trainer is None else trainer.distributed_sampler_kwargs
        if trainer is None or dealt is None:  # a strategy of one process
            return cls()
        strategy: Any = trainer.strategy
        sharded = compat.is_lightning(strategy, "ModelParallelStrategy")
        mesh = strategy.device_mesh["data_parallel"] if sharded else None
        return cls(dealt["rank"], dealt["num_replicas"], mesh)

    def broadcast(self, value: _Value) -> _Value:
        """The value of rank zero on every rank: what files say may differ for a moment between machines."""
        if self.count == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def all_gather(self, value: _Value) -> list[_Value]:
        """The values of all ranks, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def mean(self, tensor: Tensor) -> Tensor:
        """The mean of a tensor over all ranks, the same bits on each."""
        if self.count == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total / self.count

    def on_rank_zero(self, work: Callable[[], object]) -> None:
        """Call ``work`` on rank zero alone, such as to write a file; every rank waits until it is done.

        Raises:
            RankError: It has failed on rank zero, which itself raises what happened.
        """
        failed = False
        try:
            if self.rank == 0:
                work()
        except BaseException:
            failed = True
            raise
        finally:
            failed = self.broadcast(failed)
        if failed:
            raise RankError(
                "rank zero has failed",
                found="an error there",
                expected="its work, which the other ranks wait for",
                fix="see what it printed",
            )

    def barrier(self) -> None:
        """Wait for all ranks, so that none reads what another still writes."""
        self.all_gather(None)


ALONE = Ranks()
_LOST = ("by peer", "Broken pipe", "timed out", "Timed out", "remote process")  # what gloo and NCCL say


def lost_rank(error: RuntimeError) -> RankError | None:
    """The error to show where ``error`` says that another process is gone; None: it says something else."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    text = " ".join(str(error).split())
    if not any(sign in text for sign in _LOST):
        return None
    return RankError(
        f"rank {dist.get_rank()} of {dist.get_world_size()} has lost another rank",
        found=re.sub(r"^\[\S*pair\.cc:\d+\] ", "", text).partition(". ")[0][:160],
        expected="all processes alive until the end",
        fix="see what the other process printed last, nothing where it was killed, as for want of memory; "
        "then the same command goes on from the last whole epoch, group or batch",
    )
