"""``guda placebo``: scores of random groups, and which queries can be attributed at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable

from guda_lightning.attribution import Attributor
from guda_lightning.data import GroupDataModule, load_queries, near_duplicates
from guda_lightning.diffusion.adapters import Lora
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.evaluation import refuse_few
from guda_lightning.evaluation.placebo_test import placebo_frame, placebo_tests
from guda_lightning.makers.classifier_trainer import Guiding, guiding_hparams
from guda_lightning.makers.costs import bar_of, say
from guda_lightning.makers.unlearner import Unlearning, saves_memory
from guda_lightning.posteriors import ClassifierPlan
from guda_lightning.report.placebo_section import NAMED, placebo_lines, write_parquet
from guda_lightning.report.wandb import closing_runs, log_placebo, stage_loggers
from guda_lightning.scores import ScoreTable, Scoring
from guda_lightning.stages.attribute import AttributeStage
from guda_lightning.stages.choices import (
    at_least_one,
    chosen_groups,
    refuse_two_methods,
    table_names,
)
from guda_lightning.stages.chunks import is_complete
from guda_lightning.stages.guide import GuideStage
from guda_lightning.stages.records import begin
from guda_lightning.stages.repeated import (
    Repeated,
    RepeatedAttributor,
    RepeatedGuidance,
    RepeatedUnlearning,
)
from guda_lightning.stages.unlearn import UnlearnStage
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Weighting
from guda_lightning.unlearning import Objective, ReTrack
from guda_lightning.unlearning.hparams import unlearning_hparams
from guda_lightning.unlearning.module import default_optimizer


class PlaceboStage(UnlearnStage, GuideStage, AttributeStage):
    """Scores queries against groups dealt at random."""

    def placebo(
        self,
        model: LightningModule,
        datamodule: GroupDataModule,
        partitions: int = 99,
        attributor: Attributor | None = None,
        objective: Objective | None = None,
        classifier: ClassifierPlan | None = None,
        steps: int = 60,
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        scoring: Scoring = Scoring(),  # noqa: B008  (frozen)
        weighting: Weighting = "elbo",
        lora: Lora | None = None,
        level: float = 0.05,
        seed: int = 0,
        queries: Path | None = None,
        resize: bool = False,
        full: Path | None = None,
        name: str | None = None,
    ) -> None:
        """Test which queries any group influences more than random groups of the same sizes do.

        The method is repeated on random partitions of the training data, each made, scored and thrown away;
        what it says about the real groups must have been scored before, with the same options.

        Args:
            model: The full model's module.
            datamodule: The training data with its groups.
            partitions: Random partitions, at least 99.
            attributor: The method, such as PixelSimilarity; left out, counterfactuals.
            objective: What unlearning minimises; ReTrack with its defaults if left out.
            classifier: That of guidance, as it was given to ``guda guide``; left out, unlearning.
            steps: Optimizer steps per group.
            optimizer: Builds the optimizer.
            lr_scheduler: Builds a learning-rate schedule that advances every step.
            scoring: Timesteps, draws, seed, batch size and precision.
            weighting: The weighting that is printed; files and page hold both.
            lora: The low-rank adapter that unlearning trains; left out, all weights.
            level: Share of false discoveries to allow among the queries called attributable.
            seed: Seed of unlearning or of the classifier, of the scored table.
            queries: An image or a folder of images; RUN/queries if left out.
            resize: Whether to resize queries of another size than the training images.
            full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.
            name: Of the score table, as it was given to ``guda attribute``.
        """
        at_least_one("steps", steps)
        refuse_few(partitions, level)
        refuse_two_methods(attributor, objective, classifier)
        if self.world_size > 1:
            raise ConfigError(
                "guda placebo works in one process",
                found=f"{self.world_size} processes",
                expected="one: partitions are made, scored and thrown away one after the other",
                fix="pass --trainer.devices 1 --trainer.num_nodes 1",
            )
        run, source = self.run_folder, self._open_full(full, model, datamodule)
        asked = load_queries(self._query_path(queries), datamodule.image_shape, resize=resize)
        conditional = self._is_conditional(model)
        asked = datamodule.as_queries(asked, conditional)
        where = (scoring, run.store, self.strategy.root_device)
        method: Repeated
        if attributor is not None:
            method = RepeatedAttributor(attributor, source)
        elif classifier is not None:
            hparams = guiding_hparams(classifier, datamodule, self)
            guiding = Guiding(source, classifier, conditional, seed, hparams)
            method = RepeatedGuidance(guiding, self._train_classifier, *where)
        else:
            objective = objective or ReTrack()
            hparams = unlearning_hparams(objective, optimizer, lr_scheduler, steps, datamodule, self, lora)
            work = Unlearning(
                source,
                objective,
                optimizer,
                lr_scheduler,
                conditional,
                seed,
                hparams,
                lora,
                saves_memory(model),
            )
            method = RepeatedUnlearning(work, self._unlearn_groups, *where)
        real = method.real
        real.fit(source, datamodule, datamodule.grouping)
        groups = chosen_groups(datamodule.grouping, None)
        if list(real.fitted_groups) != groups:
            raise ConfigError(
                "random groups stand for all real ones",
                found=f"an attributor of {len(real.fitted_groups)} of {len(groups)} groups",
                expected="all groups that have samples",
                fix="leave out the attributor's groups",
            )
        path = run.table(real.method, real.seed, *table_names(queries, name))
        if not is_complete(path, real.record(asked)):
            raise StoreError(
                f"the real groups have not been scored by {real.method} with these options",
                found=f"another table at {path}" if ScoreTable.exists(path) else f"no table {path}",
                expected="the score table that random groups are compared with",
                fix="run guda attribute with the same queries, seed, name and scoring first",
            )
        observed = ScoreTable.load(path)
        folder, result = run.placebo / path.stem, run.placebo / path.name
        identity = {"of": sha256_json(observed.record), "partitions": partitions}
        complete = ScoreTable.exists(result) and identity.items() <= ScoreTable.load(result).record.items()
        if complete:
            random = ScoreTable.load(result)
            say(f"placebo: {result} is complete, skipped")
        else:
            begin(folder, {"of": identity["of"]})
            left = sum(not ScoreTable.exists(folder / f"{number}.parquet") for number in range(partitions))
            if left:
                method.say_cost(datamodule, asked, left)
            parts = []
            with bar_of(self, "placebo", "partitions", partitions, partitions - left) as bar:
                for number in range(partitions):
                    part = folder / f"{number}.parquet"
                    if not ScoreTable.exists(part):
                        view = datamodule.regrouped(datamodule.grouping.permuted(number, f"placebo {number}"))
                        method.score(view, asked, folder).save(part)
                        bar.update()
                    parts.append(ScoreTable.load(part))
            random = ScoreTable(ScoreTable.concat(parts).table, {**identity, **_duplicates(datamodule)})
        known = random.record.get("level") == level
        random = ScoreTable(random.table, {**random.record, "level": level})
        tests = placebo_tests(observed, random)
        frame = placebo_frame(observed, tests)
        if not known:
            with closing_runs():
                loggers = stage_loggers(self.loggers, run.name, "placebo", f"placebo {path.stem}")
                log_placebo(loggers, frame, random.record)
            random.save(result)
        if not complete:
            shutil.rmtree(folder)
        # In a folder of its own: the table of --queries RUN/queries is itself called METHOD-SEED-queries.
        write_parquet(run.placebo / "queries" / path.name, frame)
        shown = {name: test for name, test in tests.items() if name == weighting or weighting not in tests}
        say("\n".join(f"placebo {path.stem}, {line}" for line in placebo_lines(observed, random, shown)))


def _duplicates(datamodule: GroupDataModule) -> dict[str, Any]:
    """Training images of different groups that are nearly the same, for the record."""
    pairs = near_duplicates(datamodule.small_images(), datamodule.grouping)
    named = [{"first": datamodule.ids[p.first], "second": datamodule.ids[p.second]} for p in pairs[:NAMED]]
    return {"near_duplicate_pairs": len(pairs), "near_duplicates": named}
