"""What an evaluation means for its reader, in sentences."""

from __future__ import annotations

from guda_lightning.evaluation.agreement import ORACLE
from guda_lightning.evaluation.result import EVERY, Evaluation
from guda_lightning.report.agreement_table import (
    MAIN,
    AgreementRow,
    AgreementTable,
    agreement_table,
    matching,
    oracle_name,
    share,
)
from guda_lightning.scores.units import Measured

NO_UPPER_BOUND = (
    "Oracle agreement is no upper bound: a method with less noise of its own can agree better with an oracle "
    "than the oracle's seeds agree with each other."
)
ONE_SEED = "The oracle's own agreement needs a second seed: guda retrain -c ... --seeds 0,1."
ONE_ENSEMBLE = "The ensemble's own agreement needs a second seed: guda ensemble -c ... --seed 1."

_ONE = {"retraining": ONE_SEED, "ensemble": ONE_ENSEMBLE}


def verdicts(evaluation: Evaluation) -> list[str]:
    """Whether each method may stand in for retraining here, under the weighting that retraining repeats best.

    A method falls short of a second retraining where the paired interval of the difference is below zero.
    Where it is not, its lower end says how much worse the method may be: much, with few groups or queries. A
    method is no better than chance if the interval of its top-1 agreement reaches that.
    """
    table = agreement_table(evaluation, evaluation.weightings[0])
    return [
        f"{row.label} (weighting {table.weighting}) {ranks(evaluation, table, row)}"
        f"{_sizes(evaluation, table, row)}."
        for row in table.methods
    ]


def no_better_than_chance(table: AgreementTable, row: AgreementRow) -> bool:
    """Whether the interval of a row's top-1 agreement reaches that of ranking at random, or is not known."""
    return not row.intervals["top1"][0] > table.chance.values["top1"]


def ranks(evaluation: Evaluation, table: AgreementTable, row: AgreementRow) -> str:
    """How well a method ranks, in words that follow its name.

    Args:
        evaluation: What ``guda evaluate`` found.
        table: Its agreement under one weighting.
        row: The method's row of it.
    """
    if no_better_than_chance(table, row):
        return "ranks no better than chance: do not use its order"
    oracle = table.oracle
    if oracle is None:
        ensemble = oracle_name(evaluation) == "ensemble"
        second = "train a second ensemble" if ensemble else "retrain a second oracle seed"
        return f"ranks better than chance; {second} to see whether it ranks as well as that"
    rows = matching(
        evaluation.comparisons, weighting=table.weighting, noise=EVERY, first=row.label, second=ORACLE
    )
    difference = {found["metric"]: found for found in rows}
    worse = [
        f"{metric} ({share(row.values[metric])} against {share(oracle.values[metric])})"
        for metric in MAIN
        if difference[metric]["high"] < 0
    ]
    if worse:
        return f"falls short of a second {oracle_name(evaluation)} in {' and '.join(worse)}"
    margin = max(0.0, -difference["top1"]["low"])
    return (
        f"is not told apart from a second {oracle_name(evaluation)}: at most {share(margin, 2)} worse in top1"
    )


def _sizes(evaluation: Evaluation, table: AgreementTable, row: AgreementRow) -> str:
    found = matching(
        evaluation.magnitudes,
        weighting=table.weighting,
        noise=EVERY,
        method=row.label,
        pooling="within",
        quantity="slope",
    )
    if not found:
        return ""
    (slope,) = found
    ends = f"{slope['value']:.3g} [{slope['low']:.3g}, {slope['high']:.3g}]"
    if Measured(slope["value"], slope["low"], slope["high"], 0).right:
        return f"; its scores have the oracle's size within queries (slope {ends})"
    if slope["low"] <= 1 <= slope["high"]:
        return f"; whether its scores have the oracle's size is not known well enough (slope {ends})"
    return f"; differences between groups are {ends} times as large under the oracle"


def notes(evaluation: Evaluation) -> list[str]:
    """Sentences that go with the numbers."""
    several, one_seed = len(evaluation.record["oracles"]) > 1, _ONE[oracle_name(evaluation)]
    return [*evaluation.record["notes"], *_preferred(evaluation), NO_UPPER_BOUND if several else one_seed]


def _preferred(evaluation: Evaluation) -> list[str]:
    """The weighting to choose: under another one, even retraining does not say the same twice."""
    agreed = evaluation.oracle_agreement
    if len(agreed) < 2:
        return []
    first, *others = evaluation.weightings
    oracle = agreement_table(evaluation, first).oracle
    if oracle is None or oracle.intervals["top1"][0] <= max(agreed[name] for name in others):
        return []  # no weighting is clearly better
    rest = ", ".join(f"{share(agreed[name])} under {name}" for name in others)
    oracle_of = oracle_name(evaluation, article=True)
    return [
        f"Choose weighting {first} here: {oracle_of} repeats its own top group best under it "
        f"({share(agreed[first])}, {rest})."
    ]
