"""Random partitions of the training data, each made, scored and thrown away."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from guda_lightning.attribution import AttributionContext, Attributor
from guda_lightning.data import GroupDataModule
from guda_lightning.makers.costs import evaluation_seconds, say_cost
from guda_lightning.makers.posterior_maker import PosteriorMaker
from guda_lightning.makers.unlearner import Unlearner
from guda_lightning.progress_bar import Bar
from guda_lightning.scores import ScoreTable, Scoring
from guda_lightning.storage.leftovers import discard
from guda_lightning.storage.seals import intact
from guda_lightning.types import Queries


@dataclass(frozen=True, kw_only=True)
class Partitions:
    """A method, repeated on groups dealt at random.

    Attributes:
        count: Number of partitions.
        attributor: What scores them.
        maker: What makes counterfactuals for it; None where it needs none.
        context: What the real groups are scored in.
        data: The training data with the real groups.
        queries: What is scored.
        folder: For unfinished work; scored partitions are kept there until all are.
    """

    count: int
    attributor: Attributor
    maker: Unlearner | PosteriorMaker | None
    context: AttributionContext
    data: GroupDataModule
    queries: Queries
    folder: Path

    @property
    def left(self) -> list[int]:
        """Numbers of the partitions that are not scored yet."""
        numbers = range(self.count)
        return [number for number in numbers if not intact(self._part(number), "it is scored again")]

    def scores(self, bar: Bar) -> ScoreTable:
        """Score what is left, and read the scores of all partitions.

        Args:
            bar: Counts partitions.
        """
        for number in self.left:
            self._score(number).save(self._part(number))
            bar.update()
        return ScoreTable.concat([ScoreTable.load(self._part(number)) for number in range(self.count)])

    def say_cost(self, scoring: Scoring) -> None:
        """Tell the user what the partitions that are left will cost, where anything is trained for them."""
        if self.maker is None or not self.left:
            return
        one_for_all = isinstance(self.maker, PosteriorMaker)
        grouping, full = self.data.grouping, self.context.full.model
        models = 1 if one_for_all else sum(grouping.size(name) > 0 for name in grouping.names)
        evaluations = len(self.queries) * scoring.plan(full.schedule).evaluations
        where = (scoring.batch_size, self.context.execution.device)
        each = self.maker.seconds() + evaluations * evaluation_seconds(full, self.data, *where)
        what = "1 posterior" if one_for_all else f"{models} groups"
        say_cost(
            f"placebo: {len(self.left)} partitions x {what} ({self.maker.operator})",
            len(self.left) * models * each,
        )

    def _score(self, number: int) -> ScoreTable:
        """Score one partition; the full model's errors are kept in the folder and serve all of them."""
        view = self.data.regrouped(self.data.grouping.permuted(number, f"placebo {number}"))
        context = replace(self.context, data=view, grouping=view.grouping)
        if self.maker is None:
            return self.attributor.fit(context).score(self.queries)
        store = self.folder / "store"
        self.maker.elsewhere(view, store).make_all()
        context = replace(context, store=store, cache=self.folder / "errors")
        table = self.attributor.fit(context).score(self.queries)
        discard(store)
        return table

    def _part(self, number: int) -> Path:
        return self.folder / f"{number}.parquet"
