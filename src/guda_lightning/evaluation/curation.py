"""Which groups of training samples harm the queries that the model serves badly (D3M, arXiv 2406.16846)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from guda_lightning.evaluation.targets import Targets
from guda_lightning.functional.curation import (
    Interval,
    group_means,
    improvements,
    loss_weights,
    removal_effects,
)
from guda_lightning.scores import ScoreTable

AFTER, RANDOM = "without the harmful groups", "without random samples"


@dataclass(frozen=True, eq=False)
class Curation:
    """What removing each group is predicted to do.

    Attributes:
        groups: One row a training group, the most harmful first: ``group``, ``samples``, ``effect`` (A_k, the
            rise of the weighted loss without it), its ``low`` and ``high``, ``worst`` (the rise of the worst
            target group's loss), ``harmful`` (whether ``high`` is below zero) and ``verdict``.
        targets: One row a target group: ``target``, ``queries``, ``loss`` of the full model, ``weight`` and
            ``predicted``, the rise of its loss without all harmful groups, by the sum of their scores.
    """

    groups: pd.DataFrame
    targets: pd.DataFrame

    @classmethod
    def of(cls, table: ScoreTable, losses: Tensor, targets: Targets, level: float = 0.95) -> Curation:
        """Weigh and rank.

        Args:
            table: Scores of one method under one weighting.
            losses: ``[queries]``, the full model's, in the unit of the scores.
            targets: The groups of queries.
            level: Of the intervals.
        """
        scores = table.matrix()
        mean_losses = group_means(losses, targets.members)
        rows = torch.tensor([name in targets.weighted for name in targets.names])
        weights = torch.zeros(len(rows), dtype=torch.float64)
        weights[rows] = loss_weights(mean_losses[rows])
        effects = removal_effects(scores, targets.members[rows], weights[rows], level)
        of_targets = group_means(scores, targets.members)
        worst = int(torch.where(rows, mean_losses, -torch.inf).argmax())
        sizes, harmful = table.record.group_sizes, effects.high < 0
        groups = pd.DataFrame(
            {
                "group": table.groups,
                "samples": [sizes.get(group) for group in table.groups],
                "effect": effects.value,
                "low": effects.low,
                "high": effects.high,
                "worst": of_targets[worst],
                "harmful": harmful,
                "verdict": [
                    table.verdicts[group].grade if group in table.verdicts else "" for group in table.groups
                ],
            }
        ).sort_values("effect", ignore_index=True, kind="stable")
        return cls(
            groups,
            pd.DataFrame(
                {
                    "target": targets.names,
                    "queries": targets.members.sum(dim=1),
                    "loss": mean_losses,
                    "weight": weights,
                    "predicted": of_targets[:, harmful].sum(dim=1),
                }
            ),
        )

    @property
    def harmful(self) -> list[str]:
        """Groups whose removal is predicted to help, the most harmful first."""
        return list(self.groups["group"][self.groups["harmful"]])

    @property
    def worst(self) -> Mapping[str, Any]:
        """The row of the weighted target group with the highest loss."""
        weighted = self.targets[self.targets["weight"] > 0]
        found = weighted.iloc[int(weighted["loss"].argmax())].to_dict()
        return {str(name): value for name, value in found.items()}


@dataclass(frozen=True, eq=False)
class Verification:
    """What removing groups, and as many random samples, did to the loss of each target group.

    Attributes:
        frame: One row for each ``target``, removal (``removed``: ``AFTER`` or ``RANDOM``) and ``seed``: the
            mean ``loss``, and ``rise``, by how much it lies above the full model's, with its ``stderr`` over
            queries, which see the same noise under both models.
    """

    frame: pd.DataFrame

    @classmethod
    def of(cls, losses: Tensor, rises: Mapping[tuple[str, int], Tensor], targets: Targets) -> Verification:
        """Average over the queries of each target group.

        Args:
            losses: ``[queries]``, the full model's.
            rises: By removal and seed, ``[queries]``: a model's loss minus the full model's.
            targets: The groups of queries.
        """
        rows = []
        for (removed, seed), rise in rises.items():
            for name, members in zip(targets.names, targets.members, strict=True):
                own = rise[members].double()
                rows.append(
                    {
                        "target": name,
                        "removed": removed,
                        "seed": seed,
                        "loss": float(losses[members].mean() + own.mean()),
                        "rise": float(own.mean()),
                        "stderr": float(own.std() / len(own) ** 0.5),
                    }
                )
        return cls(pd.DataFrame(rows))

    def losses(self, target: str) -> Tensor:
        """``[removals, seeds]`` losses of a target group, those without the harmful groups first."""
        of = self.frame[self.frame["target"] == target]
        kept = of.pivot(index="removed", columns="seed", values="loss").loc[[AFTER, RANDOM]]
        return torch.from_numpy(kept.to_numpy(copy=True))

    def improvements(self, target: str, before: float) -> tuple[Interval, Interval]:
        """``functional.curation.improvements`` of a target group's loss."""
        return improvements(before, self.losses(target))
