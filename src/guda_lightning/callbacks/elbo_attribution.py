"""``ELBOAttributionCallback``: group influence during validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from guda_lightning.attribution import (
    AttributionContext,
    CounterfactualAttributor,
    shared_errors,
    squared_errors,
)
from guda_lightning.callbacks.validation_queries import ValidationQueries, data_of, grouping_of
from guda_lightning.data import query_hash
from guda_lightning.data.gathering import Collected
from guda_lightning.data.group_names import beside
from guda_lightning.diffusion import DiffusionModel, FullModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError, QueryError
from guda_lightning.report import charts
from guda_lightning.report.wandb import KEYS, log_attribution
from guda_lightning.scores import ScoreRecord, ScoreTable, Scoring, SquaredErrors, score_table
from guda_lightning.scores.kinds import Student
from guda_lightning.types import Queries, Weighting
from guda_lightning.unlearning import UnlearnModule


class ELBOAttributionCallback(Callback):
    """Scores queries during validation and logs how much each group influenced them.

    On an ``UnlearnModule`` the student itself is the counterfactual of its group, and no store is needed:
    the curves show the influence grow while the group is forgotten. On any other LightningModule the queries
    are scored against the counterfactuals of a store, which were made from the very weights that it has:
    call ``trainer.validate``, or ``fit`` what leaves the weights alone.

    Logs ``influence/GROUP``, the mean score, through all of the trainer's loggers; on an ``UnlearnModule``
    also ``influence/own`` and ``influence/other`` (validation samples of the group itself and of the
    others). A group of such a name, as ``own``, is logged as ``influence/group own``. To W&B it logs a table
    with thumbnails, a heat map and the curves as well. Of several processes each scores a share of the
    queries, and rank zero logs all of them, each once.

    Args:
        store: Folder of the counterfactual store; None takes ``store`` in the trainer's ``default_root_dir``.
            An ``UnlearnModule`` needs none.
        operator: Which counterfactuals of the store; None where it holds one kind.
        seed: Seed that they were made with.
        hparams: Start of the hash of their hyper-parameters, where the store holds several kinds.
        queries: An image or a folder of images to score each time; None scores the validation batches.
        max_queries: Score at most this many queries of the validation batches.
        scoring: Timesteps, draws, seed and precision.
        weighting: Which scores to log.
        denoiser: Where the LightningModule has its network, by dotted path, e.g. ``unet``; may be left out
            for a ``DiffusionModule``.
        scheduler: Where it has its noise scheduler, e.g. ``noise_scheduler``.
        image_key: Key (or position) of the images in a validation batch.
        label_key: Key (or position) of the class labels, for a label-conditional network; may be left out
            for a ``DiffusionModule``.
    """

    def __init__(
        self,
        store: str | Path | None = None,
        operator: str | None = None,
        seed: int = 0,
        hparams: str | None = None,
        queries: str | Path | None = None,
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
        self.store, self.operator, self.seed, self.hparams = store, operator, seed, hparams
        self.queries, self.max_queries = queries, max_queries
        self.scoring, self.weighting = scoring, weighting
        self.denoiser, self.scheduler = denoiser, scheduler
        self.history: list[dict[str, Any]] = []  # rows group, step, own, other, for the page
        self.table: ScoreTable | None = None  # of the last validation, all ranks' queries
        self._validation_queries = ValidationQueries(queries, max_queries, image_key, label_key)
        self._full_errors: dict[str, SquaredErrors] = {}  # of the last validation, by what they are of

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse before any work what would fail at the first validation."""
        if self.store is None and not isinstance(pl_module, UnlearnModule):
            default = Path(trainer.default_root_dir) / "store"
            if not default.is_dir():
                raise ConfigError(
                    f"ELBOAttributionCallback needs counterfactuals to score a {type(pl_module).__name__}",
                    found=f"store=None, and nothing at {default}",
                    expected="the folder of a counterfactual store, or an UnlearnModule",
                    fix="pass store=RUN/store after `guda unlearn`",
                )
            self.store = default
        if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            charts.require()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to watch a model drift away from its counterfactuals: no score would mean anything."""
        if isinstance(pl_module, UnlearnModule):
            return
        FullModel.of(pl_module, self.denoiser, self.scheduler)
        trained = sum(parameter.requires_grad for parameter in pl_module.parameters())
        if trained:
            raise ConfigError(
                f"fit changes the {type(pl_module).__name__} that the counterfactuals were made from",
                found=f"{trained} trainable parameters",
                expected="a frozen model, or an UnlearnModule",
                fix="after training and unlearning, pass this callback to a trainer that validates",
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a training that would never validate, unless validation is switched off."""
        self._expect_batches(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the store: what does not fit the module is refused before the first batch."""
        self._ranks = Ranks.of(trainer)
        self._validation_queries.start()
        if isinstance(pl_module, UnlearnModule):
            self._full = FullModel(pl_module.full, pl_module.scheduler, pl_module.full_hash)
        elif self.store is not None:
            self._full = FullModel.of(pl_module, self.denoiser, self.scheduler)
            attributor = CounterfactualAttributor(
                self.store, self.operator, self.scoring, seed=self.seed, hparams=self.hparams
            )
            execution = Execution(pl_module.device, self._ranks)
            self._attributor = attributor.fit(
                AttributionContext(self._full, grouping=grouping_of(trainer), execution=execution)
            )

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
        self._validation_queries.add(trainer, pl_module, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score, gather and log."""
        if trainer.sanity_checking:
            return
        scored = self._validation_queries.gathered(self._ranks)
        labels = scored.labels if self._validation_queries.conditional(pl_module) else None
        queries = Queries(scored.ids, scored.images, labels)
        if isinstance(pl_module, UnlearnModule):
            table = self._score_student(trainer, pl_module, queries)
        else:
            table = self._attributor.score(queries)
        self.table = table.select(weighting=self.weighting)
        self._log(trainer, pl_module, self.table, scored)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say so when a validation had nothing to validate: Lightning skips it without calling any hook."""
        if stage == "validate":
            self._expect_batches(trainer)

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

    def _expect_batches(self, trainer: Trainer) -> None:
        if trainer.limit_val_batches and not sum(trainer.num_val_batches):
            raise QueryError(
                "there is nothing to score",
                found="no validation batch",
                expected="a validation loader with at least one batch",
                fix="pass val_dataloaders, also for fixed queries, or leave ELBOAttributionCallback out",
            )

    def _score_student(self, trainer: Trainer, pl_module: UnlearnModule, queries: Queries) -> ScoreTable:
        """Scores of the one counterfactual that is being made."""
        group, schedule = "+".join(pl_module.groups), self._full.model.schedule
        hashed, grouping = query_hash(queries), grouping_of(trainer)
        # The full model is frozen: measured again only for other queries.
        key = f"{self._full.hash} {hashed}"
        if key not in self._full_errors:
            self._full_errors = {key: self._errors(pl_module.full, queries, pl_module)}
        record = ScoreRecord(
            Student(),
            query_hash=hashed,
            provenance=self._full.provenance(None if grouping is None else grouping.hash),
            scoring=self.scoring.record(schedule),
            group_sizes={} if grouping is None else {group: len(grouping.forget(pl_module.groups))},
        )
        return score_table(
            self._full_errors[key],
            {group: self._errors(pl_module.student, queries, pl_module)},
            schedule,
            self.scoring,
            method=pl_module.objective.operator,
            seed=pl_module.seed,
            record=record,
        )

    def _errors(self, model: DiffusionModel, queries: Queries, pl_module: LightningModule) -> SquaredErrors:
        def measure(part: Queries) -> tuple[Tensor, Tensor]:
            return squared_errors(model, part, self.scoring, device=pl_module.device)

        errors, timesteps = shared_errors(measure, queries, self._ranks)
        return SquaredErrors(queries.ids, errors, timesteps, {})

    def _log(
        self, trainer: Trainer, pl_module: LightningModule, table: ScoreTable, scored: Collected
    ) -> None:
        scores = table.matrix()
        mean = scores.mean(dim=0).tolist()
        words = ("own", "other", *KEYS)
        scalars = {
            f"influence/{beside(group, words)}": value
            for group, value in zip(table.groups, mean, strict=True)
        }
        mine = scored.own
        if bool(mine.any()) and not bool(mine.all()):
            own, other = float(scores[mine].mean()), float(scores[~mine].mean())
            scalars |= {"influence/own": own, "influence/other": other}
            row = {"group": table.groups[0], "step": trainer.global_step, "own": own, "other": other}
            self.history.append(row)
        # Every rank has gathered the same numbers: averaging them over ranks changes nothing.
        pl_module.log_dict(scalars, sync_dist=True, batch_size=len(scored.ids))
        if trainer.is_global_zero:
            # Inside fit, Lightning files a validation's scalars under the batch that has just been stepped.
            step = trainer.global_step - (trainer.state.fn == TrainerFn.FITTING)
            data, images = data_of(trainer), scored.images
            if data is not None and any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
                images = data.pictures(images)  # which a latent model has to decode
            queries = Queries(scored.ids, images)
            log_attribution(trainer.loggers, table, queries, self.history, "influence", step=step)
