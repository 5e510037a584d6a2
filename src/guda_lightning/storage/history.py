"""What was run on a run folder: ``RUN/history``, one file for each command that has changed it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from guda_lightning.errors import StoreError
from guda_lightning.storage.begun import Begun
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.locks import locked
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.sealed import read_sealed, write_json
from guda_lightning.storage.typed import refuse_misfits
from guda_lightning.storage.walked import is_working, names_in
from guda_lightning.storage.written import files_below, listening

_FORMAT = 1
_PATHS = ("run", "default_root_dir")  # what else is called as a run folder beside it: a group, an operator
_NO_RESULTS = (
    "checkpoints",
    "history",
    "lightning_logs",
    "manifest.json",
    "replay",
    "replay.json",
    "report",
    "spread",
    "wandb",
)


@dataclass(frozen=True)
class Step:
    """A command that ended well.

    Attributes:
        stage: Its name, as it is typed behind ``guda``.
        run: The run folder, as the command named it.
        arguments: What followed the name.
        config: Its whole configuration, as ``--print_config`` shows it; None for a command that has none.
        data: Hashes of the training data that it worked on, and the sizes of their groups; None without.
        environment: Machine, versions and code.
        files: What it wrote, by paths in the run folder.
        ended: When, in UTC as ISO 8601.
    """

    stage: str
    run: str
    arguments: tuple[str, ...]
    config: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    ended: str = ""

    @property
    def identity(self) -> str:
        """Hash of what was run, wherever the run folder lies; the same for a command that is repeated."""
        said: object = self.arguments if self.config is None else self.config
        return sha256_json([self.stage, moved(said, self.run, "RUN")])

    def to_json(self) -> dict[str, Any]:
        """JSON values, by name."""
        return {**asdict(self), "arguments": list(self.arguments), "files": list(self.files)}

    def save(self, run: RunFolder) -> Path:
        """Write it behind all others; returns the file, ``NNNN-STAGE-IDENTITY.json``.

        Raises:
            StoreError: The disk is full.
        """
        with locked(run.root, run.history):  # or the same command beside it may take the same name
            number = 1 + max((_number(path) for path in _paths(run)), default=0)
            path = run.history / f"{number:04d}-{self.stage}-{self.identity[:12]}.json"
            write_json(path, {**self.to_json(), "format": _FORMAT})
        return path

    @classmethod
    def load(cls, path: Path) -> Step:
        """Read it.

        Raises:
            StoreError: It is missing, damaged, or of another format.
        """
        fix = "restore the file; without it, nothing tells how this run was made"
        value = read_sealed(path, fix)
        expected = {each.name for each in fields(cls)}
        if value.get("format") != _FORMAT or value.keys() != {*expected, "format"}:
            raise StoreError(
                f"{path} does not say what was run",
                found=f"format {value.get('format', 'unset')}, entries {', '.join(sorted(value))}",
                expected=f"format {_FORMAT}, entries {', '.join(sorted(expected))}",
                fix="use the version of guda-lightning that wrote it",
            )
        del value["format"]
        refuse_misfits(cls, value, path, fix)
        return cls(**{**value, "arguments": tuple(value["arguments"]), "files": tuple(value["files"])})


def steps_of(run: RunFolder) -> dict[str, Step]:
    """All that was run, in order, by the names of the files; raises as ``Step.load``."""
    return {path.name: Step.load(path) for path in _paths(run)}


def has_noted(run: RunFolder, stage: str, identity: str = "") -> bool:
    """Whether a stage was run, of whatever identity where none is given; no file is read."""
    return any(run.history.glob(f"[0-9]*-{stage}-{identity[:12]}*.json"))


def moved(value: Any, old: str, new: str) -> Any:
    """A JSON value with the run folder, and the paths in it, at another place."""
    if isinstance(value, Mapping):
        root = os.path.normpath(old)
        kept = {name for name, one in value.items() if one == root and "/" not in root and name not in _PATHS}
        return {name: one if name in kept else moved(one, old, new) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [moved(one, old, new) for one in value]
    if not isinstance(value, str) or not value:
        return value
    root, path = os.path.normpath(old), os.path.normpath(value)  # as in ./runs/a/
    inside = root != "." and path.startswith(f"{root}/")
    return new + path[len(root) :] if path == root or inside else value


@contextmanager
def noted(
    run: RunFolder, step: Step | None, told: Callable[[Step], Step | None] = lambda step: step
) -> Iterator[None]:
    """Note what is run in the block, where it ends well and has written something.

    What earlier attempts at the same wrote, which were killed or failed, is part of it. What has written
    nothing is noted where files lie there that nobody has noted, as from an earlier version, and where it is
    not noted itself.

    Args:
        run: The run folder.
        step: What is run; None: not to be noted.
        told: Fills in what is known of it at its end alone; ``files`` and ``ended`` are filled in here. None:
            not to be noted.
    """
    if step is None:
        yield
        return
    begun, root = Begun(run, f"{step.stage}-{step.identity[:12]}"), os.path.abspath(run.root)

    def keep(paths: Sequence[str]) -> None:
        names = (path.removeprefix(f"{root}/") for path in paths if path.startswith(f"{root}/"))
        begun.wrote(list(filter(is_result, names)))

    try:
        with listening(keep) as heard:
            yield
        said = told(step)
        if said is not None:
            files = set(filter(is_result, files_below(run.root, heard)))
            if killed := [os.path.normpath(f"{root}/{name}") for name in begun.of_killed()]:
                files |= set(filter(is_result, files_below(run.root, killed))) - _noted_files(run)
            if files or _is_missing(run, said):
                ended = datetime.now(timezone.utc).isoformat(timespec="seconds")
                replace(said, files=tuple(sorted(files)), ended=ended).save(run)
        begun.ended()
    finally:
        begun.close()


def _is_missing(run: RunFolder, step: Step) -> bool:
    """Whether a command that has written nothing may have made what nobody has noted."""
    if has_noted(run, step.stage, step.identity):
        return False
    noted_files = _noted_files(run)
    try:
        return any(is_result(file) and file not in noted_files for file in names_in(run))
    except StoreError:  # somebody may have made what cannot be read
        return True


def _noted_files(run: RunFolder) -> set[str]:
    return {file for step in steps_of(run).values() for file in step.files}


def is_result(file: str) -> bool:
    """Whether a file of a run folder, by its path in it, is what a command makes: no log and no temporary."""
    return file.partition("/")[0] not in _NO_RESULTS and not any(map(is_working, file.split("/")))


def _paths(run: RunFolder) -> list[Path]:
    return sorted(run.history.glob("[0-9]*-*-*.json"), key=lambda path: (_number(path), path.name))


def _number(path: Path) -> int:
    number = path.name.partition("-")[0]
    return int(number) if number.isdecimal() else 0
