"""How much a loss rises on a group's samples when a query is forgotten, and how well some of them tell.

Sources: AbU (Wang et al. 2024, arXiv 2406.09408), the plain difference of losses; MUCS (arXiv 2605.17938),
the skewed one. Some samples of a group stand for all of it (Cochran, Sampling Techniques, 10.3).
"""

from __future__ import annotations

from torch import Tensor

from guda_lightning.functional.elbo import standard_error

OF_MEMBERS = "and draw of members"  # what records say of standard errors that cover it
_LEAST = 1e-3  # of MUCS: keeps a share of two tiny losses from being one of rounding


def rise(before: Tensor, after: Tensor) -> Tensor:
    """``L' − L``: positive where forgetting the query has made a sample harder to denoise.

    Args:
        before: ``[...]`` losses of the full model.
        after: ``[...]`` losses, on the same noise, of the model that has forgotten the query.

    Returns:
        ``[...]``, in the unit of the losses.
    """
    return after - before


def skewed_rise(before: Tensor, after: Tensor) -> Tensor:
    """``(L' − L) / (L' + L + 0.001)``, in (−1, 1): no noise level and no sample outweighs the others.

    Args:
        before: ``[...]`` losses of the full model, mean squares over the numbers of a sample.
        after: ``[...]`` losses, on the same noise, of the model that has forgotten the query.

    Returns:
        ``[...]``, without a unit.
    """
    return (after - before) / (after + before + _LEAST)


def group_total(terms: Tensor, size: int, shared: bool) -> tuple[Tensor, Tensor]:
    """The sum over a group of what its samples are worth, from some of them drawn without replacement.

    ``size · mean``; the variance of the mean is ``(1 − f) s²/m`` for the draw of a share ``f = m/size`` of
    the samples, and that of noise: the whole of it where all share their noise, ``f`` times it where each has
    its own, of which ``s²`` holds the rest.

    Args:
        terms: ``[queries, m, strata, draws]``, what every draw of noise contributes to a sample's value; at
            least two samples unless the group has one.
        size: Number of samples of the group.
        shared: Whether all samples share their noise.

    Returns:
        Two ``[queries]`` tensors: the sum and its standard error.
    """
    values = terms.mean(dim=3).sum(dim=2)
    count = values.shape[1]
    share = count / size
    variance = standard_error(terms.mean(dim=1)).square() * (1 if shared else share)
    if count < size:
        variance = variance + (1 - share) * values.var(dim=1) / count
    return size * values.mean(dim=1), size * variance.sqrt()
