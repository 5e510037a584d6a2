"""Skips a complete ``fit`` without torch, where nothing has changed since it was last found complete.

``fit`` finds that with parsers, a trainer and a module, after seconds of imports. What decides it are the
command line, the files, the machine, the code, and RUN/full/record.json: hashes of them are kept in the run
folder. Anything that may read something else while it is built goes the long way each time. So does a full
model that is damaged, which is refused there, and one that RUN/history does not know, which is noted there.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import chain
from pathlib import Path
from typing import Any

from guda_lightning.cli.inputs import Inputs
from guda_lightning.errors import StoreError
from guda_lightning.storage.files import sha256_file, sha256_json
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.history import has_noted
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.sealed import read_sealed, write_json
from guda_lightning.storage.seals import intact

_PACKAGES = ("diffusers", "jsonargparse", "lightning", "numpy", "omegaconf", "torch", "wandb")
_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
_EXPANDED = re.compile(r"~|.*\$[A-Za-z_]", re.DOTALL)
_PATTERN = re.compile(r"[*?[]")  # of files
_DECIDING = ("config", "pretrained", "seed_everything")  # options that are looked at by name
_LAUNCHED = ("LOCAL_RANK", "RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID")
_VARIABLES = re.compile(
    r"(?!PL_GLOBAL_SEED|PL_SEED_WORKERS)(PL|SLURM|CUDA|NVIDIA|TORCH|LIGHTNING|PYTHON|WANDB)_?"
)


def fingerprint(inputs: Inputs) -> str | None:
    """A hash of all but the run folder that decides whether ``fit`` is complete; None: too much might."""
    listings = _listings(inputs) if _is_decided_by(inputs) else None
    if listings is None:
        return None
    return sha256_json(
        {
            "arguments": inputs.arguments,
            "files": [[str(path), text] for path, text in inputs.files.items()],
            "named": {text: _state(inputs, text) for text in sorted(set(_texts(inputs)))},
            "data": listings,
            "folder": os.getcwd(),
            "machine": [platform.node(), sys.version, sorted(map(str, Path("/dev").glob("nvidia[0-9]*")))],
            "environment": {name: value for name, value in os.environ.items() if _VARIABLES.match(name)},
            "versions": {name: _version(name) for name in _PACKAGES},
            "code": max(path.stat().st_mtime_ns for path in Path(__file__).parents[1].rglob("*.py")),
        }
    )


def complete(inputs: Inputs, of_inputs: str | None) -> str | None:
    """The full model's folder as ``fit`` prints it, where a stamp says that it is complete; else None.

    Args:
        inputs: Those of ``fit``.
        of_inputs: Their fingerprint.
    """
    if of_inputs is None:
        return None
    for run in {value for value in inputs.values.get("run", ()) if isinstance(value, str)}:
        folder = RunFolder(Path(run))
        with suppress(StoreError, OSError, ValueError):
            if not intact(folder.fit_stamp, "whether fit is complete is found out anew"):
                continue
            stamp = read_sealed(folder.fit_stamp, "run guda fit again")
            as_then = stamp == _stamp(folder, of_inputs, stamp.get("full"))
            if as_then and has_noted(folder, "fit") and FullRecord.intact(folder.full) is not None:
                return str(stamp["full"])
    return None


def remember(run: RunFolder, of_inputs: str | None) -> None:
    """Keep that these inputs have led to a complete ``fit``, where the run folder can be written.

    Args:
        run: The run folder of ``fit``.
        of_inputs: The fingerprint of the inputs from before it ran.
    """
    if of_inputs is not None:
        with suppress(StoreError, OSError):
            stamp = _stamp(run, of_inputs, str(run.full))
            write_json(run.fit_stamp, stamp)


def _stamp(run: RunFolder, of_inputs: str, full: Any) -> dict[str, Any]:
    record = sha256_file(run.full / "record.json")
    return {"inputs": of_inputs, "root": str(run.root.resolve()), "record": record, "full": full}


def _is_decided_by(inputs: Inputs) -> bool:
    """Whether nothing else is read when trainer, model and data are built."""
    texts = list(_texts(inputs))
    return not (
        any(name in os.environ for name in _LAUNCHED)
        or any("oc." in text for text in (*inputs.arguments, *inputs.files.values()))  # environment variables
        or any(key.rpartition(".")[2] == "pretrained" for key in inputs.values)  # a pipeline on disk or hub
        or any(not re.fullmatch(r"\d+", str(seed)) for seed in inputs.values.get("seed_everything", ()))
        or any(_is_shortened(argument) for argument in inputs.arguments)
        or any(_EXPANDED.match(text) for text in texts)  # paths that depend on it, too
        or any(text.endswith((".yaml", ".yml", ".json")) for text in texts)  # a part of the configuration
        or any(not _is_known(text) for text in texts if _CLASS.fullmatch(text))
    )


def _is_shortened(argument: str) -> bool:
    """Whether the parser takes it for an option of another spelling: ``-cFILE``, ``--conf FILE``."""
    name = argument.partition("=")[0]
    long = any(option.startswith(name[2:]) and option != name[2:] for option in _DECIDING)
    return (name.startswith("--") and name != "--" and long) or (name.startswith("-c") and name != "-c")


def _is_known(class_path: str) -> bool:
    """Whether a class is this package's or that of a library whose version is in the fingerprint."""
    return class_path.partition(".")[0] in ("guda_lightning", *_PACKAGES)


def _texts(inputs: Inputs) -> Iterator[str]:
    values: Iterable[Any] = (value for values in inputs.values.values() for value in values)
    return (value for value in values if isinstance(value, str))


def _listings(inputs: Inputs) -> dict[str, str] | None:
    """Hashes of names, sizes and times of all files in the folders that the section ``data`` names.

    None: files elsewhere may belong to the data, too, by a pattern or in a linked folder.
    """
    found: dict[str, str] = {}
    for key, values in inputs.values.items():
        texts = [value for value in values if isinstance(value, str) and value and "\0" not in value]
        for text in texts if key.startswith("data.") and not key.endswith(".cache") else ():
            if _PATTERN.search(text):
                return None
            files = list[Path]()
            for base, folders, names in chain.from_iterable(map(os.walk, _places(inputs, text))):
                if any(Path(base, name).is_symlink() for name in folders):
                    return None  # here, as the walk of / or /proc takes minutes
                files += (Path(base, name) for name in names)
            found[text] = sha256_json([[str(file), _state_of(file)] for file in sorted(files)])
    return found


def _places(inputs: Inputs, text: str) -> list[Path]:
    """Where what a text names may lie: here, or beside a configuration."""
    return [folder / text for folder in (Path(), *(path.parent for path in inputs.files))]


def _state(inputs: Inputs, text: str) -> Any:
    """What a text names: a parser reads files that values name."""
    return [_state_of(place) for place in _places(inputs, text)]


def _state_of(path: Path) -> Any:
    try:
        stat = path.stat()
    except (OSError, ValueError):
        return None
    return "folder" if path.is_dir() else [stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
