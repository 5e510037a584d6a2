"""The methods that ``guda placebo`` repeats on random groups."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch

from guda_lightning.attribution import AttributionContext, Attributor, CounterfactualAttributor
from guda_lightning.counterfactuals import GUIDANCE, CounterfactualRecord, CounterfactualStore
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import FullModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.makers.classifier_trainer import Guiding
from guda_lightning.makers.costs import evaluation_seconds, say_cost
from guda_lightning.makers.unlearner import Unlearning
from guda_lightning.scores import ScoreTable, Scoring
from guda_lightning.stages.choices import chosen_groups
from guda_lightning.stages.records import is_stored, made_from
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Queries

Train = Callable[..., CounterfactualRecord]  # the method of a stage that makes one counterfactual

# Nothing of a random group is worth a log, a curve or a checkpoint callback of the user's.
_SILENT = {"logger": False, "callbacks": [], "enable_progress_bar": False, "limit_val_batches": 0}


class Repeated(ABC):
    """A method that scores the real groups and, again and again, random ones.

    Attributes:
        real: Its attributor of the real groups.
    """

    real: Attributor

    @abstractmethod
    def score(self, view: GroupDataModule, asked: Queries, folder: Path) -> ScoreTable:
        """Score random groups.

        Args:
            view: The training data with these groups.
            asked: The queries.
            folder: For unfinished work.
        """

    @abstractmethod
    def say_cost(self, data: GroupDataModule, asked: Queries, partitions: int) -> None:
        """Tell the user what so many partitions will cost."""


class RepeatedAttributor(Repeated):
    """An attributor that needs no counterfactuals.

    Args:
        real: The attributor.
        full: The full model.
    """

    def __init__(self, real: Attributor, full: FullModel) -> None:
        self.real, self._full = real, full

    def score(self, view: GroupDataModule, asked: Queries, folder: Path) -> ScoreTable:
        """See ``Repeated``."""
        return self.real.fit(AttributionContext(self._full, view)).score(asked)

    def say_cost(self, data: GroupDataModule, asked: Queries, partitions: int) -> None:
        """See ``Repeated``; nothing is said, as nothing is trained."""


class RepeatedCounterfactuals(Repeated):
    """Counterfactuals that are made, scored and thrown away.

    Args:
        operator: What makes them: ``guidance``, or the name of an objective.
        work: How they are made.
        train: Makes one.
        scoring: How they are scored.
        store: Where those of the real groups lie.
        device: Where to compute.
    """

    def __init__(
        self,
        operator: str,
        work: Unlearning | Guiding,
        train: Train,
        scoring: Scoring,
        store: Path,
        device: torch.device,
    ) -> None:
        self._operator, self._train, self._scoring, self._device = operator, train, scoring, device
        self._full, self._conditional, self._seed = work.full, work.conditional, work.seed
        self.real = self._attributor(hparams=sha256_json(dict(work.hparams)))

    def score(self, view: GroupDataModule, asked: Queries, folder: Path) -> ScoreTable:
        """See ``Repeated``; the full model's errors are kept in the folder and serve all partitions."""
        store = CounterfactualStore(folder / "store")
        self._make(view, store, made_from(self._full, view.grouping))
        context = AttributionContext(
            self._full,
            view,
            store=store.root,
            cache=folder / "errors",
            execution=Execution(self._device),
        )
        table = self._attributor().fit(context).score(asked)
        shutil.rmtree(store.root)
        return table

    @abstractmethod
    def _make(self, view: GroupDataModule, store: CounterfactualStore, origin: dict[str, str]) -> None:
        """Make what the store lacks."""

    def _attributor(self, hparams: str | None = None) -> Attributor:
        return CounterfactualAttributor(None, self._operator, self._scoring, seed=self._seed, hparams=hparams)

    def _seconds_a_pass(self, data: GroupDataModule, asked: Queries) -> float:
        """Estimated seconds to score the queries with one model."""
        model, size = self._full.model, self._scoring.batch_size
        each = evaluation_seconds(model, data, size, self._device, self._conditional)
        return len(asked) * self._scoring.plan(model.schedule).evaluations * each


class RepeatedUnlearning(RepeatedCounterfactuals):
    """One unlearned model a group."""

    def __init__(
        self, work: Unlearning, train: Train, scoring: Scoring, store: Path, device: torch.device
    ) -> None:
        super().__init__(work.objective.operator, work, train, scoring, store, device)
        self._work = work

    def say_cost(self, data: GroupDataModule, asked: Queries, partitions: int) -> None:
        """See ``Repeated``."""
        groups = len(chosen_groups(data.grouping, None))
        each = self._work.seconds(data, self._device) + self._seconds_a_pass(data, asked)
        what = f"placebo: {partitions} partitions x {groups} groups ({self._operator})"
        say_cost(what, partitions * groups * each)

    def _make(self, view: GroupDataModule, store: CounterfactualStore, origin: dict[str, str]) -> None:
        for name in chosen_groups(view.grouping, None):
            if not is_stored(store, self._work.key((name,)), origin):
                self._train(self._work, (name,), view, store, origin, **_SILENT)


class RepeatedGuidance(RepeatedCounterfactuals):
    """One classifier for all groups of a partition, and one pass of the full model."""

    def __init__(
        self, work: Guiding, train: Train, scoring: Scoring, store: Path, device: torch.device
    ) -> None:
        super().__init__(GUIDANCE, work, train, scoring, store, device)
        self._work, self._store = work, CounterfactualStore(store)

    def say_cost(self, data: GroupDataModule, asked: Queries, partitions: int) -> None:
        """See ``Repeated``; a classifier is taken to cost what that of the real groups did."""
        real = self._store.record(self._work.key(data.grouping))
        each = real.seconds + self._seconds_a_pass(data, asked)
        say_cost(f"placebo: {partitions} partitions x 1 classifier ({self._operator})", partitions * each)

    def _make(self, view: GroupDataModule, store: CounterfactualStore, origin: dict[str, str]) -> None:
        if not is_stored(store, self._work.key(view.grouping), origin):
            self._train(self._work, self._work.module(view), view, store, origin, **_SILENT)
