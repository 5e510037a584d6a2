"""A task: a guda command that makes one counterfactual, in a worker process."""

from __future__ import annotations

import gc
import json
import os
import runpy
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from guda_lightning.errors import StoreError
from guda_lightning.spread.progress import PROGRESS

# By these, Lightning would take a task for one of several processes of a training: whatever srun or torchrun
# has started Ray's workers, or this driver, did not start the task.
_LAUNCHERS = ("SLURM_", "JSM_NAMESPACE_", "TORCHELASTIC_", "MASTER_")
_RANKS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
ENDS_WITH_DRIVER = "GUDA_ENDS_WITH_STDIN"  # set where standard input is a pipe that the driver holds


@dataclass(frozen=True)
class Task:
    """What to run, and where it leaves what it has to say.

    Attributes:
        name: What people call it, such as its group.
        stage: The subcommand.
        config: The stage's whole configuration; an absolute path.
        options: What only this task has, behind the configuration.
        log: Everything that it prints, of all attempts; an absolute path.
        cwd: The folder that relative paths in the configuration start from.
    """

    name: str
    stage: str
    config: Path
    options: tuple[str, ...]
    log: Path
    cwd: Path

    @property
    def arguments(self) -> tuple[str, ...]:
        """Those of the command ``guda``."""
        return (self.stage, "-c", str(self.config), *self.options)

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """The variables of its process: what it inherits, less what marks it as one of several."""
        kept = {
            name: value
            for name, value in inherited.items()
            if not name.startswith(_LAUNCHERS) and name not in _RANKS
        }
        return {**kept, PROGRESS: str(self.progress)}

    @property
    def progress(self) -> Path:
        """The file that says how far it is."""
        return self.log.with_suffix(".progress")

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, line: str | bytes) -> Task:
        """The task of such a line."""
        fields = json.loads(line)
        fields |= {name: Path(fields[name]) for name in ("config", "log", "cwd")}
        return cls(**{**fields, "options": tuple(fields["options"])})


class Outcome(NamedTuple):
    """How a task ended in a worker.

    Attributes:
        code: The exit code of guda.
        reusable: Whether the worker is as it was, and may run another task.
    """

    code: int
    reusable: bool


def run_here(task: Task) -> Outcome:
    """Run a task in this process, which is a worker: it runs one task after the other.

    Not in a child of it: nothing may outlive a worker that is killed, beside its successor. What a task
    prints, and what this process prints after it, goes into the task's log.
    """
    log = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    os.close(log)
    inherited, path, arguments = dict(os.environ), list(sys.path), list(sys.argv)
    os.chdir(task.cwd)
    _replace_environment(task.environment(inherited))
    sys.argv[1:] = task.arguments
    code = 1
    try:
        # As `python -m guda_lightning`, also for Lightning, which starts further processes of a training so.
        runpy.run_module("guda_lightning", run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except Exception:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        _replace_environment(inherited)
        sys.path[:], sys.argv[:] = path, arguments
    return Outcome(code, code == 0 and _released())


def _replace_environment(environment: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _released() -> bool:
    """Give the GPU's memory back to other processes; whether nothing of several processes is left."""
    torch = sys.modules.get("torch")
    if torch is None:
        return True
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    return not (torch.distributed.is_available() and torch.distributed.is_initialized())


def refuse_unseen(task: Task) -> None:
    """Refuse a task whose files are not here.

    Raises:
        StoreError: This machine does not see the folders of the driver.
    """
    for path in (task.config, task.cwd):
        if not path.exists():
            raise StoreError(
                f"the node {socket.gethostname()} does not see the run folder",
                found=f"nothing at {path}",
                expected="the files of the machine that guda was started on, under the same path",
                fix="keep the run folder, and the folder to start guda in, on a disk that all nodes share",
            )


_watches_driver = False


def watches_driver() -> bool:
    """Take over the watch for the end of the driver; whether it is this process's first."""
    global _watches_driver
    first, _watches_driver = not _watches_driver, True
    return first


def end_with_driver() -> None:
    """Where this process is a task of another one: end when that ends, however it does."""
    if ENDS_WITH_DRIVER in os.environ and watches_driver():
        threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)  # files are whole or absent at any moment
