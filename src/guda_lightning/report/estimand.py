"""What scores estimate: which behaviour, which intervention and training, and against which yardstick."""

from __future__ import annotations

from guda_lightning.counterfactuals import ENSEMBLE, RETRAIN
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.report.agreement_table import AgreementRow, AgreementTable, oracle_name, share
from guda_lightning.scores.kinds import Coalitions, Ensemble, Influence, ModelDetails, Screened, Student
from guda_lightning.scores.record import ScoreRecord
from guda_lightning.scores.views import View
from guda_lightning.types import JOINT

_BEHAVIOUR = {
    "elbo": "the lower bound on the log-likelihood of the query (ELBO)",
    "uniform": "how well the model denoises the query, all timesteps alike",
    "middle": "how well the model denoises the query at the middle timesteps",
    "loss": "how well the model denoises the query, all timesteps alike",
    "skew": "how well the model denoises the query, by shares of the loss at each noise level",
    "square": "the mean square of the noise that the model predicts for the query, not its likelihood",
    "mean": "the mean of the noise that the model predicts for the query, not its likelihood",
    "l1": "the mean size of the noise that the model predicts for the query, not its likelihood",
}
YARDSTICK = "this is the yardstick"
UNTESTED = "none measured here: guda retrain, attribute and evaluate measure it"


def estimand(
    record: ScoreRecord, view: View, tested: str = UNTESTED, near_duplicates: int | None = None
) -> dict[str, str]:
    """The estimand card: what scores claim to be an estimate of, by heading.

    Args:
        record: Of the table that holds the scores.
        view: The scores.
        tested: How they compare with retraining, as ``tested`` says it.
        near_duplicates: Number of pairs of nearly equal training images in different groups; None where
            nobody has looked.
    """
    first = record.of_method(view.method)[0]
    behaviour = _BEHAVIOUR.get(view.weighting, f"weighting {view.weighting}")
    intervention = _intervention(first, view, near_duplicates)
    training = process(first, view.method) + _seeds(view)
    if is_likeness(first):
        behaviour = f"likeness to training images ({view.weighting}), not what a model does"
        intervention, training = "none: nothing is removed", "none: no model is trained without a group"
    elif not isinstance(first.details, ModelDetails | Student | Influence):
        behaviour = intervention = training = f"as {view.method} defines it"
    elif isinstance(first.details, Influence):
        intervention = f"estimated, not made: {intervention}"
    return {
        "Behaviour": behaviour,
        "Intervention": intervention,
        "Process": training,
        "Size": f"{view.unit.name}. {view.unit.why}",
        "± of a score": view.unit.covers or "none",
        "Yardstick": YARDSTICK if view.method == RETRAIN else tested,
    }


def is_likeness(record: ScoreRecord) -> bool:
    """Whether scores say how alike a query and training images are, and nothing of models without a group."""
    return record.kind in ("similarity", "nonparametric")


def process(record: ScoreRecord, method: str) -> str:
    """How the models without a group came about."""
    details = record.details
    if RETRAIN in method.split("_"):  # also in a race, a screen or coalitions
        return "trained anew from the start without the group"
    if isinstance(details, Ensemble):
        return (
            f"the mean of members of an ensemble of {len(details.members)} that were trained anew without "
            "the group, and mostly without others, too, against as many at random: the ensemble is "
            "attributed, and not the full model"
        )
    if isinstance(details, Influence) and details.forgets_queries:
        return (
            "no training without a group: a copy of the full model forgets the query, and what that costs "
            f"the samples of a group stands for what the group gave to the query ({method})"
        )
    if isinstance(details, Influence):
        return f"no training: what it would change is estimated from the full model alone ({method})"
    if isinstance(details, Student):
        return f"unlearning by {method} from the full model, which goes on"
    if isinstance(details, ModelDetails) and details.classifier is not None:
        return f"no training: the full model, guided away from the group ({method})"
    return f"unlearned from the full model ({method}), a stand-in for training without the group"


def tested(evaluation: Evaluation, table: AgreementTable, row: AgreementRow) -> str:
    """How scores compare with retraining: agreement on the top group, its interval and that of chance.

    Args:
        evaluation: What ``guda evaluate`` found.
        table: Its agreement under one weighting.
        row: That of the scores.
    """
    low, high = row.intervals["top1"]
    seeds = evaluation.record["oracle_seeds"]
    seed = f"seed{'s' if len(seeds) > 1 else ''}"
    kind = f"{seed} of an ensemble" if oracle_name(evaluation) == "ensemble" else f"retrained {seed}"
    return (
        f"{len(seeds)} {kind} of every group; the same top group in "
        f"{share(row.values['top1'])} of the queries (from {share(low)} to {share(high)}; chance "
        f"{share(table.chance.values['top1'])})"
    )


def _intervention(record: ScoreRecord, view: View, near_duplicates: int | None) -> str:
    sizes = [record.group_sizes[group] for group in view.groups if group in record.group_sizes]
    smallest, largest = (min(sizes), max(sizes)) if sizes else (0, 0)
    samples = f" of {smallest:,} to {largest:,} training samples" if smallest < largest else ""
    samples = f" of {largest:,} training samples" if sizes and smallest == largest else samples
    together = ", some of them several groups together" if any(JOINT in name for name in view.groups) else ""
    if isinstance(record.details, Coalitions):
        what = f"each of {len(view.groups)} groups{samples} is removed beside coalitions of the others"
        if record.details.pairs:
            what = (
                f"each of {len(view.groups)} pairs of groups is removed, one by one and together, beside "
                "coalitions of the others"
            )
        if record.details.reference is not None:
            what = f"{what}, and {record.details.reference} always stays"
    else:
        what = f"each of {len(view.groups)} groups{samples} is removed by itself{together}"
    if isinstance(record.details, Screened):
        what = f"{what}; {len(record.details.out)} others were screened out and have no score"
    left = "near duplicates in other groups stay"
    if near_duplicates is not None:
        left = f"{near_duplicates} pairs of near duplicates lie in different groups, and one of each stays"
    return f"{what}; a sample in several groups goes with each of them; {left}"


def _seeds(view: View) -> str:
    seeds = ", ".join(map(str, view.seeds))
    of_full = "" if view.method == ENSEMBLE else ", one full model"
    return f"; seed{'s' if len(view.seeds) > 1 else ''} {seeds}{of_full}"
