"""A task: a guda command that makes one counterfactual, in a process of its own."""

from __future__ import annotations

import os
import runpy
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
        """What its process is told, beside what it inherits."""
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


def run_here(task: Task) -> int:
    """Run a task in this process, which belongs to the task from then on.

    Not in a child of it: nothing may outlive a worker that is killed, beside its successor.

    Returns:
        The exit code of guda.

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
    os.chdir(task.cwd)
    log = os.open(task.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    environment = task.environment(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = task.arguments
    try:
        # As `python -m guda_lightning`, also for Lightning, which starts further processes of a training so.
        runpy.run_module("guda_lightning", run_name="__main__", alter_sys=True)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0


def end_with_driver() -> None:
    """Where this process is a task of another one: end when that ends, however it does."""
    if ENDS_WITH_DRIVER in os.environ:
        threading.Thread(target=_end_with_stdin, daemon=True).start()


def _end_with_stdin() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)  # files are whole or absent at any moment
