"""Names of groups as users give them: in one text, in a list, in the spelling of another computer."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cached_property
from typing import TypeVar

import yaml

from guda_lightning.errors import GroupError, near
from guda_lightning.types import JOINT

_Meaning = TypeVar("_Meaning")

# Characters without a picture: soft hyphen, zero-width space, word joiner, byte order mark, directions.
# The joiners of emoji and of Persian are not among them, as they change what is seen.
_UNSEEN = dict.fromkeys(
    [0xAD, 0x61C, 0x200B, 0x200E, 0x200F, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0xFEFF]
)
_EXPONENT = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+")  # a number that YAML 1.1 lacks
_BEHIND = re.compile("^(group )+")
_SHOWN = 5  # names, where none is near the one that was given
_ENOUGH = 4  # readings of one text: no need to know them all


def visible(name: str) -> str:
    """What is seen of a name: composed accents, single blanks, nothing invisible; equal for alike names."""
    return " ".join(unicodedata.normalize("NFC", name.translate(_UNSEEN)).split())


def is_readable(name: str) -> bool:
    """Whether a name can be written as UTF-8 and shows anything."""
    kinds = {unicodedata.category(character) for character in visible(name)}
    # A surrogate (Cs) is what Python makes of a file name that is no UTF-8.
    return "Cs" not in kinds and not kinds <= {"Cc", "Cf", "Mn", "Mc", "Me"}


def beside(name: str, words: Collection[str]) -> str:
    """A name among words of ours: as it is, or where it would be taken for one of them, behind ``group``.

    Different names stay different; ``name_beside`` gives back the name.
    """
    return f"group {name}" if _BEHIND.sub("", name) in words else name


def name_beside(text: str, words: Collection[str]) -> str:
    """The name that ``beside`` made a text of."""
    return text.removeprefix("group ") if _BEHIND.sub("", text) in words else text


class Names:
    """Names that are found by their exact text, else by what is seen of it.

    Args:
        names: The names, each once.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self._exact = frozenset(self.names)

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        alike: dict[str, list[str]] = {}
        for name in self.names:
            alike.setdefault(visible(name), []).append(name)
        return alike

    def find(self, text: str) -> str | None:
        """The one name that a text means; None where there is none, or several look like it."""
        if text in self._exact:
            return text
        alike = self._alike.get(visible(text), [])
        return alike[0] if len(alike) == 1 else None


class GroupNames(Names):
    """The names of all groups, and what texts mean among them.

    A text means the group that `find` finds, else groups joined by ``+``, which names may hold themselves.

    Args:
        names: The names, each once.

    Raises:
        GroupError: Two names look the same.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(names)
        for alike in self._alike.values():
            if len(alike) > 1:
                raise GroupError(
                    "the names of two groups look the same",
                    found=" and ".join(map(ascii, alike[:2])),
                    expected="names that differ in more than blanks, invisible characters and encoding",
                    fix="write both alike, which makes them one group, or rename one of them",
                )

    def coalition(self, text: str) -> tuple[str, ...]:
        """The groups that a text names: one, or several joined by ``+`` and removed together, sorted.

        Raises:
            GroupError: One does not exist, or the text means others as well.
        """
        readings = self._coalitions(text)
        if not readings:
            raise unknown_group(
                next(part for part in _parts(text, JOINT) if self.find(part) is None), self.names
            )
        names = _only(text, readings)
        self.joint(names)
        return names

    def joint(self, names: Sequence[str]) -> str:
        """What groups are called together: their names, sorted and joined.

        Raises:
            GroupError: Others are called the same.
        """
        names = tuple(sorted(set(names)))
        text = JOINT.join(names)
        _only(text, [names, *self._coalitions(text)])
        return text

    def split(self, text: str) -> list[str]:
        """What a text names: a group or joint groups, or several of these with commas in between, each once.

        Raises:
            GroupError: One does not exist, or the text has several meanings.
        """
        name = self.find(text)
        if name is not None:
            return [name]
        readings = _readings(text, ",", self.names, self._coalitions)
        if not readings:
            listed = _listed(text)
            if listed is not None:
                return self.of_list(listed)
            readings = [(self.coalition(part),) for part in _parts(text, ",") if not self._coalitions(part)]
        return list(dict.fromkeys(map(self.joint, _only(text, readings))))

    def of_list(self, items: Iterable[object]) -> list[str]:
        """What the items of a list name: each a group or joint groups, each once.

        Args:
            items: Texts, or what YAML makes of a name without quotes, such as None of ``null``.

        Raises:
            GroupError: One does not exist, or has several meanings.
        """
        texts = [item if isinstance(item, str) else self._unquoted(item) for item in items]
        return list(dict.fromkeys(self.joint(self.coalition(text)) for text in texts))

    def _unquoted(self, value: object) -> str:
        """The name that YAML reads as this value."""
        found = [name for name in self.names if _same(_scalar(name), value)]
        if not found:
            text = str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
            raise unknown_group(text, self.names)
        if len(found) > 1:
            raise GroupError(
                f"{value!r} without quotes means several groups",
                found=" and ".join(map(repr, found[:2])),
                expected="a name in quotes",
                fix=f"write {found[0]!r} with its quotes",
            )
        return found[0]

    def _coalitions(self, text: str) -> list[tuple[str, ...]]:
        """The meanings of a text as one group or as joint groups."""
        name = self.find(text)
        if name is not None:
            return [(name,)]
        found = _readings(
            text, JOINT, self.names, lambda part: [n for n in [self.find(part)] if n is not None]
        )
        return list(dict.fromkeys(tuple(sorted(set(names))) for names in found))


def _readings(
    text: str, joint: str, names: Sequence[str], means: Callable[[str], Sequence[_Meaning]]
) -> list[tuple[_Meaning, ...]]:
    """The meanings of a text that is made of pieces, which may hold what joins them; a few of them."""
    parts = text.split(joint)
    # A piece is a name, or several that are joined.
    longest = 1 + max(name.count(joint) for name in names) * (1 + text.count(JOINT) * (joint != JOINT))
    of_rest: list[list[tuple[_Meaning, ...]]] = [[] for _ in parts] + [[()]]
    for start in reversed(range(len(parts))):
        found = [
            (meaning, *rest)
            for stop in range(start + 1, min(start + longest, len(parts)) + 1)
            if of_rest[stop]
            for meaning in means(joint.join(parts[start:stop]))
            for rest in of_rest[stop]
        ]
        of_rest[start] = list(dict.fromkeys(found))[:_ENOUGH]
    return of_rest[0]


def _only(text: str, readings: Iterable[tuple[_Meaning, ...]]) -> tuple[_Meaning, ...]:
    first, *others = dict.fromkeys(readings)
    if others:
        raise GroupError(
            f"'{text}' means several groups",
            found=" or ".join(map(_shown, (first, others[0]))),
            expected="one meaning",
            fix="name them in a list, as in --groups \"['a,b', 'c']\", or rename the group that holds the ','"
            if "," in text and isinstance(first[0], tuple)
            else f"rename the group that holds the '{JOINT}'",
        )
    return first


def _shown(reading: Sequence[object]) -> str:
    joint = ", " if isinstance(reading[0], tuple) else f" {JOINT} "
    return joint.join(_shown(one) if isinstance(one, tuple) else repr(one) for one in reading)


def _parts(text: str, joint: str) -> list[str]:
    return [part.strip() for part in text.split(joint)]


def _listed(text: str) -> list[object] | None:
    """The items of a list in JSON or YAML, as they are written; None where the text is none."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
        if all(isinstance(item, str) for item in value):
            return list(value)
    except (ValueError, RecursionError):
        pass  # YAML, or none
    try:
        value = yaml.load(text, yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _scalar(name: str) -> object:
    """What YAML makes of a name without quotes."""
    if _EXPONENT.fullmatch(name):
        return float(name.replace("_", ""))
    try:
        return yaml.safe_load(name)
    except (
        yaml.YAMLError,
        ValueError,
        AttributeError,
        LookupError,
        TypeError,
    ):  # no scalar, or no day, !!bool x
        return name


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and repr(one) == repr(other)


def requested_groups(text: str, names: Sequence[str]) -> list[str]:
    """The groups that a text names, separated by commas, each once.

    Args:
        text: As a user gives it.
        names: The names of all groups.

    Raises:
        GroupError: One does not exist.
    """
    chosen = GroupNames(names).split(text)
    for name in chosen:
        if name not in names:
            raise unknown_group(name, names)
    return chosen


def unknown_group(name: str, names: Sequence[str]) -> GroupError:
    """The error for a group that is none of these."""
    return GroupError(
        f"unknown group {quoted(name)}",
        found=quoted(name),
        expected=one_of(name, names, "groups"),
        fix="correct the name",
    )


def one_of(word: str, words: Sequence[str], noun: str) -> str:
    """What a name should have been, for an error message: those near it, or else the first few.

    Args:
        word: The name that does not exist.
        words: Those that do.
        noun: What they are names of, in the plural.
    """
    close = near(str(word), words, 3)
    if close:
        return f"one of {len(words)} {noun}; nearest: {', '.join(map(quoted, close))}"
    shown = ", ".join(map(quoted, words[:_SHOWN]))
    return f"one of {len(words)} {noun}: {shown}{', …' * (len(words) > _SHOWN)}"


def quoted(name: str) -> str:
    """A name in quotes, for an error message; what does not print as itself is escaped."""
    return f"'{name}'" if name.isprintable() else ascii(name)
