"""Forgetting a query by fine-tuning that ends where a network knows nothing of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from guda_lightning.attribution.ascents import Ascent, Forgotten, Site, copies_plan
from guda_lightning.attribution.gradients.samples import GRADIENT
from guda_lightning.attribution.samples import seen_count, seen_samples
from guda_lightning.errors import check_range
from guda_lightning.functional.noise import seed_of
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.types import Queries


@dataclass(frozen=True)
class BoundedAscent(Ascent):
    """Fine-tuning by ``L(retain) − λ·min(L(q), L_null)`` (MUCS, arXiv 2605.17938).

    It ends where ``L(q)`` nears ``L_null``, the loss of a network that knows nothing of the query. Published:
    that of an untrained network, one number for all noise. Here it is ``‖ε‖²`` of each noised copy, the loss
    of a network that predicts no noise: it needs no second network, and networks start close to it. Also
    ours: Adam without weight decay or warm-up, all weights (published: those of the MLPs of a transformer),
    and a largest number of steps.

    Args:
        rate: Learning rate; published: a tenth of that of training.
        forget_weight: λ, what the query counts beside the retained samples.
        share: Of ``L_null``, where the query counts as forgotten.
        steps: Steps at most; what is not forgotten by then is scored as it is, and said.
        noises: Noised copies of the query in a step, one for each of as many strata of timesteps; at most
            one for each timestep.
        retain: Training images in a step, all of them to choose from; each has one timestep.
    """

    method: ClassVar[str] = "mucs"

    rate: float = 1e-4
    forget_weight: float = 0.2
    share: float = 0.95
    steps: int = 200
    noises: int = 100
    retain: int = 100

    def __post_init__(self) -> None:
        check_range("rate", self.rate, gt=0, le=1, fix="take a tenth of the learning rate of training")
        check_range("forget_weight", self.forget_weight, gt=0, fix="take 0.2, as published")
        check_range("share", self.share, gt=0, le=1, fix="take 0.95, as published")
        check_range("steps", self.steps, ge=1, fix="take 200")
        check_range("noises", self.noises, ge=2, fix="take 100, as published")
        check_range("retain", self.retain, ge=1, fix="take 100, as published")

    def evaluations(self) -> int:
        """Network evaluations that forgetting one query costs, at most."""
        return GRADIENT * (self.steps * (self.noises + self.retain) + self.noises)

    def forget(self, site: Site, query: Queries, known: Mapping[str, Tensor]) -> Forgotten:
        """Fine-tune until the query is forgotten; the loss of every step says whether it is."""
        plan = copies_plan(site.model.schedule, self.noises)
        any_timestep = TimestepPlan(
            "stratified", tuple(site.model.schedule.scored_timesteps.tolist()), (0,), 1
        )
        weights = site.flat.vector().requires_grad_()
        optimizer = torch.optim.Adam([weights], lr=self.rate)
        for step in range(self.steps + 1):
            seed = seed_of(f"{site.seed} ascent {step} {query.noise_keys[0]}")
            forget = site.loss_gradient(weights, query, plan, seed, bounded=True)
            if forget.value >= self.share * forget.null:
                return Forgotten(weights.detach(), complete=True)
            if step < self.steps:
                samples = self._retained(site, seed)
                retain = site.loss_gradient(weights, samples, any_timestep, seed)
                weights.grad = retain.gradient - self.forget_weight * forget.gradient
                optimizer.step()
        return Forgotten(weights.detach(), complete=False)

    def _retained(self, site: Site, seed: int) -> Queries:
        rows = np.random.default_rng(seed).choice(
            seen_count(site.data), min(self.retain, seen_count(site.data)), replace=False
        )
        return seen_samples(site.data, rows, site.model.conditional)
