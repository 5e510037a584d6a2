"""Attribution by unlearning the query against networks whose weights are replaced, and end to end."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear_denoiser import linear_model
from torch import Tensor, nn

from guda_lightning.attribution import AttributionContext
from guda_lightning.attribution.ascents import Ascent
from guda_lightning.attribution.bounded_ascent import BoundedAscent
from guda_lightning.attribution.fitted_query_unlearning import FittedQueryUnlearning
from guda_lightning.attribution.gradients.ekfac import EKFAC
from guda_lightning.attribution.preconditioned_ascent import KernelName, PreconditionedAscent
from guda_lightning.attribution.query_unlearning import QueryUnlearning
from guda_lightning.cli.main import main
from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModel, FullModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError
from guda_lightning.functional.noise import gaussian_noise, seed_of
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.report.estimand import estimand
from guda_lightning.scores import ScoreTable
from guda_lightning.scores.views import views
from guda_lightning.types import Queries
from toys import gray_queries, message, shades, tiny_full

CONF = Path(__file__).parents[2] / "conf"
LINEAR = FullModel(linear_model(64), None, "linear")
OVERLAPPING = Grouping({"few": [0, 3], "many": range(2, 9), "odd": range(1, 12, 2)}, 12)
STEP = PreconditionedAscent(noises=4, fisher_samples=6)
BOUNDED = BoundedAscent(rate=0.02, share=0.8, steps=40, noises=4, retain=3)


def fitted(
    ascent: Ascent,
    full: FullModel = LINEAR,
    data: GroupDataModule | None = None,
    grouping: Grouping | None = OVERLAPPING,
    features: Path | None = None,
    execution: Execution = Execution(),  # noqa: B008  (frozen)
    **options: Any,
) -> FittedQueryUnlearning:
    chosen = {"members": 99, "strata": 2, "draws": 2, "batch_size": 7, **options}
    context = AttributionContext(full, data or shades(4), grouping, features=features, execution=execution)
    return QueryUnlearning(ascent, **chosen).fit(context)


def replaced(full: FullModel, vector: Tensor) -> nn.Module:
    """The network with other weights, in a copy of its own."""
    network = copy.deepcopy(full.model.denoiser)
    nn.utils.vector_to_parameters(vector, network.parameters())
    return network


def losses(full: FullModel, network: nn.Module, one: Queries, plan: TimestepPlan, seed: int) -> list[Tensor]:
    """``‖ε − ε̂‖²`` of one sample at every draw of a plan, one after the other, times the draw's share."""
    model, found = replace(full.model, denoiser=network), []
    for stratum, of_stratum in enumerate(plan.draw(seed, one.noise_keys)[0]):
        for draw, t in enumerate(of_stratum):
            noise = gaussian_noise(seed, one.noise_keys, t[None], torch.tensor([draw]), one.inputs.shape[1:])
            x_t = model.schedule.gamma[t] * one.inputs + model.schedule.sigma[t] * noise
            share = int(plan.sizes[stratum]) / len(plan.timesteps) / plan.draws
            predicted = model.predicted_noise(x_t.float(), t[None], one.labels)
            found.append(share * (noise - predicted).square().sum())
    return found


def gradient(full: FullModel, one: Queries, plan: TimestepPlan, seed: int) -> Tensor:
    network = copy.deepcopy(full.model.denoiser).requires_grad_()
    total = torch.stack(losses(full, network, one, plan, seed)).sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(total, list(network.parameters()))])


def sample(data: GroupDataModule, row: int, copied: bool) -> Queries:
    image = data.seen_inputs(np.array([row]))[int(copied)][None]
    label = None if data.labels is None else data.labels[[row]]
    return Queries((data.ids[row] + (" mirrored" if copied else ""),), image, label)


@pytest.mark.parametrize("case", ["plain", "mirrored", "labels", "unet"])
def test_a_step_is_that_of_a_network_whose_weights_are_replaced(case: str) -> None:
    data = shades(4, horizontal_flip=case == "mirrored")
    full, asked = LINEAR, gray_queries("a")
    if case == "labels":
        full = FullModel(linear_model(64, classes=3), None, "labels")
        asked = replace(asked, labels=torch.tensor([1]))
    if case == "unet":
        full = tiny_full()
    ascent = replace(STEP, kernel="none", fisher_samples=None, rate=0.3)
    found = fitted(ascent, full, data)
    table = found.score(asked)

    start = nn.utils.parameters_to_vector(full.model.denoiser.parameters()).detach()
    plan = TimestepPlan.even(full.model.schedule, 4)
    up = gradient(full, asked, plan, seed_of("0 ascent 0"))
    after, before = replaced(full, start + 0.3 / 12 * up), replaced(full, start)
    compared, copies = TimestepPlan.even(full.model.schedule, 2, 2), 1 + data.horizontal_flip
    rises = torch.zeros(12, dtype=torch.float64)
    with torch.no_grad():
        for row, copied in ((row, copied) for row in range(12) for copied in range(copies)):
            one = sample(data, row, bool(copied))
            one = one if full.model.conditional else replace(one, labels=None)
            pairs = zip(
                losses(full, after, one, compared, 0), losses(full, before, one, compared, 0), strict=True
            )
            rises[row] += sum(float(x.double() - y.double()) for x, y in pairs) / copies
    expected = torch.tensor(OVERLAPPING.membership()).double().T @ rises
    torch.testing.assert_close(table.matrix()[0], expected, rtol=1e-3, atol=1e-3)
    assert (table.groups, table.methods, table.weightings) == (OVERLAPPING.names, ("abu",), ("loss",))
    assert bool((table.stderr_matrix() > 0).all())
    assert torch.equal(nn.utils.parameters_to_vector(full.model.denoiser.parameters()).detach(), start)


@pytest.mark.parametrize(
    ("full", "kernel", "rate"),
    [(LINEAR, "diag", 2.0), (tiny_full(), "diag", 0.05), (tiny_full(), "ekfac", 0.01)],
)
def test_a_small_step_is_influence(full: FullModel, kernel: KernelName, rate: float) -> None:
    asked, ascent = gray_queries("a"), replace(STEP, kernel=kernel)

    def of(rate: float) -> Tensor:
        return fitted(replace(ascent, rate=rate), full, batch_size=64).score(asked).matrix()[0]

    # The rise is slope · α + curvature · α²: exactly for the linear denoiser, else to a higher order.
    slope = (4 * of(rate / 2) - of(rate)) / rate
    fit = fitted(ascent, full, batch_size=64)
    fit.prepare()
    state = fit._of_ascent.load("ascent")
    plan = TimestepPlan.even(full.model.schedule, 4)
    of_query = gradient(full, asked, plan, seed_of("0 ascent 0"))
    if kernel == "diag":
        solved = of_query / (state["fisher"] + 0.1 * state["fisher"].mean())
    else:
        solved = EKFAC.from_state(state, fit.site.model, fit.site.flat, 0.1).solve(of_query[None])[0]
    compared = TimestepPlan.even(full.model.schedule, 2, 2)
    samples = [replace(sample(shades(4), row, False), labels=None) for row in range(12)]
    influences = torch.stack([gradient(full, one, compared, 0) @ solved / 12 for one in samples])
    expected = torch.tensor(OVERLAPPING.membership()).double().T @ influences.double()
    torch.testing.assert_close(slope, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))


def test_the_fisher_information_is_that_of_drawn_training_images() -> None:
    fit = fitted(STEP)
    fit.prepare()
    rows = np.random.default_rng(0).permutation(12)[:6]
    plan, total = TimestepPlan.even(LINEAR.model.schedule, 2), torch.zeros(64 * 65)
    weight = LINEAR.model.denoiser.weight.detach()
    for row in rows:
        one = replace(sample(shades(4), int(row), False), labels=None)
        for t in plan.draw(0, one.noise_keys)[0, :, 0]:
            noise = gaussian_noise(0, one.noise_keys, t[None], torch.tensor([0]), (1, 8, 8))
            x_t = (
                LINEAR.model.schedule.gamma[t] * one.inputs + LINEAR.model.schedule.sigma[t] * noise
            ).float()
            inputs = torch.cat([x_t.flatten(), torch.ones(1)])
            residual = weight @ inputs - noise.flatten()
            total += (2 * torch.outer(residual, inputs)).flatten().square() / 12
    torch.testing.assert_close(fit._of_ascent.load("ascent")["fisher"], total, rtol=1e-4, atol=1e-4)


def large() -> DiffusionModel:
    """A network that is never called, with a layer of 8192 inputs."""
    return replace(LINEAR.model, denoiser=nn.ModuleDict({"layer": nn.Linear(8192, 1)}))


def optimal() -> FullModel:
    """A linear denoiser that predicts some of the noise."""
    full = FullModel(linear_model(64), None, "optimal")
    with torch.no_grad():
        full.model.denoiser.weight.copy_(torch.eye(64, 65) * 0.7)
    return full


def test_one_step_of_fine_tuning_is_adams() -> None:
    ascent = replace(BOUNDED, steps=1, share=1.0, forget_weight=0.7)
    full, asked = optimal(), gray_queries("a", "b").take([1])
    fit = fitted(ascent, full)
    found = ascent.forget(fit.site, asked, {})
    network, seed = (
        copy.deepcopy(full.model.denoiser).requires_grad_(),
        seed_of(f"0 ascent 0 {asked.noise_keys[0]}"),
    )
    plan = TimestepPlan.even(full.model.schedule, 4)
    forget = losses(full, network, asked, plan, seed)
    null = losses(full, replaced(full, torch.zeros(64 * 65)), asked, plan, seed)
    cut_off = [bool(x.detach() > y.detach()) for x, y in zip(forget, null, strict=True)]
    assert any(cut_off) and not all(cut_off)
    loss = -0.7 * torch.stack([torch.minimum(x, y.detach()) for x, y in zip(forget, null, strict=True)]).sum()
    once = TimestepPlan("stratified", tuple(full.model.schedule.scored_timesteps.tolist()), (0,), 1)
    for row in np.random.default_rng(seed).choice(12, 3, replace=False):
        one = replace(sample(shades(4), int(row), False), labels=None)
        loss = loss + losses(full, network, one, once, seed)[0] / 3
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(found.vector, network.weight.detach().flatten(), rtol=1e-4, atol=1e-4)


def test_fine_tuning_ends_where_the_query_is_forgotten() -> None:
    full, asked = optimal(), gray_queries("a")
    counted: list[int] = []
    fit = fitted(BOUNDED, full, execution=Execution(on_evaluations=counted.append))
    plan, key = TimestepPlan.even(full.model.schedule, 4), asked.noise_keys[0]

    def share(vector: Tensor, step: int) -> float:
        loss = fit.site.loss_gradient(vector, asked, plan, seed_of(f"0 ascent {step} {key}"), bounded=True)
        return loss.value / loss.null

    assert share(fit.site.flat.vector(), 0) < 0.8
    counted.clear()
    found = BOUNDED.forget(fit.site, asked, {})
    steps, rest = divmod(sum(counted) // 3 - 4, 4 + 3)
    assert found.complete and rest == 0 and 1 < steps < 40
    assert share(found.vector, steps) >= 0.8
    again = replace(BOUNDED, steps=steps).forget(fit.site, asked, {})
    assert again.complete and torch.equal(again.vector, found.vector)
    short = replace(BOUNDED, steps=steps - 1).forget(fit.site, asked, {})
    assert not short.complete and share(short.vector, steps - 1) < 0.8
    table = fitted(replace(BOUNDED, steps=1, share=1.0, rate=1e-6), full).score(gray_queries("a", "b"))
    assert table.notes == (
        "mucs: 2 of 2 queries were not forgotten as far as configured: take more steps, or a higher rate",
    )


def test_skewed_rises_on_shared_noise() -> None:
    full, asked = optimal(), gray_queries("a")
    fit = fitted(BOUNDED, full, skewed=True, shared_noise=True, noisier=0.5)
    table = fit.score(asked)
    after = replaced(full, BOUNDED.forget(fit.site, asked, {}).vector)
    plan = TimestepPlan.even(full.model.schedule, 2, 2, noisier=0.5)
    sums: Sequence[list[float]] = [[] for _ in range(12)]
    with torch.no_grad():
        for row in range(12):
            one = replace(sample(shades(4), row, False), labels=None, keys=("noise of all members",))
            shares = [0.25 * float(size) / len(plan.timesteps) * 2 for size in plan.sizes for _ in range(2)]
            pairs = zip(
                *(losses(full, net, one, plan, 0) for net in (full.model.denoiser, after)), strict=True
            )
            for (x, y), share in zip(pairs, shares, strict=True):
                old, new = float(x) / share / 64, float(y) / share / 64
                sums[row].append(share * (new - old) / (new + old + 1e-3))
    rises = torch.tensor(sums, dtype=torch.float64).sum(dim=1)
    expected = torch.tensor(OVERLAPPING.membership()).double().T @ rises
    torch.testing.assert_close(table.matrix()[0], expected, rtol=1e-4, atol=1e-4)
    assert (table.methods, table.weightings) == (("mucs",), ("skew",))


@pytest.mark.parametrize("ascent", [STEP, replace(STEP, steps=3), BOUNDED])
def test_a_query_has_the_same_scores_in_any_batch_and_company(
    ascent: Ascent, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = gray_queries("a", "b", "c")
    whole = fitted(ascent, optimal()).score(asked)
    other = fitted(ascent, optimal(), batch_size=64).score(asked.take([2, 1]))
    monkeypatch.setattr("guda_lightning.attribution.fitted_query_unlearning._NUMBERS", 1)  # one at a time
    alone = fitted(ascent, optimal()).score(asked)
    scale = float(whole.matrix().abs().max())
    for found, rows in ((other, [2, 1]), (alone, [0, 1, 2])):
        torch.testing.assert_close(found.matrix(), whole.matrix()[rows], rtol=1e-3, atol=1e-3 * scale)
        torch.testing.assert_close(
            found.stderr_matrix(), whole.stderr_matrix()[rows], rtol=1e-2, atol=1e-3 * scale
        )


def test_members_are_drawn_and_shared_and_the_error_says_so() -> None:
    asked = gray_queries("a")
    fit = fitted(STEP, members=3, groups=["many", "few", "few+many"])
    assert [len(one) for one in fit.members] == [3, 2, 3]
    assert len(fit.rows) <= 5 and set(fit.rows) <= {0, 2, 3, 4, 5, 6, 7, 8}
    whole = fitted(STEP, groups=["many", "few", "few+many"]).score(asked)
    drawn = [fitted(STEP, members=3, seed=seed, groups=["many"]).score(asked) for seed in range(8)]
    every = [fitted(STEP, seed=seed, groups=["many"]).score(asked) for seed in range(8)]
    differences = torch.cat(
        [(one.matrix() - other.matrix())[0] for one, other in zip(drawn, every, strict=True)]
    )
    errors = torch.cat([one.stderr_matrix()[0] for one in drawn])
    # Errors of three members have heavy tails: they are right on average.
    assert 1 / 3 < differences.square().mean().sqrt() / errors.square().mean().sqrt() < 3
    (exact,), (sampled,) = views(whole), views(fit.score(asked))
    assert exact.unit.covers == "noise draws only"
    assert sampled.unit.covers == "noise draws and the draw of each group's members"
    skewed = fitted(STEP, skewed=True).score(asked)
    assert estimand(skewed.record, views(skewed)[0])["Behaviour"] == (
        "how well the model denoises the query, by shares of the loss at each noise level"
    )


def test_evaluations_are_those_that_are_done() -> None:
    counted: list[int] = []
    asked, execution = gray_queries("a", "b"), Execution(on_evaluations=counted.append)
    for ascent in (STEP, replace(STEP, kernel="ekfac"), replace(BOUNDED, share=1.0, rate=1e-6, steps=2)):
        counted.clear()
        fit = fitted(ascent, optimal(), execution=execution)
        expected = fit.preparation() + fit.evaluations(asked)
        fit.score(asked)
        assert (sum(counted), fit.preparation()) == (expected, 0)
    assert fitted(replace(STEP, kernel="ekfac")).preparation() == 2 * 3 * 2 * 6 + 11 * 4
    # 11 members (one image is in no group) of 4 losses; 4 noised copies, or 2 steps with 3 images and a look.
    assert fitted(STEP).evaluations(asked) == 2 * (3 * 4 + 11 * 4)
    assert fitted(STEP).preparation() == 3 * 2 * 6 + 11 * 4
    assert fitted(replace(BOUNDED, steps=2)).evaluations(asked) == 2 * (3 * (2 * (4 + 3) + 4) + 11 * 4)


def test_what_is_prepared_is_kept(tmp_path: Path) -> None:
    asked = gray_queries("a")
    first = fitted(STEP, features=tmp_path)
    table = first.score(asked)
    again = fitted(STEP, features=tmp_path)
    assert again.preparation() == 0
    assert torch.equal(again.score(asked).matrix(), table.matrix())
    assert fitted(replace(STEP, rate=0.5), features=tmp_path).preparation() == 0
    assert fitted(STEP, features=tmp_path, seed=1).preparation() == 3 * 2 * 6 + 11 * 4
    assert fitted(replace(STEP, damping=0.2), features=tmp_path).preparation() == 0
    (kernel,) = tmp_path.glob("*/ascent.safetensors")
    kernel.unlink()
    assert fitted(STEP, features=tmp_path).preparation() == 3 * 2 * 6
    kernel.write_bytes(b"half")
    assert fitted(STEP, features=tmp_path).preparation() == 3 * 2 * 6  # what is damaged is made again
    assert torch.equal(fitted(STEP, features=tmp_path).score(asked).matrix(), table.matrix())


def test_nothing_is_kept_of_a_step_without_a_kernel(tmp_path: Path) -> None:
    fit = fitted(replace(STEP, kernel="none", fisher_samples=None), features=tmp_path)
    fit.score(gray_queries("a"))
    assert [path.name for path in tmp_path.glob("*/*")] == ["losses.safetensors"]
    assert fit.kept() == (next(tmp_path.iterdir()),)


def test_the_record_differs_with_all_that_scores_depend_on() -> None:
    asked = gray_queries("a")
    others = [
        fitted(STEP),
        fitted(replace(STEP, rate=0.5)),
        fitted(replace(STEP, damping=0.2)),
        fitted(BOUNDED),
        fitted(STEP, skewed=True),
        fitted(STEP, shared_noise=True),
        fitted(STEP, noisier=0.7),
        fitted(STEP, members=2),
        fitted(STEP, strata=3),
        fitted(STEP, seed=1),
        fitted(STEP, weights=("weight",)),
        fitted(STEP, full=optimal()),
        fitted(STEP, data=shades(4, horizontal_flip=True)),
        fitted(STEP, groups=["few"]),
    ]
    assert len({one.record(asked).hash for one in others}) == len(others)
    assert fitted(STEP, batch_size=3).record(asked) == fitted(STEP).record(asked)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: PreconditionedAscent(kernel="none", damping=0.1),
            (
                "an ascent without a kernel has no Fisher information to measure or to damp",
                "kernel 'none' with damping",
                "kernel 'none' alone, or another kernel",
                "leave them out, or take kernel: diag",
            ),
        ),
        (
            lambda: PreconditionedAscent(rate=0),
            ("rate is out of range", 0, "rate > 0", "take 1"),
        ),
        (
            lambda: PreconditionedAscent(damping=math.nan),
            ("damping is out of range", math.nan, "damping > 0", "take 0.1, of the mean of F"),
        ),
        (
            lambda: BoundedAscent(rate=1e300),
            (
                "rate is out of range",
                "1e+300",
                "0 < rate <= 1",
                "take a tenth of the learning rate of training",
            ),
        ),
        (
            lambda: BoundedAscent(share=1.5),
            ("share is out of range", 1.5, "0 < share <= 1", "take 0.95, as published"),
        ),
        (
            lambda: BoundedAscent(retain=0),
            ("retain is out of range", 0, "retain >= 1", "take 100, as published"),
        ),
        (
            lambda: QueryUnlearning(members=1),
            ("members is out of range", 1, "members >= 2", "take 32: one member has no standard error"),
        ),
        (
            lambda: QueryUnlearning(noisier=0),
            (
                "noisier is out of range",
                0,
                "0 < noisier <= 1",
                "take 0.7, as MUCS does, or 1 for all timesteps",
            ),
        ),
        (
            lambda: fitted(STEP, weights=("attn2",)),
            (
                "abu has no weights to unlearn with",
                "weights ['attn2'], which are in no name",
                "parts of names such as 'weight'",
                "correct weights, or leave them out for all",
            ),
        ),
        (
            lambda: fitted(replace(STEP, kernel="ekfac"), FullModel(large(), None, "large")),
            (
                "the layer 'layer' is too large for EK-FAC",
                "8193 inputs and 1 outputs",
                "at most 8192 of each: a factor is as large as their square",
                "take kernel: diag",
            ),
        ),
        (
            lambda: fitted(STEP, execution=Execution(ranks=Ranks(mesh=object()))),  # type: ignore[arg-type]
            (
                "abu needs all weights on every process",
                "a model that is spread over processes (FSDP)",
                "one device that holds the model and a gradient of it",
                "take another strategy, such as --trainer.strategy ddp",
            ),
        ),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, expected: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match=message(*expected)):
        make()


@pytest.mark.parametrize(
    ("name", "weighting", "options"),
    [
        ("abu", "loss", ["fisher_samples=6"]),
        ("mucs", "skew", ["steps=1", "retain=4", "share=0.99"]),
    ],
)
def test_a_run_is_scored(
    name: str,
    weighting: str,
    options: list[str],
    finished_run: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["attribute", "-c", f"{CONF}/digits.yaml", "-c", f"attribute/{name}.yaml"]
    arguments += ["--run", str(finished_run), "--attributor.init_args.members=2"]
    arguments += [f"--attributor.init_args.ascent.init_args.{one}" for one in ["noises=4", *options]]
    path = finished_run / "scores" / f"{name}-0.parquet"
    if name == "abu":
        forget, forgotten = PreconditionedAscent.forget, []

        def interrupted(*where: Any) -> Any:
            if len(forgotten) == 3:
                raise KeyboardInterrupt
            forgotten.append(where)
            return forget(*where)

        monkeypatch.setattr(FittedQueryUnlearning, "at_once", 2)
        with monkeypatch.context() as pressed:
            pressed.setattr(PreconditionedAscent, "forget", interrupted)
            assert main(arguments) == 130
        assert len(list(path.with_suffix(".parts").iterdir())) == 1  # of two queries of five
    assert main(arguments) == 0
    assert not path.with_suffix(".parts").exists()
    table = ScoreTable.load(path)
    assert (table.methods, table.weightings) == ((name,), (weighting,))
    assert bool(table.matrix().isfinite().all()) and bool((table.stderr_matrix() > 0).all())
    assert list((finished_run / "features").glob("*/losses.safetensors"))
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith(f"attribute: {path} is complete, skipped\n")
