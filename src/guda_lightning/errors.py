"""Errors that say what was found, what was expected, and the exact fix."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Collection

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # colours of a terminal, which other libraries put in


class GudaError(Exception):
    """Base of every error that a user can mend; the command line prints it and exits with 2.

    Args:
        problem: One sentence: what is wrong, naming the file, group or option.
        found: What was there.
        expected: What should have been there.
        fix: The command or edit that mends it.
    """

    def __init__(self, problem: str, *, found: object, expected: object, fix: str) -> None:
        self.problem, self.found, self.expected, self.fix = problem, found, expected, fix
        text = f"{problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}"
        super().__init__(_ESCAPES.sub("", text))

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between processes.
        return _rebuild, (type(self), self.problem, self.found, self.expected, self.fix)


def _rebuild(kind: type[GudaError], problem: str, found: object, expected: object, fix: str) -> GudaError:
    return kind(problem, found=found, expected=expected, fix=fix)


class ConfigError(GudaError):
    """An option or argument is missing, misspelt or out of range."""


class DataError(GudaError):
    """Training data cannot be read or does not fit together."""


class GroupError(GudaError):
    """A group does not exist, is empty, or covers all samples."""


class StoreError(GudaError):
    """A stored artifact is missing, incomplete, damaged or made from something else."""


class QueryError(GudaError):
    """Queries cannot be read or do not fit the model."""


class NumericsError(GudaError):
    """A loss, weight or score is not finite."""


class RankError(GudaError):
    """Another process of the same run is gone."""


class MissingExtraError(GudaError):
    """An optional dependency is not installed.

    Args:
        package: The distribution that is missing, e.g. ``"altair"``.
        extra: The extra of guda-lightning that brings it, e.g. ``"report"``.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(
            f"{package} is not installed",
            found=f"no package named {package}",
            expected=f"the optional dependencies of the extra '{extra}'",
            fix=f'pip install "guda-lightning[{extra}]"',
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.package, self.extra)


def near(name: str, known: Collection[str], count: int = 1, cutoff: float = 0.6) -> list[str]:
    """The names that one may be a slip of, the likeliest first; none where nothing is near.

    Args:
        name: What was written.
        known: What exists.
        count: How many at most.
        cutoff: How alike they are at least, from 0 to 1; letters of another case are the least slip.
    """
    same = [one for one in known if one.casefold() == name.casefold()]
    return same[:count] or difflib.get_close_matches(name, known, n=count, cutoff=cutoff)


def did_you_mean(name: str, known: Collection[str], otherwise: str) -> str:
    """The fix for a name that does not exist: the one that was meant, or what else helps.

    Args:
        name: What was written.
        known: What exists.
        otherwise: The fix where nothing is near.
    """
    meant = near(name, known)
    return f"did you mean {meant[0]}?" if meant else otherwise


def check_range(
    name: str,
    value: float | None,
    *,
    fix: str,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    symbol: str | None = None,
    expected: str | None = None,
) -> None:
    """Refuse a number outside its range; NaN is outside of every range.

    Args:
        name: What the number is: the name of its option or argument, or a few words.
        value: The number; None, an option that is left out, passes.
        fix: The edit that mends it.
        ge: The least number, included.
        gt: The least number, excluded.
        le: The largest number, included.
        lt: The largest number, excluded.
        symbol: What stands for the number in the expected range; default: the last dotted part of ``name``.
        expected: The expected range in words, in place of ``1 <= symbol < 5``.

    Raises:
        ConfigError: The number is outside.
    """
    bounds = ((ge, operator.ge), (gt, operator.gt), (le, operator.le), (lt, operator.lt))
    if value is None or all(bound is None or holds(value, bound) for bound, holds in bounds):
        return
    expected = expected or _range(symbol or name.rpartition(".")[2], ge, gt, le, lt)
    raise ConfigError(f"{name} is out of range", found=value, expected=expected, fix=fix)


def _range(symbol: str, ge: float | None, gt: float | None, le: float | None, lt: float | None) -> str:
    low, low_sign = (gt, "<") if ge is None else (ge, "<=")
    high, high_sign = (lt, "<") if le is None else (le, "<=")
    if low is None:
        return f"{symbol} {high_sign} {high:g}"
    if high is None:
        return f"{symbol} {low_sign.replace('<', '>')} {low:g}"
    return f"{low:g} {low_sign} {symbol} {high_sign} {high:g}"
