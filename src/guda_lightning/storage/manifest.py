"""The manifest of a run folder: one JSON document that says what was made from what, and checks it later."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NoReturn

from guda_lightning.errors import StoreError
from guda_lightning.storage.environment import environment
from guda_lightning.storage.files import canonical_json, read_json, sha256_file, write_atomic
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.history import Step, steps_of
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.undamaged import refuse_damaged_files, weights_record
from guda_lightning.storage.walked import left_out, walked
from guda_lightning.storage.weights_record import RECORD

FORMAT = "guda-manifest-1"
# Part of the format, as `guda verify` asks for these words: others need another format.
STATEMENT = (
    "The scores estimate how much each group of the training data made a generated picture more likely: they "
    "compare the full model with one that stands for a model trained without the group. Unlearning serves to "
    "estimate that influence here. It removes nothing from the full model, and neither the scores nor this "
    "document certify that data, or what a model has learnt from them, were deleted."
)
_DEEPEST = 100  # configurations nest, but not so
_SEEDS = ("seed", "seeds", "seed_everything", "counterfactual_seed")
_OF_MODELS = (
    *("operator", "kind", "groups", "seed", "steps", "stopped", "full_hash", "schedule_hash"),
    *("grouping_hash", "hparams", "versions", "files"),
)


def manifest_of(run: RunFolder, scores: Sequence[Mapping[str, Any]], *manifests: Path) -> dict[str, Any]:
    """The document; equal for an unchanged folder, but for when and by what it was written.

    Args:
        run: The run folder.
        scores: Its score tables, as ``report.scored`` gives them.
        *manifests: Files that are no part of the run, though they may lie in it.

    Raises:
        StoreError: Something in the folder is damaged, which the document would call what was made.
    """
    steps = list(steps_of(run).values())
    files = listed_files(run, *manifests)
    refuse_damaged_files(run, {name: one["sha256"] for name, one in files.items()})
    return {
        "format": FORMAT,
        "statement": STATEMENT,
        "written": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "by": environment(),
        **recorded(run, steps, list(files)),
        "files": files,
        "scores": list(scores),
    }


def recorded(run: RunFolder, steps: Sequence[Step], files: Sequence[str]) -> dict[str, Any]:
    """What the records of a run folder say: data, full model, stages, seeds and models; and what is left out.

    Args:
        run: The run folder.
        steps: What was run on it.
        files: The files in it.
    """
    full = FullRecord.of_run(run.full)
    return {
        "run": run.name,
        "data": _distinct([dict(step.data) for step in steps if step.data is not None]),
        "full": None if full is None else read_json(run.full / RECORD),
        "stages": [{**step.to_json(), "data": step.data and step.data.get("data_hash")} for step in steps],
        "seeds": [seed for step in steps for seed in _seeds(step.stage, step.config or {}, "")],
        "models": dict(_models(run, files)),
        "left_out": left_out(run),
    }


def listed_files(run: RunFolder, *manifests: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of every file of a run folder, by its path in it."""
    found = {}
    for name, path in files_of(run, *manifests).items():
        with suppress(FileNotFoundError):  # a command that works there has just removed it
            found[name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    return found


def files_of(run: RunFolder, *manifests: Path) -> dict[str, Path]:
    """The files that a manifest lists, by their path in the run folder."""
    no_part = {path.resolve() for path in (run.manifest, *manifests)}
    return {name: path for name, path in walked(run).items() if path.resolve() not in no_part}


def states_of(run: RunFolder, *manifests: Path) -> dict[str, tuple[int, int] | None]:
    """Size and time of every file that a manifest lists; None of one that is gone."""
    found: dict[str, tuple[int, int] | None] = {}
    for name, path in files_of(run, *manifests).items():
        found[name] = None
        with suppress(FileNotFoundError):
            stat = path.stat()
            found[name] = (stat.st_size, stat.st_mtime_ns)
    return found


def refuse_changed(run: RunFolder, before: Mapping[str, tuple[int, int] | None], *manifests: Path) -> None:
    """Refuse a document whose scores and hashes may be of two states of a run folder.

    Args:
        run: The run folder.
        before: What ``states_of`` it said before anything was read.
        *manifests: Files that are no part of the run.

    Raises:
        StoreError: Something was written there meanwhile.
    """
    after = states_of(run, *manifests)
    changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
    if changed:
        raise StoreError(
            f"{run.root} changed while its manifest was written",
            found=f"{', '.join(changed[:3])}{', …' * (len(changed) > 3)}, written meanwhile",
            expected="a run folder in which no command works",
            fix=f"run guda manifest again once it has ended; guda doctor {run.root} says who works there",
        )


def save(document: Mapping[str, Any], path: Path) -> None:
    """Write a manifest; raises as ``write_atomic``."""
    write_atomic(path, canonical_json(document, indent=1) + "\n")


def load(path: Path) -> dict[str, Any]:
    """Read a manifest; what is in it is not checked.

    Raises:
        StoreError: It is no JSON object, or names something twice, of which a reader sees the other one.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("an entry that is there twice")
        return dict(pairs)

    def no_number(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON number")

    def finite(text: str) -> float:
        return number if math.isfinite(number := float(text)) else no_number(text)  # 1e999

    if not path.is_file():
        raise _unreadable(path, "a folder" if path.is_dir() else f"no file {path}")
    try:
        text = path.read_text("utf-8")
        document = json.loads(text, object_pairs_hook=once, parse_constant=no_number, parse_float=finite)
    except OSError as error:
        raise _unreadable(path, error.strerror) from error
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, f"broken JSON: {error}") from error
    if not isinstance(document, dict):
        raise _unreadable(path, f"a JSON {type(document).__name__}")
    if _depth(document) > _DEEPEST:
        raise _unreadable(path, f"values that are nested {_depth(document)} deep")
    return document


def changed_files(document: Mapping[str, Any], run: RunFolder, *manifests: Path) -> list[str]:
    """Which files are no longer as a manifest lists them, one line each."""
    there, listed = listed_files(run, *manifests), document["files"]
    problems = [f"missing: {name}" for name in listed if name not in there]
    for name, found in there.items():
        if name not in listed:
            problems.append(f"added: {name}")
        elif found["bytes"] != listed[name]["bytes"]:
            problems.append(f"changed: {name}, {found['bytes']} bytes instead of {listed[name]['bytes']}")
        elif found["sha256"] != listed[name]["sha256"]:
            digests = (one["sha256"][:16] for one in (found, listed[name]))
            problems.append(f"changed: {name}, sha256 {' instead of '.join(digests)}")
    return problems


def _models(run: RunFolder, files: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of weights, wherever in the run folder they lie."""
    for name in files:
        record = weights_record(run, name)
        if record is not None:
            yield name.rpartition("/")[0], {key: record[key] for key in _OF_MODELS if key in record}


def _seeds(stage: str, value: Any, key: str) -> Iterator[dict[str, Any]]:
    """Every seed that a configuration sets."""
    pairs = dict(enumerate(value)) if isinstance(value, list) else value
    for name, one in pairs.items() if isinstance(pairs, Mapping) else ():
        inner = f"{key}.{name}" if key else str(name)
        if name in _SEEDS and one is not None:
            yield {"stage": stage, "key": inner, "seed": one}
        else:
            yield from _seeds(stage, one, inner)


def _depth(value: Any) -> int:
    """How deep a JSON value is nested."""
    depth, level = 0, [value]
    while level:
        depth += 1
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [part for one in inner for part in one if isinstance(part, dict | list)]
    return depth


def _distinct(values: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({canonical_json(value): value for value in values}.values())


def _unreadable(path: Path, found: object) -> StoreError:
    return StoreError(
        f"{path} is no manifest",
        found=found,
        expected="the JSON file that `guda manifest` wrote",
        fix="restore it, or correct the path",
    )
