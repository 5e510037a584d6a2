"""What a run folder holds, what in it is half-written or stale, and which command goes on; without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from guda_lightning.errors import GudaError
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.leftovers import left_by_kills
from guda_lightning.storage.locks import Owner, at_work
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.score_state import Best, Record, Table, best_of, lacks_weights, tables_of
from guda_lightning.storage.typed import refuse_misfits
from guda_lightning.storage.weights_record import RECORD, read_record
from guda_lightning.storage.yardsticks import CONFIG

_NO_IMAGES = (".json", ".jsonl")


@dataclass(frozen=True)
class _Named:
    """What a record in a store says, as far as it counts here."""

    operator: str = ""
    kind: str = ""
    groups: tuple[str, ...] = ()
    full_hash: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RunState:
    """What a run folder holds.

    Attributes:
        run: Its path.
        full: ``complete``, ``no record`` where nothing says how it was trained, ``elsewhere`` where only what
            was made from it lies here, or ``none``.
        queries: How many samples of the full model there are.
        groups: Names of the groups, as far as anything in the folder names them.
        counterfactuals: How many there are, by operator.
        posteriors: The kinds that there are.
        tables: The score tables, the newest last.
        best: What an evaluation says; None: there is none.
        page: ``written``, ``older than the scores``, or ``none``.
        at_work: Who works on what in it at this moment.
        unfinished: What an interrupted command left, and what it was doing.
        stale: What was made from something that has changed since.
        damaged: What cannot be read, and why.
        changed: When anything was last written, in seconds since 1970.
        next: What to do next, the first thing first; ``FILE`` stands for the configuration of the run.
    """

    run: str
    full: str
    queries: int
    groups: tuple[str, ...]
    counterfactuals: Mapping[str, int]
    posteriors: tuple[str, ...]
    tables: tuple[Table, ...]
    best: Best | None
    page: str
    at_work: tuple[Owner, ...]
    unfinished: tuple[str, ...]
    stale: tuple[str, ...]
    damaged: tuple[str, ...]
    changed: float
    next: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON values; times are those of UTC in ISO 8601."""
        value = asdict(self)
        value["changed"] = _iso(self.changed)
        for table in value["tables"]:
            table["changed"] = _iso(table["changed"])
        return value


def run_state(run: RunFolder, hashed: bool = False) -> RunState:
    """Look through a run folder; nothing is changed, and of weights and pictures nothing is read.

    Args:
        run: The run folder.
        hashed: Whether the files of the full model are hashed nevertheless, as by what opens it.
    """
    damaged: list[str] = []
    full_hash, full = _full(run, damaged, hashed)
    made = list(_records(run.store, damaged))
    posteriors = list(_records(run.store / "posteriors", damaged))
    records = tables_of(run, damaged)
    tables = list(records)
    if full == "none" and (made or posteriors or tables):
        full = "elsewhere"
    page = _page(run, tables)
    working = at_work(run.root)
    unfinished = _unfinished(run, {run.root / owner.path for owner in working})
    stale = [*_stale(full_hash, made, posteriors, tables), *_lost(run, records, [*made, *posteriors])]
    queries = _images(run.queries)
    steps = _next(run, full, queries, made, posteriors, tables, page, unfinished, [*stale, *damaged])
    if working:
        steps = ["wait for what works there now", *steps]
    return RunState(
        run=str(run.root),
        full=full,
        queries=queries,
        groups=_groups([*made, *posteriors], records),
        counterfactuals=dict(sorted(Counter(record["operator"] for record in made).items())),
        posteriors=tuple(sorted({record["kind"] for record in posteriors})),
        tables=tuple(tables),
        best=best_of(run, records, damaged),
        page=page,
        at_work=tuple(working),
        unfinished=tuple(unfinished),
        stale=tuple(stale),
        damaged=tuple(damaged),
        changed=max(_times(run), default=0.0),
        next=tuple(steps),
    )


def _full(run: RunFolder, damaged: list[str], hashed: bool) -> tuple[str | None, str]:
    try:
        record = FullRecord.of_run(run.full)
    except GudaError as error:
        damaged.append(f"{run.full / RECORD}: {error.found}")
        return None, "no record"
    if record is None:
        return None, "no record" if run.full.is_dir() and any(run.full.iterdir()) else "none"
    if hashed:
        try:
            FullRecord.intact(run.full)
        except GudaError as error:
            damaged.append(f"{error.problem}: {error.found}")
    return record.full_hash, "complete"


def _records(folder: Path, damaged: list[str]) -> Iterator[dict[str, Any]]:
    """The records of what is complete in a store."""
    for path in sorted(folder.glob(f"*/{RECORD}")):
        if path.parent.name.startswith("."):
            continue
        try:
            record = read_record(path)
            if record.get("complete") and ("operator" in record or "kind" in record):
                refuse_misfits(_Named, record, path, "make it again")
                yield record
        except GudaError as error:
            damaged.append(f"{path}: {error.found}")


def _page(run: RunFolder, tables: list[Table]) -> str:
    page = run.report / "index.html"
    if not page.is_file():
        return "none"
    return "older than the scores" if tables and page.stat().st_mtime < tables[-1].changed else "written"


def _images(folder: Path) -> int:
    files = folder.iterdir() if folder.is_dir() else ()
    return sum(one.suffix not in _NO_IMAGES and not one.name.startswith(".") for one in files)


def _groups(stored: list[dict[str, Any]], tables: Mapping[Table, Record]) -> tuple[str, ...]:
    names = {str(name) for record in stored for name in record.get("groups", ())}
    return tuple(sorted(names or {name for one in tables.values() for name in one.get("group_sizes") or ()}))


def _unfinished(run: RunFolder, busy: Set[Path]) -> list[str]:
    """What was interrupted, without what a command works on."""
    checkpoints = sorted(
        one for one in (run.root / "checkpoints").glob("*") if one not in busy and any(one.rglob("*.*"))
    )
    parts = sorted(run.scores.glob("*.parts")) if run.scores.is_dir() else []
    parts = [one for one in parts if one.with_suffix(".parquet") not in busy]
    return [
        *(f"{one}: an interrupted training or drawing, which goes on from there" for one in checkpoints),
        *(f"{one}: scores of some queries, which guda attribute completes" for one in parts),
        *left_by_kills(run.root),
    ]


def _inside(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _stale(
    full_hash: str | None, made: list[dict[str, Any]], posteriors: list[dict[str, Any]], tables: list[Table]
) -> list[str]:
    """What was made from another full model than that of the run."""
    if full_hash is None:
        return []
    others = Counter(one["operator"] for one in made if one.get("full_hash") != full_hash)
    others += Counter(one["kind"] for one in posteriors if one.get("full_hash") != full_hash)
    scores = [one.name for one in tables if one.full_hash not in (None, full_hash)]
    return [
        *(f"{count} of {name}: made from another full model" for name, count in sorted(others.items())),
        *(f"scores {name}: of another full model" for name in scores),
    ]


def _lost(run: RunFolder, tables: Mapping[Table, Record], stored: list[dict[str, Any]]) -> list[str]:
    """Tables whose models or posterior are gone; the oracle of a yardstick comes without them."""
    weights = {digest for record in stored for digest in record.get("files", {}).values()}
    given = (run.root / CONFIG).is_file()
    nameless = any("kind" in record and not record.get("files") for record in stored)
    return [
        f"scores {table.name}: what made them is not in {run.store}"
        for table, record in tables.items()
        if lacks_weights(record, weights, nameless) and not (given and table.name.startswith("retrain-"))
    ]


def _next(
    run: RunFolder,
    full: str,
    queries: int,
    made: list[dict[str, Any]],
    posteriors: list[dict[str, Any]],
    tables: list[Table],
    page: str,
    unfinished: list[str],
    wrong: list[str],
) -> list[str]:
    command = f"-c FILE --run {run.root}"
    if wrong:
        return [
            "remove what is stale or damaged, but what --full made of another model on purpose, and run the "
            "command that makes it again"
        ]
    if any("goes on" in one or "completes" in one for one in unfinished):
        return ["the command that was interrupted, which goes on where it was"]
    if full == "none":
        return [f"guda fit {command}"]
    if not made and not posteriors and not tables:
        steps = [] if queries else [f"guda sample {command}"]
        return [*steps, f"guda guide {command}", f"guda attribute {command} --operator guidance"]
    if not tables:
        steps = [] if queries else [f"guda sample {command}"]
        return [*steps, f"guda attribute {command}"]
    if page != "written":
        return [f"guda report {run.root}"]
    if full != "complete":  # nobody knows how to retrain it
        return []
    if not any(record.get("operator") == "retrain" for record in made):
        return [f"guda retrain {command} --seeds 0,1"]
    if not run.evaluation.is_dir():
        return [f"guda attribute {command} --operator retrain --seed 0,1", f"guda evaluate {run.root}"]
    return []


def _times(run: RunFolder) -> Iterator[float]:
    """When the folders and files of the upper levels were written."""
    for path in (run.root, *_inside(run.root)):
        for one in (path, *_inside(path)):
            with suppress(FileNotFoundError):  # gone since it was listed
                yield one.lstat().st_mtime


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
