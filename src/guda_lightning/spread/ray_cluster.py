"""Tasks on a Ray cluster: on any node that has what they need, again where a worker or a node is lost."""

from __future__ import annotations

import importlib
import logging
import math
import os
from collections import deque
from collections.abc import Generator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from guda_lightning.errors import ConfigError, GudaError, MissingExtraError
from guda_lightning.spread.base import LOOK_SECONDS, Ended, Executor
from guda_lightning.spread.task import Outcome, Task, refuse_unseen, run_here


class _Worker:
    """A process of Ray that runs one task after the other, on the GPUs that are its own."""

    def ready(self) -> Outcome:
        """Say that there was room for this process."""
        return Outcome(0, True)

    def run(self, task: Task) -> Outcome:
        """Run a task.

        Raises:
            StoreError: The node does not see the run folder.
        """
        refuse_unseen(task)
        return run_here(task)


class RayCluster(Executor):
    """Runs tasks in workers wherever Ray finds room; the nodes must share the disk of the run folder.

    Args:
        num_cpus: Processors of a task, more than 0; it computes with so many threads.
        num_gpus: GPUs of a task; below 1, several tasks share one.
        resources: What else a node must have, by the names that its ``ray start --resources`` gave.
        max_retries: How often Ray starts a task again whose worker or node was lost.
        address: The cluster, such as ``10.0.0.1:6379``; left out, that of ``RAY_ADDRESS``, or the one that
            runs on this machine, or a new one of this machine alone.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: A number is out of range.
    """

    def __init__(
        self,
        num_cpus: float = 1,
        num_gpus: float = 1,
        resources: Mapping[str, float] | None = None,
        max_retries: int = 3,
        address: str | None = None,
    ) -> None:
        if find_spec("ray") is None:
            raise MissingExtraError("ray", "ray")
        if num_cpus <= 0 or num_gpus < 0 or max_retries < 0:
            raise ConfigError(
                "the needs of a task are out of range",
                found=f"num_cpus {num_cpus}, num_gpus {num_gpus}, max_retries {max_retries}",
                expected="num_cpus > 0, num_gpus >= 0 and max_retries >= 0",
                fix="correct spread.init_args",
            )
        self.needs = {"CPU": num_cpus, "GPU": num_gpus, **(resources or {})}
        self.max_retries, self.address = max_retries, address
        self._connected = False

    @property
    def devices(self) -> int | None:
        """The GPUs of a task."""
        return math.ceil(self.needs["GPU"]) or None

    def room(self) -> int:
        """Connect, and count how many tasks all nodes have room for.

        Raises:
            ConfigError: There is no cluster at the address, or no node has room for a task.
        """
        ray = self._connect()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        needs = {name: amount for name, amount in self.needs.items() if amount}
        room = sum(
            min(int(node.get(name, 0) / amount + 1e-9) for name, amount in needs.items()) for node in nodes
        )
        if not room:
            have = [", ".join(f"{name} {node.get(name, 0):g}" for name in needs) for node in nodes]
            self._disconnect(ray)
            raise ConfigError(
                "no node of the Ray cluster has room for a task",
                found="; ".join(sorted(set(have))),
                expected=f"a node with {', '.join(f'{name} {amount:g}' for name, amount in needs.items())}",
                fix="start such a node first, or ask for less in spread.init_args",
            )
        return room

    def run(self, tasks: Sequence[Task]) -> Generator[list[Ended], None, None]:
        """Start a worker wherever there is room, and give each one task after the other.

        Raises:
            StoreError: A node does not see the run folder.
        """
        ray = self._connect()
        start: Any = ray.remote(
            num_cpus=self.needs["CPU"],
            num_gpus=self.needs["GPU"],
            resources={name: amount for name, amount in self.needs.items() if name not in ("CPU", "GPU")},
            max_restarts=-1,
            max_task_retries=self.max_retries,
        )(_Worker)
        waiting = deque(tasks)
        working: dict[Any, tuple[Any, Task | None]] = {}  # by what Ray says when it is over: worker and task

        def begin(worker: Any) -> None:
            if waiting:
                task = waiting.popleft()
                working[worker.run.options(name=f"guda {task.stage} {task.name}").remote(task)] = worker, task
            else:
                ray.kill(worker)  # its room may be what a lost one waits for

        try:
            for _ in range(min(self.room(), len(tasks))):
                worker = start.remote()
                working[worker.ready.remote()] = worker, None
            while any(task for _, task in working.values()) or waiting:
                over, _ = ray.wait(list(working), timeout=LOOK_SECONDS)
                ended = []
                for reference in over:
                    worker, task = working.pop(reference)
                    problem, reusable = self._outcome(ray, reference)
                    if task is not None:
                        ended.append(Ended(task, problem))
                    if not reusable:
                        ray.kill(worker)
                        worker = start.remote()
                    begin(worker)
                yield ended
        finally:
            for worker, _ in working.values():
                ray.kill(worker)
            self._disconnect(ray)

    def _outcome(self, ray: Any, reference: Any) -> tuple[str | None, bool]:
        """Why a task failed, if it did, and whether its worker may run another one."""
        try:
            code, reusable = ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, GudaError):
                raise error.cause from None
            return f"{type(error.cause).__name__}: {error.cause}", False
        except ray.exceptions.RayError as error:
            return f"{type(error).__name__} in each of {1 + self.max_retries} attempts", False
        return f"exit code {code}" if code else None, reusable

    def _connect(self) -> Any:
        ray = importlib.import_module("ray")
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves this machine unasked
            try:
                ray.init(
                    self.address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
                )
            except ConnectionError as error:
                raise ConfigError(
                    "there is no Ray cluster at the address",
                    found=" ".join(str(error).split())[:160],
                    expected="a cluster at the address",
                    fix="start one with `ray start --head`, or leave out the address",
                ) from error
            self._connected = True
        return ray

    def _disconnect(self, ray: Any) -> None:
        """Leave the cluster, unless somebody else has connected this process."""
        if self._connected:
            ray.shutdown()
            self._connected = False
