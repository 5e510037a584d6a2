"""Linear datamodelling score: do sums of scores order what models of subsets of the groups say?

A method predicts of a subset S that a query loses the sum of the scores of the groups that S leaves out; LDS
is Spearman's correlation, over subsets, of that with what models trained on S measure (TRAK, 2303.14186).
An offset of a query, such as that of another training seed, changes nothing.

| symbol | name here | meaning                                                              |
|--------|-----------|----------------------------------------------------------------------|
| x, y   |           | predicted and measured losses of a query, by subset                  |
| n_i    | counts    | how often subset i counts, as in a resample                          |
| r_i    |           | centred rank ``½ Σ_j n_j sign(x_i − x_j)``, equal values sharing it  |

Spearman's correlation is ``Σ n_i r_i s_i / sqrt(Σ n_i r_i² · Σ n_i s_i²)``, s the ranks of y.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError
from guda_lightning.functional.checks import refuse_nonfinite

FEWEST = 3  # of two, every correlation is 1 or −1
_CELLS = 2**22  # numbers held at a time, 32 MiB


def predicted_losses(scores: Tensor, removed: Tensor) -> Tensor:
    """Sums of the scores of the groups that each subset leaves out.

    Args:
        scores: ``[..., queries, groups]``.
        removed: ``[subsets, groups]`` bool.

    Returns:
        ``[..., queries, subsets]`` float64.
    """
    return scores.double() @ removed.double().T


def lds(predicted: Tensor, measured: Tensor, counts: Tensor | None = None) -> Tensor:
    """Spearman's correlation of each query over subsets, equal values sharing their mean rank.

    Args:
        predicted: ``[queries, subsets]``.
        measured: ``[queries, subsets]``.
        counts: ``[resamples, subsets]`` how often each subset counts; None: once.

    Returns:
        ``[queries]``, or ``[resamples, queries]``, float64; NaN where one side is the same for all subsets
        that count.

    Raises:
        ConfigError: The shapes differ, or there are fewer than three subsets.
        NumericsError: A number is not finite.
    """
    if predicted.shape != measured.shape or predicted.dim() != 2 or predicted.shape[1] < FEWEST:
        raise ConfigError(
            "the losses of subsets cannot be compared",
            found=f"predicted {tuple(predicted.shape)}, measured {tuple(measured.shape)}",
            expected=f"the same queries and subsets of both, at least {FEWEST} subsets",
            fix="train and score more subsets",
        )
    for whose, losses in (("the predicted losses", predicted), ("the measured losses", measured)):
        refuse_nonfinite(whose, losses)
    weights = predicted.new_ones(1, predicted.shape[1]) if counts is None else counts
    weights = weights.double()
    size = max(1, _CELLS // (predicted.shape[1] * max(len(weights), predicted.shape[1])))
    parts = zip(predicted.double().split(size), measured.double().split(size), strict=True)
    found = torch.cat([_correlation(*part, weights) for part in parts], dim=1)
    return found[0] if counts is None else found


def _correlation(x: Tensor, y: Tensor, counts: Tensor) -> Tensor:
    """``[resamples, queries]`` of ``[queries, subsets]`` and ``[resamples, subsets]``."""
    of_x, of_y = (_centred_ranks(side, counts) for side in (x, y))
    weights = counts[:, None]
    covariance = (weights * of_x * of_y).sum(dim=2)
    variances = [(weights * side.square()).sum(dim=2) for side in (of_x, of_y)]
    return covariance / (variances[0] * variances[1]).sqrt()


def _centred_ranks(values: Tensor, counts: Tensor) -> Tensor:
    """``[resamples, queries, subsets]``; they sum to 0, each as often as it counts."""
    order = (values[:, :, None] - values[:, None, :]).sign()
    return torch.einsum("rj,qij->rqi", counts, order) / 2
