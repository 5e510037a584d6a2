"""What is refused before torch is imported: paths that do not exist."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from guda_lightning.cli.commands import Stage
from guda_lightning.cli.inputs import Inputs
from guda_lightning.errors import ConfigError
from guda_lightning.storage.paths import (
    refuse_missing_checkpoint,
    refuse_missing_full,
    refuse_missing_queries,
    refuse_missing_start,
)
from guda_lightning.storage.runs import RunFolder


def refuse_early(stage: Stage, inputs: Inputs, before: Collection[str] = ()) -> None:
    """Refuse paths on which the stage would fail after minutes of imports and reading.

    Args:
        stage: The stage.
        inputs: Its inputs.
        before: Stages that the same command runs before: what they write into the run folder is not missing.

    Raises:
        ConfigError: The run folder is a file.
        QueryError: There are no queries.
        StoreError: There is no full model, no checkpoint, or no weights to start from.
    """
    if inputs.asks_for("--help") or inputs.asks_for("-h") or inputs.asks_for("--print_config"):
        return
    run = inputs.path("run")
    if run is not None and run.is_file():
        raise ConfigError(
            f"the run folder {run} is a file",
            found="a file",
            expected="a folder, or nothing",
            fix="pass another --run, or move the file away",
        )
    queries, full, start = inputs.path("queries"), inputs.path("full"), inputs.path("trainer.start")
    if run is not None and queries is not None and "sample" in before and _is_inside(queries, run):
        queries = None
    if run is not None and full is not None and "fit" in before and _is_inside(full, run):
        full = None
    if stage.name in ("attribute", "placebo") and queries is not None:
        refuse_missing_queries(queries)
    if stage.needs_data and full is not None:
        refuse_missing_full(full)
    if (checkpoint := inputs.path("ckpt_path")) is not None and stage.name == "validate":
        refuse_missing_checkpoint(checkpoint)
    # A complete training is skipped, whatever it has started from.
    if stage.name == "fit" and start is not None and run is not None and not RunFolder(run).full.exists():
        refuse_missing_start(start)


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())
