"""What jsonargparse says in a tree of attempts, as the one reason at the end of its branch."""

from __future__ import annotations

import pydoc
import re
import sys
import textwrap
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from guda_lightning.cli.reasons import not_imported
from guda_lightning.cli.slips import bare, lacking, misspelt
from guda_lightning.errors import ConfigError, GudaError, did_you_mean, near

_KEY = re.compile(r'Parser key "([^"]+)":\n')
_CLASS = re.compile(r"Problem with given class_path '([^']+)':\n")
_WRONG = re.compile(r"Expected an? (?P<type>.+?)(?:\. Got value: (?P<value>.*))?\Z", re.DOTALL)
_CALLABLE = re.compile(
    r"Type \S.*? expects a function or a callable class: (.+?)(?: Got value: .*)?\Z", re.DOTALL
)
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

    @property
    def option(self) -> str:
        """The option, dotted; empty: none."""
        return ".".join(self.path)

    @property
    def owner(self) -> str:
        """What lacks an option, or has none of a name."""
        return self.class_path or self.option

    @property
    def said(self) -> str:
        """The text on one line."""
        return " ".join(self.text.split())


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
        elif match := _CALLABLE.match(text):
            reason.text, reason.class_path = match[1], ""
            continue
        else:
            return reason
        reason.text = textwrap.dedent(text[match.end() :]).strip()


def refusal(text: str, command: str, options: Collection[str] = ()) -> GudaError:
    """The error to show for what jsonargparse says.

    Args:
        text: What it says.
        command: The command, such as ``guda fit``.
        options: The flags that exist, to find a misspelt one.
    """
    reason = innermost(text)
    asked = _Asked(command, options)
    matches = ((rule, pattern.match(reason.text)) for pattern, rule in _RULES)
    found = (rule(match, reason, asked) for rule, match in matches if match)
    refused = next(found, None) or not_imported(_given_class(reason))
    return refused or ConfigError(
        f"{reason.option or 'the configuration'} is refused",
        found=reason.said,
        expected="options and values that the command accepts",
        fix=f"correct it; {asked.help}",
    )


@dataclass(frozen=True)
class _Asked:
    """The command, and the flags that it has."""

    command: str
    options: Collection[str]

    @property
    def help(self) -> str:
        return f"`{self.command} --help` explains the options"


def _unknown(match: re.Match[str], reason: Reason, asked: _Asked) -> ConfigError:
    given = " ".join(match[1].split())
    name = given.split()[0].partition("=")[0]
    if name.startswith("-"):
        return misspelt(f"{asked.command} has no option {name}", given, name, asked.options, asked.help)
    return bare(asked.command, given)


def _required(match: re.Match[str], reason: Reason, asked: _Asked) -> ConfigError:
    if match[1] in ("model", "data"):
        return lacking(reason.owner or asked.command, match[1])
    return ConfigError(
        f"{reason.owner or asked.command} lacks {match[1]}",
        found="no value for it",
        expected=f"{match[1]} below init_args",
        fix=asked.help,
    )


def _no_option(match: re.Match[str], reason: Reason, asked: _Asked) -> ConfigError:
    name, group = match["name"], match["group"]
    head = name.partition(".")[0]
    if reason.path and (word := near(head, ("class_path", "init_args"), 1, 0.8)) not in ([], [head]):
        problem = f"{reason.option} has no option {head}"
        return ConfigError(problem, found=head, expected=word[0], fix=f"use {word[0]}")
    if reason.class_path:
        known = _parameters(reason.class_path)
        name = name if head in known else head
    else:
        known = _siblings(group or reason.option, asked.options)
    return misspelt(
        f"{group or reason.owner or asked.command} has no option {name}", name, name, known, asked.help
    )


def _given_class(reason: Reason) -> str:
    """The import path of a class that was given; empty: none was."""
    given = re.search(r"class_path'?[=:] ?'([\w.]+)'", reason.value)
    value = given[1] if given else reason.value
    return reason.class_path or (value if re.fullmatch(r"\w+(\.\w+)+", value) else "")


def _no_class(match: re.Match[str], reason: Reason, asked: _Asked) -> GudaError:
    if match["missing"] and (refused := not_imported(_given_class(reason))):
        return refused
    module, name, missing = match["module"], match["name"], match["missing"]
    wanted = f"{module}.{name}" if name else missing or match["text"]
    meant = near(name, _classes(module)) if name else []
    fix = "correct class_path; a module of your own is found in the folder where guda is started"
    if missing:
        fix += f", others after `pip install {missing.partition('.')[0]}`"
    problem = f"there is no {'module' if missing else 'class'} {wanted}"
    return ConfigError(
        f"{reason.option}: {problem}" if reason.option else problem,
        found=match["found"] or match["text"],
        expected="the import path of a class, such as guda_lightning.DiffusionModule",
        fix=f"use {module}.{meant[0]}" if meant else fix,
    )


def _no_subclass(match: re.Match[str], reason: Reason, asked: _Asked) -> ConfigError:
    given = pydoc.locate(match["path"] or "")
    if any(kind.__module__.startswith("pytorch_lightning.") for kind in getattr(given, "__mro__", ())):
        return ConfigError(
            f"{reason.option or asked.command} is of pytorch_lightning, whose classes are others",
            found=match["path"],
            expected=f"a {match['kind']} of lightning.pytorch",
            fix=f"import {match['kind']} from lightning.pytorch in place of pytorch_lightning",
        )
    return ConfigError(
        f"{reason.option or reason.class_path or asked.command} is no {match['kind']}",
        found=match["path"] or reason.value or reason.said,
        expected=f"`class_path:` of a {match['kind']}, and its arguments below `init_args:`",
        fix=f"correct {reason.option or 'it'}; `guda configs` lists examples",
    )


def _wrong(match: re.Match[str], reason: Reason, asked: _Asked) -> ConfigError:
    types = [_WRONG.match(one) for one in reason.text.split("\n- ")]
    found = match["value"] or reason.value or reason.said
    expected = " or ".join(_type(one["type"]) for one in types if one)
    return ConfigError(
        f"{reason.option or reason.class_path or asked.command} has a wrong value",
        found=found,
        expected=expected,
        fix=did_you_mean(
            found, re.findall(r"'(\w+)'", expected), f"correct {reason.option or 'it'}; {asked.help}"
        ),
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
    reasons = [one for one in telling if not _WRONG.match(one) or "dot import path" in one]
    return next(iter(branches or reasons), "\n- ".join(telling))


def _classes(module: str) -> list[str]:
    """The names in a module that are written as those of classes are, imported already or not."""
    found = sys.modules.get(module)
    return [name for name in {*dir(found), *getattr(found, "__all__", ())} if name[:1].isupper()]


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


_RULES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], Reason, _Asked], GudaError]], ...] = (
    (re.compile(r"unrecognized arguments: (.+)", re.DOTALL), _unknown),
    (re.compile(r"the following arguments are required: (.+)"), _required),
    (
        re.compile(r"(?:Group '(?P<group>[^']+)' does not accept option|Option) '(?P<name>[^']+)'"),
        _no_option,
    ),
    (
        re.compile(
            r"Expected a dot import path string: (?P<text>[^\n]*)|[^\n]*?(?P<found>"
            r"module '?(?P<module>[\w.]+)'? has no attribute '?(?P<name>\w+)'?|"
            r"No module named '(?P<missing>[\w.]+)')"
        ),
        _no_class,
    ),
    (
        re.compile(
            r"(?:Import path ?(?P<path>\S*) does not correspond to a|Not a valid) subclass of (?P<kind>\w+)"
        ),
        _no_subclass,
    ),
    (_WRONG, _wrong),
)
