"""Squared errors, which score tables derive from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, GudaError, NumericsError, StoreError
from guda_lightning.storage.files import canonical_json
from guda_lightning.storage.sealed import open_tensors, write_tensors

REMAKE = "remove the file and rerun guda attribute"


@dataclass(frozen=True, eq=False)
class SquaredErrors:
    """Squared errors of one model's noise prediction, from which every weighting and standard error derives.

    Attributes:
        query_ids: One unique name per query.
        errors: ``[queries, strata, draws]`` float64: ``||noise - predicted noise||^2``, a sum over pixels.
        timesteps: ``[queries, strata, draws]`` int64, the timestep of each.
        record: What made them, as JSON values: hash of the model, timestep plan, schedule hash, seed, ...
    """

    query_ids: tuple[str, ...]
    errors: Tensor
    timesteps: Tensor
    record: dict[str, Any]

    def __post_init__(self) -> None:
        shape = (len(self.query_ids), *self.errors.shape[1:])
        for name, tensor, dtype in (
            ("errors", self.errors, torch.float64),
            ("timesteps", self.timesteps, torch.int64),
        ):
            if tensor.shape != shape or tensor.dim() != 3 or tensor.dtype != dtype:
                raise ConfigError(
                    f"{name} of the squared errors do not fit the {len(self.query_ids)} queries",
                    found=f"{tensor.dtype} of shape {tuple(tensor.shape)}",
                    expected=f"{dtype} of shape (queries, strata, draws), the same for errors and timesteps",
                    fix="give one row per query id",
                )
        refuse_repeats("query", self.query_ids)
        if not self.errors.isfinite().all():
            query, stratum, draw = (~self.errors.isfinite()).nonzero()[0].tolist()
            raise NumericsError(
                f"the squared error of query {self.query_ids[query]!r} "
                f"at timestep {int(self.timesteps[query, stratum, draw])} is not a number",
                found=float(self.errors[query, stratum, draw]),
                expected="a finite number",
                fix="look for NaN in the model's weights or in the query, or score in float32",
            )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically."""
        tensors = {"errors": self.errors.contiguous(), "timesteps": self.timesteps.contiguous()}
        write_tensors(path, tensors, {"query_ids": self.query_ids, "record": self.record})

    @classmethod
    def load(cls, path: str | Path, expect: Mapping[str, object]) -> SquaredErrors:
        """Read what ``save`` wrote.

        Args:
            path: The file.
            expect: Entries that the record must have, with their values.

        Raises:
            StoreError: The file is missing, damaged, or made from something else than expected.
        """
        tensors, about = open_tensors(path, REMAKE)
        try:
            ids = tuple(about["query_ids"])
            loaded = cls(ids, tensors["errors"], tensors["timesteps"], about["record"])
        except (KeyError, TypeError, ValueError, GudaError) as error:
            raise unreadable(path, error, "squared errors written by guda-lightning") from error
        for name, value in expect.items():
            found, wanted = loaded.record.get(name), json.loads(canonical_json(value))
            if found != wanted:
                raise StoreError(
                    f"{path} was made from something else: its {name} differs",
                    found=found,
                    expected=wanted,
                    fix=REMAKE,
                )
        return loaded

    @classmethod
    def concat(cls, parts: Sequence[SquaredErrors], record: Mapping[str, object]) -> SquaredErrors:
        """Join those of one model on different queries; ``record`` is what made all of them."""
        return cls(
            tuple(query_id for part in parts for query_id in part.query_ids),
            torch.cat([part.errors for part in parts]),
            torch.cat([part.timesteps for part in parts]),
            dict(record),
        )


def refuse_repeats(kind: str, names: Sequence[str]) -> None:
    """Refuse names of which two are the same.

    Raises:
        ConfigError: Two are.
    """
    if len(set(names)) != len(names):
        repeated = next(name for position, name in enumerate(names) if name in names[:position])
        raise ConfigError(
            f"two {kind} names are the same",
            found=f"{names.count(repeated)} times {repeated!r}",
            expected=f"one name per {kind}",
            fix="rename one of them",
        )


def unreadable(path: str | Path, found: object, expected: str) -> StoreError:
    """The error for a file that is missing, damaged or something else."""
    reason = found.problem if isinstance(found, GudaError) else found
    if isinstance(found, FileNotFoundError):
        reason = "no such file"
    elif isinstance(found, KeyError):
        reason = f"no entry {found}"
    return StoreError(f"{path} cannot be read", found=reason, expected=expected, fix=REMAKE)
