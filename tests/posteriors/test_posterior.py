"""Guidance against mixtures of Gaussians, whose noised densities and posteriors are known."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from guda_lightning.diffusion import DiffusionModel, sample
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.errors import GroupError
from guda_lightning.functional.elbo import squared_error
from guda_lightning.functional.prediction import to_output
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors import ClassifierPosterior, guided, steered
from guda_lightning.posteriors.classifier_posterior import MAX_LOG_SNR
from guda_lightning.types import PredictionType
from toys import message

DIMS = (1, 2, 2)
MEANS = torch.tensor([[-2.0, 0, 0, 1], [1, 1, -1, 0], [0, -1, 2, 0], [1.5, 0, 0, -2]]).view(4, *DIMS)
SHARES = torch.tensor([0.1, 0.4, 0.3, 0.2])
SPREAD = 0.5
GROUPS = ("a", "b", "c")
EVERY = torch.ones(4).bool()
ATOMS = torch.tensor([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]]).bool()  # overlapping, and some in no group


def log_densities(x: Tensor, gamma: Tensor, sigma: Tensor) -> Tensor:
    """``[batch, atoms]``: log of share × noised density of each atom, up to a constant."""
    variance = gamma.square() * SPREAD**2 + sigma.square()
    distance = (x[:, None] - gamma[:, None] * MEANS.to(x)).square().sum(dim=(2, 3, 4))
    return SHARES.to(x).log() - distance / (2 * variance.flatten(1))


def ideal_noise(x_t: Tensor, gamma: Tensor, sigma: Tensor, kept: Tensor) -> Tensor:
    """``−σ ∇ log p_t`` of the atoms that are kept, in float64."""
    with torch.enable_grad():
        x = x_t.detach().double().requires_grad_()
        log_density = log_densities(x, gamma.double(), sigma.double())[:, kept].logsumexp(dim=1)
        (gradient,) = torch.autograd.grad(log_density.sum(), x)
    return -sigma * gradient


class IdealDenoiser(nn.Module):
    """Predicts what an ideal network of all data, or of some atoms, would."""

    def __init__(self, schedule: NoiseSchedule, prediction: PredictionType, of: Tensor = EVERY) -> None:
        super().__init__()
        self.schedule, self.prediction, self.of = schedule, prediction, of

    def forward(self, x_t: Tensor, model_timesteps: Tensor) -> Tensor:
        timesteps = torch.searchsorted(self.schedule.model_timesteps, model_timesteps.contiguous())
        gamma, sigma = self.schedule.at(timesteps, like=x_t)
        noise = ideal_noise(x_t, gamma, sigma, self.of)
        x0 = (x_t - sigma * noise) / gamma
        return to_output(x0, noise, gamma, sigma, self.prediction)


class IdealClassifier(nn.Module):
    """The posterior over atoms; its features are its logits, or a mixture of more of them."""

    def __init__(self, mixed: int = 0) -> None:
        super().__init__()
        self.mixed = mixed
        self.head = nn.Linear(mixed or 4, 4, bias=False, dtype=torch.float64)
        if not mixed:
            nn.init.eye_(self.head.weight)

    def features(self, x: Tensor, log_snr: Tensor, labels: Tensor | None = None) -> Tensor:
        ratio = (log_snr / 2).exp().view(-1, 1, 1, 1)  # γ/σ; x comes scaled to γ² + σ² = 1
        sigma = 1 / (1 + ratio.square()).sqrt()
        logits = log_densities(x.double(), ratio * sigma, sigma)
        return logits[:, : self.mixed] if self.mixed else logits


def parts(prediction: PredictionType, mixed: int = 0) -> tuple[DiffusionModel, ClassifierPosterior]:
    scheduler = (
        FlowMatchEulerDiscreteScheduler(num_train_timesteps=100)
        if prediction == "flow"
        else DDPMScheduler(num_train_timesteps=100)
    )
    schedule = noise_schedule(scheduler)
    full = DiffusionModel(IdealDenoiser(schedule, prediction), schedule, prediction)
    temperatures = torch.ones(len(schedule), dtype=torch.float64)
    return full, ClassifierPosterior(
        schedule=schedule,
        atoms=ATOMS,
        groups=GROUPS,
        network=IdealClassifier(mixed),  # type: ignore[arg-type]
        temperatures=temperatures,
    )


def noised(schedule: NoiseSchedule) -> tuple[Tensor, Tensor, Tensor]:
    timesteps = schedule.scored_timesteps[::7].clone()
    assert (2 * (schedule.gamma / schedule.sigma)[timesteps].log()).abs().max() < MAX_LOG_SNR
    noise = torch.randn(len(timesteps), *DIMS, dtype=torch.float64)
    gamma, sigma = schedule.at(timesteps, like=noise)
    clean = MEANS[torch.arange(len(timesteps)) % 4] + SPREAD * torch.randn(len(timesteps), *DIMS)
    return noise, gamma * clean.double() + sigma * noise, timesteps


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
@pytest.mark.parametrize("groups", [("a",), ("b",), ("c",), ("b", "c"), ("a", "c")])
def test_guided_noise_is_that_of_the_data_without_the_groups(
    prediction: PredictionType, groups: tuple[str, ...]
) -> None:
    full, posterior = parts(prediction)
    _, x_t, timesteps = noised(full.schedule)
    found = guided(full, posterior, groups).output(x_t, timesteps)
    gamma, sigma = full.schedule.at(timesteps, like=x_t)
    kept = ~posterior.removed([groups])[0]
    noise = ideal_noise(x_t, gamma, sigma, kept)
    expected = to_output((x_t - sigma * noise) / gamma, noise, gamma, sigma, prediction)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
@pytest.mark.parametrize("group", GROUPS)
def test_steered_noise_is_that_of_the_groups_own_data(prediction: PredictionType, group: str) -> None:
    full, posterior = parts(prediction)
    _, x_t, timesteps = noised(full.schedule)
    found = steered(full, posterior, group).output(x_t, timesteps)
    gamma, sigma = full.schedule.at(timesteps, like=x_t)
    noise = ideal_noise(x_t, gamma, sigma, ATOMS[:, GROUPS.index(group)])
    expected = to_output((x_t - sigma * noise) / gamma, noise, gamma, sigma, prediction)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("group", GROUPS)
def test_a_steered_model_draws_what_a_model_of_the_group_draws(group: str) -> None:
    """From the same noise, step after step, as if it had never seen anything else."""
    full, posterior = parts("epsilon")
    scheduler = DDPMScheduler(num_train_timesteps=100, clip_sample=False)
    of_group = replace(
        full, denoiser=IdealDenoiser(full.schedule, "epsilon", ATOMS[:, GROUPS.index(group)])
    )  # fmt: skip
    found, expected, everything = (
        sample(model, scheduler, DIMS, range(8), seed=0, steps=100)
        for model in (steered(full, posterior, group), of_group, full)
    )
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert (found - everything).abs().max() > 0.5


def test_there_is_nothing_to_steer_to_without_others_or_members() -> None:
    full, posterior = parts("epsilon")
    for column, problem, found in (
        (ATOMS.any(dim=1) | True, "all samples", 4),
        (ATOMS[:, 0] & False, "no sample", 0),
    ):
        odd = replace(posterior, atoms=torch.cat([ATOMS[:, :2], column[:, None]], dim=1))
        wrong = message(
            f"there is nothing to steer towards: the group 'c' has {problem}",
            f"{found} of 4 distinct sets of groups hold it",
            "some of them, and some others",
            "leave the group out",
        )
        with pytest.raises(GroupError, match=wrong):
            steered(full, odd, "c")
    unknown = message(
        "the posterior does not know the group 'd'",
        "a posterior of a, b, c",
        "one that was made with 'd'",
        "correct the name, or run guda guide with today's groups",
    )
    with pytest.raises(GroupError, match=unknown):
        steered(full, posterior, "d")


class Transformer(nn.Module):
    """A network that is called by name, and predicts a variance too."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, hidden_states: Tensor, prompt: Tensor | None = None, *, timestep: Tensor) -> Tensor:
        output = self.network(hidden_states, timestep)
        return torch.cat([output, torch.full_like(output, 9.0)], dim=1)


def test_any_network_that_is_called_as_a_denoiser_is_guided() -> None:
    full, posterior = parts("epsilon")
    _, x_t, timesteps = noised(full.schedule)
    other = replace(full, denoiser=Transformer(full.denoiser))
    found = guided(other, posterior, ("a",)).output(x_t, timesteps)
    assert torch.equal(found, guided(full, posterior, ("a",)).output(x_t, timesteps))


NESTED = ("genus", "one", "other", "apart")
# Two species that make up their genus, and others.
NESTED_ATOMS = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 1]]).bool()


def test_a_group_is_removed_as_the_groups_that_make_it_up_are() -> None:
    full, posterior = parts("epsilon")
    posterior = replace(posterior, atoms=NESTED_ATOMS, groups=NESTED)
    _, x_t, timesteps = noised(full.schedule)
    genus, children, child = (
        guided(full, posterior, groups).predicted_noise(x_t, timesteps)
        for groups in (("genus",), ("one", "other"), ("one",))
    )
    gamma, sigma = full.schedule.at(timesteps, like=x_t)
    without_both = ideal_noise(x_t, gamma, sigma, torch.tensor([True, False, False, True]))
    for found in (genus, children):
        torch.testing.assert_close(found, without_both.to(found), atol=1e-5, rtol=1e-5)
    without_one = ideal_noise(x_t, gamma, sigma, torch.tensor([True, False, True, True]))
    torch.testing.assert_close(child, without_one.to(child), atol=1e-5, rtol=1e-5)
    assert (genus - child).abs().max() > 0.1


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize("mixed", [0, 2])
def test_errors_of_all_coalitions_are_those_of_each_guided_model(
    prediction: PredictionType, mixed: int
) -> None:
    full, posterior = parts(prediction, mixed)
    posterior.temperatures[:] = torch.linspace(0.5, 2, len(full.schedule))
    noise, x_t, timesteps = noised(full.schedule)
    coalitions = [("a",), ("b",), ("a", "c")]
    errors = posterior.errors(
        noise, full.predicted_noise(x_t, timesteps), x_t, timesteps, posterior.removed(coalitions)
    )
    for column, groups in enumerate(coalitions):
        predicted = guided(full, posterior, groups).predicted_noise(x_t, timesteps)
        torch.testing.assert_close(errors[:, column], squared_error(noise, predicted), atol=1e-5, rtol=1e-4)


def test_a_group_that_the_posterior_does_not_know_is_refused() -> None:
    _, posterior = parts("epsilon")
    with pytest.raises(
        GroupError,
        match=message(
            "the posterior does not know the group 'd'",
            "a posterior of a, b, c",
            "one that was made with 'd'",
            "correct the name, or run guda guide with today's groups",
        ),
    ):
        posterior.removed([("a",), ("d",)])
