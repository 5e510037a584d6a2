"""``GudaTrainer``: a Lightning trainer with the stages of an attribution."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from tqdm import tqdm

from guda_lightning import stages
from guda_lightning.attribution import Attributor, CounterfactualAttributor, Scoring
from guda_lightning.callbacks import ELBOAttributionCallback, ResumeCheckpoint
from guda_lightning.callbacks.wandb import closing_runs, log_attribution, stage_loggers
from guda_lightning.counterfactuals import (
    RETRAIN,
    CounterfactualKey,
    CounterfactualRecord,
    CounterfactualStore,
    versions,
)
from guda_lightning.data import GroupDataModule, load_queries, save_queries
from guda_lightning.diffusion import (
    DiffusionModule,
    FullModel,
    load_weights,
    open_full,
    refuse_nonfinite,
    sample,
    sampler,
    save_full,
)
from guda_lightning.diffusion.cost import BACKWARD_FACTOR, TrainingCost
from guda_lightning.errors import QueryError
from guda_lightning.files import atomic_folder, sha256_json, write_atomic
from guda_lightning.report import summary
from guda_lightning.runs import RunFolder
from guda_lightning.scores import ScoreTable
from guda_lightning.types import Queries, Weighting
from guda_lightning.unlearning import Objective, ReTrack, UnlearnModule
from guda_lightning.unlearning.hparams import training_hparams, unlearning_hparams
from guda_lightning.unlearning.module import default_optimizer

VALIDATIONS = 4  # while unlearning a group: enough to see its influence grow


class GudaTrainer(Trainer):
    """A stock ``Trainer`` plus one method for each stage; ``default_root_dir`` is the run folder.

    Every stage that trains works on a fresh trainer with fresh copies of the callbacks and loggers, because a
    second ``fit`` on a used Trainer silently does nothing.

    Args:
        denoiser: Where a LightningModule that is no ``DiffusionModule`` has its network, by dotted path.
        scheduler: Where it has its noise scheduler, by dotted path.
        conditional: Whether its network takes class labels; a ``DiffusionModule`` says so itself.
        resume_every_n_epochs: How often a training writes the checkpoint to go on from when interrupted.
        start: Weights that ``fit`` and ``retrain`` begin with, a diffusers folder or a Lightning checkpoint:
            the pretrained model that is fine-tuned. Left out, they begin with those the module is built with.
        **kwargs: All arguments of ``lightning.Trainer``.
    """

    def __init__(
        self,
        denoiser: str | None = None,
        scheduler: str | None = None,
        conditional: bool = False,
        resume_every_n_epochs: int = 1,
        start: Path | None = None,
        **kwargs: Any,
    ) -> None:
        self._paths = {"denoiser": denoiser, "scheduler": scheduler}
        self._conditional, self._resume_every_n_epochs = conditional, resume_every_n_epochs
        self._start = start
        self.made: CounterfactualKey | None = None  # by the last `unlearn`, of one of its groups
        self.table_path: Path | None = None  # of the last `attribute`
        # Before the trainer uses them: callbacks have state. This trainer's own loggers are never used.
        self._recipe = {
            name: value if name == "logger" else copy.deepcopy(value) for name, value in kwargs.items()
        }
        super().__init__(**kwargs)

    @property
    def run_folder(self) -> RunFolder:
        """Where everything of this run lies."""
        return RunFolder(Path(self.default_root_dir))

    def fit_full(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Train the full model and save it as a diffusers folder; goes on where it was interrupted.

        Args:
            model: A DiffusionModule, or any LightningModule whose parts this trainer was told.
            datamodule: The training data; may be left out if the module has its own loaders.
            config: What the model is made from; a complete or begun training with another one is refused.

        Raises:
            StoreError: The run folder holds a full model of another configuration.
        """
        run, config = self.run_folder, dict(config or {})
        if (run.full / stages.RECORD).is_file():
            stages.refuse_other_config(run.full / stages.RECORD, config)
            stages.say(f"fit: {run.full} is complete, skipped")
            return
        full = self._at_start(model)  # a wrong path is refused before training
        if isinstance(datamodule, GroupDataModule):
            datamodule.setup()  # and so is bad data, before anything is written
        with closing_runs():
            cost = TrainingCost(*stages.networks(model, full))
            trainer, checkpoint = self._fresh("fit", "full", run.checkpoints("fit"), cost)
            if isinstance(datamodule, GroupDataModule):
                conditional = self._is_conditional(model)
                stages.say_fit_cost("fit", trainer, model, full, datamodule, conditional)
            stages.begin(checkpoint.folder, config)
            stages.log_record(trainer, {"config": config})
            stages.fit(trainer, model, datamodule, checkpoint)
            full = FullModel.of(model, **self._paths)
            refuse_nonfinite(full, str(run.root))
            record = {
                "complete": True,
                "full_hash": full.hash,
                "schedule_hash": full.model.schedule.hash,
                "config": config,
                "steps": trainer.global_step,
                "seconds": cost.seconds,
                "network_evaluations": cost.evaluations,
                "versions": versions(),
            }
            if isinstance(datamodule, GroupDataModule):
                record |= {
                    "grouping_hash": datamodule.grouping.hash,
                    "data_hash": stages.data_hash(datamodule),
                }
            stages.log_record(trainer, record)
        if self.is_global_zero:
            with atomic_folder(run.full) as folder:
                save_full(folder, full)
                stages.write_record(folder, record)
            checkpoint.discard()
        trainer.strategy.barrier()  # no rank reads what rank zero still writes
        stages.say(f"fit: {run.full} written, {stages.spent(record)}")

    def unlearn(
        self,
        model: LightningModule,
        datamodule: GroupDataModule,
        objective: Objective | None = None,
        steps: int = 60,
        groups: list[str] | str | None = None,
        full: Path | None = None,
        optimizer: OptimizerCallable = default_optimizer,
        lr_scheduler: LRSchedulerCallable | None = None,
        seed: int = 0,
    ) -> None:
        """Make the counterfactual of each group: the full model, made to forget it.

        Args:
            model: The full model's module.
            datamodule: The training data with its groups.
            objective: What unlearning minimises; ReTrack with its defaults if left out.
            steps: Optimizer steps per group.
            groups: Names of the groups to forget, such as ``3,7``, one counterfactual each; all if left out.
            full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.
            optimizer: Builds the optimizer.
            lr_scheduler: Builds a learning-rate schedule that advances every step.
            seed: Seed of the noise and the timesteps.

        Raises:
            GudaError: No full model, an unknown or empty group, or an objective that does not fit.
        """
        objective = objective or ReTrack()
        stages.at_least_one("steps", steps)
        names = stages.chosen_groups(datamodule.grouping, groups)
        for name in names:
            objective.check(len(datamodule.grouping.retain([name])))
        source = self._open_full(full, model, datamodule)
        store = CounterfactualStore(self.run_folder.store)
        hparams = unlearning_hparams(objective, optimizer, lr_scheduler, steps, datamodule, self)
        keys = {
            name: CounterfactualKey(objective.name, (name,), seed, sha256_json(hparams)) for name in names
        }
        self.made = keys[names[0]]
        made_from = stages.made_from(source, datamodule.grouping)
        todo = [name for name in names if not stages.is_stored(store, keys[name], made_from)]
        stages.say_skipped("unlearn", [name for name in names if name not in todo])
        if todo:
            passes = 2 * BACKWARD_FACTOR + (objective.preserve == "distill")
            stages.say_cost(
                f"unlearn: {len(todo)} groups x {steps} steps ({objective.name})",
                stages.step_seconds(
                    source.model, datamodule, passes, self.strategy.root_device, self._is_conditional(model)
                )
                * steps
                * len(todo),
            )
        for position, name in enumerate(todo, start=1):
            module = UnlearnModule(
                source,
                objective,
                (name,),
                optimizer,
                lr_scheduler,
                conditional=self._is_conditional(model),
                seed=seed,
            )
            record = self._unlearn_group(module, datamodule, store, keys[name], hparams, made_from)
            stages.say(f"unlearn: {name} done ({position} of {len(todo)}), {stages.spent(vars(record))}")

    def retrain(
        self,
        build: Callable[[], LightningModule],
        datamodule: GroupDataModule,
        groups: list[str] | str | None = None,
        seeds: list[int] | int | str = 0,
        paired: bool = True,
        full: Path | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        """Train the oracle: the same model from the start, without each group, into the same store.

        Args:
            build: Makes the untrained module; called after the random generators are seeded.
            datamodule: The training data with its groups.
            groups: Names of the groups to leave out, such as ``3,7``, one model each; all if left out.
            seeds: Seeds of initialisation, order, noise and timesteps, such as ``0,1,2``: one model per group
                and seed.
            paired: Whether the models of one seed begin with the same weights, see the samples that they
                share in the same order and draw the same noise; else each group has a seed of its own.
            full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.
            config: What the module is made from; must be what RUN/full was made from.

        Raises:
            GudaError: No full model, or one of another configuration; an unknown or empty group; bad seeds.
        """
        names, chosen = stages.chosen_groups(datamodule.grouping, groups), stages.chosen_seeds(seeds)
        config, record = dict(config or {}), self.run_folder.full / stages.RECORD
        if full is None and record.is_file():
            stages.refuse_other_config(record, config)
        model = build()
        source = self._open_full(full, model, datamodule)
        self._at_start(model)
        hparams = {
            "config": stages.without_seeds(config),
            "paired": paired,
            "start": None if self._start is None else FullModel.of(model, **self._paths).hash,
            "max_steps": self.max_steps,
            "max_epochs": self.max_epochs,
            **training_hparams(datamodule, self),
        }
        store = CounterfactualStore(self.run_folder.store)
        made_from = stages.made_from(source, datamodule.grouping)
        keys = [
            CounterfactualKey(RETRAIN, (name,), seed, sha256_json(hparams))
            for seed in chosen
            for name in names
        ]
        todo = [key for key in keys if not stages.is_stored(store, key, made_from)]
        stages.say_skipped(
            "retrain", [f"{key.groups[0]} (seed {key.seed})" for key in keys if key not in todo]
        )
        for position, key in enumerate(todo, start=1):
            seed = key.seed if paired else stages.own_seed(key)
            seed_everything(seed, workers=True, verbose=False)
            model = build()
            if isinstance(model, DiffusionModule):
                model.seed = seed
            started = self._at_start(model)
            view = datamodule.without(key.groups, seed)
            if position == 1:
                stages.say_fit_cost(
                    "retrain", self, model, started, view, self._is_conditional(model), models=len(todo)
                )
            made = self._retrain_group(model, view, store, key, hparams, made_from)
            stages.say(
                f"retrain: {key.groups[0]} (seed {key.seed}) done ({position} of {len(todo)}), "
                f"{stages.spent(vars(made))}"
            )

    def sample(
        self,
        model: LightningModule,
        datamodule: GroupDataModule,
        num: int = 64,
        steps: int = 100,
        batch_size: int = 64,
        seed: int = 0,
        full: Path | None = None,
    ) -> None:
        """Draw queries from the full model into RUN/queries, one PNG each.

        Args:
            model: The full model's module.
            datamodule: The training data, for the shape of an image.
            num: How many.
            steps: Denoising steps.
            batch_size: Images at a time; changes no image.
            seed: Seed of the images; image i is the same whatever ``num`` is.
            full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.
        """
        for name, value in (("num", num), ("steps", steps), ("batch_size", batch_size)):
            stages.at_least_one(name, value)
        source = self._open_full(full, model, datamodule)
        folder = self.run_folder.queries
        asked = {"full_hash": source.hash, "num": num, "steps": steps, "seed": seed}
        if (folder / stages.RECORD).is_file():
            stages.refuse_other_config(folder / stages.RECORD, asked)
            stages.say(f"sample: {folder} is complete, skipped")
            return
        sampler(source.model, source.scheduler, steps)  # refused before anything is written
        labels = torch.arange(num) % datamodule.num_classes if self._is_conditional(model) else None
        images = self._sampled(source, datamodule, labels, batch_size, asked)
        ids = tuple(f"sample-{index:0{len(str(num - 1))}d}" for index in range(num))
        save_queries(folder, Queries(ids, images, labels), {"config": asked})
        shutil.rmtree(self.run_folder.checkpoints("sample"))  # only now: hours of work lie there
        stages.say(f"sample: {num} images in {folder}")

    def attribute(
        self,
        model: LightningModule,
        datamodule: GroupDataModule,
        queries: Path | None = None,
        operator: str | None = None,
        attributor: Attributor | None = None,
        scoring: Scoring = Scoring(),  # noqa: B008  (frozen)
        weighting: Weighting = "elbo",
        groups: list[str] | str | None = None,
        seed: list[int] | int | str = 0,
        hparams: str | None = None,
        name: str | None = None,
        resize: bool = False,
        full: Path | None = None,
    ) -> None:
        """Score queries against every group's counterfactual and write RUN/scores.

        Args:
            model: The full model's module.
            datamodule: The training data with its groups.
            queries: An image or a folder of images; RUN/queries if left out.
            operator: Which counterfactuals of RUN/store, by their objective's name, such as ``retrack``; may
                be left out where the store holds those of one objective.
            attributor: Another attributor than the counterfactuals of RUN/store, such as PixelSimilarity.
            scoring: Timesteps, draws, seed, batch size and precision.
            weighting: The weighting that the printed summary shows; the file holds both.
            groups: Names of the groups to score, such as ``3,7``; all groups if left out.
            seed: Seeds that the counterfactuals were made with, such as ``0,1,2``: one table each.
            hparams: Start of the hash of their hyper-parameters, where the store holds several kinds.
            name: Added to the names of the tables, to keep what would replace others: RUN/scores holds one
                table per method, seed and name.
            resize: Whether to resize queries of another size than the training images.
            full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.
        """
        run, seeds = self.run_folder, stages.chosen_seeds(seed)
        source = self._open_full(full, model, datamodule)
        asked = load_queries(self._query_path(queries), datamodule.image_shape, resize=resize)
        asked = stages.with_labels(asked, self._is_conditional(model), datamodule.num_classes)
        own = [part for part in (queries and queries.resolve().stem, name) if part]
        with tqdm(desc="attribute", unit="evaluation", leave=False, disable=None) as bar:
            attributors: list[Attributor] = [
                CounterfactualAttributor(
                    run.store,
                    operator,
                    scoring,
                    seed=one,
                    hparams=hparams,
                    groups=stages.chosen_groups(datamodule.grouping, groups),
                    cache=run.errors,
                    device=self.strategy.root_device,
                    on_batch=bar.update,
                )
                for one in seeds
            ]
            if attributor is not None:
                stages.refuse_choices(operator=operator, hparams=hparams, groups=groups)
                attributors = [attributor]
            fitted = [one.fit(source, datamodule, datamodule.grouping) for one in attributors]
            for one in fitted:
                self.table_path = path = run.table(one.method, one.seed, *own)
                table = self._complete_table(path, one, asked)
                if table is None:
                    evaluations = one.evaluations(asked)
                    bar.reset(total=evaluations)
                    if evaluations:
                        per_evaluation = stages.evaluation_seconds(
                            *(source.model, datamodule, scoring.batch_size),
                            *(self.strategy.root_device, asked.labels is not None),
                        )
                        stages.say_cost(
                            f"attribute: {len(asked)} queries x {len(one.fitted_groups) + 1} models, "
                            f"{evaluations} network evaluations",
                            per_evaluation * evaluations,
                        )
                    table = one.score(asked)
                    self._write_table(path, table, asked, datamodule, weighting)
                    stages.say(f"attribute: {path} written")
                else:
                    stages.say(summary(self._shown(table, weighting)))
                    stages.say(f"attribute: {path} is complete, skipped")

    def _complete_table(self, path: Path, attributor: Attributor, asked: Queries) -> ScoreTable | None:
        """The table at a path, if it is the one that would be made now."""
        if not ScoreTable.exists(path):
            return None
        table = ScoreTable.load(path)
        return table if table.record == stages.read_back(attributor.record(asked)) else None

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
        stages.say(summary(shown))

    def _unlearn_group(
        self,
        module: UnlearnModule,
        datamodule: GroupDataModule,
        store: CounterfactualStore,
        key: CounterfactualKey,
        hparams: dict[str, Any],
        made_from: dict[str, str],
    ) -> CounterfactualRecord:
        """Train one counterfactual on a fresh trainer and store it."""
        steps: int = hparams["steps"]
        (name,) = module.groups
        with closing_runs():
            trainer, checkpoint = self._fresh(
                "unlearn",
                name,
                self.run_folder.checkpoints(key.folder_name),
                max_steps=steps,
                max_epochs=-1,
                check_val_every_n_epoch=None,
                val_check_interval=max(1, steps // VALIDATIONS),
                num_sanity_val_steps=0,
                enable_model_summary=False,
            )
            stages.begin(checkpoint.folder, made_from)
            stages.log_record(trainer, {"groups": [name], "hparams": hparams, **made_from})
            stages.fit(trainer, module, datamodule.unlearning([name]), checkpoint)
            curves = [c.history for c in stages.callbacks(trainer) if isinstance(c, ELBOAttributionCallback)]
        record = module.save(store, curves[0] if curves else (), hparams)
        if self.is_global_zero:
            checkpoint.discard()
        trainer.strategy.barrier()  # no rank reads what rank zero still writes
        return record

    def _retrain_group(
        self,
        model: LightningModule,
        view: GroupDataModule,
        store: CounterfactualStore,
        key: CounterfactualKey,
        hparams: dict[str, Any],
        made_from: dict[str, str],
    ) -> CounterfactualRecord:
        """Train one model of the oracle on a fresh trainer and store it."""
        name = f"{key.groups[0]} seed {key.seed}"
        with closing_runs():
            cost = TrainingCost(*stages.networks(model, FullModel.of(model, **self._paths)))
            folder = self.run_folder.checkpoints(key.folder_name)
            trainer, checkpoint = self._fresh("retrain", name, folder, cost)
            stages.begin(checkpoint.folder, made_from)
            stages.log_record(trainer, {"groups": key.groups, "hparams": hparams, **made_from})
            stages.fit(trainer, model, view, checkpoint)
        record = CounterfactualRecord(
            operator=key.operator,
            groups=key.groups,
            seed=key.seed,
            hparams=hparams,
            full_hash=made_from["full_hash"],
            grouping_hash=made_from["grouping_hash"],
            members_hash=view.grouping.members_hash(key.groups),
            schedule_hash=made_from["schedule_hash"],
            history=[],
            versions=versions(),
            seconds=cost.seconds,
            steps=trainer.global_step,
            network_evaluations=cost.evaluations,
        )
        if self.is_global_zero:
            store.save(FullModel.of(model, **self._paths).model.denoiser.state_dict(), record)
            checkpoint.discard()
        trainer.strategy.barrier()  # no rank reads what rank zero still writes
        return record

    def _at_start(self, model: LightningModule) -> FullModel:
        """Give an untrained module the weights that training starts from.

        Raises:
            StoreError: They cannot be read, or do not fit.
        """
        full = FullModel.of(model, **self._paths)
        if self._start is not None:
            stages.refuse_missing_start(self._start)
            weights = open_full(self._start, copy.deepcopy(model), **self._paths).model.denoiser.state_dict()
            for network in stages.networks(model, full):
                load_weights(network, weights, self._start)
        return FullModel.of(model, **self._paths)

    def _sampled(
        self,
        full: FullModel,
        datamodule: GroupDataModule,
        labels: torch.Tensor | None,
        batch_size: int,
        asked: dict[str, Any],
    ) -> torch.Tensor:
        """All samples, in batches that are kept until the last one is done."""
        num, steps, device = asked["num"], asked["steps"], self.strategy.root_device
        unfinished = self.run_folder.checkpoints("sample")
        per_evaluation = stages.evaluation_seconds(
            full.model, datamodule, batch_size, device, labels is not None
        )
        stages.say_cost(f"sample: {num} images x {steps} steps", per_evaluation * num * steps)
        stages.begin(unfinished, {**asked, "batch_size": batch_size})
        full.model.denoiser.to(device)
        images = []
        with tqdm(total=num * steps, desc="sample", unit="evaluation", disable=None) as bar:
            for indices in torch.arange(num).split(batch_size):
                part = unfinished / f"{int(indices[0])}.safetensors"
                if not part.is_file():
                    batch = sample(
                        full.model,
                        full.scheduler,
                        datamodule.image_shape,
                        indices.tolist(),
                        seed=asked["seed"],
                        steps=steps,
                        labels=None if labels is None else labels[indices],
                        device=device,
                        on_step=partial(bar.update, len(indices)),
                    )
                    write_atomic(part, to_safetensors({"images": batch}))
                images.append(load_file(part)["images"])
        return torch.cat(images)

    def _open_full(self, path: Path | None, model: LightningModule, datamodule: GroupDataModule) -> FullModel:
        """The full model of this run, or one that the user brings; it must take images like the data's.

        Raises:
            StoreError: There is none, or it was trained on other data or groups.
        """
        full = open_full(path or self.run_folder.full, model, **self._paths)
        record = self.run_folder.full / stages.RECORD
        refuse_nonfinite(full, str(path or self.run_folder.root))
        if path is None:
            stages.refuse_other_data(record, datamodule)
        return full

    def _is_conditional(self, model: LightningModule) -> bool:
        return model.conditional if isinstance(model, DiffusionModule) else self._conditional

    def _query_path(self, queries: Path | None) -> Path:
        path = queries or self.run_folder.queries
        if queries is None and not path.is_dir():
            raise QueryError(
                "there are no queries",
                found=f"nothing at {path}",
                expected="images to explain",
                fix="run `guda sample` with the same configuration first, or pass --queries FILE|FOLDER",
            )
        return path

    def validate_full(
        self,
        model: LightningModule,
        datamodule: LightningDataModule | None = None,
        ckpt_path: str | None = None,
        verbose: bool = True,
    ) -> None:
        """Validate the full model, with its callbacks.

        Args:
            model: The module that the full model was trained as.
            datamodule: The data to validate on; may be left out if the module has its own loaders.
            ckpt_path: A Lightning checkpoint of the weights; RUN/full if left out.
            verbose: Whether to print the metrics.
        """
        if ckpt_path is None:
            full = open_full(self.run_folder.full, copy.deepcopy(model), **self._paths)
            FullModel.of(model, **self._paths).model.denoiser.load_state_dict(
                full.model.denoiser.state_dict()
            )
        with closing_runs():
            trainer, _ = self._fresh("validate", "full", self.run_folder.checkpoints("validate"))
            trainer.validate(model, datamodule=datamodule, ckpt_path=ckpt_path, verbose=verbose)

    def _fresh(
        self, stage: str, name: str, folder: Path, *callbacks: Callback, **overrides: Any
    ) -> tuple[Trainer, ResumeCheckpoint]:
        """An unused trainer for one training, and the checkpoint that it resumes from."""
        recipe = {**self._recipe, **overrides}
        checkpoint = ResumeCheckpoint(folder, self._resume_every_n_epochs)
        given = copy.deepcopy(recipe.get("callbacks") or [])
        recipe["callbacks"] = [*(given if isinstance(given, list) else [given]), *callbacks, checkpoint]
        recipe["enable_checkpointing"] = True
        logger = recipe.get("logger")
        if logger not in (None, True, False):
            loggers = logger if isinstance(logger, list) else [logger]
            recipe["logger"] = stage_loggers(loggers, self.run_folder.name, stage, f"{stage} {name}")
        return Trainer(**recipe), checkpoint
