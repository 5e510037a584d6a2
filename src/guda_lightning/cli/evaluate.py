"""``guda evaluate``: how well scores agree with the oracle."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command
from guda_lightning.cli.yardstick import scored
from guda_lightning.errors import ConfigError
from guda_lightning.storage.environment import environment
from guda_lightning.storage.foreign import refuse_foreign
from guda_lightning.storage.history import Step, noted
from guda_lightning.storage.leftovers import tidy
from guda_lightning.storage.locks import locked
from guda_lightning.storage.paths import expanded, refuse_missing_tables, refuse_no_run, user_path
from guda_lightning.storage.runs import RunFolder


def run(command: Command, arguments: Sequence[str]) -> int:
    """Compare them, and write the evaluation."""
    chosen = _parser(command).parse_args(arguments)
    _refuse_half_a_yardstick(chosen)
    if chosen.distribution is not None:
        _refuse_beside_distribution(chosen)
    if chosen.yardstick is None:
        chosen.run = refuse_no_run(chosen.run)
        if chosen.distribution is not None:
            chosen.distribution = [refuse_no_run(run) for run in chosen.distribution]
    elif chosen.run is not None:
        chosen.run = user_path(chosen.run)
    for option in ("scores", "oracle", "lds"):
        if (tables := getattr(chosen, option)) is not None:
            setattr(chosen, option, refuse_missing_tables(chosen.run, tables))
    if not chosen.json:
        _evaluate(chosen, arguments)
        return 0
    with redirect_stdout(sys.stderr):
        files = _evaluate(chosen, arguments)
    print(json.dumps(_as_json(files), indent=2))
    return 0


def _evaluate(chosen: argparse.Namespace, arguments: Sequence[str]) -> list[Path]:
    """Compare, and return the files that hold what was found."""
    if chosen.distribution is not None:
        from guda_lightning.stages.distribution import evaluate_distribution

        written = RunFolder(chosen.run).distribution
        tidy(chosen.run)
        with locked(chosen.run, written), noted(RunFolder(chosen.run), _step(chosen.run, arguments)):
            evaluate_distribution(
                chosen.run, chosen.distribution, resamples=chosen.resamples, wandb_project=chosen.wandb
            )
        return [written]
    root = chosen.run
    if chosen.yardstick is not None:
        root = scored(chosen.yardstick, chosen.run, chosen.config, chosen.data)
    from guda_lightning.stages.evaluate import evaluate_run

    folder = RunFolder(root).evaluation
    tidy(root)
    refuse_foreign(folder, "guda evaluate", mark="*.parquet")
    with locked(root, folder), noted(RunFolder(root), _step(root, arguments)):
        evaluate_run(
            root,
            chosen.scores,
            chosen.oracle,
            per=chosen.per,
            calibration=chosen.calibrate,
            resamples=chosen.resamples,
            wandb_project=chosen.wandb,
            brief=chosen.yardstick is not None,
            lds=chosen.lds,
        )
    return sorted(folder.glob("*.parquet"))


def _step(root: Path, arguments: Sequence[str]) -> Step:
    """What RUN/history keeps."""
    return Step("evaluate", str(root), tuple(_written_out(arguments)), environment=environment())


def _written_out(arguments: Sequence[str]) -> Iterator[str]:
    """The arguments with paths written out, and names, which may hold a ``$``, as they are."""
    for before, one in pairwise(("", *arguments)):
        is_name = one.startswith("-") or before in ("--calibrate", "--wandb")
        yield one if is_name else expanded(one)


def _as_json(files: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """The rows of files by their names; numbers that JSON lacks are null."""
    import pyarrow.parquet as pq

    return {
        path.stem: [
            {
                name: None if isinstance(one, float) and not math.isfinite(one) else one
                for name, one in row.items()
            }
            for row in pq.read_table(path).to_pylist()
        ]
        for path in files
    }


def _refuse_half_a_yardstick(chosen: argparse.Namespace) -> None:
    """Refuse options that belong to a yardstick where none is named, and nothing to evaluate.

    Raises:
        ConfigError: There is neither a run folder nor a yardstick, or an option has no use.
    """
    if chosen.yardstick is not None:
        return
    if chosen.run is None:
        raise ConfigError(
            "there is nothing to evaluate",
            found="no run folder and no yardstick",
            expected="a run folder with an oracle, or an oracle that comes with guda",
            fix="guda evaluate RUN, or guda evaluate --yardstick digits",
        )
    for option, value in (("-c", chosen.config), ("--data", chosen.data)):
        if value:
            raise ConfigError(
                f"{option} is about a yardstick, and none is named",
                found=f"{option} {value[0] if isinstance(value, list) else value}",
                expected="a run folder alone, whose score tables are compared",
                fix=f"leave out {option}, or add --yardstick NAME",
            )


def _refuse_beside_distribution(chosen: argparse.Namespace) -> None:
    """Refuse options of other comparisons than that of trainings.

    Raises:
        ConfigError: One is given.
    """
    others = ("yardstick", "scores", "oracle", "lds", "calibrate")
    given = {f"--{name}": value for name in others if (value := getattr(chosen, name)) is not None}
    if chosen.per != "group":
        given["--per"] = chosen.per
    for option, value in given.items():
        shown = " ".join(map(str, value)) if isinstance(value, list) else value
        raise ConfigError(
            f"{option} is about agreement with the oracle, and trainings are compared",
            found=f"--distribution and {option} {shown}".rstrip(),
            expected="one of them",
            fix=f"leave out {option}, or --distribution",
        )


def _parser(command: Command) -> argparse.ArgumentParser:
    parser = Arguments(command, ", which is models retrained without each group")
    parser.add_argument("run", type=Path, nargs="?", help="run folder; of a yardstick runs/yardstick-NAME")
    parser.add_argument(
        "--yardstick",
        metavar="NAME",
        help="score against an oracle that comes with guda, such as digits, or the path of a card",
    )
    parser.add_config(
        "configuration of guda attribute for an attributor to score the yardstick with, one each; "
        "default: guidance, NDA and pixel similarity"
    )
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="images of a yardstick that has none of its own"
    )
    parser.add_argument(
        "--scores",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="score tables to compare; default: all of the run folder about the oracle's queries",
    )
    parser.add_argument(
        "--oracle",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="score tables of the oracle, one a seed; default: RUN/scores/retrain-SEED.parquet, or where "
        "there are none ensemble-SEED.parquet",
    )
    parser.add_argument(
        "--lds",
        type=Path,
        nargs="*",
        metavar="FILE",
        help="compare sums of scores with models of subsets of the groups, too: their score tables, one a "
        "seed; default: RUN/scores/retrain-SEED-subsets.parquet, of guda retrain and attribute --subsets 16",
    )
    parser.add_argument(
        "--distribution",
        type=Path,
        nargs="*",
        metavar="RUN",
        help="instead, compare the law of training with and without each group: which makes the model "
        "unstable? Run folders of guda fit with other seeds, which scored the same queries",
    )
    parser.add_argument(
        "--per",
        choices=("group", "sample"),
        default="group",
        help="what a score stands for: a group, or one sample of it on average (default: group)",
    )
    parser.add_argument(
        "--calibrate", metavar="GROUPS", help="groups to fit magnitudes on, such as 3,7; tested on the others"
    )
    parser.add_argument(
        "--resamples", type=int, default=2000, help="bootstrap resamples of the intervals (default: 2000)"
    )
    parser.add_argument(
        "--wandb", metavar="PROJECT", help="log to W&B too, offline unless WANDB_MODE says otherwise"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the rows of what was found as JSON, and the text to stderr"
    )
    return parser
