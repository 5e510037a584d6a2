"""What a page says of its scores in words: the answer, and one number of the table read out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from guda_lightning.report.estimand import UNTESTED, estimand, is_likeness, process
from guda_lightning.report.standing import Standing
from guda_lightning.scores.kinds import (
    Coalitions,
    Ensemble,
    Influence,
    ModelDetails,
    NonParametric,
    Race,
    Student,
)
from guda_lightning.scores.record import ScoreRecord
from guda_lightning.scores.summaries import UNDECIDED_BELOW, group_summaries, margins
from guda_lightning.scores.views import View

NOT_PROVED = (
    "What it does not prove: that anything was copied, who the author is in law, or what another model would "
    "do. It is about this one full model and these groups; another training on the same data may differ."
)


def words_of(
    record: ScoreRecord,
    view: View,
    standing: Standing,
    tested: str = UNTESTED,
    near_duplicates: int | None = None,
) -> Mapping[str, Any]:
    """The first paragraph, the worked number, the estimand card, and whether a sign says what a query needs.

    Args:
        record: Of the table that holds the scores.
        view: The scores.
        standing: What they are worth.
        tested: How they compare with retraining.
        near_duplicates: Number of pairs of nearly equal training images in different groups, if it is known.
    """
    query, group = _chosen(view)
    first = record.of_method(view.method)[0]
    value, error = float(view.scores[query, group]), float(view.stderr[query, group])
    names = view.queries[query], view.groups[group]
    return {
        "answer": _answer(first, view, standing, names, value, error),
        "needed": _removes(first, view.weighting),
        "reading": [
            _method(first, view.method),
            *_reading(first, view, standing, names, value, error),
            NOT_PROVED,
        ],
        "estimand": estimand(record, view, tested, near_duplicates),
    }


def _removes(record: ScoreRecord, weighting: str) -> bool:
    """Whether a score says what a query loses without one group."""
    details = record.details
    if isinstance(details, Ensemble):
        return False  # it says so against the other groups, and its sign nothing
    if isinstance(details, Influence):
        return weighting in ("loss", "skew")  # other outputs of a network are no losses
    pairs = isinstance(details, Coalitions) and details.pairs
    return isinstance(details, ModelDetails | Student) and not pairs


def _chosen(view: View) -> tuple[int, int]:
    """The query that speaks for the page, and its top group, if possible the one that leads most."""
    leader = max(enumerate(group_summaries(view)), key=lambda pair: (pair[1].top, -pair[0]))[0]
    top = view.scores.argmax(dim=1)
    clear = margins(view.scores, view.stderr) >= UNDECIDED_BELOW
    for candidates in ((top == leader) & clear, top == leader):
        if candidates.any():
            query = int(candidates.int().argmax())
            return query, leader
    return 0, int(top[0])


def _answer(
    record: ScoreRecord, view: View, standing: Standing, names: tuple[str, str], value: float, error: float
) -> str:
    query, group = names
    led = int((view.scores.argmax(dim=1) == view.groups.index(group)).sum())
    count = len(view.queries)
    which = f"{led} of these {count} pictures" if count > 1 else "The picture"
    number = view.unit.text(value, error)
    have, are = ("have", "are") if led > 1 else ("has", "is")
    highest = f"{which} {have} the highest score for group {group}; that of {query} is {number}."
    if standing.level == "chance":
        return f"No answer: {standing.unclear}. {highest}"
    if is_likeness(record):
        return (
            f"{which} {are} most like group {group}; the score of {query} is {number}. This says what is "
            "alike, not what the model learnt it from."
        )
    if not isinstance(record.details, ModelDetails | Student | Influence):
        return f"{highest} What it is the size of, {view.method} defines."
    if isinstance(record.details, Coalitions) and record.details.pairs:
        return (
            f"{which} {have} the strongest interaction between groups {group}: {number} for {query}. "
            "Positive: the two stand in for each other."
        )
    made = "owe most to" if led > 1 else "owes most to"
    if isinstance(record.details, Ensemble):
        return (
            f"{which} {made} group {group}: its score for {query} is {number}, relative to the other groups."
        )
    if value <= 0:
        made = "owe most, if anything, to" if led > 1 else "owes most, if anything, to"
    mean = ", on average over coalitions of the others" if isinstance(record.details, Coalitions) else ""
    effect = (
        f"group {group} has {number} of all that these groups do to {query}"
        if view.unit.share
        else f"removing group {group} would cost {query} {number}"
        if value > 0
        else f"removing group {group} would gain {query} {view.unit.text(-value, error)}"
    ) + mean
    return f"{which} {made} group {group}: {effect}."


def _method(record: ScoreRecord, method: str) -> str:
    """What a score of this kind of method compares."""
    details = record.details
    if isinstance(details, Influence) and details.forgets_queries:
        return (
            "A score says how much worse the samples of a group are explained by a copy of the full model "
            f"that has forgotten the query ({method}); no model without the group is made."
        )
    if isinstance(details, Influence):
        return (
            "A score estimates from the full model alone how much worse a query would be explained without "
            f"the group ({method}); no model without it is made."
        )
    if not isinstance(details, ModelDetails | Student):
        if isinstance(details, NonParametric):
            return (
                "A score says how much of a query, noised, a group's training patches explain among all "
                "training patches; the model is not asked."
            )
        if is_likeness(record):
            return "A score says how alike a query and a group's training images are; the model is not asked."
        return f"What a score compares, {method} defines."
    if isinstance(details, Ensemble):
        return f"A score compares how well two ensembles explain a query: {process(record, method)}."
    compared = (
        "A score compares how well two models explain a query: the full one, and one that stands for it "
        f"without the group ({process(record, method)})."
    )
    if isinstance(details, Coalitions):
        return f"{compared} Here it is averaged over coalitions of the other groups ({details.worth})."
    if isinstance(details, Race):
        return f"{compared} Queries stopped when their top {details.top} groups were known."
    return compared


def _reading(
    record: ScoreRecord, view: View, standing: Standing, names: tuple[str, str], value: float, error: float
) -> list[str]:
    query, group = names
    text = view.unit.text(value, error)
    lines = [f"One number of this table: query {query}, group {group}, {text}."]
    if isinstance(record.details, Coalitions) and record.details.pairs:
        lines.append(
            "Sign: positive where removing both costs more than the sum of what removing each costs."
        )
    elif _removes(record, view.weighting) and standing.level != "chance":
        less, did = ("less likely", "contributed") if value > 0 else ("more likely", "stood in the way")
        if view.weighting != "elbo":  # no bound on a likelihood
            less = f"explained {'worse' if value > 0 else 'better'}"
        lines.append(
            f"Sign: {'positive' if value > 0 else 'negative' if value < 0 else 'zero'}. "
            + (f"Without the group the query would be {less}: the group {did}." if value else "")
        )
    lines.append(f"Unit: {view.unit.name}. {view.unit.why}{_odds(view, value)}")
    if error > 0 and view.unit.covers:
        lines.append(
            f"± of a score: one standard error of the estimate; it covers {view.unit.covers}."
            + ("" if len(view.seeds) > 1 else " What training anew would change is not in it.")
        )
    if len(view.queries) > 1:
        lines.append(
            "± of a group's mean: one standard error between queries, which other queries would change."
        )
    return [line.strip() for line in lines]


def _odds(view: View, value: float) -> str:
    """A number of nats as a factor of likelihood."""
    if not view.unit.sized or view.unit.symbol != "nats" or abs(value) < 0.5:  # of which nobody would notice
        return ""
    return f" {abs(value):.3g} nats are a factor of 10^{abs(value) / math.log(10):.1f} in likelihood."
