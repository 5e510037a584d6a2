"""``guda configs``: the YAML that comes with guda."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command
from guda_lightning.errors import ConfigError, near


def run(command: Command, arguments: Sequence[str]) -> int:
    """List or copy it."""
    parser = Arguments(command)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="these alone, such as audit.yaml; default: all"
    )
    parser.add_argument("--copy", type=Path, metavar="FOLDER", help="copy them into this folder, to edit")
    parser.add_argument("--json", action="store_true", help="print names, paths and what each is for as JSON")
    chosen = parser.parse_args(arguments)
    folder = chosen.copy or Path()
    files = {name: path for name, path in shipped().items() if not chosen.names or name in chosen.names}
    for name in chosen.names:
        if name not in files:
            raise _unknown(name)
    targets = {folder / name: path for name, path in files.items()}
    if chosen.copy is not None:
        _copy(targets)
    if chosen.json:
        rows = [
            {"name": str(name), "path": str(path), "about": about(path)} for name, path in targets.items()
        ]
        print(json.dumps(rows, indent=2))
    else:
        print("\n".join(map(str, targets)))
    return 0


def about(path: Path) -> str:
    """What a file says that it is for: the comment that it begins with, on one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text("utf-8").splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines)


def _copy(targets: dict[Path, Path]) -> None:
    for target in targets:
        if target.exists():
            raise ConfigError(
                f"{target} exists",
                found="a file that you may have edited",
                expected="a folder without it",
                fix="choose another folder for --copy",
            )
    for target, path in targets.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def shipped() -> dict[str, Path]:
    """The YAML that comes with guda by name, in a checkout as in an installed wheel."""
    found = {}
    for package, prefix in (("configs", ""), ("configs.callbacks", "callbacks/")):
        root = Path(str(resources.files(f"guda_lightning.{package}")))
        found.update({prefix + path.relative_to(root).as_posix(): path for path in root.rglob("*.yaml")})
    return dict(sorted(found.items()))


def located(arguments: Sequence[str]) -> list[str]:
    """The arguments, with files that do not exist here replaced by those that come with guda.

    Raises:
        ConfigError: A file is neither.
    """
    found = list(arguments)
    for position, argument in enumerate(found):
        option, _, value = argument.partition("=")
        if option == "--config" and value:
            found[position] = f"--config={_located(value)}"
        elif argument in ("-c", "--config") and position + 1 < len(found):
            found[position + 1] = _located(found[position + 1])
    return found


def _located(name: str) -> str:
    if Path(name).is_file():
        return name
    files = shipped()
    if name.removeprefix("configs/") in files:
        return str(files[name.removeprefix("configs/")])
    raise _unknown(name)


def _unknown(name: str) -> ConfigError:
    files = shipped()
    meant = [one for one in files if one.endswith(f"/{name}")] or near(name, files, 1, 0.8)
    among = "".join(f", {one} among them" for one in meant)
    return ConfigError(
        f"the configuration {name} {'is no file' if Path(name).is_dir() else 'does not exist'}",
        found="a folder"
        if Path(name).is_dir()
        else f"no such file, here or among {len(files)} that come with guda",
        expected="a YAML file",
        fix=f"`guda configs` lists those that come with guda{among}",
    )
