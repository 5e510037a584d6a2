"""``ELBOAttributionCallback``: group influence during validation."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor

from guda_lightning import charts
from guda_lightning.attribution import CounterfactualAttributor, Scoring, score_table, squared_errors
from guda_lightning.callbacks.wandb import log_attribution
from guda_lightning.data import load_queries
from guda_lightning.diffusion import DiffusionModel, FullModel
from guda_lightning.errors import ConfigError, QueryError
from guda_lightning.scores import ScoreTable, SquaredErrors
from guda_lightning.types import Queries, Weighting
from guda_lightning.unlearning import UnlearnModule


class ELBOAttributionCallback(Callback):
    """Scores queries during validation and logs how much each group influenced them.

    On an ``UnlearnModule`` the student itself is the counterfactual of its group, and no store is needed:
    the curves show the influence grow while the group is forgotten. On any other LightningModule the queries
    are scored against the counterfactuals of a store.

    Logs ``influence/GROUP``, the mean score, through all of the trainer's loggers; on an ``UnlearnModule``
    also ``influence/own`` and ``influence/other`` (validation samples of the group itself and of the
    others). To W&B it logs a table with thumbnails, a heat map and the curves as well. Under DDP every
    rank scores its own queries and rank zero logs all of them, each once.

    Args:
        store: Folder of the counterfactual store; leave it out on an ``UnlearnModule``.
        operator: Which counterfactuals of the store.
        queries: An image or a folder of images to score each time; null scores the validation batches.
        max_queries: Score at most this many queries of the validation batches.
        scoring: Timesteps, draws, seed and precision.
        weighting: Which scores to log.
        denoiser: Where the LightningModule has its network, by dotted path, e.g. ``unet``; may be left out
            for a ``DiffusionModule``.
        scheduler: Where it has its noise scheduler, e.g. ``noise_scheduler``.
        image_key: Key (or position) of the images in a validation batch.
        label_key: Key (or position) of the class labels, for a label-conditional network.
    """

    def __init__(
        self,
        store: Path | None = None,
        operator: str = "retrack",
        queries: Path | None = None,
        max_queries: int = 64,
        scoring: Scoring = Scoring(strata=16, draws=1),  # noqa: B008  (frozen)
        weighting: Weighting = "elbo",
        denoiser: str | None = None,
        scheduler: str | None = None,
        image_key: str | int = "image",
        label_key: str | int | None = None,
    ) -> None:
        if max_queries < 1:
            raise ConfigError(
                "max_queries is out of range",
                found=max_queries,
                expected="max_queries >= 1",
                fix="leave the callback out to score nothing",
            )
        self.store, self.operator, self.queries = store, operator, queries
        self.max_queries, self.scoring, self.weighting = max_queries, scoring, weighting
        self.denoiser, self.scheduler = denoiser, scheduler
        self.image_key, self.label_key = image_key, label_key
        self.history: list[dict[str, Any]] = []  # rows group, step, own, other, for the page
        self.table: ScoreTable | None = None  # of the last validation, on rank zero
        self._batches: list[tuple[Queries, Tensor]] = []
        self._full_errors: dict[tuple[str, ...], SquaredErrors] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse before any work what would fail at the first validation."""
        if self.store is None and not isinstance(pl_module, UnlearnModule):
            raise ConfigError(
                f"ELBOAttributionCallback needs counterfactuals to score a {type(pl_module).__name__}",
                found="store=None",
                expected="the folder of a counterfactual store, or an UnlearnModule",
                fix="pass store=RUN/store after `guda unlearn`",
            )
        if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            charts.require()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the store: what does not fit the module is refused before the first batch."""
        self._batches = []
        if isinstance(pl_module, UnlearnModule):
            self._full = FullModel(pl_module.full, pl_module.scheduler, pl_module.full_hash)
        elif self.store is not None:
            self._full = FullModel.of(pl_module, self.denoiser, self.scheduler)
            grouping = getattr(getattr(trainer, "datamodule", None), "grouping", None)
            attributor = CounterfactualAttributor(
                self.store, self.operator, self.scoring, device=pl_module.device
            )
            self._attributor = attributor.fit(self._full, None, grouping)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect the validation batch, up to this rank's share of ``max_queries``."""
        self._image_shape = tuple(batch[self.image_key].shape[1:])
        room = -(-self.max_queries // trainer.world_size) - sum(len(queries) for queries, _ in self._batches)
        if self.queries is None and room > 0 and not trainer.sanity_checking:
            self._batches.append(self._from_batch(pl_module, batch, room))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score, gather and log."""
        if trainer.sanity_checking:
            return
        if self.queries is not None:
            self._batches = [self._from_file(self.queries, trainer)]
        groups = self._groups(pl_module)
        parts = [self._score(pl_module, queries, own, groups) for queries, own in self._batches]
        scored = _joined(_gathered(parts))
        self.table = ScoreTable.from_matrix(
            scored.scores,
            scored.stderr,
            query_ids=scored.ids,
            groups=groups,
            n_draws=self.scoring.plan(self._full.model.schedule).evaluations,
            method=self._method(pl_module),
            weighting=self.weighting,
            seed=self.scoring.seed,
            record=self.scoring.record(self._full.model.schedule),
        )
        self._log(trainer, pl_module, self.table, scored)

    def state_dict(self) -> dict[str, Any]:
        """The curves so far, for a run that resumes."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the curves."""
        self.history = list(state_dict["history"])

    @property
    def state_key(self) -> str:
        """Several of these callbacks may watch one training."""
        return f"{type(self).__qualname__}[{self.store},{self.operator},{self.queries}]"

    def _method(self, pl_module: LightningModule) -> str:
        return pl_module.objective.name if isinstance(pl_module, UnlearnModule) else self.operator

    def _groups(self, pl_module: LightningModule) -> tuple[str, ...]:
        return (
            ("+".join(pl_module.groups),)
            if isinstance(pl_module, UnlearnModule)
            else self._attributor.fitted_groups
        )

    def _from_batch(self, pl_module: LightningModule, batch: Any, room: int) -> tuple[Queries, Tensor]:
        """At most ``room`` queries of a validation batch, and which of them the student forgets."""
        images = batch[self.image_key][:room].detach().cpu().float()
        label_key, own = self.label_key, torch.zeros(len(images), dtype=torch.bool)
        if isinstance(pl_module, UnlearnModule):
            label_key = "label" if pl_module.conditional else None
            own = pl_module.is_forget(batch)[:room].cpu()
        labels = None if label_key is None else batch[label_key][:room].cpu()
        if isinstance(batch, Mapping) and "index" in batch:
            ids = [str(i) for i in batch["index"][:room].tolist()]
        else:
            ids = [hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16] for image in images]
        return Queries(tuple(ids), images, labels), own

    def _from_file(self, path: Path, trainer: Trainer) -> tuple[Queries, Tensor]:
        """This rank's share of the fixed queries."""
        queries = load_queries(path, self._image_shape)
        rows = list(range(trainer.global_rank, len(queries), trainer.world_size))
        labels = None if queries.labels is None or self.label_key is None else queries.labels[rows]
        share = Queries(tuple(queries.ids[i] for i in rows), queries.images[rows], labels)
        return share, torch.zeros(len(rows), dtype=torch.bool)

    def _score(
        self, pl_module: LightningModule, queries: Queries, own: Tensor, groups: tuple[str, ...]
    ) -> _Scored:
        if not len(queries):  # more ranks than queries
            none = torch.zeros(0, len(groups), dtype=torch.float64)
            return _Scored(queries.ids, queries.images, own, none, none)
        if isinstance(pl_module, UnlearnModule):
            table = self._score_student(pl_module, queries, groups[0])
        else:
            table = self._attributor.score(queries)
        chosen = table.select(weighting=self.weighting)
        return _Scored(queries.ids, queries.images, own, chosen.matrix(), chosen.stderr_matrix())

    def _score_student(self, pl_module: UnlearnModule, queries: Queries, group: str) -> ScoreTable:
        if queries.ids not in self._full_errors:  # the full model is frozen: measured once
            self._full_errors[queries.ids] = self._errors(pl_module.full, queries, pl_module)
        return score_table(
            self._full_errors[queries.ids],
            {group: self._errors(pl_module.student, queries, pl_module)},
            self._full.model.schedule,
            self.scoring,
            method=pl_module.objective.name,
            seed=pl_module.seed,
            record={},
        )

    def _errors(self, model: DiffusionModel, queries: Queries, pl_module: LightningModule) -> SquaredErrors:
        errors, timesteps = squared_errors(model, queries, self.scoring, device=pl_module.device)
        return SquaredErrors(queries.ids, errors, timesteps, self.scoring.record(model.schedule))

    def _log(self, trainer: Trainer, pl_module: LightningModule, table: ScoreTable, scored: _Scored) -> None:
        mean = scored.scores.mean(dim=0).tolist()
        scalars = {f"influence/{group}": value for group, value in zip(table.groups, mean, strict=True)}
        if bool(scored.own.any()) and not bool(scored.own.all()):
            own, other = float(scored.scores[scored.own].mean()), float(scored.scores[~scored.own].mean())
            scalars |= {"influence/own": own, "influence/other": other}
            row = {"group": table.groups[0], "step": trainer.global_step, "own": own, "other": other}
            self.history.append(row)
        # Every rank has gathered the same numbers: averaging them over ranks changes nothing.
        pl_module.log_dict(scalars, sync_dist=True, batch_size=len(scored.ids))
        if trainer.is_global_zero:
            log_attribution(
                trainer.loggers, table, Queries(scored.ids, scored.images), self.history, "influence"
            )


class _Scored(NamedTuple):
    """Queries with their scores; all tensors on the CPU."""

    ids: tuple[str, ...]
    images: Tensor
    own: Tensor  # [queries] bool, which belong to the groups that the student forgets
    scores: Tensor  # [queries, groups]
    stderr: Tensor  # [queries, groups]


def _gathered(parts: list[_Scored]) -> list[_Scored]:
    """The parts of all ranks, on every rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return parts
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, parts)
    return [part for rank in ranks for part in rank]


def _joined(parts: list[_Scored]) -> _Scored:
    """One part of all, each query once: distributed samplers repeat some to make ranks even.

    Raises:
        QueryError: There is nothing to join.
    """
    if not any(part.ids for part in parts):
        raise QueryError(
            "there is nothing to score",
            found="no validation batch",
            expected="a validation loader with at least one batch, or a fixed query set",
            fix="pass val_dataloaders, or queries=FILE|FOLDER to ELBOAttributionCallback",
        )
    ids = [i for part in parts for i in part.ids]
    rows = sorted({name: row for row, name in reversed(list(enumerate(ids)))}.values())
    return _Scored(
        tuple(ids[row] for row in rows),
        torch.cat([part.images for part in parts])[rows],
        torch.cat([part.own for part in parts])[rows],
        torch.cat([part.scores for part in parts])[rows],
        torch.cat([part.stderr for part in parts])[rows],
    )
