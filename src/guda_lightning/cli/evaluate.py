"""``guda evaluate``: how well scores agree with the oracle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from guda_lightning.cli.commands import Command


def run(command: Command, arguments: Sequence[str]) -> int:
    """Compare them, and write the evaluation."""
    chosen = _parser(command).parse_args(arguments)
    from guda_lightning.stages.evaluate import evaluate_run

    evaluate_run(
        chosen.run,
        chosen.scores,
        chosen.oracle,
        per=chosen.per,
        calibration=chosen.calibrate,
        resamples=chosen.resamples,
        wandb_project=chosen.wandb,
    )
    return 0


def _parser(command: Command) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        f"guda {command.name}",
        description=f"{command.summary}, which is models retrained without each group.",
    )
    parser.add_argument("run", type=Path, help="run folder")
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
        help="score tables of the oracle, one a seed; default: RUN/scores/retrain-SEED.parquet",
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
    return parser
