from __future__ import annotations

from dataclasses import replace
from typing import Any

import diffusers
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from guda_lightning.diffusion import DiffusionModel, evaluating, sample
from guda_lightning.diffusion.cost import (
    EvaluationCounter,
    counting,
    readable_seconds,
    seconds_per_evaluation,
    seconds_per_step,
)
from guda_lightning.diffusion.given_scheduler import GivenScheduler
from guda_lightning.diffusion.schedulers import noise_schedule, prediction_type
from guda_lightning.errors import ConfigError, NumericsError
from toys import GaussianDenoiser, message, tiny_unet

SHAPE = (1, 8, 8)
SCHEDULERS = [DDPMScheduler(), FlowMatchEulerDiscreteScheduler(shift=2.0)]


def model(scheduler: Any, **config: Any) -> DiffusionModel:
    return DiffusionModel(tiny_unet(**config), noise_schedule(scheduler), prediction_type(scheduler))


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=["ddpm", "flow"])
@pytest.mark.parametrize("classes", [None, 3])
def test_an_image_does_not_depend_on_its_batch(scheduler: Any, classes: int | None) -> None:
    subject = model(scheduler, num_class_embeds=classes, dropout=0.5)
    labels = None if classes is None else torch.tensor([0, 1, 2, 0, 1])

    def draw(indices: list[int], seed: int = 0) -> Tensor:
        chosen = None if labels is None else labels[indices]
        return sample(subject, scheduler, SHAPE, indices, seed=seed, steps=5, labels=chosen)

    together = draw([0, 1, 2, 3, 4])
    assert together.shape == (5, *SHAPE)
    assert together.dtype == torch.float32
    apart = torch.cat([draw([3, 0]), draw([1]), draw([4, 2])])[[1, 2, 4, 0, 3]]
    assert torch.allclose(together, apart, atol=1e-5)
    assert not torch.allclose(together[0], together[3], atol=1e-2)
    assert not torch.allclose(together, draw([0, 1, 2, 3, 4], seed=1), atol=1e-2)


def test_labels_matter_to_a_conditional_model() -> None:
    subject = model(SCHEDULERS[0], num_class_embeds=3)
    with torch.no_grad():
        subject.denoiser.class_embedding.weight.mul_(10)
    images = [
        sample(subject, SCHEDULERS[0], SHAPE, [0], seed=0, steps=5, labels=torch.tensor([c])) for c in (0, 1)
    ]
    assert not torch.allclose(*images, atol=1e-2)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddpm_images_are_those_of_diffusers(prediction: str) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=100, prediction_type=prediction)
    subject = model(scheduler)
    pipeline = DDPMPipeline(subject.denoiser.eval(), scheduler)
    pipeline.set_progress_bar_config(disable=True)
    seed, index = 3, 2
    generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
    expected = pipeline(generator=generator, num_inference_steps=10, output_type="np").images
    ours = sample(subject, scheduler, SHAPE, [index], seed=seed, steps=10)
    assert torch.allclose((ours / 2 + 0.5).permute(0, 2, 3, 1), torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=["ddpm", "flow"])
def test_samples_of_an_optimal_model_have_the_distribution_of_its_data(scheduler: Any) -> None:
    schedule = noise_schedule(scheduler)
    mean, spread = torch.tensor(0.3), 0.1
    network = GaussianDenoiser(schedule, mean, spread)
    subject = DiffusionModel(
        network if scheduler is SCHEDULERS[0] else Velocity(network, schedule),
        schedule,
        prediction_type(scheduler),
    )
    images = sample(subject, scheduler, (1, 4, 4), range(128), seed=0, steps=len(schedule))
    assert float(images.mean()) == pytest.approx(0.3, abs=0.01)
    assert float(images.std()) == pytest.approx(0.1, abs=0.005)


class Velocity(nn.Module):
    """The flow's velocity ``ε − x_0`` that follows from an optimal noise prediction."""

    def __init__(self, network: GaussianDenoiser, schedule: Any) -> None:
        super().__init__()
        self.network, self.model_timesteps = network, schedule.model_timesteps

    def forward(self, x_t: Tensor, model_timesteps: Tensor) -> Tensor:
        timesteps = (self.model_timesteps[None] - model_timesteps[:, None]).abs().argmin(dim=1)
        noise = self.network(x_t, timesteps).double()
        gamma = self.network.gamma[timesteps].view(-1, 1, 1, 1)
        sigma = self.network.sigma[timesteps].view(-1, 1, 1, 1)
        variance = gamma**2 * self.network.spread**2 + sigma**2
        # E[x_0 | x_t], written without dividing by γ, which is 0 at s = 1
        x0 = self.network.mean + gamma * self.network.spread**2 / variance * (x_t - gamma * self.network.mean)
        return (noise - x0).to(x_t.dtype)


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerDiscreteScheduler", "DDIMScheduler"])
def test_other_schedulers_of_the_same_noise_schedule_give_the_same_images(name: str) -> None:
    scheduler = getattr(diffusers, name)()
    names = ("beta_start", "beta_end", "beta_schedule", "timestep_spacing", "rescale_betas_zero_snr")
    config = {name: scheduler.config[name] for name in names if name in scheduler.config}
    reference = DDPMScheduler(**config)
    subject = model(reference)
    ours = sample(subject, scheduler, SHAPE, [0, 1], seed=0, steps=4)
    assert torch.equal(ours, sample(subject, reference, SHAPE, [0, 1], seed=0, steps=4))


def test_noise_levels_that_ddpm_has_no_name_for_are_walked_too() -> None:
    scheduler = diffusers.CogVideoXDDIMScheduler()
    levels = torch.cat([torch.ones(1).double(), scheduler.alphas_cumprod.double()])
    reference = DDPMScheduler(trained_betas=(1 - levels[1:] / levels[:-1]).tolist())
    subject = model(scheduler)
    ours = sample(subject, scheduler, SHAPE, [0, 1], seed=0, steps=4)
    subject = replace(subject, schedule=noise_schedule(reference))
    assert torch.allclose(ours, sample(subject, reference, SHAPE, [0, 1], seed=0, steps=4), atol=1e-4)
    assert not torch.allclose(
        ours, sample(model(SCHEDULERS[0]), SCHEDULERS[0], SHAPE, [0, 1], seed=0, steps=4)
    )


class Halves(nn.Module):
    """A network with its prediction in the first half of its output, and something else in the second."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_t: Tensor, timesteps: Tensor) -> Tensor:
        prediction = self.network(x_t, timesteps).sample
        return torch.cat([prediction, torch.full_like(prediction, 9.0)], dim=1)


@pytest.mark.parametrize("variance", ["learned", "learned_range"])
def test_a_learned_variance_is_not_sampled_with(variance: str) -> None:
    scheduler = DDPMScheduler(variance_type=variance)
    plain = model(DDPMScheduler())
    ours = sample(replace(plain, denoiser=Halves(plain.denoiser)), scheduler, SHAPE, [0, 1], seed=0, steps=4)
    assert torch.equal(ours, sample(plain, DDPMScheduler(), SHAPE, [0, 1], seed=0, steps=4))


@pytest.mark.parametrize(
    "settings", [{"use_dynamic_shifting": True, "shift": 3.0}, {"stochastic_sampling": True}], ids=str
)
def test_a_flow_takes_the_deterministic_steps_of_its_training_levels(settings: dict[str, Any]) -> None:
    subject, plain = model(FlowMatchEulerDiscreteScheduler()), FlowMatchEulerDiscreteScheduler()
    scheduler = FlowMatchEulerDiscreteScheduler(**settings)
    assert noise_schedule(scheduler).hash == noise_schedule(plain).hash
    ours = sample(subject, scheduler, SHAPE, [0, 1], seed=0, steps=4)
    assert torch.equal(ours, sample(subject, plain, SHAPE, [0, 1], seed=0, steps=4))


def test_the_scheduler_of_another_model_is_refused() -> None:
    expected = message(
        "the noise schedule cannot be sampled from",
        "a DDPMScheduler of another noise schedule than the model's",
        "the scheduler that the model was trained with",
        "bring your own queries, or pass that scheduler",
    )
    other = DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    with pytest.raises(ConfigError, match=expected):
        sample(model(DDPMScheduler()), other, SHAPE, [0], seed=0, steps=4)


def test_noise_is_not_predicted_from_a_timestep_without_signal() -> None:
    scheduler = DDPMScheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=False)
    expected = message(
        "a network that predicts noise cannot begin at a timestep without signal",
        "timestep 999, whose alphas_cumprod is 0 (rescale_betas_zero_snr)",
        "prediction_type v_prediction or sample, or a first step with some signal",
        "pass fewer --steps with timestep_spacing='leading' in the scheduler's configuration",
    )
    with pytest.raises(ConfigError, match=expected):
        sample(model(scheduler), scheduler, SHAPE, [0], seed=0, steps=4)


def test_a_first_timestep_without_noise_is_the_image() -> None:
    levels = torch.linspace(1, 0.1, 20)
    scheduler = GivenScheduler(levels, "epsilon")
    network = GaussianDenoiser(noise_schedule(scheduler), torch.tensor(0.3), 0.0)  # every image is the mean
    subject = DiffusionModel(network, noise_schedule(scheduler), "epsilon")
    images = sample(subject, scheduler, SHAPE, [0, 1], seed=0, steps=20)
    assert torch.allclose(images, torch.full_like(images, 0.3), atol=1e-5)


def test_samples_that_are_not_finite_are_refused() -> None:
    subject = model(SCHEDULERS[0])
    with torch.no_grad():
        next(iter(subject.denoiser.parameters())).fill_(float("nan"))
    expected = message(
        "what the model draws is not finite",
        "NaN or infinity in a sample",
        "finite numbers",
        "train the model for longer or with a lower learning rate, or draw with other --steps",
    )
    with pytest.raises(NumericsError, match=expected):
        sample(subject, SCHEDULERS[0], SHAPE, [0], seed=0, steps=2)


@pytest.mark.parametrize("steps", [0, 51])
def test_steps_out_of_range_are_refused(steps: int) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=50)
    expected = message(
        "the number of sampling steps is out of range",
        str(steps),
        "1 to 50, the timesteps of the noise schedule",
        "pass --steps 50, or another number in that range",
    )
    with pytest.raises(ConfigError, match=expected):
        sample(model(scheduler), scheduler, SHAPE, [0], seed=0, steps=steps)


def test_sampling_tells_its_steps_and_leaves_model_and_scheduler_alone() -> None:
    scheduler = DDPMScheduler()
    subject = model(scheduler)
    subject.denoiser.train()
    timesteps, steps = scheduler.timesteps.clone(), []
    sample(subject, scheduler, SHAPE, [0], seed=0, steps=4, on_step=lambda: steps.append(1))
    assert len(steps) == 4
    assert subject.denoiser.training
    assert torch.equal(scheduler.timesteps, timesteps)


def test_every_submodule_gets_its_own_mode_back() -> None:
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    network[1][0].eval()
    network.append(nn.Linear(1, 1))
    network[2].bias.requires_grad_(False)

    def state() -> list[bool]:
        trained = [parameter.requires_grad for parameter in network.parameters()]
        return [torch.is_grad_enabled(), *trained, *(part.training for part in network.modules())]

    before = state()
    with pytest.raises(KeyboardInterrupt), evaluating(network):
        assert not any(state())
        raise KeyboardInterrupt
    assert state() == before


def test_evaluations_are_counted_however_the_network_is_called() -> None:
    network, x, t = tiny_unet(), torch.zeros(3, *SHAPE), torch.zeros(3, dtype=torch.int64)
    with counting(network) as evaluations, torch.no_grad():
        network(x, t)
        network(sample=x, timestep=t)
        network(x, t, return_dict=False)
    assert evaluations.count == 9
    with torch.no_grad():
        network(x, t)
    assert evaluations.count == 9
    assert EvaluationCounter().count == 0


def test_the_cost_of_an_evaluation_is_measured_without_touching_the_model() -> None:
    subject = replace(model(SCHEDULERS[0], num_class_embeds=3), conditional=True)
    with counting(subject.denoiser) as evaluations:
        seconds = seconds_per_evaluation(subject, SHAPE, batch_size=4)
    assert seconds > 0
    assert evaluations.count == 0


def test_the_cost_of_a_step_is_measured_without_touching_the_model() -> None:
    subject = replace(model(SCHEDULERS[0], num_class_embeds=3), conditional=True)
    before = {name: weight.clone() for name, weight in subject.denoiser.state_dict().items()}
    generator = torch.get_rng_state()
    with counting(subject.denoiser) as evaluations:
        seconds = seconds_per_step(subject, SHAPE, batch_size=4)
    assert seconds > 0
    assert evaluations.count == 0
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(torch.equal(weight, before[name]) for name, weight in subject.denoiser.state_dict().items())
    assert all(weight.grad is None for weight in subject.denoiser.parameters())


def test_a_step_that_memory_does_not_allow_is_estimated(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(torch.Tensor, "backward", full)
    assert seconds_per_step(model(SCHEDULERS[0]), SHAPE, batch_size=4) > 0


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.42 s"), (8.13, "8.1 s"), (89, "89 s"), (90, "2 min"), (5399, "90 min"), (18720, "5.2 h")],
)
def test_seconds_read_well(seconds: float, text: str) -> None:
    assert readable_seconds(seconds) == text
