"""EK-FAC of a UNet against kronfluence, which computes it by other means, where that is installed."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from guda_lightning.attribution.gradients import ekfac
from guda_lightning.attribution.gradients.ekfac import fit_ekfac
from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.scoring import noised_by_plan
from guda_lightning.diffusion import diffusion_model
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import Queries
from toys import tiny_unet

INSTALL = "pip install --no-deps kronfluence==1.0.1 accelerate einops einconv opt_einsum"


def test_curvature_and_solutions_are_those_of_kronfluence(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of another library's imports
        pytest.importorskip("kronfluence", reason=f"kronfluence is not installed: {INSTALL}")
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments
        from kronfluence.task import Task

        class Pseudo(Task):
            def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
                x_t, timesteps, noise = batch
                return math.sqrt(2) * (model(x_t, timesteps).sample * noise).sum()

            compute_measurement = compute_train_loss

        module = nn.Module()
        module.denoiser = tiny_unet(down_block_types=("AttnDownBlock2D",), attention_head_dim=4).eval()
        module.scheduler = DDPMScheduler(num_train_timesteps=50)
        model = diffusion_model(module)
        samples = Queries(tuple("abcdefgh"), torch.rand(8, 1, 8, 8) * 2 - 1)
        plan = TimestepPlan.even(model.schedule, 2, 2)
        parts = list(noised_by_plan(samples, plan, 0, 8, model.schedule, "cpu"))
        flat = FlatModel(model)
        kernel = fit_ekfac(model, flat, lambda: parts, damping=0.1)

        def rows(draw: int) -> list[tuple[Tensor, Tensor, Tensor]]:
            pseudo = list(ekfac._with_pseudo_noise(parts, draw=draw))
            return [row for part in pseudo for row in zip(part.x_t, part.timesteps, part.noise, strict=True)]

        unet = tiny_unet(down_block_types=("AttnDownBlock2D",), attention_head_dim=4).eval()
        analyzer = Analyzer(
            "unet",
            prepare_model(unet, Pseudo()),
            Pseudo(),
            cpu=True,
            output_dir=str(tmp_path),
            disable_tqdm=True,
        )
        fit: dict[str, Any] = {"factors_name": "f", "per_device_batch_size": 8}
        arguments = FactorArguments(strategy="ekfac")
        analyzer.fit_covariance_matrices(dataset=rows(0), factor_args=arguments, **fit)  # type: ignore[arg-type]
        analyzer.perform_eigendecomposition(factors_name="f", factor_args=arguments)
        analyzer.fit_lambda_matrices(dataset=rows(1), factor_args=arguments, **fit)  # type: ignore[arg-type]
        vectors, lambdas = analyzer.load_eigendecomposition("f"), analyzer.load_lambda_matrices("f")

    assert {layer.name for layer in kernel.layers} == set(lambdas["lambda_matrix"])
    gradients = torch.randn(3, flat.size)
    solved = kernel.solve(gradients)
    damping = 0.1 * kernel.eigenvalues.mean()
    for layer in kernel.layers:
        theirs = lambdas["lambda_matrix"][layer.name] / lambdas["num_lambda_processed"][layer.name]
        ours = layer.block(kernel.eigenvalues)
        q_s, q_a = (vectors[f"{side}_eigenvectors"][layer.name] for side in ("gradient", "activation"))
        rotated = q_s.T @ layer.block(gradients) @ q_a
        expected = q_s @ (rotated / (theirs + damping)) @ q_a.T
        # Eigenvectors of equal eigenvalues are free up to a rotation, the trace is not.
        torch.testing.assert_close(ours.sum(), theirs.sum(), rtol=1e-4, atol=1e-7)
        error = (layer.block(solved) - expected).norm() / expected.norm()
        assert float(error) < 1e-3, layer.name
