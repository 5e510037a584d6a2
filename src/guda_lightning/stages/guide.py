"""``guda guide``: a posterior of groups given noised samples, from which every counterfactual follows."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from lightning.pytorch import LightningModule

from guda_lightning import compat
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import FullModel
from guda_lightning.distributed.strategies import agreed, connected
from guda_lightning.errors import ConfigError
from guda_lightning.makers.classifier_trainer import ClassifierTrainer, classifier_hparams
from guda_lightning.makers.costs import say, spent
from guda_lightning.makers.locking import locked_by, of_rank_zero
from guda_lightning.makers.posterior_maker import (
    ImageKernelMaker,
    MixtureMaker,
    PatchKernelMaker,
    PosteriorMaker,
)
from guda_lightning.makers.recalibrator import Recalibrator, recalibrated_hparams
from guda_lightning.posteriors import (
    GUIDANCE,
    ClassifierPlan,
    PosteriorKey,
    PosteriorName,
    PosteriorRecord,
    PosteriorStore,
)
from guda_lightning.posteriors.plan import DENSE_SIDE
from guda_lightning.posteriors.trained import RECALIBRATED, TrainedClassifier
from guda_lightning.report.logged import log_section
from guda_lightning.report.recalibrated_section import recalibrated_section
from guda_lightning.report.wandb import closing_runs, stage_loggers
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import chosen_groups
from guda_lightning.storage.paths import user_path
from guda_lightning.storage.runs import RunFolder


def guide(
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: GroupDataModule,
    posterior: PosteriorName = GUIDANCE,
    classifier: ClassifierPlan = ClassifierPlan(),  # noqa: B008  (frozen)
    seed: int = 0,
    base: Path | None = None,
    full: Path | None = None,
) -> PosteriorKey:
    """Make a posterior of the groups given noised samples, from which every counterfactual follows.

    Where only the groups have changed, ``--posterior recalibrated --base RUN`` gives the classifier of RUN
    the new ones in seconds: no image of a group that stays goes through the network. A poor one is refused.

    Args:
        trainer: The trainer of the run.
        model: The full model's module.
        datamodule: The training data with its groups.
        posterior: Which kind: ``guidance`` weighs a dense and a convolutional ``classifier`` and a
            ``patch_kernel`` by noise level, and makes them first; ``image_kernel`` is ReTrack's;
            ``recalibrated`` is the best classifier of ``base`` under the groups of this data section.
        classifier: Network, steps, learning rate and held-out share of classifiers.
        seed: Seed of the posterior.
        base: The run folder whose classifier gets other groups, with ``recalibrated``.
        full: The full model: a diffusers folder or a Lightning checkpoint; that of ``base``, else RUN/full,
            if left out.

    Returns:
        The key of the posterior in RUN/store/posteriors.

    Raises:
        GudaError: No full model, or a conditional one whose labels tell the groups.
    """
    chosen_groups(datamodule.grouping, None)  # each can be removed
    _refuse_base(posterior, base)
    if base is not None and full is None and not trainer.run_folder.full.exists():
        full = RunFolder(user_path(base)).full
    source = trainer.open_full(full, model, datamodule)
    maker = posterior_maker(posterior, trainer, source, datamodule, classifier, seed, base)
    dry = compat.is_dry_run(trainer)
    for reason in maker.left_out.values():
        say(f"guide: no patch kernel, as {reason}")
    complete = [not dry and part.has() for part in maker.parts]
    for part, there in zip(maker.parts, agreed(trainer, complete, work=not all(complete)), strict=True):
        if there:
            trainer.trainers.discard_unfinished(part.key().folder_name, part.provenance.of_training())
            say(f"guide: {part.name} is complete, skipped")
            continue
        if dry and not part.trains:
            continue
        if not dry:
            say(f"guide: {part.cost}")
        record = _made(trainer, part)
        if record is not None:
            say(f"guide: {part.name} of {len(record.groups)} groups done, {spent(vars(record))}")
            for line in part.lines(record):
                say(f"  {line}")
            if record.kind == RECALIBRATED:
                _log(trainer, part.store, record)
    return maker.key()


def _log(trainer: StageTrainer, store: PosteriorStore, record: PosteriorRecord) -> None:
    """Say how it compares with the classifier it was made from, and log that."""
    section = recalibrated_section(store, record)
    say("\n".join(f"guide: {line}" for line in section.lines))
    name = f"guide {record.key.folder_name}"
    with closing_runs():
        loggers = stage_loggers(trainer.loggers, trainer.run_folder.name, "guide", name)
        log_section(loggers, section, asdict(record))


def _made(trainer: StageTrainer, part: PosteriorMaker) -> PosteriorRecord | None:
    """Make one posterior, unless it is made meanwhile; what trains starts the processes itself."""
    if part.trains:
        return part.make()
    ranks, key = connected(trainer), part.key()
    with locked_by(ranks, trainer.run_folder, part.store.path(key)):
        if of_rank_zero(ranks, part.has):
            say(f"guide: {part.name} made by another command meanwhile, skipped")
            return None
        ranks.on_rank_zero(part.make)
    return part.store.record(key)


def posterior_maker(
    kind: PosteriorName,
    trainer: StageTrainer,
    full: FullModel,
    datamodule: GroupDataModule,
    classifier: ClassifierPlan,
    seed: int,
    base: Path | None = None,
) -> PosteriorMaker:
    """What makes the posterior of a run, from the options of ``guide``.

    Raises:
        ConfigError: It does not fit the full model and its data.
    """
    shared: dict[str, Any] = {
        "full": full,
        "data": datamodule,
        "store": PosteriorStore(trainer.run_folder.store),
        "trainers": trainer.trainers,
        "seed": seed,
    }
    images = {"data": datamodule.hash, "mirrored": datamodule.horizontal_flip}

    def classify(plan: ClassifierPlan) -> ClassifierTrainer:
        return ClassifierTrainer(**shared, hparams=classifier_hparams(plan, datamodule, trainer), plan=plan)

    match kind:
        case "classifier":
            return classify(classifier)
        case "image_kernel":
            return ImageKernelMaker(**shared, hparams=images)
        case "patch_kernel":
            return PatchKernelMaker(**shared, hparams=images, device=trainer.strategy.root_device)
        case "recalibrated":
            _refuse_base(kind, base)
            trained = TrainedClassifier.open(
                PosteriorStore(RunFolder(user_path(cast(Path, base))).store),
                full.model.schedule,
                datamodule,
                full.model.conditional,
                trainer.strategy.root_device,
                first_hand=True,
            )
            return Recalibrator(**shared, hparams=recalibrated_hparams(trained, datamodule), base=trained)
        case "guidance":
            kernel = PatchKernelMaker(**shared, hparams=images, device=trainer.strategy.root_device)
            plans = classifiers_of_guidance(classifier, datamodule.input_shape)
            return MixtureMaker.of([*map(classify, plans)], kernel)


def _refuse_base(kind: PosteriorName, base: Path | None) -> None:
    """Refuse a base that nothing is made from, or a recalibration of nothing.

    Raises:
        ConfigError: One of the two is missing.
    """
    if (kind == "recalibrated") == (base is not None):
        return
    raise ConfigError(
        "a classifier is recalibrated" if base is None else "only a recalibrated classifier has a base",
        found="no --base" if base is None else f"--base {base} with --posterior {kind}",
        expected="the run folder whose classifier gets other groups"
        if base is None
        else "--posterior recalibrated",
        fix="pass --base RUN to guda guide" if base is None else "leave out --base, or correct --posterior",
    )


def classifiers_of_guidance(
    plan: ClassifierPlan, image_shape: tuple[int, int, int]
) -> tuple[ClassifierPlan, ...]:
    """The classifiers of the mixture: one with convolutions and, for small images, one of dense layers alone.

    Args:
        plan: What they share; its ``channels``, if given, are those of the convolutions.
        image_shape: Channels, height and width of what the full model takes.
    """
    if not plan.channels_for(image_shape):
        return (plan,)
    dense = (replace(plan, channels=()),) if min(image_shape[1:]) <= DENSE_SIDE else ()
    return (*dense, plan)
