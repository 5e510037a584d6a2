"""``guda report``: the page of a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command
from guda_lightning.storage.leftovers import tidy
from guda_lightning.storage.locks import locked
from guda_lightning.storage.paths import refuse_missing_tables, refuse_no_run
from guda_lightning.storage.runs import RunFolder


def run(command: Command, arguments: Sequence[str]) -> int:
    """Write it."""
    parser = Arguments(command)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--scores",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="score table to begin with, and others that come next; default: the newest of a method. All "
        "tables of the same queries and groups are on the page in any case",
    )
    parser.add_argument(
        "--format",
        choices=("html", "json", "csv"),
        default="html",
        help="the page, or its numbers alone: RUN/report/report.json, .csv; default: %(default)s",
    )
    chosen = parser.parse_args(arguments)
    folder = refuse_no_run(chosen.run)
    tables = refuse_missing_tables(folder, chosen.scores or ())
    from guda_lightning.report.run import report_run

    run = RunFolder(folder)
    tidy(folder)
    with locked(folder, run.report):
        written = report_run(folder, *tables, format=chosen.format)
    print(f"report: open {written}" if chosen.format == "html" else f"report: {written} written")
    return 0
