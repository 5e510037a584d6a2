"""Which groups should leave the data, as text and as a section of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from guda_lightning.evaluation.curation import AFTER, RANDOM, Curation, Verification
from guda_lightning.evaluation.targets import PSEUDO
from guda_lightning.functional.curation import Interval
from guda_lightning.report.agreement_text import columns
from guda_lightning.report.section import Section
from guda_lightning.report.text import cut, wrapped
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.frames import load_frame
from guda_lightning.storage.runs import RunFolder

# In RUN/curation.
FOUND, VERIFIED, GROUPS = "influence.parquet", "verification.parquet", "groups.jsonl"
_COMMAND = "guda curate RUN"
_MOST = 20  # groups that are shown, the most harmful ones
_COLUMNS = ("group", "samples", "weighted loss without it", "95 % interval", "worst group's loss", "")
_UNITS = {"elbo": "nats a value", "uniform": "squared noise error a value", "middle": "squared error a value"}


def curation_section(run: RunFolder, table: ScoreTable) -> Section | None:
    """What ``guda curate`` found about the full model and the groups of a score table.

    The queries may be others than those of the page: groups are judged by queries that were held out.
    """
    if not (run.curation / FOUND).is_file():
        return None
    groups, about = load_frame(run.curation / FOUND, _COMMAND)
    record = table.record
    if (about["full_hash"], about["grouping_hash"]) != (record.full_hash, record.grouping_hash):
        return None
    found = Curation(groups, pd.DataFrame(about["targets"]))
    verification = None
    if (run.curation / VERIFIED).is_file():
        frame, of = load_frame(run.curation / VERIFIED, f"{_COMMAND} --verify")
        verification = Verification(frame) if of == about else None  # else of other groups
    rows = _rows(found)
    return Section(
        name="curation",
        title="Which groups should leave the data?",
        lines=curation_lines(found, about, verification),
        columns=_COLUMNS,
        rows=rows,
    )


def curation_text(found: Curation, about: Mapping[str, Any], verification: Verification | None) -> str:
    """What was found, for a terminal."""
    table = columns([_COLUMNS, *_rows(found)], names=40)
    lines = [line for one in curation_lines(found, about, verification) for line in wrapped(one)]
    return "\n".join([*lines, "", *table])


def curation_lines(found: Curation, about: Mapping[str, Any], verification: Verification | None) -> list[str]:
    """What was found, one sentence or paragraph each; the first is the answer."""
    harmful, count = found.harmful, len(found.groups)
    named = ", ".join(cut(name, 30) for name in harmful[:_MOST])
    answer = (
        f"{len(harmful)} of {count} groups should leave the data: {named}."
        if harmful
        else f"None of {count} groups is predicted to harm the target beyond its interval."
    )
    lines = [
        answer,
        f"Target: {_targets(found, about)} ({about['origin']}). Mean loss of the full model under the "
        f"weighting {about['weighting']}, in {_UNITS[about['weighting']]}; groups of queries count by it.",
        f"By {about['method']}-{about['seed']}. Below zero, the weighted loss falls without the group. "
        "Intervals (Student, 95 %) cover the choice of queries and their noise draws, no other training of "
        f"the counterfactuals; of {count} groups without any effect, {0.025 * count:.2g} would be named by "
        "chance.",
    ]
    if about["sampled"]:
        lines.append(
            "The queries are samples of the model itself, from RUN/queries: how badly it serves other images "
            "cannot be seen on them. Score held-out images with guda attribute --queries FOLDER."
        )
    if tuple(found.targets["target"]) == PSEUDO:
        lines.append(
            "Pseudo-groups are split by the same scores that they test, so that a little more is named by "
            "chance."
        )
    if not about["sized"]:
        lines.append(
            f"The size of {about['method']}'s scores is its own, not that of retraining: signs and order are "
            "what they predict."
        )
    elif harmful:
        worst = found.worst
        lines.append(
            f"Without them, the loss of {worst['target']}, the worst group, is predicted to change by "
            f"{_percent(worst['predicted'], worst['loss'])}. That is the sum of scores by which they were "
            "chosen, so it promises a little too much, and a sample in several of them counts in each."
        )
    doubtful = [
        group
        for group, grade in zip(found.groups["group"], found.groups["verdict"], strict=True)
        if group in harmful and grade not in ("", "valid")
    ]
    if doubtful:
        lines.append(f"The counterfactuals of {', '.join(doubtful)} are not valid: verify.")
    if verification is not None:
        lines += _verified(found, about["values"], verification)
    return lines


def _verified(found: Curation, values: int, verification: Verification) -> list[str]:
    seeds = sorted(verification.frame["seed"].unique())
    worst = found.worst
    gains, leads = verification.improvements(worst["target"], worst["loss"])
    lines = []
    for number, what in enumerate((AFTER, RANDOM)):
        after = verification.losses(worst["target"])[number] / values
        lines.append(
            f"Retrained {what} ({_seeds(seeds)}): the loss of {worst['target']} goes from "
            f"{worst['loss'] / values:.4g} to {_spread(after)}, {_gain(gains, number, worst['loss'])}."
        )
    side = "below" if float(leads.value[0]) >= 0 else "above"
    lines.append(
        f"{AFTER.capitalize()} it lies {_with_ends(leads, 0, worst['loss'])} {side} that {RANDOM}, in shares "
        "of the loss before."
    )
    others = [row for row in found.targets.to_dict("records") if row["target"] != worst["target"]]
    if others:
        told = []
        for row in others:
            after, random = verification.losses(row["target"]).mean(dim=1).tolist()
            told.append(
                f"{row['target']} {_percent(after - row['loss'], row['loss'])} "
                f"({_percent(random - row['loss'], row['loss'])})"
            )
        lines.append(f"Loss of the other groups {AFTER} (in brackets {RANDOM}): {', '.join(told[:_MOST])}.")
    lines.append(
        "Intervals (Student, 95 %) cover initialisation, order and noise of both trainings and which samples "
        "are removed at random, for these queries."
        if len(seeds) > 1
        else "One seed has no spread: pass --seeds 0,1,2 to see whether the change is larger than theirs."
    )
    return lines


def _gain(gains: Interval, number: int, loss: float) -> str:
    value, low = (float(part[number]) for part in gains[:2])
    text = f"{'lower' if value > 0 else 'higher'} by {_with_ends(gains, number, loss)}"
    if low != low:
        return text
    return f"{text}: {'an improvement' if low > 0 else 'no improvement'} beyond the seeds' spread"


def _with_ends(interval: Interval, number: int, loss: float) -> str:
    """The size of a change as a share of a loss, with its interval where there is one."""
    value, low, high = (float(part[number]) / loss for part in interval)
    if low != low:
        return f"{abs(value):.2%}"
    low, high = (low, high) if value >= 0 else (-high, -low)
    return f"{abs(value):.2%} [{low:.2%}, {high:.2%}]".replace("-", "−")


def _spread(after: Tensor) -> str:
    if len(after) == 1:
        return f"{float(after):.4g}"
    return f"{float(after.mean()):.4g} (seeds {float(after.min()):.4g} to {float(after.max()):.4g})"


def _seeds(seeds: Sequence[int]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def _weighted_loss(found: Curation) -> float:
    return float((found.targets["weight"] * found.targets["loss"]).sum())


def _targets(found: Curation, about: Mapping[str, Any]) -> str:
    told = [
        f"{cut(row['target'], 30)} (loss {row['loss'] / about['values']:.4g}, weight {row['weight']:.2f}, "
        f"{row['queries']} queries)"
        for row in found.targets.to_dict("records")
        if row["weight"]
    ]
    more = len(told) - _MOST
    return "; ".join(told[:_MOST]) + (f"; and {more} more" if more > 0 else "")


def _rows(found: Curation) -> list[list[str]]:
    loss, worst = _weighted_loss(found), found.worst["loss"]
    return [
        [
            cut(row["group"], 40),
            "" if pd.isna(row["samples"]) else str(int(row["samples"])),
            _percent(row["effect"], loss),
            f"{_percent(row['low'], loss)} to {_percent(row['high'], loss)}",
            _percent(row["worst"], worst),
            "harmful" if row["harmful"] else "",
        ]
        for row in found.groups.head(_MOST).to_dict("records")
    ]


def _percent(rise: float, loss: float) -> str:
    return f"{rise / loss:+.2%}".replace("-", "−")
