"""The command ``guda``."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence

from guda_lightning import notes
from guda_lightning.cli.commands import find, listing
from guda_lightning.cli.own_modules import find_own_modules
from guda_lightning.cli.reasons import explained
from guda_lightning.errors import GudaError
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
        _own_process()
    arguments = list(sys.argv[1:] if args is None else args)
    notes.begin()
    try:
        code = _answered(arguments)
        sys.stdout.flush()  # here, where it can be said that nobody reads
        return code
    except BrokenPipeError:
        if not _is_unread():
            raise  # of a worker, say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD
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


def _is_unread() -> bool:
    """Whether the reader of the output is gone, as that of `guda configs | head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _own_process() -> None:
    """Set up a process that runs nothing but this command."""
    # OpenMP's threads spin 30 times longer than this before they sleep, and starve each other on shared cores
    # (docs/decisions.md); torch is not imported yet.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    end_with_driver()
    find_own_modules()


def _refused(error: GudaError) -> int:
    rank = int(os.environ.get("LOCAL_RANK", "0"))  # of the processes of this machine
    print(f"error{f' (process {rank})' if rank else ''}: {error}", file=sys.stderr)
    return 2
