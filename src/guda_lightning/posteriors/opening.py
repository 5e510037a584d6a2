"""What a posterior of a store is opened with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion.model import Condition
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors.record import PosteriorKey, PosteriorRecord
from guda_lightning.posteriors.store import PosteriorStore
from guda_lightning.storage.provenance import Provenance


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A record of a store, and all that a posterior may need besides.

    Attributes:
        store: The store.
        record: How the posterior was made.
        weights: Its weights, on the CPU.
        schedule: The full model's noise schedule.
        data: The full model's training data; None where nobody has them.
        expect: What everything must have been made from; None: anything.
        device: Where to put the posterior.
    """

    store: PosteriorStore
    record: PosteriorRecord
    weights: Mapping[str, Tensor]
    schedule: NoiseSchedule
    data: GroupDataModule | None
    expect: Provenance | None
    device: torch.device | str

    @classmethod
    def of(
        cls,
        store: PosteriorStore,
        key: PosteriorKey,
        schedule: NoiseSchedule,
        data: GroupDataModule | None,
        device: torch.device | str,
        expect: Provenance | None = None,
    ) -> Opening:
        """Read a posterior of a store, with what it may need besides.

        Raises:
            StoreError: It is missing, damaged, or made from something else.
        """
        weights, record = store.load(key, expect=expect)
        return cls(
            store=store,
            record=record,
            weights=weights,
            schedule=schedule,
            data=data,
            expect=expect,
            device=device,
        )

    def prompts(self) -> Condition:
        """Embeddings of prompts by number, for a classifier that takes them.

        Raises:
            ConfigError: Nobody has them.
        """
        found = None if self.data is None else self.data.prompts
        if found is None:
            raise ConfigError(
                "this classifier takes the embeddings of prompts",
                found="no training data" if self.data is None else "training data without prompts",
                expected="the LatentDataModule of the text-to-image model",
                fix="pass AttributionContext(data=datamodule)",
            )
        return found

    def training_data(self) -> GroupDataModule:
        """The training data, for a kind that is computed from them.

        Raises:
            ConfigError: Nobody has them.
            StoreError: The posterior was made from other data.
        """
        if self.data is None:
            raise ConfigError(
                f"a posterior of kind {self.record.kind} is computed from the training data",
                found="no training data",
                expected="a GroupDataModule",
                fix="pass AttributionContext(data=datamodule), or name a classifier as the operator",
            )
        made, found = self.record.hparams, {"data": self.data.hash, "mirrored": self.data.horizontal_flip}
        differing = [name for name in found if found[name] != made[name]]
        if differing:
            raise StoreError(
                f"{self.store.described(self.record.key)} was made from other training data",
                found=", ".join(f"{name} {found[name]}" for name in differing),
                expected=", ".join(f"{name} {made[name]}" for name in differing),
                fix=f"use the data it was made from, or remove {self.store.path(self.record.key)} and "
                f"{self.store.command(self.record.key)}",
            )
        return self.data
