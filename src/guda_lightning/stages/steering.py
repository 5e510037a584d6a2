"""The model of each group alone: the full model steered to it, or what unlearning all other groups left."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from guda_lightning.counterfactuals import RETRAIN, CounterfactualStore
from guda_lightning.counterfactuals.messages import command
from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import FullModel
from guda_lightning.errors import GroupError, StoreError
from guda_lightning.posteriors import KINDS, steered
from guda_lightning.stages.without import Counterfactuals, StoredModel, stored_networks, stored_posterior


def models_of_groups(
    full: FullModel,
    data: GroupDataModule,
    groups: Sequence[str],
    chosen: Counterfactuals,
    device: torch.device,
) -> dict[str, StoredModel]:
    """A model of each group alone.

    Args:
        full: The full model.
        data: Its training data with their groups.
        groups: Names of single groups.
        chosen: The posterior that steers, or the operator that made counterfactuals without all other groups.
        device: Where a posterior works.

    Raises:
        GroupError: A counterfactual without all other groups would not be that of the group.
        StoreError: The posterior or a counterfactual is missing, or made from something else.
    """
    kind = chosen.operator
    if kind is not None and kind in KINDS:
        posterior, record = stored_posterior(full, data, kind, chosen, device)
        towards = partial(steered, full.model, posterior)
        return {name: StoredModel(kind, record.weights_hash, partial(towards, name)) for name in groups}
    others = {name: _others(data.grouping, name) for name in groups}
    _refuse_missing(chosen, list(others.values()))
    models = stored_networks(full, data, list(others.values()), chosen)
    return {name: models[joint] for name, joint in others.items()}


def _others(grouping: Grouping, group: str) -> str:
    """All other groups that have samples, as one: the coalition whose counterfactual is of this group alone.

    Raises:
        GroupError: Samples of the group would go with them, or samples that are in no group would stay.
    """
    others = [name for name in grouping.names if name != group and grouping.size(name)]
    members = np.flatnonzero(grouping.membership()[:, grouping.names.index(group)])
    left = grouping.retain(others) if others else np.arange(grouping.num_samples)
    if not np.array_equal(left, members):
        raise GroupError(
            f"a model without all groups but '{group}' is no model of that group",
            found=f"{len(left)} samples outside the other groups, {len(members)} in the group",
            expected="every sample in exactly one group",
            fix="leave out --operator, and a posterior steers to the group",
        )
    return grouping.known.joint(others)


def _refuse_missing(chosen: Counterfactuals, joint: Sequence[str]) -> None:
    """Refuse before the work, with the one command that makes all that is missing.

    Raises:
        StoreError: Something is missing.
    """
    assert chosen.operator is not None
    store = CounterfactualStore(chosen.store)
    made = {
        record.key.name
        for record in store.records()
        if (record.operator, record.seed) == (chosen.operator, chosen.seed)
    }
    missing = [name for name in joint if name not in made]
    if missing:
        raise StoreError(
            f"there is no model of {len(missing)} of {len(joint)} groups alone in {store.root}",
            found=f"no {chosen.operator} (seed {chosen.seed}) without {'; nor without '.join(missing[:2])}"
            + ("; and others" if len(missing) > 2 else ""),
            expected="for each group, the full model after all other groups were unlearned together",
            fix=command(chosen.operator, missing, chosen.seed)
            + ("" if chosen.operator == RETRAIN else f" and -c unlearn/{chosen.operator}.yaml")
            + ", or leave out --operator: a posterior steers to each group",
        )
