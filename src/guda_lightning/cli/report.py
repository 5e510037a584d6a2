"""``guda report``: the page of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command
from guda_lightning.storage.paths import refuse_missing_tables, refuse_no_run


def run(command: Command, arguments: Sequence[str]) -> int:
    """Write it."""
    parser = Arguments(command)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--scores",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="score table, and others of the same queries to switch to; default: the newest of a method",
    )
    chosen = parser.parse_args(arguments)
    refuse_no_run(chosen.run)
    refuse_missing_tables(chosen.run, chosen.scores or ())
    from guda_lightning.report.run import report_run

    page = report_run(chosen.run, *(chosen.scores or ()))
    print(f"report: open {page}")
    return 0
