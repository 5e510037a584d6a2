"""Errors that say what was found, what was expected, and the exact fix."""

from __future__ import annotations


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
        super().__init__(f"{problem}\n  found:    {found}\n  expected: {expected}\n  fix:      {fix}")

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
