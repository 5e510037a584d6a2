"""What a run folder knows of the counterfactuals that a validation scores with, in the words of its page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from guda_lightning.report.standing import Findings
from guda_lightning.scores import ScoreTable, Verdict
from guda_lightning.scores.kinds import Likelihood
from guda_lightning.scores.views import views
from guda_lightning.storage.runs import RunFolder


def with_verdicts(table: ScoreTable, store: Path) -> ScoreTable:
    """Scores with the verdicts of ``guda attribute`` on the very counterfactuals that made them.

    Args:
        table: The scores.
        store: The store of the counterfactuals; that of a run folder lies beside its score tables.

    Raises:
        StoreError: A score table of the run is damaged.
    """
    details, run = table.record.details, RunFolder(store.parent)
    if not isinstance(details, Likelihood) or run.store != store:
        return table
    found: dict[str, Verdict] = {}
    for path in sorted(run.scores.glob("*.parquet")):
        judged = ScoreTable.load_record(path).details
        if isinstance(judged, Likelihood):
            same = details.counterfactuals.items() & judged.counterfactuals.items()
            verdicts = ScoreTable.load_verdicts(path)
            found |= {group: verdicts[group] for group, _ in same if group in verdicts}
    return replace(table, verdicts={group: found[group] for group in table.groups if group in found})


def standing_in(table: ScoreTable, store: Path | None) -> dict[str, str]:
    """What scores are worth: ``level``, ``headline`` and ``size`` of their ``Standing``.

    Args:
        table: The scores.
        store: The store of the counterfactuals; None where a student made the scores.

    Raises:
        StoreError: What ``guda evaluate`` or ``guda placebo`` left is damaged.
    """
    findings = Findings()
    if store is not None and (run := RunFolder(store.parent)).store == store:
        findings = Findings.of(run, table)
    worth = findings.standing(table.record, views(table, findings.sizes(table))[0])
    return {"level": worth.level, "headline": worth.headline, "size": worth.size}
