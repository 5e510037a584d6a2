"""How each file of a run folder is read: the first pattern that matches its name says it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path

import pandas as pd
import torch

from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.data import load_queries
from guda_lightning.data.rows import read_rows
from guda_lightning.diffusion import FullModel
from guda_lightning.errors import GudaError
from guda_lightning.posteriors import PosteriorStore
from guda_lightning.report import run as page
from guda_lightning.scores.squared_errors import SquaredErrors
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.run_state import run_state
from guda_lightning.storage.runs import RunFolder
from torture.contents import contents
from torture.story import STORY

Read = Callable[[Path, Path], object]  # of a run folder and a file in it
SHAPE = (1, 8, 8)


def full(run: Path, path: Path) -> object:
    """The full model, as every stage opens it."""
    found = FullModel.load(run / "full")
    record = FullRecord.of_fit(RunFolder(run))
    record.refuse_unfinished(run / "full")
    return (
        record,
        found.hash,
        found.model.denoiser.state_dict(),
        vars(found.model.schedule),
        found.scheduler.config,
    )


def counterfactual(run: Path, path: Path) -> object:
    """The weights of all of its folder's store."""
    store = CounterfactualStore(run / "store")
    return [store.load(record.key, expect=None) for record in store.records()]


def posterior(run: Path, path: Path) -> object:
    """The weights of all of the posteriors."""
    store = PosteriorStore(run / "store")
    return [store.load(record.key, expect=None) for record in store.records()]


def queries(run: Path, path: Path) -> object:
    """The pictures of the folder of a file, as commands take them."""
    return load_queries(path.parent, SHAPE)


def shown(run: Path, path: Path) -> object:
    """All that the page of a run is made from, and the numbers that it exports."""
    found: list[object] = []

    def keep(folder: Path, made: object) -> Path:
        found.append(made)
        return folder

    page._WRITERS = {"html": keep}
    for table in ("guidance-0", "retrack-0"):  # of all groups, and of two
        if (run / "scores" / f"{table}.parquet").is_file():
            page.report_run(run, run / "scores" / f"{table}.parquet")
    return found


def squared_errors(run: Path, path: Path) -> object:
    """Squared errors, as scores take them: with all of their record."""
    original = run.parents[1] / "whole" / path.relative_to(run)
    return SquaredErrors.load(path, SquaredErrors.load(original, {}).record)


def staying(run: Path, path: Path) -> object:
    """The samples that stay after curation, as a configuration names them as data."""
    return list(read_rows(run / "curation" / "groups.jsonl", "list of samples", "", ("id", "group")))


def history(run: Path, path: Path) -> object:
    """What was run, as ``guda replay`` and ``guda manifest`` take it."""
    from guda_lightning.storage.history import steps_of

    return steps_of(RunFolder(run))


def again(*steps: str) -> Read:
    """What commands say and make that find their work done, or that need nothing but files."""

    def read(run: Path, path: Path) -> object:
        for step in (one for one in STORY if one.name in steps):
            err = io.StringIO()
            with contextlib.redirect_stderr(err):
                if main(step.command(run)):
                    raise GudaError(err.getvalue(), found="", expected="", fix="")
        return contents(run)

    return read


def state(run: Path, path: Path) -> object:
    """What doctor says, which names damage and reads no numbers: it may differ, and never fails."""
    run_state(RunFolder(run))
    return None


READERS: Mapping[str, tuple[Read, ...]] = {
    r"full/.*": (full,),
    r"store/posteriors/.*": (posterior, shown),
    r"store/.*": (counterfactual, shown),
    r"queries/record\.json": (again("without"),),
    r"queries/.*": (queries,),
    r"scores/queries/.*": (shown,),
    r"scores/errors/.*\.safetensors": (squared_errors,),
    r"scores/.*": (shown,),
    r"history/.*": (history,),
    r"features/costs/.*": (again("similarity"),),
    r"ensembles/.*": (shown,),
    r"evaluation/.*": (shown,),
    r"(groups|distribution)\.parquet": (shown,),
    r"placebo/.*": (shown,),
    r"properties/.*": (shown,),
    r"balanced/.*": (shown,),
    r"without/.*": (shown,),
    r"curation/(groups\.jsonl|seal\.json)": (staying,),
    r"curation/.*": (shown,),
    r"examples\.safetensors": (shown,),
    r"\.fit\.json": (again("fit"),),
}
UNREAD: Mapping[str, str] = {
    r"report/.*": "a browser reads it, guda does not",
    r"\.locks/.*": "a lock is held by the system; what it says is for people",
}


def readers_of(name: str) -> tuple[Read, ...]:
    """How a file is read, by its name in the run folder.

    Raises:
        LookupError: Nobody has told the harness.
    """
    if any(re.fullmatch(pattern, name) for pattern in UNREAD):
        return ()
    for pattern, found in READERS.items():
        if re.fullmatch(pattern, name):
            return (*found, state)
    raise LookupError(f"{name}: tell the harness how it is read, in READERS of tests/torture/readers.py")


def digest(value: object) -> str:
    """A hash of anything that a reader returns, to the last bit."""
    found = hashlib.sha256()
    _update(found, value)
    return found.hexdigest()


def _update(found: hashlib._Hash, value: object) -> None:
    if isinstance(value, torch.Tensor):
        found.update(f"{value.dtype}{tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    elif isinstance(value, pd.DataFrame):
        found.update(value.to_json(double_precision=15).encode())
    elif is_dataclass(value) and not isinstance(value, type):
        for each in fields(value):
            found.update(each.name.encode())
            _update(found, getattr(value, each.name))
    elif isinstance(value, Mapping):
        for key, one in value.items():
            found.update(repr(key).encode())
            _update(found, one)
    elif isinstance(value, list | tuple):
        found.update(str(len(value)).encode())
        for one in value:
            _update(found, one)
    elif hasattr(value, "to_dict"):
        _update(found, value.to_dict())
    elif type(value).__repr__ is not object.__repr__:
        found.update(repr(value).encode())
    else:
        _update(found, vars(value))
