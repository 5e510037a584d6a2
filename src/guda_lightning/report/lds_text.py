"""The linear datamodelling score as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from guda_lightning.evaluation.agreement import ORACLE
from guda_lightning.evaluation.lds import ALL_SEEDS, OTHER_SEEDS
from guda_lightning.evaluation.subsets import ADDITIVE, SubsetEvaluation
from guda_lightning.report.agreement_table import count_of, interval, matching, share
from guda_lightning.report.agreement_text import columns
from guda_lightning.report.text import wrapped

LABELS = {ORACLE: "another oracle seed", ADDITIVE: "summed retrainings"}


def lds_text(found: SubsetEvaluation) -> str:
    """Write it in lines of at most 100 columns: a table for each weighting, the best method first."""
    record = found.record
    seeds = ", ".join(map(str, record["oracle_seeds"]))
    title = (
        f"LDS: rank correlation over {count_of(len(record['subsets']), 'subset')} of the groups, mean over "
        f"{record['queries']} queries, of summed scores with what models of the subsets say (seeds {seeds}); "
        f"chance is 0, and brackets hold {100 * record['level']:.0f} % of resampled queries and subsets"
    )
    parts = ["\n".join(wrapped(title))]
    for weighting in dict.fromkeys(found.lds["weighting"]):
        rows = matching(found.lds, weighting=weighting)
        of_all = {row["method"]: row for row in rows if row["yardstick"] == ALL_SEEDS}
        of_others = {row["method"]: row for row in rows if row["yardstick"] == OTHER_SEEDS}
        names = sorted(of_all | of_others, key=lambda name: -(of_all | of_others)[name]["value"])
        names.sort(key=lambda name: name in LABELS)  # what the oracle itself reaches comes last
        heads = [f"weighting {weighting}", "all seeds", "", *(["other seeds", ""] if of_others else [])]
        cells = [
            [
                LABELS.get(name, name),
                *_cells(of_all.get(name)),
                *(_cells(of_others.get(name)) if of_others else []),
            ]
            for name in names
        ]
        parts.append("\n".join(columns([heads, *cells])))
    notes = [
        f"{LABELS[ADDITIVE]}: the sum of what retraining without each group by itself says; 1 where groups "
        "add up. Other seeds: each seed of the subsets in turn against the mean of the others.",
        *record["notes"],
    ]
    parts.append("\n".join(line for text in notes for line in wrapped(text)))
    return "\n\n".join(parts)


def _cells(row: Mapping[str, Any] | None) -> list[str]:
    return ["", ""] if row is None else [share(row["value"]), interval((row["low"], row["high"]))]
