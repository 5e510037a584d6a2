"""Paths of the user: how they are written, and that they must exist."""

from __future__ import annotations

import os
import re
from pathlib import Path

from guda_lightning.errors import ConfigError, GudaError, QueryError, StoreError

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


def expanded(path: str) -> str:
    """A path or a name with ``~`` and environment variables written out; what exists is taken as it is.

    Raises:
        ConfigError: A variable is not set, or no path can be so.
    """
    if "\0" in path:
        raise ConfigError(
            f"{path!r} cannot be a path",
            found="the character NUL in it",
            expected="the name of a file or folder",
            fix="write it again",
        )
    if os.path.lexists(path):
        return path

    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if not os.environ.get(name):
            raise ConfigError(
                f"the path '{path}' names an environment variable that is not set",
                found=f"no value of {name}",
                expected="a path, perhaps with ~ and with variables that have a value",
                fix=f"export {name}=..., or write the path out",
            )
        return os.environ[name]

    return _VARIABLE.sub(value, os.path.expanduser(path))


def user_path(path: str | Path) -> Path:
    """The path that a user means; see ``expanded``.

    Raises:
        ConfigError: It names an environment variable that is not set.
    """
    return Path(expanded(os.fspath(path)))


def refuse_missing_full(path: Path) -> None:
    """Refuse a full model that is not there; raises as ``_refuse_missing``."""
    _refuse_missing(
        path,
        "the full model does not exist",
        expected="a diffusers folder or a Lightning checkpoint",
        fix="run `guda fit` with the same configuration first, or pass --full PATH",
    )


def refuse_missing_start(path: Path) -> None:
    """Refuse to fine-tune weights that are not there; raises as ``_refuse_missing``."""
    _refuse_missing(
        path,
        "the weights to start from do not exist",
        expected="a diffusers folder or a Lightning checkpoint",
        fix="correct trainer.start, or leave it out to train from scratch",
    )


def refuse_missing_checkpoint(path: Path) -> None:
    """Refuse a checkpoint that is not there; raises as ``_refuse_missing``."""
    _refuse_missing(
        path,
        "the checkpoint does not exist",
        expected="a Lightning checkpoint",
        fix="correct --ckpt_path, or leave it out for RUN/full",
    )


def refuse_missing_queries(path: Path) -> None:
    """Refuse queries that are not there.

    Raises:
        ConfigError: The path names an environment variable that is not set.
        QueryError: There is nothing at the path.
    """
    _refuse_missing(
        path,
        "there are no queries",
        expected="an image file or a folder of images",
        fix="correct the path",
        error=QueryError,
    )


def _refuse_missing(
    path: Path, problem: str, *, expected: str, fix: str, error: type[GudaError] = StoreError
) -> None:
    """Refuse a path where nothing is.

    Raises:
        ConfigError: The path names an environment variable that is not set.
        StoreError: There is nothing at the path, or another error that was asked for.
    """
    path = user_path(path)
    if not os.path.exists(path):  # False also for a name that is too long
        raise error(problem, found=f"nothing at {path}", expected=expected, fix=fix)
