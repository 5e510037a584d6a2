"""``guda property``: what each group does to a property of a whole set of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from guda_lightning.attribution import SetProperty
from guda_lightning.attribution.property_game import PropertyGame, SetWorthKind
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import DiffusionModel, FullModel, sample, sampler
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.distributed.strategies import agreed, connected
from guda_lightning.errors import ConfigError, check_range
from guda_lightning.makers.costs import bar_of, evaluation_seconds, say, say_cost
from guda_lightning.makers.locking import locked_by, of_rank_zero
from guda_lightning.posteriors import GUIDANCE, PosteriorName, PosteriorStore, guided, open_posterior
from guda_lightning.posteriors.kernel import none_left
from guda_lightning.progress_bar import Bar
from guda_lightning.report.logged import log_section
from guda_lightning.report.property_section import property_lines, read_property, section_of
from guda_lightning.report.wandb import closing_runs, stage_loggers
from guda_lightning.scores import ScoreTable
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import at_least_one, chosen_groups
from guda_lightning.storage.config import begin
from guda_lightning.storage.files import slug
from guda_lightning.storage.leftovers import discard
from guda_lightning.storage.sealed import read_tensors, write_tensors
from guda_lightning.storage.seals import intact
from guda_lightning.types import Queries


def set_property(
    trainer: StageTrainer,
    model: LightningModule,
    datamodule: GroupDataModule,
    property: SetProperty,
    num: int = 100,
    steps: int = 100,
    batch_size: int = 64,
    worth: SetWorthKind = "leave_one_out",
    groups: list[str] | str | None = None,
    reference: str | None = None,
    count: int | None = None,
    seed: int = 0,
    posterior: PosteriorName = GUIDANCE,
    posterior_seed: int = 0,
    hparams: str | None = None,
    full: Path | None = None,
) -> Path:
    """Measure what each group does to the mean of a function over samples, such as how bright they are.

    Images are drawn from the full model and, from the same noise, without groups, by a posterior that guides
    it; nothing is trained. A positive score says that the group raises the property. What is measured is kept
    after every batch; run again, the stage goes on there.

    Args:
        trainer: The trainer of the run.
        model: The full model's module.
        datamodule: The training data with its groups.
        property: A number for each image, such as ``guda_lightning.attribution.Brightness``.
        num: Images of each model, at least 2.
        steps: Denoising steps.
        batch_size: Images at a time; changes no image.
        worth: What a score is: ``leave_one_out``, the property of the full model minus that without the
            group; or ``shapley``, ``shapley_permutation``, ``banzhaf``, its value among the others.
        groups: Names of the groups to leave out, such as ``3,7``; all if left out.
        reference: Of other kinds than ``leave_one_out``: a group that always stays. May be left out where
            some samples are in no group.
        count: Of these kinds: draws of coalitions, each mirrored; 200 if left out. Up to 8 players are
            computed exactly.
        seed: Seed of the images and of the coalitions.
        posterior: The kind of posterior that guides.
        posterior_seed: Seed that it was made with.
        hparams: Start of the hash of its hyper-parameters, where the store holds several.
        full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.

    Returns:
        The score table, in RUN/properties.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        at_least_one(name, value)
    check_range("num", num, ge=2, fix="pass --num 2 or more: the standard error needs two images")
    grouping = datamodule.grouping
    if worth == "leave_one_out":
        alone = "each group is left out by itself"
        _refuse(alone, "pass --worth shapley", reference=reference, count=count)
        game = PropertyGame.leaving_one_out(property, grouping, chosen_groups(grouping, groups))
    else:
        _refuse("all groups play", "pass --worth leave_one_out", groups=groups)
        draws = 200 if count is None else count
        game = PropertyGame.of_players(property, grouping, worth, reference, draws, seed)
    run, source = trainer.run_folder, trainer.open_full(full, model, datamodule)
    conditional = source.model.conditional
    drawn = datamodule.conditioned(datamodule.drawn(num, conditional), conditional)
    _refuse_lost_classes(datamodule, drawn, game.coalitions)
    provenance = source.provenance(grouping.hash, data_hash=datamodule.hash)
    guide, made = open_posterior(
        PosteriorStore(run.store),
        posterior,
        source.model.schedule,
        seed=posterior_seed,
        hparams=hparams,
        data=datamodule,
        expect=provenance,
        device=trainer.strategy.root_device,
    )
    record = game.record(provenance, made.weights_hash, made.hparams_hash, drawn, steps)
    method = worth if posterior == GUIDANCE else f"{worth}_{posterior}"
    path = run.properties / f"{slug(property.name)}-{method}-{seed}-{record.hash[:8]}.parquet"
    complete = ScoreTable.is_complete(path, record)
    if not complete:
        sampler(source.model, source.scheduler, steps)  # refused before anything is written
    unfinished = run.checkpoints(f"property-{path.stem}")
    if agreed(trainer, complete, work=not complete):
        if trainer.is_global_zero:  # of a command that was killed just before its end
            discard(unfinished)
        say(f"property: {path} is complete, skipped")
    else:
        models: list[Callable[[], DiffusionModel]] = [lambda: source.model]
        models += [partial(guided, source.model, guide, grouping.coalition(name)) for name in game.coalitions]
        sets = _Sets(
            trainer, datamodule, source, property, models, drawn.labels, num, steps, batch_size, seed
        )
        ranks = connected(trainer)
        with locked_by(ranks, run, path):
            if not of_rank_zero(ranks, lambda: ScoreTable.is_complete(path, record)):
                values = sets.values(unfinished)
                table = game.table(values, record, method, seed)
                ranks.on_rank_zero(partial(_keep, trainer, path, table, values, unfinished))
                ranks.barrier()
    say("\n".join(property_lines(*read_property(path))))
    return path


def _keep(trainer: StageTrainer, path: Path, table: ScoreTable, values: Tensor, unfinished: Path) -> None:
    """Log and write a table, after what it was made from."""
    _log(trainer, table, values)
    write_tensors(path.with_suffix(".safetensors"), {"values": values})
    table.save(path)
    discard(unfinished)  # only now: hours of work lie there


def _log(trainer: StageTrainer, table: ScoreTable, values: Tensor) -> None:
    run = trainer.run_folder
    with closing_runs():
        loggers = stage_loggers(trainer.loggers, run.name, "property", f"property {table.queries[0]}")
        log_section(loggers, section_of([(table, values)]), table.record.to_json())


def _refuse_lost_classes(datamodule: GroupDataModule, drawn: Queries, coalitions: Sequence[str]) -> None:
    """Refuse to draw a class from models that lose all images of it: guidance away from them leaves nothing.

    Raises:
        GroupError: A coalition holds all images of a class.
    """
    labels, grouping = datamodule.labels, datamodule.grouping
    if drawn.labels is None or labels is None or drawn.prompts is not None:
        return
    for groups in map(grouping.coalition, coalitions):
        left = labels[torch.from_numpy(grouping.retain(groups))]
        lost = drawn.labels[~torch.isin(drawn.labels, left)]
        if len(lost):
            raise none_left(groups, int(lost[0]), int((labels == lost[0]).sum()))


def _refuse(instead: str, fix: str, **choices: object) -> None:
    """Refuse options of another kind of value.

    Raises:
        ConfigError: One is given.
    """
    for name, value in choices.items():
        if value is not None:
            raise ConfigError(
                f"{name} has no use here: {instead}",
                found=f"--{name} {value}",
                expected="options of one kind of value",
                fix=f"leave out --{name}, or {fix}",
            )


@dataclass(frozen=True, eq=False)
class _Sets:
    """Sets of images from the same noise, one of each model, of which the property alone is kept."""

    trainer: StageTrainer
    data: GroupDataModule
    full: FullModel
    of: SetProperty
    models: list[Callable[[], DiffusionModel]]
    labels: Tensor | None
    num: int
    steps: int
    batch_size: int
    seed: int

    def values(self, folder: Path) -> Tensor:
        """``[models, images]``; all processes call this together.

        Args:
            folder: Where finished batches are kept until the last one is done, named after what they are of.

        Raises:
            StoreError: They are batches of another size.
        """
        batches = torch.arange(self.num).split(self.batch_size)
        parts = {
            folder / f"{number}-{int(rows[0])}.safetensors": (number, rows)
            for number in range(len(self.models))
            for rows in batches
        }
        ranks = Ranks.of(self.trainer)
        ranks.on_rank_zero(partial(begin, folder, {"batch_size": self.batch_size}))
        mine = dict(list(parts.items())[ranks.rank :: ranks.count])
        left = {part: work for part, work in mine.items() if not intact(part, "it is measured again")}
        self._say_cost([rows for part, (_, rows) in parts.items() if not part.is_file()])
        total, rest = (sum(len(rows) for _, rows in some.values()) * self.steps for some in (mine, left))
        with bar_of(self.trainer, "property", "evaluations", total, total - rest) as bar:
            for part, (number, rows) in left.items():
                write_tensors(part, {"values": self._measured(number, rows, bar)})
        ranks.barrier()
        found = torch.cat([read_tensors(part, "run guda property again")["values"] for part in parts])
        ranks.barrier()  # before the first process removes them
        return found.view(len(self.models), self.num)

    def _say_cost(self, left: list[Tensor]) -> None:
        images, device = sum(map(len, left)), self.trainer.strategy.root_device
        each = evaluation_seconds(self.models[-1](), self.data, self.batch_size, device)
        say_cost(
            f"property: {len(self.models)} sets of {self.num} images x {self.steps} steps, "
            f"{images} images left",
            each * images * self.steps / self.trainer.world_size,
        )

    def _measured(self, number: int, rows: Tensor, bar: Bar) -> Tensor:
        model, device = self.models[number](), self.trainer.strategy.root_device
        model.denoiser.to(device)
        samples = sample(
            model,
            self.full.scheduler,
            self.data.input_shape,
            rows.tolist(),
            seed=self.seed,
            steps=self.steps,
            labels=None if self.labels is None else self.labels[rows],
            device=device,
            on_step=partial(bar.update, len(rows)),
        )
        return self.of.measured(self.data.pictures(samples))
