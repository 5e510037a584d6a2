"""``guda sample``: queries drawn from the full model, and the same noise without groups."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from tqdm import tqdm

from guda_lightning.data import GroupDataModule, QueryFolder, read_prompts, save_queries
from guda_lightning.diffusion import sample, sampler
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.distributed.strategies import start_processes
from guda_lightning.makers.costs import evaluation_seconds, quiet, say, say_cost, say_skipped
from guda_lightning.report.charts import MAX_PICTURE_GROUPS, MAX_PICTURE_QUERIES
from guda_lightning.report.wandb import closing_runs, log_without, stage_loggers
from guda_lightning.stages.base import StageTrainer
from guda_lightning.stages.choices import at_least_one, refuse_choices
from guda_lightning.stages.records import RECORD, begin
from guda_lightning.stages.without import (
    Drawing,
    drawings_without,
    groups_without,
    number_of_queries,
    refuse_guidance,
    refuse_prompts,
)
from guda_lightning.storage.files import sha256_json, write_atomic
from guda_lightning.types import Queries


class SampleStage(StageTrainer):
    """Draws from the full model and from counterfactuals."""

    def sample(
        self,
        model: LightningModule,
        datamodule: GroupDataModule,
        num: int = 64,
        steps: int = 100,
        batch_size: int = 64,
        seed: int = 0,
        prompts: Path | None = None,
        prompt_guidance: float = 1.0,
        full: Path | None = None,
        without: list[str] | str | None = None,
        operator: str | None = None,
        counterfactual_seed: int | None = None,
        hparams: str | None = None,
    ) -> None:
        """Draw queries from the full model into RUN/queries, or the same noise without groups, one PNG each.

        Args:
            model: The full model's module.
            datamodule: The training data, for the shape of an image.
            num: How many.
            steps: Denoising steps.
            batch_size: Images at a time; changes no image.
            seed: Seed of the images; image i is the same whatever ``num`` is.
            prompts: Prompts of a text-to-image model, in turn: a .txt file with one a line, or .jsonl or .csv
                with a column ``prompt``. Left out, those of training samples; without groups, those of the
                queries.
            prompt_guidance: Strength of classifier-free guidance by the prompt; 1 is the model itself.
            full: The full model: a diffusers folder or a Lightning checkpoint; RUN/full if left out.
            without: Draw from counterfactuals instead: without each of these groups, such as ``3,7`` or,
                removed together, ``3+7``, or ``all``. Image i comes from the noise of query i, into
                RUN/without/OPERATOR/GROUPS.
            operator: Which counterfactuals of RUN/store, by their objective's name, such as ``retrack``,
                ``retrain``, or ``guidance`` for its classifier; may be left out where the store holds those
                of one kind.
            counterfactual_seed: Seed that the counterfactuals were made with; 0 if left out.
            hparams: Start of the hash of their hyper-parameters, where the store holds several kinds.
        """
        for name, value in (("num", num), ("steps", steps), ("batch_size", batch_size)):
            at_least_one(name, value)
        run, source = self.run_folder, self._open_full(full, model, datamodule)
        asked: dict[str, Any] = {"full_hash": source.hash, "num": num, "steps": steps, "seed": seed}
        asked |= {"prompt_guidance": prompt_guidance}
        refuse_guidance(prompt_guidance, datamodule)
        queries, texts = num, None
        if without is None:
            refuse_choices(
                "the full model is drawn from",
                "groups, or none of these options",
                "pass --without GROUPS",
                **{"operator": operator, "counterfactual_seed": counterfactual_seed, "hparams": hparams},
            )
            texts = None if prompts is None else tuple(read_prompts(prompts))
        else:
            refuse_prompts(prompts)
            queries = number_of_queries(run.queries, asked)
            if (run.queries / RECORD).is_file():
                texts = QueryFolder(run.queries, datamodule.image_shape).prompts
        drawn = datamodule.drawn(num, self._is_conditional(model), texts)
        if drawn.prompts is not None:
            asked["prompts"] = sha256_json(drawn.prompts)
        if without is None:
            drawings = [Drawing(run.queries, run.checkpoints("sample"), asked, lambda: source.model)]
        else:
            drawings = drawings_without(
                run,
                source,
                datamodule.grouping,
                groups_without(datamodule.grouping, without),
                asked,
                operator=operator,
                seed=counterfactual_seed or 0,
                hparams=hparams,
                device=self.strategy.root_device,
            )
        left = [drawing for drawing in drawings if not drawing.complete]
        if without is not None:
            say_skipped("sample", [one.asked["without"] for one in drawings if one not in left])
        elif not left:
            say(f"sample: {run.queries} is complete, skipped")
        if not left:
            return
        sampler(source.model, source.scheduler, steps)  # refused before anything is written
        ids = tuple(f"sample-{index:0{len(str(queries - 1))}d}" for index in range(num))
        self._say_cost(left, datamodule, batch_size, drawn.labels is not None)
        start_processes(self)
        ranks = Ranks.of(self)
        for one in left:
            parts = self._sampled(
                one, source.scheduler, datamodule.input_shape, drawn.labels, batch_size, ranks
            )
            ranks.on_rank_zero(partial(self._save, one, parts, replace(drawn, ids=ids), datamodule))
            say(f"sample: {num} images in {one.folder}")
        if without is not None and self.is_global_zero:
            self._log(drawings, datamodule.image_shape)

    def _say_cost(
        self, left: Sequence[Drawing], datamodule: GroupDataModule, batch_size: int, conditional: bool
    ) -> None:
        num, steps = left[0].asked["num"], left[0].asked["steps"]
        device = self.strategy.root_device
        per_evaluation = evaluation_seconds(left[0].read(), datamodule, batch_size, device, conditional)
        groups = f"{len(left)} groups x " if "without" in left[0].asked else ""
        passes = 1 if left[0].asked["prompt_guidance"] == 1 else 2  # with the prompt, and without
        seconds = per_evaluation * num * steps * len(left) * passes / self.world_size
        say_cost(f"sample: {groups}{num} images x {steps} steps", seconds)

    def _sampled(
        self,
        drawing: Drawing,
        scheduler: Any,
        shape: tuple[int, int, int],
        labels: torch.Tensor | None,
        batch_size: int,
        ranks: Ranks,
    ) -> list[Path]:
        """Draw all samples of one model, in batches that are kept until the last one is done.

        Returns:
            Their files, in order.
        """
        asked, model, device = drawing.asked, drawing.read(), self.strategy.root_device
        num, steps = asked["num"], asked["steps"]
        ranks.on_rank_zero(lambda: begin(drawing.unfinished, {**asked, "batch_size": batch_size}))
        model.denoiser.to(device)
        parts = {
            drawing.unfinished / f"{int(i[0])}.safetensors": i for i in torch.arange(num).split(batch_size)
        }
        mine = list(parts.items())[ranks.rank :: ranks.count]
        total = sum(map(len, dict(mine).values())) * steps
        with tqdm(total=total, desc="sample", unit="evaluation", disable=quiet(self)) as bar:
            for part, indices in mine:
                if not part.is_file():
                    batch = sample(
                        model,
                        scheduler,
                        shape,
                        indices.tolist(),
                        seed=asked["seed"],
                        steps=steps,
                        labels=None if labels is None else labels[indices],
                        prompt_guidance=asked["prompt_guidance"],
                        device=device,
                        on_step=partial(bar.update, len(indices)),
                    )
                    write_atomic(part, to_safetensors({"images": batch}))
        ranks.barrier()
        return list(parts)

    def _save(self, drawing: Drawing, parts: Sequence[Path], drawn: Queries, data: GroupDataModule) -> None:
        """Write the pictures of all batches as queries."""
        samples = torch.cat([load_file(part)["images"] for part in parts])
        save_queries(drawing.folder, replace(drawn, images=data.pictures(samples)), {"config": drawing.asked})
        shutil.rmtree(drawing.unfinished, ignore_errors=True)  # only now: hours of work lie there

    def _log(self, drawings: Sequence[Drawing], shape: tuple[int, int, int]) -> None:
        """Log the first pictures of every group beside the queries, as one picture."""
        run, made = self.run_folder, drawings[0].asked
        folders = {"full model": run.queries} if (run.queries / RECORD).is_file() else {}
        folders |= {f"without {one.asked['without']}": one.folder for one in drawings[:MAX_PICTURE_GROUPS]}
        name = f"sample {made['operator']}-{made['counterfactual_seed']}"
        with closing_runs():
            loggers = stage_loggers(self.loggers, run.name, "sample", name)
            for logger in loggers:
                logger.log_hyperparams({"drawings": [one.asked for one in drawings]})
            if loggers:
                rows = range(min(MAX_PICTURE_QUERIES, made["num"]))
                shown = {title: QueryFolder(folder, shape).load(rows) for title, folder in folders.items()}
                log_without(loggers, shown, made)
