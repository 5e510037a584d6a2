"""The ensembles of a run as a section of the page, and of W&B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from guda_lightning.report.section import Section
from guda_lightning.scores import ScoreTable
from guda_lightning.storage.frames import load_frame
from guda_lightning.storage.runs import RunFolder

_COLUMNS = ("member", "groups", "samples", "steps", "seconds", "network evaluations")


def ensemble_section(run: RunFolder, table: ScoreTable) -> Section | None:
    """What ``guda ensemble`` trained beside the full model of a table; None where it did not."""
    found = [load_frame(path, "guda ensemble") for path in sorted(run.ensembles.glob("*.parquet"))]
    names = ("full_hash", "grouping_hash")
    about_it = [one for one in found if all(one[1][name] == getattr(table.record, name) for name in names)]
    return section_of(about_it) if about_it else None


def section_of(ensembles: Sequence[tuple[pd.DataFrame, Mapping[str, Any]]]) -> Section:
    """The members of some ensembles, and what they cost.

    Args:
        ensembles: Of each, its members as ``guda ensemble`` writes them, and their record.
    """
    relative = (
        "What is attributed is the ensemble, the mean of its members, and not the full model: its "
        "counterfactuals are exact, and are the full model's only as far as the two are alike. Scores set "
        "each group against the others: their order counts, and no sign."
    )
    lines = [
        f"Ensemble of {len(frame)} members, seed {record['seed']}: each of {record['groups']} groups has an "
        f"exact counterfactual, the mean of the {record['zeros']} members that never saw it, for "
        f"{len(frame)} trainings of {frame['seconds'].sum():.0f} s together, against {record['groups']} "
        "retrainings."
        for frame, record in ensembles
    ]
    rows = []
    for frame, record in ensembles:
        label = f"seed {record['seed']}, " if len(ensembles) > 1 else ""
        for row in frame.to_dict("records"):
            counts = [f"{row[name]:,}" for name in ("groups", "samples", "steps")]
            cost = [f"{row['seconds']:.0f}", f"{row['network_evaluations']:,}"]
            rows.append([f"{label}{row['member']} of {len(frame)}", *counts, *cost])
    return Section(
        name="ensemble",
        title="Ensembles that miss groups",
        lines=[*lines, relative],
        columns=_COLUMNS,
        rows=rows,
    )
