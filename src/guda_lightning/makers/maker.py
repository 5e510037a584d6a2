"""What makes counterfactuals is a maker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualRecord, CounterfactualStore
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import FullModel
from guda_lightning.makers.trainers import TrainerFactory
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.provenance import Provenance
from guda_lightning.types import JOINT

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True, eq=False)
class Maker(ABC):
    """Makes counterfactuals of one full model, one after the other.

    A new way to make them is one file with a subclass: its ``operator``, the options that it needs as fields,
    and ``make``.

    Attributes:
        full: The full model.
        data: Its training data, which say who belongs to which group.
        store: Where counterfactuals go.
        trainers: Makes the trainer of each.
        hparams: Every hyper-parameter that the counterfactuals depend on, as JSON values.
        seed: Seed of their training.
    """

    full: FullModel
    data: GroupDataModule
    store: CounterfactualStore
    trainers: TrainerFactory
    hparams: Mapping[str, Any]
    seed: int = 0

    @property
    @abstractmethod
    def operator(self) -> str:
        """What keys call it."""

    @abstractmethod
    def make(self, groups: Sequence[str]) -> CounterfactualRecord | None:
        """Make the counterfactual without some groups, and store it; continues what was interrupted.

        Args:
            groups: Names of the groups that are removed together.

        Returns:
            How it was made. None after a dry run (``fast_dev_run``), which stores nothing, and where another
            command has made it meanwhile.

        Raises:
            GudaError: The objective, the data or the trainer do not fit each other.
        """

    def check(self, groups: Sequence[str]) -> None:  # noqa: B027  (most can remove any groups)
        """Refuse groups whose counterfactual cannot be made, before any work.

        Raises:
            GudaError: It cannot.
        """

    @abstractmethod
    def seconds(self) -> float | None:
        """Estimated seconds to make one counterfactual; None where nobody knows."""

    def key(self, groups: Sequence[str]) -> CounterfactualKey:
        """What the counterfactual without some groups is stored under."""
        return CounterfactualKey(self.operator, tuple(groups), self.seed, sha256_json(dict(self.hparams)))

    @cached_property
    def provenance(self) -> Provenance:
        """What counterfactuals are made from."""
        return self.full.provenance(self.data.grouping.hash, self.data.input_shape, self.data.hash)

    def has(self, groups: Sequence[str]) -> bool:
        """Whether the counterfactual without some groups is stored.

        Raises:
            StoreError: It was made from another full model, grouping or schedule.
        """
        return self.store.holds(self.key(groups), self.provenance)

    def make_all(self) -> None:
        """Make what is missing of the counterfactuals without one group each."""
        for name in self.data.grouping.names:
            if self.data.grouping.size(name) and not self.has((name,)):
                self.make((name,))

    def elsewhere(self, data: GroupDataModule, store: Path) -> Self:
        """The same maker for other groups of the same samples, into another store, without logs."""
        return replace(self, data=data, store=CounterfactualStore(store), trainers=self.trainers.silent())

    def _hparams_for_loggers(self, groups: Sequence[str]) -> dict[str, Any]:
        return {"groups": list(groups), "hparams": self.hparams, **self.provenance.to_json()}


def name_of(groups: Sequence[str]) -> str:
    """Groups that are removed together, as users name them: ``a+b``."""
    return JOINT.join(groups)
