"""Scores by the counterfactual that is being made."""

from __future__ import annotations

from torch import Tensor

from guda_lightning.attribution import shared_errors, squared_errors
from guda_lightning.data import query_hash
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModel, FullModel
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.scores import ScoreRecord, ScoreTable, Scoring, SquaredErrors, score_table
from guda_lightning.scores.kinds import Student
from guda_lightning.types import JOINT, Queries
from guda_lightning.unlearning import UnlearnModule


class StudentScores:
    """Scores queries by a student against its full model, which is measured again only for other queries.

    Args:
        scoring: Timesteps, draws, seed and precision.
    """

    def __init__(self, scoring: Scoring) -> None:
        self._scoring = scoring
        self._full_errors: dict[str, SquaredErrors] = {}  # of the last validation, by what they are of

    def of(
        self,
        module: UnlearnModule,
        full: FullModel,
        queries: Queries,
        grouping: Grouping | None,
        ranks: Ranks,
    ) -> ScoreTable:
        """The scores under all weightings, of all ranks' queries.

        Args:
            module: The student.
            full: The model that it was made from.
            queries: The same on all ranks.
            grouping: Says how large the student's groups are.
            ranks: Who share the queries.
        """

        def errors(model: DiffusionModel) -> SquaredErrors:
            def measure(part: Queries) -> tuple[Tensor, Tensor]:
                return squared_errors(model, part, self._scoring, device=module.device)

            found, timesteps = shared_errors(measure, queries, ranks)
            return SquaredErrors(queries.ids, found, timesteps, {})

        group, schedule, hashed = name_of(module), full.model.schedule, query_hash(queries)
        key = f"{full.hash} {hashed}"
        if key not in self._full_errors:
            self._full_errors = {key: errors(module.full)}
        record = ScoreRecord(
            Student(),
            query_hash=hashed,
            provenance=full.provenance(None if grouping is None else grouping.hash),
            scoring=self._scoring.record(schedule),
            group_sizes={} if grouping is None else {group: len(grouping.forget(module.groups))},
        )
        return score_table(
            self._full_errors[key],
            {group: errors(module.student)},
            schedule,
            self._scoring,
            method=module.objective.operator,
            seed=module.seed,
            record=record,
        )


def name_of(module: UnlearnModule) -> str:
    """The groups that a student forgets, as tables call them."""
    return JOINT.join(module.groups)
