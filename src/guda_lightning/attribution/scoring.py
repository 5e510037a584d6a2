"""Squared noise errors of one model on queries, and the score table that follows from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

import torch
from torch import Tensor

from guda_lightning.diffusion import DiffusionModel, evaluating
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.functional.elbo import squared_error
from guda_lightning.functional.noise import gaussian_noise
from guda_lightning.functional.prediction import add_noise
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.scores.scoring import Scoring
from guda_lightning.types import Queries


class NoisedQueries(NamedTuple):
    """Some evaluations of a scoring: queries noised at the plan's timesteps."""

    noise: Tensor
    x_t: Tensor
    timesteps: Tensor
    labels: Tensor | None


def noised_queries(
    queries: Queries, scoring: Scoring, schedule: NoiseSchedule, device: torch.device | str
) -> Iterator[NoisedQueries]:
    """Every (query, timestep, draw) of the plan, in order and in batches.

    The noise of an evaluation depends on nothing but (seed, query, timestep, draw), so two models that
    are scored alike see the same noise, in whatever batches.

    Args:
        queries: ``Q`` queries.
        scoring: Seed, plan and batch size.
        schedule: The models' noise schedule.
        device: Where the batches go.
    """
    return noised_by_plan(queries, scoring.plan(schedule), scoring.seed, scoring.batch_size, schedule, device)


def noised_by_plan(
    queries: Queries,
    plan: TimestepPlan,
    seed: int,
    batch_size: int,
    schedule: NoiseSchedule,
    device: torch.device | str,
) -> Iterator[NoisedQueries]:
    """Every (query, timestep, draw) of any plan, in order and in batches; see ``noised_queries``.

    Args:
        queries: ``Q`` queries, or training samples.
        plan: The timesteps.
        seed: Of noise and timesteps.
        batch_size: Evaluations in a batch; changes no noise.
        schedule: The model's noise schedule.
        device: Where the batches go.
    """
    timesteps = plan.draw(seed, queries.noise_keys)
    flat_timesteps, per_query = timesteps.flatten(), plan.evaluations
    flat_draws = torch.arange(plan.draws).expand(timesteps.shape).flatten()
    for rows in torch.arange(flat_timesteps.numel()).split(batch_size):
        query, t = rows // per_query, flat_timesteps[rows]
        keys = [queries.noise_keys[i] for i in query.tolist()]
        noise = gaussian_noise(seed, keys, t, flat_draws[rows], queries.inputs.shape[1:])
        noise, x0, t = (_sent(values, device) for values in (noise, queries.inputs[query], t))
        labels = None if queries.labels is None else _sent(queries.labels[query], device)
        yield NoisedQueries(noise, add_noise(x0, noise, *schedule.at(t, like=x0)), t, labels)


def _sent(values: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on a device; a GPU is not waited for, so that the next noise is made meanwhile."""
    if torch.device(device).type != "cuda" or values.device.type != "cpu":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def squared_errors(
    model: DiffusionModel,
    queries: Queries,
    scoring: Scoring,
    *,
    device: torch.device | str = "cpu",
    on_batch: Callable[[int], None] = lambda evaluations: None,
) -> tuple[Tensor, Tensor]:
    """Evaluate one model on every (query, timestep, draw) of the plan.

    Args:
        model: The model; its train/eval modes come back afterwards.
        queries: ``Q`` queries.
        scoring: Seed, plan, batch size and precision.
        device: Where the model is.
        on_batch: Called with the number of evaluations after every batch.

    Returns:
        Squared errors ``[queries, strata, draws]`` float64 and their timesteps, int64, on the CPU.
    """
    errors, timesteps = joint_squared_errors(
        [model],
        queries,
        scoring,
        lambda batch, predicted: squared_error(batch.noise, *predicted)[:, None],
        device=device,
        on_batch=on_batch,
    )
    return errors[0], timesteps


def joint_squared_errors(
    models: Sequence[DiffusionModel],
    queries: Queries,
    scoring: Scoring,
    of: Callable[[NoisedQueries, Sequence[Tensor]], Tensor],
    *,
    device: torch.device | str = "cpu",
    on_batch: Callable[[int], None] = lambda evaluations: None,
) -> tuple[Tensor, Tensor]:
    """Squared errors of several models that follow from the evaluations of one, or of a few.

    Args:
        models: What is evaluated, of one noise schedule; its train/eval modes come back afterwards.
        queries: ``Q`` queries.
        scoring: Seed, plan, batch size and precision.
        of: From a batch and the noise that each evaluated model predicts for it, squared errors
            ``[batch, models]`` of as many as follow.
        device: Where the models are.
        on_batch: Called with the number of evaluations after every batch.

    Returns:
        Squared errors ``[models, queries, strata, draws]`` float64 and timesteps ``[queries, strata, draws]``
        int64, on the CPU.
    """
    schedule = models[0].schedule
    timesteps = scoring.plan(schedule).draw(scoring.seed, queries.noise_keys)
    errors = []
    with ExitStack() as evaluated:
        for model in models:
            evaluated.enter_context(evaluating(model.denoiser))
        for batch in noised_queries(queries, scoring, schedule, device):
            with scoring.autocast(device):
                predicted = [
                    model.predicted_noise(batch.x_t, batch.timesteps, batch.labels) for model in models
                ]
            errors.append(of(batch, predicted))
            on_batch(len(models) * len(batch.timesteps))
    return torch.cat(errors).cpu().T.reshape(-1, *timesteps.shape), timesteps


def shared_errors(
    measure: Callable[[Queries], tuple[Tensor, Tensor]], queries: Queries, ranks: Ranks
) -> tuple[Tensor, Tensor]:
    """Let every rank measure a share of the queries, each count-th one, and give all of them everything.

    Every rank measures equally many, some of the first ones again where the shares are uneven: networks that
    are spread over ranks compute together.

    Args:
        measure: Squared errors ``[..., queries, strata, draws]`` and timesteps, as ``squared_errors``, or any
            two tensors with the queries two dimensions before the last.
        queries: ``Q`` queries, at least one, the same on all ranks.
        ranks: Who shares them.

    Returns:
        What ``measure`` returns for all queries, each once.
    """
    if ranks.count == 1:
        return measure(queries)
    mine = queries.take(share_of(len(queries), ranks))
    errors, timesteps = zip(*ranks.all_gather(measure(mine)), strict=True)
    return _dealt(errors, len(queries)), _dealt(timesteps, len(queries))


def share_of(count: int, ranks: Ranks) -> list[int]:
    """The numbers of the queries that this process measures, of so many."""
    turns = range(-(-count // ranks.count))
    return [(ranks.rank + turn * ranks.count) % count for turn in turns]


def _dealt(parts: Sequence[Tensor], count: int) -> Tensor:
    """The shares of all ranks ``[..., share, strata, draws]`` as one, in the order of the queries."""
    return torch.stack(list(parts), dim=-3).flatten(-4, -3)[..., :count, :, :]
