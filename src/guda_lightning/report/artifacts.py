"""What a run has made, as artifacts of W&B with their lineage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger

from guda_lightning import compat
from guda_lightning.counterfactuals import ENSEMBLE, RETRAIN, CounterfactualRecord, CounterfactualStore
from guda_lightning.posteriors import PosteriorRecord, PosteriorStore
from guda_lightning.report.wandb import wandb_loggers
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.files import unique_slug
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.weights_record import RECORD, WeightsRecord

if TYPE_CHECKING:
    from lightning.pytorch.loggers import WandbLogger
    from wandb import Artifact

_TOLD = ("operator", "kind", "groups", "seed", "full_hash", "grouping_hash", "hparams_hash", "steps")


@dataclass(frozen=True)
class Made:
    """Something that a run has made.

    Attributes:
        name: What W&B calls it.
        kind: Its type in W&B: ``model``, ``counterfactual``, ``posterior`` or ``scores``.
        path: Its file or folder.
        metadata: What identifies it, and what it was made from.
    """

    name: str
    kind: str
    path: Path
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def full(cls, run: RunFolder) -> Made:
        """The full model of a run, which is there."""
        record = FullRecord.from_file(run.full / RECORD)
        told = {name: getattr(record, name) for name in ("full_hash", "grouping_hash", "data_hash")}
        return cls(_named(run, "full"), "model", run.full, told)

    @classmethod
    def weights(cls, run: RunFolder, record: WeightsRecord) -> Made:
        """A counterfactual or a posterior in the store of a run."""
        store: Any = CounterfactualStore(run.store)
        kind = "counterfactual"
        if isinstance(record, PosteriorRecord):
            store, kind = PosteriorStore(run.store), "posterior"
        found = {name: getattr(record, name, None) for name in _TOLD}
        told = {name: value for name, value in found.items() if value is not None}
        return cls(_named(run, record.key.folder_name), kind, store.path(record.key), told)

    @classmethod
    def scores(cls, run: RunFolder, path: Path) -> Made:
        """A score table of a run, which is there."""
        record = ScoreTable.load_record(path)
        told = {"full_hash": record.full_hash, "query_hash": record.query_hash, "record_hash": record.hash}
        return cls(_named(run, f"scores-{path.stem}"), "scores", path, told)

    def artifact(self, logger: WandbLogger, made_from: Sequence[Made] = ()) -> Artifact:
        """The artifact: weights are uploaded where ``log_model`` asks for it, else W&B knows their hashes.

        Args:
            logger: The logger whose ``log_model`` counts.
            made_from: What it was made from, which its metadata name.
        """
        import wandb

        named = {"made_from": [f"{one.kind} {one.name}" for one in made_from]} if made_from else {}
        artifact = wandb.Artifact(self.name, self.kind, metadata={**self.metadata, **named})
        uploads = self.kind == "scores" or compat.uploads_models(logger)
        folder = self.path if self.path.is_dir() else self.path.parent
        files = sorted(self.path.rglob("*")) if self.path.is_dir() else [self.path]
        for file in (one for one in files if one.is_file()):  # of a folder, W&B prints a line
            name = file.relative_to(folder).as_posix()
            if uploads:
                artifact.add_file(str(file), name)
            else:
                artifact.add_reference(file.resolve().as_uri(), name)
        return artifact


def log_weights(loggers: Sequence[Logger], run: RunFolder, record: object) -> None:
    """Log the full model, a counterfactual or a posterior as an artifact to every W&B logger.

    Args:
        loggers: The loggers of its training.
        run: The run folder that holds it.
        record: How it was made; what is no such record is left alone.
    """
    if not wandb_loggers(loggers):
        return
    if isinstance(record, FullRecord):
        log_made(loggers, Made.full(run))
    elif isinstance(record, WeightsRecord):
        anew = isinstance(record, CounterfactualRecord) and record.operator in (RETRAIN, ENSEMBLE)
        log_made(loggers, Made.weights(run, record), [] if anew else _full(run))


def log_scores(loggers: Sequence[Logger], run: RunFolder, path: Path) -> None:
    """Log a score table as an artifact to every W&B logger, with the full model and what scored it.

    Args:
        loggers: The loggers of the stage.
        run: The run folder.
        path: The table.
    """
    if not wandb_loggers(loggers):
        return
    weights = ScoreTable.load_record(path).details.weights
    stores = (CounterfactualStore(run.store), PosteriorStore(run.store))
    records = [one for store in stores for one in store.records() if one.weights_hash in weights]
    log_made(loggers, Made.scores(run, path), [*_full(run), *(Made.weights(run, one) for one in records)])


def log_made(loggers: Sequence[Logger], made: Made, made_from: Sequence[Made] = ()) -> None:
    """Log an artifact to every W&B logger, and what it was made from as inputs of the run.

    W&B takes inputs online alone; offline, the artifact's metadata name them.
    """
    for logger in wandb_loggers(loggers):
        run = logger.experiment
        for one in made_from if not (run.offline or run.disabled) else ():
            run.use_artifact(one.artifact(logger))
        run.log_artifact(made.artifact(logger, made_from))


def _full(run: RunFolder) -> list[Made]:
    """The full model of a run, where it has one of its own."""
    return [] if FullRecord.of_run(run.full) is None else [Made.full(run)]


def _named(run: RunFolder, what: str) -> str:
    return f"{unique_slug(run.name)}-{what}"[:128]
