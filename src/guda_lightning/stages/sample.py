"""``guda sample``: queries drawn from the full model."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from tqdm import tqdm

from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.data import GroupDataModule, save_queries
from guda_lightning.diffusion import FullModel, sample, sampler
from guda_lightning.files import sha256_json, write_atomic
from guda_lightning.grouping import JOINT
from guda_lightning.guidance import guided, open_posterior
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import at_least_one
from guda_lightning.stages.costs import evaluation_seconds, say, say_cost
from guda_lightning.stages.records import RECORD, begin, made_from, refuse_other_config


class SampleStage(StageTrainer):
    """Draws from the full model."""

    def sample(
        self,
        model: LightningModule,
        datamodule: GroupDataModule,
        num: int = 64,
        steps: int = 100,
        batch_size: int = 64,
        seed: int = 0,
        full: Path | None = None,
        without: str | None = None,
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
            without: Groups to guide the full model away from, such as ``3`` or ``3+7``. Image i comes from
                the same noise as query i, into RUN/without/GROUPS. Needs the classifier of ``guda guide``.
        """
        for name, value in (("num", num), ("steps", steps), ("batch_size", batch_size)):
            at_least_one(name, value)
        source = self._open_full(full, model, datamodule)
        folder, unfinished = self.run_folder.queries, self.run_folder.checkpoints("sample")
        asked: dict[str, Any] = {"full_hash": source.hash, "num": num, "steps": steps, "seed": seed}
        if without is not None:
            source, asked = self._without(source, datamodule, without, asked)
            folder = self.run_folder.without(asked["without"])
            unfinished = self.run_folder.checkpoints(f"sample-{folder.name}")
        if (folder / RECORD).is_file():
            refuse_other_config(folder / RECORD, asked)
            say(f"sample: {folder} is complete, skipped")
            return
        sampler(source.model, source.scheduler, steps)  # refused before anything is written
        drawn = datamodule.drawn(num, self._is_conditional(model))
        images = self._sampled(source, datamodule, drawn.labels, batch_size, asked, unfinished)
        save_queries(folder, replace(drawn, images=images), {"config": asked})
        shutil.rmtree(unfinished, ignore_errors=True)  # only now: hours of work lie there
        say(f"sample: {num} images in {folder}")

    def _without(
        self, source: FullModel, datamodule: GroupDataModule, without: str, asked: dict[str, Any]
    ) -> tuple[FullModel, dict[str, Any]]:
        """The full model guided away from some groups, and what identifies its samples."""
        groups = datamodule.grouping.coalition(without)
        stored = open_posterior(
            CounterfactualStore(self.run_folder.store),
            source.model.schedule,
            seed=0,
            hparams=None,
            expect=made_from(source, datamodule.grouping),
            device=self.strategy.root_device,
        )
        away = guided(source.model, stored.posterior, groups)
        named = {**asked, "without": JOINT.join(groups), "classifier": stored.hash}
        return FullModel(away, source.scheduler, sha256_json(named)), named

    def _sampled(
        self,
        full: FullModel,
        datamodule: GroupDataModule,
        labels: torch.Tensor | None,
        batch_size: int,
        asked: dict[str, Any],
        unfinished: Path,
    ) -> torch.Tensor:
        """All samples, in batches that are kept until the last one is done."""
        num, steps, device = asked["num"], asked["steps"], self.strategy.root_device
        per_evaluation = evaluation_seconds(full.model, datamodule, batch_size, device, labels is not None)
        say_cost(f"sample: {num} images x {steps} steps", per_evaluation * num * steps)
        begin(unfinished, {**asked, "batch_size": batch_size})
        full.model.denoiser.to(device)
        images = []
        with tqdm(total=num * steps, desc="sample", unit="evaluation", disable=None) as bar:
            for indices in torch.arange(num).split(batch_size):
                part = unfinished / f"{int(indices[0])}.safetensors"
                if not part.is_file():
                    batch = sample(
                        full.model,
                        full.scheduler,
                        datamodule.input_shape,
                        indices.tolist(),
                        seed=asked["seed"],
                        steps=steps,
                        labels=None if labels is None else labels[indices],
                        device=device,
                        on_step=partial(bar.update, len(indices)),
                    )
                    write_atomic(part, to_safetensors({"images": batch}))
                images.append(load_file(part)["images"])
        return datamodule.pictures(torch.cat(images))
