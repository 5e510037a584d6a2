"""Drawing images of a model, in batches that are kept until the last one is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer

from guda_lightning.data import GroupDataModule, save_queries
from guda_lightning.diffusion import DiffusionModel, sample
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.makers.costs import bar_of, evaluation_seconds, say_cost
from guda_lightning.makers.locking import locked_by, of_rank_zero
from guda_lightning.storage.config import begin, refuse_other_config
from guda_lightning.storage.foreign import refuse_foreign
from guda_lightning.storage.leftovers import discard
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.sealed import read_tensors, write_tensors
from guda_lightning.storage.seals import intact
from guda_lightning.storage.weights_record import RECORD
from guda_lightning.types import Queries


@dataclass(frozen=True)
class Drawing:
    """Images of one model.

    Attributes:
        folder: Where they go.
        unfinished: Where batches are kept until the last one is done.
        config: What identifies them: ``num``, ``steps``, ``seed``, ``prompt_guidance``, and the model.
        read: Reads the model; it may share its network with the one that was read before.
        first: Number of the noise that the first image comes from; the others follow.
    """

    folder: Path
    unfinished: Path
    config: Mapping[str, Any]
    read: Callable[[], DiffusionModel]
    first: int = 0

    @property
    def name(self) -> str:
        """The groups that the model never saw; empty for the full model."""
        return str(self.config.get("without", ""))

    @property
    def complete(self) -> bool:
        """Whether the images are there; others in their place are refused.

        Raises:
            StoreError: They were made from something else, or are the user's.
        """
        record = self.folder / RECORD
        refuse_foreign(self.folder, "guda sample", "name it with --queries and use another --run")
        if record.is_file():
            refuse_other_config(self.folder, self.config)
        return record.is_file()


@dataclass(frozen=True)
class ImageSampler:
    """Draws images; every model gets the same noise and the same conditions.

    Attributes:
        data: The training data, for the shape of images and for turning samples into pictures.
        scheduler: The diffusers scheduler of the full model.
        conditions: Names, and labels or prompts, of the images.
        batch_size: Images at a time; changes no image.
        trainer: Whose processes and device do it.
        title: Of the progress bar.
    """

    data: GroupDataModule
    scheduler: Any
    conditions: Queries
    batch_size: int
    trainer: Trainer
    title: str = "sample"

    def say_cost(self, drawings: Sequence[Drawing]) -> None:
        """Tell the user what the drawings will cost; those of groups are told from that of the full model."""
        first, device = drawings[0], self.trainer.strategy.root_device
        num, steps = first.config["num"], first.config["steps"]
        passes = 1 if first.config["prompt_guidance"] == 1 else 2  # with the prompt, and without
        each = evaluation_seconds(first.read(), self.data, self.batch_size, device)
        groups = f"{len(drawings)} groups x " if first.name else ""
        seconds = each * num * steps * len(drawings) * passes / self.trainer.world_size
        say_cost(f"sample: {groups}{num} images x {steps} steps", seconds)

    def draw(self, drawing: Drawing) -> bool:
        """Draw all images of one model and write them as queries; all processes call this together.

        Returns:
            Whether it did; else another command has drawn them meanwhile.
        """
        ranks = Ranks.of(self.trainer)
        run = RunFolder(Path(self.trainer.default_root_dir))
        with locked_by(ranks, run, drawing.folder):
            if of_rank_zero(ranks, lambda: drawing.complete):
                return False
            config = {**drawing.config, "batch_size": self.batch_size}
            ranks.on_rank_zero(partial(begin, drawing.unfinished, config))
            batches = torch.arange(drawing.config["num"]).split(self.batch_size)
            parts = {drawing.unfinished / f"{int(rows[0])}.safetensors": rows for rows in batches}
            self._draw_parts(drawing, dict(list(parts.items())[ranks.rank :: ranks.count]))
            ranks.barrier()
            ranks.on_rank_zero(partial(self._save, drawing, list(parts)))
        return True

    def _draw_parts(self, drawing: Drawing, parts: Mapping[Path, torch.Tensor]) -> None:
        config, model, device = drawing.config, drawing.read(), self.trainer.strategy.root_device
        labels, steps = self.conditions.labels, config["steps"]
        model.denoiser.to(device)
        left = {part: rows for part, rows in parts.items() if not intact(part, "it is drawn again")}
        total, rest = (sum(map(len, some.values())) * steps for some in (parts, left))
        with bar_of(self.trainer, self.title, "evaluations", total, total - rest) as bar:
            for part, rows in left.items():
                batch = sample(
                    model,
                    self.scheduler,
                    self.data.input_shape,
                    (drawing.first + rows).tolist(),
                    seed=config["seed"],
                    steps=steps,
                    labels=None if labels is None else labels[rows],
                    prompt_guidance=config["prompt_guidance"],
                    device=device,
                    on_step=partial(bar.update, len(rows)),
                )
                write_tensors(part, {"images": batch})

    def _save(self, drawing: Drawing, parts: Sequence[Path]) -> None:
        samples = torch.cat([read_tensors(part, "run the command again")["images"] for part in parts])
        queries = replace(self.conditions, images=self.data.pictures(samples))
        save_queries(drawing.folder, queries, {"config": dict(drawing.config)})
        discard(drawing.unfinished)  # only now: hours of work lie there
