"""``ELBOAttributionCallback``: group influence during validation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from guda_lightning import compat
from guda_lightning.attribution import AttributionContext, CounterfactualAttributor, FittedAttributor
from guda_lightning.callbacks.draw import Draw
from guda_lightning.callbacks.image_range import ImageRange
from guda_lightning.callbacks.influence_log import curves_of, log_influence, tell_counts, with_groups
from guda_lightning.callbacks.network_inputs import NetworkInputs
from guda_lightning.callbacks.our_data import data_of, grouping_of
from guda_lightning.callbacks.scored_weights import ScoredWeights, refuse_other_precision
from guda_lightning.callbacks.student_scores import StudentScores, name_of
from guda_lightning.callbacks.validation_queries import ValidationQueries, nothing_to_score
from guda_lightning.data.gathering import Collected
from guda_lightning.data.group_names import beside
from guda_lightning.diffusion import FullModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError
from guda_lightning.notes import tell_once
from guda_lightning.report.attribution_log import KEYS, not_shown, require_charts
from guda_lightning.scores import ScoreTable, Scoring
from guda_lightning.types import Queries, Weighting
from guda_lightning.unlearning import UnlearnModule

if not TYPE_CHECKING:
    Callback = compat.callback_class()


class ELBOAttributionCallback(Callback):
    """Scores queries during validation and logs how much each group influenced them.

    On an ``UnlearnModule`` the student itself is the counterfactual of its group, and no store is needed:
    the curves show the influence grow while the group is forgotten. On any other LightningModule the queries
    are scored against the counterfactuals of a store, which were made from the very weights that it has:
    call ``trainer.validate``, or ``fit`` what leaves the weights alone.

    Logs ``influence/GROUP``, the mean score, through all of the trainer's loggers; on an ``UnlearnModule``
    also ``influence/own`` and ``influence/other`` (validation samples of the group itself and of the
    others). A group of such a name, as ``own``, is logged as ``influence/group own``. W&B also gets tables
    with thumbnails, a heat map and curves, TensorBoard the pictures, CSV the tables (docs/loggers.md). A
    trainer's second callback of this kind logs under ``influence-2/``, and so on. Of several processes each
    scores a share of the queries, and rank zero logs all of them, each once.

    Works in trainers of ``lightning.pytorch`` and of ``pytorch_lightning``, on batches of any form; which,
    stands in docs/trainers.md. A query is named by the batch's entry ``index``, else by a hash of its pixels.

    Args:
        store: Folder of the counterfactual store; None takes ``store`` in the trainer's ``default_root_dir``.
            An ``UnlearnModule`` needs none.
        operator: Which counterfactuals of the store; None where it holds one kind.
        seed: Seed that they were made with.
        hparams: Start of the hash of their hyper-parameters, where the store holds several kinds.
        queries: An image or a folder of images to score each time, whatever the validation batches hold;
            None scores these.
        max_queries: Score at most this many queries of the validation batches: drawn over all of them with
            the seed of ``scoring``, of several loaders evenly, the same for any batches and processes.
        scoring: Timesteps, draws, seed and precision.
        weighting: Which scores to log.
        denoiser: Where the LightningModule has its network, by dotted path, e.g. ``unet``; may be left out
            for a ``DiffusionModule``.
        scheduler: Where it has its noise scheduler, e.g. ``noise_scheduler``.
        image_key: Key, position or dotted path of the images in a validation batch, e.g. ``pixel_values``,
            ``0`` or ``0.image``; a batch that is a tensor is the images.
        label_key: The same of the class labels, for a label-conditional network; may be left out for a
            ``DiffusionModule``.
        group_key: The same of the group that a sample itself belongs to, such as its label, for tables, and
            for a warning where most queries are of one group; a ``GroupDataModule`` says so itself.
        image_range: Lowest and highest value of the images in a batch, which are scaled to [-1, 1]; others
            are refused. None takes latents, or anything else, as they are.

    Raises:
        ConfigError: ``max_queries`` or ``image_range`` is out of range.
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
        group_key: str | int | None = None,
        image_range: tuple[float, float] | None = (-1, 1),
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
        self._validation_queries = ValidationQueries(
            queries, Draw(max_queries, scoring.seed), image_key, label_key, group_key, ImageRange(image_range)
        )
        self._weights = ScoredWeights()
        self._attributor: FittedAttributor | None = None  # of the counterfactuals of a store
        self._prefix = "influence"
        self._scored = False  # since setup
        self._student_scores = StudentScores(scoring)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse before any work what would fail at the first validation."""
        self._store = Path(trainer.default_root_dir) / "store" if self.store is None else Path(self.store)
        missing = self.store is None and not self._store.is_dir()
        if missing and not isinstance(pl_module, UnlearnModule):
            raise ConfigError(
                f"ELBOAttributionCallback needs counterfactuals to score a {type(pl_module).__name__}",
                found=f"store=None, and nothing at {self._store}",
                expected="the folder of a counterfactual store, or an UnlearnModule",
                fix="pass store=RUN/store after `guda unlearn`",
            )
        require_charts(trainer.loggers)
        if not getattr(trainer, "fast_dev_run", False) and (text := not_shown(trainer.loggers)):
            tell_once(f"{type(self).__name__}: {text}")
        watching = [c for c in compat.callbacks(trainer) if isinstance(c, ELBOAttributionCallback)]
        number = 1 + watching.index(self) if self in watching else 1
        self._prefix, self._scored = "influence" if number == 1 else f"influence-{number}", False
        if stage == "fit" and not trainer.global_step and isinstance(pl_module, UnlearnModule):
            # Another training of the same groups, not the rest of one.
            self.history = [row for row in self.history if row["group"] != name_of(pl_module)]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse to watch a model drift away from its counterfactuals: no score would mean anything."""
        if trainer.limit_val_batches:
            self._open(trainer, pl_module)
        if isinstance(pl_module, UnlearnModule):
            return
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
        later = trainer.enable_validation and trainer.check_val_every_n_epoch not in (None, 1)
        if not later:  # Lightning makes the loaders when they are needed
            self._expect_batches(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the store: what does not fit the module is refused before the first batch."""
        self._open(trainer, pl_module)
        self._weights.forget()
        if isinstance(pl_module, UnlearnModule):
            self._attributor = None
            return
        refuse_other_precision(self._full.model.denoiser)
        self._weights.note(self._full.model.denoiser)
        attributor = CounterfactualAttributor(
            self._store, self.operator, self.scoring, seed=self.seed, hparams=self.hparams
        )
        execution = Execution(pl_module.device, self._ranks)
        with torch.inference_mode(False), torch.no_grad():  # posteriors are differentiated
            self._attributor = attributor.fit(
                AttributionContext(
                    self._full, data_of(trainer), grouping=grouping_of(trainer), execution=execution
                )
            )

    def on_validation_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Look at the batch before ``validation_step`` changes it."""
        self._validation_queries.begin(trainer, batch, dataloader_idx)

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
        if isinstance(pl_module, UnlearnModule):
            self._weights.note(pl_module.denoiser)
        self._validation_queries.add(trainer, pl_module, batch, dataloader_idx)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score, gather and log."""
        if trainer.sanity_checking:
            return
        scored, count = self._validation_queries.gathered(trainer, self._ranks)
        network = pl_module.denoiser if isinstance(pl_module, UnlearnModule) else self._full.model.denoiser
        self._weights.refuse_changed(network, trainer)
        labels = scored.labels if self._validation_queries.conditional(pl_module) else None
        queries = Queries(scored.ids, scored.images, labels, keys=scored.keys)
        if isinstance(pl_module, UnlearnModule):
            table = self._student_scores.of(pl_module, self._full, queries, grouping_of(trainer), self._ranks)
        else:
            assert self._attributor is not None
            with torch.inference_mode(False), torch.no_grad():
                table = self._attributor.score(queries)
        self.table = table.select(weighting=self.weighting)
        self._log(trainer, pl_module, self.table, scored, count)
        self._scored = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Say so when nothing was scored: Lightning skips a validation without calling any hook."""
        if stage == "validate":
            self._expect_batches(trainer)
        if stage in ("fit", "validate") and trainer.limit_val_batches and not self._scored:
            tell_once(f"{type(self).__name__}: no validation, hence no scores")

    def state_dict(self) -> dict[str, Any]:
        """The curves so far, for a run that resumes."""
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the curves."""
        self.history = list(state_dict["history"])

    @property
    def state_key(self) -> str:
        """Several of these callbacks may watch one training."""
        told = [str(self.store), str(self.operator), str(self.queries)]
        told += [] if self.weighting == "elbo" else [self.weighting]
        told += [] if (self.seed, self.hparams) == (0, None) else [str(self.seed), str(self.hparams)]
        return f"{type(self).__qualname__}[{','.join(told)}]"

    def _open(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the full model, and read the fixed queries."""
        self._ranks = Ranks.of(trainer)
        if isinstance(pl_module, UnlearnModule):
            self._full = FullModel(pl_module.full, pl_module.scheduler, pl_module.full_hash)
        else:
            conditional = self._validation_queries.conditional(pl_module)
            self._full = FullModel.of(pl_module, self.denoiser, self.scheduler, conditional)
        inputs = NetworkInputs(self._full.model)
        self._validation_queries.start(trainer, pl_module, inputs)

    def _expect_batches(self, trainer: Trainer) -> None:
        if trainer.limit_val_batches and not sum(trainer.num_val_batches):
            raise nothing_to_score("no validation batch")

    def _log(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        table: ScoreTable,
        scored: Collected,
        count: int | None,
    ) -> None:
        scores = table.matrix()
        mean = scores.mean(dim=0).tolist()
        words = ("own", "other", *KEYS)
        scalars = {
            f"{self._prefix}/{beside(group, words)}": value
            for group, value in zip(table.groups, mean, strict=True)
        }
        mine = scored.own
        if bool(mine.any()) and not bool(mine.all()):
            own, other = float(scores[mine].mean()), float(scores[~mine].mean())
            scalars |= {f"{self._prefix}/own": own, f"{self._prefix}/other": other}
            row = {"group": table.groups[0], "step": trainer.global_step, "own": own, "other": other}
            self.history.append(row)
        # Every rank has gathered the same numbers: averaging them over ranks changes nothing.
        pl_module.log_dict(scalars, sync_dist=True, batch_size=len(scored.ids))
        seed = self.scoring.seed
        scored = with_groups(trainer, table, scored)
        tell_counts(trainer, type(self).__name__, table, scored, count, seed)
        if trainer.is_global_zero:
            made: dict[str, Any] = {"query_seed": seed}
            if count is not None:
                made["validation_samples"] = count
            store = None if isinstance(pl_module, UnlearnModule) else self._store
            curves = self.history or curves_of(self._attributor)
            log_influence(trainer, table, scored, curves, self._prefix, made, store)
