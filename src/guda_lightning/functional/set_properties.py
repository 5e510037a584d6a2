"""What each group does to a property of a whole set of samples (sFT-Shapley, arXiv 2407.03153).

A global property F of a model is the mean of some function over samples of it. In the game of this module
v(S) = F(all data) − F(without S), by samples that begin with the same noise::

    score_k = F(all data) − F(without k)                    leave one out
    score_k = Shapley or Banzhaf value of k in v             by the estimators of ``coalitions``

Positive: the group raises the property. Every estimator is linear in v, so that the value of a group is the
mean over images of what each image by itself gives; images are independent, coalitions of one image are not.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError
from guda_lightning.functional.checks import refuse_nonfinite
from guda_lightning.functional.coalition_plans import CoalitionPlan
from guda_lightning.functional.coalitions import Estimate

Worth = Callable[[CoalitionPlan, Tensor], Estimate]  # an estimator of ``coalitions``


def leave_one_out(values: Tensor) -> tuple[Tensor, Tensor]:
    """``F(all) − F(without k)`` and its standard error over images.

    Args:
        values: ``[1 + groups, images]`` property of every image: of the full model, then without each group,
            image i always from the same noise; two images or more.

    Returns:
        Two ``[groups]`` float64.

    Raises:
        ConfigError: There is one image, or no group.
        NumericsError: A value is not finite.
    """
    return _mean_and_error(_losses(values)[1:])


def worth_of_groups(plan: CoalitionPlan, values: Tensor, worth: Worth) -> tuple[Tensor, Tensor]:
    """The value of every group in the game, and its standard error over images and the draw of coalitions.

    Args:
        plan: The coalitions.
        values: ``[coalitions, images]`` property of every image without each coalition of the plan, the empty
            one first; two images or more.
        worth: The estimator of a single player's value.

    Returns:
        Two ``[groups]`` float64.

    Raises:
        ConfigError: There is one image, or the values do not fit the plan.
        NumericsError: A value is not finite.
    """
    losses = _losses(values)
    mean, of_images = _mean_and_error(worth(plan, losses).values.T)
    of_plan = worth(plan, losses.mean(dim=1, keepdim=True)).stderr[0]
    return mean, (of_images.square() + of_plan.square()).sqrt()


def mean_of_set(values: Tensor) -> tuple[float, float]:
    """A global property and its standard error, from ``[images]`` properties of single ones."""
    mean, error = _mean_and_error(values.double()[None])
    return float(mean), float(error)


def _losses(values: Tensor) -> Tensor:
    """Value v of every coalition, by image."""
    if values.dim() != 2 or len(values) < 2 or values.shape[1] < 2:
        raise ConfigError(
            "there are too few values of a property",
            found=f"values of shape {tuple(values.shape)}",
            expected="(1 + coalitions, images), and at least two images for a standard error",
            fix="draw more images",
        )
    refuse_nonfinite("properties of images", values)
    return values[:1].double() - values.double()


def _mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the last dimension and its standard error."""
    return values.mean(dim=-1), values.std(dim=-1) / torch.tensor(values.shape[-1]).double().sqrt()
