"""A network as a function of one vector of weights, and gradients with respect to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from guda_lightning.attribution.scoring import NoisedQueries
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.distributed.sharding import is_sharded
from guda_lightning.errors import ConfigError
from guda_lightning.functional.outputs import Output


class FlatModel:
    """A diffusion model whose chosen weights are one vector.

    Args:
        model: The model, in evaluation mode and on the device of the batches; it is left as it is.
        chosen: Which weights take part, by their name in the denoiser; all if left out.

    Attributes:
        slices: By the name of each weight, where it lies in the vector.
        size: Length of the vector.
    """

    def __init__(self, model: DiffusionModel, chosen: Callable[[str], bool] = lambda name: True) -> None:
        self._predictor = _Predictor(model)
        weights = {name: value.detach() for name, value in self._predictor.named_parameters()}
        inside = {name: value for name, value in weights.items() if chosen(name.removeprefix(_PREFIX))}
        self._inside = inside
        self._rest = {name: value for name, value in weights.items() if name not in inside}
        self.slices: dict[str, slice] = {}
        start = 0
        for name, value in inside.items():
            self.slices[name.removeprefix(_PREFIX)] = slice(start, start + value.numel())
            start += value.numel()
        self.size = start

    def vector(self) -> Tensor:
        """The weights, ``[weights]``."""
        return torch.cat([value.flatten() for value in self._inside.values()])

    def predicted_noise(self, vector: Tensor, batch: NoisedQueries) -> Tensor:
        """ε̂ with other weights, ``[batch, ...]``; differentiable by them.

        Args:
            vector: ``[weights]``.
            batch: Noised samples.
        """
        predicted: Tensor = self._predict(self._shaped(vector), batch.x_t, batch.timesteps, batch.labels)
        return predicted

    def gradients(self, output: Output, batch: NoisedQueries) -> Tensor:
        """Gradients of an output on every sample by itself, ``[batch, weights]``.

        Costs about twice the memory and time of one backward pass of the batch, and ``batch · weights``
        numbers for the answer.

        Args:
            output: Of predicted noise and noise.
            batch: Noised samples.
        """

        def of_one(
            weights: Mapping[str, Tensor], x_t: Tensor, t: Tensor, noise: Tensor, label: Tensor | None
        ) -> Tensor:
            one = None if label is None else label[None]
            return output(self._predict(weights, x_t[None], t[None], one), noise[None])[0]

        label = None if batch.labels is None else 0
        each = vmap(grad(of_one), in_dims=(None, 0, 0, 0, label))
        with sdpa_kernel(SDPBackend.MATH):  # the others have no rule for vmap and run sample by sample
            found = each(self._inside, batch.x_t, batch.timesteps, batch.noise, batch.labels)
        return torch.cat([found[name].flatten(1) for name in self._inside], dim=1)

    def summed(self, output: Output, batch: NoisedQueries, factors: Tensor | None = None) -> Tensor:
        """The sum of these gradients over the batch by one backward pass, ``[weights]``.

        Args:
            output: Of predicted noise and noise.
            batch: Noised samples.
            factors: ``[batch]`` of each sample's gradient; 1 if left out.
        """
        weights = {name: value.clone().requires_grad_() for name, value in self._inside.items()}
        with torch.enable_grad():
            values = output(self._predict(weights, batch.x_t, batch.timesteps, batch.labels), batch.noise)
            total = (values if factors is None else values * factors).sum()
        found = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
        pairs = zip(weights.values(), found, strict=True)
        return torch.cat([(torch.zeros_like(w) if g is None else g).flatten() for w, g in pairs])

    def _shaped(self, vector: Tensor) -> dict[str, Tensor]:
        parts = zip(self._inside.items(), self.slices.values(), strict=True)
        return {name: vector[where].view(value.shape) for (name, value), where in parts}

    def _predict(
        self, weights: Mapping[str, Tensor], x_t: Tensor, timesteps: Tensor, labels: Tensor | None
    ) -> Tensor:
        found: Tensor = functional_call(self._predictor, {**self._rest, **weights}, (x_t, timesteps, labels))
        return found


def refuse_spread(model: DiffusionModel, execution: Execution, method: str) -> None:
    """Refuse a model of which no process has all weights.

    Args:
        model: The model.
        execution: Where it computes.
        method: Who needs them, for the message.

    Raises:
        ConfigError: It is sharded, or will be.
    """
    if execution.ranks.mesh is not None or is_sharded(model.denoiser):
        raise ConfigError(
            f"{method} needs all weights on every process",
            found="a model that is spread over processes (FSDP)",
            expected="one device that holds the model and a gradient of it",
            fix="take another strategy, such as --trainer.strategy ddp",
        )


_PREFIX = "denoiser."


class _Predictor(nn.Module):
    """ε̂ of a model as a module, so that its weights can be replaced for one call."""

    def __init__(self, model: DiffusionModel) -> None:
        super().__init__()
        self.denoiser = model.denoiser
        self._model = model

    def forward(self, x_t: Tensor, timesteps: Tensor, labels: Tensor | None) -> Tensor:
        return self._model.predicted_noise(x_t, timesteps, labels)
