from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from benchmarks.forget_target import TwoGroups
from torch import Tensor, nn

from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised, noised
from guda_lightning.errors import ConfigError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.types import PredictionType
from guda_lightning.unlearning import BoundObjective, Finetune, NegGrad, Objective, ReTrack, ZeroTarget
from toys import message, posterior_noise, tiny_unet

OBJECTIVES = [Finetune, ReTrack, ZeroTarget, NegGrad]
DDPM = NoiseSchedule.from_alphas_cumprod(torch.cumprod(1 - torch.linspace(1e-3, 0.2, 50), 0))
FLOW = NoiseSchedule.from_flow(torch.linspace(0.02, 1, 50), 1000)
PREDICTIONS: list[PredictionType] = ["epsilon", "v_prediction", "sample", "flow"]


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def pair(prediction: PredictionType, seed: int = 0) -> tuple[DiffusionModel, Noised]:
    schedule = FLOW if prediction == "flow" else DDPM
    model = DiffusionModel(tiny_unet(seed).eval(), schedule, prediction)
    return model, noised(images(5, seed), None, schedule, torch.Generator().manual_seed(seed))


def bound(
    objective: Objective, forget: Tensor, retain: Tensor, schedule: NoiseSchedule = DDPM, device: str = "cpu"
) -> BoundObjective:
    return objective.bind(TwoGroups(forget, retain).context(schedule, device))


# --- each loss against a loop over samples, written from the formulas ---


def output_for(x0: Tensor, noise: Tensor, gamma: Tensor, sigma: Tensor, prediction: PredictionType) -> Tensor:
    return {
        "epsilon": noise,
        "v_prediction": gamma * noise - sigma * x0,
        "sample": x0,
        "flow": noise - x0,
    }[prediction]


def brute_force(
    kind: type[Objective], batch: Noised, row: int, retain: Tensor, options: dict[str, Any]
) -> tuple[Tensor, Tensor, float]:
    """x̂_0, ε̂ and weight that the objective asks of one forget sample, from loops in float64."""
    x_t, x0, noise, gamma, sigma = (
        value[row].double() for value in (batch.x_t, batch.x0, batch.noise, batch.gamma, batch.sigma)
    )
    if kind is NegGrad:
        return x0, noise, -1.0
    atoms = [item.double() for item in retain]
    if options.get("neighbours"):
        atoms = sorted(atoms, key=lambda a: float((a - x0).norm()))[: options["neighbours"]]
    logits = [-float((x_t - gamma * a).square().sum() / (2 * sigma**2)) for a in atoms]
    shifted = [math.exp(logit - max(logits)) for logit in logits]
    target = noise.clone()
    for a, w in zip(atoms, shifted, strict=True):
        delta = gamma / sigma * (x0 - a)
        if options.get("kl_cap"):
            delta = delta * min(1.0, math.sqrt(2 * options["kl_cap"]) / float(delta.norm()))
        target = target + w / sum(shifted) * delta
    weight = 1.0
    if options.get("density_ratio"):
        others = [-float((x_t - gamma * a.double()).square().sum() / (2 * sigma**2)) for a in batch.x0]
        top = max(*logits, *others)
        of_retain, of_forget = (sum(math.exp(v - top) for v in values) for values in (logits, others))
        n = len(atoms) + len(others)
        weight = (of_retain / len(atoms)) / ((of_retain + of_forget) / n)
    return (x_t - sigma * target) / gamma, target, weight


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("preserve", ["denoise", "distill"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (NegGrad, {"forget_weight": 0.2}),
        (ZeroTarget, {"forget_weight": 0.3}),
        (ReTrack, {"forget_weight": 0.7}),
        (ReTrack, {"neighbours": 3}),
        (ReTrack, {"kl_cap": 0.5}),
        (ReTrack, {"neighbours": 2, "kl_cap": 1.0}),
        (ReTrack, {"density_ratio": True}),
    ],
)
def test_the_loss_is_that_of_brute_force(
    kind: type[Any], options: dict[str, Any], preserve: str, prediction: PredictionType
) -> None:
    student, forget = pair(prediction, seed=1)
    full, retain = pair(prediction, seed=2)
    # Far from s = 1, where x̂_0 follows from ε̂ only by dividing by nearly 0.
    schedule, early = student.schedule, torch.tensor([3, 8, 15, 20, 30])
    gamma, sigma = schedule.at(early, like=forget.x0)
    x_t = gamma * forget.x0 + sigma * forget.noise
    forget = Noised(forget.x0, forget.noise, x_t, early, gamma, sigma, None)
    clean = torch.cat([forget.x0 + 0.02 * images(5, 9), images(6, 10)])
    objective = kind(preserve=preserve, **options)
    with torch.no_grad():
        loss = bound(objective, forget.x0, clean, schedule).loss(student, full, forget, retain)
        on_forget = student.output(forget.x_t, forget.timesteps).double()
        on_retain = student.output(retain.x_t, retain.timesteps).double()
        kept = full.output(retain.x_t, retain.timesteps).double()
    if preserve == "denoise":
        kept = output_for(retain.x0, retain.noise, retain.gamma, retain.sigma, prediction).double()
    expected = float((on_retain - kept).square().mean())
    assert float(loss.parts["preserve"]) == pytest.approx(expected, rel=1e-5)
    terms = []
    for row in range(5):
        target, weight = torch.zeros(1, 8, 8), 1.0
        if kind is not ZeroTarget:
            x0, noise, weight = brute_force(kind, forget, row, clean, options)
            target = output_for(x0, noise, gamma[row].double(), sigma[row].double(), prediction)
        terms.append(weight * float((on_forget[row] - target).square().mean()))
    assert float(loss.parts["forget"]) == pytest.approx(sum(terms) / 5, rel=1e-4)
    assert float(loss.total) == pytest.approx(expected + objective.forget_weight * sum(terms) / 5, rel=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_targets_are_finite_at_every_timestep(
    kind: Callable[[], Objective], prediction: PredictionType
) -> None:
    schedule = FLOW if prediction == "flow" else DDPM
    student = DiffusionModel(tiny_unet(), schedule, prediction)
    x0, noise = images(50, 0), torch.randn(50, 1, 8, 8)
    gamma, sigma = schedule.at(torch.arange(50), like=x0)
    batch = Noised(x0, noise, gamma * x0 + sigma * noise, torch.arange(50), gamma, sigma, None)
    term = bound(kind(), x0, images(20, 1), schedule).forget_term(batch, student, student)
    assert term is None or bool(term.target.isfinite().all())


def test_class_labels_reach_the_student_and_the_full_model() -> None:
    network = tiny_unet(num_class_embeds=3).eval()
    model = DiffusionModel(network, DDPM, "epsilon")
    generator = torch.Generator().manual_seed(0)
    forget = noised(images(4, 0), torch.tensor([0, 0, 0, 0]), DDPM, generator)
    retain = noised(images(4, 1), torch.tensor([1, 2, 1, 2]), DDPM, generator)
    with torch.no_grad():
        objective = bound(ZeroTarget(preserve="distill"), forget.x0, retain.x0)
        loss = objective.loss(model, model, forget, retain)
        expected = network(forget.x_t, forget.timesteps, class_labels=forget.labels).sample
    assert float(loss.parts["forget"]) == pytest.approx(float(expected.square().mean()), rel=1e-5)
    assert float(loss.parts["preserve"]) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("kind", [ReTrack, ZeroTarget, NegGrad])
def test_without_a_forget_weight_distillation_rests_at_the_full_model(
    kind: type[ReTrack], prediction: PredictionType
) -> None:
    full, forget = pair(prediction, seed=1)
    student = DiffusionModel(copy.deepcopy(full.denoiser), full.schedule, prediction)
    retain = noised(images(5, 2), None, full.schedule)
    for weight, rests in ((0.0, True), (0.5, False)):
        chosen = kind(forget_weight=weight, preserve="distill")
        objective = bound(chosen, forget.x0, retain.x0, full.schedule)
        student.denoiser.zero_grad()
        objective.loss(student, full, forget, retain).total.backward()
        norm = sum(float(p.grad.square().sum()) for p in student.denoiser.parameters() if p.grad is not None)
        assert (norm < 1e-9) == rests


def test_only_the_student_gets_gradients() -> None:
    student, forget = pair("epsilon", seed=1)
    full, retain = pair("epsilon", seed=2)
    objective = bound(ReTrack(preserve="distill"), forget.x0, retain.x0)
    objective.loss(student, full, forget, retain).total.backward()
    assert all(parameter.grad is not None for parameter in student.denoiser.parameters())
    assert all(parameter.grad is None for parameter in full.denoiser.parameters())


# --- ReTrack's target is the ideal prediction of a model of the retain set ---


def on_plane(points: Tensor) -> Tensor:
    return points.view(-1, 2, 1, 1)


def three_clusters(per_cluster: int = 40) -> Tensor:
    """``[3, per_cluster, 2]`` points."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.6, 0.0], [-0.4, 0.5], [-0.4, -0.5]])
    return centres[:, None] + 0.1 * torch.randn(3, per_cluster, 2, generator=generator)


@pytest.mark.parametrize("schedule", [DDPM, FLOW], ids=["ddpm", "flow"])
def test_the_target_is_the_exact_posterior_noise_of_the_retain_set(schedule: NoiseSchedule) -> None:
    forget, retain = three_clusters()[0], three_clusters()[1:].flatten(0, 1)
    batch = noised(on_plane(forget), None, schedule, torch.Generator().manual_seed(0))
    objective = bound(ReTrack(), on_plane(forget), on_plane(retain), schedule)
    student = DiffusionModel(nn.Identity(), schedule, "epsilon")
    target = objective.forget_term(batch, student, student).target.flatten(1)
    exact = posterior_noise(batch.x_t.flatten(1), batch.gamma.flatten(1), batch.sigma.flatten(1), retain)
    assert torch.allclose(target.double(), exact, rtol=1e-4, atol=1e-4)


def test_many_samples_of_a_gaussian_give_its_closed_form() -> None:
    mean, spread = torch.tensor([0.3, -0.2]), 0.5
    retain = mean + spread * torch.randn(20000, 2, generator=torch.Generator().manual_seed(0))
    forget = torch.tensor([[0.9, 0.4]]).expand(20, 2)
    timesteps = torch.arange(10, 50, 2)  # with enough noise for 20 000 samples to look like a density
    x0, noise = on_plane(forget), torch.randn(20, 2, 1, 1, generator=torch.Generator().manual_seed(1))
    gamma, sigma = DDPM.at(timesteps, like=x0)
    x_t = gamma * x0 + sigma * noise
    objective = bound(ReTrack(), x0, on_plane(retain))
    student = DiffusionModel(nn.Identity(), DDPM, "epsilon")
    target = objective.forget_term(Noised(x0, noise, x_t, timesteps, gamma, sigma, None), student, student)
    closed = sigma * (x_t - gamma * on_plane(mean)) / (gamma**2 * spread**2 + sigma**2)
    assert torch.allclose(target.target, closed, atol=0.03)


# --- what each objective does to a trained model of points on a plane ---


class PlaneNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(18, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 2)
        )

    def forward(self, x: Tensor, timesteps: Tensor) -> Tensor:
        phase = timesteps[:, None] / 50 * torch.arange(1, 9) * math.pi / 2
        out: Tensor = self.layers(torch.cat([x.flatten(1), phase.sin(), phase.cos()], dim=1))
        return out.view_as(x)


def train(student: DiffusionModel, objective: Objective, full: DiffusionModel, steps: int, lr: float) -> None:
    points, generator = three_clusters(), torch.Generator().manual_seed(1)
    forget, retain = on_plane(points[0]), on_plane(points[1:].flatten(0, 1))
    work = bound(objective, forget, retain)
    optimizer = torch.optim.Adam(student.denoiser.parameters(), lr=lr)
    for _ in range(steps):
        sides = [
            noised(side[torch.randint(len(side), (128,), generator=generator)], None, DDPM, generator)
            for side in (forget, retain)
        ]
        optimizer.zero_grad()
        work.loss(student, full, *sides).total.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def full() -> DiffusionModel:
    torch.manual_seed(0)
    model = DiffusionModel(PlaneNetwork(), DDPM, "epsilon")
    points = on_plane(three_clusters().flatten(0, 1))
    optimizer = torch.optim.Adam(model.denoiser.parameters(), lr=3e-3)
    for _ in range(1200):
        batch = noised(points[torch.randint(len(points), (256,))], None, DDPM)
        optimizer.zero_grad()
        (model.output(batch.x_t, batch.timesteps) - batch.noise).square().mean().backward()
        optimizer.step()
    return model


@torch.no_grad()
def measure(model: DiffusionModel) -> dict[str, float]:
    points = three_clusters()
    forget, retain = points[0].repeat(25, 1), points[1:].flatten(0, 1).repeat(25, 1)
    measured = {}
    for name, side in (("forget", forget), ("retain", retain)):
        batch = noised(on_plane(side), None, DDPM, torch.Generator().manual_seed(2))
        output = model.output(batch.x_t, batch.timesteps)
        ideal = posterior_noise(
            batch.x_t.flatten(1), batch.gamma.flatten(1), batch.sigma.flatten(1), points[1:].flatten(0, 1)
        ).view_as(output)
        # With less noise the ideal prediction has no bound, with more the retain set explains any sample.
        inside = (batch.timesteps >= 5) & (batch.timesteps < 25)
        for what, target in (("loss", batch.noise), ("norm", 0.0), ("ideal", ideal)):
            measured[f"{name}_{what}"] = float((output - target)[inside].square().mean())
    return measured


def unlearned(full: DiffusionModel, objective: Objective, steps: int = 300) -> dict[str, float]:
    student = DiffusionModel(copy.deepcopy(full.denoiser), DDPM, "epsilon")
    train(student, objective, full, steps, lr=2e-3)
    return measure(student)


@pytest.mark.parametrize("preserve", ["denoise", "distill"])
def test_retrack_moves_the_student_to_the_ideal_model_of_the_retain_set(
    full: DiffusionModel, preserve: Any
) -> None:
    before, after = measure(full), unlearned(full, ReTrack(forget_weight=0.1, preserve=preserve))
    assert after["forget_ideal"] < 0.25 * before["forget_ideal"]
    assert after["retain_loss"] < 1.2 * before["retain_loss"]


def test_finetuning_is_plain_training_on_the_retain_set(full: DiffusionModel) -> None:
    student = DiffusionModel(copy.deepcopy(full.denoiser), DDPM, "epsilon")
    by_hand = copy.deepcopy(full.denoiser)
    train(student, Finetune(), full, steps=20, lr=2e-3)
    retain, generator = three_clusters()[1:].flatten(0, 1), torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(by_hand.parameters(), lr=2e-3)
    for _ in range(20):
        for count in (40, 80):  # the forget side draws first
            points = retain[torch.randint(count, (128,), generator=generator)]
            t = torch.randint(50, (128,), generator=generator)
            noise = torch.randn(128, 2, 1, 1, generator=generator)
        x_t = DDPM.gamma[t].float().view(-1, 1, 1, 1) * on_plane(points)
        x_t = x_t + DDPM.sigma[t].float().view(-1, 1, 1, 1) * noise
        optimizer.zero_grad()
        nn.functional.mse_loss(by_hand(x_t, t), noise).backward()
        optimizer.step()
    for ours, theirs in zip(student.denoiser.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_neggrad_raises_the_loss_of_the_forget_set(full: DiffusionModel) -> None:
    before, after = measure(full), unlearned(full, NegGrad(forget_weight=0.03), steps=60)
    assert after["forget_loss"] > 2 * before["forget_loss"]
    assert after["retain_loss"] < 1.5 * before["retain_loss"]


def test_zero_target_predicts_no_noise_on_the_forget_set(full: DiffusionModel) -> None:
    before, after = measure(full), unlearned(full, ZeroTarget(forget_weight=1.0), steps=150)
    assert after["forget_norm"] < 0.3 * before["forget_norm"]
    assert after["retain_norm"] > 2 * after["forget_norm"]


# --- refusals ---


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (NegGrad, "forget_weight", -0.5, "a number >= 0; the objective sets the sign"),
        (ZeroTarget, "forget_weight", math.nan, "a number >= 0; the objective sets the sign"),
        (ZeroTarget, "preserve", "keep", "denoise or distill"),
        (ReTrack, "kl_cap", 0.0, "kl_cap > 0, or null"),
        (ReTrack, "kl_cap", -1.0, "kl_cap > 0, or null"),
        (ReTrack, "kl_cap", math.nan, "kl_cap > 0, or null"),
        (ReTrack, "neighbours", 0, "neighbours > 0, or null"),
    ],
)
def test_arguments_out_of_range_are_refused(kind: type[Any], name: str, value: Any, expected: str) -> None:
    refusal = message(
        f"invalid {name} of {kind.__name__}",
        value,
        expected,
        f"set objective.init_args.{name} to such a value",
    )
    with pytest.raises(ConfigError, match=refusal):
        kind(**{name: value})


def test_more_neighbours_than_retain_samples_are_refused() -> None:
    bound(ReTrack(neighbours=10), images(5, 0), images(10, 1))
    expected = message(
        "ReTrack sums over more neighbours than the retain set has samples",
        "neighbours=11, retain set of 10",
        "neighbours <= 10",
        "lower objective.init_args.neighbours, or set it to null to sum over all",
    )
    with pytest.raises(ConfigError, match=expected):
        bound(ReTrack(neighbours=11), images(5, 0), images(10, 1))


def test_the_density_ratio_needs_all_of_retain() -> None:
    expected = message(
        "the density ratio needs the whole retain set",
        "density_ratio=True with neighbours=3",
        "neighbours=null, or density_ratio=False",
        "remove objective.init_args.neighbours or objective.init_args.density_ratio",
    )
    with pytest.raises(ConfigError, match=expected):
        ReTrack(neighbours=3, density_ratio=True)


def test_retrack_refuses_a_timestep_without_noise() -> None:
    clean = NoiseSchedule.from_alphas_cumprod(torch.tensor([1.0, 0.9, 0.5]))
    expected = message(
        "ReTrack needs noise at every timestep",
        "none at timestep 0 of 3",
        "sigma > 0",
        "train the full model with a noise schedule whose first step adds noise",
    )
    with pytest.raises(ConfigError, match=expected):
        bound(ReTrack(), images(5, 0), images(10, 1), clean)


# --- steps on a device ---


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    "objective",
    [
        Finetune(),
        NegGrad(),
        ZeroTarget(preserve="distill"),
        ReTrack(),
        ReTrack(neighbours=2, kl_cap=1.0),
        ReTrack(density_ratio=True),
    ],
    ids=lambda objective: f"{objective.operator} {objective.hparams}",
)
def test_no_number_of_a_step_is_read_from_the_device(
    objective: Objective, prediction: PredictionType
) -> None:
    # A meta tensor has no numbers: reading one, as a GPU would be waited for, is an error.
    schedule = FLOW if prediction == "flow" else DDPM
    student, full = (DiffusionModel(tiny_unet(n).to("meta"), schedule, prediction) for n in range(2))
    forget, retain = (noised(images(5, 0).to("meta"), None, schedule) for _ in range(2))
    work = bound(objective, images(5, 0), images(9, 1), schedule, device="meta")
    loss = work.loss(student, full, forget, retain)
    loss.total.backward()
    assert loss.total.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        bool(loss.total.isfinite())


def test_bound_objectives_share_nothing() -> None:
    student, forget = pair("epsilon", seed=1)
    objective = ReTrack()
    works = [bound(objective, forget.x0, images(5, seed)) for seed in (2, 3, 2)]
    with torch.no_grad():
        first, other, again = (work.forget_term(forget, student, student) for work in works)
    assert first is not None and other is not None and again is not None
    assert torch.equal(first.target, again.target)
    assert not torch.allclose(first.target, other.target)
    assert vars(objective) == vars(ReTrack())
