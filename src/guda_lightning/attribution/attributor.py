"""The attributor of counterfactuals: opens a complete store, never trains."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from guda_lightning.attribution.scoring import Scoring, score_table, squared_errors
from guda_lightning.attribution.stored import error_identity, error_path
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.data import query_hash
from guda_lightning.diffusion import DiffusionModel, FullModel
from guda_lightning.errors import QueryError
from guda_lightning.grouping import Grouping
from guda_lightning.scores import ScoreTable, SquaredErrors
from guda_lightning.types import Queries


class Attributor(ABC):
    """Anything that scores query × group.

    Attributes:
        method: Its name in score tables and their files, known after ``fit``.
        seed: Seed of what it scores with.
        fitted_groups: The groups that ``score`` will score, in order, known after ``fit``.
    """

    method: str
    seed: int = 0
    fitted_groups: tuple[str, ...]

    @abstractmethod
    def fit(self, full: FullModel, data: Any, grouping: Grouping | None) -> Attributor:
        """Take the full model, its training data and their groups.

        Args:
            full: The full model.
            data: The datamodule of the training data, for attributors that look at it.
            grouping: Who belongs to which group; an attributor whose groups are stored may do without.
        """

    @abstractmethod
    def score(self, queries: Queries) -> ScoreTable:
        """Score every query against every group."""

    @abstractmethod
    def record(self, queries: Queries) -> dict[str, object]:
        """What identifies the scores of these queries, as JSON values."""

    def evaluations(self, queries: Queries) -> int:
        """Network evaluations that scoring these queries still needs."""
        return 0


def refuse_no_queries(queries: Queries) -> None:
    """Refuse to score nothing.

    Raises:
        QueryError: There are no queries.
    """
    if not len(queries):
        raise QueryError(
            "there is nothing to score",
            found="0 queries",
            expected="at least one image",
            fix="run `guda sample`, or pass --queries FILE|FOLDER",
        )


class CounterfactualAttributor(Attributor):
    """``ELBO(full) − ELBO(counterfactual)`` for every group in a store.

    Args:
        store: Folder of the store.
        operator: Which counterfactuals, e.g. ``"retrack"``; None where the store holds one kind.
        scoring: How to score.
        seed: Seed that the counterfactuals were made with.
        hparams: Start of the hash of their hyper-parameters, where the store holds several kinds.
        groups: Groups to score; None takes all groups of the grouping that have samples.
        cache: Folder for squared errors, one file a model: an interrupted scoring goes on there, and the
            full model's errors serve every method. None keeps nothing.
        device: Where to compute.
        on_batch: Told the number of evaluations after every batch.
    """

    def __init__(
        self,
        store: str | Path,
        operator: str | None = None,
        scoring: Scoring = Scoring(),  # noqa: B008  (frozen)
        *,
        seed: int = 0,
        hparams: str | None = None,
        groups: Sequence[str] | None = None,
        cache: Path | None = None,
        device: torch.device | str = "cpu",
        on_batch: Callable[[int], None] = lambda evaluations: None,
    ) -> None:
        self.store = CounterfactualStore(store)
        self._asked, self.scoring, self.seed = operator, scoring, seed
        self.hparams, self.groups, self.cache = hparams, groups, cache
        self.device, self.on_batch = device, on_batch

    def fit(self, full: FullModel, data: Any, grouping: Grouping | None) -> CounterfactualAttributor:
        """Find the counterfactual of every group and refuse what was made from something else.

        Args:
            full: The full model.
            data: Not looked at.
            grouping: Today's groups, which the counterfactuals must have been made from; None takes the
                groups that the store holds.

        Raises:
            StoreError: One is missing, incomplete, or made from another full model, grouping or schedule.
            GroupError: A group does not exist.
        """
        groups = self.groups
        self._expect = {"full_hash": full.hash, "schedule_hash": full.model.schedule.hash}
        if grouping is not None:
            groups = groups or [name for name in grouping.names if grouping.size(name)]
            for group in groups:
                grouping.check([group])
            self._expect["grouping_hash"] = grouping.hash
        self._full, self._grouping = full, grouping
        self._keys = self.store.select(self._asked, self.seed, hparams=self.hparams, groups=groups)
        self.fitted_groups, first = tuple(self._keys), next(iter(self._keys.values()))
        self.method, self._hparams_hash = first.operator, first.hparams_hash
        self._hashes = {
            group: self.store.check(key, expect=self._expect).files["model.safetensors"]
            for group, key in self._keys.items()
        }
        return self

    def score(self, queries: Queries) -> ScoreTable:
        """Score every query under the full model and every counterfactual, on the same noise.

        Raises:
            QueryError: There are no queries.
        """
        refuse_no_queries(queries)
        network = copy.deepcopy(self._full.model.denoiser).to(self.device)
        model = DiffusionModel(network, self._full.model.schedule, self._full.model.prediction)
        errors = {
            group: self._errors(model, queries, group, identity)
            for group, identity in self._identities(queries).items()
        }
        return score_table(
            errors[None],
            {group: errors[group] for group in self._keys},
            self._full.model.schedule,
            self.scoring,
            method=self.method,
            seed=self.seed,
            record=self.record(queries),
        )

    def record(self, queries: Queries) -> dict[str, object]:
        """What identifies the scores of these queries: models, data, noise and timesteps.

        Where the attributor was fitted to a grouping, also the number of samples in each scored group.
        """
        grouping = self._grouping
        sizes = (
            {} if grouping is None else {"group_sizes": {name: grouping.size(name) for name in self._keys}}
        )
        return {
            **self._expect,
            **sizes,
            **self.scoring.record(self._full.model.schedule),
            "counterfactuals": self._hashes,
            "hparams_hash": self._hparams_hash,
            "query_hash": query_hash(queries),
        }

    def evaluations(self, queries: Queries) -> int:
        """Network evaluations that scoring these queries still needs."""
        paths = [self._path(identity) for identity in self._identities(queries).values()]
        models = sum(path is None or not path.is_file() for path in paths)
        return models * len(queries) * self.scoring.plan(self._full.model.schedule).evaluations

    def _identities(self, queries: Queries) -> dict[str | None, dict[str, object]]:
        """What identifies the squared errors of the full model (None) and of each group's counterfactual."""
        record = {**self.scoring.record(self._full.model.schedule), "query_hash": query_hash(queries)}
        models: list[tuple[str | None, str]] = [(None, self._full.hash), *self._hashes.items()]
        return {group: error_identity(record, model) for group, model in models}

    def _path(self, identity: dict[str, object]) -> Path | None:
        return None if self.cache is None else error_path(self.cache, identity)

    def _errors(
        self, model: DiffusionModel, queries: Queries, group: str | None, identity: dict[str, object]
    ) -> SquaredErrors:
        path = self._path(identity)
        if path is not None and path.is_file():
            return SquaredErrors.load(path, expect=identity)
        if group is not None:
            weights, _ = self.store.load(self._keys[group], expect=self._expect)
            model.denoiser.load_state_dict(weights)
        values, timesteps = squared_errors(
            model, queries, self.scoring, device=self.device, on_batch=self.on_batch
        )
        errors = SquaredErrors(queries.ids, values, timesteps, identity)
        if path is not None:
            errors.save(path)
        return errors
