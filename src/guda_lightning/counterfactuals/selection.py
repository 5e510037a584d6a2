"""Which counterfactuals of a store are meant: one for each group, all made alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from guda_lightning.counterfactuals.messages import command, described_hparams, preset
from guda_lightning.counterfactuals.record import CounterfactualKey, CounterfactualRecord
from guda_lightning.errors import StoreError, near


@dataclass(frozen=True)
class Selection:
    """What ``CounterfactualStore.select`` was given, and the records that it chooses from.

    Attributes:
        root: Folder of the store.
        records: All records of the store.
        seed: Seed of their training.
        hparams: The first digits of the hash of their hyper-parameters, or None.
        groups: Names of the groups, in the order wanted, or None for all that are there.
    """

    root: Path
    records: Sequence[CounterfactualRecord]
    seed: int
    hparams: str | None
    groups: Sequence[str] | None

    def keys(self, operator: str | None) -> dict[str, CounterfactualKey]:
        """The key of each group.

        Raises:
            StoreError: None fits, some are missing, or several operators or sets of hyper-parameters fit.
        """
        operator = operator or self.only_operator()
        fitting = self._fitting(operator)
        if len({record.hparams_hash for record in fitting}) > 1:
            raise StoreError(
                f"counterfactuals in {self.root} were made with several sets of hyper-parameters",
                found="; ".join(described_hparams(fitting)),
                expected="one set of hyper-parameters",
                fix="pass --hparams, in Python hparams=..., with the first digits of one hash",
            )
        keys = {record.key.name: record.key for record in fitting}
        missing = [group for group in self.groups or () if group not in keys]
        if missing:
            raise StoreError(
                f"counterfactuals are missing in {self.root}",
                found=f"none of {self._wanted(operator)} for {', '.join(missing)}",
                expected=f"one for each of {len(keys) + len(missing)} groups",
                fix=command(operator, missing, self.seed),
            )
        return {group: keys[group] for group in (self.groups or sorted(keys))}

    def only_operator(self) -> str:
        """The operator of all counterfactuals.

        Raises:
            StoreError: There are none, or several operators.
        """
        operators = sorted({record.operator for record in self.records})
        if not operators:
            raise StoreError(
                f"there are no counterfactuals in {self.root}",
                found="an empty store" if self.root.is_dir() else "no such folder",
                expected="one counterfactual for each group",
                fix=command("retrack", self.groups, self.seed),
            )
        if len(operators) > 1:
            raise several_operators(self.root, operators)
        return operators[0]

    def _fitting(self, operator: str) -> list[CounterfactualRecord]:
        named = set(self.groups or ())
        candidates = [r for r in self.records if len(r.groups) == 1 or r.key.name in named]
        fitting = [
            record
            for record in candidates
            if (record.operator, record.seed) == (operator, self.seed)
            and record.hparams_hash.startswith(self.hparams or "")
            and (self.groups is None or record.key.name in named)
        ]
        operators = sorted({record.operator for record in candidates})
        if not fitting and operators and operator not in operators:
            raise unknown_operator(self.root, operator, operators, self.groups, self.seed)
        if not fitting:
            there = {
                f"operator {r.operator}, seed {r.seed}, hyper-parameters {r.hparams_hash[:8]}"
                for r in candidates
            }
            raise StoreError(
                f"no counterfactual in {self.root} fits",
                found="; ".join(sorted(there)) or "an empty store",
                expected=self._wanted(operator),
                fix=preset(operator) or command(operator, self.groups, self.seed),
            )
        return fitting

    def _wanted(self, operator: str) -> str:
        of = f"operator {operator}, seed {self.seed}"
        return of + (f", hyper-parameters {self.hparams}" if self.hparams else "")


def several_operators(root: Path, operators: Sequence[str]) -> StoreError:
    """What to say where a store holds counterfactuals of several operators and none was named."""
    return StoreError(
        f"{root} holds counterfactuals of several operators",
        found=", ".join(operators),
        expected="the name of one operator",
        fix="pass --operator with one of them",
    )


def unknown_operator(
    root: Path, operator: str, operators: Sequence[str], groups: Sequence[str] | None = None, seed: int = 0
) -> StoreError:
    """What to say where an operator was named that made none of the counterfactuals of a store."""
    meant = near(operator, operators)
    correction = f"use {meant[0]}" if meant else "correct the operator"
    return StoreError(
        f"no counterfactual in {root} was made by {operator}",
        found=f"those of {', '.join(operators)}" if operators else "an empty store",
        expected=f"operator {operator}",
        fix=preset(operator) or f"{correction}, or {command(operator, groups, seed)}",
    )
