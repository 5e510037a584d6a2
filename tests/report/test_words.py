"""What a page says in words, whole."""

from __future__ import annotations

import pytest
import torch

from guda_lightning.functional.ablation import OF_MEMBERS
from guda_lightning.report.estimand import UNTESTED, process
from guda_lightning.report.placebo_section import Placebo
from guda_lightning.report.standing import Findings, Standing
from guda_lightning.report.words import NOT_PROVED, words_of
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import (
    Coalitions,
    Details,
    Ensemble,
    Influence,
    Likelihood,
    NonParametric,
    Race,
    Screened,
    Similarity,
)
from guda_lightning.scores.record import ScoringRecord
from guda_lightning.scores.units import RELATIVE
from guda_lightning.scores.views import views

SCORING = ScoringRecord(0, {"kind": "stratified"}, "within strata", "fp32")


def standing(table: ScoreTable) -> Standing:
    return Findings().standing(table.record, views(table)[0])


def test_the_words_about_sized_scores() -> None:
    details = Likelihood(counterfactuals={}, classifier="hash", sized=True)
    table = ScoreTable.from_matrix(
        torch.tensor([[18.2, 3.0, -4.0], [1.0, 9.0, 0.0], [20.0, 1.0, 1.0]]),
        torch.full((3, 3), 1.5),
        query_ids=["q0", "q1", "q2"],
        groups=["cats", "dogs", "birds"],
        n_draws=2,
        method="guidance",
        weighting="elbo",
        seed=0,
        record=ScoreRecord(details, scoring=SCORING, group_sizes={"cats": 4, "dogs": 4, "birds": 4}),
    )
    (view,) = views(table)
    size = "The size follows from how guidance is defined: it has no free scale."
    assert words_of(table.record, view, standing(table), "two seeds agree", 2) == {
        "answer": "2 of these 3 pictures owe most to group cats: removing group cats would cost q0 "
        "18.2 ± 1.5 nats (±: noise draws only).",
        "needed": True,
        "reading": [
            "A score compares how well two models explain a query: the full one, and one that stands for it "
            "without the group (no training: the full model, guided away from the group (guidance)).",
            "One number of this table: query q0, group cats, 18.2 ± 1.5 nats (±: noise draws only).",
            "Sign: positive. Without the group the query would be less likely: the group contributed.",
            f"Unit: nats. {size} 18.2 nats are a factor of 10^7.9 in likelihood.",
            "± of a score: one standard error of the estimate; it covers noise draws only. What training "
            "anew would change is not in it.",
            "± of a group's mean: one standard error between queries, which other queries would change.",
            NOT_PROVED,
        ],
        "estimand": {
            "Behaviour": "the lower bound on the log-likelihood of the query (ELBO)",
            "Intervention": "each of 3 groups of 4 training samples is removed by itself; a sample in "
            "several groups goes with each of them; 2 pairs of near duplicates lie in different groups, and "
            "one of each stays",
            "Process": "no training: the full model, guided away from the group (guidance); seed 0, one "
            "full model",
            "Size": f"nats. {size}",
            "± of a score": "noise draws only",
            "Yardstick": "two seeds agree",
        },
    }


@pytest.mark.parametrize(
    ("weighting", "value", "said"),
    [
        ("elbo", 18.2, "positive|less likely: the group contributed"),
        ("uniform", 18.2, "positive|explained worse: the group contributed"),
        ("middle", -1.2, "negative|explained better: the group stood in the way"),
    ],
)
def test_a_sign_speaks_of_likelihood_under_its_bound_alone_and_of_nothing_by_chance(
    weighting: str, value: float, said: str
) -> None:
    table = ScoreTable.from_matrix(
        torch.tensor([[value, value - 9]]),
        torch.full((1, 2), 1.5),
        query_ids=["q0"],
        groups=["cats", "dogs"],
        n_draws=2,
        method="guidance",
        weighting=weighting,
        seed=0,
        record=ScoreRecord(Likelihood(counterfactuals={}, classifier="hash", sized=True), scoring=SCORING),
    )
    (view,) = views(table)
    sign, what = said.split("|")
    assert words_of(table.record, view, standing(table))["reading"][2] == (
        f"Sign: {sign}. Without the group the query would be {what}."
    )
    found = Findings(placebo=Placebo([], {weighting: frozenset({"q0"})})).standing(table.record, view)
    words = words_of(table.record, view, found)
    assert not any(line.startswith("Sign") for line in words["reading"])
    assert words["answer"].startswith(
        "No answer: the placebo test finds no query that a group influences more than random groups of its "
        "size do, by guidance. The picture has the highest score for group cats;"
    )


def coalitions(worth: str) -> Coalitions:
    return Coalitions(
        coalitions="hash", worth=worth, draws=9, reference="owls", classifier="hash", sized=True
    )


@pytest.mark.parametrize(
    ("details", "said"),
    [
        (
            coalitions("shapley"),
            [
                "The picture owes most to group cats: removing group cats would cost q0 18.2 ± 1.5 nats "
                "(±: the draw of coalitions only), on average over coalitions of the others.",
                "each of 3 groups is removed beside coalitions of the others, and owls always stays;",
            ],
        ),
        (
            coalitions("shapley_interactions"),
            [
                "The picture has the strongest interaction between groups cats: 18.2 ± 1.5 nats (±: the "
                "draw of coalitions only) for q0. Positive: the two stand in for each other.",
                "Sign: positive where removing both costs more than the sum of what removing each costs.",
                "each of 3 pairs of groups is removed, one by one and together, beside coalitions of the "
                "others,",
            ],
        ),
        (
            Screened(
                counterfactuals={}, screen="hash", screened_by="nda", screen_weighting="elbo", out=["owls"]
            ),
            [
                "group cats has 72.2 ± 6.0 % (±: noise draws only) of all that these groups do to q0.",
                "each of 3 groups is removed by itself; 1 others were screened out and have no score;",
                "The total is the sum over the groups of this table, without signs.",
            ],
        ),
    ],
)
def test_the_words_follow_from_the_kind_of_scores(details: Details, said: list[str]) -> None:
    table = ScoreTable.from_matrix(
        torch.tensor([[18.2, 3.0, -4.0]]),
        torch.full((1, 3), 1.5),
        query_ids=["q0"],
        groups=["cats", "dogs", "birds"],
        n_draws=2,
        method="method",
        weighting="elbo",
        seed=0,
        record=ScoreRecord(details, scoring=SCORING),
    )
    (view,) = views(table)
    words = words_of(table.record, view, standing(table))
    text = "\n".join([words["answer"], *words["reading"], *words["estimand"].values()])
    for sentence in said:
        assert sentence in text, text


@pytest.mark.parametrize(
    ("details", "weighting", "said"),
    [
        (
            Similarity(images_hash="", mirrored=False, top=1),
            "cosine",
            "A score says how alike a query and a group's training images are; the model is not asked.",
        ),
        (
            NonParametric(data_hash="", mirrored=False, schedule="", options={}),
            "posterior",
            "A score says how much of a query, noised, a group's training patches explain among all training "
            "patches; the model is not asked.",
        ),
        (
            Influence(data_hash="", mirrored=False, options={}),
            "loss",
            "A score estimates from the full model alone how much worse a query would be explained without "
            "the group (method); no model without it is made.",
        ),
    ],
)
def test_each_kind_of_method_says_what_it_compares(details: Details, weighting: str, said: str) -> None:
    table = ScoreTable.from_matrix(
        torch.tensor([[0.6712, 0.6708]]),
        torch.zeros(1, 2),
        query_ids=["q0"],
        groups=["cats", "dogs"],
        n_draws=1,
        method="method",
        weighting=weighting,
        seed=0,
        record=ScoreRecord(details),
    )
    words = words_of(table.record, views(table)[0], standing(table))
    assert words["reading"][0] == said
    if isinstance(details, Similarity | NonParametric):
        said = " ".join([words["answer"], *words["reading"], *words["estimand"].values()])
        assert "most like group cats" in said and "likel" not in said.replace("likeness", "")


@pytest.mark.parametrize("shift", [0.0, -100.0])
def test_no_sign_of_a_score_by_an_ensemble_is_told(shift: float) -> None:
    table = ScoreTable.from_matrix(
        torch.tensor([[18.2, 3.0, -4.0]]) + shift,
        torch.full((1, 3), 1.5),
        query_ids=["q0"],
        groups=["cats", "dogs", "birds"],
        n_draws=2,
        method="ensemble",
        weighting="elbo",
        seed=0,
        record=ScoreRecord(
            Ensemble(counterfactuals={}, members=["w", "x"], unseen={"cats": [0, 1]}, sized=True),
            scoring=ScoringRecord(0, {"kind": "stratified"}, f"within strata, and {OF_MEMBERS}", "fp32"),
        ),
    )
    (view,) = views(table)
    words = words_of(table.record, view, standing(table))
    covers = "noise draws and the ensemble's members, but not what other groups add"
    number = f"{'18.2' if shift == 0 else '−81.8'} ± 1.5 nats (±: {covers})"
    assert words["answer"] == (
        f"The picture owes most to group cats: its score for q0 is {number}, relative to the other groups."
    )
    assert not words["needed"]
    assert words["reading"][1:] == [
        f"One number of this table: query q0, group cats, {number}.",
        f"Unit: nats, relative to the other groups. {RELATIVE}",
        f"± of a score: one standard error of the estimate; it covers {covers}. What training anew would "
        "change is not in it.",
        NOT_PROVED,
    ]
    assert words["estimand"]["Yardstick"] == UNTESTED


def test_a_race_of_retrained_models_was_not_unlearned() -> None:
    race = Race(models={}, top=1, delta=0.1, rounds=(1, 2), race_weighting="elbo", sized=True)
    assert process(ScoreRecord(race), "retrain_race") == "trained anew from the start without the group"
