"""Squared errors along an unlearning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from benchmarks import stages
from guda_lightning.attribution import squared_errors
from guda_lightning.data import load_queries
from guda_lightning.diffusion import DiffusionModule
from guda_lightning.scores import Scoring, SquaredErrors
from guda_lightning.storage.files import write_atomic


class Snapshots(Callback):
    """Scores queries at some steps of every unlearning.

    Args:
        queries: Folders of queries.
        folder: Where to keep the squared errors.
        steps: After which optimizer steps.
        strata: Timesteps per query, one draw each.
    """

    def __init__(self, queries: list[str], folder: str, steps: list[int], strata: int) -> None:
        self.queries, self.folder = [Path(path) for path in queries], Path(folder)
        self.steps, self.scoring = steps, Scoring(strata=strata, draws=1)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Score at the steps asked for."""
        if trainer.global_step not in self.steps:
            return
        started = stages.clock()
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, DiffusionModule)
        (group,) = data.groups
        model = pl_module.student
        for queries in self.queries:
            path = snapshot(self.folder, queries, group, pl_module.seed, trainer.global_step)
            if not path.is_file():
                asked = load_queries(queries, data.parent.image_shape)
                errors, timesteps = squared_errors(model, asked, self.scoring, device=pl_module.device)
                record = vars(self.scoring.record(model.schedule))
                SquaredErrors(asked.ids, errors, timesteps, record).save(path)
        stages.aside += stages.clock() - started


def snapshot(folder: Path, queries: Path, group: str, seed: int, step: int) -> Path:
    """Where the errors of one model at one step lie, for the queries of a run folder."""
    return folder / queries.parent.name / f"{group}-{seed}-{step}.safetensors"


def fragment(path: Path, queries: list[Path], folder: Path, steps: list[int], scoring: Scoring) -> str:
    """Write the YAML that puts the callback, and no other, into a stage."""
    arguments = {
        "queries": [str(query) for query in queries],
        "folder": str(folder),
        "steps": steps,
        "strata": scoring.strata,
    }
    callback = {"class_path": "benchmarks.snapshots.Snapshots", "init_args": arguments}
    write_atomic(path, yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    return str(path)
