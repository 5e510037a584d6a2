"""Which part of a query came from which group: a share for every pixel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, GudaError, NumericsError, StoreError
from guda_lightning.storage.sealed import open_tensors, write_tensors

_FIX = "remove it; to have maps again, remove the score table as well and rerun guda attribute"


@dataclass(frozen=True, eq=False)
class GroupMaps:
    """Shares of the groups at every position of some queries; anything that scores may give them.

    Attributes:
        query_ids: Names of the queries.
        groups: Names of the groups.
        shares: ``[queries, groups, height, width]`` in [0, 1], stored with half precision. Rows and columns
            are those of what the model takes, which may be a latent that is smaller than the picture.
        of: Hash of the record of the scores that they belong to.
    """

    query_ids: tuple[str, ...]
    groups: tuple[str, ...]
    shares: Tensor
    of: str

    def __post_init__(self) -> None:
        shape = (len(self.query_ids), len(self.groups))
        if self.shares.dim() != 4 or self.shares.shape[:2] != shape:
            raise ConfigError(
                "the maps do not fit the names of queries and groups",
                found=f"shape {tuple(self.shares.shape)}",
                expected=f"{len(self.query_ids)} queries, {len(self.groups)} groups, height, width",
                fix="give one map for each query and group",
            )
        if not bool(((self.shares > -1e-3) & (self.shares < 1 + 1e-3)).all()):
            raise NumericsError(
                "a map holds what is no share",
                found=f"values from {float(self.shares.min()):.4g} to {float(self.shares.max()):.4g}",
                expected="shares in [0, 1]",
                fix="look for NaN in the queries",
            )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically."""
        about = {"query_ids": self.query_ids, "groups": self.groups, "of": self.of}
        write_tensors(path, {"shares": self.shares.to(torch.float16)}, about)

    @classmethod
    def load(cls, path: str | Path) -> GroupMaps:
        """Read what ``save`` wrote.

        Raises:
            StoreError: The file is missing or damaged.
        """
        tensors, about = open_tensors(path, _FIX)
        try:
            shares = tensors["shares"].float()
            return cls(tuple(about["query_ids"]), tuple(about["groups"]), shares, about["of"])
        except (KeyError, TypeError, ValueError, GudaError) as error:
            raise StoreError(
                f"{path} cannot be read",
                found=error.problem if isinstance(error, GudaError) else error,
                expected="maps written by guda-lightning",
                fix=_FIX,
            ) from error
