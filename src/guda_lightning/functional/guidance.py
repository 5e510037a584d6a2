"""Posterior guidance: every counterfactual from one classifier of noised samples.

Noised densities obey ``p_−S,t(x) ∝ p_t(x) · (1 − ρ_S(x, t))``, where ρ_S is the probability that the clean
sample is in one of the groups S, given that ``x_t = x``. Hence, exactly for ideal denoisers,

``ε_−S(x_t) = ε_full(x_t) − σ_t ∇_x log(1 − ρ_S(x_t, t))``.

The classifier is a softmax over *atoms*: the distinct sets of groups that some training sample is in, "no
group" included. They are disjoint however the groups overlap, so one classifier knows every union of groups.

| symbol       | name here      | meaning                                                                    |
|--------------|----------------|----------------------------------------------------------------------------|
| S            | a coalition    | groups that are removed together                                           |
| ρ_S          |                | P(the clean sample is in an atom that S removes, given x_t)                |
| log(1 − ρ_S) | ``log_kept``   | log-sum-exp over the atoms that are kept, minus that over all              |
| m_S          | ``kept_shift`` | how far the posterior mean of any values of the atoms moves without S      |

The gradient of log(1 − ρ_S) with respect to the logits is m_S of the unit vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from guda_lightning.errors import GroupError
from guda_lightning.types import PredictionType

_NEARLY_ALL = 1 - 1e-6  # of ρ_S, above which a difference would lose more than six digits


def removed_atoms(atoms: Tensor, coalitions: Tensor) -> Tensor:
    """Which atoms each coalition removes: those that are in one of its groups.

    Args:
        atoms: ``[atoms, groups]`` bool, the groups of each atom.
        coalitions: ``[coalitions, groups]`` bool, the groups that are removed together.

    Returns:
        ``[coalitions, atoms]`` bool.

    Raises:
        GroupError: A coalition removes everything: no density is left to guide to.
    """
    removed = (coalitions.double() @ atoms.double().T) > 0
    if bool(removed.all(dim=1).any()):
        number = int(removed.all(dim=1).nonzero()[0])
        raise GroupError(
            "a set of groups covers all training samples",
            found=f"{int(coalitions[number].sum())} of {coalitions.shape[1]} groups, which leave no sample",
            expected="some samples left",
            fix="remove fewer groups at once",
        )
    return removed


def log_kept(logits: Tensor, removed: Tensor) -> Tensor:
    """``log(1 − ρ_S)``, precise also where ρ_S rounds to one.

    Args:
        logits: ``[batch, atoms]`` of the classifier.
        removed: ``[coalitions, atoms]`` bool.

    Returns:
        ``[batch, coalitions]``, at most 0.
    """
    kept = logits[:, None].masked_fill(removed, -torch.inf).logsumexp(dim=2)
    return kept - logits.logsumexp(dim=1, keepdim=True)


def kept_shift(log_posterior: Tensor, removed: Tensor, values: Tensor, mean: Tensor) -> Tensor:
    """How far the mean of some values moves where atoms are removed: ``E[v | kept] − E[v]``.

    ``(ρ_S E[v] − Σ_removed π_a v_a) / (1 − ρ_S)``: where each coalition removes one atom, work grows with
    their number, not with its square. That loses digits where ρ_S is nearly one; there the mean over the kept
    atoms is computed as it is defined.

    Args:
        log_posterior: ``[batch, atoms]`` log π, normalised.
        removed: ``[coalitions, atoms]`` bool.
        values: ``[atoms, dims]`` v.
        mean: ``[batch, dims]`` E[v] of all atoms, which is computed once for any number of coalitions.

    Returns:
        ``[batch, coalitions, dims]``.
    """
    touched = removed.any(dim=0)
    counted = torch.nn.functional.pad(values[touched], (0, 1), value=1.0)  # the last column sums to ρ_S
    weighted = log_posterior[:, touched, None].exp() * counted
    summed = removed[:, touched].to(values.dtype) @ weighted
    rho = summed[..., -1:]
    shift = (rho * mean[:, None] - summed[..., :-1]) / (1 - rho)
    sample, coalition = (rho[..., 0] > _NEARLY_ALL).nonzero(as_tuple=True)
    kept = log_posterior[sample].masked_fill(removed[coalition], -torch.inf).softmax(dim=1)
    shift[sample, coalition] = kept @ values - mean[sample]
    return shift


def guide_output(
    output: Tensor, gradient: Tensor, gamma: Tensor, sigma: Tensor, prediction: PredictionType
) -> Tensor:
    """A network's output, guided: ``ε_−S = ε_full − σ ∇`` in whatever the network predicts.

    ``x̂_0 + (σ²/γ) ∇``, ``v − (σ/γ) ∇`` and, for a flow, ``v − (s/(1−s)) ∇``. Where γ is 0, x_t says nothing
    of x_0, an ideal ∇ is 0, and the output stays as it is unless the network predicts ε.

    Args:
        output: ``[batch, ...]`` of the full model.
        gradient: ``[batch, ...]`` ∇_x log(1 − ρ_S).
        gamma: γ_t, shaped to multiply ``output``.
        sigma: σ_t, shaped to multiply ``output``.
        prediction: What the network predicts.

    Returns:
        ``[batch, ...]``.
    """
    signal = gamma > 0
    ratio = torch.where(signal, sigma / gamma.where(signal, torch.ones_like(gamma)), 0)
    match prediction:
        case "epsilon":
            return output - sigma * gradient
        case "sample":
            return output + sigma * ratio * gradient
        case "v_prediction" | "flow":
            return output - ratio * gradient
