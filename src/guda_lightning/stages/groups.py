"""``guda groups``: whether the groups are the right ones, before anything is attributed to them."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule

from guda_lightning.attribution import AttributionContext
from guda_lightning.data import GroupDataModule
from guda_lightning.data.queries import query_hash
from guda_lightning.diffusion import FullModel
from guda_lightning.errors import GudaError
from guda_lightning.evaluation.group_audit import LEAST_QUERIES
from guda_lightning.makers.costs import say
from guda_lightning.posteriors import PosteriorStore
from guda_lightning.posteriors.trained import TrainedClassifier
from guda_lightning.report.agreement_text import columns
from guda_lightning.report.audit_section import COMMAND, audit_section
from guda_lightning.report.logged import log_section
from guda_lightning.report.wandb import closing_runs, stage_loggers
from guda_lightning.scores import Scoring
from guda_lightning.stages.audited import Missing, Parts, Scored, calibrated, static
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import refuse_several_processes
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.frames import load_frame, save_frame
from guda_lightning.storage.locks import locked
from guda_lightning.types import Queries, Weighting

_NAME = 60  # columns of a group and its marks


def groups(
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: GroupDataModule,
    scoring: Scoring = Scoring(),  # noqa: B008  (frozen)
    weighting: Weighting = "elbo",
    seed: int = 0,
    queries: Path | None = None,
    resize: bool = False,
    full: Path | None = None,
) -> Path:
    """Audit the groups: sizes, overlaps, copies, hidden modes, calibration, pairs of the same content.

    Nothing is trained. What takes the classifier of ``guda guide`` or queries is left out where there are
    none, and said.

    Args:
        trainer: The trainer of the run.
        model: The full model's module.
        datamodule: The training data with its groups.
        scoring: Timesteps, draws, seed, batch size and precision of the scores of halves.
        weighting: Which scores are compared.
        seed: Seed of clusters, random halves and noise.
        queries: An image or a folder of images; RUN/queries if left out.
        resize: Whether to resize queries of another size than the training images.
        full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.

    Returns:
        The audit, a table with a row a group: RUN/groups.parquet.
    """
    fix = "pass --trainer.devices 1 --trainer.num_nodes 1"
    refuse_several_processes(trainer.world_size, "groups", "nothing is trained", fix)
    run, missing = trainer.run_folder, Missing()
    source = _opened(trainer, model, datamodule, full, missing)
    base = None if source is None else _classifier(trainer, source, datamodule, missing)
    encoded = None
    if source is not None and base is not None:
        encoded = _queries(trainer, source, datamodule, queries, resize, missing)
    record = {
        "full_hash": None if source is None else source.hash,
        "data_hash": datamodule.hash,
        "grouping_hash": datamodule.grouping.hash,
        "posterior": None if base is None else base.record.weights_hash,
        "queries_hash": None if encoded is None else query_hash(encoded),
        "scoring": None if source is None or encoded is None else vars(scoring.record(source.model.schedule)),
        "weighting": weighting,
        "seed": seed,
        "missing": list(missing.lines),
    }
    made_from = sha256_json(record)
    parts = Parts(run.audit.with_suffix(".parts"), made_from)
    with locked(run.root, run.audit):
        if run.audit.is_file() and load_frame(run.audit, COMMAND)[1].get("made_from") == made_from:
            parts.remove()  # of a command that was killed just before its end
            say(f"groups: {run.audit} is complete, skipped")
            return run.audit
        frame, found = static(datamodule)
        if source is not None and base is not None:
            found |= calibrated(frame, base, datamodule, seed, missing)
            if encoded is not None:
                context = AttributionContext(source, datamodule)
                scored = Scored(
                    trainer=trainer,
                    base=base,
                    context=context,
                    queries=encoded,
                    scoring=scoring,
                    weighting=weighting,
                    seed=seed,
                    parts=parts,
                )
                found |= scored.fill(frame)
        record = {**record, **found, "missing": missing.lines, "made_from": made_from}
        section = audit_section(frame, record)
        save_frame(run.audit, frame, record)
        parts.remove()
        with closing_runs():
            log_section(stage_loggers(trainer.loggers, run.name, "groups", "groups"), section, record)
        table = columns([section.columns, *section.rows], names=_NAME)
        say("\n".join([*(f"groups: {line}" for line in section.lines), "", *table]))
        return run.audit


def _opened(
    trainer: StageTrainer, model: LightningModule, data: GroupDataModule, full: Path | None, missing: Missing
) -> FullModel | None:
    """The full model; None where there is none yet."""
    if full is None and not trainer.run_folder.full.is_dir():
        missing.add(
            "calibration and hidden modes",
            f"there is no full model (no {trainer.run_folder.full})",
            "run guda fit, guda sample and guda guide first",
        )
        return None
    return trainer.open_full(full, model, data)


def _classifier(
    trainer: StageTrainer, source: FullModel, data: GroupDataModule, missing: Missing
) -> TrainedClassifier | None:
    """The classifier of the run; None where there is none that could tell halves apart."""
    store, device = PosteriorStore(trainer.run_folder.store), trainer.strategy.root_device
    try:
        return TrainedClassifier.open(store, source.model.schedule, data, source.model.conditional, device)
    except GudaError as error:
        missing.add("calibration and hidden modes", f"{error.problem} ({error.found})", error.fix)
        return None


def _queries(
    trainer: StageTrainer,
    source: FullModel,
    data: GroupDataModule,
    path: Path | None,
    resize: bool,
    missing: Missing,
) -> Queries | None:
    """The queries that halves are scored on; None where a run has too few of them."""
    if path is None and not trainer.run_folder.queries.is_dir():
        missing.add(
            "hidden modes",
            f"there are no queries (nothing at {trainer.run_folder.queries})",
            "run guda sample, or pass --queries FILE|FOLDER",
        )
        return None
    queries = trainer.listed_queries(path, resize).of_shape(data.image_shape).load()
    if len(queries) < LEAST_QUERIES:
        missing.add(
            "hidden modes",
            f"there are too few queries to compare halves on ({len(queries)} of {LEAST_QUERIES})",
            "pass --queries FOLDER with more of them",
        )
        return None
    return data.as_queries(queries, source.model.conditional)
