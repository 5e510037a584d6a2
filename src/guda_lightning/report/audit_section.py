"""Whether the groups are the right ones, as a table: a row a group."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from guda_lightning.evaluation.group_audit import BY_CHANCE, OFF_BY_CHANCE
from guda_lightning.report.section import Section
from guda_lightning.report.text import cut, listed
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.frames import load_frame
from guda_lightning.storage.runs import RunFolder

COMMAND = "guda groups"
NAMED = 8  # groups that a sentence names
_COLUMNS = (
    "group",
    "samples",
    "share",
    "overlap",
    "copies elsewhere",
    "copies inside",
    "calibration error (chance)",
    "halves agree",
    "at random",
    "nearest group",
    "one half alone (at random)",
    "pairs",
)


def audit_section(frame: pd.DataFrame, record: Mapping[str, Any]) -> Section:
    """What an audit found.

    Args:
        frame: A row a group.
        record: What it was found from.
    """
    return Section(
        name="audit",
        title="Are these groups the right ones?",
        lines=_lines(frame, record),
        columns=_COLUMNS,
        rows=[_row(row) for row in frame.to_dict("records")],
    )


def audit_section_of(run: RunFolder, table: ScoreTable) -> Section | None:
    """The section of a page; None where the groups of its scores, or their full model, were not audited."""
    if not run.audit.is_file():
        return None
    frame, record = load_frame(run.audit, COMMAND)
    if record["grouping_hash"] != table.record.grouping_hash:
        return None
    full = {record["full_hash"], table.record.full_hash} - {None}  # of what has looked at one
    if len(full) > 1:
        return None
    return audit_section(frame, record)


def _lines(frame: pd.DataFrame, record: Mapping[str, Any]) -> list[str]:
    two, tail = list(frame.group[frame.hides_two]), list(frame.group[frame["tail"]])
    tested = int(frame.agree.notna().sum())
    lines = []
    if tested:
        lines.append(
            f"{len(two)} of {tested} groups show two modes{_named(two)}: a half of each is less like its "
            "other half than like another group, and random halves are not. Of groups without two modes, "
            f"{_chance(BY_CHANCE, tested)} would be marked by chance."
            if two
            else f"Two modes are not shown in any of {tested} groups: no half is, beyond chance, less like "
            "its other half than like another group, or random halves are, too. More queries may show some."
        )
    ungrouped = record["ungrouped"]
    lines.append(
        f"{len(frame)} groups over {record['samples']} samples, of {int(frame.samples.min())} to "
        f"{int(frame.samples.max())} samples each"
        + (f"; {ungrouped} samples are in no group" if ungrouped else "")
        + (f"; of less than half the mean size: {len(tail)}{_named(tail)}." if tail else ".")
    )
    pairs = record["overlapping"]
    if pairs:
        lines.append(f"{pairs} pairs of groups share samples.")
    across, inside = record["across"], record["inside"]
    if across or inside:
        named = "; ".join(f"{cut(one, 30)} and {cut(other, 30)}" for one, other in record["duplicates"])
        lines.append(
            f"{across} pairs of nearly equal images are in different groups, {inside} share one"
            + (f": {named}." if named else ".")
        )
    poor, judged = list(frame.group[frame.calibration > frame.calibration_chance]), frame.calibration.count()
    if judged:
        lines.append(
            f"The classifier is off by more than 95 % of calibrated ones are for {len(poor)} of {judged} "
            f"groups{_named(poor)}; were it calibrated, {_chance(OFF_BY_CHANCE, judged)} would be by chance. "
            "It was not trained on the held-out samples that say so, but its temperatures were fitted to "
            "them."
        )
    if record["pairs"]:
        share, chance = record["pair_share"], 2 / len(frame)
        lines.append(
            f"Of {record['pairs']} pairs of queries with the same content in two groups, {share:.0%} of the "
            f"difference of scores{_error(record)}, sits on the two; {chance:.0%} by chance."
        )
    return [*lines, *record["missing"]]


def _row(row: Mapping[Any, Any]) -> list[str]:
    def number(name: str, form: str) -> str:
        value = row[name]
        return "–" if pd.isna(value) else format(value, form)

    interval = f" [{row['low']:.2f}, {row['high']:.2f}]" if pd.notna(row["agree"]) else ""
    nearest = f"{cut(row['nearest'], 30)} {row['nearest_agree']:.2f}" if pd.notna(row["agree"]) else "–"
    one_sided = f"{number('one_sided', '.0%')} ({number('one_sided_random', '.0%')})"
    calibration = f"{number('calibration', '.0%')} ({number('calibration_chance', '.0%')})"
    return [
        cut(row["group"], 40)
        + (", two modes" if row["hides_two"] else "")
        + (", tail" if row["tail"] else ""),
        str(row["samples"]),
        f"{row['share']:.1%}",
        f"{row['overlap']:.2f} {cut(row['overlaps'], 30)}" if row["overlap"] else "–",
        str(row["across"]),
        str(row["inside"]),
        calibration if pd.notna(row["calibration"]) else "–",
        number("agree", ".2f") + interval,
        number("agree_random", ".2f"),
        nearest,
        one_sided if pd.notna(row["agree"]) else "–",
        number("pair_share", ".0%"),
    ]


def _chance(share: float, groups: int) -> str:
    return f"{share * groups:.1f} of {groups}"


def _error(record: Mapping[str, Any]) -> str:
    if record["pair_stderr"] is None:
        return ", all of one content, so that no error is known"
    return f", ± {record['pair_stderr']:.0%} over {record['contents']} contents"


def _named(groups: list[str]) -> str:
    return f" ({listed([cut(group, 30) for group in groups], NAMED)})" if groups else ""
