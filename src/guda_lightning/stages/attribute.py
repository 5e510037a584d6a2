"""``guda attribute``: scores of queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from safetensors.torch import save as to_safetensors
from tqdm import tqdm

from guda_lightning.attribution import Attributor, Scoring, elbo_attributor
from guda_lightning.callbacks.wandb import closing_runs, log_attribution, stage_loggers
from guda_lightning.data import GroupDataModule, load_queries, save_queries
from guda_lightning.files import write_atomic
from guda_lightning.ranks import Ranks
from guda_lightning.report import summary
from guda_lightning.scores import ScoreTable
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import (
    ATTRIBUTOR,
    chosen_groups,
    chosen_seeds,
    refuse_choices,
    table_names,
)
from guda_lightning.stages.costs import evaluation_seconds, quiet, say, say_cost
from guda_lightning.stages.records import read_back
from guda_lightning.strategies import start_processes
from guda_lightning.types import Queries, Weighting


class AttributeStage(StageTrainer):
    """Scores queries against groups."""

    def attribute(
        self,
        model: LightningModule,
        datamodule: GroupDataModule,
        queries: Path | None = None,
        operator: str | None = None,
        scoring: Scoring = Scoring(),  # noqa: B008  (frozen)
        weighting: Weighting = "elbo",
        groups: list[str] | str | None = None,
        seed: list[int] | int | str | None = None,
        hparams: str | None = None,
        resize: bool = False,
        full: Path | None = None,
        attributor: Attributor | None = None,
        name: str | None = None,
    ) -> None:
        """Score queries against every group's counterfactual and write RUN/scores.

        Args:
            model: The full model's module.
            datamodule: The training data with its groups.
            queries: An image or a folder of images; RUN/queries if left out.
            operator: Which counterfactuals of RUN/store, by their objective's name, such as ``retrack``, or
                ``guidance`` for its classifier; may be left out where the store holds those of one objective.
            scoring: Timesteps, draws, seed, batch size and precision.
            weighting: The weighting that the printed summary shows; the file holds both.
            groups: Names of the groups to score, such as ``3,7`` or, removed together, ``3+7``; all groups if
                left out.
            seed: Seeds that the counterfactuals were made with, such as ``0,1,2``: one table each;
                0 if left out.
            hparams: Start of the hash of their hyper-parameters, where the store holds several kinds.
            resize: Whether to resize queries of another size than the training images.
            full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.
            attributor: Another attributor than the counterfactuals of RUN/store, such as PixelSimilarity.
            name: Added to the names of the tables, to keep what would replace others: RUN/scores holds one
                table per method, seed and name.
        """
        run, seeds = self.run_folder, chosen_seeds(seed or 0, "--seed")
        source = self._open_full(full, model, datamodule)
        asked = load_queries(self._query_path(queries), datamodule.image_shape, resize=resize)
        asked = datamodule.as_queries(asked, self._is_conditional(model))
        with tqdm(desc="attribute", unit="evaluation", leave=False, disable=quiet(self)) as bar:
            options: dict[str, Any] = {
                "scoring": scoring,
                "hparams": hparams,
                "groups": chosen_groups(datamodule.grouping, groups),
                "cache": run.errors,
            }
            attributors: list[Attributor] = [
                elbo_attributor(run.store, operator, seed=one, **options) for one in seeds
            ]
            if attributor is not None:
                refuse_choices(*ATTRIBUTOR, operator=operator, hparams=hparams, groups=groups, seed=seed)
                attributors = [attributor]
            for one_of in attributors:
                one_of.work_on(self.strategy.root_device, lambda count: bar.update(count * self.world_size))
            fitted = [one.fit(source, datamodule, datamodule.grouping) for one in attributors]
            start_processes(self)
            ranks = Ranks.of(self)
            for one in fitted:
                one.share_with(ranks)
                self.table_path = path = run.table(one.method, one.seed, *table_names(queries, name))
                table = self._complete_table(path, one, asked)
                if ranks.agreed(table is None):
                    evaluations = one.evaluations(asked)
                    bar.reset(total=evaluations)
                    if evaluations:
                        per_evaluation = evaluation_seconds(
                            *(source.model, datamodule, scoring.batch_size),
                            *(self.strategy.root_device, asked.labels is not None),
                        )
                        say_cost(
                            f"attribute: {len(asked)} queries, {len(one.fitted_groups)} groups, "
                            f"{evaluations} network evaluations",
                            per_evaluation * evaluations,
                        )
                    table = one.score(asked)
                    if self.is_global_zero:
                        self._write_table(path, table, asked, datamodule, weighting)
                    ranks.meet()
                    for note in one.notes():
                        say(note)
                    say(f"attribute: {path} written")
                elif table is not None:
                    say(summary(self._shown(table, weighting)))
                    say(f"attribute: {path} is complete, skipped")

    def _complete_table(self, path: Path, attributor: Attributor, asked: Queries) -> ScoreTable | None:
        """The table at a path, if it is the one that would be made now."""
        if not ScoreTable.exists(path):
            return None
        table = ScoreTable.load(path)
        return table if table.record == read_back(attributor.record(asked)) else None

    def _shown(self, table: ScoreTable, weighting: Weighting) -> ScoreTable:
        """What summaries show of a table: one weighting, if it has it."""
        return table.select(weighting=weighting) if weighting in table.weightings else table

    def _write_table(
        self, path: Path, table: ScoreTable, asked: Queries, datamodule: GroupDataModule, weighting: Weighting
    ) -> None:
        """Write a score table with all that its page needs, and log it."""
        run, shown = self.run_folder, self._shown(table, weighting)
        with closing_runs():
            loggers = stage_loggers(self.loggers, run.name, "attribute", f"attribute {path.stem}")
            for logger in loggers:
                logger.log_hyperparams(dict(table.record))
            log_attribution(loggers, shown, asked, (), "attribution")
        save_queries(run.queries_of(path), asked, {"of": path.name})
        write_atomic(run.examples, to_safetensors(datamodule.examples()))
        table.save(path)
        say(summary(shown))
