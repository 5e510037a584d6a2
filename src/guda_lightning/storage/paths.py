"""Paths of the user: how they are written, and that they must exist."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from guda_lightning.errors import ConfigError, GudaError, QueryError, StoreError, near
from guda_lightning.storage.runs import RunFolder

_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")


def expanded(path: str) -> str:
    """A path or a name with ``~`` and environment variables written out; what exists is taken as it is.

    Raises:
        ConfigError: A variable is not set, or no path can be so.
    """
    refuse_nul(path)
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


def refuse_nul(path: str) -> None:
    """Refuse what no file can be called.

    Raises:
        ConfigError: There is a NUL in it.
    """
    if "\0" in path:
        raise ConfigError(
            f"{path!r} cannot be a path",
            found="the character NUL in it",
            expected="the name of a file or folder",
            fix="write it again",
        )


def user_path(path: str | Path) -> Path:
    """The path that a user means; see ``expanded``.

    Raises:
        ConfigError: It names an environment variable that is not set.
    """
    return Path(expanded(os.fspath(path)))


def refuse_no_run(path: Path) -> Path:
    """The run folder that a user means; refuses a folder in which no stage has written anything.

    Raises:
        ConfigError: The path names an environment variable that is not set.
        StoreError: It is no run folder; those that may be meant are named.
    """
    path = user_path(path)
    if RunFolder(path).exists:
        RunFolder(path).refuse_files()
        return path
    around = next((one for one in path.absolute().parents if RunFolder(one).exists), None)
    below = [run.root for run in RunFolder.below(path, 2)]
    beside = {run.root.name: run.root for run in RunFolder.below(path.parent, 1)}
    if around is not None and around.is_relative_to(Path.cwd()):
        around = around.relative_to(Path.cwd())
    meant = [around] if around else below[:1]
    meant = meant or [beside[name] for name in near(path.name, beside)]
    raise StoreError(
        f"{path} is no run folder",
        found=_found_at(path, below),
        expected="a folder that the stages wrote, with full, store or scores in it",
        fix=f"did you mean {meant[0]}?" if meant else "`guda runs` lists those below this folder",
    )


def _found_at(path: Path, runs: Sequence[Path]) -> str:
    if not os.path.exists(path):
        return f"nothing at {path}"
    if not path.is_dir():
        return "a file"
    if runs:
        return f"a folder of {len(runs)} run folders: {_some([str(one.relative_to(path)) for one in runs])}"
    return f"a folder with {_some(sorted(os.listdir(path)))}" if os.listdir(path) else "an empty folder"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + ", …" * (len(names) > 5)


def refuse_missing_tables(run: Path | None, tables: Sequence[Path]) -> list[Path]:
    """The score tables that a user means; refuses those that are not there.

    Args:
        run: The run folder, whose tables may be meant; None: there is none.
        tables: The files.

    Raises:
        ConfigError: A path names an environment variable that is not set.
        StoreError: One is not there.
    """
    found = [user_path(table) for table in tables]
    for table in found:
        if table.is_file():
            continue
        folders = {table.parent, *([RunFolder(run).scores] if run else [])}
        known = {one.stem: one for folder in folders for one in sorted(folder.glob("*.parquet"))}
        meant = near(table.stem, known)
        raise StoreError(
            f"there is no score table {table}",
            found="a folder" if table.is_dir() else f"nothing at {table}",
            expected=f"a .parquet file that guda attribute wrote{f': {_some(list(known))}' if known else ''}",
            fix=f"did you mean {known[meant[0]]}?" if meant else "run `guda attribute`, or correct the path",
        )
    return found


def refuse_missing_full(path: Path) -> None:
    """Refuse a full model that is not there; raises as ``_refuse_missing``."""
    _refuse_missing(
        path,
        "the full model does not exist",
        expected="a diffusers folder or a Lightning checkpoint",
        fix="pass --full PATH (full: PATH in the configuration), or train one with `guda fit`",
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
