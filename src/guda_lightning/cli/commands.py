"""The commands of ``guda``, one entry each: help, completion, docs and ``guda run`` derive from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from guda_lightning.errors import ConfigError, near


@dataclass(frozen=True)
class Command:
    """What can follow ``guda``.

    Attributes:
        name: As it is typed.
        summary: What it does, one line without a full stop.
        example: The arguments that show how it is used.
        module: Module of ``guda_lightning.cli`` whose ``run(command, arguments)`` runs it and returns
            the exit code; it must import torch only once it is needed.
    """

    name: str
    summary: str
    example: str
    module: str

    def run(self, arguments: Sequence[str]) -> int:
        """Run it; returns the exit code.

        Raises:
            GudaError: It refuses its arguments, or what it finds.
        """
        code: int = import_module(f"guda_lightning.cli.{self.module}").run(self, arguments)
        return code


@dataclass(frozen=True)
class Stage(Command):
    """A command that is a function of ``guda_lightning.stages``, whose arguments are its options.

    Attributes:
        function: The function, ``MODULE.FUNCTION``; both named like the command, if left out.
        filled: Arguments that ``StageCLI`` fills in beside ``trainer``, and that are no options.
        needs_data: Whether it works on the groups of the training data.
        dry_run: Whether it trains or validates, so that ``fast_dev_run`` has something to try out.
        in_run: Whether ``guda run`` runs it, in the order of ``COMMANDS``.
        config: The configuration of this stage alone that ``guda run`` takes unless ``--NAME FILE`` is given.
        noted: Whether RUN/history keeps what it was run with.
    """

    module: str = "stage"
    function: str = ""
    filled: tuple[str, ...] = ("model", "datamodule")
    needs_data: bool = True
    dry_run: bool = True
    in_run: bool = False
    config: str | None = None
    noted: bool = True

    def __post_init__(self) -> None:
        if not self.function:
            object.__setattr__(self, "function", f"{self.name}.{self.name}")

    def load(self) -> Callable[..., Any]:
        """The function; imports torch and Lightning, and what this stage needs beside them."""
        module, _, name = self.function.partition(".")
        loaded: Callable[..., Any] = getattr(import_module(f"guda_lightning.stages.{module}"), name)
        return loaded


COMMANDS: tuple[Command, ...] = (
    Command("run", "Fit, sample, guide, unlearn, attribute and report in one go", "-c digits.yaml", "every"),
    Stage(
        "fit",
        "Train the full model",
        "-c digits.yaml",
        function="fit.fit_full",
        filled=("model", "datamodule", "config"),
        needs_data=False,
        in_run=True,
    ),
    Stage(
        "sample",
        "Draw queries from the full model, or without some groups",
        "-c digits.yaml [--num 64] [--without 3,7]",
        in_run=True,
        dry_run=False,
    ),
    Stage(
        "guide",
        "Make the posterior that every counterfactual follows from",
        "-c digits.yaml [--posterior classifier]",
        in_run=True,
    ),
    Stage(
        "unlearn",
        "Make the full model forget each group: its counterfactuals",
        "-c digits.yaml -c unlearn/guided.yaml [--groups 3,7]",
        filled=("model", "datamodule", "resolved"),
        in_run=True,
        config="unlearn/guided.yaml",
    ),
    Stage(
        "retrain",
        "Train the oracle: a new model without each group",
        "-c digits.yaml [--seeds 0,1,2]",
        filled=("build", "datamodule", "config", "resolved"),
    ),
    Stage(
        "ensemble",
        "Train an ensemble with exact counterfactuals of many groups",
        "-c digits.yaml [--members 6]",
        filled=("build", "datamodule", "config", "resolved"),
    ),
    Stage(
        "attribute",
        "Score queries against every group",
        "-c digits.yaml [--queries FILE|FOLDER] [--screen guidance:5]",
        in_run=True,
        config="attribute/elbo.yaml",
        dry_run=False,
    ),
    Stage(
        "placebo",
        "Test which queries random groups explain as well",
        "-c digits.yaml --posterior guidance",
        dry_run=False,
    ),
    Stage(
        "property",
        "Measure what each group does to a whole set of samples",
        "-c digits.yaml --property guda_lightning.attribution.Brightness",
        function="set_property.set_property",
        dry_run=False,
    ),
    Stage(
        "balance",
        "Draw images for every group, and attribute them back",
        "-c digits.yaml [--num 100] [--groups 3,7]",
        dry_run=False,
    ),
    Stage(
        "groups",
        "Audit the groups: overlaps, copies, hidden modes",
        "-c digits.yaml",
        dry_run=False,
    ),
    Command("report", "Write one self-contained page that shows the answer", "RUN", "report"),
    Command(
        "app", "Drop a picture onto a local page and see its groups", "RUN [--by guidance] [-c FILE]", "app"
    ),
    Command(
        "evaluate",
        "Measure how well scores agree with the oracle",
        "RUN|--yardstick digits [--calibrate 3,7]",
        "evaluate",
    ),
    Command(
        "curate",
        "Find the groups that should leave the data",
        "RUN [--target GROUPS|FILE] [--verify]",
        "curate",
    ),
    Stage(
        "validate",
        "Validate the full model in a trainer, with its callbacks",
        "-c digits.yaml -c callbacks/elbo_attribution.yaml",
        function="fit.validate_full",
        needs_data=False,
        noted=False,
    ),
    Command(
        "dashboard",
        "Make a W&B workspace of the runs, by run folder and stage",
        "RUN|--project PROJECT [--entity ENTITY]",
        "dashboard",
    ),
    Command("runs", "List the run folders below a folder, and what is in them", "[FOLDER] [--json]", "runs"),
    Command(
        "doctor",
        "Say what is installed, and where a run stands",
        "[RUN] [--json]",
        "doctor",
    ),
    Command(
        "manifest",
        "Write one signed document of a run for auditors",
        "RUN [--key KEY] [--output FILE]",
        "manifest",
    ),
    Command(
        "verify",
        "Check a run folder against its manifest",
        "MANIFEST [--run RUN] [--key KEY.pub]",
        "verify",
    ),
    Command(
        "replay",
        "Make a run again from its own record, and compare",
        "RUN [--into FOLDER] [--stages fit,sample]",
        "replay",
    ),
    Command("configs", "List or copy the YAML that comes with guda", "[NAME ...] [--copy FOLDER]", "configs"),
    Command("completion", "Print what completes options and names in a shell", "bash|zsh", "completion"),
)


def stages_of_run() -> list[Stage]:
    """The stages of ``guda run``, in order."""
    return [command for command in COMMANDS if isinstance(command, Stage) and command.in_run]


def find(name: str) -> Command:
    """The command of a name.

    Raises:
        ConfigError: There is none.
    """
    commands = {command.name: command for command in COMMANDS}
    if name in commands:
        return commands[name]
    meant = near(name, commands)
    raise ConfigError(
        f"guda has no command {name!r}",
        found=name,
        expected=", ".join(commands),
        fix=f"did you mean `guda {meant[0]}`?" if meant else "`guda --help` explains them",
    )


def listing(width: int = 50) -> str:
    """All commands with their examples and summaries, for ``guda --help``.

    Args:
        width: Where summaries begin.
    """
    lines = []
    for command in COMMANDS:
        example = f"  guda {command.name:<11}{command.example}"
        if len(example) > width - 2:
            lines.append(example)
            example = ""
        lines.append(f"{example:<{width}}{command.summary[0].lower()}{command.summary[1:]}")
    return "\n".join(lines)
