"""What a number may claim, by what made it and what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import (
    Coalitions,
    Custom,
    Details,
    Likelihood,
    ModelDetails,
    Race,
    Similarity,
    Student,
)
from guda_lightning.scores.record import ScoringRecord
from guda_lightning.scores.summaries import group_summaries
from guda_lightning.scores.units import TOTAL, Measured, Unit, unit_of
from guda_lightning.scores.views import views

SCORING = ScoringRecord(0, {"kind": "stratified"}, "within strata", "fp32")
SHARE = "share of the query's total, %"
KNOWN = "The size follows from how method is defined: it has no free scale."
UNKNOWN = (
    "The size of method's scores is not known: it grows with the strength of unlearning, and guda evaluate "
    "--calibrate measures it where some groups were retrained."
)
RIGHT = Measured(1.03, 0.91, 1.2, 8, ("3", "7"), scale=0.1, offset=2.0)
WRONG = Measured(0.16, 0.1, 0.2, 10)
OPEN = Measured(0.6, -0.3, 1.5, 10)


def likelihood(sized: bool = False) -> Likelihood:
    return Likelihood(counterfactuals={"g": "hash"}, sized=sized)


def race() -> Race:
    return Race(models={}, top=1, delta=0.1, rounds=(1, 2), race_weighting="elbo", sized=True)


def coalitions(sized: bool) -> Coalitions:
    return Coalitions(coalitions="hash", worth="shapley", draws=9, reference=None, sized=sized)


def record(details: Details) -> ScoreRecord:
    return ScoreRecord(details, scoring=SCORING if isinstance(details, ModelDetails | Student) else None)


def table(details: Details, scores: torch.Tensor, stderr: float = 0.0, **named: object) -> ScoreTable:
    arguments = {"method": "method", "weighting": "elbo", "seed": 0, **named}
    return ScoreTable.from_matrix(
        scores,
        torch.full_like(scores, stderr),
        query_ids=[f"q{i}" for i in range(len(scores))],
        groups=[f"g{i}" for i in range(scores.shape[1])],
        n_draws=2,
        record=record(details),
        **arguments,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("details", "measured", "unit", "why"),
    [
        (likelihood(sized=True), None, "nats", KNOWN),
        (
            likelihood(sized=True),
            Measured(-1.19, -2.18, 4.52, 10),
            SHARE,
            "The size was measured and is not known well enough: retraining's scores grow by −1.19 (−2.18 to "
            "4.52) for every 1 of these, on 10 groups.",
        ),
        (likelihood(), None, SHARE, UNKNOWN),
        (
            likelihood(),
            RIGHT,
            "nats",
            "The size was measured: retraining's scores grow by 1.03 (0.91 to 1.20) for every 1 of these, "
            "on 8 groups that had no part in the calibration.",
        ),
        (
            likelihood(sized=True),
            WRONG,
            SHARE,
            "The size was measured and is wrong: retraining's scores grow by 0.16 (0.10 to 0.20) for every 1 "
            "of these, on 10 groups.",
        ),
        (
            likelihood(),
            OPEN,
            SHARE,
            "The size was measured and is not known well enough: retraining's scores grow by 0.60 (−0.30 to "
            "1.50) for every 1 of these, on 10 groups.",
        ),
        (
            race(),
            None,
            SHARE,
            "The size is not known: a race stops when it knows which groups lead, not by how much.",
        ),
        (Student(), None, SHARE, "The size is not known: method was still unlearning."),
        (coalitions(sized=True), None, "nats", KNOWN),
        (coalitions(sized=False), None, SHARE, UNKNOWN),
        (
            Similarity(images_hash="", mirrored=False, top=1),
            None,
            "elbo similarity",
            "It is no effect of a group: no model without one was compared.",
        ),
        (Custom(), None, "the unit of method", "What it measures, method defines."),
    ],
)
def test_the_unit_and_why(details: Details, measured: Measured | None, unit: str, why: str) -> None:
    found = unit_of(record(details), "method", "elbo", 3, measured=measured)
    assert (found.name, found.why) == (unit, f"{why} {TOTAL}" if unit == SHARE else why)
    assert found.sized == (unit == "nats")


def test_one_group_has_no_share_and_a_sample_its_own_unit() -> None:
    assert unit_of(record(Student()), "method", "elbo", 1).name == "the unit of method"
    per_sample = replace(record(likelihood(sized=True)), per="sample")
    assert unit_of(per_sample, "method", "elbo", 3).name == "nats per training sample"
    unsized = replace(record(likelihood()), per="sample")
    assert unit_of(unsized, "method", "elbo", 3).name == f"{SHARE}, of scores per training sample"
    assert unit_of(record(likelihood(sized=True)), "method", "uniform", 3).name == (
        "difference of the mean squared noise error"
    )


def test_tables_that_were_joined_keep_their_claims() -> None:
    scores = torch.randn(2, 3)
    joined = ScoreTable.concat(
        [
            table(likelihood(sized=True), scores, method="guidance"),
            table(likelihood(), scores, method="retrack"),
            table(race(), scores, method="guidance_race"),
        ]
    )
    assert [view.unit.sized for view in views(joined)] == [True, False, False]
    stored = joined.record.to_json()
    del stored["methods"]  # as tables of before
    old = replace(joined, record=ScoreRecord.from_json(stored, "joined"))
    assert [view.unit.sized for view in views(old)] == [False, False, False]


@given(
    st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3), min_size=1, max_size=4),
    st.floats(1e-3, 1e3),
)
def test_shares_keep_sign_and_order_and_forget_the_scale(
    rows: Sequence[Sequence[float]], scale: float
) -> None:
    unit = Unit(SHARE, "%", "", "", share=True)
    scores = torch.tensor(rows, dtype=torch.float64)
    shares, errors = unit.of(scores, torch.ones_like(scores))
    totals = shares.abs().sum(dim=1)
    assert torch.allclose(totals, torch.where((scores == 0).all(dim=1), 0.0, 100.0).double())
    assert torch.equal(shares.sign(), scores.sign())
    assert torch.equal(
        errors, torch.where(totals > 0, 100 / scores.abs().sum(dim=1), 0.0)[:, None].expand(-1, 3)
    )
    again, _ = unit.of(scale * scores, torch.ones_like(scores))
    assert torch.allclose(again, shares)


@pytest.mark.parametrize(
    ("details", "seeds", "expected"),
    [
        (likelihood(sized=True), 1, "18.0 ± 1.5 nats (±: noise draws only)"),
        (likelihood(sized=True), 3, "18.0 ± 1.5 nats (±: noise draws and 3 training seeds)"),
        (likelihood(), 1, "18.0 ± 1.5 % (±: noise draws only)"),
        (coalitions(sized=True), 1, "18.0 ± 1.5 nats (±: the draw of coalitions only)"),
        (Custom(), 1, "18.0 ± 1.5 (±: as the method states it)"),
    ],
)
def test_the_error_says_what_it_covers(details: Details, seeds: int, expected: str) -> None:
    assert unit_of(record(details), "method", "elbo", 3, seeds).text(18, 1.5) == expected
    exact = replace(record(details), scoring=replace(SCORING, stderr="exact"))
    if isinstance(details, Coalitions):
        assert unit_of(exact, "method", "elbo", 3).covers == "noise draws are not in it"


def test_several_seeds_are_averaged_and_their_spread_is_in_the_error() -> None:
    by_seed = torch.randn(4, 30, 3, dtype=torch.float64)
    seeds = [table(likelihood(sized=True), one, 0.5, seed=number) for number, one in enumerate(by_seed)]
    (view,) = views(ScoreTable.concat(seeds))
    assert (view.seeds, view.title) == ((0, 1, 2, 3), "method, weighting elbo, seeds 0, 1, 2, 3")
    torch.testing.assert_close(view.scores, by_seed.mean(dim=0))
    torch.testing.assert_close(view.stderr, (0.25 + by_seed.var(dim=0) / 4).sqrt())
    training = by_seed.mean(dim=1).var(dim=0) / 4
    queries = by_seed.mean(dim=0).var(dim=0) / 30
    found = [one.stderr for one in group_summaries(view)]
    assert found == pytest.approx((training + queries).sqrt().tolist())
    (alone,) = views(seeds[0])
    torch.testing.assert_close(alone.stderr, torch.full_like(alone.stderr, 0.5))


def test_the_error_over_seeds_covers_the_truth_as_often_as_it_says() -> None:
    truth, seeds, trials = torch.tensor([5.0, -1.0]), 3, 4000
    noise = 0.7 * torch.randn(trials, 2)  # the same for all seeds
    by_seed = truth + noise + 0.9 * torch.randn(seeds, trials, 2)
    (view,) = views(
        ScoreTable.concat(
            [table(likelihood(sized=True), one, 0.7, seed=number) for number, one in enumerate(by_seed)]
        )
    )
    mean_square = ((view.scores - truth) ** 2).mean(dim=0)
    torch.testing.assert_close(view.stderr.square().mean(dim=0), mean_square.double(), rtol=0.08, atol=0)


def test_calibrated_scores_are_shown_on_the_oracles_scale() -> None:
    scores = torch.tensor([[100.0, 20.0, -30.0]])
    known = {("method", "elbo", 0): RIGHT}
    (view,) = views(table(likelihood(), scores, 10.0), known)
    assert view.unit.symbol == "nats"
    torch.testing.assert_close(view.scores, 0.1 * scores.double() + 2)
    torch.testing.assert_close(view.stderr, torch.ones(1, 3, dtype=torch.float64))
    (unknown,) = views(table(likelihood(), scores, 10.0), {("method", "uniform", 0): RIGHT})
    assert unknown.unit.symbol == "%"
