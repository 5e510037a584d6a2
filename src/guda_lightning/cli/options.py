"""The options of a stage, read from the source of its function: nothing heavy is imported for them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from guda_lightning.cli.commands import Stage

_ROOT = Path(__file__).parents[1]
_OF_EVERY = ("config", "print_config", "seed_everything", "trainer", "model", "data", "run", "pretrained")
# Arguments that Lightning's own parser leaves out: --run is what sets the folder.
_NOT_OF_TRAINER = ("self", "kwargs", "default_root_dir")


@dataclass(frozen=True)
class Option:
    """An option of a stage.

    Attributes:
        name: Its name without dashes, dotted below the option that it is a part of.
        type: Its type as the source writes it, names of literals written out.
        default: Its default as the source writes it; empty: it has to be given.
        help: What it does, one line.
        parts: The options below it, where it is a set of some; empty: any.
    """

    name: str
    type: str
    default: str
    help: str
    parts: tuple[Option, ...] = ()


def options_of(stage: Stage) -> dict[str, Option]:
    """The options that a stage has beside those of every stage, in the order of its function, by name."""
    module, _, name = stage.function.partition(".")
    function, home = _definition(f"guda_lightning.stages.{module}", name)
    assert isinstance(function, ast.FunctionDef)
    every = _arguments(function, home, ast.get_docstring(function) or "")
    return {one.name: one for one in every if one.name not in ("trainer", *stage.filled)}


def own_trainer_options() -> tuple[Option, ...]:
    """The options below ``trainer`` that Lightning's Trainer does not have."""
    own, home = _definition("guda_lightning.stages.base", "StageTrainer")
    assert isinstance(own, ast.ClassDef)
    return tuple(_arguments(_init(own), home, ast.get_docstring(own) or ""))


def heads(stage: Stage) -> set[str]:
    """The first parts of all keys that the configuration of a stage may have."""
    return {"help", *_OF_EVERY, *options_of(stage)}


@cache
def trainer_options() -> frozenset[str]:
    """The names below ``trainer``, those of the Lightning that is installed among them; empty: not found."""
    spec = find_spec("lightning")
    path = Path(((spec and spec.submodule_search_locations) or [""])[0], "pytorch", "trainer", "trainer.py")
    if not path.is_file():
        return frozenset()
    lightnings = _named(_parsed(path), "Trainer")
    assert isinstance(lightnings, ast.ClassDef)
    names = (argument.arg for argument in _every(_init(lightnings).args))
    own = (option.name for option in own_trainer_options())
    return frozenset(name for name in (*own, *names) if name not in _NOT_OF_TRAINER)


def _arguments(function: ast.FunctionDef, module: str, docstring: str) -> Iterator[Option]:
    described, arguments = _described(docstring), function.args
    defaults: dict[ast.arg, ast.expr | None] = dict(
        zip(reversed(arguments.args), reversed(arguments.defaults), strict=False)
    )
    defaults |= dict(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True))
    for argument in _every(arguments):
        if argument.arg != "self":
            yield _option(argument.arg, argument.annotation, defaults.get(argument), module, described)


def _option(
    name: str, kind: ast.expr | None, default: ast.expr | None, module: str, described: Mapping[str, str]
) -> Option:
    return Option(
        name,
        "" if kind is None else _written(kind, module),
        "" if default is None else _written(default, module),
        described.get(name, ""),
        () if kind is None else tuple(_parts(kind, module)),
    )


def _every(arguments: ast.arguments) -> list[ast.arg]:
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]


def _init(kind: ast.ClassDef) -> ast.FunctionDef:
    return next(one for one in kind.body if isinstance(one, ast.FunctionDef) and one.name == "__init__")


def _described(docstring: str) -> dict[str, str]:
    """What the section ``Args`` says of each argument, on one line."""
    found: dict[str, list[str]] = {}
    inside, last = False, ""
    for line in docstring.splitlines():
        depth, text = len(line) - len(line.lstrip()), line.strip()
        if not depth and text:
            inside, last = text in ("Args:", "Attributes:"), ""
        elif inside and depth == 4:
            last, _, said = text.partition(":")
            found[last] = [said.strip()]
        elif inside and last and text:
            found[last].append(text)
    return {name: " ".join(lines) for name, lines in found.items()}


def _written(kind: ast.expr, module: str) -> str:
    """A type or a default as it is written, names of this package's constants written out."""
    defined, _ = _definition(module, kind.id) if isinstance(kind, ast.Name) else (None, "")
    value = defined.value if isinstance(defined, ast.Assign | ast.AnnAssign) else None
    return ast.unparse(kind if value is None else value)


def _parts(kind: ast.expr, module: str) -> Iterator[Option]:
    """The fields of a dataclass, whether it may be left out or not."""
    names = [node.id for node in ast.walk(kind) if isinstance(node, ast.Name) and node.id != "None"]
    defined, home = _definition(module, names[0]) if len(names) == 1 else (None, "")
    if not isinstance(defined, ast.ClassDef) or "dataclass" not in map(_called, defined.decorator_list):
        return
    if "ABC" in map(_called, defined.bases):  # any class derived from it, with fields of its own
        return
    described = _described(ast.get_docstring(defined) or "")
    for field in defined.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            yield _option(field.target.id, field.annotation, field.value, home, described)


def _called(decorator: ast.expr) -> str:
    return ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)


@cache
def _definition(module: str, name: str) -> tuple[ast.stmt | None, str]:
    """Where a name of this package is defined, followed through imports, and its module; None: elsewhere."""
    path = _ROOT.joinpath(*module.split(".")[1:])
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    if module.partition(".")[0] != _ROOT.name or not path.is_file():
        return None, ""
    tree = _parsed(path)
    if (found := _named(tree, name)) is not None:
        return found, module
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and name in {one.name for one in node.names}:
            return _definition(node.module, name)
    return None, ""


def _named(tree: ast.Module, name: str) -> ast.stmt | None:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
        if isinstance(node, ast.Assign | ast.AnnAssign) and name in map(ast.unparse, targets):
            return node
    return None


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))
