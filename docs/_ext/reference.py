"""The reference of commands and of the YAML that comes along, made from the registry with the site."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from contextlib import redirect_stdout, suppress
from typing import TYPE_CHECKING

import guda_lightning
from guda_lightning.cli.commands import COMMANDS, Command, Stage
from guda_lightning.cli.configs import about, shipped
from guda_lightning.cli.options import Option, options_of, own_trainer_options

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
_SECTIONS = {
    "": "Whole runs",
    "unlearn": "Unlearning, for `guda unlearn -c`",
    "attribute": "Attribution, for `guda attribute -c`",
    "retrain": "Retraining, for `guda retrain -c`",
    "spread": "Several at a time, for `guda unlearn -c` and `guda retrain -c`",
    "callbacks": "Callbacks, for any stage that trains or validates",
}
# What the source of no stage says: LightningCLI adds it.
_EVERY = """\
| option | what it does |
| --- | --- |
| `-c FILE`, `--config FILE` | A configuration; of several, later ones win, and flags win over files. |
| `--run FOLDER` | The run folder: everything is read and written there. |
| `--pretrained NAME` | Folder or hub name of a diffusers pipeline, for `${pretrained}` in a configuration. |
| `--seed_everything N` | Seed of all that is random; `false`: none. |
| `--print_config` | Print the whole configuration as YAML, and do nothing. |
| `--model.*`, `--data.*` | Arguments of model and data, such as `--data.init_args.batch_size 32`. |
| `--trainer.*` | All arguments of Lightning's `Trainer`, and those below. |"""


def commands() -> str:
    """Every command with its options, as Markdown."""
    ours = _table([_below("trainer", one) for one in own_trainer_options()])
    parts = [f"### Options of every stage\n\n{_EVERY}\n\n{ours}"]
    for command in COMMANDS:
        shown = _options(command) if isinstance(command, Stage) else _help(command)
        usage = f"guda {command.name} {command.example}"
        parts.append(f"### guda {command.name}\n\n{command.summary}: `{usage}`\n\n{shown}")
    return "\n\n".join(parts)


def configs() -> str:
    """Every YAML file that comes along with what it is for, as Markdown."""
    files = shipped()
    parts = []
    for section, title in _SECTIONS.items():
        parts.append(f"### {title}")
        for name in (name for name in files if name.rpartition("/")[0] == section):
            lines = files[name].read_text("utf-8").splitlines()
            body = "\n".join(line for line in lines[_comments(lines) :])
            parts.append(f"#### {name}\n\n{_escaped(about(files[name]))}\n\n```yaml\n{body}\n```")
    return "\n\n".join(parts)


def public() -> str:
    """Every public name with its docstring and members, as blocks of autodoc."""
    blocks = []
    for name in sorted(name for name in guda_lightning.__all__ if not name.startswith("_")):
        is_class = name[0].isupper()  # asking the object would import all of torch
        kind = "autoclass" if is_class else "autofunction"
        members = "\n   :members:\n   :show-inheritance:" if is_class else ""
        blocks.append(f"### {name}\n\n```{{eval-rst}}\n.. {kind}:: guda_lightning.{name}{members}\n```")
    return "\n\n".join(blocks)


def _options(stage: Stage) -> str:
    own = options_of(stage).values()
    if not own:
        return "It has no options but those of every stage."
    return _table([part for one in own for part in (one, *(_below(one.name, part) for part in one.parts))])


def _below(section: str, option: Option) -> Option:
    return Option(f"{section}.{option.name}", option.type, option.default, option.help)


def _table(options: Iterable[Option]) -> str:
    rows = [["option", "type = default", "what it does"], ["---"] * 3]
    rows += [[f"`--{one.name}`", _typed(one), _escaped(one.help)] for one in options]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _typed(option: Option) -> str:
    choices = option.type.removeprefix("Literal[").removesuffix("]").replace(", ", " or ")
    kind = choices if option.type.startswith("Literal[") else option.type
    return " = ".join(f"`{text}`".replace("|", "\\|") for text in (kind, option.default) if text)


def _escaped(text: str) -> str:
    """Text of a docstring or a comment as Markdown; what is in double backticks is code."""
    pieces = re.split(r"(``?[^`]+``?)", text)
    return "".join(
        piece.replace("|", "\\|") if piece.startswith("`") else re.sub(r"([|<*_$\[\]])", r"\\\1", piece)
        for piece in pieces
    )


def _help(command: Command) -> str:
    """What ``guda COMMAND --help`` prints."""
    said = io.StringIO()
    with redirect_stdout(said), suppress(SystemExit):
        command.run(["--help"])
    return f"```text\n{said.getvalue().strip()}\n```"


def _comments(lines: list[str]) -> int:
    return next(number for number, line in enumerate(lines) if not line.startswith("#"))


_WRITERS = {"commands": commands, "configs": configs, "public": public}


def fill(text: str) -> str:
    """A page with its markers replaced by what is generated."""
    return _MARKER.sub(lambda match: _WRITERS[match[1]](), text)


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = fill(source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    app.connect(
        "env-get-outdated", lambda *_: ["commands", "configuration", "api"]
    )  # what they show is elsewhere
    return {"parallel_read_safe": True}
