"""The command ``guda``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from guda_lightning import notes
from guda_lightning.cli import streams
from guda_lightning.cli.commands import find, listing
from guda_lightning.cli.own_modules import find_own_modules
from guda_lightning.cli.reasons import explained
from guda_lightning.errors import ConfigError, GudaError
from guda_lightning.spread.task import end_with_driver
from guda_lightning.version import __version__

UNREAD = 141  # what a shell reports of a program whose output nobody reads
INTERRUPTED = 130  # what a shell reports after Ctrl-C
AFTER_INTERRUPT = "interrupted: the same command goes on from the last whole epoch, group or batch"
HELP = f"""guda {__version__}: which groups of my training data made this generated sample?

{listing()}

Every stage prints its cost first, goes on where it was interrupted and skips what is complete.
`-c` takes several files, later ones win, and flags win over files: --run runs/mine --trainer.max_steps 500.
A file that does not exist here is looked up among those of `guda configs`.
`guda STAGE --help` lists the options of a stage; `guda STAGE -c ... --print_config` shows all values.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 2 for bad input, 130 for Ctrl-C."""
    if args is None:
        streams.own_streams()
    try:
        return _run(args)
    except BrokenPipeError:
        gone = streams.unread()
        if not gone:
            raise  # of a worker, say
        for stream in gone:
            streams.drop(stream)
        return UNREAD


def _run(args: Sequence[str] | None) -> int:
    """The exit code, with what there is to say printed."""
    try:
        _refuse_no_working_folder()
        if args is None:
            _own_process()
        notes.begin()
        code = _answered(list(sys.argv[1:] if args is None else args))
        sys.stdout.flush()  # here, where it can be said that nobody reads, or that the disk is full
        return code
    except BrokenPipeError:
        raise
    except Exception as error:
        refused = explained(error)
        if refused is None:
            raise
        return _refused(refused)
    except KeyboardInterrupt:
        print(f"\n{AFTER_INTERRUPT}", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as exit_:  # jsonargparse and argparse have printed why
        return exit_.code if isinstance(exit_.code, int) else 2


def _answered(arguments: Sequence[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if arguments[0] == "--version":
        print(f"guda {__version__}")
        return 0
    return find(arguments[0]).run(arguments[1:])


def _refuse_no_working_folder() -> None:
    """Refuse to work where nothing can be found.

    Raises:
        ConfigError: The working folder was removed, or is one that this user may not enter.
    """
    try:
        os.getcwd()
    except OSError as error:
        raise ConfigError(
            "the working folder cannot be used",
            found=error.strerror,
            expected="a folder that exists: relative paths, and libraries, start from it",
            fix="cd to another folder, or to the same path again where it was made anew",
        ) from error


def _own_process() -> None:
    """Set up a process that runs nothing but this command."""
    # OpenMP's threads spin 30 times longer than this before they sleep, and starve each other on shared cores
    # (docs/decisions.md); torch is not imported yet.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    end_with_driver()
    find_own_modules()


def _refused(error: GudaError) -> int:
    rank = os.environ.get("LOCAL_RANK", "0")  # of the processes of this machine
    streams.tell(f"error{'' if rank == '0' else f' (process {rank})'}: {error}")
    return 2
