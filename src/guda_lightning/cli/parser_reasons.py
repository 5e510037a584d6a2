"""What jsonargparse says in a tree of attempts, as the one reason at the end of its branch."""

from __future__ import annotations

import difflib
import re
import sys
import textwrap
from collections.abc import Collection
from dataclasses import dataclass, field

from guda_lightning.errors import ConfigError

_KEY = re.compile(r'Parser key "([^"]+)":\n')
_CLASS = re.compile(r"Problem with given class_path '([^']+)':\n")
_WRONG = re.compile(r"Expected an? (?P<type>.+?)(?:\. Got value: (?P<value>.*))?", re.DOTALL)
_NO_OPTION = re.compile(
    r"(?:Group '(?P<group>.+)' does not accept option|Option) '(?P<name>.+?)'.*", re.DOTALL
)
_NO_CLASS = re.compile(
    r"module '(?P<module>[\w.]+)' has no attribute '(?P<name>\w+)'"
    r"|No module named '(?P<missing>[\w.]+)'"
    r"|Expected a dot import path string: (?P<text>[^\n]*)"
)
_CALLABLE = re.compile(
    r"Type \S.*? expects a function or a callable class: (.+?)(?: Got value: .*)?", re.DOTALL
)
_SUBCLASS = re.compile(
    r"(?:Import path ?(?P<path>\S*) does not correspond to|Not a valid)(?: a)? subclass of (?P<kind>\w+).*",
    re.DOTALL,
)
_REQUIRED = re.compile(r"the following arguments are required: (.+)", re.DOTALL)
_UNKNOWN = re.compile(r"unrecognized arguments: (.+)", re.DOTALL)
_UNION = "Does not validate against any of the Union subtypes"
_BORING = ("Expected a <class 'NoneType'>", "Expected a path but")


@dataclass
class Reason:
    """The end of a branch.

    Attributes:
        text: What it says.
        path: Dotted key of the option that it is about, as in YAML; empty: none.
        class_path: The class that refuses it; empty: none does.
        value: What was given, where the tree says so.
    """

    text: str
    path: list[str] = field(default_factory=list)
    class_path: str = ""
    value: str = ""


def innermost(text: str) -> Reason:
    """Follow the branch that leads furthest."""
    reason = Reason(textwrap.dedent(text).strip())
    while True:
        text = reason.text
        if match := _KEY.match(text):
            if reason.class_path and reason.path:
                reason.path.append("init_args")
            reason.path += match[1].split(".")
        elif match := _CLASS.match(text):
            reason.class_path = match[1]
        elif attempts := _attempts(text):
            given = re.search(r"^\s*Given value: (.*)", text, re.MULTILINE)
            nested = re.fullmatch(r"NestedArg\(key='(.*)', val='?(.*?)'?\)", given[1] if given else "")
            reason.value = nested[2] if nested else given[1] if given else ""
            reason.text = _best(attempts)
            continue
        elif match := _CALLABLE.fullmatch(text):
            reason.text, reason.class_path = match[1], ""
            continue
        else:
            return reason
        reason.text = textwrap.dedent(text[match.end() :]).strip()


def refusal(text: str, command: str, options: Collection[str] = ()) -> ConfigError:
    """The error to show for what jsonargparse says.

    Args:
        text: What it says.
        command: The command, such as ``guda fit``.
        options: The flags that exist, to find a misspelt one.
    """
    reason = innermost(text)
    option, said = ".".join(reason.path), " ".join(reason.text.split())
    owner = reason.class_path or option or command
    help_of = f"`{command} --help` explains the options"
    if match := _UNKNOWN.fullmatch(said):
        name = match[1].split()[0].partition("=")[0]
        if not name.startswith("-"):
            return ConfigError(
                f"{command} takes options alone",
                found=match[1],
                expected=f"{command} -c FILE [--OPTION VALUE ...]",
                fix=f"pass a configuration with -c {name}" if name.endswith("ml") else help_of,
            )
        return _misspelt(f"{command} has no option {name}", match[1], name, options, help_of)
    if match := _REQUIRED.fullmatch(said):
        section = match[1] in ("model", "data")
        return ConfigError(
            f"{owner} lacks {match[1]}",
            found="a configuration without it" if section else "no value for it",
            expected=f"a section `{match[1]}:`" if section else f"{match[1]} below init_args",
            fix="pass a configuration with -c, such as one that `guda configs` lists" if section else help_of,
        )
    if (match := _NO_OPTION.fullmatch(reason.text)) and "accept" in reason.text:
        name = match["name"]
        known = (
            _parameters(reason.class_path)
            if reason.class_path
            else _siblings(match["group"] or option, options)
        )
        return _misspelt(f"{match['group'] or owner} has no option {name}", name, name, known, help_of)
    if match := _NO_CLASS.search(reason.text):
        return _no_class(option, match)
    if match := _SUBCLASS.fullmatch(reason.text):
        kind = match["kind"]
        return ConfigError(
            f"{option or owner} is no {kind}",
            found=match["path"] or reason.value or said,
            expected=f"`class_path:` of a {kind}, and its arguments below `init_args:`",
            fix=f"correct {option or 'it'}; `guda configs` lists examples",
        )
    if match := _WRONG.fullmatch(reason.text):
        types = [_WRONG.fullmatch(one) for one in reason.text.split("\n- ")]
        return ConfigError(
            f"{option or owner} has a wrong value",
            found=match["value"] or reason.value or said,
            expected=" or ".join(_type(one["type"]) for one in types if one),
            fix=f"correct {option or 'it'}; {help_of}",
        )
    return ConfigError(
        f"{option or 'the configuration'} is refused",
        found=said,
        expected="options and values that the command accepts",
        fix=f"correct it; {help_of}",
    )


def _attempts(text: str) -> list[str]:
    """The alternatives of a union or of a list of reasons, each without its dash."""
    if text.startswith(_UNION):
        text = textwrap.dedent(text.partition("Errors:\n")[2].partition("\nGiven value type:")[0])
    elif not text.startswith("- "):
        return []
    items = re.split(r"^- ", text, flags=re.MULTILINE)[1:]
    return [
        f"{head}\n{textwrap.dedent(rest)}".strip() for head, _, rest in (one.partition("\n") for one in items)
    ]


def _best(attempts: list[str]) -> str:
    """The attempt that came furthest; of several that came nowhere, all types that were tried."""
    telling = [one for one in attempts if not one.startswith(_BORING)] or attempts
    branches = [one for one in telling if _CLASS.match(one) or _KEY.match(one) or one.startswith(_UNION)]
    reasons = [one for one in telling if not _WRONG.fullmatch(one) or "dot import path" in one]
    return next(iter(branches or reasons), "\n- ".join(telling))


def _misspelt(problem: str, found: str, name: str, known: Collection[str], help_of: str) -> ConfigError:
    section, dot, last = name.rpartition(".")
    below = [one.removeprefix(section + dot) for one in known if one.startswith(section + dot)]
    near = [section + dot + one for one in difflib.get_close_matches(last, below, n=1)]
    near = near or difflib.get_close_matches(name, known, n=1, cutoff=0.9)  # a misspelt section
    if near:
        return ConfigError(problem, found=found, expected=near[0], fix=f"use {near[0]}")
    every = ", ".join(sorted(known)) if 0 < len(known) <= 30 else "one that exists"
    return ConfigError(problem, found=found, expected=every, fix=help_of)


def _no_class(option: str, match: re.Match[str]) -> ConfigError:
    name = f"{match['module']}.{match['name']}" if match["name"] else match["missing"] or match["text"]
    names = dir(sys.modules[match["module"]]) if match["module"] in sys.modules else []
    near = difflib.get_close_matches(match["name"] or "", names, n=1)
    fix = "correct class_path; a module of your own is found in the folder where guda is started"
    if match["missing"]:
        fix += f", others after `pip install {match['missing'].partition('.')[0]}`"
    problem = f"there is no {'module' if match['missing'] else 'class'} {name}"
    return ConfigError(
        f"{option}: {problem}" if option else problem,
        found=" ".join(match[0].split()).removeprefix("Expected a dot import path string: "),
        expected="the import path of a class, such as guda_lightning.DiffusionModule",
        fix=f"use {match['module']}.{near[0]}" if near else fix,
    )


def _parameters(class_path: str) -> list[str]:
    import inspect
    from importlib import import_module

    module, _, name = class_path.rpartition(".")
    try:
        found = list(inspect.signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):
        return []
    return [one for one in found if one not in ("args", "kwargs")]


def _siblings(group: str, options: Collection[str]) -> list[str]:
    """The names below a section, or all where it has none."""
    below = [one.removeprefix(f"--{group}.") for one in options if one.startswith(f"--{group}.")]
    return [one for one in below if "." not in one] or [one.removeprefix("--") for one in options]


def _type(text: str) -> str:
    text = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", text).replace("NoneType", "null")
    text = re.sub(r"typing\.Literal\[([^\]]*)\]", r"one of \1", text)
    return " ".join(re.sub(r"\b(?:typing|collections\.abc)\.", "", text).split())
