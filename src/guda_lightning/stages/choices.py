"""What a user requested of a stage, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guda_lightning.data.group_names import split_names
from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import ConfigError, check_range
from guda_lightning.storage.paths import user_path
from guda_lightning.types import JOINT

# For `refuse_choices` where another attributor scores.
ATTRIBUTOR = (
    "another attributor was given",
    "an attributor, or options of counterfactuals",
    "the attributor",
)


def chosen_groups(grouping: Grouping, requested: Sequence[str] | str | None) -> list[str]:
    """The groups that a stage works on: the requested ones (a list, or ``a,b``), or all that have samples.

    ``a+b`` are two groups that are removed together.

    Raises:
        GroupError: One does not exist, has no samples, or has all.
    """
    if isinstance(requested, str):
        requested = split_names(requested, grouping.names)
    names = requested or [name for name in grouping.names if grouping.size(name)]
    return list(dict.fromkeys(JOINT.join(grouping.coalition(name)) for name in names))


def chosen_seeds(requested: Sequence[int] | int | str, option: str = "--seeds") -> list[int]:
    """Distinct seeds from a list, one number, or ``0,1,2``.

    Raises:
        ConfigError: They are no whole numbers of at least 0.
    """
    listed = [requested] if isinstance(requested, int) else requested
    parts = listed.split(",") if isinstance(listed, str) else listed
    texts = [str(part).strip() for part in parts]
    if not texts or not all(text.isdecimal() for text in texts):
        raise ConfigError(
            "the seeds are not usable",
            found=requested,
            expected="whole numbers of at least 0",
            fix=f"pass them as {option} 0,1,2",
        )
    return list(dict.fromkeys(map(int, texts)))


def table_names(queries: Path | None, name: str | None) -> list[str]:
    """What tells a score table from others of its method and seed: its own queries, and the user's name."""
    return [part for part in (queries and user_path(queries).resolve().stem, name) if part]


def refuse_choices(instead: str, expected: str, fix: str, **choices: object) -> None:
    """Refuse options that are about counterfactuals where there are none.

    Args:
        instead: What there is.
        expected: What should be given.
        fix: What else may be done than to leave the option out.
        **choices: The options; None where one is not given.

    Raises:
        ConfigError: One is given.
    """
    for name, value in choices.items():
        if value is not None:
            raise ConfigError(
                f"{name} is about counterfactuals, and {instead}",
                found=f"{name} {value}",
                expected=expected,
                fix=f"leave out --{name}, or {fix}",
            )


def refuse_two_methods(attributor: object, objective: object, classifier: object) -> None:
    """Refuse a placebo test of two methods at once.

    Raises:
        ConfigError: More than one is given.
    """
    if attributor is not None:
        refuse_choices(*ATTRIBUTOR, objective=objective, classifier=classifier)
    if objective is not None and classifier is not None:
        raise ConfigError(
            "an objective unlearns and a classifier guides, and both were given",
            found=f"an objective {type(objective).__name__}, and a classifier",
            expected="one of them",
            fix="leave out --objective, or --classifier",
        )


def at_least_one(name: str, value: int) -> None:
    """Refuse a count below one.

    Raises:
        ConfigError: It is.
    """
    check_range(name, value, ge=1, fix=f"pass --{name} 1 or more")
