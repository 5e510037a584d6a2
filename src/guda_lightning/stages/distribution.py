"""``guda evaluate --distribution``: how each group changes the law of training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from guda_lightning.evaluation.distribution import DistributionEvaluation, compare_trainings
from guda_lightning.evaluation.trainings import read_trainings
from guda_lightning.makers.costs import say
from guda_lightning.progress_bar import progress_bar
from guda_lightning.report import charts
from guda_lightning.report.distribution_section import section_of
from guda_lightning.report.distribution_text import distribution_text
from guda_lightning.storage.runs import RunFolder


def evaluate_distribution(
    root: Path,
    others: Sequence[Path] = (),
    *,
    resamples: int = 2000,
    wandb_project: str | None = None,
) -> DistributionEvaluation:
    """Compare the law of training with and without each group, print it, and write RUN/distribution.parquet.

    Args:
        root: The run folder.
        others: Run folders of the same configuration and other seeds, which scored the queries of the first.
        resamples: Bootstrap resamples of a distributional LDS.
        wandb_project: Log there too; offline unless ``WANDB_MODE`` says otherwise.

    Raises:
        StoreError: They differ in more than their seed, or a score is missing or was made differently.
        ConfigError: There is nothing to compare.
    """
    run = RunFolder(root)
    if wandb_project is not None:
        charts.require()
    runs = [run, *map(RunFolder, others)]
    trainings = "1 training" if len(runs) == 1 else f"{len(runs)} trainings"
    say(f"evaluate: stored errors of {trainings} are compared, without a network evaluation")
    with progress_bar("evaluate", "tables") as bar:
        found = compare_trainings(read_trainings(runs, on_table=lambda: bar.update(1)), resamples=resamples)
    print(distribution_text(found))
    found.save(run.distribution)
    if wandb_project is not None:
        _log(run, wandb_project, found)
    print(f"evaluate: {run.distribution} written; `guda report {root}` shows it on the page")
    return found


def _log(run: RunFolder, project: str, found: DistributionEvaluation) -> None:
    from guda_lightning.report.logged import log_section
    from guda_lightning.report.wandb import closing_runs, project_loggers

    with closing_runs():
        loggers = project_loggers(project, run.root, run.name, "evaluate", "distribution")
        log_section(loggers, section_of(found, found.methods[0]), found.record)
