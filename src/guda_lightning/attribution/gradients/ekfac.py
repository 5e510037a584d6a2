"""EK-FAC: the Gauss-Newton curvature of the loss, layer by layer in Kronecker-factored eigenbases."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.gradients.kernel import Kernel
from guda_lightning.attribution.scoring import NoisedQueries
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.functional import kfac
from guda_lightning.functional.kfac import KroneckerBasis
from guda_lightning.functional.noise import gaussian_noise
from guda_lightning.progress_bar import progress_bar

_LARGEST = 2**13  # dimensions of a factor: 256 MiB, and minutes on one core for its eigenvectors
_SIDES = ("outputs", "inputs")  # of a basis, as its fields are named
_EIGENVALUES = "eigenvalues"


@dataclass(frozen=True)
class Layer:
    """A Linear or Conv2d, and where its weights lie in the vector of all.

    Attributes:
        name: In the denoiser.
        module: The layer.
        weight: Where its weight lies.
        bias: Where its bias lies; None if it has none or that takes no part.
    """

    name: str
    module: nn.Linear | nn.Conv2d
    weight: slice
    bias: slice | None

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs, and inputs with one for the bias."""
        return len(self.module.weight), self.module.weight[0].numel() + (self.bias is not None)

    def block(self, vectors: Tensor) -> Tensor:
        """Its part of ``[..., weights]``, ``[..., out, in]`` with the bias as the last column."""
        weight = vectors[..., self.weight].unflatten(-1, (len(self.module.weight), -1))
        return weight if self.bias is None else torch.cat([weight, vectors[..., self.bias, None]], dim=-1)

    def write(self, vectors: Tensor, block: Tensor) -> None:
        """Set its part of ``[..., weights]``."""
        if self.bias is not None:
            vectors[..., self.bias] = block[..., -1]
            block = block[..., :-1]
        vectors[..., self.weight] = block.flatten(-2)

    def input_rows(self, x: Tensor) -> Tensor:
        """What its weights are multiplied with, ``[tokens, in]`` of all samples, or of all positions."""
        layer = self.module
        if isinstance(layer, nn.Conv2d):
            # Padding by name is not factored.
            rows = kfac.patch_rows(x, layer.kernel_size, layer.stride, layer.padding, layer.dilation)  # type: ignore[arg-type]
        else:
            rows = x.flatten(0, -2)
        return rows if self.bias is None else kfac.with_ones(rows)

    def output_rows(self, gradient: Tensor) -> Tensor:
        """Gradients by its outputs in the same order, ``[tokens, out]``."""
        rows = gradient.movedim(1, -1) if isinstance(self.module, nn.Conv2d) else gradient
        return rows.flatten(0, -2)


def factored_layers(model: DiffusionModel, flat: FlatModel) -> list[Layer]:
    """The layers that get factors: Linear, and Conv2d of one group that is padded with zeros.

    Args:
        model: The model.
        flat: The weights that take part.
    """
    layers = []
    for name, module in model.denoiser.named_modules():
        weight, bias = (f"{name}.{kind}".removeprefix(".") for kind in ("weight", "bias"))
        if not (isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and _is_plain(module))):
            continue
        if weight in flat.slices:
            layers.append(Layer(name, module, flat.slices[weight], flat.slices.get(bias)))
    return layers


def refuse_large_layers(model: DiffusionModel, flat: FlatModel) -> None:
    """Refuse factors beyond 8192 x 8192.

    Args:
        model: The model.
        flat: The weights that take part.

    Raises:
        ConfigError: A layer has more inputs or outputs.
    """
    for layer in factored_layers(model, flat):
        outputs, inputs = layer.shape
        if max(outputs, inputs) > _LARGEST:
            raise ConfigError(
                f"the layer '{layer.name}' is too large for EK-FAC",
                found=f"{inputs} inputs and {outputs} outputs",
                expected=f"at most {_LARGEST} of each: a factor is as large as their square",
                fix="take kernel: diag",
            )


def _is_plain(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


@dataclass(frozen=True, eq=False)
class EKFAC(Kernel):
    """``(H + λ)⁻¹`` of an H that is diagonal in the eigenbases of layers, and for other weights as they are.

    Holds ``Σ (in² + out² + in · out)`` numbers over layers.

    Attributes:
        layers: The layers with factors.
        bases: Their eigenbases, by their names.
        eigenvalues: ``[weights]``: each layer's corrected ones lie where its weights do, elsewhere stands the
            diagonal.
        damping: λ relative to the mean of all eigenvalues; positive.
    """

    layers: list[Layer]
    bases: Mapping[str, KroneckerBasis]
    eigenvalues: Tensor
    damping: float

    def solve(self, gradients: Tensor) -> Tensor:
        """``(H + λ)⁻¹ g`` for ``[rows, weights]``; twice their memory, and one layer's more."""
        damping, rows = self.damping * float(self.eigenvalues.mean()), gradients.to(self.eigenvalues)
        solved = rows / (self.eigenvalues + damping)
        for layer in self.layers:
            eigenvalues, block = layer.block(self.eigenvalues), layer.block(rows)
            layer.write(solved, kfac.solve(self.bases[layer.name], eigenvalues, damping, block))
        return solved.to(gradients)

    def state(self) -> dict[str, Tensor]:
        """All tensors, by names that safetensors takes; ``from_state`` makes the kernel of them again."""
        bases = {
            f"{name}.{side}": values
            for name, basis in self.bases.items()
            for side, values in zip(_SIDES, basis, strict=True)
        }
        return {_EIGENVALUES: self.eigenvalues} | bases

    @classmethod
    def from_state(
        cls, state: Mapping[str, Tensor], model: DiffusionModel, flat: FlatModel, damping: float
    ) -> EKFAC:
        """The kernel of what ``state`` returned.

        Args:
            state: Its tensors, on the device of the gradients.
            model: The model that it was fitted to.
            flat: Its weights, the same as then.
            damping: λ relative to the mean of all eigenvalues; positive. May differ from then.
        """
        layers = factored_layers(model, flat)
        bases = {one.name: KroneckerBasis(*(state[f"{one.name}.{s}"] for s in _SIDES)) for one in layers}
        return cls(layers, bases, state[_EIGENVALUES], damping)


def fit_ekfac(
    model: DiffusionModel,
    flat: FlatModel,
    batches: Callable[[], Iterable[NoisedQueries]],
    damping: float,
) -> EKFAC:
    """The curvature ``H = 2 E[JᵀJ]`` of ``‖ε − ε̂‖²``, J the derivative of ε̂ by the weights.

    The generalised Gauss-Newton matrix of the network's output, as Mlodozeniec et al. (arXiv 2410.13850,
    section 3) recommend for diffusion models, by Monte Carlo: with a pseudo-target ``y = ε̂ + ξ`` of standard
    normal ξ, ``Jᵀξ`` has the covariance ``JᵀJ``; so ``√2 ⟨ξ, ε̂⟩`` is differentiated, once an evaluation.
    A first pass over the batches sums the covariances of every layer's inputs and output gradients; the
    second one, with a ξ of its own, squares the gradient of each sample in the eigenbases that follow, that
    of all calls of a layer and all its tokens. ξ depends on the place of an evaluation alone, not on batches.

    Weights without factors (norms, embeddings by number, convolutions in groups, layers whose weights are
    used without calling them) get the diagonal of the same curvature; none is dropped.

    Args:
        model: In evaluation mode, on the device of the batches.
        flat: Its weights that take part.
        batches: Makes the noised training samples; called twice, and must give the same ones in the same
            order. Each of them costs two gradients; ``4 · batch · weights`` numbers are in memory at a time.
        damping: λ relative to the mean of all eigenvalues; positive.

    Raises:
        ConfigError: There are no batches.
        NumericsError: The curvature is zero, or not finite.
    """
    layers, like = factored_layers(model, flat), flat.vector()
    covariances = [[like.new_zeros(size, size) for size in layer.shape] for layer in layers]
    with ExitStack() as hooks:
        for layer, sums in zip(layers, covariances, strict=True):
            hooks.callback(layer.module.register_forward_hook(_observer(layer, *sums)).remove)
        total, count = 0.0, 0
        for batch in _with_pseudo_noise(batches(), draw=0):
            total += float(flat.summed(_pseudo_output, batch).abs().sum())
            count += len(batch.timesteps)
    _refuse_no_curvature(total, count)
    bases = {}
    with progress_bar("find eigenvectors", "layers", len(layers), lines=True, delay=2) as bar:
        for layer, sums in zip(layers, covariances, strict=True):
            bases[layer.name] = kfac.kronecker_basis(*sums)
            bar.update()
    eigenvalues = torch.zeros_like(like)
    for batch in _with_pseudo_noise(batches(), draw=1):
        gradients = flat.gradients(_pseudo_output, batch)
        squares = gradients.square().sum(dim=0)
        for layer in layers:
            layer.write(squares, kfac.squared_coordinates(bases[layer.name], layer.block(gradients)))
        eigenvalues += squares
    return EKFAC(layers, bases, eigenvalues / count, damping)


def _refuse_no_curvature(total: float, count: int) -> None:
    if not count:
        raise ConfigError(
            "there is nothing to estimate the curvature from",
            found="0 noised training samples",
            expected="at least one",
            fix="pass batches of noised_by_plan",
        )
    if not 0 < total < math.inf:
        raise NumericsError(
            "the curvature of the loss has no inverse",
            found=f"gradients whose magnitudes sum to {total}",
            expected="a positive number",
            fix="train the full model, or look for weights that are not finite",
        )


def _observer(layer: Layer, outputs: Tensor, inputs: Tensor) -> Callable[..., None]:
    """A forward hook that adds to both covariances of a layer at each of its calls."""

    def add_outputs(gradient: Tensor) -> None:
        outputs.add_(kfac.outer_sum(layer.output_rows(gradient)))

    def observe(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:  # not where gradient checkpointing runs it for the first time
            inputs.add_(kfac.outer_sum(layer.input_rows(arguments[0].detach())))
            output.register_hook(add_outputs)

    return observe


def _pseudo_output(predicted: Tensor, noise: Tensor) -> Tensor:
    """``√2 ⟨ξ, ε̂⟩``, ``[batch]``; the mean outer product of its gradients is ``2 E[JᵀJ]``."""
    return math.sqrt(2) * (predicted * noise).flatten(1).sum(dim=1)


def _with_pseudo_noise(batches: Iterable[NoisedQueries], draw: int) -> Iterator[NoisedQueries]:
    """The batches with ξ in the place of their noise, which belongs to the place of an evaluation."""
    count = 0
    for batch in batches:
        ids = [f"pseudo-target {count + row}" for row in range(len(batch.noise))]
        draws = torch.full_like(batch.timesteps, draw)
        noise = gaussian_noise(0, ids, batch.timesteps, draws, batch.noise.shape[1:])
        yield batch._replace(noise=noise.to(batch.noise.device))
        count += len(ids)
