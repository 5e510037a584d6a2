"""What a page says in words, whole."""

from __future__ import annotations

import torch

from guda_lightning.report.words import NOT_PROVED, words_of
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Likelihood
from guda_lightning.scores.record import ScoringRecord
from guda_lightning.scores.views import views

SCORING = ScoringRecord(0, {"kind": "stratified"}, "within strata", "fp32")


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
    assert words_of(table.record, view, "two seeds agree", 2) == {
        "answer": "2 of these 3 pictures were made mostly of group cats: removing group cats would cost q0 "
        "18.2 ± 1.5 nats (±: noise draws only). This is a statement of size. Tested against retraining: "
        "two seeds agree.",
        "reading": [
            "A score compares how well two models explain a query: the full one, and one that stands for it "
            "without the group (no training: the full model, guided away from the group (guidance)).",
            "One number of this table: query q0, group cats, 18.2 ± 1.5 nats (±: noise draws only).",
            "Sign: positive. Without the group the query would be less likely: the group contributed.",
            f"Unit: nats. {size} 18.2 nats are a factor of 10^7.9 in likelihood.",
            "±: one standard error; it covers noise draws only. What training anew would change "
            "is not in it.",
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
