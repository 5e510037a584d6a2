"""What shown scores are worth here: tested or not, better than chance or not, with a size or not.

The one home of that verdict, which stands in the first lines of the page and of the terminal's summary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal, get_args

from guda_lightning.counterfactuals import RETRAIN
from guda_lightning.evaluation.result import Evaluation
from guda_lightning.evaluation.sizes import sizes_of
from guda_lightning.report.agreement_table import AgreementRow, AgreementTable, agreement_table, oracle_name
from guda_lightning.report.agreement_verdicts import no_better_than_chance, ranks
from guda_lightning.report.estimand import UNTESTED, YARDSTICK, tested
from guda_lightning.report.placebo_section import Placebo
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import RandomGroups
from guda_lightning.scores.record import ScoreRecord
from guda_lightning.scores.views import Sizes, View, views
from guda_lightning.storage.runs import RunFolder
from guda_lightning.types import Weighting

Level = Literal["yardstick", "tested", "untested", "chance"]


@dataclass(frozen=True)
class Standing:
    """What one method's scores under one weighting are worth on these queries.

    Attributes:
        level: ``chance``: do not use their order; ``untested``: nobody knows; ``tested``: they rank better
            than chance; ``yardstick``: others are compared with them.
        headline: The verdict, one or two sentences.
        size: Whether their numbers have a size, in which unit, and where that is known from.
        shown: Which scores: method, weighting and seeds.
        unclear: Why no top group may be called clear; empty where leads above the noise may.
    """

    level: Level
    headline: str
    size: str
    shown: str
    unclear: str = ""

    def to_json(self) -> dict[str, str]:
        """The attributes by name."""
        return asdict(self)


@dataclass(frozen=True)
class Findings:
    """What was found about some scores.

    Attributes:
        evaluation: How well methods agree with the oracle on their queries, if that was evaluated.
        placebo: Which queries random groups explain as well, if that was tested.
    """

    evaluation: Evaluation | None = None
    placebo: Placebo | None = None

    @classmethod
    def of(cls, run: RunFolder, table: ScoreTable) -> Findings:
        """What ``guda evaluate`` and ``guda placebo`` left about scores, as long as these are the same.

        Args:
            run: The run folder.
            table: A stored table, the first part of one, or those of several seeds together.

        Raises:
            StoreError: What they left is damaged.
        """
        evaluation = Evaluation.load(run.evaluation) if Evaluation.exists(run.evaluation) else None
        first = table.record.of_method(table.methods[0])[0]
        if evaluation is not None and evaluation.record.get("query_hash") != first.query_hash:
            evaluation = None
        return cls(evaluation, _placebo(run, {one.hash for one in table.record.of_method(table.methods[0])}))

    def sizes(self, table: ScoreTable) -> Sizes:
        """What was measured of the size of a table's scores, by method, weighting and seed."""
        found: Sizes = {}
        for method in table.methods:
            names, seeds = self._names(table.record, method), table.select(method).seeds
            # Tables of several seeds are joined in the order of their records.
            if self.evaluation is not None and len(names) == len(seeds):
                for name, seed in zip(names, seeds, strict=True):
                    found = {**found, **sizes_of(self.evaluation, name, method, seed)}
        return found

    def tested(self, record: ScoreRecord, view: View) -> str:
        """How scores compare with retraining, in words."""
        if self._is_oracle(record, view.method):
            return YARDSTICK
        found = self._row(record, view)
        return UNTESTED if found is None or self.evaluation is None else tested(self.evaluation, *found)

    def standing(self, record: ScoreRecord, view: View) -> Standing:
        """What a view is worth.

        Args:
            record: Of the table that holds the scores.
            view: The scores, with the size that these findings give them.
        """
        level, headline, unclear = self._worth(record, view)
        unit = view.unit
        if not unclear and not bool((view.stderr > 0).any()):
            unclear = f"{view.method} states no ±, so nothing tells a lead from noise"
        claim = "Size claimed" if unit.sized else f"No size claimed{', order only' if unit.share else ''}"
        size = f"{claim}: {unit.name}. {unit.why}"
        if level == "chance":
            size = "No size claimed: not even the order of these numbers is to be used."
        return Standing(level, headline, size, view.title, unclear)

    def _worth(self, record: ScoreRecord, view: View) -> tuple[Level, str, str]:
        """Level, headline, and why the order is not to be used; empty where it may be."""
        method, evaluation = view.method, self.evaluation
        missed = {} if self.placebo is None else self.placebo.missed
        count, lost = len(view.queries), missed.get(view.weighting, frozenset()) & set(view.queries)
        if len(lost) == count:
            why = (
                "the placebo test finds no query that a group influences more than random groups of its size "
                f"do, by {method}"
            )
            return "chance", f"Do not use this order: {why}.", why
        placebo = (
            f" Placebo test: {count - len(lost)} of {count} queries are attributable."
            if view.weighting in missed
            else ""
        )
        found, oracle = self._row(record, view), self._is_oracle(record, method)
        if found is not None and evaluation is not None:
            if oracle and no_better_than_chance(*found):
                why = f"{oracle_name(evaluation)} repeats its own order no better than chance here"
                return "chance", f"Do not use this order: {why}.", why
            against = f"Tested against {tested(evaluation, *found)}."
            if no_better_than_chance(*found):
                why = f"{method} ranks groups no better than chance here"
                return "chance", f"Do not use this order: {why}. {against}", why
            if not oracle:
                return "tested", f"{_capital(method)} {ranks(evaluation, *found)}. {against}{placebo}", ""
        if oracle:
            return "yardstick", f"{_capital(method)} is the yardstick of other methods.{placebo}", ""
        compared, seeds = len(self._names(record, method)), len(record.of_method(method))
        if 0 < compared < seeds:
            return (
                "untested",
                (
                    f"Untested: {compared} of the {seeds} tables that this is the mean of were compared with "
                    f"retraining, and not the others. guda evaluate compares them all.{placebo}"
                ),
                "",
            )
        return (
            "untested",
            (
                f"Untested: nobody has measured here whether {method} ranks groups as retraining does. "
                f"guda retrain, guda attribute --operator retrain and guda evaluate measure it.{placebo}"
            ),
            "",
        )

    def _is_oracle(self, record: ScoreRecord, method: str) -> bool:
        """Whether scores are what others are compared with."""
        oracles = set() if self.evaluation is None else set(self.evaluation.record["oracles"])
        return method == RETRAIN or bool(oracles & set(self._names(record, method)))

    def _row(self, record: ScoreRecord, view: View) -> tuple[AgreementTable, AgreementRow] | None:
        """What was measured of a view; of several seeds the one that agrees least. None unless all were.

        The oracle's row is that of its seeds among themselves. Scores under weightings of their own, such as
        those of a similarity, are compared with retraining under the weighting that it repeats best.
        """
        evaluation, own = self.evaluation, view.weighting not in get_args(Weighting)
        if evaluation is None or not (own or view.weighting in evaluation.weightings):
            return None
        table = agreement_table(evaluation, evaluation.weightings[0] if own else view.weighting)
        names = self._names(record, view.method)
        if len(names) < len(record.of_method(view.method)):
            return None
        if set(names) & set(evaluation.record["oracles"]):
            return None if table.oracle is None else (table, table.oracle)
        labels = {label for name in names for label in (name, f"{name} {view.weighting}")}
        rows = [row for row in table.methods if row.label in labels]
        return (table, min(rows, key=lambda row: row.values["top1"])) if rows else None

    def _names(self, record: ScoreRecord, method: str) -> list[str]:
        """What the evaluation calls the tables of a method, one a seed; none of those it did not compare."""
        names = {} if self.evaluation is None else {one: name for name, one in self.evaluation.tables.items()}
        return [names[one.hash] for one in record.of_method(method) if one.hash in names]


def standing_of(
    run: RunFolder, table: ScoreTable, method: str | None = None, weighting: str | None = None
) -> Standing:
    """What a table's scores are worth, from what a run folder holds about them.

    Args:
        run: The run folder that the table lies in.
        table: A score table of it.
        method: Which scores; the first ones of the table if left out.
        weighting: Likewise.

    Raises:
        ConfigError: The table has no such scores.
        StoreError: What ``guda evaluate`` or ``guda placebo`` left is damaged.
    """
    chosen = table.select(method or table.methods[0], weighting)
    findings = Findings.of(run, chosen)
    return findings.standing(chosen.record, views(chosen, findings.sizes(chosen))[0])


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _placebo(run: RunFolder, hashes: set[str]) -> Placebo | None:
    """What random groups say of a stored table, whose queries may be more than are shown."""
    for path in sorted(run.placebo.glob("*.parquet")):
        details, observed = ScoreTable.load_record(path).details, run.scores / path.name
        if not (isinstance(details, RandomGroups) and details.of in hashes and observed.is_file()):
            continue
        if ScoreTable.load_record(observed).hash == details.of:  # still those that were tested
            return Placebo.of(ScoreTable.load(observed), ScoreTable.load(path))
    return None
