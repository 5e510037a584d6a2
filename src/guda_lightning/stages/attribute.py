"""``guda attribute``: scores of queries."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from safetensors.torch import save as to_safetensors
from tqdm import tqdm

from guda_lightning.attribution import Attributor, elbo_attributor
from guda_lightning.data import GroupDataModule, QueryFolder, save_queries
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.distributed.strategies import start_processes
from guda_lightning.makers.costs import evaluation_seconds, is_timed, quiet, say, say_cost
from guda_lightning.report.summary import summary_of_parts
from guda_lightning.report.wandb import closing_runs, log_attribution, stage_loggers
from guda_lightning.scores import ScoreTable, Scoring
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import (
    ATTRIBUTOR,
    chosen_groups,
    chosen_seeds,
    refuse_choices,
    table_names,
)
from guda_lightning.stages.chunks import AskedQueries, ChunkedTable, is_complete
from guda_lightning.storage.files import write_atomic
from guda_lightning.types import Weighting


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
    ) -> list[Path]:
        """Score queries against every group's counterfactual and write RUN/scores.

        Any number of queries: they are read and scored in chunks of at most 1024, fewer where pictures are
        large or groups and timesteps many, so that a chunk takes at most about 1 GiB; the list of all takes
        less than 1 kB a query. What is scored is written before the next chunk begins; run again, the stage
        goes on there. Beyond one chunk, page and W&B show the first one; the table has them all.

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
        source, conditional = self._open_full(full, model, datamodule), self._is_conditional(model)
        folder = QueryFolder(self._query_path(queries), datamodule.image_shape, resize=resize)
        asked = AskedQueries(folder, datamodule, conditional)
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
            ranks, tables = Ranks.of(self), []
            for one in fitted:
                one.share_with(ranks)
                path = run.table(one.method, one.seed, *table_names(queries, name))
                table = ranks.broadcast(ChunkedTable.of(one, asked, run.parts_of(path)))
                if ranks.broadcast(is_complete(path, table.record)):
                    say(self._summary(path, weighting))
                    say(f"attribute: {path} is complete, skipped")
                else:
                    bar.reset(total=table.evaluations)
                    done = len(asked) - sum(len(chunk.rows) for chunk in table.left)
                    if done:
                        say(f"attribute: {done} of {len(asked)} queries are scored already")
                    if table.evaluations:
                        told = conditional or datamodule.prompts is not None
                        where = (scoring.batch_size, self.strategy.root_device, told)
                        each = (
                            evaluation_seconds(source.model, datamodule, *where) if is_timed(self) else None
                        )
                        say_cost(
                            f"attribute: {len(asked) - done} queries, {len(one.fitted_groups)} groups, "
                            f"{table.evaluations} network evaluations",
                            None if each is None else each * table.evaluations / self.world_size,
                        )
                    notes = self._score_left(table, one, asked, ranks)
                    ranks.on_rank_zero(partial(self._write_table, path, table, asked, weighting))
                    for note in notes:
                        say(note)
                    say(f"attribute: {path} written")
                if self.is_global_zero:
                    shutil.rmtree(run.parts_of(path), ignore_errors=True)
                tables.append(path)
        return tables

    def _score_left(
        self, table: ChunkedTable, attributor: Attributor, asked: AskedQueries, ranks: Ranks
    ) -> list[str]:
        """Score the chunks that are left and write each as it is done; what the user should know of them."""
        notes = []
        for chunk in table.left:
            scores = chunk.score(attributor, asked)
            ranks.on_rank_zero(partial(scores.save, chunk.part))
            which = f"{chunk.name}, " if table.several else ""
            notes += [f"{which}{note}" for note in attributor.notes()]
        return notes

    def _write_table(
        self, path: Path, table: ChunkedTable, asked: AskedQueries, weighting: Weighting
    ) -> None:
        """Write a score table with all that its page needs, and log it; of a long one the first chunk."""
        run, first = self.run_folder, table.chunks[0]
        queries = asked.read(first.rows)
        with closing_runs():
            loggers = stage_loggers(self.loggers, run.name, "attribute", f"attribute {path.stem}")
            for logger in loggers:
                logger.log_hyperparams(dict(table.record))
            shown = _weighted(ScoreTable.load(first.part), weighting)
            log_attribution(loggers, shown, queries, (), "attribution")
        save_queries(run.queries_of(path), queries, {"of": path.name})
        write_atomic(run.examples, to_safetensors(asked.data.examples()))
        table.save(path)
        say(self._summary(path, weighting))
        if table.several:
            say(f"attribute: page and W&B show the first {len(queries)} of {len(asked)} queries")

    def _summary(self, path: Path, weighting: Weighting) -> str:
        return summary_of_parts(_weighted(part, weighting) for part in ScoreTable.load_parts(path))


def _weighted(table: ScoreTable, weighting: Weighting) -> ScoreTable:
    """What summaries show of a table: one weighting, if it has it."""
    return table.select(weighting=weighting) if weighting in table.weightings else table
