"""The answer about one picture, part by part as it is known; models are read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from guda_lightning.app.examples import Examples
from guda_lightning.app.parts import Part, groups_part, map_part, nearest_part, without_part
from guda_lightning.app.worth import worth_of
from guda_lightning.attribution import AttributionContext, CounterfactualAttributor
from guda_lightning.attribution.guidance import FittedGuidance
from guda_lightning.attribution.scoring import noised_queries
from guda_lightning.data.nearest import nearest_samples
from guda_lightning.diffusion import redraw
from guda_lightning.distributed.execution import Execution
from guda_lightning.errors import ConfigError
from guda_lightning.posteriors import KINDS, guided
from guda_lightning.scores import Scoring
from guda_lightning.scores.maps import GroupMaps
from guda_lightning.scores.views import views
from guda_lightning.stages.opened import Configured, Run
from guda_lightning.types import Queries

_BATCH_SIZE = 20  # changes no score, and the progress moves five times
_MAP_STRATA = 5
_STEPS, _SEED = 25, 0  # of a picture that is drawn again
_NEAREST = 4

Tick = Callable[[int], None]


class Answers:
    """Answers about pictures from one run, by one posterior; one picture at a time.

    Args:
        run: The run.
        by: The kind of the posterior, such as ``guidance``.

    Attributes:
        run: The run.
        worth: What its scores are worth here.
        examples: The run's own queries.

    Raises:
        ConfigError: ``by`` is no kind of posterior.
        StoreError: The run has no such posterior, or it was made from something else.
        QueryError: The run's own queries cannot be read.
    """

    def __init__(self, run: Run | Configured, by: str) -> None:
        if by not in KINDS:
            raise ConfigError(
                "guda app answers by a posterior, from which every counterfactual follows at once",
                found=f"--by {by}",
                expected=", ".join(KINDS),
                fix="pass --by guidance; guda attribute scores by other counterfactuals",
            )
        self.run = run
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        execution = Execution(self._device)
        context = AttributionContext(run.full, run.data, store=run.folder.store, execution=execution)
        scorer = CounterfactualAttributor(None, by).fit(context)
        assert isinstance(scorer, FittedGuidance)  # as every kind of posterior is fitted
        self.worth = worth_of(run.folder, by, scorer.details.weights)
        # Of a picture that the run has scored already, the page says the same, or ``worth`` why not.
        scoring = self.worth.scoring or Scoring(strata=min(Scoring.strata, self._scored))
        scorer = replace(scorer, scoring=replace(scoring, batch_size=_BATCH_SIZE))
        run.full.model.denoiser.to(self._device)
        self._scorer, self._steps = scorer, min(_STEPS, len(run.full.model.schedule))
        self.examples = Examples.of(run.folder, run.data.image_shape, run.full.hash)

    @property
    def _scored(self) -> int:
        """Timesteps that can be scored, of which each stratum needs one."""
        return len(self.run.full.model.schedule.scored_timesteps)

    @property
    def condition(self) -> str:
        """What a picture needs besides, in words; empty where the model takes pictures alone."""
        if not self.run.full.model.conditional:
            return ""
        classes = f"Class of a dropped picture, 0 to {self.run.data.num_classes - 1}"
        return classes if self.run.data.prompts is None else "Prompt of a dropped picture"

    def evaluations(self) -> int:
        """Network evaluations of the full model that an answer takes."""
        scored = self._scorer.scoring.plan(self.run.full.model.schedule).evaluations
        return scored + 2 * self._steps

    def parts(self, query: Queries, example: bool, tick: Tick) -> Iterator[Part]:
        """Everything about one query, each part as soon as it is known, the groups first.

        Args:
            query: One query, with a class label or prompt where the model takes one.
            example: Whether it is one of the run's own queries.
            tick: Called with the number of network evaluations of every batch; what it raises ends the work.

        Raises:
            QueryError: The query does not fit the model.
        """
        run = self.run
        with run.data.forgetting_prompts():
            asked = run.data.as_queries(query, run.full.model.conditional)
            execution = replace(self._scorer.context.execution, on_evaluations=tick)
            context = replace(self._scorer.context, execution=execution)
            table = replace(self._scorer, context=context).score(asked)
            view = views(table, self.worth.sizes)[0]
            yield groups_part(view, self.worth.level, asked.images[0])
            yield map_part(self._map(asked), asked.images[0])
            top, drawn = view.groups[int(view.scores[0].argmax())], None
            if example:
                identity = self._scorer.details.classifier
                drawn = self.examples.without(query.ids[0], top, self._scorer.method, identity)
            own_noise = drawn is not None
            drawn = self._redrawn(asked, top, tick) if drawn is None else drawn
            yield without_part(asked.images[0], drawn, top, None if own_noise else self._steps)
            rows = run.data.grouping.forget(run.data.grouping.coalition(top))
            yield nearest_part(top, nearest_samples(run.data, rows, asked.images, _NEAREST)[0])

    def _map(self, query: Queries) -> GroupMaps | None:
        """Which part of the picture came from which group, where the posterior can tell."""
        scorer, schedule = self._scorer, self.run.full.model.schedule
        total, weight = torch.zeros(()), 0.0
        levels = Scoring(strata=min(_MAP_STRATA, self._scored))
        for batch in noised_queries(query, levels, schedule, self._device):
            found = scorer.posterior.regions(batch.x_t, batch.timesteps, scorer.removed, batch.labels)
            if found is not None:
                total = total + torch.einsum("b,bghw->ghw", found.weights, found.shares).cpu()
                weight += float(found.weights.sum())
        return GroupMaps(query.ids, scorer.groups, (total / weight)[None], "") if weight else None

    def _redrawn(self, query: Queries, group: str, tick: Tick) -> Tensor:
        """What the model without a group draws in place of a picture, ``[channels, height, width]``."""
        run, full = self.run, self.run.full
        drawn = redraw(
            full,
            guided(full.model, self._scorer.posterior, run.data.grouping.coalition(group)),
            query.inputs,
            seed=_SEED,
            steps=self._steps,
            labels=query.labels,
            device=self._device,
            on_step=partial(tick, 2),
        )
        return run.data.pictures(drawn)[0]
