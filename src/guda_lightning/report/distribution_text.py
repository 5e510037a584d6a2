"""How groups change the law of training, in words: for a terminal, and for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from guda_lightning.evaluation.distribution import DistributionEvaluation
from guda_lightning.functional.distribution import DELTAS, FEWEST
from guda_lightning.report.agreement_table import count_of, interval, matching, share
from guda_lightning.report.agreement_text import columns
from guda_lightning.report.text import wrapped
from guda_lightning.scores.summaries import with_error

SHOWN = {"mean": "mean", "variance": "variance", "ratio": "ratio", "wasserstein": "W2"}
NATS = {"elbo": "nats"}
# Trainings to the chance that they tell a variance from one four times as large, of other trainings and of
# the same (correlation .84), over 16 queries that correlate by .5; simulated in the tests.
POWER = {3: (0.04, 0.37), 5: (0.45, 0.85), 10: (0.90, 1.0)}


def distribution_text(found: DistributionEvaluation) -> str:
    """Write it in lines of at most 100 columns: a table for each method, under the first weighting."""
    weighting = found.record["weightings"][0]
    parts = ["\n".join(wrapped(title(found, weighting)))]
    for method in found.methods:
        heads = [method, *SHOWN.values(), "trainings"]
        parts.append("\n".join(columns([heads, *group_rows(found, weighting, method)])))
    if found.record["lds"]:
        parts.append("\n".join([*wrapped(lds_title(found)), *columns(lds_rows(found, weighting))]))
    sentences = [of(found, weighting, method) for method in found.methods for of in (decided, chance)]
    sentences += [floor(found, weighting), *found.record["notes"]]
    parts.append("\n".join(line for sentence in sentences if sentence for line in wrapped(sentence)))
    return "\n\n".join(parts)


def title(found: DistributionEvaluation, weighting: str) -> str:
    """What was compared, and how to read it."""
    record = found.record
    seeds = ", ".join(map(str, record["full_seeds"]))
    unit = f", in {NATS[weighting]}, variances in {NATS[weighting]}²" if weighting in NATS else ""
    return (
        f"Law of training: log-likelihoods of {record['queries']} queries (weighting {weighting}{unit}) with "
        f"the group, {count_of(len(record['full_seeds']), 'full model')} (seeds {seeds}), and without it. "
        "mean: with minus without; variance: without minus with; ratio: variance without by that with, below "
        f"1 where the group makes training unstable, and its {100 * record['level']:.0f} % interval; W2: how "
        "far the law moves. Means over queries, ± one standard error over trainings"
    )


def group_rows(found: DistributionEvaluation, weighting: str, method: str) -> list[list[str]]:
    """Cells of each group: its differences, and trainings with and without; the most unstable ones first."""
    rows = matching(found.of_groups(weighting, method))
    by_group: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        by_group.setdefault(row["group"], {})[row["delta"]] = row
    order = sorted(by_group, key=lambda group: by_group[group].get("ratio", {}).get("value", math.inf))
    return [
        [
            group,
            *(_cell(delta, by_group[group].get(delta)) for delta in SHOWN),
            f"{by_group[group]['mean']['full']}, {by_group[group]['mean']['without']}",
        ]
        for group in order
    ]


def _cell(delta: str, row: Mapping[str, Any] | None) -> str:
    if row is None:
        return f"needs {FEWEST[delta]} seeds"
    if delta == "ratio":
        return f"{row['value']:.2g} [{row['low']:.2g}, {row['high']:.2g}]"
    return with_error(row["value"], row["stderr"])


def decided(found: DistributionEvaluation, weighting: str, method: str) -> str:
    """Which groups make training less or more stable, as far as intervals tell."""
    rows = matching(found.of_groups(weighting, method), delta="ratio")
    if not rows:
        return (
            f"{method}: whether a group makes training unstable needs {FEWEST['variance']} trainings with it "
            "and without it: guda fit with other seeds into other run folders, named after --distribution."
        )
    rows.sort(key=lambda row: row["value"])
    unstable = [row["group"] for row in rows if row["high"] < 1]
    stable = [row["group"] for row in reversed(rows) if row["low"] > 1]
    parts = [
        f"{verb}: {', '.join(names)}"
        for verb, names in (("makes training unstable", unstable), ("makes it stable", stable))
        if names
    ]
    undecided = len(rows) - len(unstable) - len(stable)
    if undecided:
        parts.append(
            f"undecided: {undecided} of {count_of(len(rows), 'group')}, "
            f"whose {100 * found.record['level']:.0f} % interval over trainings holds 1"
        )
    return f"{method}: {'; '.join(parts)}."


def chance(found: DistributionEvaluation, weighting: str, method: str) -> str:
    """How many groups chance names, and how many so few trainings miss; empty where nothing is decided."""
    rows = matching(found.of_groups(weighting, method), delta="ratio")
    if not rows:
        return ""
    named, fewest = (1 - found.record["level"]) * len(rows), min(min(r["full"], r["without"]) for r in rows)
    said = (
        f"Each group is decided by itself: of {len(rows)} without any effect, up to {named:.2g} would be "
        "named by chance."
    )
    if fewest >= max(POWER):
        return said
    found_by = ", ".join(
        f"{trainings} in {apart:.0%} of cases ({same:.0%} where both sides are of the same trainings)"
        if trainings == min(POWER)
        else f"{trainings} in {apart:.0%} ({same:.0%})"
        for trainings, (apart, same) in POWER.items()
    )
    return f"{said} Few trainings miss much: a variance four times as large is told by {found_by}."


def floor(found: DistributionEvaluation, weighting: str) -> str:
    """What chance alone does to W2."""
    floors = found.record["floor"]
    if weighting in floors:
        return (
            f"W2 is above 0 by chance: two halves of the full models, {len(found.record['full_seeds']) // 2} "
            f"trainings each, are {floors[weighting]:.3g} apart on average over queries."
        )
    return (
        "W2 is above 0 by chance, the more so the fewer trainings there are; what one law alone gives is "
        f"known from {2 * FEWEST['wasserstein']} full models on."
    )


def lds_title(found: DistributionEvaluation) -> str:
    """What a distributional LDS is of."""
    record = found.record
    return (
        f"Distributional LDS: rank correlation over {count_of(len(record['subsets']), 'subset')} of the "
        "groups of summed differences with what retrained models of the subsets say, mean over queries; "
        f"chance is 0, and brackets hold {100 * record['level']:.0f} % of resampled queries and subsets"
    )


def lds_rows(found: DistributionEvaluation, weighting: str) -> list[list[str]]:
    """A row of heads, and one a method: its LDS under each difference, with intervals."""
    rows = [row for row in found.record["lds"] if row["weighting"] == weighting]
    methods = dict.fromkeys(row["method"] for row in rows)
    cells = {(row["method"], row["delta"]): row for row in rows}
    heads = [part for delta in DELTAS for part in (SHOWN[delta], "")]
    return [["LDS", *heads]] + [
        [method, *(text for delta in DELTAS for text in _lds(cells.get((method, delta))))]
        for method in methods
    ]


def _lds(row: Mapping[str, Any] | None) -> tuple[str, str]:
    return ("–", "") if row is None else (share(row["value"]), interval((row["low"], row["high"])))
