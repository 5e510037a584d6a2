"""The store of counterfactuals: models that never saw a group, each with the record of how it was made."""

from __future__ import annotations

import platform
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from guda_lightning import __version__
from guda_lightning.errors import ConfigError, NumericsError, StoreError
from guda_lightning.files import atomic_folder, canonical_json, read_json, sha256_file, sha256_json, slug
from guda_lightning.grouping import JOINT

RETRAIN = "retrain"  # the operator of the oracle: training from scratch without the groups
GUIDANCE = "guidance"  # the operator of one classifier for all groups: no weights of a counterfactual
_STAGES = {RETRAIN: ("guda retrain", "--seeds"), GUIDANCE: ("guda guide", "--seed")}
_FORMAT = 1
_MODEL, _ADAPTER, _RECORD = "model.safetensors", "adapter.safetensors", "record.json"
_MADE_FROM = {
    "full_hash": "full model",
    "grouping_hash": "grouping",
    "members_hash": "set of samples to forget",
    "schedule_hash": "noise schedule",
}


def versions() -> dict[str, str]:
    """Versions of what computes something today, for its record."""
    packages = ("torch", "lightning", "diffusers")
    return {
        "guda_lightning": __version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


@dataclass(frozen=True)
class CounterfactualKey:
    """What tells one counterfactual from another in a store.

    Attributes:
        operator: How it was made: the name of an objective, or ``RETRAIN`` for the oracle.
        groups: Names of the removed groups, at least one; kept sorted and without repeats.
        seed: Seed of its training.
        hparams_hash: ``sha256_json`` of its hyper-parameters.
    """

    operator: str
    groups: tuple[str, ...]
    seed: int
    hparams_hash: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", tuple(sorted(set(self.groups))))
        if not self.groups:
            raise ConfigError(
                "a counterfactual without groups is the full model",
                found="no groups",
                expected="the name of at least one group",
                fix="name the groups that it has to forget",
            )

    @property
    def name(self) -> str:
        """Names of the groups, joined."""
        return JOINT.join(self.groups)

    @property
    def folder_name(self) -> str:
        """Readable operator and groups, and a hash that makes the name unique and safe."""
        return f"{slug(self.operator)}-{slug(self.name)}-{sha256_json(asdict(self))[:12]}"


@dataclass(frozen=True)
class CounterfactualRecord:
    """How a counterfactual was made; ``record.json`` in its folder.

    Attributes:
        operator: How it was made: the name of an objective, or ``RETRAIN`` for the oracle.
        groups: Names of the removed groups, sorted.
        seed: Seed of its training.
        hparams: Every hyper-parameter, as JSON values.
        full_hash: Hash of the full model that it was made from.
        grouping_hash: Hash of the grouping that names the groups.
        members_hash: Hash of the set of samples to forget.
        schedule_hash: Hash of the noise schedule.
        history: Influence measured while unlearning, one entry per measurement.
        versions: Package name to version.
        seconds: Wall-clock time it took to make, without what an interruption threw away.
        steps: Optimizer steps it took to make.
        network_evaluations: Samples that all processes passed through a network to make it, forward passes
            only, likewise.
        files: File name to sha256; filled in by the store.
        complete: Whether the store holds all of it; filled in by the store.
    """

    operator: str
    groups: tuple[str, ...]
    seed: int
    hparams: dict[str, Any]
    full_hash: str
    grouping_hash: str
    members_hash: str
    schedule_hash: str
    history: list[dict[str, Any]]
    versions: dict[str, str]
    seconds: float
    steps: int
    network_evaluations: int
    files: dict[str, str] = field(default_factory=dict)
    complete: bool = False

    @property
    def weights_hash(self) -> str:
        """Hash of the file with its weights, once the store holds it."""
        (digest,) = self.files.values()
        return digest

    @property
    def hparams_hash(self) -> str:
        """Hash of the hyper-parameters, as in the key."""
        return sha256_json(self.hparams)

    @property
    def key(self) -> CounterfactualKey:
        """The key that the counterfactual is stored under."""
        return CounterfactualKey(self.operator, self.groups, self.seed, self.hparams_hash)

    def to_json(self) -> str:
        """The text of ``record.json``, which holds its own hash so that a later edit shows."""
        value = {
            **asdict(self),
            "groups": self.key.groups,
            "hparams_hash": self.hparams_hash,
            "format": _FORMAT,
        }
        return canonical_json({**value, "sha256": sha256_json(value)}, indent=2) + "\n"

    @classmethod
    def from_file(cls, path: str | Path) -> CounterfactualRecord:
        """Read a ``record.json``.

        Raises:
            StoreError: The file is missing, of another format, or was edited.
        """
        value = read_json(path)
        if value.get("format") != _FORMAT:
            raise StoreError(
                f"{path} is of another format",
                found=value.get("format"),
                expected=_FORMAT,
                fix="use the version of guda-lightning that wrote it, or remove its folder and make it again",
            )
        written = value.pop("sha256", None)
        if sha256_json(value) != written:
            raise StoreError(
                f"{path} was changed after it was written",
                found=f"contents with sha256 {sha256_json(value)}",
                expected=f"contents with sha256 {written}",
                fix="restore the file, or remove its folder and make it again",
            )
        names = {each.name for each in fields(cls)}
        value = {name: content for name, content in value.items() if name in names}
        return cls(**{**value, "groups": tuple(value["groups"])})


class CounterfactualStore:
    """A folder with one subfolder per counterfactual, each whole or absent.

    Args:
        root: The folder; made when the first counterfactual is saved.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def path(self, key: CounterfactualKey) -> Path:
        """The folder of a counterfactual, whether it is there or not."""
        return self.root / key.folder_name

    def exists(self, key: CounterfactualKey) -> bool:
        """Whether a complete counterfactual is stored; ``check`` says whether it is the right one."""
        try:
            self.record(key)
        except StoreError:  # missing or damaged: either way it has to be made
            return False
        return True

    def save(self, state_dict: Mapping[str, Tensor], record: CounterfactualRecord) -> Path:
        """Store a counterfactual under the key of its record, in place of an earlier one.

        Args:
            state_dict: The model's weights.
            record: How they were made, without ``files`` and ``complete``.

        Returns:
            Its folder.

        Raises:
            NumericsError: A weight is not finite.
            StoreError: The disk is full.
        """
        for name, tensor in state_dict.items():
            if not tensor.isfinite().all():
                raise NumericsError(
                    f"{_describe(record.key)} has weights that are not numbers",
                    found=f"NaN or infinity in {name}",
                    expected="finite weights",
                    fix="lower the learning rate or the weight of the forget loss",
                )
        # Weights that share memory, which safetensors refuses, become copies.
        weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state_dict.items()}
        path = self.path(record.key)
        with atomic_folder(path) as folder:
            model = _ADAPTER if "lora" in record.hparams else _MODEL
            save_file(weights, folder / model)
            hashes = {model: sha256_file(folder / model)}
            (folder / _RECORD).write_text(replace(record, files=hashes, complete=True).to_json(), "utf-8")
            shutil.copymode(folder / _RECORD, folder / model)  # safetensors lets only the owner read
        return path

    def load(
        self, key: CounterfactualKey, *, expect: Mapping[str, str]
    ) -> tuple[dict[str, Tensor], CounterfactualRecord]:
        """Read a counterfactual's weights and record.

        Args:
            key: The counterfactual.
            expect: What it must have been made from: ``full_hash``, ``grouping_hash``, ``members_hash`` or
                ``schedule_hash`` to its value.

        Returns:
            Its weights, on the CPU, and its record.

        Raises:
            StoreError: It is missing, incomplete, damaged, or made from something else.
        """
        record = self.check(key, expect=expect)
        for name, written in record.files.items():
            file = self.path(key) / name
            found = f"sha256 {sha256_file(file)}" if file.is_file() else "no such file"
            if found != f"sha256 {written}":
                raise StoreError(
                    f"{file} is damaged",
                    found=found,
                    expected=f"sha256 {written}",
                    fix=f"remove {self.path(key)} and {_command(key.operator, key.groups, key.seed)}",
                )
        return load_file(self.path(key) / next(iter(record.files))), record

    def check(self, key: CounterfactualKey, *, expect: Mapping[str, str]) -> CounterfactualRecord:
        """Read a counterfactual's record and refuse what was made from something else, weights unread.

        Args:
            key: The counterfactual.
            expect: As in ``load``.

        Raises:
            StoreError: It is missing, incomplete, or made from something else.
        """
        record = self.record(key)
        for name, value in expect.items():
            if getattr(record, name) != value:
                raise StoreError(
                    f"{self.path(key) / _RECORD}: {_describe(key)} was made from another {_MADE_FROM[name]}",
                    found=f"{name} {getattr(record, name)}",
                    expected=f"{name} {value}",
                    fix=f"use the {_MADE_FROM[name]} it was made from, or remove {self.path(key)} "
                    f"and {_command(key.operator, key.groups, key.seed)}",
                )
        return record

    def record(self, key: CounterfactualKey) -> CounterfactualRecord:
        """Read a counterfactual's record.

        Raises:
            StoreError: It is missing, incomplete or damaged.
        """
        path = self.path(key)
        if not path.is_dir():
            raise StoreError(
                f"{_describe(key)} is not in the store",
                found=f"no folder {path}",
                expected="a complete counterfactual",
                fix=_command(key.operator, key.groups, key.seed),
            )
        return self._read(path)

    def records(self) -> list[CounterfactualRecord]:
        """Read the records of all counterfactuals, in the order of their folders' names.

        Raises:
            StoreError: A record is damaged. What an interrupted save left behind does not count.
        """
        found = sorted(self.root.glob(f"*/{_RECORD}"))
        return [self._read(path.parent) for path in found if not path.parent.name.startswith(".")]

    def operators(self) -> list[str]:
        """How the counterfactuals were made, each operator once, sorted."""
        return sorted({record.operator for record in self.records()})

    def select(
        self,
        operator: str | None,
        seed: int,
        hparams: str | None = None,
        groups: Sequence[str] | None = None,
    ) -> dict[str, CounterfactualKey]:
        """Find the counterfactual of each group, all made with the same hyper-parameters.

        Those that forget several groups at once count where they are named, as ``a+b``.

        Args:
            operator: How they were made; None when the store holds one kind.
            seed: Seed of their training.
            hparams: The first digits of the hash of their hyper-parameters; None when there is only one.
            groups: Names of the groups, in the order wanted; None for all that are there, sorted.

        Raises:
            StoreError: None fits, some are missing, or several operators or sets of hyper-parameters fit.
        """
        asked = set(groups or ())
        single = [
            record
            for record in self.records()
            if len(record.groups) == 1 or (record.operator != GUIDANCE and record.key.name in asked)
        ]
        if operator is None:
            operators = self.operators()
            if not operators:
                raise StoreError(
                    f"there are no counterfactuals in {self.root}",
                    found="an empty store" if self.root.is_dir() else "no such folder",
                    expected="one counterfactual for each group",
                    fix=_command("retrack", groups, seed),
                )
            if len(operators) > 1:
                raise StoreError(
                    f"which counterfactuals of {self.root}?",
                    found=", ".join(operators),
                    expected="those of one operator",
                    fix="pass --operator with one of them",
                )
            operator = operators[0]
        fitting = [
            record
            for record in single
            if (record.operator, record.seed) == (operator, seed)
            and record.hparams_hash.startswith(hparams or "")
            and (groups is None or record.key.name in asked)
        ]
        wanted = f"operator {operator}, seed {seed}" + (f", hyper-parameters {hparams}" if hparams else "")
        if not fitting and operator not in (operators := sorted({r.operator for r in single})) and operators:
            raise StoreError(
                f"no counterfactual in {self.root} was made by {operator}",
                found=f"those of {', '.join(operators)}",
                expected=f"operator {operator}",
                fix=f"correct the operator, or {_command(operator, groups, seed)}",
            )
        if not fitting:
            there = {
                f"operator {r.operator}, seed {r.seed}, hyper-parameters {r.hparams_hash[:8]}" for r in single
            }
            raise StoreError(
                f"no counterfactual in {self.root} fits",
                found="; ".join(sorted(there)) or "an empty store",
                expected=wanted,
                fix=_command(operator, groups, seed),
            )
        if len({record.hparams_hash for record in fitting}) > 1:
            raise StoreError(
                f"counterfactuals in {self.root} were made with several sets of hyper-parameters",
                found="; ".join(_describe_hparams(fitting)),
                expected="one set of hyper-parameters",
                fix="pass --hparams with the first digits of one hash",
            )
        keys = {record.key.name: record.key for record in fitting}
        missing = [group for group in groups or () if group not in keys]
        if missing:
            raise StoreError(
                f"counterfactuals are missing in {self.root}",
                found=f"none of {wanted} for {', '.join(missing)}",
                expected=f"one for each of {len(keys) + len(missing)} groups",
                fix=_command(operator, missing, seed),
            )
        return {group: keys[group] for group in (groups or sorted(keys))}

    def _read(self, path: Path) -> CounterfactualRecord:
        record = CounterfactualRecord.from_file(path / _RECORD)
        if record.key.folder_name != path.name or not record.complete:
            raise StoreError(
                f"{path / _RECORD} does not belong in its folder",
                found=f"the {'' if record.complete else 'in'}complete record of {record.key.folder_name}",
                expected=f"the complete record of {path.name}",
                fix=f"remove {path}, or give it back its name",
            )
        return record


def _describe(key: CounterfactualKey) -> str:
    return f"the counterfactual '{key.operator}' without {', '.join(key.groups)} (seed {key.seed})"


def _command(operator: str, groups: Sequence[str] | None, seed: int) -> str:
    stage, option = _STAGES.get(operator, ("guda unlearn", "--seed"))
    options = [f"--groups {shlex.quote(','.join(groups))}"] if groups and operator != GUIDANCE else []
    options += [f"{option} {seed}"] if seed else []
    return f"run {stage}" + (f" with {' '.join(options)}" if options else "")


def _describe_hparams(records: Sequence[CounterfactualRecord]) -> list[str]:
    """One line per set of hyper-parameters: its hash, its number of groups, and what the sets differ in."""
    sets = {record.hparams_hash: _flatten(record.hparams) for record in records}
    names = sorted({name for hparams in sets.values() for name in hparams})
    differing = [name for name in names if len({hparams.get(name, "unset") for hparams in sets.values()}) > 1]
    return [
        f"{digest[:8]} ({sum(record.hparams_hash == digest for record in records)} groups: "
        + ", ".join(f"{name}={hparams.get(name, 'unset')}" for name in differing)
        + ")"
        for digest, hparams in sorted(sets.items())
    ]


def _flatten(hparams: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in hparams.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = canonical_json(value)
    return flat
