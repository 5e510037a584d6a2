"""``guda curate``: which groups should leave the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guda_lightning.cli.arguments import Arguments
from guda_lightning.cli.commands import Command, Stage
from guda_lightning.cli.stage import run_on
from guda_lightning.storage.files import canonical_json, write_atomic
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.locks import locked
from guda_lightning.storage.paths import refuse_missing_tables, refuse_no_run
from guda_lightning.storage.runs import RunFolder

# A record holds the batch of all processes together.
_ONE_PROCESS = ("--trainer.devices", "1", "--trainer.num_nodes", "1")


def run(command: Command, arguments: Sequence[str]) -> int:
    """Rank the groups, and write those that stay; on the configuration of RUN/full."""
    chosen = _parser(command).parse_args(arguments)
    run = RunFolder(refuse_no_run(chosen.run))
    tables = refuse_missing_tables(run.root, [chosen.scores] if chosen.scores else [])
    files, processes = (chosen.config, ()) if chosen.config else ([_config_of(run)], _ONE_PROCESS)
    options = {
        "target": chosen.target,
        "scores": tables[0] if tables else None,
        "weighting": chosen.weighting,
        "verify": str(chosen.verify).lower(),
        "seeds": chosen.seeds,
        "wandb": chosen.wandb,
    }
    with locked(run.root, run.curation):
        run_on(as_stage(command), run, files, options, *processes)
    return 0


def as_stage(command: Command) -> Stage:
    """The stage that does it, on a configuration."""
    return Stage(
        command.name,
        command.summary,
        command.example,
        function="curate.curate",
        filled=("build", "datamodule", "config"),
    )


def _config_of(run: RunFolder) -> str:
    """A file with the configuration that RUN/full was trained with.

    Raises:
        StoreError: There is no full model, or none that ``guda fit`` trained.
    """
    record = FullRecord.of_fit(run, "run guda fit first, or pass -c with the configuration of this run")
    path = run.curation / "full.yaml"
    write_atomic(path, canonical_json(record.config, indent=2) + "\n")  # JSON is YAML
    return str(path)


def _parser(command: Command) -> Arguments:
    parser = Arguments(command)
    parser.add_argument("run", type=Path, help="run folder with a score table")
    parser.add_argument(
        "--target",
        metavar="GROUPS|FILE",
        help="queries that are served badly: names of their folders, such as 3,7 for queries 3/0001, or a "
        "table with columns id and group for all; default: pseudo-groups",
    )
    parser.add_argument(
        "--scores",
        type=Path,
        metavar="TABLE",
        help="score table of the queries; default: the newest of a method",
    )
    parser.add_argument(
        "--weighting",
        choices=("elbo", "uniform", "middle"),
        default="uniform",
        help="which loss counts (default: uniform, that of training)",
    )
    parser.add_argument(
        "--verify",
        action="store_true",
        help="retrain without the harmful groups, and without as many random samples, and compare",
    )
    parser.add_argument("--seeds", help="seeds of these trainings, such as 0,1,2; default: 0")
    parser.add_config("configuration to train with; default: that of RUN/full")
    parser.add_argument(
        "--wandb", metavar="PROJECT", help="log to W&B too, offline unless WANDB_MODE says otherwise"
    )
    return parser
