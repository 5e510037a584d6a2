"""Whether a counterfactual stands for a model that never saw its group: rules, without an oracle.

What is measured beyond a bound makes a counterfactual doubtful; beyond a wider one by two standard errors,
invalid. ``python -m benchmarks spoiled`` says how often that is right (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, get_args

from guda_lightning.scores import Evidence, Grade, Lead, Rise, Verdict

SIZE, WRONG_SIZE = (0.5, 3.0), (0.25, 6.0)  # of the forgetting, in what the posterior predicts
KEPT, BROKEN = 0.03, 0.12  # rise on samples that are kept, beyond what the posterior predicts
SETTLED = 0.35  # of the forgetting, at most, comes in the last quarter of the steps
STDERRS = 2.0
_GRADES: tuple[Grade, ...] = get_args(Grade)


class Finding(NamedTuple):
    """What one rule says."""

    grade: Grade
    reason: str


def judge(evidence: Evidence, posterior: str | None = None) -> Verdict:
    """Judge one counterfactual: the worst finding decides, and valid is what no rule objects to.

    Args:
        evidence: What was measured of it.
        posterior: Hash of the posterior that predicted; None without one. Where it predicted nothing, the
            counterfactual is its own.
    """
    findings = list(_findings(evidence, posterior))
    worst = max(findings, key=lambda one: _GRADES.index(one.grade))
    reasons = [one.reason for one in findings if one.grade == worst.grade][:2]  # one sentence
    return Verdict(worst.grade, "; ".join(reasons), evidence, posterior)


def _findings(evidence: Evidence, posterior: str | None) -> Iterator[Finding]:
    yield size(evidence.forget, guidance=posterior is not None)
    yield kept("other groups", evidence.retain)
    if evidence.neighbour is not None:
        yield kept(f"group {evidence.neighbour_name}", evidence.neighbour)
    if evidence.last_quarter is not None:
        yield settled(evidence.last_quarter)
    if evidence.lead is not None:
        yield clear(evidence.lead)


def size(forget: Rise, *, guidance: bool = False) -> Finding:
    """Forgotten far enough, and not further than a model that never saw the group would be from it.

    Args:
        forget: On samples of the group.
        guidance: Whether a counterfactual without a prediction is the posterior's own, which is one.
    """
    low, high = forget.mean - STDERRS * forget.stderr, forget.mean + STDERRS * forget.stderr
    cost = f"its own samples cost {100 * forget.mean:.2g} % ± {100 * forget.stderr:.2g} % more"
    if forget.predicted is None:
        if low <= 0:
            return Finding("invalid", f"nothing was forgotten: {cost}")
        if guidance:
            return Finding("valid", cost)
        return Finding("doubtful", f"{cost}, and no posterior says how much it should be: run guda guide")
    if forget.predicted <= 0:
        return Finding("doubtful", "the posterior expects no loss on its own samples")
    times, low, high = (value / forget.predicted for value in (forget.mean, low, high))
    if times < SIZE[0]:
        grade: Grade = "invalid" if high < WRONG_SIZE[0] else "doubtful"
        return Finding(grade, f"forgot only {max(times, 0):.2g} times as far as predicted")
    if times > SIZE[1]:
        grade = "invalid" if low > WRONG_SIZE[1] else "doubtful"
        return Finding(grade, f"forgot {times:.2g} times further than predicted")
    if low <= 0:
        return Finding("doubtful", f"hardly anything was forgotten: {cost}")
    return Finding("valid", f"forgot {times:.2g} times as far as predicted")


def kept(whose: str, rise: Rise) -> Finding:
    """Samples that were to be kept cost no more than the posterior predicts, or than for the full model.

    Args:
        whose: Whose samples they are, for the reason.
        rise: On them.
    """
    surplus = rise.mean - max(rise.predicted or 0.0, 0.0)
    if surplus > KEPT:
        grade: Grade = "invalid" if surplus - STDERRS * rise.stderr > BROKEN else "doubtful"
        return Finding(grade, f"samples of {whose} cost {100 * surplus:.2g} % more than they should")
    return Finding("valid", f"{whose} kept")


def settled(last_quarter: float) -> Finding:
    """Unlearning had come to its end.

    Args:
        last_quarter: Share of the forgetting that came in the last quarter of the steps.
    """
    share = f"{100 * last_quarter:.2g} % of the forgetting came in the last quarter of the steps"
    return Finding("doubtful" if abs(last_quarter) > SETTLED else "valid", share)


def clear(lead: Lead) -> Finding:
    """Where the group leads, noise does not decide that it does.

    Args:
        lead: On the queries that it leads.
    """
    times = lead.gap / lead.stderr if lead.stderr > 0 else float("inf")
    reason = f"it leads {lead.queries} queries by {times:.2g} standard errors together"
    return Finding("doubtful" if times < STDERRS else "valid", reason)


def tally(verdicts: Mapping[str, Verdict]) -> dict[Grade, list[str]]:
    """The groups of every grade, the worst grade first."""
    found: dict[Grade, list[str]] = {grade: [] for grade in reversed(_GRADES)}
    for group, verdict in verdicts.items():
        found[verdict.grade].append(group)
    return found
