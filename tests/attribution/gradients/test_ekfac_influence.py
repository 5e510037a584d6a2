"""Influences by EK-FAC: the kernel between gradients, fitted once, and a run that is scored by it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from guda_lightning import ScoreTable
from guda_lightning.attribution import AttributionContext
from guda_lightning.attribution.gradients import GradientInfluence
from guda_lightning.attribution.gradients.ekfac import fit_ekfac
from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.samples import training_samples
from guda_lightning.attribution.scoring import noised_by_plan
from guda_lightning.cli.main import main
from guda_lightning.errors import ConfigError
from guda_lightning.functional.outputs import OUTPUTS
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import Queries
from toys import gray_queries, message, shades, tiny_full

CONF = Path(__file__).parents[2] / "conf"


def ekfac(damping: float = 0.1) -> GradientInfluence:
    return GradientInfluence(kernel="ekfac", damping=damping, strata=2, training_strata=2, draws=1)


def test_scores_are_products_of_gradients_around_the_kernel(tmp_path: Path) -> None:
    full, data, queries = tiny_full(), shades(per_group=2), gray_queries("a", "b")
    context = AttributionContext(full=full, data=data, features=tmp_path)
    fitted = ekfac().fit(context)
    assert (
        fitted.preparation() == 3 * 2 * 6 * 3
    )  # a gradient is three; two timesteps; six samples; two passes
    fitted.prepare()
    assert fitted.preparation() == 0
    model, flat = full.model, FlatModel(full.model)
    plan = TimestepPlan.even(model.schedule, 2, 1)

    def noised(samples: Queries, size: int) -> list[torch.Tensor]:
        batches = noised_by_plan(samples, plan, 0, size, model.schedule, "cpu")
        shares = (plan.sizes / len(plan.timesteps)).float()
        return [flat.summed(OUTPUTS["loss"], batch, shares.repeat(size // 2)) for batch in batches]

    samples = training_samples(data, np.arange(6), conditional=False)
    kernel = fit_ekfac(
        model, flat, lambda: noised_by_plan(samples, plan, 0, 64, model.schedule, "cpu"), damping=0.1
    )
    groups = [
        noised(samples.take(context.grouping.forget(context.grouping.coalition(name)).tolist()), 4)[0]  # type: ignore[union-attr]
        for name in fitted.groups
    ]
    expected = torch.stack(noised(queries, 2)) @ kernel.solve(torch.stack(groups)).T / 6
    torch.testing.assert_close(fitted.score(queries).matrix(), expected.double(), rtol=1e-2, atol=1e-3)
    again = ekfac(damping=1.0).fit(context)
    assert again.preparation() == 0  # of network evaluations: curvature and gradients are there
    assert not torch.equal(again.score(queries).matrix(), fitted.score(queries).matrix())


def test_a_layer_too_large_is_refused_before_work() -> None:
    full = tiny_full()
    full.model.denoiser.large = nn.Linear(8192, 1)
    expected = message(
        "the layer 'large' is too large for EK-FAC",
        "8193 inputs and 1 outputs",
        "at most 8192 of each: a factor is as large as their square",
        "take kernel: diag",
    )
    with pytest.raises(ConfigError, match=expected):
        ekfac().fit(AttributionContext(full=full, data=shades(per_group=2)))


def test_a_run_is_scored(finished_run: Path) -> None:
    arguments = ["attribute", "-c", f"{CONF}/digits.yaml", "-c", "attribute/ekfac.yaml"]
    for option in ("strata", "training_strata"):
        arguments += [f"--attributor.init_args.{option}", "2"]
    assert main([*arguments, "--run", str(finished_run)]) == 0
    table = ScoreTable.load(finished_run / "scores" / "ekfac-0.parquet")
    assert math.isfinite(float(table.matrix().sum())) and table.record.kind == "influence"
    assert len(list((finished_run / "features").glob("gradients-*/ekfac.safetensors"))) == 1
