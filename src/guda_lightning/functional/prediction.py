"""What a network predicts, converted to x̂_0 and to ε̂, and back.

| prediction     | network's output           | x̂_0                     |
|----------------|----------------------------|--------------------------|
| epsilon        | ε̂                         | ``(x_t − σ ε̂) / γ``    |
| v_prediction   | v̂, of ``v = γ ε − σ x_0`` | ``γ x_t − σ v̂`` (γ² + σ² = 1) |
| sample         | x̂_0                       | itself                   |
| flow           | v̂, of ``v = ε − x_0``     | ``x_t − s v̂`` (γ = 1 − s, σ = s) |
"""

from __future__ import annotations

from torch import Tensor

from guda_lightning.types import PredictionType


def add_noise(x0: Tensor, noise: Tensor, gamma: Tensor, sigma: Tensor) -> Tensor:
    """``x_t = γ_t x_0 + σ_t ε`` (Ho et al. 2020, equation 4; for a flow Lipman et al. 2023, equation 22).

    Args:
        x0: ``[batch, ...]`` clean samples.
        noise: ``[batch, ...]`` ε.
        gamma: γ_t, shaped to multiply ``x0``.
        sigma: σ_t, shaped to multiply ``noise``.

    Returns:
        ``[batch, ...]``.
    """
    return gamma * x0 + sigma * noise


def implied_noise(x_t: Tensor, mean: Tensor, gamma: Tensor, sigma: Tensor) -> Tensor:
    """``(x_t − γ_t x̄_0) / σ_t``: the ε̂ that goes with a prediction x̄_0 of the clean sample.

    Args:
        x_t: ``[batch, ...]`` noised samples.
        mean: ``[batch, ...]`` predicted clean samples x̄_0.
        gamma: γ_t, shaped to multiply ``x_t``.
        sigma: σ_t, shaped to divide ``x_t``; not 0.

    Returns:
        ``[batch, ...]``.
    """
    return (x_t - gamma * mean) / sigma


def to_x0(output: Tensor, x_t: Tensor, gamma: Tensor, sigma: Tensor, prediction: PredictionType) -> Tensor:
    """x̂_0 from a network's output; γ must not be 0 where the network predicts ε.

    Args:
        output: ``[batch, ...]`` of the network.
        x_t: ``[batch, ...]`` noised samples.
        gamma: γ_t, shaped to multiply ``x_t``.
        sigma: σ_t, shaped to multiply ``x_t``.
        prediction: What the network predicts.

    Returns:
        ``[batch, ...]``.
    """
    match prediction:
        case "epsilon":
            return (x_t - sigma * output) / gamma
        case "v_prediction":
            return gamma * x_t - sigma * output
        case "sample":
            return output
        case "flow":
            return x_t - sigma * output


def to_noise(output: Tensor, x_t: Tensor, gamma: Tensor, sigma: Tensor, prediction: PredictionType) -> Tensor:
    """ε̂ from a network's output; σ must not be 0 where the network predicts the sample.

    Args:
        output: ``[batch, ...]`` of the network.
        x_t: ``[batch, ...]`` noised samples.
        gamma: γ_t, shaped to multiply ``x_t``.
        sigma: σ_t, shaped to multiply ``x_t``.
        prediction: What the network predicts.

    Returns:
        ``[batch, ...]``.
    """
    match prediction:
        case "epsilon":
            return output
        case "v_prediction":
            return sigma * x_t + gamma * output
        case "sample":
            return implied_noise(x_t, output, gamma, sigma)
        case "flow":
            return x_t + gamma * output


def to_output(x0: Tensor, noise: Tensor, gamma: Tensor, sigma: Tensor, prediction: PredictionType) -> Tensor:
    """The output that a network should give for a clean sample and its noise: the training target.

    Args:
        x0: ``[batch, ...]`` clean samples.
        noise: ``[batch, ...]`` ε.
        gamma: γ_t, shaped to multiply ``x0``.
        sigma: σ_t, shaped to multiply ``x0``.
        prediction: What the network predicts.

    Returns:
        ``[batch, ...]``.
    """
    match prediction:
        case "epsilon":
            return noise
        case "v_prediction":
            return gamma * noise - sigma * x0
        case "sample":
            return x0
        case "flow":
            return noise - x0
