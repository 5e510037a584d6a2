"""What is said of groups that a screen has left without a score."""

from __future__ import annotations

from guda_lightning.attribution.screening import Missed, missed
from guda_lightning.report.text import cut
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Screened
from guda_lightning.storage.runs import RunFolder

MAX_NAMES = 40
LIKELY = 0.05  # chance of a missed group, above which a query is counted


def screened_note(details: Screened, kept: int) -> str:
    """How many groups have no score, and why."""
    return (
        f"{len(details.out)} of {kept + len(details.out)} groups were screened out by {details.screened_by} "
        f"({details.screen_weighting}) and have no score"
    )


def missed_note(found: Missed) -> str:
    """The chance that a screened-out group leads."""
    what = (
        "leads a query" if found.leading == 1 else f"is among the {found.leading} leading groups of a query"
    )
    likely = int((found.chances > LIKELY).sum())
    return (
        f"chance that one of them {what} ({found.weighting}): at most {found.chances.mean():.2g} on average, "
        f"above {LIKELY:g} for {likely} of {len(found.chances)} queries"
    )


def screening_facts(run: RunFolder, table: ScoreTable) -> dict[str, str]:
    """Which groups have no score and what that risks, as rows of two columns; none for other scores."""
    details = table.record.details
    if not isinstance(details, Screened):
        return {}
    names = ", ".join(cut(name, MAX_NAMES) for name in details.out[:MAX_NAMES])
    more = len(details.out) - MAX_NAMES
    facts = {
        "Screening": screened_note(details, len(table.groups)),
        "Screened out": (f"{names} and {more} more" if more > 0 else names) or "none",
    }
    tables = sorted(run.scores.glob("*.parquet"))
    screen = next((one for one in tables if ScoreTable.load_record(one).hash == details.screen), None)
    if screen is None:
        return facts | {"Missed groups": f"unknown: the scores by {details.screened_by} were replaced since"}
    found = [
        missed_note(one)
        for weighting in table.weightings
        for one in missed(ScoreTable.load_parts(screen), [table], weighting)
    ]
    return facts | {"Missed groups": "; ".join(found)}
