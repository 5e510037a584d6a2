"""What scores are worth, in the words that stand first on the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from guda_lightning.evaluation.result import Evaluation
from guda_lightning.report.agreement_verdicts import verdicts
from guda_lightning.report.estimand import UNTESTED
from guda_lightning.report.placebo_section import Placebo
from guda_lightning.report.standing import Findings, Standing
from guda_lightning.report.summary_text import summary
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import Likelihood, Similarity
from guda_lightning.scores.record import ScoringRecord
from guda_lightning.scores.units import Measured
from guda_lightning.scores.views import views

Build = Callable[..., Evaluation]
Table = Callable[..., ScoreTable]
SCORING = ScoringRecord(0, {"kind": "stratified"}, "within strata", "fp32")


def about(evaluation: Evaluation, table: ScoreTable) -> Findings:
    """The evaluation as if its method `mine` were the table."""
    methods = {**evaluation.record["methods"], "mine": table.record.hash}
    return Findings(replace(evaluation, record={**evaluation.record, "methods": methods}))


def standing(table: ScoreTable, findings: Findings) -> Standing:
    return findings.standing(table.record, views(table, findings.sizes(table))[0])


@pytest.fixture
def unlearned(score_table: Table) -> ScoreTable:
    table = score_table(torch.tensor([[9.0, 1.0, 0.0], [1.0, 5.0, 2.0]]))
    return replace(table, record=ScoreRecord(Likelihood(counterfactuals={}), scoring=SCORING))


def test_untested_scores_say_so(unlearned: ScoreTable) -> None:
    found = standing(unlearned, Findings())
    assert found == Standing(
        "untested",
        "Untested: nobody has measured here whether retrack ranks groups as retraining does. guda retrain, "
        "guda attribute --operator retrain and guda evaluate measure it.",
        "No size claimed, order only: share of the query's total, %. The size of retrack's scores is not "
        "known: it grows with the strength of unlearning, and guda evaluate --calibrate measures it where "
        "some groups were retrained. The total is the sum over the groups of this table, without signs.",
        "retrack, weighting elbo, seed 0",
    )


def test_an_order_no_better_than_chance_is_not_to_be_used(unlearned: ScoreTable, evaluation: Build) -> None:
    findings = about(evaluation(mine=torch.randn_like), unlearned)
    found = standing(unlearned, findings)
    assert found.level == "chance"
    assert found.headline.startswith(
        "Do not use this order: retrack ranks groups no better than chance here. Tested against 2 retrained "
        "seeds of every group; the same top group in ."
    )
    assert found.unclear == "retrack ranks groups no better than chance here"
    assert found.size == "No size claimed: not even the order of these numbers is to be used."
    lines = summary(unlearned, findings).splitlines()
    assert lines[0] == "retrack, weighting elbo, seed 0: 2 queries, 3 groups"  # none is decided or undecided
    assert lines[1].startswith("Do not use this order: retrack ranks groups no better than chance here.")
    assert not any("?" in line for line in lines)


def test_a_tested_order_is_told_with_its_test(unlearned: ScoreTable, evaluation: Build) -> None:
    found = standing(unlearned, about(evaluation(mine=lambda truth: truth), unlearned))
    assert (found.level, found.unclear) == ("tested", "")
    assert found.headline.startswith("Retrack is not told apart from a second retraining: at most .")


def test_a_mean_of_which_one_seed_alone_was_compared_is_untested(
    unlearned: ScoreTable, evaluation: Build
) -> None:
    record = replace(unlearned.record, details=Likelihood(counterfactuals={"g0": "of seed 1"}))
    frame = unlearned.to_pandas().assign(seed=1)
    rows = unlearned.table.from_pandas(frame, schema=unlearned.table.schema, preserve_index=False)
    both = ScoreTable.concat([unlearned, ScoreTable(rows, record)])
    findings = about(evaluation(mine=lambda truth: truth), unlearned)
    found = standing(both, findings)
    assert (found.level, found.headline) == (
        "untested",
        "Untested: 1 of the 2 tables that this is the mean of were compared with retraining, and not the "
        "others. guda evaluate compares them all.",
    )
    assert findings.tested(both.record, views(both)[0]) == UNTESTED


def test_a_measured_size_that_could_be_anything_is_not_claimed_by_construction(
    unlearned: ScoreTable, evaluation: Build
) -> None:
    details = Likelihood(counterfactuals={}, sized=True)
    table = replace(unlearned, record=replace(unlearned.record, details=details))
    assert standing(table, Findings()).size.startswith("Size claimed: nats.")
    built = evaluation(mine=lambda truth: truth)
    unknown = built.magnitudes.assign(value=-1.19, low=-2.18, high=4.52)
    found = standing(table, about(replace(built, magnitudes=unknown), table))
    assert found.size.startswith(
        "No size claimed, order only: share of the query's total, %. The size was measured and is not known "
        "well enough: retraining's scores grow by −1.19 (−2.18 to 4.52) for every 1 of these"
    )


def test_an_oracle_is_the_yardstick_unless_it_contradicts_itself(
    unlearned: ScoreTable, evaluation: Build
) -> None:
    built = evaluation("other")
    oracles = {**built.record["oracles"], "retrain-0": unlearned.record.hash}
    built = replace(built, record={**built.record, "oracles": oracles})
    assert standing(unlearned, Findings(built)).level == "yardstick"
    frame = built.metrics.assign(low=0.0)
    assert standing(unlearned, Findings(replace(built, metrics=frame))).headline == (
        "Do not use this order: retraining repeats its own order no better than chance here."
    )


def test_the_placebo_test_may_leave_no_query(unlearned: ScoreTable) -> None:
    def tested(*missed: str) -> Standing:
        return standing(unlearned, Findings(placebo=Placebo([], {"elbo": frozenset(missed)})))

    assert tested("q0", "q1").headline == (
        "Do not use this order: the placebo test finds no query that a group influences more than random "
        "groups of its size do, by retrack."
    )
    assert tested("q0", "q1").unclear == (
        "the placebo test finds no query that a group influences more than random groups of its size do, by "
        "retrack"
    )
    some = tested("q1")
    assert some.level == "untested"
    assert some.headline.endswith(" Placebo test: 1 of 2 queries are attributable.")


def test_a_similarity_is_compared_under_a_weighting_of_the_oracle_and_calls_nothing_clear(
    score_table: Table, evaluation: Build
) -> None:
    scores = torch.tensor([[0.6712, 0.6708, 0.1], [0.9, 0.2, 0.1]])
    table = score_table(scores, torch.zeros(2, 3), method="similarity", weighting="cosine")
    details = Similarity(images_hash="", mirrored=False, top=10)
    table = replace(table, record=ScoreRecord(details))
    findings = about(evaluation(mine=lambda truth: truth), table)
    found = standing(table, findings)
    assert found.level == "tested"
    assert found.unclear == "similarity states no ±, so nothing tells a lead from noise"
    assert "none is clear: similarity states no ±" in " ".join(summary(table, findings).split())


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ((-1.19, -2.18, 4.52), "whether its scores have the oracle's size is not known well enough"),
        ((0.9, -0.1, 1.5), "whether its scores have the oracle's size is not known well enough"),  # holds 0
        ((1.2, 1.1, 1.3), "differences between groups are 1.2 [1.1, 1.3] times as large under the oracle"),
        ((1.1, 0.8, 1.4), "its scores have the oracle's size within queries"),
    ],
)
def test_a_size_is_claimed_where_the_interval_holds_one_excludes_zero_and_is_narrow(
    evaluation: Build, ends: tuple[float, float, float], said: str
) -> None:
    built = evaluation(mine=lambda truth: truth)
    named: dict[str, Any] = dict(zip(("value", "low", "high"), ends, strict=True))
    (sentence,) = verdicts(replace(built, magnitudes=built.magnitudes.assign(**named)))
    assert said in sentence
    assert Measured(*ends, groups=5).right == ("have the oracle's size within" in said)
