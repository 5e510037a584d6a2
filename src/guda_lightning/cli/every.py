"""``guda run``: every stage in order, in one process."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command, Stage, find, stages_of_run
from guda_lightning.cli.configs import located
from guda_lightning.cli.inputs import Inputs
from guda_lightning.cli.refusals import refuse_bare, refuse_early, refuse_no_configuration
from guda_lightning.cli.stage import parse

if TYPE_CHECKING:
    from guda_lightning.cli.lightning import StageCLI
    from guda_lightning.counterfactuals import CounterfactualKey
    from guda_lightning.posteriors import PosteriorKey


def run(command: Command, arguments: Sequence[str]) -> int:
    """Run the stages, and write the report of what the last one made."""
    chosen, shared, lines = _stages(command, arguments)
    told = Inputs.of(command.name, located(shared))
    refuse_bare(f"guda {command.name}", told)
    refuse_no_configuration(f"guda {command.name}", told)
    inputs = [(stage, Inputs.of(stage.name, located(options))) for stage, options in lines]
    names = [stage.name for stage, _ in inputs]
    for position, (stage, given) in enumerate(inputs):
        refuse_early(stage, given, names[:position])
    # What is misspelt for the last stage shows before the first one works.
    parsed = {stage.name: parse(stage, given.arguments) for stage, given in inputs}
    if chosen.guide is None and not _is_guided(parsed["unlearn"]):
        del parsed["guide"]
    else:
        _refuse_unguidable(parsed["guide"])
    if chosen.queries is not None:
        _refuse_unreadable(chosen.queries)
    made: list[PosteriorKey | CounterfactualKey] = []
    tables: list[Path] = []
    for name in list(parsed):
        cli = parsed.pop(name)  # its model and data are free before the next stage reads its own
        if name == "attribute":
            tables = _score(cli, made)
        elif name == "guide":
            made.append(cli.run())
        elif name == "unlearn":
            made.append(cli.run()[0])
        else:
            cli.run()
    trainer = cli.trainer
    if not trainer.is_global_zero:
        return 0
    return find("report").run([trainer.default_root_dir, "--scores", *map(str, tables)])


def _refuse_unguidable(guide: StageCLI) -> None:
    """Refuse groups that the class labels of a conditional model determine before that model is trained.

    Those of prompts are known only once these are encoded; ``guda guide`` refuses them.

    Raises:
        ConfigError: Labels determine the groups, which no posterior can then tell apart.
    """
    model = guide.config.model
    if model is None or not (model.get("init_args") or {}).get("conditional"):
        return
    import torch  # slow, and help must not wait for it

    from guda_lightning.posteriors.classifier import refuse_determined

    data = guide.section("data")
    refuse_determined(torch.from_numpy(data.grouping.atoms()[1]), data.labels)


def _refuse_unreadable(queries: str) -> None:
    """Refuse a folder that holds no queries, or what is none, before a model is trained for them.

    Raises:
        QueryError: It does, or the first of them cannot be read.
    """
    from guda_lightning.data.query_folder import picture_shape  # with torch

    picture_shape(queries)


def _score(cli: StageCLI, made: Sequence[PosteriorKey | CounterfactualKey]) -> list[Path]:
    """Score what was just made, each kind in a table of its own, unless another attributor is named."""
    wanted = [one for one in made if cli.config.operator in (None, one.operator)]
    if cli.config.attributor is not None or not wanted:
        return [cli.run()[-1]]
    tables = []
    for one in wanted:
        cli.config.operator, cli.config.seed = one.operator, one.seed
        cli.config.hparams = one.hparams_hash[:12]
        tables.append(cli.run()[-1])
    return tables


def _is_guided(unlearn: StageCLI) -> bool:
    """Whether unlearning learns from a posterior, which has to be made first, if only inside of SalUn."""
    from guda_lightning.unlearning import Guided

    objective = unlearn.config.objective
    while objective is not None:  # else ReTrack
        module, _, name = objective.class_path.rpartition(".")
        if issubclass(getattr(import_module(module), name), Guided):
            return True
        objective = (objective.get("init_args") or {}).get("objective")
    return False


def _stages(
    command: Command, arguments: Sequence[str]
) -> tuple[argparse.Namespace, list[str], list[tuple[Stage, list[str]]]]:
    """What was chosen, what all stages are told, and the stages to run, each with its command line."""
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
    return chosen, shared, lines


def _parser(command: Command, stages: Sequence[Stage]) -> argparse.ArgumentParser:
    parser = Arguments(
        command,
        epilog="All other options go to every stage, such as --run FOLDER or --trainer.max_steps 500.",
    )
    parser.add_argument("-c", "--config", action="append", default=[], help="configuration of all stages")
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
