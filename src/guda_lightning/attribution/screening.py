"""First cheap for all groups, then true for few: ``guda attribute --screen guidance:20``.

The number is that of all groups that are kept, not of each query's: it is the number of counterfactuals to
make, so it is what the answer costs, however many queries and groups there are. Kept are the groups that some
query puts first by its cheap scores, then those that some query puts second, and so on; at one place, those
that more queries put there go first.

Every query is scored against every group that is kept, so the table has a true number in each cell. A group
that was screened out has no column: it has no score, not a score of zero. Its name is in the table's record
(`kinds.Screened`), and the chance that it belongs among the leading groups of a query follows from the cheap
scores of all groups and the true ones of those that were kept (`functional.screening.missed_chance`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace

import torch
from torch import Tensor

from guda_lightning.attribution.attributor import AttributionContext, Attributor
from guda_lightning.attribution.counterfactual import CounterfactualAttributor
from guda_lightning.attribution.elbo import FittedELBOAttributor
from guda_lightning.errors import ConfigError
from guda_lightning.functional.screening import FEWEST, best_places, missed_chance
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.kinds import Likelihood, Screened

LEADING = (1, 3)  # how many leading groups of a query the chance of a missed one is stated for


@dataclass(frozen=True)
class Screen:
    """What ``--screen`` asks for.

    Attributes:
        method: What scores all groups: an operator of the store, or ``similarity``.
        count: How many groups are kept.
    """

    method: str
    count: int

    @classmethod
    def parse(cls, text: str) -> Screen:
        """The screen of a text such as ``guidance:20``.

        Raises:
            ConfigError: It is another text, or the number is below 4.
        """
        method, colon, number = text.rpartition(":")
        if not colon or not method or not number.isdecimal() or int(number) < FEWEST:
            raise ConfigError(
                "the screen is not usable",
                found=text,
                expected="a method and the number of groups to keep, 4 or more: the chance of a missed one "
                "cannot be told from fewer",
                fix="pass it as --screen guidance:20",
            )
        return cls(method, int(number))


@dataclass(frozen=True)
class Screening:
    """What a screen has left.

    Attributes:
        kept: Groups to score, in the order of the cheap scores.
        screen: Hash of the record of the cheap scores.
        screened_by: The method that made them.
        screen_weighting: The weighting that ranked the groups.
        out: Groups that were screened out, in the same order.
    """

    kept: tuple[str, ...]
    screen: str
    screened_by: str
    screen_weighting: str
    out: tuple[str, ...]

    @classmethod
    def of(cls, parts: Iterable[ScoreTable], count: int, weighting: str) -> Screening:
        """Keep the groups that could lead.

        Args:
            parts: Cheap scores of one method and seed, in parts, one in memory at a time.
            count: How many groups to keep.
            weighting: That ranks the groups; scores without it are ranked by the only one that they have.
        """
        tables = (_weighted(part, weighting) for part in parts)
        table = next(tables)
        best, queries = best_places(table.matrix())
        for other in tables:
            places, number = best_places(other.matrix())
            queries = queries.where(best <= places, 0) + number.where(places <= best, 0)
            best = best.minimum(places)
        names = table.groups
        order = sorted(
            range(len(names)), key=lambda column: (int(best[column]), -int(queries[column]), column)
        )
        chosen = set(order[:count])
        return cls(
            kept=tuple(name for column, name in enumerate(names) if column in chosen),
            screen=table.record.hash,
            screened_by=table.methods[0],
            screen_weighting=table.weightings[0],
            out=tuple(name for column, name in enumerate(names) if column not in chosen),
        )


@dataclass(frozen=True)
class ScreenedAttributor(Attributor):
    """Scores of the groups that a screen has kept.

    Args:
        attributor: What scores them; its own choice of groups is replaced.
        screening: What the screen has left.
    """

    attributor: CounterfactualAttributor
    screening: Screening

    def fit(self, context: AttributionContext) -> FittedELBOAttributor:
        """Find the counterfactuals of the groups that were kept.

        Args:
            context: The full model and its groups.

        Raises:
            StoreError: One is missing, incomplete, or made from something else.
        """
        fitted = replace(self.attributor, groups=self.screening.kept).fit(context)
        made = {one.name: getattr(fitted.details, one.name) for one in fields(Likelihood)}
        screened = asdict(self.screening)
        del screened["kept"]
        details = Screened(**made, **screened)
        return replace(fitted, method=f"{fitted.method}_screened", details=details)


@dataclass(frozen=True)
class Missed:
    """The chance, query by query, that a screened-out group is among its leading ones.

    Attributes:
        weighting: Of the scores.
        leading: How many groups lead.
        chances: ``[queries]``, each at most this.
    """

    weighting: str
    leading: int
    chances: Tensor


def missed(screen: Iterable[ScoreTable], table: Iterable[ScoreTable], weighting: str) -> list[Missed]:
    """The chance that a screen has missed a leading group, by cheap scores of all and true ones of few.

    Args:
        screen: The cheap scores, in parts, one in memory at a time.
        table: The true ones, in parts; queries that only one of the two has are left out.
        weighting: Of the true scores; the cheap ones have it, or only one.
    """
    true: dict[str, Tensor] = {}
    groups: tuple[str, ...] = ()
    for part in table:
        chosen = part.select(weighting=weighting)
        true.update(zip(chosen.queries, chosen.matrix(), strict=True))
        groups = chosen.groups
    chances: dict[int, list[Tensor]] = {leading: [torch.empty(0)] for leading in LEADING}
    for part in screen:
        cheap = _weighted(part, weighting)
        rows = [row for row, query in enumerate(cheap.queries) if query in true]
        if not rows:
            continue
        kept = torch.tensor([group in groups for group in cheap.groups])
        order = [groups.index(group) for group in cheap.groups if group in groups]
        scores = torch.stack([true[cheap.queries[row]] for row in rows])[:, order]
        for leading, found in chances.items():
            found.append(missed_chance(cheap.matrix()[rows], scores, kept, leading))
    return [Missed(weighting, leading, torch.cat(found)) for leading, found in chances.items()]


def _weighted(table: ScoreTable, weighting: str) -> ScoreTable:
    """Scores of one weighting: the chosen one, or the only one that there is.

    Raises:
        ConfigError: There are several others.
    """
    only = len(table.weightings) == 1
    return table if only else table.select(weighting=weighting)
