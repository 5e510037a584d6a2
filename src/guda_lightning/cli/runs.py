"""``guda runs``: the run folders below a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command
from guda_lightning.cli.text import table
from guda_lightning.errors import StoreError
from guda_lightning.storage.paths import user_path
from guda_lightning.storage.runs import RunFolder

if TYPE_CHECKING:
    from guda_lightning.storage.run_state import RunState

_HEADS = (
    "run",
    "full model",
    "queries",
    "groups",
    "counterfactuals",
    "tables",
    "best method",
    "last change",
    "at work",
)


def run(command: Command, arguments: Sequence[str]) -> int:
    """List them."""
    parser = Arguments(command)
    parser.add_argument("folder", type=Path, nargs="?", default=Path(), help="where to look (default: here)")
    parser.add_argument("--json", action="store_true", help="print everything that is known, as JSON")
    chosen = parser.parse_args(arguments)
    folder = user_path(chosen.folder)
    if not folder.is_dir():
        raise StoreError(
            f"{folder} is no folder",
            found="a file" if folder.exists() else f"nothing at {folder}",
            expected="a folder to look for run folders in",
            fix="correct the path, or leave it out to look here",
        )
    from guda_lightning.storage.run_state import run_state

    itself = RunFolder(folder)
    states = [run_state(one) for one in ([itself] if itself.exists else RunFolder.below(folder))]
    if chosen.json:
        print(json.dumps([state.to_json() for state in states], indent=2))
    elif states:
        print(table([_HEADS, *map(_row, states)]))
    else:
        print(f"no run folders in {folder.resolve()}; guda run -c digits.yaml makes one")
    return 0


def _row(state: RunState) -> list[str]:
    made = [f"{count} {name}" for name, count in state.counterfactuals.items()]
    return [
        state.run,
        state.full,
        str(state.queries),
        str(len(state.groups)),
        ", ".join([*state.posteriors, *made]) or "none",
        ", ".join(one.name for one in state.tables) or "none",
        best(state),
        f"{datetime.fromtimestamp(state.changed):%Y-%m-%d %H:%M}",
        ", ".join(f"{owner.user} on {owner.host}" for owner in state.at_work),
    ]


def best(state: RunState) -> str:
    """What an evaluation says of the method that it puts first."""
    if state.best is None:
        return "not evaluated"
    found = state.best
    said = f"{found.method} {found.top1:.2f} top-1"
    return said if found.above_chance else f"{said}, no better than chance"
