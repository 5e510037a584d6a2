"""What may follow on a command line: commands, options, and names of files, groups, tables and operators."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

from guda_lightning.cli.commands import COMMANDS, Command, Stage
from guda_lightning.cli.configs import located, shipped
from guda_lightning.cli.inputs import Inputs
from guda_lightning.cli.options import heads, options_of, trainer_options
from guda_lightning.errors import GudaError
from guda_lightning.storage.files import read_json
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.weights_record import RECORD
from guda_lightning.storage.yardsticks import shipped as yardsticks

_FLAG = re.compile(r"(?<![\w-])--[A-Za-z][\w.]*")
_CHOICE = re.compile(r"\w+(\|\w+)+")


def candidates(words: Sequence[str]) -> list[str]:
    """What the last of the words may become, sorted; files are left to the shell.

    Args:
        words: What was typed behind ``guda``, the last one perhaps not to its end.
    """
    *before, word = words
    if not before:
        return _beginning(word, [command.name for command in COMMANDS])
    command = next((one for one in COMMANDS if one.name == before[0]), None)
    if command is None:
        return []
    line = _Line(command, tuple(before[1:]), word)
    last = line.before[-1] if line.before else ""
    if last in _VALUES:
        return _VALUES[last](line)
    if last.startswith("--") and (few := line.literals.get(last[2:])):
        return _beginning(word, few)
    if line.needs_run and not word.startswith("-"):
        return _runs(line)
    if command.name == "configs" and not word.startswith("-"):
        return _configs(line)
    few = command.example.split("|") if _CHOICE.fullmatch(command.example) else []
    return _beginning(word, [*few, *_flags(command)])


@dataclass(frozen=True)
class _Line:
    """A command line that is being typed.

    Attributes:
        command: Its command.
        before: The words between the command and the last one.
        word: The last one.
    """

    command: Command
    before: tuple[str, ...]
    word: str

    @property
    def needs_run(self) -> bool:
        """Whether a run folder comes first, and none has."""
        return self.command.example.startswith(("RUN", "[RUN")) and not self.before

    @property
    def literals(self) -> Mapping[str, list[str]]:
        """The values of the options that have only a few."""
        stage = self.command
        options = options_of(stage).values() if isinstance(stage, Stage) else ()
        found = {one.name: one.type for one in options if one.type.startswith("Literal[")}
        return {name: list(ast.literal_eval(kind.removeprefix("Literal"))) for name, kind in found.items()}

    @property
    def run(self) -> RunFolder | None:
        """The run folder that it is about."""
        if self.before and not isinstance(self.command, Stage) and not self.before[0].startswith("-"):
            return RunFolder(Path(self.before[0]))
        with suppress(GudaError):
            path = Inputs.of(self.command.name, located(self.before)).path("run")
            return None if path is None else RunFolder(path)
        return None


def _beginning(word: str, names: Iterable[str]) -> list[str]:
    return sorted({name for name in names if name.startswith(word)})


def _flags(command: Command) -> list[str]:
    """The options of a command: of a stage by its source, of others by their help."""
    if isinstance(command, Stage):
        parts = [f"{one.name}.{part.name}" for one in options_of(command).values() for part in one.parts]
        trainers = [f"trainer.{name}" for name in trainer_options()]
        return [f"--{name}" for name in (*heads(command), *parts, *trainers)]
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        command.run(["--help"])
    return _FLAG.findall(said.getvalue())


def _configs(line: _Line) -> list[str]:
    return _beginning(line.word, shipped())


def _runs(line: _Line) -> list[str]:
    """The run folders in the folder that is typed, and those in ``runs`` where none is."""
    folder, slash, _ = line.word.rpartition("/")
    found = RunFolder.below(Path(folder + slash), 1)
    found += [] if slash else RunFolder.below(Path("runs"), 2)
    return _beginning(line.word, (str(one.root) for one in found))


def _records(line: _Line) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for path in line.run.store.glob(f"**/{RECORD}") if line.run else ():
        with suppress(GudaError):
            found.append(read_json(path))
    return found


def _groups(line: _Line) -> list[str]:
    """Groups of the run; of several, separated by commas, the last one is being typed."""
    start, comma, word = line.word.rpartition(",")
    named: set[str] = set()
    for record in _records(line):
        groups = record.get("groups")
        named |= {str(name) for name in groups} if isinstance(groups, list) else set()
    return [f"{start}{comma}{name}" for name in _beginning(word, named)]


def _operators(line: _Line) -> list[str]:
    made = {str(record.get("operator") or record.get("kind")) for record in _records(line)}
    return _beginning(line.word, made - {"None"})


def _tables(line: _Line) -> list[str]:
    return _beginning(line.word, map(str, line.run.scores.glob("*.parquet")) if line.run else ())


def _yardsticks(line: _Line) -> list[str]:
    return _beginning(line.word, yardsticks())


_VALUES: Mapping[str, Callable[[_Line], list[str]]] = {
    "-c": _configs,
    "--config": _configs,
    **{f"--{stage.name}": _configs for stage in COMMANDS if isinstance(stage, Stage) and stage.in_run},
    "--run": _runs,
    "--base": _runs,
    "--distribution": _runs,
    "--groups": _groups,
    "--without": _groups,
    "--calibrate": _groups,
    "--target": _groups,
    "--operator": _operators,
    "--scores": _tables,
    "--oracle": _tables,
    "--lds": _tables,
    "--yardstick": _yardsticks,
}
