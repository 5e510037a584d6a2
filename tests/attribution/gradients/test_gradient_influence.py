"""Influences by gradients against dense algebra, one gradient at a time, on a network of 32 weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from linear_denoiser import LinearDenoiser, features
from PIL import Image
from torch import Tensor, nn

from guda_lightning import ScoreTable, notes
from guda_lightning.attribution import AttributionContext
from guda_lightning.attribution.gradients import GradientInfluence
from guda_lightning.attribution.gradients.flat import FlatModel
from guda_lightning.attribution.gradients.kernel import Kernel
from guda_lightning.attribution.gradients.kernels import CURVATURES, Curvature
from guda_lightning.attribution.gradients.parts import Parts
from guda_lightning.attribution.gradients.samples import SampleGradients
from guda_lightning.attribution.samples import training_samples
from guda_lightning.attribution.scoring import NoisedQueries, noised_by_plan
from guda_lightning.cli.main import main
from guda_lightning.data import GroupDataModule, ImageTable, Source
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModel, FullModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.distributed.ranks import Ranks
from guda_lightning.errors import ConfigError
from guda_lightning.functional.elbo import standard_error
from guda_lightning.functional.outputs import OUTPUTS
from guda_lightning.functional.timesteps import TimestepPlan
from guda_lightning.latent.prompts import PromptTable
from guda_lightning.scores import ScoreRecord
from guda_lightning.storage.written import files_below, listening
from guda_lightning.types import Queries
from toys import message

ROOT = Path(__file__).parents[3]
CONF = ROOT / "tests" / "conf"
COUNT = 12
SHORT: dict[str, Any] = {"strata": 3, "draws": 2, "training_strata": 2, "training_draws": 2}
GROUPING = Grouping({"few": [3, 5], "many": range(2, 9), "odd": range(1, 12, 2), "empty": []}, COUNT)
GROUPS = ["few", "many", "odd", "many+odd"]
PRESETS = ("tracin", "trak", "dtrak", "relatif", "das")


@dataclass(frozen=True)
class Small(Source):
    """Gray images of 2 x 2 pixels."""

    def load(self) -> ImageTable:
        pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 2, 2)).astype(np.uint8)
        labels = tuple("abc"[index % 3] for index in range(COUNT))
        ids = tuple(str(index) for index in range(COUNT))
        return ImageTable(ids, lambda index: Image.fromarray(pixels[index]), labels, ("a", "b", "c"))


class Linear(nn.Module):
    """A module around a `LinearDenoiser`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        from diffusers import DDPMScheduler

        self.denoiser = LinearDenoiser(4, classes)
        self.scheduler = DDPMScheduler(num_train_timesteps=50)


DATA = GroupDataModule(Small(), batch_size=4)
FULL = FullModel.of(Linear(3), "denoiser", "scheduler", conditional=True)
QUERIES = Queries(
    ("q", "r"),
    torch.rand(2, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1,
    torch.tensor([0, 2]),
)


def context(folder: Path | None = None, **others: Any) -> AttributionContext:
    return AttributionContext(
        **{"full": FULL, "data": DATA, "grouping": GROUPING, "features": folder, **others}
    )


def scored(folder: Path | None = None, **options: Any) -> ScoreTable:
    fitted = GradientInfluence(**{"groups": GROUPS, **SHORT, **options}).fit(context(folder))
    fitted.prepare()
    assert fitted.preparation() == 0
    return fitted.score(QUERIES)


def preset(name: str) -> dict[str, Any]:
    text = (ROOT / "configs" / "attribute" / f"{name}.yaml").read_text()
    options: dict[str, Any] = yaml.safe_load(text)["attributor"]["init_args"]
    assert options["name"] == name
    return options


def single_gradients(samples: Queries, plan: TimestepPlan, output: str) -> tuple[Tensor, Tensor]:
    """By a backward pass for each evaluation: ``[samples, evaluations, weights]``, and squared errors."""
    schedule, weights = FULL.model.schedule, list(FULL.model.denoiser.parameters())
    found, errors = [], []
    for one in noised_by_plan(samples, plan, 0, 1, schedule, "cpu"):
        with torch.enable_grad():
            predicted = FULL.model.predicted_noise(one.x_t, one.timesteps, one.labels)
            value = OUTPUTS[output](predicted, one.noise)  # type: ignore[index]
            gradients = torch.autograd.grad(value.sum(), weights)
        found.append(torch.cat([gradient.flatten() for gradient in gradients]).double())
        errors.append((one.noise - predicted.detach()).double().square().sum())
    return torch.stack(found).unflatten(0, (len(samples), -1)), torch.stack(errors).view(len(samples), -1)


def brute(options: GradientInfluence) -> tuple[Tensor, Tensor]:
    """Scores and terms: ``[queries, groups]``, and ``[queries, groups, strata, draws]`` of linear ones."""
    schedule = FULL.model.schedule
    plans = [
        TimestepPlan.even(schedule, strata, draws)
        for strata, draws in (
            (options.strata, options.draws),
            (options.training_strata, options.training_draws),
        )
    ]
    samples = training_samples(DATA, np.arange(COUNT), conditional=True)
    each_query, _ = single_gradients(QUERIES, plans[0], options.output)
    each, errors = single_gradients(samples, plans[1], options.output)
    losses, _ = single_gradients(samples, plans[1], "loss")
    if options.normalise == "timestep":
        each_query, each = (one / one.norm(dim=2, keepdim=True) for one in (each_query, each))
    shares = [(plan.sizes / plan.sizes.sum()).double().view(-1, 1, 1) for plan in plans]

    def mean(values: Tensor, number: int) -> Tensor:
        by_stratum = values.unflatten(1, (plans[number].num_strata, -1))
        return (by_stratum * shares[number].expand_as(by_stratum)).mean(dim=2).sum(dim=1)

    query, phi, squares = mean(each_query, 0), mean(each, 1), mean(errors[..., None], 1)[:, 0]
    curvature = torch.eye(phi.shape[1], dtype=torch.float64)
    if options.kernel != "none":
        raw = losses.square().mean(dim=(0, 1)).diag() if options.kernel == "diag" else phi.T @ phi / COUNT
        curvature = raw + options.damping * raw.trace() / len(raw) * curvature
    solved = torch.linalg.solve(curvature, phi.T).T
    influence = (phi * solved).sum(dim=1)
    factor = torch.ones(COUNT, dtype=torch.float64) / COUNT
    factor = factor / influence.sqrt() if options.normalise == "sample" else factor
    factor = factor * squares.sqrt() / (1 - influence / COUNT) if options.residual_weight else factor
    members = torch.stack(
        [
            torch.isin(torch.arange(COUNT), torch.from_numpy(GROUPING.forget(name.split("+"))))
            for name in GROUPS
        ]
    ).double()
    single = (query @ solved.T) * factor
    scores = (single.square() if options.squared else single) @ members.T
    terms = (each_query @ (members @ (solved * factor[:, None])).T).unflatten(1, (options.strata, -1))
    return scores, (terms * shares[0]).permute(0, 3, 1, 2)


@pytest.mark.parametrize(
    "options",
    [
        *(preset(name) for name in PRESETS),
        {"kernel": "diag", "damping": 0.1},
        {"kernel": "diag", "normalise": "sample"},
        {"normalise": "sample"},
        {"normalise": "timestep", "output": "l1"},
    ],
    ids=lambda options: options.get("name", "-".join(map(str, options.values()))),
)
@pytest.mark.parametrize("batch_size", [5, 64])
def test_scores_are_those_of_dense_algebra(options: dict[str, Any], batch_size: int, tmp_path: Path) -> None:
    options = (
        {**options, "dims": 100} if "dims" in options else options
    )  # more than weights: nothing collides
    table = scored(tmp_path if batch_size == 5 else None, batch_size=batch_size, **options)
    configured = GradientInfluence(**{**SHORT, **options})
    scores, terms = brute(configured)
    assert table.groups == tuple(GROUPS) and table.weightings == (configured.output,)
    torch.testing.assert_close(table.matrix(), scores, rtol=2e-5, atol=1e-7 * float(scores.abs().max()))
    if not configured.squared:
        errors = standard_error(terms.flatten(0, 1)).view_as(scores)
        torch.testing.assert_close(table.stderr_matrix(), errors, rtol=2e-5, atol=0)
    assert (table.stderr_matrix() > 0).all()


def test_sums_by_one_backward_pass_are_those_of_single_samples() -> None:
    samples = training_samples(DATA, np.arange(COUNT), conditional=True)
    plan = TimestepPlan.even(FULL.model.schedule, 7, 1)
    common = (FlatModel(FULL.model), FULL.model.schedule, plan, "loss", False, 0, 10, Execution())
    gradients = SampleGradients(*common)  # type: ignore[arg-type]
    total = gradients.total(samples)
    torch.testing.assert_close(gradients.means(samples).double().sum(dim=0), total, rtol=1e-6, atol=1e-6)


def test_prompts_condition_as_labels_do() -> None:
    table = PromptTable(lambda texts: {"class_labels": torch.tensor([len(text) for text in texts])})
    numbers = table.numbers(["a", "bb"])
    prompted = FULL.prompted(table)
    asked = replace(QUERIES, labels=numbers)
    plan = TimestepPlan.even(FULL.model.schedule, 2, 1)
    found, expected = (
        SampleGradients(
            FlatModel(one.model), FULL.model.schedule, plan, "loss", True, 0, 3, Execution()
        ).means(of)
        for one, of in ((prompted, asked), (FULL, replace(asked, labels=torch.tensor([1, 2]))))
    )
    torch.testing.assert_close(found, expected)


@dataclass(frozen=True)
class Hessian(Kernel):
    """Of the mean loss of a `LinearDenoiser`, undamped."""

    second_moments: Tensor

    def state(self) -> dict[str, Tensor]:
        return {"second_moments": self.second_moments}

    def solve(self, gradients: Tensor) -> Tensor:
        rows = gradients.double().unflatten(1, (4, 5))
        return torch.linalg.solve(2 * self.second_moments, rows, left=False).flatten(1).to(gradients)


def test_with_the_exact_curvature_it_is_the_derivative_of_retraining(monkeypatch: pytest.MonkeyPatch) -> None:
    """A least squares fit with a group's weight lowered by a thousandth, times a thousand."""
    full = FullModel.of(Linear(0), "denoiser", "scheduler")
    schedule, strata = full.model.schedule, 7
    samples = training_samples(DATA, np.arange(COUNT), conditional=False)
    plan = TimestepPlan.even(schedule, strata, 1)  # of 49 timesteps: strata of the same size
    (noised,) = noised_by_plan(samples, plan, 0, COUNT * strata, schedule, "cpu")
    inputs, targets = features(noised.x_t).double(), noised.noise.flatten(1).double()

    def trained(weights: Tensor) -> Tensor:
        each = weights.repeat_interleave(strata)[:, None]
        return torch.linalg.solve(inputs.T @ (each * inputs), inputs.T @ (each * targets)).T

    def loss(weight: Tensor) -> Tensor:
        (batch,) = noised_by_plan(asked, plan, 0, 64, schedule, "cpu")
        errors = batch.noise.flatten(1).double() - features(batch.x_t).double() @ weight.T
        return errors.square().sum(dim=1).view(2, -1).mean(dim=1)

    def fit(
        model: DiffusionModel, flat: FlatModel, batches: Callable[[], Iterable[NoisedQueries]], damping: float
    ) -> Hessian:
        rows = torch.cat([features(batch.x_t) for batch in batches()]).double()
        return Hessian(rows.T @ rows / len(rows))

    exact = Curvature(fit, lambda state, model, flat, damping: Hessian(state["second_moments"]), 1)  # type: ignore[arg-type]
    monkeypatch.setitem(CURVATURES, "diag", exact)  # type: ignore[arg-type]
    asked = Queries(QUERIES.ids, QUERIES.images)
    weight = full.model.denoiser.weight
    with torch.no_grad():
        weight.copy_(trained(torch.ones(COUNT, dtype=torch.float64)))
    options = {**SHORT, "training_strata": strata, "training_draws": 1, "strata": strata, "draws": 1}
    attributor = GradientInfluence(kernel="diag", groups=GROUPS, **options)
    found = attributor.fit(context(full=full)).score(asked).matrix()
    for column, group in enumerate(GROUPS):
        weights = torch.ones(COUNT, dtype=torch.float64)
        weights[torch.from_numpy(GROUPING.forget(group.split("+")))] -= 1e-3
        rise = (loss(trained(weights)) - loss(weight.double())) * 1e3
        torch.testing.assert_close(found[:, column], rise, rtol=0.02, atol=0.002)


@pytest.mark.parametrize(
    "options", [preset("das"), preset("tracin"), {"kernel": "diag", "normalise": "sample"}]
)
def test_an_interrupted_preparation_goes_on(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guda_lightning.attribution.gradients.stored.SHARD", 5)
    expected, evaluations = scored(**options).matrix(), []
    attributor = GradientInfluence(**{"groups": GROUPS, **SHORT, **options})
    at = Execution(on_evaluations=evaluations.append)
    needed = attributor.fit(context(tmp_path)).preparation()

    class Stop(Exception):
        pass

    save, kept = Parts._save, []

    def stopping(parts: Parts, name: str, tensors: Any) -> None:
        if len(kept) == 1:
            raise Stop
        save(parts, name, tensors)
        kept.append(name)

    with monkeypatch.context() as patched:
        patched.setattr(Parts, "_save", stopping)
        with pytest.raises(Stop):
            attributor.fit(context(tmp_path)).prepare()
    again = attributor.fit(context(tmp_path, execution=at))
    left = again.preparation()
    assert 0 < left < needed
    again.prepare()
    assert sum(evaluations) == left and again.preparation() == 0
    assert attributor.fit(context(tmp_path)).preparation() == 0
    torch.testing.assert_close(again.score(QUERIES).matrix(), expected, rtol=1e-6, atol=0)


def test_features_serve_every_damping_and_what_else_does_not_change_them(tmp_path: Path) -> None:
    scored(tmp_path, **preset("trak"))
    for name, others in (("trak", {"damping": 0.1}), ("relatif", {}), ("trak", {"squared": True})):
        options = {**SHORT, **preset(name), **others}
        assert GradientInfluence(**options).fit(context(tmp_path)).preparation() == 0
    scored(tmp_path, kernel="diag", damping=0.1)
    diagonal = GradientInfluence(**{"groups": GROUPS, **SHORT, "kernel": "diag"})
    assert diagonal.fit(context(tmp_path)).preparation() == 0
    torch.testing.assert_close(scored(tmp_path, kernel="diag").matrix(), scored(kernel="diag").matrix())
    options = {**SHORT, **preset("trak"), "seed": 1}
    assert GradientInfluence(**options).fit(context(tmp_path)).preparation() == 3 * 4 * COUNT


def test_the_order_of_groups_mixes_no_sums(tmp_path: Path) -> None:
    members = {name: GROUPING.forget([name]) for name in ("odd", "many", "few")}
    turned = Grouping(members | {"empty": []}, COUNT)
    assert turned.hash == GROUPING.hash and turned.names != GROUPING.names
    scored(tmp_path)
    fitted = GradientInfluence(**{"groups": GROUPS, **SHORT}).fit(context(tmp_path, grouping=turned))
    torch.testing.assert_close(fitted.score(QUERIES).matrix(), scored().matrix())


def test_ranks_share_parts(tmp_path: Path) -> None:
    made: dict[int, list[str]] = {0: [], 1: []}

    class Fake(Ranks):
        def broadcast(self, value: Any) -> Any:
            return ["a", "b", "c"]

        def all_gather(self, value: Any) -> list[Any]:
            return [value]

    for rank in (1, 0):

        def of(name: str, rank: int = rank) -> dict[str, Tensor]:
            made[rank].append(name)
            return {"x": torch.ones(1)}

        with listening() as heard:
            Parts(tmp_path, {"k": 1}).make(["a", "b", "c"], of, Fake(rank, 2))
    assert made == {0: ["a", "c"], 1: ["b"]}
    # The first rank, which alone notes what a command wrote, knows of all.
    assert [Path(file).stem for file in files_below(tmp_path, heard)] == ["a", "b", "c"]
    assert Parts(tmp_path, {"k": 1}).missing(["a", "b", "c", "d"]) == ["d"]
    assert Parts(tmp_path, {"k": 2}).missing(["a"]) == ["a"]


def test_a_damaged_part_is_computed_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = scored(tmp_path, **preset("tracin")).matrix()
    path = sorted(tmp_path.glob("gradients-*/*.safetensors"))[0]
    whole = path.read_bytes()
    path.write_bytes(b"half")
    notes.begin()
    assert torch.equal(scored(tmp_path, **preset("tracin")).matrix(), before)
    said = "no seal instead of the seal of a file that this version wrote; it is computed again"
    assert f"{path} is damaged: {said}\n" in capsys.readouterr().out
    assert path.read_bytes() == whole


def test_the_record_differs_with_all_that_scores_depend_on() -> None:
    def record(**options: Any) -> ScoreRecord:
        return GradientInfluence(**options).fit(context()).record(QUERIES)

    gram = {"kernel": "gram", "dims": 16}
    different = [
        record(),
        *(record(**one) for one in (
            {"output": "square"}, {"kernel": "diag"}, {"kernel": "diag", "damping": 2.0},
            {"normalise": "timestep"}, {"normalise": "sample"}, gram, {**gram, "dims": 17},
            {**gram, "damping": 2.0}, {**gram, "squared": True}, {**gram, "residual_weight": True},
            {"strata": 5}, {"draws": 3}, {"training_strata": 7}, {"training_draws": 2}, {"seed": 1},
            {"groups": ["few"]},
        )),
    ]  # fmt: skip
    assert len({one.hash for one in different}) == len(different)
    assert record(batch_size=3, name="else") == different[0]
    assert ScoreRecord.from_stored(different[-1].to_stored()) == different[-1]
    assert different[0].kind == "influence" and different[0].group_sizes == {"few": 2, "many": 7, "odd": 6}
    assert {one.name for one in fields(GradientInfluence)} >= set(different[0].details.options)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"damping": 0.0},
            (
                "damping is out of range",
                0.0,
                "damping > 0",
                "take the usual 0.1: a tenth of the mean eigenvalue",
            ),
        ),
        (
            {"damping": 1.0},
            (
                "the kernel none has nothing to damp",
                "damping: 1.0",
                "another kernel, or no damping",
                "leave damping out, or take kernel: diag, ekfac or gram",
            ),
        ),
        ({"batch_size": 0}, ("batch_size is out of range", 0, "batch_size >= 1", "take 64")),
        (
            {"name": "My TRAK"},
            (
                "the name of the method cannot name a file",
                "My TRAK",
                "lower case letters, digits, dots, dashes and underscores",
                "take my-trak",
            ),
        ),
        (
            {"kernel": "gram"},
            (
                "the kernel gram needs a number of dimensions",
                "dims: null",
                "1 to 18918",
                "take dims: 4096, or fewer where there are few training samples",
            ),
        ),
        (
            {"kernel": "gram", "dims": 20_000},
            (
                "dims is out of range",
                20_000,
                "1 <= dims <= 18918",
                "take 4096: memory grows as 24 · dims² bytes",
            ),
        ),
        (
            {"kernel": "diag", "squared": True, "dims": 3},
            (
                "the kernel diag does not have dims and squared",
                "dims: 3, squared: True",
                "kernel: gram, which stores the gradients of single samples",
                "take kernel: gram, or leave it out",
            ),
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], expected: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError, match=message(*expected)):
        GradientInfluence(**options)


def test_what_does_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("guda_lightning.attribution.gradients.influence.MOST_BYTES", 4 * 3 * 32 - 1)
    expected = message(
        "gradients of 3 groups by all weights do not fit into memory",
        "0.0 GiB",
        f"at most {383 / 2**30:g} GiB",
        "score fewer groups at a time (groups: [...]), or take kernel: gram and dims: 4096",
    )
    with pytest.raises(ConfigError, match=expected):
        GradientInfluence(name="tracin").fit(context())
    GradientInfluence(groups=["few"]).fit(context())


def test_a_model_that_is_spread_over_processes_is_refused() -> None:
    mesh: Any = object()
    expected = message(
        "tracin needs all weights on every process",
        "a model that is spread over processes (FSDP)",
        "one device that holds the model and a gradient of it",
        "take another strategy, such as --trainer.strategy ddp",
    )
    with pytest.raises(ConfigError, match=expected):
        GradientInfluence(name="tracin").fit(context(execution=Execution(ranks=Ranks(mesh=mesh))))


@pytest.mark.parametrize("name", ["tracin", "das"])
def test_a_run_is_scored(name: str, finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["attribute", "-c", f"{CONF}/digits.yaml", "-c", f"attribute/{name}.yaml"]
    arguments += ["--run", str(finished_run), "--attributor.init_args.training_strata", "2"]
    arguments += ["--attributor.init_args.strata", "2"]
    if name == "das":
        arguments += ["--attributor.init_args.dims", "32"]
    assert main(arguments) == 0
    path = finished_run / "scores" / f"{name}-0.parquet"
    table = ScoreTable.load(path)
    assert math.isfinite(float(table.matrix().sum())) and table.record.kind == "influence"
    assert list((finished_run / "features").glob("gradients-*/*.safetensors"))
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith(f"attribute: {path} is complete, skipped\n")
