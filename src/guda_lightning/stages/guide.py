"""``guda guide``: one classifier of noised samples, from which every counterfactual follows."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule

from guda_lightning import compat
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import FullModel
from guda_lightning.makers.classifier_trainer import ClassifierTrainer, classifier_hparams
from guda_lightning.makers.costs import say, spent
from guda_lightning.posteriors import ClassifierKey, ClassifierPlan, ClassifierStore, NoiseLevel
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import chosen_groups


def guide(
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: GroupDataModule,
    classifier: ClassifierPlan = ClassifierPlan(),  # noqa: B008  (frozen)
    seed: int = 0,
    full: Path | None = None,
) -> ClassifierKey:
    """Train one classifier of noised samples, from which every group's counterfactual follows.

    Args:
        trainer: The trainer of the run.
        model: The full model's module.
        datamodule: The training data with its groups.
        classifier: Network, steps, learning rate and held-out share.
        seed: Seed of the classifier.
        full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.

    Returns:
        The key of the classifier in RUN/store/classifiers.

    Raises:
        GudaError: No full model, or a conditional one whose labels tell the groups.
    """
    chosen_groups(datamodule.grouping, None)  # each can be removed
    source = trainer.open_full(full, model, datamodule)
    maker = classifier_trainer(trainer, source, datamodule, classifier, seed)
    dry = compat.is_dry_run(trainer)
    if not dry and maker.has():
        say("guide: the classifier is complete, skipped")
        return maker.key()
    if not dry:
        parameters = sum(p.numel() for p in maker.module().network.parameters())
        say(
            f"guide: {classifier.steps} steps of {classifier.batch_size} images through a classifier of "
            f"{parameters} parameters"
        )
    record = maker.make()
    if record is None:
        return maker.key()
    say(f"guide: classifier of {len(record.groups)} groups done, {spent(vars(record))}")
    for level in record.levels:
        say(_described(NoiseLevel(**level)))
    return maker.key()


def classifier_trainer(
    trainer: StageTrainer,
    full: FullModel,
    datamodule: GroupDataModule,
    classifier: ClassifierPlan,
    seed: int,
) -> ClassifierTrainer:
    """What makes the classifier of a run, from the options of ``guide``."""
    return ClassifierTrainer(
        full=full,
        data=datamodule,
        store=ClassifierStore(trainer.run_folder.store),
        trainers=trainer.trainers,
        hparams=classifier_hparams(classifier, datamodule, trainer),
        plan=classifier,
        seed=seed,
    )


def _described(level: NoiseLevel) -> str:
    """One line per noise level."""
    return (
        f"  t {level.first:>4}-{level.last:<4} held-out accuracy {level.accuracy:.2f}, calibration error "
        f"{level.ece:.3f} -> {level.ece_tempered:.3f} at temperature {level.temperature:.2f}"
    )
