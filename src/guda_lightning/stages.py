"""What the stages of ``GudaTrainer`` share: completion, resuming, costs and what they tell the user."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from guda_lightning.callbacks import ResumeCheckpoint
from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualStore
from guda_lightning.data import GroupDataModule
from guda_lightning.diffusion import DiffusionModel, DiffusionModule, FullModel
from guda_lightning.diffusion.cost import BACKWARD_FACTOR, readable_seconds, seconds_per_evaluation
from guda_lightning.errors import ConfigError, QueryError, StoreError
from guda_lightning.files import canonical_json, read_json, sha256_json, write_atomic
from guda_lightning.grouping import Grouping
from guda_lightning.types import Queries

RECORD = "record.json"
_EXPECTED_WARNINGS = (
    ".*module\\(s\\) in eval mode at the start of training",  # the frozen full model, and moving averages
    "Checkpoint directory .* exists and is not empty",  # that is how a stage goes on
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",  # Lightning 2.6 on torch 2.13
    "The number of training batches .* is smaller than the logging interval",  # short epochs are usual here
)


@rank_zero_only
def say(text: str) -> None:
    """Tell the user, once."""
    print(text, flush=True)


def say_skipped(stage: str, names: Sequence[str]) -> None:
    """Tell the user what is complete already."""
    if names:
        say(f"{stage}: {len(names)} complete, skipped: {', '.join(names)}")


def say_cost(what: str, seconds: float) -> None:
    """Tell the user what a stage will cost before it starts."""
    say(f"{what}: about {readable_seconds(seconds)}")


def spent(record: Mapping[str, Any]) -> str:
    """What a stage did cost, from its record."""
    return f"{readable_seconds(record['seconds'])}, {record['network_evaluations']} network evaluations"


def evaluation_seconds(
    model: DiffusionModel,
    datamodule: GroupDataModule,
    batch_size: int,
    device: torch.device | str,
    conditional: bool,
) -> float:
    """Measured seconds of one network evaluation without gradients."""
    return seconds_per_evaluation(model, datamodule.image_shape, batch_size, conditional, device)


def say_fit_cost(
    stage: str,
    trainer: Trainer,
    model: LightningModule,
    full: FullModel,
    datamodule: GroupDataModule,
    conditional: bool,
    models: int = 1,
) -> None:
    """Tell the user what training will cost; a step of a foreign module is taken as one of ours."""
    what = f"{stage}:" if models == 1 else f"{stage}: {models} models x"
    limit = trainer.limit_train_batches
    batches = max(1, len(datamodule.kept) // (datamodule.batch_size * trainer.world_size))
    batches = min(batches, limit) if isinstance(limit, int) else max(1, int(batches * limit))
    epochs = None if trainer.max_epochs is None or trainer.max_epochs < 0 else trainer.max_epochs
    steps = trainer.max_steps * trainer.accumulate_grad_batches if trainer.max_steps >= 0 else None
    counts = [count for count in (steps, None if epochs is None else epochs * batches) if count is not None]
    network = model.student if isinstance(model, DiffusionModule) else full.model
    per_step = step_seconds(network, datamodule, BACKWARD_FACTOR, trainer.strategy.root_device, conditional)
    if counts:
        steps_of = f"{what} {min(counts)} steps of {datamodule.batch_size} images"
        say_cost(steps_of, per_step * min(counts) * models)
    else:
        say(f"{what} no end is set, each step of {datamodule.batch_size} images takes about {per_step:.2g} s")


def step_seconds(
    model: DiffusionModel,
    datamodule: GroupDataModule,
    passes: float,
    device: torch.device | str,
    conditional: bool,
) -> float:
    """Estimated seconds of one step that costs so many forward passes of a batch."""
    size = datamodule.batch_size
    return evaluation_seconds(model, datamodule, size, device, conditional) * size * passes


def callbacks(trainer: Trainer) -> list[Callback]:
    """All callbacks of a trainer, Lightning's own included."""
    found: list[Callback] = vars(trainer)["callbacks"]  # set in a connector, where type checkers do not look
    return found


def networks(model: LightningModule, full: FullModel) -> list[nn.Module]:
    """The networks that training evaluates: the one that is trained and, where it differs, its average."""
    trained = model.denoiser if isinstance(model, DiffusionModule) else full.model.denoiser
    return [trained] if trained is full.model.denoiser else [trained, full.model.denoiser]


def fit(
    trainer: Trainer,
    module: LightningModule,
    datamodule: LightningDataModule | None,
    checkpoint: ResumeCheckpoint,
) -> None:
    """Train, going on from the checkpoint if there is one.

    Raises:
        KeyboardInterrupt: The user interrupted; nothing counts as complete.
    """
    if checkpoint.path is not None:
        say(f"going on from {checkpoint.path}")
    try:
        with warnings.catch_warnings():
            for message in _EXPECTED_WARNINGS:
                warnings.filterwarnings("ignore", message)
            trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint.path, weights_only=True)
    except SystemExit as exit_:
        if trainer.interrupted:
            raise KeyboardInterrupt from exit_
        raise


def begin(folder: Path, config: Mapping[str, Any]) -> None:
    """Note what a stage is made from in a folder for its unfinished work, or go on with what is there.

    Raises:
        StoreError: What is there was made from something else.
    """
    if any(path.name != RECORD for path in folder.glob("[!.]*")):
        refuse_other_config(folder / RECORD, config)
    else:  # nothing was kept of an earlier attempt, whatever its configuration
        write_record(folder, {"config": config})


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a stage's record, the last file of its folder."""
    write_atomic(folder / RECORD, canonical_json(record, indent=2) + "\n")


def refuse_other_config(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse to go on with, or to skip, what was made from another configuration.

    Raises:
        StoreError: The record's configuration differs.
    """
    stored = read_json(path).get("config", {})
    now = read_back(config)
    different = _differences(stored, now)
    if different:
        key, before, after = different[0]
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise StoreError(
            f"{path.parent} was made with another configuration",
            found=f"{key} = {before}{more}",
            expected=f"{key} = {after}",
            fix=f"use another --run, restore the configuration, or remove {path.parent}",
        )


def refuse_other_data(path: Path, datamodule: GroupDataModule) -> None:
    """Refuse a full model of the run folder that was trained on other images or other groups.

    Raises:
        StoreError: It was.
    """
    stored = read_json(path) if path.is_file() else {}
    for key, now in (("data_hash", data_hash(datamodule)), ("grouping_hash", datamodule.grouping.hash)):
        if stored.get(key, now) != now:
            raise StoreError(
                f"{path.parent} was trained on other data",
                found=f"{key} {now[:16]} of the configured data",
                expected=f"{key} {stored[key][:16]}",
                fix="use the data section that the full model was trained with, or another --run",
            )


def _differences(before: Any, after: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted({*before, *after})
        return [
            d for n in names for d in _differences(before.get(n), after.get(n), f"{key}.{n}" if key else n)
        ]
    return [] if before == after else [(key, before, after)]


def chosen_groups(grouping: Grouping, asked: Sequence[str] | str | None) -> list[str]:
    """The groups that a stage works on: those asked for (a list, or ``a,b``), or all that have samples.

    Raises:
        GroupError: One does not exist, has no samples, or has all.
    """
    if isinstance(asked, str):
        asked = [asked] if asked in grouping.names else [name.strip() for name in asked.split(",")]
    names = list(dict.fromkeys(asked)) if asked else [name for name in grouping.names if grouping.size(name)]
    for name in names:
        grouping.check([name])
    return names


def chosen_seeds(asked: Sequence[int] | int | str) -> list[int]:
    """Distinct seeds from a list, one number, or ``0,1,2``.

    Raises:
        ConfigError: They are no whole numbers of at least 0.
    """
    parts = asked.split(",") if isinstance(asked, str) else [asked] if isinstance(asked, int) else asked
    texts = [str(part).strip() for part in parts]
    if not texts or not all(text.isdecimal() for text in texts):
        raise ConfigError(
            "the seeds are not usable",
            found=asked,
            expected="whole numbers of at least 0",
            fix="pass them as --seeds 0,1,2",
        )
    return list(dict.fromkeys(map(int, texts)))


def refuse_missing_start(path: Path) -> None:
    """Refuse to fine-tune weights that are not there.

    Raises:
        StoreError: There is nothing at the path.
    """
    if not path.exists():
        raise StoreError(
            "the weights to start from do not exist",
            found=f"nothing at {path}",
            expected="a diffusers folder or a Lightning checkpoint",
            fix="correct trainer.start, or leave it out to train from scratch",
        )


def own_seed(key: CounterfactualKey) -> int:
    """A seed for one group alone, from the seed of all groups and its name."""
    return int(sha256_json([key.seed, list(key.groups)])[:7], 16)


def without_seeds(config: Mapping[str, Any]) -> dict[str, Any]:
    """A training's configuration without what differs between its seeds."""
    kept = {name: value for name, value in read_back(config).items() if name != "seed_everything"}
    for section in ("model", "data"):
        if isinstance(kept.get(section), dict):
            kept[section].get("init_args", {}).pop("seed", None)
    return kept


def with_labels(queries: Queries, conditional: bool, num_classes: int) -> Queries:
    """The queries with class labels for a conditional model, and without them for any other.

    Raises:
        QueryError: A conditional model got queries without labels, or with labels that it has no class for.
    """
    if conditional and queries.labels is not None:
        wrong = queries.labels[(queries.labels < 0) | (queries.labels >= num_classes)]
        if len(wrong):
            raise QueryError(
                "a query has a label that the model has no class for",
                found=f"label {int(wrong[0])}",
                expected=f"0 to {num_classes - 1}",
                fix="correct metadata.jsonl beside the queries",
            )
    if conditional and queries.labels is None:
        raise QueryError(
            "a label-conditional model cannot score queries without labels",
            found=f"{len(queries)} queries without labels",
            expected="a metadata.jsonl beside them with file_name and label on each line",
            fix="write it, or use queries that `guda sample` drew",
        )
    return queries if conditional else Queries(queries.ids, queries.images)


def refuse_choices(**choices: object) -> None:
    """Refuse options that choose among the counterfactuals of a store where another attributor scores.

    Raises:
        ConfigError: One is given.
    """
    for name, value in choices.items():
        if value is not None:
            raise ConfigError(
                f"{name} chooses among counterfactuals, and another attributor was given",
                found=f"{name} {value}",
                expected="an attributor, or a choice of counterfactuals",
                fix=f"leave out --{name}, or the attributor",
            )


def at_least_one(name: str, value: int) -> None:
    """Refuse a count below one.

    Raises:
        ConfigError: It is.
    """
    if value < 1:
        raise ConfigError(
            f"{name} is out of range", found=value, expected=f"{name} >= 1", fix=f"pass --{name} 1 or more"
        )


def made_from(full: FullModel, grouping: Grouping) -> dict[str, str]:
    """What a counterfactual must have been made from to go with this full model and these groups."""
    return {
        "full_hash": full.hash,
        "schedule_hash": full.model.schedule.hash,
        "grouping_hash": grouping.hash,
    }


def is_stored(store: CounterfactualStore, key: CounterfactualKey, expect: Mapping[str, str]) -> bool:
    """Whether a complete counterfactual lies in the store; one made from something else is refused.

    Raises:
        StoreError: It was made from another full model, grouping or schedule.
    """
    if not store.exists(key):
        return False
    store.check(key, expect=expect)
    return True


def data_hash(datamodule: GroupDataModule) -> str:
    """Identity of the training data: ids and pixels."""
    digest = hashlib.sha256("\n".join(datamodule.ids).encode())
    digest.update(datamodule.images.numpy().tobytes())
    return digest.hexdigest()


def read_back(value: Mapping[str, Any]) -> dict[str, Any]:
    """The value as JSON gives it back, to compare with a stored one."""
    import json

    back: dict[str, Any] = json.loads(canonical_json(value))
    return back


def log_record(trainer: Trainer, record: Mapping[str, Any]) -> None:
    """Give a stage's record to all loggers as hyper-parameters."""
    for logger in trainer.loggers:
        logger.log_hyperparams(dict(record))
