"""``guda replay``: makes a run again from its own record, and compares."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command
from guda_lightning.cli.plan import Plan
from guda_lightning.cli.repeating import refuse_other_data, repeat
from guda_lightning.cli.text import shown
from guda_lightning.errors import check_range
from guda_lightning.storage.paths import refuse_no_run, user_path
from guda_lightning.storage.runs import RunFolder

if TYPE_CHECKING:
    from guda_lightning.stages.replayed import Replayed

TOLERANCE = 0.1
_SHOWN = 20  # files that differ, of any number


def run(command: Command, arguments: Sequence[str]) -> int:
    """Make it again; 0 where nothing differs, else 1."""
    parser = Arguments(command)
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--into", type=Path, metavar="FOLDER", help="a folder that is not there yet (default: RUN-replay)"
    )
    parser.add_argument(
        "--stages",
        metavar="STAGES",
        help="which commands to repeat, such as fit,sample; what the others made is copied (default: all)",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        help="how far results may lie apart: weights in units of the largest change of a weight by training, "
        "pixels of their range, scores of their standard errors (default: %(default)s)",
    )
    parser.add_config("configuration that wins over the record, such as where the data lie now")
    parser.add_argument("--json", action="store_true", help="print what was found, as JSON")
    chosen = parser.parse_args(arguments)
    fix = "leave out --tolerance, or pass a share such as 0.05"
    check_range("tolerance", chosen.tolerance, ge=0, le=1, fix=fix)
    folder = RunFolder(refuse_no_run(chosen.run))
    root = folder.root.resolve()
    into = root.with_name(f"{root.name}-replay") if chosen.into is None else user_path(chosen.into)
    plan = Plan.of(folder, RunFolder(into), chosen.stages, chosen.config)
    with redirect_stdout(sys.stderr if chosen.json else sys.stdout):
        refuse_other_data(plan)
        first = repeat(plan)
        code = _compare(plan, chosen.tolerance) if first else 0
    if chosen.json and first:
        print(plan.result.read_text("utf-8"), end="")
    return code


def _compare(plan: Plan, tolerance: float) -> int:
    from guda_lightning.stages.replayed import Comparison, counts

    print(f"replay: comparing {plan.run.root} with {plan.into.root}", flush=True)
    comparison = Comparison(plan.run, plan.into, tolerance, plan.made, plan.copied)
    found, alone = list(comparison.files()), comparison.only_in_replay()
    files = [one.to_json() for one in found]
    said = {"tolerance": tolerance, "outcomes": counts(found), "files": files, "only_in_replay": alone}
    plan.finish(said)
    for line in plan.unlike():
        print(f"  not as then: {shown(line)}")
    differing = [one for one in found if one.outcome == "differs"]
    for one in differing[:_SHOWN]:
        print(f"  differs: {shown(one.file)}: {shown(_how(one))}")
    if len(differing) > _SHOWN:
        print(f"  and {len(differing) - _SHOWN} more")
    for reason in dict.fromkeys(one.reason for one in found if one.outcome == "not replayed"):
        which = [one.file for one in found if one.reason == reason and one.outcome == "not replayed"]
        more = f" and {len(which) - 1} more" if len(which) > 1 else ""
        print(f"  not replayed: {shown(which[0])}{more}: {reason}")
    if alone:
        more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
        print(f"  only in the replay: {shown(alone[0])}{more}: removed from the run folder since")
    near = [one for one in found if one.outcome == "within tolerance"]
    for unit in sorted({one.unit for one in near}):
        most = max(one.distance or 0.0 for one in near if one.unit == unit)
        print(f"  within tolerance: at most {most:.2g} of {unit}")
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in counts(found).items() if count)
    print(f"replay: of {len(found)} files {outcomes or 'none is there'}; {plan.result} says which")
    if all(one.outcome == "not replayed" for one in found):
        print("replay: nothing was compared, so nothing is shown")
        return 1
    return 1 if differing else 0


def _how(one: Replayed) -> str:
    """Why a file is another one."""
    if one.reason and one.distance is None:
        return one.reason
    at = f", at {one.reason}" if one.reason else ""
    return f"{one.distance:.3g} of {one.unit}{at}"
