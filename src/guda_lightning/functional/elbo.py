"""The ELBO of a diffusion model, its estimate from a few timesteps, and the sign of a score.

Steps (methods: GUDA, arXiv 2601.22651, section 3; DDPM, Ho et al. 2020, equation 5):

1. a ``TimestepPlan`` says which timesteps are evaluated for each query;
2. a model's squared noise errors ‖ε − ε̂‖² are measured there, once;
3. ``timestep_terms`` weighs them (``elbo``: KL in nats, ``uniform``: every timestep alike, ``middle``: those
   in the middle alike);
4. ``elbo`` sums them, ``delta_elbo`` subtracts, ``paired_difference`` adds the standard error.

All sums are float64.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import Weighting

StderrKind = Literal["within strata", "collapsed strata (conservative)"]


def squared_error(noise: Tensor, predicted_noise: Tensor) -> Tensor:
    """``‖ε − ε̂‖²`` per sample.

    Args:
        noise: ``[batch, ...]`` ε.
        predicted_noise: ``[batch, ...]`` ε̂.

    Returns:
        ``[batch]`` float64.
    """
    difference = (noise - predicted_noise).flatten(1).to(torch.float64)
    return difference.square().sum(dim=1)


def kl_terms(noise: Tensor, predicted_noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """``KL_t = β_t² / (2 β̃_t α_t (1 − ᾱ_t)) · ‖ε − ε̂‖²`` in nats (Ho et al. 2020, equation 8, with σ² = β̃).

    Args:
        noise: ``[batch, ...]`` true noise ε.
        predicted_noise: ``[batch, ...]`` ε̂.
        timesteps: ``[batch]`` int64, ``1 <= t <= T-1``.
        alphas_cumprod: ``[T]`` ᾱ.

    Returns:
        ``[batch]`` float64.

    Raises:
        ConfigError: A timestep is outside the ELBO's range.
    """
    schedule = NoiseSchedule.from_alphas_cumprod(alphas_cumprod)
    schedule.check(timesteps)
    errors = squared_error(noise, predicted_noise)
    return schedule.kl_weights.to(errors.device)[timesteps] * errors


def kl_from_x0(x0: Tensor, x0_hat: Tensor, snr_prev: Tensor, snr: Tensor) -> Tensor:
    """``KL_t = ½ (SNR_{t−1} − SNR_t) ‖x_0 − x̂_0‖²`` in nats, for any prediction (Kingma et al. 2021, eq. 13).

    Args:
        x0: ``[batch, ...]`` clean samples.
        x0_hat: ``[batch, ...]`` predicted clean samples.
        snr_prev: ``[batch]`` signal-to-noise ratio one step earlier (less noise).
        snr: ``[batch]`` signal-to-noise ratio at t.

    Returns:
        ``[batch]`` float64.
    """
    return 0.5 * (snr_prev.to(torch.float64) - snr.to(torch.float64)) * squared_error(x0, x0_hat)


def timestep_terms(
    errors: Tensor, timesteps: Tensor, plan: TimestepPlan, schedule: NoiseSchedule, weighting: Weighting
) -> Tensor:
    """Every draw's contribution to the estimated sum over timesteps.

    Args:
        errors: ``[queries, strata, draws]`` squared noise errors.
        timesteps: ``[queries, strata, draws]`` where they were measured.
        plan: The plan that drew the timesteps.
        schedule: The models' noise schedule.
        weighting: ``elbo`` for nats; ``uniform`` for the mean squared noise error over timesteps, ``middle``
            for that over the middle ones alone.

    Returns:
        ``[queries, strata, draws]`` float64.
    """
    weights = schedule.weights(weighting)
    if weighting != "elbo" and plan.kind == "fixed":  # a mean over the grid, each point for itself
        weights = weights / weights[list(plan.timesteps)].sum()
    factor = plan.sizes.to(errors.device, torch.float64).view(1, -1, 1)
    return factor * weights.to(errors.device)[timesteps] * errors.to(torch.float64)


def elbo(
    errors: Tensor, timesteps: Tensor, plan: TimestepPlan, schedule: NoiseSchedule, weighting: Weighting
) -> Tensor:
    """``−Σ_t KL_t``, estimated from a few timesteps.

    Args:
        errors: ``[queries, strata, draws]`` squared noise errors.
        timesteps: ``[queries, strata, draws]`` where they were measured.
        plan: The plan that drew the timesteps.
        schedule: The models' noise schedule.
        weighting: ``elbo`` for nats, else minus a mean squared noise error (see ``timestep_terms``).

    Returns:
        ``[queries]`` float64.
    """
    return -timestep_terms(errors, timesteps, plan, schedule, weighting).mean(dim=2).sum(dim=1)


def delta_elbo(full: Tensor, counterfactual: Tensor) -> Tensor:
    """The score: ``ELBO(full) − ELBO(counterfactual)``, the only home of its sign.

    Positive: without the group the query becomes less likely, so the group contributed to it.

    Args:
        full: ``[...]`` ELBOs under the full model, in nats.
        counterfactual: ``[...]`` ELBOs under the counterfactual.

    Returns:
        ``[...]``.
    """
    return full - counterfactual


def paired_difference(
    full: Tensor,
    counterfactual: Tensor,
    timesteps: Tensor,
    plan: TimestepPlan,
    schedule: NoiseSchedule,
    weighting: Weighting,
) -> tuple[Tensor, Tensor]:
    """Score and standard error from squared errors that share timesteps and noise.

    Args:
        full: ``[queries, strata, draws]`` squared errors of the full model.
        counterfactual: ``[queries, strata, draws]`` squared errors of the counterfactual.
        timesteps: ``[queries, strata, draws]`` where both were measured.
        plan: The plan that drew the timesteps.
        schedule: The models' noise schedule.
        weighting: ``elbo`` for nats, ``uniform`` or ``middle`` for a difference of mean squared errors.

    Returns:
        Two ``[queries]`` float64 tensors, ``delta_elbo`` and its standard error (kind: ``stderr_kind``).
    """
    score = delta_elbo(
        elbo(full, timesteps, plan, schedule, weighting),
        elbo(counterfactual, timesteps, plan, schedule, weighting),
    )
    terms = timestep_terms(counterfactual - full, timesteps, plan, schedule, weighting)
    return score, standard_error(terms)


def stderr_kind(plan: TimestepPlan) -> StderrKind:
    """What ``paired_difference`` can say about its error under a plan."""
    return "within strata" if plan.draws > 1 else "collapsed strata (conservative)"


def standard_error(terms: Tensor) -> Tensor:
    """Standard error of ``terms.mean(2).sum(1)``.

    Args:
        terms: ``[rows, strata, draws]``, what every draw of a plan contributes.

    Returns:
        ``[rows]``, of the kind that ``stderr_kind`` names.

    With several draws the variance is measured inside each stratum. With one, neighbouring strata are
    collapsed into pairs (the last three together when odd): the variance between them also holds the
    difference of their means, so the error is conservative (Cochran, Sampling Techniques, 5A.12).
    """
    strata, draws = terms.shape[1:]
    if draws > 1:
        return (terms.var(dim=2) / draws).sum(dim=1).sqrt()
    values = terms.squeeze(2)
    cut = strata if strata % 2 == 0 else strata - 3
    # k strata collapsed together: the variance of their sum is estimated by k times their sample variance
    variance = values.new_zeros(len(values))
    if cut:
        variance = 2 * values[:, :cut].reshape(len(values), -1, 2).var(dim=2).sum(dim=1)
    if cut < strata:
        variance = variance + 3 * values[:, cut:].var(dim=1)
    return variance.sqrt()
