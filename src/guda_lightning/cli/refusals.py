"""What is refused before torch is imported: options, configurations and paths that do not exist."""

from __future__ import annotations

import os
import shlex
from collections.abc import Collection
from pathlib import Path

from guda_lightning.cli.commands import COMMANDS, Stage
from guda_lightning.cli.inputs import Inputs
from guda_lightning.cli.options import heads, options_of, trainer_options
from guda_lightning.cli.slips import bare, lacking, misspelt, no_data, no_run_folder
from guda_lightning.errors import ConfigError
from guda_lightning.storage.paths import (
    refuse_missing_checkpoint,
    refuse_missing_full,
    refuse_missing_queries,
    refuse_missing_start,
    refuse_nul,
)
from guda_lightning.storage.runs import RunFolder


def refuse_early(stage: Stage, inputs: Inputs, before: Collection[str] = ()) -> None:
    """Refuse what a stage would fail on after minutes of imports and reading.

    Args:
        stage: The stage.
        inputs: Its inputs.
        before: Stages that the same command runs before: what they write into the run folder is not missing.

    Raises:
        ConfigError: An option does not exist, there is no configuration, or the run folder is a file.
        QueryError: There are no queries.
        StoreError: There is no full model, no checkpoint, or no weights to start from.
    """
    if inputs.asks_for("--help") or inputs.asks_for("-h"):
        return
    refuse_bare(f"guda {stage.name}", inputs)
    _refuse_options(stage, inputs)
    if inputs.asks_for("--print_config"):
        return
    refuse_no_configuration(f"guda {stage.name}", inputs)
    if _is_plain(inputs) and "run" not in inputs.values:
        raise no_run_folder(f"guda {stage.name}")
    if _is_plain(inputs) and stage.needs_data and not _has(inputs, "data"):
        raise no_data(f"guda {stage.name}")
    _refuse_paths(stage, inputs, before)


def refuse_bare(command: str, inputs: Inputs) -> None:
    """Refuse words that belong to no option.

    Raises:
        ConfigError: There are some.
    """
    if inputs.bare:
        raise bare(command, shlex.join(inputs.bare))  # which shows empty ones


def refuse_no_configuration(command: str, inputs: Inputs) -> None:
    """Refuse a command that was told nothing about the model.

    Raises:
        ConfigError: It was not.
    """
    if not _is_plain(inputs) or _has(inputs, "model"):
        return
    if inputs.files:
        raise lacking(command, "model")
    raise ConfigError(
        f"{command} got no configuration",
        found=" ".join([command, *inputs.arguments]),
        expected=f"{command} -c FILE [--OPTION VALUE ...]",
        fix=f"did you forget -c? `guda configs` lists what comes along, such as {command} -c digits.yaml",
    )


def _is_plain(inputs: Inputs) -> bool:
    """Whether all files are known: those behind other spellings of ``--config`` only the parser finds."""
    spelt = {name for name, _ in inputs.flags if name.startswith("-c") or "--config".startswith(name)}
    return spelt <= {"-c", "--config"}


def _has(inputs: Inputs, section: str) -> bool:
    return any(key.partition(".")[0] == section for key in inputs.values)


def _refuse_options(stage: Stage, inputs: Inputs) -> None:
    """Refuse options and keys that the stage does not have."""
    command = f"guda {stage.name}"
    known, trainers = heads(stage), trainer_options()
    parts = {
        name: {part.name for part in option.parts}
        for name, option in options_of(stage).items()
        if option.parts
    }
    parts |= {"trainer": {*trainers, "class_path", "init_args"}} if trainers else {}
    help_of = f"`{command} --help` explains the options"
    flags = [f"--{name}" for name in known] + [f"--{name}.{one}" for name in parts for one in parts[name]]
    for name, value in inputs.flags:
        given = name.removeprefix("--")
        if name.startswith("--") and not _exists(given, known, parts) and not _shortens(name, flags):
            found = name if value is None else f"{name} {value}"
            helps = _elsewhere(stage, given) or help_of
            raise misspelt(f"{command} has no option {name}", found, name, sorted(flags), helps)
    for key in inputs.keys:
        if not _exists(key, known, parts):
            head, _, below = key.partition(".")
            if head in parts:
                name = below.partition(".")[0]
                raise misspelt(f"{head} has no option {name}", name, name, sorted(parts[head]), help_of)
            every = [flag.removeprefix("--") for flag in sorted(flags)]
            raise misspelt(
                f"{command} has no option {key}", key, key, every, _elsewhere(stage, key) or help_of
            )


def _elsewhere(stage: Stage, key: str) -> str:
    """The fix for an option of other stages; empty: it is of none."""
    head = key.partition(".")[0].removesuffix("+")
    others = [one for one in COMMANDS if isinstance(one, Stage) and one is not stage]
    owners = [one.name for one in others if head in options_of(one)]
    return f"{head} is an option of guda {', '.join(owners)}: leave it out here" if owners else ""


def _exists(key: str, known: Collection[str], parts: dict[str, set[str]]) -> bool:
    """Whether a dotted key may exist: further down than its second part, only the parser knows."""
    head, *below = (part.removesuffix("+") for part in key.split("."))
    if head not in known:
        return False
    allowed = parts.get(head)
    return not below or allowed is None or below[0] in {*allowed, "class_path", "init_args", "help"}


def _shortens(name: str, flags: Collection[str]) -> bool:
    """Whether the parser may take it for a longer option."""
    return any(flag.startswith(name) for flag in flags)


def _refuse_paths(stage: Stage, inputs: Inputs, before: Collection[str]) -> None:
    if inputs.values.get("run", ["set"])[-1] == "":
        raise no_run_folder(f"guda {stage.name}")
    run = inputs.path("run")
    if run is not None:
        refuse_nul(str(run))
    if run is not None and os.path.isfile(run):
        raise ConfigError(
            f"the run folder {run} is a file",
            found="a file",
            expected="a folder, or nothing",
            fix="pass another --run, or move the file away",
        )
    if run is not None:
        RunFolder(run).refuse_files()
    queries, full, start = inputs.path("queries"), inputs.path("full"), inputs.path("trainer.start")
    if run is not None and queries is not None and "sample" in before and _is_inside(queries, run):
        queries = None
    if run is not None and full is not None and "fit" in before and _is_inside(full, run):
        full = None
    if stage.name in ("attribute", "placebo", "groups") and queries is not None:
        refuse_missing_queries(queries)
    if stage.needs_data and full is not None:
        refuse_missing_full(full)
    if (checkpoint := inputs.path("ckpt_path")) is not None and stage.name == "validate":
        refuse_missing_checkpoint(checkpoint)
    # A complete training is skipped, whatever it has started from.
    if stage.name == "fit" and start is not None and run is not None and not RunFolder(run).full.exists():
        refuse_missing_start(start)


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
