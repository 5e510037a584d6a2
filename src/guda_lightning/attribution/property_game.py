"""What groups do to a property of a set of samples: which coalitions are drawn without, and the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from guda_lightning.attribution.games import names_of, plan_of, players_of, worth_of
from guda_lightning.attribution.set_properties import SetProperty
from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import ConfigError
from guda_lightning.functional.coalition_plans import CoalitionPlan
from guda_lightning.functional.set_properties import leave_one_out, worth_of_groups
from guda_lightning.scores import ScoreRecord, ScoreTable
from guda_lightning.scores.kinds import SetWorth
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.provenance import Provenance
from guda_lightning.types import Queries

SetWorthKind = Literal["leave_one_out", "shapley", "shapley_permutation", "banzhaf"]
PROPERTY = "property"  # the weighting of these tables: all images count alike


@dataclass(frozen=True, kw_only=True, eq=False)
class PropertyGame:
    """Which coalitions are drawn without, and what their images say of each group.

    Attributes:
        of: The property.
        worth: Kind of value.
        groups: Names of the groups that are valued.
        coalitions: Names of what is left out, such as ``3+7``, after the full model itself.
        plan: Draw of the coalitions; None where each group is left out by itself.
        sizes: Number of samples of each group.
        options: What else identifies the draw of coalitions.
    """

    of: SetProperty
    worth: SetWorthKind
    groups: tuple[str, ...]
    coalitions: tuple[str, ...]
    plan: CoalitionPlan | None
    sizes: Mapping[str, int]
    options: Mapping[str, Any]

    @classmethod
    def leaving_one_out(cls, of: SetProperty, grouping: Grouping, groups: Sequence[str]) -> PropertyGame:
        """Each of some groups by itself."""
        names = tuple(groups)
        sizes = {name: len(grouping.forget(grouping.coalition(name))) for name in names}
        return cls(
            of=of,
            worth="leave_one_out",
            groups=names,
            coalitions=names,
            plan=None,
            sizes=sizes,
            options={"reference": None, "count": 0},
        )

    @classmethod
    def of_players(
        cls,
        of: SetProperty,
        grouping: Grouping,
        worth: Literal["shapley", "shapley_permutation", "banzhaf"],
        reference: str | None,
        count: int,
        seed: int,
    ) -> PropertyGame:
        """All groups but one that always stays.

        Args:
            of: The property.
            grouping: The groups.
            worth: Kind of value.
            reference: The group that stays; may be left out where some samples are in no group.
            count: Draws of coalitions, each mirrored; up to 8 players are computed exactly.
            seed: Of the draws.

        Raises:
            ConfigError: No samples would stay, or there are fewer than two players, or two draws.
            GroupError: There is no such group.
        """
        players = players_of(grouping, reference, "--reference")
        plan = plan_of(worth, len(players), count, seed)
        try:  # before hours of drawing
            worth_of(worth, plan, torch.zeros(len(plan.coalitions), 1))
        except ConfigError as error:
            raise ConfigError(
                error.problem,
                found=error.found,
                expected=error.expected,
                fix="pass a larger --count, such as 200",
            ) from error
        return cls(
            of=of,
            worth=worth,
            groups=players,
            coalitions=tuple(names_of(grouping, players, plan)),
            plan=plan,
            sizes={name: grouping.size(name) for name in players},
            options={"reference": reference, "count": count},
        )

    def record(
        self,
        provenance: Provenance,
        posterior: str,
        hparams_hash: str,
        drawn: Queries,
        steps: int,
    ) -> ScoreRecord:
        """What identifies a table.

        Args:
            provenance: Full model, schedule and groups.
            posterior: Hash of the posterior that guides.
            hparams_hash: Hash of the hyper-parameters that it was made with.
            drawn: The conditions of the images, with the encoders that turn what is drawn into pictures.
            steps: Denoising steps.

        Raises:
            ConfigError: The property cannot be identified.
        """
        property_hash = self.of.hash  # refuses one without a name
        details = SetWorth(
            property=self.of.name,
            property_hash=property_hash,
            worth=self.worth,
            coalitions=sha256_json(list(self.coalitions)),
            classifier=posterior,
            hparams_hash=hparams_hash,
            images=len(drawn),
            steps=steps,
            prompts=None if drawn.prompts is None else sha256_json(drawn.prompts),
            **self.options,
        )
        return ScoreRecord(details, provenance=provenance, group_sizes=self.sizes, encoders=drawn.encoders)

    def table(self, values: Tensor, record: ScoreRecord, method: str, seed: int) -> ScoreTable:
        """The value of every group, positive where it raises the property.

        Args:
            values: ``[1 + coalitions, images]`` property of every image, those of the full model first.
            record: What identifies the values.
            method: Its name.
            seed: Of the images.
        """
        if self.plan is None or self.worth == "leave_one_out":
            scores, stderr = leave_one_out(values)
        else:
            scores, stderr = worth_of_groups(self.plan, values, partial(worth_of, self.worth))
        return ScoreTable.from_matrix(
            scores[None],
            stderr[None],
            query_ids=(self.of.name,),
            groups=self.groups,
            n_draws=values.shape[1],
            method=method,
            weighting=PROPERTY,
            seed=seed,
            record=record,
        )
