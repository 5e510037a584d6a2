"""``guda run``: every stage in order, in one process."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from guda_lightning.cli.commands import Command, Stage, find, stages_of_run
from guda_lightning.cli.configs import located
from guda_lightning.cli.inputs import Inputs
from guda_lightning.cli.refusals import refuse_early
from guda_lightning.cli.stage import parse

if TYPE_CHECKING:
    from guda_lightning.cli.lightning import StageCLI


def run(command: Command, arguments: Sequence[str]) -> int:
    """Run the stages, and write the report of what the last one made."""
    inputs = [
        (stage, Inputs.of(stage.name, located(options))) for stage, options in _stages(command, arguments)
    ]
    names = [stage.name for stage, _ in inputs]
    for position, (stage, given) in enumerate(inputs):
        refuse_early(stage, given, names[:position])
    # What is misspelt for the last stage shows before the first one works.
    parsed = deque(parse(stage, given.arguments) for stage, given in inputs)
    made: dict[str, Any] = {}
    while parsed:
        cli = parsed.popleft()  # its model and data are free before the next stage reads its own
        if "unlearn" in made and cli.stage.name == "attribute":
            _score_only(cli, made["unlearn"])
        made[cli.stage.name] = cli.run()
    trainer = cli.trainer
    if not trainer.is_global_zero:
        return 0
    return find("report").run([trainer.default_root_dir, "--scores", str(made["attribute"][-1])])


def _score_only(cli: StageCLI, keys: Sequence[Any]) -> None:
    """Of several kinds of counterfactuals in the store, score those that were just made."""
    cli.config.operator = keys[0].operator
    cli.config.hparams = keys[0].hparams_hash[:12]
    cli.config.seed = keys[0].seed


def _stages(command: Command, arguments: Sequence[str]) -> list[tuple[Stage, list[str]]]:
    """The stages to run, each with its command line."""
    stages = stages_of_run()
    chosen, others = _parser(command, stages).parse_known_args(arguments)
    shared = [*(part for path in chosen.config for part in ("-c", path)), *others]
    lines = []
    for stage in stages:
        own = getattr(chosen, stage.name)
        line = [*shared, *(["-c", own] if own else [])]
        if chosen.queries is None:
            lines.append((stage, line))
        elif stage.name == "attribute":
            lines.append((stage, [*line, "--queries", chosen.queries]))
        elif stage.name != "sample":  # there are queries
            lines.append((stage, line))
    return lines


def _parser(command: Command, stages: Sequence[Stage]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        f"guda {command.name}",
        description=f"{command.summary}.",
        epilog="All other options go to every stage, such as --run FOLDER or --trainer.max_steps 500.",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", action="append", required=True, help="configuration of all stages")
    for stage in stages:
        default = f" (default: {stage.config})" if stage.config else ""
        parser.add_argument(
            f"--{stage.name}",
            metavar="FILE",
            default=stage.config,
            help=f"configuration of {stage.name} alone{default}",
        )
    parser.add_argument(
        "--queries", help="an image or a folder of images, instead of samples of the full model"
    )
    return parser
