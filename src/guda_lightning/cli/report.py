"""``guda report``: the page of a run folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from guda_lightning.cli.commands import Command


def run(command: Command, arguments: Sequence[str]) -> int:
    """Write it."""
    parser = argparse.ArgumentParser(f"guda {command.name}", description=f"{command.summary}.")
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
    from guda_lightning.report.run import report_run

    written = report_run(chosen.run, *(chosen.scores or ()), format=chosen.format)
    print(f"report: open {written}" if chosen.format == "html" else f"report: {written} written")
    return 0
