"""``open_run``: a run folder in Python, for notebooks and apps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningArgumentParser

from guda_lightning import compat
from guda_lightning.attribution import AttributionContext, CounterfactualAttributor
from guda_lightning.attribution.elbo import FittedELBOAttributor
from guda_lightning.counterfactuals import RETRAIN, CounterfactualStore
from guda_lightning.data import GroupDataModule
from guda_lightning.data.given_queries import Given, given_queries
from guda_lightning.diffusion import FullModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.errors import StoreError
from guda_lightning.makers.layout import Layout
from guda_lightning.posteriors import GUIDANCE, PosteriorStore
from guda_lightning.progress_bar import progress_bar
from guda_lightning.report.run import newest_table, report_run
from guda_lightning.scores import ScoreTable, Scoring
from guda_lightning.scores.kinds import Likelihood
from guda_lightning.scores.stored import scoring_of
from guda_lightning.stages.base import StageTrainer, opened_full
from guda_lightning.stages.choices import chosen_groups
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.paths import refuse_no_run, user_path
from guda_lightning.storage.runs import RunFolder


def open_run(folder: str | Path, data: GroupDataModule | None = None) -> Run:
    """Open the run folder of a full model that ``guda fit`` trained; reads nothing but its record yet.

    Args:
        folder: The run folder; ``~`` and environment variables are written out.
        data: The training data; left out, they are built from the configuration that RUN/full/record.json
            keeps, whose relative paths are those of the folder that Python runs in.

    Raises:
        StoreError: There is no such folder, or no finished full model of ``guda fit`` in it.
    """
    run = RunFolder(user_path(folder))
    refuse_no_run(run.root.absolute())  # a notebook seldom runs in the folder that its reader has in mind
    record = FullRecord.of_fit(run)
    record.refuse_unfinished(run.full)
    return Run(run, record, data)


@dataclass(frozen=True, eq=False)
class Configured:
    """A run folder whose full model and data a configuration names, wherever the model lies.

    Attributes:
        folder: Where everything lies.
        data: The training data with their groups.
        full: The full model, on the CPU.
    """

    folder: RunFolder
    data: GroupDataModule
    full: FullModel


def configured_run(
    trainer: StageTrainer, model: LightningModule, datamodule: GroupDataModule, full: Path | None = None
) -> Configured:
    """Open a run folder by its configuration, as stages do.

    Args:
        trainer: The trainer of the run.
        model: The full model's module.
        datamodule: The training data with its groups.
        full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.

    Raises:
        GudaError: There is no full model, or it was trained on other data.
    """
    return Configured(trainer.run_folder, datamodule, trainer.open_full(full, model, datamodule))


@dataclass(frozen=True, eq=False)
class Run:
    """A run folder: its models, data and tables, each read when it is first asked for and then kept.

    What commands change afterwards is seen by a run that is opened anew; tables are always read anew.

    Attributes:
        folder: Where everything lies.
        record: How the full model was trained.
    """

    folder: RunFolder
    record: FullRecord = field(repr=False)
    _data: GroupDataModule | None = field(default=None, repr=False)
    _scorers: dict[tuple[str, tuple[str, ...], Scoring], FittedELBOAttributor] = field(
        default_factory=dict, repr=False
    )

    @cached_property
    def data(self) -> GroupDataModule:
        """The training data with their groups, as the full model was trained on.

        Raises:
            StoreError: They are other data, or the configuration cannot be built here.
            DataError: They cannot be read.
        """
        data = self._data or self._built("data", LightningDataModule)
        if not isinstance(data, GroupDataModule):
            raise StoreError(
                f"the data of {self.folder.full} have no groups",
                found=f"a {type(data).__name__} in its record",
                expected="a GroupDataModule",
                fix="pass data=GroupDataModule(...) with the groups",
            )
        if self.record.input_shape is None:
            data.keep_size()
        else:
            data.take_size(self.record.input_shape[-2:])
        self.record.refuse_other_data(self.folder.full, data.identity)
        return data

    @cached_property
    def full(self) -> FullModel:
        """The full model, on the CPU.

        Raises:
            StoreError: It is damaged, or the configuration cannot be built here.
        """
        module = self._built("model", LightningModule)
        return opened_full(self.folder, Layout(**self.record.layout or {}), module, self.data)

    def untrained(self, seed: int | None = None) -> dict[str, torch.Tensor]:
        """The weights that the training of the full model began with, or one like it with another seed.

        Args:
            seed: The seed; that of the full model if left out.

        Raises:
            StoreError: The weights to start from are gone, or the configuration cannot be built here.
        """
        start = self.record.config["trainer"].get("start")
        layout = Layout(**self.record.layout or {}, start=None if start is None else user_path(start))
        module = self._built("model", LightningModule, self.record.seed if seed is None else seed)
        denoiser = layout.initialize(module).model.denoiser
        return {name: weight.detach() for name, weight in denoiser.state_dict().items()}

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the score tables, the oldest first."""
        paths = sorted(self.folder.scores.glob("*.parquet"), key=lambda path: path.stat().st_mtime)
        return tuple(path.stem for path in paths)

    def table(self, name: str | None = None) -> ScoreTable:
        """Read a score table.

        Args:
            name: One of ``tables``; left out, the newest of a method, or else of the oracle.

        Raises:
            StoreError: There is none of that name, or it is damaged.
        """
        if name is None:
            return ScoreTable.load(newest_table(self.folder))
        if name not in self.tables:
            raise StoreError(
                f"{self.folder.root} has no score table '{name}'",
                found=", ".join(self.tables) or f"no .parquet file in {self.folder.scores}",
                expected="the name of a table",
                fix="choose one of those found, or run guda attribute",
            )
        return ScoreTable.load(self.folder.scores / f"{name}.parquet")

    def attribute(
        self,
        queries: Given,
        by: str | None = None,
        groups: Sequence[str] | str | None = None,
        scoring: Scoring | None = None,
        resize: bool = False,
    ) -> ScoreTable:
        """Score images against every group, on the GPU where there is one; nothing is written.

        The scores are those of ``guda attribute`` for the same images. A model that takes class labels or
        prompts needs them: a folder with a ``metadata.jsonl``, or ``Queries``.

        Args:
            queries: A Pillow image, the path of an image or a folder, an array or tensor
                ``[channels, height, width]`` or ``[queries, channels, height, width]`` (uint8, or floating
                point in [-1, 1]), a list of those with one image each, or ``Queries``.
            by: What scores: the kind of a posterior, such as ``guidance``, or the operator of the
                counterfactuals of RUN/store, such as ``guided``. Left out, the posterior that the run has,
                else its counterfactuals.
            groups: Names of the groups to score, such as ``"3,7"`` or ``["3", "7"]``; ``3+7`` removes two
                together. Left out, all groups.
            scoring: Timesteps, draws and seed. Left out, those of the table that ``table`` gives, so that
                scores can be compared with its own, or `Scoring` where it has none.
            resize: Whether to make pictures of another size fit; floating-point arrays must fit.

        Returns:
            ``Q × groups`` rows for each weighting.

        Raises:
            QueryError: The images cannot be read or do not fit the model.
            StoreError: The run has no posterior and no counterfactuals, or several of them and none is named,
                or they were made from something else.
            GroupError: A group does not exist.
        """
        given = given_queries(queries, self.data.image_shape, resize=resize)
        chosen = tuple(chosen_groups(self.data.grouping, groups))
        scorer = self._scorer(by or self._method(), chosen, scoring or self._scoring())
        with self.data.forgetting_prompts():
            asked = self.data.as_queries(given, self.full.model.conditional)
            with progress_bar("attribute", "evaluations", scorer.evaluations(asked), delay=2) as bar:
                execution = replace(scorer.context.execution, on_evaluations=bar.update)
                context = replace(scorer.context, execution=execution)
                return replace(scorer, context=context).score(asked)

    def page(self) -> Path:
        """Write the page of the newest table, as ``guda report`` does; returns RUN/report/index.html."""
        return report_run(self.folder.root)

    def _scorer(self, by: str, groups: tuple[str, ...], scoring: Scoring) -> FittedELBOAttributor:
        """What scores, read once."""
        key = (by, groups, scoring)
        if key not in self._scorers:
            device = "cuda" if torch.cuda.is_available() else "cpu"
            context = AttributionContext(
                self.full, self.data, store=self.folder.store, execution=Execution(device)
            )
            attributor = CounterfactualAttributor(None, by, scoring, groups=groups)
            self._scorers[key] = attributor.fit(context)
        return self._scorers[key]

    def _scoring(self) -> Scoring:
        """How the table that the page shows was scored."""
        record = ScoreTable.load_record(newest_table(self.folder)) if self.tables else None
        if record is None or record.scoring is None or not isinstance(record.details, Likelihood):
            return Scoring()
        return scoring_of(record.scoring)

    def _method(self) -> str:
        """What scores unless the user says so.

        Raises:
            StoreError: There is nothing, or nothing that goes before the rest.
        """
        store = self.folder.store
        posteriors, networks = PosteriorStore(store).methods(), CounterfactualStore(store).operators()
        if GUIDANCE in posteriors:
            return GUIDANCE
        found = posteriors or [name for name in networks if name != RETRAIN] or networks
        if len(found) == 1:
            return found[0]
        raise StoreError(
            f"{store} holds counterfactuals of several kinds"
            if found
            else f"{self.folder.root} has nothing to score with yet",
            found=", ".join(found) or "no posterior and no counterfactuals",
            expected="one of them" if found else "the posterior of its groups",
            fix=f"name one, such as by='{found[0]}'"
            if found
            else "run guda guide with the configuration of this run",
        )

    def _built(self, section: str, base: type, seed: int | None = None) -> Any:
        """What a section of the configuration that RUN/full keeps names; no random number is drawn for it.

        With a seed, weights are those that its training began with.

        Raises:
            StoreError: Its class or an argument does not exist here.
        """
        parser = LightningArgumentParser(exit_on_error=False)
        parser.add_lightning_class_args(base, section, subclass_mode=True)
        try:
            config = parser.parse_object({section: self.record.config[section]})
        except ArgumentError as error:
            raise StoreError(
                f"the {section} of {self.folder.full} cannot be built here",
                found=" ".join(str(error).split()),
                expected=f"the class that the record names in {section}, and its arguments",
                fix="start Python where its module is found, or use the versions that the record lists",
            ) from error
        with torch.random.fork_rng(devices=[]):  # modules are built on the CPU
            if seed is not None:
                torch.default_generator.manual_seed(seed)
            with compat.no_deprecations():
                return parser.instantiate_classes(config)[section]
