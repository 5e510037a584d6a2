"""``guda curate``: which groups should leave the training data."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule
from torch import Tensor

from guda_lightning.attribution import AttributionContext
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.data import GroupDataModule, load_queries
from guda_lightning.data.group_metadata import group_lines
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import FullModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.errors import ConfigError, GroupError, StoreError
from guda_lightning.evaluation.curation import Curation, Verification
from guda_lightning.evaluation.tables import load_table
from guda_lightning.evaluation.targets import Targets
from guda_lightning.functional.elbo import elbo
from guda_lightning.makers.costs import bar_of, say, say_fit_cost
from guda_lightning.makers.maker import name_of
from guda_lightning.makers.retrainer import Retrainer, retraining_hparams
from guda_lightning.report.curation_section import (
    FOUND,
    GROUPS,
    VERIFIED,
    curation_section,
    curation_text,
)
from guda_lightning.report.logged import log_section
from guda_lightning.report.run import newest_table
from guda_lightning.report.wandb import closing_runs, project_loggers
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Ensemble, Likelihood
from guda_lightning.scores.stored import full_errors, refuse_noise_by_name, scoring_of
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import chosen_seeds, refuse_several_processes
from guda_lightning.stages.removals import Removals
from guda_lightning.storage.config import refuse_other
from guda_lightning.storage.files import write_atomic
from guda_lightning.storage.frames import save_frame
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.sealed import folder_record
from guda_lightning.storage.seals import SEALS, folder_seal
from guda_lightning.storage.weights_record import RECORD
from guda_lightning.types import Queries, Weighting


def curate(
    trainer: StageTrainer,
    build: Callable[[], LightningModule],
    datamodule: GroupDataModule,
    config: Mapping[str, Any],
    target: str | None = None,
    scores: Path | None = None,
    weighting: Weighting = "uniform",
    verify: bool = False,
    seeds: str | None = None,
    wandb: str | None = None,
) -> Path:
    """Rank groups by what their removal is predicted to do to badly served queries; write those that stay.

    Args:
        trainer: The trainer of the run.
        build: Makes the untrained module; called after the random generators are seeded.
        datamodule: The training data with its groups.
        config: What the module is made from; must be what RUN/full was made from.
        target: A table with the groups of the queries, or names of folders of the queries that are served
            badly; left out, pseudo-groups.
        scores: The score table; the newest one of a method if left out.
        weighting: Which loss counts: ``uniform`` for the one that the model was trained on.
        verify: Whether to retrain without the harmful groups, and without as many random samples.
        seeds: Seeds of these trainings, such as ``0,1,2``; 0 if left out.
        wandb: Project to log to, if any.

    Returns:
        The folder of what was found, RUN/curation.

    Raises:
        GudaError: There is no such table, it does not derive from squared errors or was made from something
            else; or as ``Targets.of``.
    """
    refuse_several_processes(
        trainer.world_size,
        "curate",
        why="it ranks groups and trains one model after the other",
        fix="leave out -c: the configuration of RUN/full is then followed by one process",
    )
    run, chosen = trainer.run_folder, _seeds(seeds, verify)
    refuse_other(run.full, FullRecord.from_file(run.full / RECORD).config, config)
    model = build()
    source = trainer.open_full(None, model, datamodule)
    path = scores or newest_table(run)
    table = _table(path, weighting, source, datamodule.grouping)
    if verify:
        refuse_noise_by_name(path, table.record)
    errors = full_errors(table, run.errors)
    assert table.record.scoring is not None  # of a Likelihood
    schedule, scoring = source.model.schedule, scoring_of(table.record.scoring)
    losses = -elbo(errors.errors, errors.timesteps, scoring.plan(schedule), schedule, weighting)
    targets = Targets.of(target, table.queries, table.matrix(), losses)
    found = Curation.of(table, losses, targets)
    about = _about(run, path, table, found, targets, int(np.prod(datamodule.input_shape)))
    _refuse_all(found, about, datamodule.grouping)
    save_frame(run.curation / FOUND, found.groups, about)
    _write_groups(run.curation / GROUPS, datamodule, found.harmful)
    verification: Verification | None = None
    if verify and found.harmful:
        datamodule.grouping.known.joint(found.harmful)  # refuses a name that means something else
        removals = Removals(
            maker=_maker(trainer, build, model, source, datamodule, config),
            context=AttributionContext(
                source, datamodule, cache=run.errors, execution=Execution(trainer.strategy.root_device)
            ),
            groups=sorted(found.harmful),
            seeds=chosen,
            scoring=scoring,
            queries=_queries(run, path, table, source, datamodule),
            weighting=weighting,
            folder=run.curation / "random",
        )
        verification = _verified(trainer, removals, model, losses, targets)
        save_frame(run.curation / VERIFIED, verification.frame, about)
    if wandb is not None:
        _log(run, wandb, table, about)
    say(curation_text(found, about, verification))
    if verify and not found.harmful:
        say("curate: there is nothing to verify")
    say(f"curate: {run.curation} written; `guda report {run.root}` shows it on the page")
    return run.curation


def _seeds(requested: str | None, verify: bool) -> list[int]:
    """The seeds of the trainings.

    Raises:
        ConfigError: They are no seeds, or nothing is to be trained.
    """
    if requested is not None and not verify:
        raise ConfigError(
            "seeds are those of trainings, and nothing is to be trained",
            found=f"--seeds {requested}",
            expected="--verify, which trains",
            fix="pass --verify, too, or leave out --seeds",
        )
    return chosen_seeds(requested or "0")


def _table(path: Path, weighting: Weighting, source: FullModel, grouping: Grouping) -> ScoreTable:
    """The scores under one weighting.

    Raises:
        StoreError: They do not derive from squared errors, or were made from something else.
    """
    table = load_table(path)
    record = table.record
    if not isinstance(record.details, Likelihood):
        raise StoreError(
            f"{path} does not say how well the full model serves its queries",
            found=f"scores of {table.methods[0]}, without squared errors of the full model",
            expected="scores of counterfactuals, whose squared errors are kept",
            fix="score the same queries with counterfactuals, such as --operator guidance, and name their "
            "table with --scores",
        )
    if isinstance(record.details, Ensemble):
        raise StoreError(
            f"{path} does not say which groups harm",
            found="scores by an ensemble, which are relative to the other groups and whose signs say nothing",
            expected="scores of counterfactuals of the full model",
            fix="score the same queries with counterfactuals, such as --operator guidance, and name their "
            "table with --scores",
        )
    for name, scored, today in (
        ("full_hash", record.full_hash, source.hash),
        ("grouping_hash", record.grouping_hash, grouping.hash),
    ):
        if scored != today:
            raise StoreError(
                f"{path} was made from something else: its {name} differs",
                found=str(scored)[:16],
                expected=f"{today[:16]}, that of the run folder",
                fix="run guda attribute again, or name another table with --scores",
            )
    return table.select(weighting=weighting)


def _about(
    run: RunFolder, path: Path, table: ScoreTable, found: Curation, targets: Targets, values: int
) -> dict[str, Any]:
    """What was found from what, beside the rows of the groups."""
    details = table.record.details
    return {
        "full_hash": table.record.full_hash,
        "grouping_hash": table.record.grouping_hash,
        "query_hash": table.record.query_hash,
        "sampled": _sampled(run, table),
        "scores": path.name,
        "scores_hash": table.record.hash,
        "method": table.methods[0],
        "seed": table.seeds[0],
        "weighting": table.weightings[0],
        "sized": isinstance(details, Likelihood) and details.sized,
        "values": values,  # that a loss sums over
        "origin": targets.origin,
        "targets": found.targets.to_dict("records"),
    }


def _sampled(run: RunFolder, table: ScoreTable) -> bool:
    """Whether the queries are what ``guda sample`` drew from the full model."""
    place = run.queries / RECORD
    record = folder_record(run.queries) if place.is_file() else {}
    return "full_hash" in record.get("config", {}) and record["query_hash"] == table.record.query_hash


def _refuse_all(found: Curation, about: Mapping[str, Any], grouping: Grouping) -> None:
    """Refuse to leave out all data, once the ranking is printed.

    Raises:
        GroupError: Harmful groups hold every sample.
    """
    columns = [column for column, name in enumerate(grouping.names) if name in found.harmful]
    if grouping.membership()[:, columns].any(axis=1).all():
        say(curation_text(found, about, None))
        raise GroupError(
            "the groups that are predicted to harm the target hold all training samples",
            found=f"{len(found.harmful)} harmful groups of {len(found.groups)}",
            expected="samples that stay",
            fix="train the full model until it serves the target, or score by another method",
        )


def _write_groups(path: Path, data: GroupDataModule, harmful: Sequence[str]) -> None:
    """Write and seal the samples that stay, each with the list of its groups, whatever these are called."""
    grouping = data.grouping
    kept = grouping.retain(harmful) if harmful else np.arange(grouping.num_samples)
    names = np.array(grouping.names, dtype=object)
    groups = [names[inside].tolist() for inside in grouping.membership()[kept]]
    text = group_lines([data.ids[row] for row in kept], groups)
    write_atomic(path, text)
    write_atomic(path.parent / SEALS, folder_seal({path.name: hashlib.sha256(text.encode()).hexdigest()}))


def _maker(
    trainer: StageTrainer,
    build: Callable[[], LightningModule],
    model: LightningModule,
    source: FullModel,
    data: GroupDataModule,
    config: Mapping[str, Any],
) -> Retrainer:
    """What trains as ``guda retrain`` does, into the same store."""
    return Retrainer(
        full=source,
        data=data,
        store=CounterfactualStore(trainer.run_folder.store),
        trainers=trainer.trainers,
        hparams=retraining_hparams(model, trainer.layout, data, trainer, config, paired=True),
        build=build,
        layout=trainer.layout,
    )


def _queries(
    run: RunFolder, path: Path, table: ScoreTable, source: FullModel, data: GroupDataModule
) -> Queries:
    """The queries of the table, as the model takes them.

    Raises:
        ConfigError: Only some of them were kept.
    """
    if table.record.chunks:
        raise ConfigError(
            f"the queries of {path} were not kept, so --verify cannot score them again",
            found=f"{len(table.queries)} queries in {len(table.record.chunks)} chunks",
            expected="a table that was scored in one chunk, of at most 1024 queries",
            fix="score fewer queries with guda attribute, and name their table with --scores",
        )
    queries = load_queries(run.queries_of(path), data.image_shape)
    return data.as_queries(queries, source.model.conditional)


def _verified(
    trainer: StageTrainer, removals: Removals, model: LightningModule, losses: Tensor, targets: Targets
) -> Verification:
    """Say the cost, and retrain what is not there."""
    left, total = removals.left, len(removals.arms)
    name = name_of(removals.groups)
    say(f"curate: {total - left} of {total} models without {name}, or as many random samples, are there")
    if left:
        view = removals.maker.data.without(removals.groups)
        say_fit_cost("curate", trainer, model, trainer.layout.full(model), view, models=left)
    with bar_of(trainer, "curate", "models", total, total - left) as bar:
        return Verification.of(losses, removals.rises(bar), targets)


def _log(run: RunFolder, project: str, table: ScoreTable, about: Mapping[str, Any]) -> None:
    section = curation_section(run, table)
    assert section is not None  # it was just written
    with closing_runs():
        log_section(project_loggers(project, run.root, run.name, "curate", "curate"), section, about)
