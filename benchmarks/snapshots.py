"""Squared errors along a training, of the weights themselves and of their moving average."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks import stages
from guda_lightning.attribution import Scoring, squared_errors
from guda_lightning.data import load_queries
from guda_lightning.diffusion import DiffusionModule
from guda_lightning.scores import SquaredErrors


class Snapshots(Callback):
    """Scores the queries of a run folder at some steps of every retraining.

    Args:
        run: The run folder; what is measured goes to RUN/snapshots.
        steps: After which optimizer steps.
        strata: Timesteps per query, one draw each.
    """

    def __init__(self, run: str, steps: list[int], strata: int = 25) -> None:
        self.run, self.steps, self.strata = run, steps, strata

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Score at the steps asked for; the average does not hold the last step yet."""
        if trainer.global_step not in self.steps:
            return
        started = time.process_time()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, DiffusionModule)
        queries = load_queries(Path(self.run) / "queries", data.image_shape)
        (group,) = data.removed
        for kind, model in (("raw", pl_module.student), ("ema", pl_module.averaged)):
            path = snapshot(Path(self.run), group, pl_module.seed, trainer.global_step, kind)
            if not path.is_file():
                scoring = Scoring(strata=self.strata, draws=1)
                errors, timesteps = squared_errors(model, queries, scoring, device=pl_module.device)
                SquaredErrors(queries.ids, errors, timesteps, scoring.record(model.schedule)).save(path)
        stages.aside += time.process_time() - started


def snapshot(run: Path, group: str, seed: int, step: int, kind: str) -> Path:
    """Where the errors of one model at one step lie."""
    return run / "snapshots" / f"{group}-{seed}-{step}-{kind}.safetensors"
