"""``guda fit`` and ``guda validate``: the full model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from guda_lightning import compat
from guda_lightning.data import GroupDataModule, Grouping
from guda_lightning.diffusion import FullModel, refuse_nonfinite, save_full
from guda_lightning.diffusion.calling import predicts_variance
from guda_lightning.diffusion.cost import TrainingCost
from guda_lightning.diffusion.labels import refuse_labels
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.distributed.strategies import agreed, refuse_unsharded
from guda_lightning.errors import GroupError
from guda_lightning.makers.costs import say, say_fit_cost, spent
from guda_lightning.makers.layout import Layout
from guda_lightning.makers.trainers import Training, log_hparams, spent_by
from guda_lightning.report.wandb import closing_runs
from guda_lightning.stages.base import StageTrainer
from guda_lightning.storage.config import refuse_other
from guda_lightning.storage.data_identity import DataIdentity
from guda_lightning.storage.foreign import refuse_foreign
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.seals import sealed_folder
from guda_lightning.storage.weights_record import RECORD


def fit_full(
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: LightningDataModule | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Train the full model and save it as a diffusers folder; goes on where it was interrupted.

    A dry run (``fast_dev_run``) tries a few batches, whatever is complete, and keeps nothing.

    Args:
        trainer: The trainer of the run.
        model: A DiffusionModule, or any LightningModule whose parts this trainer was told.
        datamodule: The training data; may be left out if the module has its own loaders.
        config: What the model is made from; a complete or begun training with another one is refused.

    Returns:
        The folder of the full model, RUN/full.

    Raises:
        DataError: The network takes images of another size.
        GroupError: None of the groups can be removed from the training data.
        StoreError: The run folder holds a full model, or an unfinished one, of another configuration, of
            other data, or damaged.
    """
    folder, config = trainer.run_folder.full, dict(config or {})
    stored = partial(_is_complete, trainer, model, datamodule, config)
    dry = compat.is_dry_run(trainer)
    complete = not dry and stored()
    cost = None if complete else _prepared(trainer, model, datamodule)
    if not dry and agreed(trainer, complete, work=not complete):
        trainer.trainers.discard_unfinished("fit", _made_from(config, trainer.layout.full(model), datamodule))
        say(f"fit: {folder} is complete, skipped")
        return folder
    cost = cost or _prepared(trainer, model, datamodule)
    made_from = _made_from(config, trainer.layout.full(model), datamodule)
    training = Training("fit", "full", "fit", made_from, hparams={"config": config}, callbacks=[cost])

    def keep(used: Trainer) -> FullRecord:
        full = trainer.layout.full(model)
        refuse_nonfinite(full, str(trainer.run_folder.root))
        record = _record(full, trainer.layout, datamodule, config, spent_by(used, cost))
        log_hparams(used, record.to_dict())
        Ranks.of(used).on_rank_zero(partial(_save, folder, full, record))
        return record

    record = trainer.trainers.train(training, model, datamodule, keep, stored)
    if record is not None:
        say(f"fit: {folder} written, {spent(vars(record))}")
    return folder


def _prepared(
    trainer: StageTrainer, model: LightningModule, datamodule: LightningDataModule | None
) -> TrainingCost:
    """Refuse what cannot be trained before anything is written, and say what it will cost; counts that."""
    started = trainer.layout.initialize(model)
    cost = TrainingCost(*trainer.layout.networks(model))
    if isinstance(datamodule, GroupDataModule):
        datamodule.take_size(started.model.sample_size)
        datamodule.setup()
        _refuse_irremovable(datamodule.grouping)
        refuse_labels(started.model.prompted(datamodule.prompts), datamodule.num_classes)
        say_fit_cost("fit", trainer, model, started, datamodule)
    if predicts_variance(started.model.denoiser):
        say("fit: the variance that the network predicts is not trained, and not sampled with")
    return cost


def _is_complete(
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: LightningDataModule | None,
    config: Mapping[str, Any],
) -> bool:
    """Whether RUN/full is there; refuses what ``fit_full`` refuses, and a folder that no fit has written."""
    folder = trainer.run_folder.full
    refuse_foreign(folder, "guda fit", "pass --full with it to the other stages, and another --run here")
    made = FullRecord.intact(folder)
    if made is None:
        return False
    refuse_other(folder, made.config, config)
    made.refuse_unfinished(folder)
    if isinstance(datamodule, GroupDataModule):
        if made.input_shape is None:
            datamodule.keep_size()
        datamodule.take_size(trainer.layout.full(model).model.sample_size)
        made.refuse_other_data(folder, datamodule.identity)
    return True


def _made_from(
    config: Mapping[str, Any], full: FullModel, data: LightningDataModule | None
) -> dict[str, Any]:
    """What an unfinished training is told by: half of it on other data is no training on either."""
    seen = _seen(full, data)
    told = {} if seen is None else {"data_hash": seen.data_hash, "labels_hash": seen.labels_hash}
    return {**config, **{name: value for name, value in told.items() if value is not None}}


def _seen(full: FullModel, data: LightningDataModule | None) -> DataIdentity | None:
    """What identifies the data for this model; None where they have no groups."""
    if not isinstance(data, GroupDataModule):
        return None
    return data.identity if full.model.conditional else replace(data.identity, labels_hash=None)


def _refuse_irremovable(grouping: Grouping) -> None:
    """Refuse groups none of which can be removed, once hours of training are over.

    Raises:
        GroupError: Each group is empty or holds every sample.
    """
    whole = [name for name in grouping.names if grouping.size(name) == grouping.num_samples]
    if len(whole) == sum(grouping.size(name) > 0 for name in grouping.names):
        raise GroupError(
            "no group can be removed from the training data",
            found=f"{grouping.num_samples} of {grouping.num_samples} samples in {', '.join(map(repr, whole))}"
            if whole
            else "no samples in any group",
            expected="a group, and samples outside of it",
            fix="set the path to the folder that holds the groups' folders, or data.groups to a table",
        )


def _record(
    full: FullModel,
    layout: Layout,
    data: LightningDataModule | None,
    config: Mapping[str, Any],
    spent: Mapping[str, Any],
) -> FullRecord:
    seen = _seen(full, data)
    return FullRecord(
        full_hash=full.hash,
        schedule_hash=full.model.schedule.hash,
        **({} if seen is None else asdict(seen)),
        config=config,
        layout=layout.places,
        **spent,
    )


def _save(folder: Path, full: FullModel, record: FullRecord) -> None:
    with sealed_folder(folder) as temporary:
        save_full(temporary, full)
        (temporary / RECORD).write_text(record.to_json(), "utf-8")


def validate_full(
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: LightningDataModule | None = None,
    ckpt_path: str | None = None,
    verbose: bool = True,
) -> None:
    """Validate the full model, with its callbacks.

    Args:
        trainer: The trainer of the run.
        model: The module that the full model was trained as.
        datamodule: The data to validate on; may be left out if the module has its own loaders.
        ckpt_path: A Lightning checkpoint of the weights; RUN/full if left out.
        verbose: Whether to print the metrics.
    """
    if ckpt_path is None:
        trainer.layout.load(trainer.run_folder.full, model)
    with closing_runs():
        fresh, _ = trainer.trainers.fresh(Training("validate", "full", "validate"))
        refuse_unsharded(fresh, model)
        fresh.validate(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=verbose)
