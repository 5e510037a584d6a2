"""Stages as commands: what can be refused or skipped at once, then Lightning."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guda_lightning.cli.commands import Command, Stage
from guda_lightning.cli.configs import located
from guda_lightning.cli.inputs import Inputs
from guda_lightning.cli.refusals import refuse_early
from guda_lightning.cli.skipping import complete, fingerprint, remember
from guda_lightning.storage.runs import RunFolder

if TYPE_CHECKING:
    from guda_lightning.cli.lightning import StageCLI

# Of commands that are no stages: they log by themselves.
_QUIET = ("--trainer.logger", "false", "--trainer.enable_model_summary", "false")


def run(stage: Command, arguments: Sequence[str]) -> int:
    """Run a stage, unless it is known to be complete."""
    assert isinstance(stage, Stage)
    inputs = Inputs.of(stage.name, located(arguments))
    refuse_early(stage, inputs)
    if stage.name == "fit":
        _fit(stage, inputs)
    else:
        parse(stage, inputs.arguments).run()
    return 0


def _fit(stage: Stage, inputs: Inputs) -> None:
    of_inputs = fingerprint(inputs)
    full = complete(inputs, of_inputs)
    if full is not None:
        print(f"fit: {full} is complete, skipped")
        return
    cli = parse(stage, inputs.arguments)
    cli.run()
    trainer: Any = cli.trainer
    if trainer.is_global_zero and not cli.config.trainer.fast_dev_run:
        remember(trainer.run_folder, of_inputs)


def run_on(
    stage: Stage, run: RunFolder, files: Sequence[str | Path], options: Mapping[str, object], *more: str
) -> Any:
    """Run a stage for a command that is told a run folder; returns what the stage made.

    Args:
        stage: The stage.
        run: The run folder.
        files: Configurations, as they are given with ``-c``.
        options: Options of the stage by name; None where one is not given.
        *more: Arguments that win over the configurations.
    """
    configs = located([word for file in files for word in ("-c", str(file))])
    given = [
        word for name, value in options.items() if value is not None for word in (f"--{name}", str(value))
    ]
    return parse(stage, [*configs, *more, "--run", str(run.root), *_QUIET, *given]).run()


def parse(stage: Stage, arguments: Sequence[str]) -> StageCLI:
    """Parse and check the arguments of a stage, with files as ``located`` names them; nothing is built yet.

    Raises:
        SystemExit: They are refused, or ask for help only.
    """
    with _garbage_kept():
        from guda_lightning.cli.lightning import StageCLI

        return StageCLI(stage, arguments)


@contextmanager
def _garbage_kept() -> Iterator[None]:
    """Search for no garbage: imports and parsers leave little, and searching takes a fifth of their time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
