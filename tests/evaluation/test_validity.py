"""The rules of verdicts against what they say."""

from __future__ import annotations

import dataclasses

import pytest

from guda_lightning.evaluation.validity import judge
from guda_lightning.scores import Evidence, Grade, Lead, Rise, Verdict

KEPT = Rise(0.001, 0.002, 0.0)


@pytest.mark.parametrize(
    ("forget", "grade", "reason"),
    [
        (Rise(0.2, 0.02, 0.2), "valid", "forgot 1 times as far as predicted; other groups kept"),
        (Rise(0.5, 0.02, 0.2), "valid", "forgot 2.5 times as far as predicted; other groups kept"),
        (Rise(8.0, 0.5, 0.2), "invalid", "forgot 40 times further than predicted"),
        (Rise(0.8, 0.1, 0.2), "doubtful", "forgot 4 times further than predicted"),
        (Rise(8.0, 3.5, 0.2), "doubtful", "forgot 40 times further than predicted"),
        (Rise(0.08, 0.01, 0.2), "doubtful", "forgot only 0.4 times as far as predicted"),
        (Rise(0.01, 0.01, 0.2), "invalid", "forgot only 0.05 times as far as predicted"),
        (Rise(-0.1, 0.01, 0.2), "invalid", "forgot only 0 times as far as predicted"),
        (
            Rise(0.2, 0.15, 0.2),
            "doubtful",
            "hardly anything was forgotten: its own samples cost 20 % ± 15 % more",
        ),
        (Rise(0.2, 0.02, -0.01), "doubtful", "the posterior expects no loss on its own samples"),
    ],
)
def test_forgetting_is_compared_with_what_the_posterior_predicts(
    forget: Rise, grade: Grade, reason: str
) -> None:
    verdict = judge(Evidence(forget, KEPT), "a posterior")
    assert (verdict.grade, verdict.reason) == (grade, reason)


def test_without_a_posterior_nothing_is_valid_and_nothing_forgotten_invalid() -> None:
    forgot = judge(Evidence(Rise(0.2, 0.02), Rise(0.0, 0.01)))
    assert forgot == Verdict(
        "doubtful",
        "its own samples cost 20 % ± 2 % more, and no posterior says how much it should be: run guda guide",
        Evidence(Rise(0.2, 0.02), Rise(0.0, 0.01)),
    )
    kept = judge(Evidence(Rise(0.02, 0.02), Rise(0.0, 0.01)))
    assert (kept.grade, kept.reason) == (
        "invalid",
        "nothing was forgotten: its own samples cost 2 % ± 2 % more",
    )


def test_guidance_is_a_prediction_itself() -> None:
    assert judge(Evidence(Rise(0.2, 0.02), Rise(0.0, 0.01)), "its own").grade == "valid"


@pytest.mark.parametrize(
    ("changed", "grade", "reason"),
    [
        ({"retain": Rise(0.3, 0.02, 0.0)}, "invalid", "samples of other groups cost 30 % more"),
        ({"retain": Rise(0.3, 0.1, 0.0)}, "doubtful", "samples of other groups cost 30 % more"),
        ({"retain": Rise(0.05, 0.001, 0.0)}, "doubtful", "samples of other groups cost 5 % more"),
        ({"neighbour": Rise(0.3, 0.01, 0.28), "neighbour_name": "b"}, "valid", "forgot 1 times"),
        (
            {"neighbour": Rise(0.3, 0.01, 0.0), "neighbour_name": "b"},
            "invalid",
            "samples of group b cost 30 %",
        ),
        ({"last_quarter": 0.3}, "valid", "forgot 1 times"),
        ({"last_quarter": 0.5}, "doubtful", "50 % of the forgetting came in the last quarter of the steps"),
        ({"lead": Lead(1.0, 0.8, 7)}, "doubtful", "it leads 7 queries by 1.2 standard errors together"),
        ({"lead": Lead(1.0, 0.1, 7)}, "valid", "forgot 1 times"),
        ({"lead": Lead(1.0, 0.0, 7)}, "valid", "forgot 1 times"),
    ],
)
def test_the_worst_finding_decides(changed: dict[str, object], grade: Grade, reason: str) -> None:
    evidence = dataclasses.replace(Evidence(Rise(0.2, 0.02, 0.2), KEPT), **changed)
    verdict = judge(evidence, "a posterior")
    assert verdict.grade == grade
    assert verdict.reason.startswith(reason)
    assert Verdict.from_json(verdict.to_json()) == verdict
