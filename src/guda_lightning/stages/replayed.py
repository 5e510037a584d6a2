"""What a run folder and its replay have in common, file by file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from safetensors import SafetensorError
from safetensors.torch import load_file

from guda_lightning.counterfactuals import RETRAIN
from guda_lightning.errors import GudaError
from guda_lightning.stages.likeness import Likeness, Weights, of_pictures, of_records, of_tables, of_weights
from guda_lightning.stages.opened import open_run
from guda_lightning.storage.files import read_json, sha256_file
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.seals import SEALS
from guda_lightning.storage.walked import walked
from guda_lightning.storage.weights_record import RECORD

Outcome = Literal["identical", "within tolerance", "differs", "not replayed"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

# What readers raise of a damaged file; SafetensorError derives from nothing of these.
_UNREADABLE = (GudaError, OSError, ValueError, KeyError, TypeError, SyntaxError, SafetensorError)
_MEASURED = (".json", ".jsonl", ".parquet", ".png", ".safetensors")
# Folders of what is no result, and why it is not compared.
_APART = {
    "report": "guda report makes it from the rest",
    "spread": "it says how tasks went",
    "checkpoints": "an unfinished training keeps it",
    "wandb": "a log",
    "lightning_logs": "a log",
    "scores/costs": "it says how long something took",
    "features/costs": "it says how long something took",
}
_BY_HASH = ("features", "scores/errors")  # files that are named by the hash of a model
_LEFT_OUT = ("history", "replay", "manifest.json", "replay.json")  # no part of what was made


@dataclass(frozen=True)
class Replayed:
    """One file of a run folder beside that of its replay.

    Attributes:
        file: Its path in the run folder.
        outcome: What was found.
        distance: How far they lie apart, in units of what ``unit`` says; None where that was not measured.
        unit: What the distance is a share of.
        reason: Why it differs, or was not replayed.
    """

    file: str
    outcome: Outcome
    distance: float | None = None
    unit: str = ""
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The attributes by name."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A run folder beside its replay.

    Attributes:
        run: The run folder.
        into: The folder of its replay.
        tolerance: How far results may lie apart, in units of what each kind of result may differ by.
        made: Files that the commands which were repeated have written.
        copied: Files that were copied, and why.
    """

    run: RunFolder
    into: RunFolder
    tolerance: float
    made: Collection[str]
    copied: Mapping[str, str]
    _starts: dict[int | None, Weights | None] = field(default_factory=dict, repr=False)

    def files(self) -> Iterator[Replayed]:
        """Compare them; those that no command is known to have made are among them."""
        there = walked(self.into)
        for name, path in walked(self.run).items():
            if name.partition("/")[0] not in _LEFT_OUT:
                yield self._compared(name, path, there.get(name))

    def only_in_replay(self) -> list[str]:
        """Files that were made again and are not in the run folder: somebody has removed them there."""
        there, apart = walked(self.run), tuple(f"{folder}/" for folder in (*_APART, *_BY_HASH, *_LEFT_OUT))
        names = (name for name in walked(self.into) if name not in there and name not in _LEFT_OUT)
        return [name for name in names if not name.startswith(apart)]

    def _compared(self, name: str, path: Path, other: Path | None) -> Replayed:
        apart = next((why for folder, why in _APART.items() if name.startswith(f"{folder}/")), None)
        why = self.copied.get(name, apart)
        if why is None and path.name == SEALS:
            why = "it holds hashes of what is compared"
        if why is None and other is None:
            why = self._lost(name)
        if why is not None:
            return Replayed(name, "not replayed", reason=why)
        if other is None:
            return Replayed(name, "differs", reason="it was not made again")
        if sha256_file(path) == sha256_file(other):
            return Replayed(name, "identical", 0.0)
        if path.suffix not in _MEASURED:
            return Replayed(name, "not replayed", reason="a log, or a file of a kind that nothing compares")
        try:
            found = self._measured(name, path, other)
        except _UNREADABLE as error:
            return Replayed(name, "differs", reason=f"unreadable: {' '.join(str(error).split())[:200]}")
        if not found.distance:  # but for what the making has cost, which is not compared
            return Replayed(name, "identical", 0.0)
        outcome: Outcome = "within tolerance" if found.distance <= self.tolerance else "differs"
        known = found.distance if found.distance < float("inf") else None
        return Replayed(name, outcome, known, found.unit, found.why if outcome == "differs" else "")

    def _lost(self, name: str) -> str | None:
        """Why a file may be missing in the replay; None: it should be there."""
        if name not in self.made:
            return "RUN/history does not say how it was made"
        if name.startswith(tuple(f"{folder}/" for folder in _BY_HASH)):
            return "its name is the hash of a model that is not the same to the bit"
        return None if Path(name).suffix in _MEASURED else "a log, or a file of a kind that nothing compares"

    def _measured(self, name: str, path: Path, other: Path) -> Likeness:
        if path.suffix == ".safetensors":
            return of_weights(path, other, self._start(name, path))
        if path.suffix == ".png":
            return of_pictures(path, other)
        if path.suffix == ".parquet":
            return of_tables(path, other)
        return of_records(path, other, str(self.run.root), str(self.into.root))

    def _start(self, name: str, path: Path) -> Weights | None:
        """The weights that a training began with, where that is known."""
        if name.startswith("full/"):
            return self._untrained(None)
        record = read_json(path.parent / RECORD) if (path.parent / RECORD).is_file() else {}
        if record.get("operator") == RETRAIN:
            return self._untrained(record["seed"]) if record["hparams"].get("paired") else None
        return self._full if "operator" in record else None

    def _untrained(self, seed: int | None) -> Weights | None:
        if seed not in self._starts:
            self._starts[seed] = None
            with suppress(GudaError):  # nothing says what it was, or its class is not here
                self._starts[seed] = open_run(self.run.root).untrained(seed)
        return self._starts[seed]

    @cached_property
    def _full(self) -> Weights | None:
        files = [path for name, path in walked(self.run).items() if name.startswith("full/")]
        weights = [path for path in files if path.suffix == ".safetensors"]
        return load_file(weights[0]) if len(weights) == 1 else None


def counts(found: Collection[Replayed]) -> dict[Outcome, int]:
    """How many files came out how."""
    return {outcome: sum(one.outcome == outcome for one in found) for outcome in OUTCOMES}
