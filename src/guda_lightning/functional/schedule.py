"""Noise schedules: what every formula needs to know about a timestep.

| symbol | name here        | meaning                                              |
|--------|------------------|------------------------------------------------------|
| x_0    | ``x0``           | clean sample                                         |
| ε      | ``noise``        | standard normal noise                                |
| x_t    | ``x_t``          | ``γ_t x_0 + σ_t ε``                                  |
| γ_t    | ``gamma``        | ``sqrt(ᾱ_t)``, or ``1 − s`` for flow matching        |
| σ_t    | ``sigma``        | ``sqrt(1 − ᾱ_t)``, or ``s`` for flow matching        |
| SNR_t  | ``snr``          | ``γ_t² / σ_t²``, falls with t                        |
| W_t    | ``kl_weights``   | ``½ (SNR_{t−1} / SNR_t − 1)``, so KL_t = W_t ‖ε − ε̂‖² |
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.types import Weighting

CLIPPED_BETA = 0.999  # diffusers clips β here in its cosine schedule: such a step is no DDPM step
MIN_FLOW_SIGMA = 0.01  # SNR diverges at s = 0: the ELBO of a flow starts at this noise level
MIDDLE = 0.1, 0.7  # share of all timesteps where the weighting of that name begins and ends
ROUNDING = 1e-6  # schedules usually come in float32: compare with its rounding in mind


def alphas_cumprod_of(betas: Tensor) -> Tensor:
    """``ᾱ_t = Π_{s≤t} (1 − β_s)``, in the precision of ``betas``, or float32 (Ho et al. 2020, equation 4).

    Args:
        betas: ``[timesteps]``, β_t in [0, 1].

    Returns:
        ``[timesteps]``.
    """
    return (1 - betas.to(torch.promote_types(betas.dtype, torch.float32))).cumprod(dim=0)


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The quantities of a noise schedule, indexed by timestep from least to most noise.

    Attributes:
        gamma: ``[timesteps]`` float64, factor of the clean sample.
        sigma: ``[timesteps]`` float64, factor of the noise.
        model_timesteps: ``[timesteps]``, what the network takes: int64 indices for DDPM, float32 for flows.
        scored_timesteps: ``[scored]`` int64, the range of the ELBO, ascending.
    """

    gamma: Tensor
    sigma: Tensor
    model_timesteps: Tensor
    scored_timesteps: Tensor

    def __post_init__(self) -> None:
        if not self.scored_timesteps.numel():
            raise NumericsError(
                "no timestep of the noise schedule can be scored",
                found=f"{len(self)} timesteps",
                expected="two consecutive timesteps that both hold signal and noise",
                fix="use a schedule of more timesteps",
            )

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: Tensor) -> NoiseSchedule:
        """The schedule of a variance-preserving diffusion (DDPM).

        The ELBO ranges over ``1 <= t <= T-1`` without steps of clipped β (>= .999), zero SNR, or no noise
        before them (infinite SNR); the decoder term at t = 0 is left out too.

        Args:
            alphas_cumprod: ``[timesteps]``, ᾱ_t, not increasing, in [0, 1].

        Raises:
            NumericsError: ᾱ is empty, leaves [0, 1], increases, is not finite, or has no step to score.
        """
        alpha_bar = alphas_cumprod.detach().to("cpu", torch.float64)
        inside = alpha_bar.ndim == 1 and bool(((alpha_bar >= 0) & (alpha_bar <= 1)).all())
        if not inside or bool((alpha_bar.diff() > 0).any()):
            span = f" from {alpha_bar.min():.4g} to {alpha_bar.max():.4g}" if alpha_bar.numel() else ""
            raise NumericsError(
                "alphas_cumprod is not a noise schedule",
                found=f"{alpha_bar.numel()} values{span}",
                expected="finite values in [0, 1] that never increase",
                fix="pass scheduler.alphas_cumprod of a DDPM-type scheduler as it is",
            )
        beta = 1 - alpha_bar[1:] / alpha_bar[:-1]
        scored = (beta < CLIPPED_BETA - ROUNDING) & (alpha_bar[1:] > 0) & (alpha_bar[:-1] < 1)
        return cls(
            gamma=alpha_bar.sqrt(),
            sigma=(1 - alpha_bar).sqrt(),
            model_timesteps=torch.arange(alpha_bar.numel()),
            scored_timesteps=torch.nonzero(scored).flatten() + 1,
        )

    @classmethod
    def from_flow(cls, sigmas: Tensor, num_train_timesteps: int) -> NoiseSchedule:
        """The schedule of flow matching, ``x_t = (1 − s) x_0 + s ε``, on a grid of noise levels.

        Args:
            sigmas: ``[timesteps]`` noise levels s in (0, 1], in any order.
            num_train_timesteps: The network takes ``s * num_train_timesteps``.

        Raises:
            NumericsError: A noise level leaves (0, 1], or there is no step to score.
        """
        s = torch.tensor(sorted(set(sigmas.double().tolist())), dtype=torch.float64)
        if not bool(((s > 0) & (s <= 1)).all()):
            raise NumericsError(
                "the flow's noise levels are out of range",
                found=f"{s.min():.4g} to {s.max():.4g}",
                expected="s in (0, 1]",
                fix="pass the sigmas that the model was trained on, without the final 0",
            )
        scored = (s[:-1] > MIN_FLOW_SIGMA - ROUNDING) & (s[1:] < 1)
        return cls(
            gamma=1 - s,
            sigma=s,
            model_timesteps=(s * num_train_timesteps).to(torch.float32),
            scored_timesteps=torch.nonzero(scored).flatten() + 1,
        )

    def __len__(self) -> int:
        return self.gamma.numel()

    @cached_property
    def snr(self) -> Tensor:
        """``[timesteps]`` float64 signal-to-noise ratio γ²/σ² (infinite where there is no noise)."""
        return (self.gamma / self.sigma).square()

    @cached_property
    def kl_weights(self) -> Tensor:
        """``[timesteps]`` float64, W_t in nats per squared noise error; 0 outside the ELBO's range."""
        weights = torch.zeros_like(self.gamma)
        t = self.scored_timesteps
        weights[t] = 0.5 * (self.snr[t - 1] / self.snr[t] - 1)
        return weights

    @cached_property
    def uniform_weights(self) -> Tensor:
        """``[timesteps]`` float64, the same weight for every scored timestep, summing to one."""
        return self._equal_weights(self.scored_timesteps)

    @cached_property
    def middle_weights(self) -> Tensor:
        """``[timesteps]`` float64, the same for every scored timestep with .1 <= t/T < .7, summing to one.

        Without the finest details and without what is nearly pure noise (docs/benchmarks.md).
        """
        low, high = (round(fraction * len(self)) for fraction in MIDDLE)
        scored = self.scored_timesteps
        return self._equal_weights(scored[(scored >= low) & (scored < high)])

    def weights(self, weighting: Weighting) -> Tensor:
        """``[timesteps]`` float64: what each timestep's squared noise error counts under a weighting."""
        return {"elbo": self.kl_weights, "uniform": self.uniform_weights, "middle": self.middle_weights}[
            weighting
        ]

    def _equal_weights(self, timesteps: Tensor) -> Tensor:
        weights = torch.zeros_like(self.gamma)
        weights[timesteps] = 1 / max(1, timesteps.numel())
        return weights

    @cached_property
    def hash(self) -> str:
        """Content hash: two schedules are the same when their float32 values are."""
        digest = hashlib.sha256()
        for values in (self.gamma, self.sigma, self.model_timesteps):
            digest.update(values.to(torch.float32).numpy().tobytes())
        return digest.hexdigest()

    def check(self, timesteps: Tensor) -> None:
        """Refuse timesteps outside the ELBO's range.

        Raises:
            ConfigError: Some timestep is not scored by this schedule.
        """
        outside = timesteps[~torch.isin(timesteps.cpu(), self.scored_timesteps)]
        if outside.numel():
            scored = self.scored_timesteps
            raise ConfigError(
                "timesteps are outside the range of the ELBO",
                found=f"{sorted(set(outside.tolist()))[:8]}",
                expected=f"{int(scored[0])} <= t <= {int(scored[-1])} (schedule of {len(self)} timesteps)",
                fix=f"choose start, stop and step inside {int(scored[0])}..{int(scored[-1])}",
            )

    def at(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """γ and σ at each timestep, shaped and typed to multiply ``like``.

        Args:
            timesteps: ``[batch]`` int64.
            like: ``[batch, ...]``.

        Returns:
            Two tensors ``[batch, 1, ...]`` on the device and of the dtype of ``like``.
        """
        shape = (-1,) + (1,) * (like.ndim - 1)
        gamma, sigma, _ = self._beside(like)
        index = timesteps.to(like.device)
        return gamma[index].view(shape), sigma[index].view(shape)

    def log_snr_at(self, timesteps: Tensor, like: Tensor) -> Tensor:
        """``log SNR_t = 2 (log γ_t − log σ_t)``, infinite without noise and without signal.

        Args:
            timesteps: ``[batch]`` int64.
            like: ``[batch, ...]``.

        Returns:
            ``[batch]`` on the device and of the dtype of ``like``.
        """
        gamma, sigma = self.at(timesteps, like)
        return 2 * (gamma.log() - sigma.log()).flatten()

    def model_timesteps_at(self, timesteps: Tensor, like: Tensor) -> Tensor:
        """``model_timesteps`` at each timestep.

        Args:
            timesteps: ``[batch]`` int64.
            like: Any tensor on the network's device.

        Returns:
            ``[batch]`` on that device.
        """
        return self._beside(like)[2][timesteps.to(like.device)]

    def timesteps_of(self, model_timesteps: Tensor) -> Tensor:
        """The timesteps that a network's own timesteps stand for: the inverse of ``model_timesteps_at``.

        Args:
            model_timesteps: ``[batch]``.

        Returns:
            ``[batch]`` int64 on the CPU.
        """
        # Samplers expand one number to a batch, and torch warns of a search for what is not contiguous.
        values = model_timesteps.cpu().to(self.model_timesteps).contiguous()
        return torch.searchsorted(self.model_timesteps, values)

    def _beside(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """γ, σ and ``model_timesteps`` where they are looked up: on a GPU, so that no step waits for it."""
        key = like.device, like.dtype
        if key not in self._copies:
            with torch.inference_mode(False):  # training uses what a validation has copied
                copies = self.gamma.to(like), self.sigma.to(like), self.model_timesteps.to(like.device)
            self._copies[key] = copies
        return self._copies[key]

    @cached_property
    def _copies(self) -> dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor]]:
        return {}
