"""How a stage has its counterfactuals made in other processes."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lightning.pytorch import Trainer

from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualStore
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.makers.costs import TimeLeft, say, spent
from guda_lightning.spread import Executor, Task
from guda_lightning.spread.screen import Screen
from guda_lightning.storage.files import canonical_json, sha256_json, write_atomic
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.written import wrote

_HIDDEN_SECONDS = 60.0  # a network disk may hide from one machine so long what another has written
_TAIL = 5  # lines of a log in an error


@dataclass(frozen=True)
class Spreading:
    """An executor, and what it needs of the stage that uses it.

    Attributes:
        spread: The executor.
        resolved: The stage's whole configuration as YAML, which every task runs.
        run: The run folder.
    """

    spread: Executor
    resolved: str
    run: RunFolder

    @classmethod
    def of(cls, trainer: Trainer, spread: Executor | None, resolved: str | None) -> Spreading | None:
        """What a stage needs to use the configured executor; None: none is configured.

        Raises:
            ConfigError: There is no configuration to run; this is one of several processes already; or a task
                sees other devices than the trainer is configured for.
        """
        if spread is None:
            return None
        if resolved is None:
            raise ConfigError(
                "spread needs the command line",
                found="a stage called from Python, without its configuration",
                expected="`guda unlearn` or `guda retrain`",
                fix="use the command line with --spread, or leave out the spread",
            )
        if os.environ.get("WORLD_SIZE", "1") != "1":
            raise ConfigError(
                "spread starts its processes itself",
                found=f"one of {os.environ['WORLD_SIZE']} processes of the same command",
                expected="one process",
                fix="start guda without torchrun, or leave out the spread",
            )
        if spread.devices not in (None, trainer.world_size):
            raise ConfigError(
                "tasks see other devices than the trainer is configured for",
                found=f"a trainer of {trainer.world_size} devices, tasks of {spread.devices}",
                expected="the same number",
                fix=f"pass --trainer.devices {spread.devices} --trainer.num_nodes 1, or change the spread",
            )
        return cls(spread, resolved, RunFolder(Path(trainer.default_root_dir)))

    def make(self, stage: str, todo: Sequence[CounterfactualKey], seeds: bool = False) -> None:
        """Have counterfactuals made, and see to it that they are in the store.

        Args:
            stage: The subcommand.
            todo: The counterfactuals.
            seeds: Whether the stage makes several seeds, so that a task needs its own, and subsets.

        Raises:
            GudaError: A task cannot run, or a counterfactual is missing in the end.
        """
        folder, store = self.run.spread.absolute(), CounterfactualStore(self.run.store)
        config = folder / f"{stage}-{sha256_json(self.resolved)[:12]}.yaml"
        tasks = {}
        for key in todo:
            name = f"{key.name} (seed {key.seed})" if seeds else key.name
            options = ["--groups", canonical_json([key.name])]
            options += ["--subsets", "null", "--seeds", str(key.seed)] if seeds else []
            log = folder / f"{key.folder_name}.log"
            tasks[Task(name, stage, config, tuple(options), log, Path.cwd())] = key
        say(f"{stage}: {min(self.spread.room(), len(tasks))} at a time, logs in {self.run.spread}")
        write_atomic(config, self.resolved)
        for task in tasks:
            for file in (task.log, task.progress):  # of an earlier command, which somebody may have killed
                file.unlink(missing_ok=True)
        done, left = list[Task](), TimeLeft(len(tasks))
        failed: dict[Task, str] = {}
        with Screen(stage, list(tasks)) as screen, closing(self.spread.run(list(tasks))) as looks:
            for task, problem in chain.from_iterable(screen.watch(looks)):
                if problem is None and not _is_there(store, tasks[task]):
                    problem = f"nothing at {store.path(tasks[task])}"
                if problem is None:
                    wrote(store.path(tasks[task]))
                    done.append(task)
                    cost = f"{spent(vars(store.record(tasks[task])))}{left.after_one()}"
                    screen.end(task, f"{stage}: {task.name} done ({len(done)} of {len(tasks)}), {cost}")
                else:
                    failed[task] = problem
                    left.after_one()
                    screen.end(task, f"{stage}: {task.name} failed: {problem}")
        if failed:
            found = "; ".join(f"{task.name}: {problem}, {task.log}" for task, problem in failed.items())
            raise StoreError(
                f"{stage}: {len(failed)} of {len(tasks)} counterfactuals are missing",
                found=f"{found}\n{_tail(next(iter(failed)).log)}",
                expected=f"all of them in {self.run.store}",
                fix="mend what the logs say, and rerun the same command: what is complete is kept",
            )


def _is_there(store: CounterfactualStore, key: CounterfactualKey) -> bool:
    """Whether the store holds what a task says that it has made."""
    end = time.monotonic() + _HIDDEN_SECONDS
    while not store.exists(key):
        if time.monotonic() > end:
            return False
        time.sleep(1)
    return True


def _tail(log: Path) -> str:
    """The end of a log, indented."""
    lines = log.read_text("utf-8", "replace").splitlines() if log.is_file() else []
    return "\n".join(f"    {line}" for line in lines[-_TAIL:]) or "    an empty log"
