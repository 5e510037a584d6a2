"""The store of counterfactuals: models that never saw a group, each with the record of how it was made."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from guda_lightning.counterfactuals.messages import command, described, described_hparams
from guda_lightning.counterfactuals.record import GUIDANCE, CounterfactualKey, CounterfactualRecord
from guda_lightning.errors import NumericsError, StoreError
from guda_lightning.storage.files import atomic_folder, sha256_file

_MODEL, _ADAPTER, _RECORD = "model.safetensors", "adapter.safetensors", "record.json"
_MADE_FROM = {
    "full_hash": "full model",
    "grouping_hash": "grouping",
    "members_hash": "set of samples to forget",
    "schedule_hash": "noise schedule",
}


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
                    f"{described(record.key)} has weights that are not numbers",
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
                    fix=f"remove {self.path(key)} and {command(key.operator, key.groups, key.seed)}",
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
                    f"{self.path(key) / _RECORD}: {described(key)} was made from another {_MADE_FROM[name]}",
                    found=f"{name} {getattr(record, name)}",
                    expected=f"{name} {value}",
                    fix=f"use the {_MADE_FROM[name]} it was made from, or remove {self.path(key)} "
                    f"and {command(key.operator, key.groups, key.seed)}",
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
                f"{described(key)} is not in the store",
                found=f"no folder {path}",
                expected="a complete counterfactual",
                fix=command(key.operator, key.groups, key.seed),
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
                    fix=command("retrack", groups, seed),
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
                fix=f"correct the operator, or {command(operator, groups, seed)}",
            )
        if not fitting:
            there = {
                f"operator {r.operator}, seed {r.seed}, hyper-parameters {r.hparams_hash[:8]}" for r in single
            }
            raise StoreError(
                f"no counterfactual in {self.root} fits",
                found="; ".join(sorted(there)) or "an empty store",
                expected=wanted,
                fix=command(operator, groups, seed),
            )
        if len({record.hparams_hash for record in fitting}) > 1:
            raise StoreError(
                f"counterfactuals in {self.root} were made with several sets of hyper-parameters",
                found="; ".join(described_hparams(fitting)),
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
                fix=command(operator, missing, seed),
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
