from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from guda_lightning.attribution import squared_errors
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.errors import ConfigError, NumericsError
from guda_lightning.functional.elbo import elbo, paired_difference
from guda_lightning.scores import ScoreRecord, Scoring, SquaredErrors, score_table
from guda_lightning.scores.kinds import Custom
from guda_lightning.scores.record import ScoringRecord
from guda_lightning.types import Queries, Weighting
from toys import GaussianDenoiser, message, tiny_unet

SCHEDULE = noise_schedule(DDPMScheduler(num_train_timesteps=100))
SCORING = Scoring(strata=6, draws=2)


def queries(count: int = 5, labels: bool = False) -> Queries:
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return Queries(
        tuple(f"query-{i}" for i in range(count)), images, torch.arange(count) % 3 if labels else None
    )


def model(seed: int = 0, **config: Any) -> DiffusionModel:
    return DiffusionModel(tiny_unet(seed, **config), SCHEDULE, "epsilon")


def taken(asked: Queries, rows: list[int]) -> Queries:
    labels = None if asked.labels is None else asked.labels[rows]
    return Queries(tuple(asked.ids[row] for row in rows), asked.images[rows], labels)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("scoring", [SCORING, Scoring(grid=(1, 100, 20), draws=1)], ids=["strata", "grid"])
def test_a_score_is_a_function_of_its_query_alone(scoring: Scoring, labels: bool) -> None:
    config = {"num_class_embeds": 3} if labels else {}
    full, other, asked = model(0, **config), model(1, **config), queries(labels=labels)
    plan = scoring.plan(SCHEDULE)

    def scores(rows: list[int], batch_size: int) -> Tensor:
        sized = Scoring(**{**vars(scoring), "batch_size": batch_size})
        part = taken(asked, rows)
        errors, timesteps = squared_errors(full, part, sized)
        others, _ = squared_errors(other, part, sized)
        both = [
            paired_difference(errors, others, timesteps, plan, SCHEDULE, weighting)[0]
            for weighting in get_args(Weighting)
        ]
        return torch.stack(both)

    whole = scores([0, 1, 2, 3, 4], 256)
    errors, timesteps = squared_errors(full, asked, scoring)
    elbos = torch.stack(
        [elbo(errors, timesteps, plan, SCHEDULE, weighting) for weighting in get_args(Weighting)]
    )
    for rows, batch_size in (([0, 1, 2, 3, 4], 1), ([4, 2, 0], 7), ([3], 3), ([1, 0, 4, 3, 2], 60)):
        allowed = 1e-5 * elbos[:, rows].abs()
        assert bool(((scores(rows, batch_size) - whole[:, rows]).abs() <= allowed).all())


def test_errors_are_those_of_a_loop_over_evaluations() -> None:
    from guda_lightning.functional.noise import gaussian_noise

    full, asked = model(), queries(2)
    errors, timesteps = squared_errors(full, asked, SCORING)
    assert errors.shape == timesteps.shape == (2, 6, 2)
    assert errors.dtype == torch.float64
    network = full.denoiser.eval()
    alpha_bar = DDPMScheduler(num_train_timesteps=100).alphas_cumprod.double()
    for query in range(2):
        for stratum in range(6):
            for draw in range(2):
                t = timesteps[query, stratum, draw].view(1)
                noise = gaussian_noise(0, [asked.noise_keys[query]], t, torch.tensor([draw]), (1, 8, 8))
                x_t = alpha_bar[t].sqrt() * asked.images[query] + (1 - alpha_bar[t]).sqrt() * noise
                with torch.no_grad():
                    predicted = network(x_t.float(), t).sample
                expected = float((noise - predicted).double().square().sum())
                assert float(errors[query, stratum, draw]) == pytest.approx(expected, rel=1e-5)


def test_labels_reach_the_network() -> None:
    full, asked = model(num_class_embeds=3), queries(labels=True)
    swapped = Queries(asked.ids, asked.images, (asked.labels + 1) % 3 if asked.labels is not None else None)
    assert not torch.equal(squared_errors(full, asked, SCORING)[0], squared_errors(full, swapped, SCORING)[0])


def test_bf16_is_near_float32_and_still_summed_in_float64() -> None:
    full, asked = model(), queries()
    exact, _ = squared_errors(full, asked, SCORING)
    rough, _ = squared_errors(full, asked, Scoring(strata=6, draws=2, precision="bf16"))
    assert rough.dtype == torch.float64
    assert not torch.equal(rough, exact)
    assert torch.allclose(rough, exact, rtol=0.03)
    assert not torch.is_autocast_enabled("cpu")


def test_every_submodule_keeps_its_mode_and_dropout_is_off() -> None:
    full, asked = model(dropout=0.5), queries(2)
    full.denoiser.train()
    full.denoiser.mid_block.eval()
    modes = [part.training for part in full.denoiser.modules()]
    first, _ = squared_errors(full, asked, SCORING)
    assert [part.training for part in full.denoiser.modules()] == modes
    assert torch.equal(first, squared_errors(full, asked, SCORING)[0])
    assert all(parameter.requires_grad for parameter in full.denoiser.parameters())


def test_progress_counts_every_evaluation() -> None:
    told: list[int] = []
    squared_errors(model(), queries(), Scoring(strata=6, draws=2, batch_size=25), on_batch=told.append)
    assert told == [25, 25, 10]


def gaussian_elbo(distance: Tensor, dims: int, spread: float, weight: Tensor) -> Tensor:
    """``−Σ_t W_t E‖ε − ε̂‖²`` of the optimal model of ``N(μ, spread² I)``, ``[queries]``.

    ``ε − ε̂ = (γ² spread² / v) ε − (σ γ / v) (x_0 − μ)`` with ``v = γ² spread² + σ²``.

    Args:
        distance: ``[queries]``, ``‖x_0 − μ‖²``.
        dims: Dimensions of a sample.
        spread: Standard deviation of the data.
        weight: ``[timesteps]``.
    """
    t = SCHEDULE.scored_timesteps
    gamma, sigma = SCHEDULE.gamma[t], SCHEDULE.sigma[t]
    variance = gamma**2 * spread**2 + sigma**2
    noise_part = dims * (gamma**2 * spread**2 / variance) ** 2
    error = noise_part + (sigma * gamma / variance) ** 2 * distance[:, None].double()
    return -(weight[t] * error).sum(dim=1)


@pytest.mark.parametrize("draws", [1, 2])
def test_scores_of_optimal_models_are_their_closed_form(draws: int) -> None:
    means, spread, asked = torch.tensor([[0.1], [0.4]]), 0.5, queries(40)
    scoring = Scoring(strata=20, draws=draws, seed=5)
    errors = []
    for mean in means:
        optimal = GaussianDenoiser(SCHEDULE, mean.view(1, 1, 1), spread)
        values, timesteps = squared_errors(DiffusionModel(optimal, SCHEDULE, "epsilon"), asked, scoring)
        errors.append(SquaredErrors(asked.ids, values, timesteps, {}))
    table = score_table(
        errors[0],
        {"group": errors[1]},
        SCHEDULE,
        scoring,
        method="m",
        seed=3,
        record=ScoreRecord(Custom(entries={"a": 1})),
    )
    assert table.groups == ("group",)
    for weighting in get_args(Weighting):
        weight = SCHEDULE.weights(weighting)
        exact = [
            gaussian_elbo((asked.images - mean).square().flatten(1).sum(dim=1), 64, spread, weight)
            for mean in means
        ]
        chosen = table.select(weighting=weighting)
        deviation = chosen.matrix().flatten() - (exact[0] - exact[1])
        variance = chosen.stderr_matrix().flatten().square()
        assert abs(float(deviation.sum())) < 4 * float(variance.sum()) ** 0.5
        ratio = float(deviation.square().mean() / variance.mean())
        assert ratio < 1.5
        assert draws == 1 or ratio > 0.6  # with one draw the error is conservative: larger than need be
        assert set(chosen.to_pandas()["n_draws"]) == {20 * draws}


def test_a_grid_outside_the_middle_has_no_such_score() -> None:
    scoring, asked = Scoring(grid=(1, 4, 1), draws=1), queries(2)
    values, timesteps = squared_errors(model(), asked, scoring)
    errors = SquaredErrors(asked.ids, values, timesteps, {})
    table = score_table(
        errors, {"group": errors}, SCHEDULE, scoring, method="m", seed=0, record=ScoreRecord(Custom())
    )
    assert table.weightings == ("elbo", "uniform")


def test_a_model_that_returns_nan_is_refused_and_named() -> None:
    broken, asked = model(), queries(2)
    with torch.no_grad():
        next(broken.denoiser.parameters()).fill_(torch.nan)
    values, timesteps = squared_errors(broken, asked, SCORING)
    expected = message(
        f"the squared error of query 'query-0' at timestep {int(timesteps[0, 0, 0])} is not a number",
        "nan",
        "a finite number",
        "look for NaN in the model's weights or in the query, or score in float32",
    )
    with pytest.raises(NumericsError, match=expected):
        SquaredErrors(asked.ids, values, timesteps, {})


def test_what_cannot_be_scored_is_refused() -> None:
    expected = message(
        "the scoring batch size is out of range",
        0,
        "batch_size >= 1",
        "set scoring.batch_size to how many images the device holds, e.g. 256",
    )
    with pytest.raises(ConfigError, match=expected):
        Scoring(batch_size=0).plan(SCHEDULE)
    expected = message(
        "timesteps are outside the range of the ELBO",
        "[0]",
        "1 <= t <= 99 (schedule of 100 timesteps)",
        "choose start, stop and step inside 1..99",
    )
    with pytest.raises(ConfigError, match=expected):
        Scoring(grid=(0, 100, 10)).plan(SCHEDULE)


def test_the_record_tells_scorings_apart_but_not_batch_sizes() -> None:
    def record(**arguments: Any) -> ScoringRecord:
        return Scoring(**arguments).record(SCHEDULE)

    assert record(batch_size=1) == record(batch_size=64)
    records = [record(), record(seed=1), record(strata=10), record(draws=1), record(precision="bf16")]
    records += [record(grid=(1, 100, 10)), record(grid=(1, 100, 20)), record(grid=(2, 100, 10))]
    records.append(Scoring().record(noise_schedule(DDPMScheduler(num_train_timesteps=101))))
    assert all(one != other for i, one in enumerate(records) for other in records[:i])
    assert record(draws=1).stderr == "collapsed strata (conservative)"
