"""The command ``guda``: LightningCLI with a subcommand for each stage."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from guda_lightning.errors import ConfigError, GudaError, QueryError
from guda_lightning.spread.task import end_with_driver
from guda_lightning.version import __version__

if TYPE_CHECKING:
    from guda_lightning.stages.trainer import GudaTrainer

INTERRUPTED = 130  # what a shell reports after Ctrl-C
AFTER_INTERRUPT = "interrupted: the same command goes on from the last whole epoch, group or batch"
STAGES = ("fit", "validate", "unlearn", "guide", "retrain", "sample", "attribute", "placebo")
HELP = f"""guda {__version__}: which groups of my training data made this generated sample?

  guda run        -c digits.yaml                    every stage below, in order
  guda fit        -c digits.yaml                    train the full model
  guda unlearn    -c digits.yaml -c unlearn/retrack.yaml [--groups 3,7]
                                                    make it forget each group
  guda guide      -c digits.yaml                    or: one classifier for all groups, no unlearning
  guda retrain    -c digits.yaml [--seeds 0,1,2]    the oracle: train anew without each group
  guda sample     -c digits.yaml [--num 64]         draw queries from the full model
                                 [--without 3,7]    or the same noise without each group
  guda attribute  -c digits.yaml [--queries FILE|FOLDER]
                                                    score queries against every group
  guda placebo    -c digits.yaml -c unlearn/retrack.yaml
                                                    which queries random groups explain as well
  guda report     RUN                               one page that shows the answer
  guda evaluate   RUN [--calibrate 3,7]             how well scores agree with the oracle
  guda validate   -c digits.yaml -c callbacks/elbo_attribution.yaml
                                                    score validation data in a trainer
  guda configs    [--copy FOLDER]                   list or copy the YAML that comes with guda

Every stage prints its cost first, goes on where it was interrupted and skips what is complete.
`-c` takes several files, later ones win, and flags win over files: --run runs/mine --trainer.max_steps 500.
A file that does not exist here is looked up among those of `guda configs`.
`guda STAGE --help` lists the options of a stage; `guda STAGE -c ... --print_config` shows all values.
"""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code: 0, 2 for bad input, 130 for Ctrl-C."""
    if args is None:
        # This process is ours. OpenMP's threads spin 30 times longer than this before they sleep, and starve
        # each other on shared cores (docs/decisions.md); torch is not imported yet.
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        end_with_driver()
        sys.path.insert(0, os.getcwd())  # as `python -m` does: a user's own module is named by class_path
    arguments = list(sys.argv[1:] if args is None else args)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if arguments[0] == "--version":
        print(f"guda {__version__}")
        return 0
    try:
        return _run(arguments[0], arguments[1:])
    except GudaError as error:
        return _refused(error)
    except RuntimeError as error:
        from guda_lightning.distributed.ranks import lost_rank

        lost = lost_rank(error)
        if lost is None:
            raise
        return _refused(lost)
    except KeyboardInterrupt:
        print(f"\n{AFTER_INTERRUPT}", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as exit_:  # jsonargparse and argparse have printed why
        return exit_.code if isinstance(exit_.code, int) else 2


def _refused(error: GudaError) -> int:
    rank = int(os.environ.get("LOCAL_RANK", "0"))  # of the processes of this machine
    print(f"error{f' (process {rank})' if rank else ''}: {error}", file=sys.stderr)
    return 2


def _run(command: str, arguments: list[str]) -> int:
    others = {"run": _every_stage, "report": _report, "evaluate": _evaluate, "configs": _configs}
    if command in others:
        return others[command](arguments)
    if command not in STAGES:
        raise ConfigError(
            f"guda has no command {command!r}",
            found=command,
            expected=", ".join(("run", *STAGES, "report", "evaluate", "configs")),
            fix="guda --help",
        )
    _stage(command, arguments)
    return 0


def _stage(command: str, arguments: list[str]) -> GudaTrainer:
    from guda_lightning.cli.lightning import run_stage

    return run_stage([command, *_found(arguments)])


def _check(command: str, arguments: list[str]) -> None:
    """Parse the arguments of a stage as the stage itself will."""
    try:
        with redirect_stdout(StringIO()):
            _stage(command, [*arguments, "--print_config"])
    except SystemExit as exit_:
        if exit_.code:
            raise


def _every_stage(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "guda run",
        description="Every stage in order, in one process.",
        epilog="All other options go to every stage, such as --run FOLDER or --trainer.max_steps 500.",
        allow_abbrev=False,
    )
    parser.add_argument("-c", "--config", action="append", required=True, help="configuration of all stages")
    parser.add_argument("--sample", help="configuration of sampling alone")
    parser.add_argument("--unlearn", default="unlearn/retrack.yaml", help="configuration of unlearning alone")
    parser.add_argument("--attribute", default="attribute/elbo.yaml", help="configuration of scoring alone")
    parser.add_argument(
        "--queries", help="an image or a folder of images, instead of samples of the full model"
    )
    chosen, others = parser.parse_known_args(arguments)
    shared = [*(part for path in chosen.config for part in ("-c", path)), *others]
    stages = {
        "fit": shared,
        "sample": [*shared, *(["-c", chosen.sample] if chosen.sample else [])],
        "unlearn": [*shared, "-c", chosen.unlearn],
        "attribute": [*shared, "-c", chosen.attribute],
    }
    if chosen.queries is not None:
        del stages["sample"]
        stages["attribute"] += ["--queries", chosen.queries]
        _refuse_missing(Path(chosen.queries))
    for stage, options in stages.items():
        _check(stage, options)  # what is misspelt for the last stage shows before the first one works
    for stage, options in stages.items():
        trainer = _stage(stage, options)
        if (
            trainer.made is not None
        ):  # of several kinds of counterfactuals in the store, score the one just made
            made = ["--operator", trainer.made.operator, "--hparams", trainer.made.hparams_hash[:12]]
            stages["attribute"] += [*made, "--seed", str(trainer.made.seed)]
    if not trainer.is_global_zero:
        return 0
    return _report([str(trainer.run_folder.root), "--scores", str(trainer.table_path)])


def _refuse_missing(queries: Path) -> None:
    if not queries.exists():
        raise QueryError(
            f"there are no queries at {queries}",
            found="nothing there",
            expected="an image file or a folder of images",
            fix="correct the path",
        )


def _report(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "guda report", description="One self-contained page that shows the answer."
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument("--scores", type=Path, help="score table; default: the newest of a method")
    chosen = parser.parse_args(arguments)
    from guda_lightning.report.run import report_run

    page = report_run(chosen.run, chosen.scores)
    print(f"report: open {page}")
    return 0


def _evaluate(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        "guda evaluate",
        description="How well scores agree with the oracle, models retrained without each group.",
    )
    parser.add_argument("run", type=Path, help="run folder")
    parser.add_argument(
        "--scores",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="score tables to compare; default: all of the run folder about the oracle's queries",
    )
    parser.add_argument(
        "--oracle",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="score tables of the oracle, one a seed; default: RUN/scores/retrain-SEED.parquet",
    )
    parser.add_argument(
        "--per",
        choices=("group", "sample"),
        default="group",
        help="what a score stands for: a group, or one sample of it on average (default: group)",
    )
    parser.add_argument(
        "--calibrate", metavar="GROUPS", help="groups to fit magnitudes on, such as 3,7; tested on the others"
    )
    parser.add_argument(
        "--resamples", type=int, default=2000, help="bootstrap resamples of the intervals (default: 2000)"
    )
    parser.add_argument(
        "--wandb", metavar="PROJECT", help="log to W&B too, offline unless WANDB_MODE says otherwise"
    )
    chosen = parser.parse_args(arguments)
    from guda_lightning.stages.evaluate import evaluate_run

    evaluate_run(
        chosen.run,
        chosen.scores,
        chosen.oracle,
        per=chosen.per,
        calibration=chosen.calibrate,
        resamples=chosen.resamples,
        wandb_project=chosen.wandb,
    )
    return 0


def _configs(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("guda configs", description="The YAML that comes with guda.")
    parser.add_argument("--copy", type=Path, help="copy all of it into this folder, to edit")
    chosen = parser.parse_args(arguments)
    folder = chosen.copy or Path()
    targets = {folder / name: path for name, path in _shipped().items()}
    for target in targets if chosen.copy is not None else ():
        if target.exists():
            raise ConfigError(
                f"{target} exists",
                found="a file that you may have edited",
                expected="a folder without it",
                fix="choose another folder for --copy",
            )
    for target, path in targets.items():
        if chosen.copy is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        print(target)
    return 0


def _shipped() -> dict[str, Path]:
    """The YAML that comes with guda by name, in a checkout as in an installed wheel."""
    found = {}
    for package, prefix in (("configs", ""), ("configs.callbacks", "callbacks/")):
        root = Path(str(resources.files(f"guda_lightning.{package}")))
        found.update({prefix + path.relative_to(root).as_posix(): path for path in root.rglob("*.yaml")})
    return dict(sorted(found.items()))


def _found(arguments: Sequence[str]) -> list[str]:
    """The arguments, with files that do not exist here replaced by those that come with guda."""
    found = list(arguments)
    for position, argument in enumerate(found):
        option, _, value = argument.partition("=")
        if option == "--config" and value:
            found[position] = f"--config={_config(value)}"
        elif argument in ("-c", "--config") and position + 1 < len(found):
            found[position + 1] = _config(found[position + 1])
    return found


def _config(name: str) -> str:
    shipped = _shipped()
    if Path(name).is_file():
        return name
    if name.removeprefix("configs/") in shipped:
        return str(shipped[name.removeprefix("configs/")])
    raise ConfigError(
        f"the configuration {name} does not exist",
        found=f"no such file, here or among {len(shipped)} that come with guda",
        expected="a YAML file",
        fix="`guda configs` lists those that come with guda",
    )
