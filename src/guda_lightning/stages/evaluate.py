"""``guda evaluate``: how well the score tables of a run agree with its oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from guda_lightning.evaluation.comparison import compare, paired_with_full
from guda_lightning.evaluation.costs import table_costs
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.evaluation.subsets import compare_subsets, subset_tables
from guda_lightning.evaluation.tables import File, method_tables, oracle_tables, retrained_tables
from guda_lightning.report import charts
from guda_lightning.report.agreement_table import agreement_chart
from guda_lightning.report.agreement_text import agreement_text
from guda_lightning.report.lds_text import lds_text
from guda_lightning.report.yardstick_text import yardstick_text
from guda_lightning.scores.kinds import Ensemble
from guda_lightning.storage.runs import RunFolder


def evaluate_run(
    root: Path,
    scores: Sequence[Path] | None = None,
    oracles: Sequence[Path] | None = None,
    *,
    per: Literal["group", "sample"] = "group",
    calibration: str | None = None,
    resamples: int = 2000,
    wandb_project: str | None = None,
    brief: bool = False,
    lds: Sequence[Path] | None = None,
) -> Evaluation | None:
    """Compare score tables with the oracle, print the answer, write RUN/evaluation and log to W&B.

    Args:
        root: The run folder.
        scores: Tables to compare; all of RUN/scores about the oracle's queries if left out.
        oracles: Tables of models retrained without each group, one a seed; RUN/scores/retrain-SEED.parquet
            if left out, or where there are none RUN/scores/ensemble-SEED.parquet.
        per: Whether a score stands for its whole group, or is divided by the group's number of samples.
        calibration: Names of groups, such as ``3,7``, to calibrate magnitudes on.
        resamples: Bootstrap resamples of every interval.
        wandb_project: Log there too; offline unless ``WANDB_MODE`` says otherwise.
        brief: Print one table of all methods, as for a yardstick, with what they cost.
        lds: Compare sums of scores with models of subsets of the groups, too: their tables, or none for
            RUN/scores/retrain-SEED-subsets.parquet.

    Returns:
        The comparison with models without one group each; None where there are none, and ``lds`` is all.

    Raises:
        StoreError: There is no oracle, or tables were made from something else.
        GroupError: A group to calibrate on does not exist.
        ConfigError: There is nothing to compare, or no group left to test a calibration on.
    """
    run = RunFolder(root)
    if wandb_project is not None:
        charts.require()
    subset_files = None if lds is None else subset_tables(run, lds)
    evaluation: Evaluation | None = None
    oracle_files: list[File] = []
    of_singles = oracles or calibration or wandb_project or per == "sample"  # options without a use for sums
    if subset_files is None or of_singles or retrained_tables(run):
        oracle_files = oracle_tables(run, oracles)
        evaluation = _compared(run, oracle_files, scores, per, calibration, resamples, brief)
        if wandb_project is not None:
            _log(run, wandb_project, evaluation)
    if subset_files is not None:
        reference = paired_with_full(run, {path.stem: table for path, table in oracle_files})
        # Scores by an ensemble are a method of what a subset does, and no models without one group each.
        singles = [one for one in oracle_files if not isinstance(one[1].record.details, Ensemble)]
        found = compare_subsets(run, subset_files, singles, reference, scores, resamples=resamples)
        print(lds_text(found))
        found.save(run.evaluation)
    shown = "" if evaluation is None else f"; `guda report {root}` shows it on the page"
    print(f"evaluate: {run.evaluation} written{shown}")
    return evaluation


def _compared(
    run: RunFolder,
    oracle_files: Sequence[File],
    scores: Sequence[Path] | None,
    per: Literal["group", "sample"],
    calibration: str | None,
    resamples: int,
    brief: bool,
) -> Evaluation:
    """Compare tables with models without one group each, print the answer and write it."""
    method_files, notes = method_tables(run, oracle_files, scores)
    evaluation = compare(
        {path.stem: table for path, table in method_files},
        {path.stem: table for path, table in oracle_files},
        run,
        per=per,
        calibration=calibration,
        resamples=resamples,
        notes=notes,
    )
    print(yardstick_text(evaluation, table_costs(run, evaluation)) if brief else agreement_text(evaluation))
    evaluation.save(run.evaluation)
    return evaluation


def _log(run: RunFolder, project: str, evaluation: Evaluation) -> None:
    from guda_lightning.report.logged import log_agreement
    from guda_lightning.report.wandb import closing_runs, project_loggers

    pictures = {weighting: agreement_chart(evaluation, weighting) for weighting in evaluation.weightings}
    with closing_runs():
        loggers = project_loggers(project, run.root, run.name, "evaluate", "evaluate")
        log_agreement(loggers, evaluation.metrics, pictures, evaluation.record)
