"""Formulas compute where their tensors are: the same numbers on a device that refuses tensors of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from guda_lightning.evaluation import NDCG, Spearman
from guda_lightning.functional import anchors, elbo, guidance, objectives, prediction, ranking
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import PredictionType, Weighting
from second_device import There, second_device

SCHEDULE = NoiseSchedule.from_alphas_cumprod(torch.linspace(0.99, 0.01, 50))
PLAN = TimestepPlan.stratified(SCHEDULE, 5, draws=2)
SAMPLES = torch.arange(24.0).sin().view(4, 6)
NOISE = torch.arange(24.0).cos().view(4, 6)
GAMMA, SIGMA = torch.tensor([[0.9], [0.7], [0.5], [0.3]]), torch.tensor([[0.4], [0.7], [0.9], [0.95]])
RETAIN = torch.arange(60.0).mul(1.7).sin().view(10, 6)
LOGITS, REMOVED = NOISE[:, :3], torch.tensor([[True, False, False], [False, True, True]])
ERRORS = torch.arange(40.0, dtype=torch.float64).sin().square().view(4, 5, 2)
TIMESTEPS = PLAN.draw(0, "abcd")
SCORES, ORACLE = SAMPLES[:, :5].double(), NOISE[:, :5].double()


def _posterior(*arguments: Tensor, **options: Any) -> tuple[Tensor, ...]:
    found = objectives.retain_posterior(*arguments, **options)
    return found.mean, found.log_density, found.effective_neighbours, found.underflow


def _metric(kind: type, scores: Tensor, oracle: Tensor) -> Tensor:
    metric = kind().to(scores.device)
    metric.update(scores, oracle)
    found: Tensor = metric.compute()
    return found


OF = (SAMPLES, NOISE, GAMMA, SIGMA)
Case = tuple[Callable[..., Any], tuple[Any, ...]]
CASES: Mapping[str, Case] = {
    "add_noise": (prediction.add_noise, OF),
    **{
        f"{formula.__name__} {kind}": (partial(formula, prediction=kind), OF)
        for formula in (prediction.to_x0, prediction.to_noise, prediction.to_output, guidance.guide_output)
        for kind in get_args(PredictionType)
    },
    "schedule.at": (SCHEDULE.at, (torch.tensor([1, 5, 20, 40]), SAMPLES)),
    "squared_error": (elbo.squared_error, (SAMPLES, NOISE)),
    "kl_terms": (
        elbo.kl_terms,
        (SAMPLES, NOISE, torch.tensor([1, 5, 20, 40]), torch.linspace(0.99, 0.01, 50)),
    ),
    "kl_from_x0": (elbo.kl_from_x0, (SAMPLES, NOISE, 2 / SIGMA.flatten(), 1 / SIGMA.flatten())),
    **{
        f"paired_difference {weighting}": (
            partial(elbo.paired_difference, plan=PLAN, schedule=SCHEDULE, weighting=weighting),
            (ERRORS, ERRORS.flip(0), TIMESTEPS),
        )
        for weighting in get_args(Weighting)
    },
    "retain_posterior": (_posterior, (SAMPLES, NOISE, GAMMA, SIGMA, RETAIN)),
    "retain_posterior of neighbours, capped": (
        partial(_posterior, kl_cap=1.0),
        (SAMPLES, NOISE, GAMMA, SIGMA, RETAIN, torch.arange(8).view(4, 2)),
    ),
    "nearest_neighbours": (partial(objectives.nearest_neighbours, count=3, chunk=2), (SAMPLES, RETAIN)),
    "density_ratio": (
        partial(objectives.density_ratio, num_retain=10, num_forget=4),
        (GAMMA.log(), SIGMA.log()),
    ),
    "removed_atoms": (guidance.removed_atoms, (torch.eye(3).bool(), REMOVED)),
    "log_kept": (guidance.log_kept, (LOGITS, REMOVED)),
    "kept_shift": (
        guidance.kept_shift,
        (LOGITS.log_softmax(dim=1), REMOVED, torch.eye(LOGITS.shape[1]), LOGITS.softmax(dim=1)),
    ),
    "style_probabilities": (
        lambda of, styles: anchors.style_probabilities(
            of, torch.stack([anchors.style_prototype(one[None]) for one in styles]), beta=2.0, eta=0.3
        ),
        (SAMPLES, RETAIN),
    ),
    **{name: (formula, (SCORES, ORACLE)) for name, formula in ranking.METRICS.items()},
    **{kind.__name__: (partial(_metric, kind), (SCORES, ORACLE)) for kind in (NDCG, Spearman)},
}


@pytest.mark.parametrize("name", CASES)
def test_a_formula_stays_on_its_device(name: str) -> None:
    formula, arguments = CASES[name]
    expected = formula(*arguments)
    with second_device() as device:
        found = formula(*tree_map_only(Tensor, lambda value: value.to(device), arguments))
        assert all(isinstance(value, There) for value in tree_leaves(found))
        ours = [value.cpu() for value in tree_leaves(found)]
    for mine, theirs in zip(ours, tree_leaves(expected), strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs)


def test_the_second_device_refuses_what_cuda_refuses() -> None:
    with second_device() as device:
        there, here = torch.ones(3, device=device), torch.ones(3)
        assert there.device == device
        assert (there + torch.tensor(1.0)).tolist() == [2, 2, 2]  # a number may be anywhere
        assert there[torch.tensor([0, 2])].cpu().tolist() == [1, 1]  # so may indices
        mixed = "expects all tensors on one device, but found cuda:0 and cpu"
        with pytest.raises(RuntimeError, match=mixed):
            there + here
        with pytest.raises(RuntimeError, match=mixed):
            here[torch.ones(2, dtype=torch.int64, device=device)]
        with pytest.raises(RuntimeError, match="expects a generator of cpu, but found cuda"):
            torch.rand(3, generator=torch.Generator("cuda"))
        torch.rand(3, generator=torch.Generator("cuda"), device=device)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        here.copy_(there)  # moves
        assert type(here) is Tensor
