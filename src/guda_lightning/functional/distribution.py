"""How a group changes the law of what training gives: distributional attribution (d-TDA, arXiv 2506.12965).

Training is random: order, noise and initial weights give a query's log-likelihood a law. With X its draws
under models of all the data, one a training, and Y those under models without a group, the paper's
``DistInf = Δ(law of X ‖ law of Y)`` (section 3) is here one of

| name        | Δ                                | says of the group                                        |
|-------------|----------------------------------|----------------------------------------------------------|
| mean        | ``mean X − mean Y``              | how much the query owes to it: the ordinary score        |
| variance    | ``var Y − var X``                | positive: it makes training stable; negative: unstable   |
| wasserstein | ``W2 = √∫ (F_X⁻¹ − F_Y⁻¹)²``     | how far it moves the law, in any way                     |

In one dimension W2 compares sorted values: ``W2² = mean (sort X − sort Y)²`` where both sides have equally
many. It never is negative and so is biased upward: `halves` is what one law alone gives.

Whether a group makes training stable is decided by `log_variance_ratio`, whose error over few trainings is
nearly Student's: that of a difference of variances grows with it, so that three hardly ever decide.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError
from guda_lightning.functional.checks import refuse_nonfinite
from guda_lightning.functional.elbo import delta_elbo

# Trainings of a side: of two, a jackknife of a variance has nothing to leave out.
FEWEST: Mapping[str, int] = MappingProxyType({"mean": 1, "variance": 3, "ratio": 3, "wasserstein": 3})
Delta = Callable[[Tensor, Tensor], Tensor]


def mean_difference(full: Tensor, without: Tensor) -> Tensor:
    """``mean X − mean Y``: the score of a group, averaged over trainings.

    Args:
        full: ``[trainings, ...]`` X, log-likelihoods under models of all the data.
        without: ``[other trainings, ...]`` Y, those under models without the group.

    Returns:
        ``[...]`` float64.
    """
    return delta_elbo(full.double().mean(dim=0), without.double().mean(dim=0))


def variance_difference(full: Tensor, without: Tensor) -> Tensor:
    """``var Y − var X``, each without bias; arguments and shape as those of ``mean_difference``."""
    return without.double().var(dim=0) - full.double().var(dim=0)


def log_variance_ratio(full: Tensor, without: Tensor) -> Tensor:
    """``log (var Y / var X)`` of the mean variance of all queries, then of each.

    Args:
        full: ``[trainings, queries]``, X.
        without: ``[other trainings, queries]``, Y.

    Returns:
        ``[1 + queries]`` float64; not finite where a variance is 0.
    """
    variances = torch.stack([side.double().var(dim=0) for side in (full, without)])
    full_logs, logs = torch.cat([variances.mean(dim=1, keepdim=True), variances], dim=1).log()
    difference_of_logs: Tensor = logs - full_logs
    return difference_of_logs


def wasserstein(full: Tensor, without: Tensor) -> Tensor:
    """The 2-Wasserstein distance of two samples; arguments and shape as those of ``mean_difference``.

    Sides of n and m trainings are compared by their quantile functions, which have steps of 1/n and 1/m.
    """
    steps = math.lcm(len(full), len(without))
    quantiles = [
        side.double().sort(dim=0).values.repeat_interleave(steps // len(side), dim=0)
        for side in (full, without)
    ]
    return (quantiles[0] - quantiles[1]).square().mean(dim=0).sqrt()


DELTAS: Mapping[str, Delta] = MappingProxyType(
    {"mean": mean_difference, "variance": variance_difference, "wasserstein": wasserstein}
)


def is_known(delta: str, full: int, without: int) -> bool:
    """Whether so many trainings of the two sides tell a difference: of a mean one does."""
    return min(full, without) >= FEWEST[delta]


def difference(delta: str, full: Tensor, without: Tensor) -> Tensor:
    """One of the differences, refused where there are too few trainings.

    Args:
        delta: Name in `DELTAS`.
        full: ``[trainings, ...]``, X.
        without: ``[other trainings, ...]``, Y.

    Returns:
        ``[...]`` float64.

    Raises:
        ConfigError: There are too few trainings of a side, or no such difference.
        NumericsError: A number is not finite.
    """
    if delta not in DELTAS:
        raise ConfigError(
            "there is no such difference of laws",
            found=delta,
            expected=", ".join(DELTAS),
            fix="choose one of them",
        )
    if not is_known(delta, len(full), len(without)):
        raise ConfigError(
            f"the {delta} of a law needs more trainings",
            found=f"{len(full)} with the group, {len(without)} without",
            expected=f"at least {FEWEST[delta]} of each",
            fix="train and score more seeds",
        )
    refuse_nonfinite("log-likelihoods with the group", full)
    refuse_nonfinite("log-likelihoods without the group", without)
    return DELTAS[delta](full, without)


def jackknife(statistic: Delta, full: Tensor, without: Tensor, *, paired: bool) -> Tensor:
    """The standard error of a difference over trainings (Efron and Tibshirani 1993, section 11).

    ``√((n−1)/n Σ (θ₍ᵢ₎ − θ̄)²)``, θ₍ᵢ₎ without training i. Paired trainings are left out on both sides
    together; else each side is jackknifed by itself and variances add up.

    Args:
        statistic: What to compute of the two sides: it takes one training less than there are.
        full: ``[trainings, ...]``.
        without: ``[other trainings, ...]``.
        paired: Whether row i of both sides is one training, say by one seed.

    Returns:
        Of the shape that ``statistic`` returns; NaN where a side has a single training: its error is
        not known.
    """
    if paired:
        return _spread([statistic(_but(full, i), _but(without, i)) for i in range(len(full))]).sqrt()
    of_full = _spread([statistic(_but(full, i), without) for i in range(len(full))])
    of_without = _spread([statistic(full, _but(without, i)) for i in range(len(without))])
    return (of_full + of_without).sqrt()


def degrees(full: int, without: int) -> int:
    """Degrees of freedom of an interval by ``jackknife``: those of the side with fewer trainings."""
    return min(full, without) - 1


def halves(full: Tensor) -> Tensor:
    """What ``wasserstein`` gives of one law: the mean over n pairs of disjoint halves of n trainings.

    A half has fewer trainings than all, so that this lies above what two sides of n would give by chance.

    Args:
        full: ``[trainings, ...]``, at least six: two halves that could be compared.

    Returns:
        ``[...]`` float64.

    Raises:
        ConfigError: There are fewer.
    """
    count, half = len(full), len(full) // 2
    rotated = (full.roll(shift, dims=0) for shift in range(count))
    pairs = [difference("wasserstein", each[:half], each[half : 2 * half]) for each in rotated]
    return torch.stack(pairs).mean(dim=0)


def _but(side: Tensor, row: int) -> Tensor:
    return torch.cat([side[:row], side[row + 1 :]])


def _spread(left_out: list[Tensor]) -> Tensor:
    """``(n−1)/n Σ (θ₍ᵢ₎ − θ̄)²``; not known of one."""
    values, count = torch.stack(left_out), len(left_out)
    squares = (values - values.mean(dim=0)).square().sum(dim=0)
    return squares * (count - 1) / count if count > 1 else torch.full_like(squares, torch.nan)
