"""EK-FAC of whole networks against brute force, a closed form, and kronfluence."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from guda_lightning.attribution.gradients import ekfac
from guda_lightning.attribution.gradients.ekfac import EKFAC, factored_layers, fit_ekfac, refuse_large_layers
from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.scoring import NoisedQueries, noised_by_plan
from guda_lightning.diffusion import DiffusionModel, diffusion_model
from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import Queries
from second_device import second_device
from toys import message


class Mixed(nn.Module):
    """A convolution, tokens, a layer that is called twice, a norm, and an embedding: all kinds of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(1, 3)
        self.twice = nn.Linear(3, 3)
        self.time = nn.Embedding(50, 3)
        self.out = nn.Linear(3, 4, bias=False)

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        tokens = self.norm(self.conv(x_t)).flatten(2).mT + self.time(timesteps)[:, None]
        tokens = self.twice(torch.tanh(self.twice(tokens)))
        return nn.functional.pixel_shuffle(self.out(tokens).mT.unflatten(2, (2, 2)), 2)


def of(denoiser: nn.Module) -> DiffusionModel:
    module = nn.Module()
    module.denoiser = denoiser.eval()
    module.scheduler = DDPMScheduler(num_train_timesteps=50)
    return diffusion_model(module)


def batches(
    model: DiffusionModel, side: int = 4, samples: int = 6, strata: int = 2, size: int = 5
) -> list[NoisedQueries]:
    images = torch.rand(samples, 1, side, side) * 2 - 1
    queries = Queries(tuple(str(n) for n in range(samples)), images)
    plan = TimestepPlan.even(model.schedule, strata, 1)
    return list(noised_by_plan(queries, plan, 0, size, model.schedule, "cpu"))


def joined(parts: list[NoisedQueries]) -> NoisedQueries:
    noise, x_t, timesteps = (torch.cat([part[n] for part in parts]) for n in range(3))  # type: ignore[misc]
    return NoisedQueries(noise, x_t, timesteps, None)


def one_by_one(model: DiffusionModel, batch: NoisedQueries, flat: FlatModel) -> Tensor:
    """Gradients of the pseudo-output by plain autograd, a sample at a time, ``[batch, weights]``."""
    rows = []
    for n in range(len(batch.noise)):
        model.denoiser.zero_grad()
        predicted = model.predicted_noise(batch.x_t[n : n + 1], batch.timesteps[n : n + 1])
        (math.sqrt(2) * (predicted * batch.noise[n]).sum()).backward()
        found = dict(model.denoiser.named_parameters())
        rows.append(torch.cat([found[name].grad.flatten() for name in flat.slices]))  # type: ignore[union-attr]
    return torch.stack(rows)


def test_eigenvalues_are_the_diagonal_of_the_fisher_information_in_the_eigenbasis() -> None:
    model = of(Mixed())
    flat, parts = FlatModel(model), batches(model)
    kernel = fit_ekfac(model, flat, lambda: parts, damping=0.1)
    (pseudo,) = ekfac._with_pseudo_noise([joined(parts)], draw=1)
    gradients = one_by_one(model, pseudo, flat)
    vectors = torch.eye(flat.size)
    assert [layer.name for layer in kernel.layers] == ["conv", "twice", "out"]
    for layer in kernel.layers:
        basis = kernel.bases[layer.name]
        assert basis.inputs.shape[0] == {"conv": 10, "twice": 4, "out": 3}[layer.name]
        rotated = basis.rotate(layer.block(vectors))
        layer.write(vectors, rotated)
    fisher = gradients.T @ gradients / len(gradients)
    torch.testing.assert_close(kernel.eigenvalues, (vectors.T @ fisher @ vectors).diagonal())
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(flat.size), rtol=0, atol=1e-5)
    # The inverse, written out.
    g = torch.randn(4, flat.size)
    curvature = vectors @ kernel.eigenvalues.diag() @ vectors.T
    damped = curvature + 0.1 * kernel.eigenvalues.mean() * torch.eye(flat.size)
    torch.testing.assert_close(kernel.solve(g), g @ torch.linalg.inv(damped), rtol=1e-3, atol=1e-4)


def test_factors_are_the_covariances_of_all_calls_and_tokens() -> None:
    model = of(Mixed())
    parts = batches(model)
    kernel = fit_ekfac(model, FlatModel(model), lambda: parts, damping=0.1)
    (pseudo,) = ekfac._with_pseudo_noise([joined(parts)], draw=0)
    seen: list[Tensor] = []
    twice: nn.Module = model.denoiser.twice  # type: ignore[assignment]
    handle = twice.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    model.predicted_noise(pseudo.x_t, pseudo.timesteps)
    handle.remove()
    rows = torch.cat([tokens.flatten(0, 1) for tokens in seen])
    assert rows.shape == (2 * 12 * 4, 3)
    rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
    basis = kernel.bases["twice"].inputs
    diagonal = basis.T @ (rows.T @ rows) @ basis
    torch.testing.assert_close(diagonal, diagonal.diagonal().diag(), rtol=0, atol=1e-4 * float(rows.norm()))


def test_of_a_linear_network_it_is_the_exact_inverse_but_for_the_draws() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
            return self.layer(x_t.flatten(1)).view_as(x_t)

    model = of(Flat())
    parts = batches(model, side=2, samples=400, strata=10, size=500)
    kernel = fit_ekfac(model, FlatModel(model), lambda: parts, damping=0.1)
    inputs = torch.nn.functional.pad(joined(parts).x_t.flatten(1), (0, 1), value=1.0)
    curvature = 2 * torch.kron(torch.eye(4), inputs.T @ inputs / len(inputs))
    damped = curvature + 0.1 * curvature.diagonal().mean() * torch.eye(20)
    blocks = torch.randn(8, 4, 5)
    expected = torch.linalg.solve(damped, blocks.flatten(1).T).T.unflatten(1, (4, 5))
    solved = kernel.layers[0].block(kernel.solve(torch.cat([blocks[..., :4].flatten(1), blocks[..., 4]], 1)))
    # 4000 draws: an eigenvalue is known to about sqrt(2 / 4000) = 2 %.
    assert float((solved - expected).norm() / expected.norm()) < 0.06


def test_pseudo_gradients_have_the_gauss_newton_matrix_as_covariance() -> None:
    model = of(Mixed())
    flat = FlatModel(model)
    (one,) = batches(model, samples=1, strata=2, size=2)
    one = NoisedQueries(one.noise[:1], one.x_t[:1], one.timesteps[:1], None)
    jacobian = torch.func.jacrev(lambda vector: flat.predicted_noise(vector, one).flatten())(flat.vector())
    exact = 2 * jacobian.T @ jacobian
    many = NoisedQueries(*(values.expand(4000, *values.shape[1:]) for values in one[:3]), None)
    (pseudo,) = ekfac._with_pseudo_noise([many], draw=0)
    gradients = flat.gradients(ekfac._pseudo_output, pseudo)
    found = gradients.T @ gradients / len(gradients)
    # E‖F − H‖² = (tr(H)² + ‖H‖²) / draws, for normal gradients of covariance H.
    expected = math.sqrt(float(exact.trace() ** 2 + exact.square().sum()) / 4000)
    assert 0.5 * expected < float((found - exact).norm()) < 1.5 * expected


def test_batches_change_nothing_and_the_state_is_all(tmp_path: Path) -> None:
    model = of(Mixed())
    flat, parts = FlatModel(model), batches(model)
    kernel = fit_ekfac(model, flat, lambda: parts, damping=0.1)
    whole = fit_ekfac(model, flat, lambda: [joined(parts)], damping=0.1)
    g = torch.randn(3, flat.size)
    torch.testing.assert_close(whole.solve(g), kernel.solve(g), rtol=1e-3, atol=1e-4)
    save_file(kernel.state(), tmp_path / "kernel.safetensors")
    again = EKFAC.from_state(load_file(tmp_path / "kernel.safetensors"), model, flat, damping=0.1)
    assert torch.equal(again.solve(g), kernel.solve(g))
    far = EKFAC.from_state(kernel.state(), model, flat, damping=1e8)
    torch.testing.assert_close(far.solve(g) * 1e8 * kernel.eigenvalues.mean(), g, rtol=1e-4, atol=1e-5)


def test_a_linear_layer_over_pictures_that_hold_their_channels_last() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lift, self.out = nn.Linear(1, 3), nn.Linear(3, 1)

        def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
            return self.out(torch.tanh(self.lift(x_t.movedim(1, -1)))).movedim(-1, 1)

    model = of(Last())
    flat, parts = FlatModel(model), batches(model)
    kernel = fit_ekfac(model, flat, lambda: parts, damping=0.1)
    (pseudo,) = ekfac._with_pseudo_noise([joined(parts)], draw=0)
    hidden = torch.tanh(model.denoiser.lift(pseudo.x_t.movedim(1, -1)))  # type: ignore[operator]
    (seen,) = torch.autograd.grad(
        ekfac._pseudo_output(model.denoiser.out(hidden).movedim(-1, 1), pseudo.noise).sum(), hidden
    )  # type: ignore[operator]
    rows = (seen * (1 - hidden.square())).flatten(0, -2).detach()
    basis = kernel.bases["lift"].outputs
    diagonal = basis.T @ (rows.T @ rows) @ basis
    torch.testing.assert_close(diagonal, diagonal.diagonal().diag(), rtol=0, atol=1e-4 * float(rows.norm()))


def test_another_device_gives_the_same_kernel() -> None:
    model = of(Mixed())
    parts = batches(model)
    g = torch.randn(2, FlatModel(model).size)
    expected = fit_ekfac(model, FlatModel(model), lambda: parts, damping=0.1).solve(g)
    with second_device() as device:
        model.denoiser.to(device)
        there = [NoisedQueries(*(values.to(device) for values in part[:3]), None) for part in parts]
        found = fit_ekfac(model, FlatModel(model), lambda: there, damping=0.1).solve(g.to(device))
        assert found.device == device
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)


def test_chosen_weights_alone_take_part() -> None:
    model = of(Mixed())
    flat, parts = FlatModel(model, lambda name: name in ("twice.weight", "norm.bias")), batches(model)
    kernel = fit_ekfac(model, flat, lambda: parts, damping=0.1)
    assert [(layer.name, layer.shape) for layer in kernel.layers] == [("twice", (3, 3))]
    assert kernel.solve(torch.randn(2, flat.size)).shape == (2, 12)


def test_what_has_no_factors() -> None:
    class Others(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv2d(2, 2, 1, groups=2)
            self.circular = nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular")
            self.named = nn.Conv2d(2, 2, 3, padding="same")

    assert factored_layers(of(Others()), FlatModel(of(Others()))) == []


def test_a_layer_too_large_is_refused() -> None:
    model = of(nn.Sequential(nn.Linear(8192, 1)))
    expected = message(
        "the layer '0' is too large for EK-FAC",
        "8193 inputs and 1 outputs",
        "at most 8192 of each: a factor is as large as their square",
        "take kernel: diag",
    )
    with pytest.raises(ConfigError, match=expected):
        refuse_large_layers(model, FlatModel(model))
    refuse_large_layers(model, FlatModel(model, lambda name: name == "0.bias"))


def test_nothing_has_no_curvature() -> None:
    model = of(Mixed())
    expected = message(
        "there is nothing to estimate the curvature from",
        "0 noised training samples",
        "at least one",
        "pass batches of noised_by_plan",
    )
    with pytest.raises(ConfigError, match=expected):
        fit_ekfac(model, FlatModel(model), list, damping=0.1)


def test_a_curvature_without_inverse_is_refused() -> None:
    model = of(Mixed())
    parts = batches(model)
    nn.init.constant_(model.denoiser.out.weight, math.nan)  # type: ignore[union-attr,arg-type]
    expected = message(
        "the curvature of the loss has no inverse",
        "gradients whose magnitudes sum to nan",
        "a positive number",
        "train the full model, or look for weights that are not finite",
    )
    with pytest.raises(NumericsError, match=expected):
        fit_ekfac(model, FlatModel(model), lambda: parts, damping=0.1)
