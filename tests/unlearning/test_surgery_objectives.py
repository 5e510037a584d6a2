"""Objectives whose steps look at the gradients of both losses: EraseDiff and SISS."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.forget_target import TwoGroups
from torch import Tensor

from guda_lightning.cli.main import main
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.module import Noised, noised
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.types import PredictionType
from guda_lightning.unlearning import SISS, BoundObjective, EraseDiff, Objective, SalUn, ZeroTarget
from toys import message, tiny_unet

DDPM = NoiseSchedule.from_alphas_cumprod(torch.cumprod(1 - torch.linspace(1e-3, 0.2, 50), 0))
FLOW = NoiseSchedule.from_flow(torch.linspace(0.02, 1, 50), 1000)
CONF = Path(__file__).parents[1] / "conf"


def images(count: int, seed: int) -> Tensor:
    return torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def setting(
    prediction: PredictionType = "epsilon", labels: bool = False, counts: tuple[int, int] = (4, 4)
) -> tuple[DiffusionModel, Noised, Noised]:
    """A student and noised forget and retain samples."""
    schedule = FLOW if prediction == "flow" else DDPM
    network = tiny_unet(1, **({"num_class_embeds": 3} if labels else {})).eval()
    student = DiffusionModel(network, schedule, prediction)
    sides = []
    for seed, count in enumerate(counts):
        classes = torch.arange(count) % 2 + seed if labels else None
        generator = torch.Generator().manual_seed(seed)
        sides.append(noised(images(count, seed), classes, schedule, generator))
    return student, sides[0], sides[1]


def bound(objective: Objective, student: DiffusionModel, device: str = "cpu") -> BoundObjective:
    context = TwoGroups(images(4, 0), images(9, 1)).context(student.schedule, device)
    work = objective.bind(context)
    if device == "cpu":
        work.generator = torch.Generator().manual_seed(7)
    return work


def gradient(loss: Tensor, student: DiffusionModel) -> Tensor:
    parts = torch.autograd.grad(loss, list(student.denoiser.parameters()), retain_graph=True)
    return torch.cat([part.flatten() for part in parts]).double()


def step_gradient(
    work: BoundObjective, student: DiffusionModel, *sides: Noised
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the optimizer sees."""
    student.denoiser.zero_grad(set_to_none=True)
    loss = work.loss(student, student, *sides)
    loss.total.backward()  # type: ignore[no-untyped-call]
    found = [p.grad.flatten() for p in student.denoiser.parameters() if p.grad is not None]
    return torch.cat(found).double(), loss.parts


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
@pytest.mark.parametrize("eta", [0.0, 0.1, 3.0])
def test_a_step_of_erasediff_is_that_of_two_gradients(eta: float, prediction: PredictionType) -> None:
    student, forget, retain = setting(prediction)
    found, parts = step_gradient(bound(EraseDiff(eta=eta), student), student, forget, retain)
    uniform = torch.rand(forget.x_t.shape, generator=torch.Generator().manual_seed(7))
    on_forget, on_retain = (student.output(s.x_t, s.timesteps) for s in (forget, retain))
    g_a = gradient((on_forget - uniform).square().mean(), student)
    g_m = gradient((on_retain - retain.target(prediction)).square().mean(), student)
    expected = g_m + max(eta - float(g_m @ g_a) / float(g_a @ g_a), 0.0) * g_a
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    assert float(found @ g_a) >= (eta - 1e-3) * float(g_a @ g_a)
    assert float(parts["factor"]) == pytest.approx(
        max(eta - float(g_m @ g_a) / float(g_a @ g_a), 0), rel=1e-3
    )


@pytest.mark.parametrize("labels", [False, True], ids=["unconditional", "labels"])
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "flow"])
def test_a_step_of_siss_is_that_of_its_formula(prediction: PredictionType, labels: bool) -> None:
    student, forget, retain = setting(prediction, labels, counts=(3, 5))  # the shorter side starts over
    found, parts = step_gradient(bound(SISS(mixture=0.4, strength=0.3), student), student, forget, retain)
    chosen = torch.rand(5, generator=torch.Generator().manual_seed(7)) < 0.4
    terms_x, terms_a, w = [], [], 0.4
    for row in range(5):
        a = row % 3
        one, at = (forget, a) if chosen[row] else (retain, row)
        m, gamma, sigma = (part[at].double() for part in (one.x_t, one.gamma, one.sigma))
        d_x, d_a = (
            (m - gamma * clean.double()).square().sum() / (2 * sigma**2).squeeze()
            for clean in (retain.x0[row], forget.x0[a])
        )
        for terms, clean, side, column, weight in (
            (terms_x, retain.x0[row], retain, row, 1 / ((1 - w) + w * (d_x - d_a).exp())),
            (terms_a, forget.x0[a], forget, a, 1 / ((1 - w) * (d_a - d_x).exp() + w)),
        ):
            label = None if side.labels is None else side.labels[column : column + 1]
            output = student.output(one.x_t[at : at + 1], one.timesteps[at : at + 1], label)[0]
            noise = (m - gamma * clean) / sigma
            target = {"epsilon": noise, "sample": clean.double(), "flow": noise - clean}[prediction]
            terms.append(weight.float() * (output - target.float()).square().mean())
    g_x, g_a = (gradient(torch.stack(terms).mean(), student) for terms in (terms_x, terms_a))
    expected = g_x - 0.3 * g_x.norm() / g_a.norm() * g_a
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert float(parts["preserve"].detach()) == pytest.approx(
        float(torch.stack(terms_x).detach().mean()), rel=1e-4
    )
    assert float(parts["forget"].detach()) == pytest.approx(
        float(torch.stack(terms_a).detach().mean()), rel=1e-4
    )


def test_siss_of_an_even_mixture_is_both_losses_in_expectation() -> None:
    # Each loss over many mixtures is that of its own noised samples: importance sampling is unbiased.
    schedule = NoiseSchedule.from_alphas_cumprod(torch.tensor([0.5, 0.2]))
    student = DiffusionModel(tiny_unet(1).eval(), schedule, "epsilon")
    x0, a0 = images(1, 0).expand(1500, 1, 8, 8) * 0.1, images(1, 1).expand(1500, 1, 8, 8) * 0.1
    forget, retain = (
        noised(clean, None, schedule, torch.Generator().manual_seed(seed))
        for seed, clean in enumerate((a0, x0))
    )
    with torch.no_grad():
        parts = bound(SISS(), student).loss(student, student, forget, retain).parts
        plain = {
            name: float((student.output(s.x_t, s.timesteps) - s.noise).square().mean())
            for name, s in (("forget", forget), ("preserve", retain))
        }
    for name, expected in plain.items():
        assert float(parts[name]) == pytest.approx(expected, rel=0.05)
        weight = parts["retain_weight" if name == "preserve" else "forget_weight"]
        assert float(weight) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("objective", [EraseDiff(preserve="distill"), SISS()], ids=lambda one: one.operator)
def test_no_number_of_a_step_is_read_from_the_device(objective: Objective) -> None:
    student, forget, retain = setting()
    student = replace(student, denoiser=student.denoiser.to("meta"))
    forget, retain = (
        Noised(*(None if v is None else v.to("meta") for v in side)) for side in (forget, retain)
    )
    loss = bound(objective, student, "meta").loss(student, student, forget, retain)
    loss.total.backward()  # type: ignore[no-untyped-call]
    assert loss.total.is_meta


def test_frozen_weights_have_no_part_in_a_factor() -> None:
    student, forget, retain = setting()
    alone = DiffusionModel(copy.deepcopy(student.denoiser), DDPM, "epsilon")
    first = next(iter(alone.denoiser.parameters())).requires_grad_(False)
    _, parts = step_gradient(bound(EraseDiff(eta=3.0), student), student, forget, retain)
    _, others = step_gradient(bound(EraseDiff(eta=3.0), alone), alone, forget, retain)
    assert first.grad is None
    assert float(parts["factor"]) != pytest.approx(float(others["factor"]), rel=1e-6)


@pytest.mark.parametrize("objective", [EraseDiff(), SISS(), SalUn(objective=ZeroTarget())])
def test_weights_spread_over_processes_are_refused(objective: Objective) -> None:
    mesh: Any = object()
    context = TwoGroups(images(4, 0), images(9, 1)).context(DDPM)
    expected = message(
        f"{type(objective).__name__} looks at all weights at once, which no process holds under fsdp2",
        "weights spread over 2 processes",
        "all weights on every process",
        "set trainer.strategy to ddp, or take an objective such as ReTrack",
    )
    with pytest.raises(ConfigError, match=expected):
        objective.bind(replace(context, ranks=Ranks(0, 2, mesh)))


def test_siss_refuses_a_timestep_without_noise() -> None:
    clean = NoiseSchedule.from_alphas_cumprod(torch.tensor([1.0, 0.9, 0.5]))
    expected = message(
        "SISS needs noise at every timestep",
        "none at timestep 0 of 3",
        "sigma > 0",
        "train the full model with a noise schedule whose first step adds noise",
    )
    with pytest.raises(ConfigError, match=expected):
        SISS().bind(TwoGroups(images(4, 0), images(9, 1)).context(clean))


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (EraseDiff, "eta", -0.1, "eta >= 0"),
        (SISS, "mixture", 1.1, "0 <= mixture <= 1"),
        (SISS, "strength", float("nan"), "strength >= 0"),
    ],
)
def test_arguments_out_of_range_are_refused(kind: type[Any], name: str, value: Any, expected: str) -> None:
    fix = f"set objective.init_args.{name} to such a value"
    with pytest.raises(
        ConfigError, match=message(f"invalid {name} of {kind.__name__}", value, expected, fix)
    ):
        kind(**{name: value})


def test_a_run_unlearns_by_surgery(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["unlearn", "-c", str(CONF / "digits.yaml"), "--run", str(finished_run), "--groups", "3"]
    capsys.readouterr()
    assert main([*command, "-c", "unlearn/siss.yaml", "--steps", "2"]) == 0
    assert "unlearn: 3 done (1 of 1)" in capsys.readouterr().out
    store = CounterfactualStore(finished_run / "store")
    (record,) = (record for record in store.records() if record.operator == "siss")
    assert record.hparams["objective"] == {"class": "SISS", "mixture": 0.5, "strength": 0.5}
    assert not record.sized
