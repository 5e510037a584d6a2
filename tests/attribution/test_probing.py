"""What counterfactuals lose on training samples, against Gaussians whose losses are known."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from guda_lightning.attribution import AttributionContext, FittedELBOAttributor, squared_errors
from guda_lightning.attribution.elbo import likelihood
from guda_lightning.attribution.probing import SAMPLES, probe, probe_evaluations, probing
from guda_lightning.data import GroupDataModule
from guda_lightning.data.images import as_input
from guda_lightning.diffusion import DiffusionModule, FullModel
from guda_lightning.scores import Scoring, SquaredErrors
from guda_lightning.types import Queries
from toys import GROUPS, GaussianDenoiser, shades

SPREAD = 0.6


@dataclass(frozen=True, eq=False, kw_only=True)
class Known(FittedELBOAttributor):
    """Counterfactuals that are given, and what was asked of them."""

    networks: tuple[nn.Module, ...]
    wanted: list[Tensor]

    def measure(self, queries: Queries, scoring: Scoring, wanted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.wanted.append(wanted)
        model = self.context.full.model
        full, timesteps = squared_errors(model, queries, scoring)
        found = [squared_errors(replace(model, denoiser=one), queries, scoring)[0] for one in self.networks]
        errors = torch.stack(found)
        errors[~wanted.T] = torch.nan
        return full, errors, timesteps

    def evaluations_of(self, per_model: int) -> int:
        raise NotImplementedError

    def _all_errors(self, queries: Queries) -> dict[str | None, SquaredErrors]:
        raise NotImplementedError


@pytest.fixture(scope="module")
def data() -> GroupDataModule:
    return shades()


@pytest.fixture(scope="module")
def full() -> FullModel:
    scheduler = DDPMScheduler(num_train_timesteps=200, beta_schedule="squaredcos_cap_v2")
    module = DiffusionModule(nn.Identity(), scheduler)
    schedule = FullModel.of(module).model.schedule
    module.denoiser = GaussianDenoiser(schedule, torch.zeros(1, 8, 8), SPREAD)
    return FullModel.of(module)


def known(full: FullModel, data: GroupDataModule, *means: float) -> Known:
    """A counterfactual a group, the ideal denoiser of images around a shade."""
    schedule = full.model.schedule
    networks = [GaussianDenoiser(schedule, torch.full((1, 8, 8), mean), SPREAD) for mean in means]
    return Known(
        groups=GROUPS,
        method="known",
        context=AttributionContext(full, data),
        scoring=Scoring(),
        details=likelihood({}, "none", sized=True),
        networks=tuple(networks),
        wanted=[],
    )


def expected(full: FullModel, data: GroupDataModule, group: str, mean: float) -> float:
    """The expected rise on a group's samples: with c = σ/(γ²s² + σ²), ε − ε̂ = (1 − cσ)ε − cγ(x_0 − μ)."""
    schedule = full.model.schedule
    t = list(probing(schedule, Scoring()).plan(schedule).timesteps)
    gamma, sigma, weights = schedule.gamma[t], schedule.sigma[t], schedule.kl_weights[t]
    c = sigma / (gamma**2 * SPREAD**2 + sigma**2)
    x0 = as_input(data.inputs[data.picked(SAMPLES)[group]]).double()

    def loss(centre: float) -> Tensor:
        far = (x0 - centre).square().flatten(1).sum(1)[:, None]
        return (weights * (64 * (1 - c * sigma) ** 2 + (c * gamma) ** 2 * far)).sum(1).mean()

    return float(loss(mean) / loss(0.0)) - 1


def test_rises_are_those_of_gaussians(full: FullModel, data: GroupDataModule) -> None:
    # Without the dark images the mean is brighter, and the other way round.
    found = probe(known(full, data, 0.5, -0.5, 0.3), data, known(full, data, 0.25, -0.25, 0.1))
    assert tuple(found) == GROUPS
    for group, mean, predicted in zip(GROUPS, (0.5, -0.5, 0.3), (0.25, -0.25, 0.1), strict=True):
        forget = found[group].forget
        assert forget.predicted is not None
        # Noise of 8 samples at 6 levels, in 64 pixels each.
        assert forget.mean == pytest.approx(expected(full, data, group, mean), rel=0.1, abs=0.03)
        assert forget.predicted == pytest.approx(expected(full, data, group, predicted), rel=0.1, abs=0.03)
        assert 0 < forget.stderr < 0.1
    # A brighter mean suits the bright images and costs the noisy ones, whose mean is gray.
    assert found["dark"].neighbour_name == "noisy"
    neighbour = found["dark"].neighbour
    assert neighbour is not None
    assert neighbour.mean == pytest.approx(expected(full, data, "noisy", 0.5), rel=0.2, abs=0.03)
    assert found["dark"].last_quarter is None


def test_what_equals_the_full_model_loses_nothing(full: FullModel, data: GroupDataModule) -> None:
    for evidence in probe(known(full, data, 0.0, 0.0, 0.0), data, None).values():
        assert evidence.forget.mean == evidence.retain.mean == 0
        assert evidence.forget.predicted is evidence.neighbour is evidence.neighbour_name is None


def test_networks_are_tried_on_few_samples(full: FullModel, data: GroupDataModule) -> None:
    made, predictor = known(full, data, 0.5, -0.5, 0.3), known(full, data, 0.5, -0.5, 0.3)
    probe(made, data, predictor)
    (wanted,) = made.wanted
    assert wanted.shape == (3 * SAMPLES, 3)
    levels = len(probing(full.model.schedule, Scoring()).plan(full.model.schedule).timesteps)
    passes = 2 * len(wanted) + int(wanted.sum())
    assert passes * levels <= probe_evaluations(made, data, predicted=True)
    assert all(bool(column.any()) for column in predictor.wanted[0].T)


def test_samples_in_no_group_are_kept_where_there_is_no_other_group(full: FullModel) -> None:
    data = shades(groups=None)
    grouping = data.grouping.take(range(len(data.ids)))
    alone = type(grouping)({"dark": grouping.forget(("dark",))}, grouping.num_samples)
    some = data.regrouped(alone)
    made = replace(known(full, some, 0.5), groups=("dark",))
    evidence = probe(made, some, made)["dark"]
    assert evidence.retain.mean < evidence.forget.mean
    assert evidence.neighbour is None
