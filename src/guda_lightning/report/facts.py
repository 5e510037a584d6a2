"""What a page says of how its scores were made."""

from __future__ import annotations

from collections.abc import Sequence

from guda_lightning.counterfactuals import RETRAIN, CounterfactualRecord
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Ensemble, NonParametric
from guda_lightning.scores.record import ScoringRecord
from guda_lightning.storage.full_record import FullRecord
from guda_lightning.storage.runs import RunFolder
from guda_lightning.storage.stored import WeightsRecord


def facts_of(run: RunFolder, table: ScoreTable, made: Sequence[WeightsRecord]) -> dict[str, str]:
    """Names, hashes, costs and seeds, as rows of two columns.

    Args:
        run: The run folder.
        table: The scores.
        made: What was made for them: counterfactuals, or one posterior; empty where they need none.
    """
    record, method = table.record, table.methods[0]
    facts = {"Run folder": run.name, "Grouping": str(record.grouping_hash)[:16]}
    if record.full_hash is not None:
        facts["Full model"] = record.full_hash[:16]
    if made:
        each = "a group" if isinstance(made[0], CounterfactualRecord) else "in all"
        each = "a member" if isinstance(record.details, Ensemble) else each
        facts["Method"] = f"{method}, {made[0].steps} steps {each}"
        facts[_work(made[0])] = (
            f"{sum(one.seconds for one in made):.0f} s, "
            f"{sum(one.network_evaluations for one in made):,} network evaluations"
        )
    else:
        facts["Method"] = method
    if record.scoring is not None:
        facts["Timesteps"] = _timesteps(record.scoring)
        facts["Standard error"] = record.scoring.stderr
        facts["Noise seed"] = str(record.scoring.seed)
    if isinstance(record.details, NonParametric):
        facts["Options"] = ", ".join(f"{name} {value}" for name, value in record.details.options.items())
    return facts | _training(run, table)


def _work(made: WeightsRecord) -> str:
    """What went into the scores."""
    if not isinstance(made, CounterfactualRecord):
        return "Posterior"
    return "Retraining" if made.operator == RETRAIN else "Unlearning"


def _training(run: RunFolder, table: ScoreTable) -> dict[str, str]:
    """What went into the full model, unless it is another one, named with --full."""
    full = FullRecord.of_run(run.full)
    if full is None or full.full_hash != table.record.full_hash:
        return {}
    return {"Training": f"{full.steps:,} steps, {full.seconds:.0f} s"}


def _timesteps(scoring: ScoringRecord) -> str:
    plan = scoring.plan
    low, high = plan["range"]
    kind = "a fixed grid (biased)" if plan["biased"] else "strata (unbiased)"
    return f"{len(plan['starts'])} {kind} x {plan['draws']} draws of {low} <= t <= {high}"
