"""Squared errors of an ensemble without each group, from those of its members and of the means of two."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guda_lightning.functional.ablation import coalition_errors, gram_of_pairs, mean_of_subsets, pairs
from guda_lightning.scores.kinds import Ensemble
from guda_lightning.scores.squared_errors import SquaredErrors
from guda_lightning.storage.files import sha256_json


def pair_models(members: Sequence[str]) -> list[str]:
    """Hashes of the mean of every pair of members, in the order of ``pairs``; of i = j the member's own.

    Args:
        members: Hash of each member.
    """
    return [
        members[i] if i == j else sha256_json(["mean", members[i], members[j]])
        for i, j in pairs(len(members)).T.tolist()
    ]


def unseen_masks(details: Ensemble, groups: Sequence[str]) -> Tensor:
    """``[groups, members]`` bool: who never saw a group."""
    masks = torch.zeros(len(groups), len(details.members), dtype=torch.bool)
    for row, group in enumerate(groups):
        masks[row, list(details.unseen[group])] = True
    return masks


def ensemble_errors(
    of_pairs: Sequence[SquaredErrors], details: Ensemble, groups: Sequence[str]
) -> dict[str | None, SquaredErrors]:
    """Errors of smaller ensembles on average (None), and of those that never saw each group.

    Both have as many members, so that what a smaller ensemble loses by itself cancels. Where a coalition of
    groups leaves fewer members than others do, its errors are less what that alone adds.

    Args:
        of_pairs: Errors of every pair of members, in the order of ``pair_models``.
        details: The members, and who saw what.
        groups: The groups.
    """
    first, masks = of_pairs[0], unseen_masks(details, groups)
    gram = gram_of_pairs(torch.stack([pair.errors for pair in of_pairs], dim=-1), len(details.members))
    sizes = masks.sum(dim=1).tolist()
    means = {size: mean_of_subsets(gram, size) for size in set(sizes)}
    mean, each = means[max(sizes)], coalition_errors(gram, masks)

    def errors(model: str, values: Tensor) -> SquaredErrors:
        return SquaredErrors(first.query_ids, values, first.timesteps, {**first.record, "model": model})

    found: dict[str | None, SquaredErrors] = {None: errors(f"mean of {max(sizes)} members", mean)}
    for column, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        alike = each[..., column] + (mean - means[size])
        found[group] = errors(details.counterfactuals[group], alike)
    return found
