from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from guda_lightning.attribution import (
    AttributionContext,
    CounterfactualAttributor,
    FittedELBOAttributor,
    squared_errors,
)
from guda_lightning.attribution.elbo import scored_groups
from guda_lightning.counterfactuals import CounterfactualRecord, CounterfactualStore
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModel, DiffusionModule, FullModel
from guda_lightning.diffusion.cost import EvaluationCounter
from guda_lightning.distributed.execution import Execution, ignore
from guda_lightning.errors import GroupError, QueryError, StoreError
from guda_lightning.functional.elbo import paired_difference
from guda_lightning.functional.noise import gaussian_noise
from guda_lightning.scores import ScoreTable, Scoring, SquaredErrors
from guda_lightning.scores.kinds import Likelihood
from guda_lightning.storage.provenance import Provenance
from guda_lightning.types import Queries, Weighting
from toys import GROUPS, message, tiny_unet

SCORING = Scoring(strata=4, draws=2)
GROUPING = Grouping({name: range(4 * i, 4 * i + 4) for i, name in enumerate(GROUPS)}, num_samples=12)
QUERIES = Queries(
    ("first", "second", "third"),
    torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1,
)


def full_model(seed: int = 0, timesteps: int = 100) -> FullModel:
    return FullModel.of(DiffusionModule(tiny_unet(seed), DDPMScheduler(num_train_timesteps=timesteps)))


def put(store: CounterfactualStore, group: str, weights: int, full: FullModel, **changes: Any) -> Path:
    values: dict[str, Any] = {
        "operator": "retrack",
        "groups": (group,),
        "seed": 0,
        "hparams": {"steps": 60},
        "full_hash": full.hash,
        "grouping_hash": GROUPING.hash,
        "members_hash": GROUPING.members_hash([group]),
        "schedule_hash": full.model.schedule.hash,
        "history": [],
        "versions": {},
        "seconds": 1.0,
        "steps": 60,
        "network_evaluations": 1,
    }
    return store.save(tiny_unet(weights).state_dict(), CounterfactualRecord(**{**values, **changes}))


@pytest.fixture
def full() -> FullModel:
    return full_model()


@pytest.fixture
def store(tmp_path: Path, full: FullModel) -> CounterfactualStore:
    store = CounterfactualStore(tmp_path / "store")
    for seed, group in enumerate(GROUPS, start=1):
        put(store, group, seed, full)
    return store


def fit(
    store: CounterfactualStore,
    full: FullModel,
    *,
    grouping: Grouping | None = GROUPING,
    cache: Path | None = None,
    on_evaluations: Callable[[int], None] = ignore,
    operator: str = "retrack",
    scoring: Scoring = SCORING,
    **options: Any,
) -> FittedELBOAttributor:
    execution = Execution(on_evaluations=on_evaluations)
    context = AttributionContext(full, grouping=grouping, store=store.root, cache=cache, execution=execution)
    return CounterfactualAttributor(None, operator, scoring, **options).fit(context)


def test_groups_that_mean_the_same_are_scored_once(full: FullModel) -> None:
    first, second, *_ = sorted(GROUPS)
    chosen = [f"{second}+{first}", f"{first}+{second}", second]
    context = AttributionContext(full, grouping=Grouping.from_labels([*GROUPS, *GROUPS]))
    assert scored_groups(context, chosen) == (f"{first}+{second}", second)


def test_scores_follow_from_the_errors_of_each_model(store: CounterfactualStore, full: FullModel) -> None:
    fitted = fit(store, full)
    assert fitted.groups == GROUPS
    table = fitted.score(QUERIES)
    assert (table.queries, table.groups, table.methods) == (QUERIES.ids, GROUPS, ("retrack",))
    schedule, plan = full.model.schedule, SCORING.plan(full.model.schedule)
    (errors, timesteps), *groups = (
        squared_errors(
            DiffusionModel(tiny_unet(seed).to(memory_format=torch.channels_last), schedule, "epsilon"),
            QUERIES,
            SCORING,
        )
        for seed in range(4)
    )
    for weighting in get_args(Weighting):
        chosen = table.select(weighting=weighting)
        for column, (others, _) in enumerate(groups):
            score, stderr = paired_difference(errors, others, timesteps, plan, schedule, weighting)
            assert torch.allclose(chosen.matrix()[:, column], score, rtol=1e-6)
            assert torch.allclose(chosen.stderr_matrix()[:, column], stderr, rtol=1e-6)


def test_errors_are_those_of_a_plain_loop_and_of_networks_of_their_own(
    store: CounterfactualStore, full: FullModel
) -> None:
    fitted = fit(store, full)
    wanted = torch.ones(len(QUERIES), len(GROUPS), dtype=torch.bool)
    of_full, of_groups, timesteps = fitted.measure(QUERIES, SCORING, wanted)
    schedule = full.model.schedule
    for seed, found in enumerate((of_full, *of_groups)):
        network = tiny_unet(seed).eval().requires_grad_(False)
        for query, stratum, draw in np.ndindex(*timesteps.shape):
            t = timesteps[query, stratum, draw]
            noise = gaussian_noise(0, [QUERIES.noise_keys[query]], t[None], torch.tensor([draw]), (1, 8, 8))
            gamma, sigma = schedule.gamma[t].float(), schedule.sigma[t].float()
            x_t = gamma * QUERIES.images[query] + sigma * noise
            expected = (noise - network(x_t, t[None]).sample).double().square().sum()
            assert float(found[query, stratum, draw]) == pytest.approx(float(expected), rel=1e-5)
        # In batches they are those of a network that was never another's, but for the order of sums.
        alone, _ = squared_errors(replace(full.model, denoiser=network), QUERIES, SCORING)
        torch.testing.assert_close(alone, found, rtol=1e-5, atol=0)


def test_an_identical_counterfactual_scores_exactly_zero(tmp_path: Path, full: FullModel) -> None:
    store = CounterfactualStore(tmp_path / "store")
    put(store, "dark", 0, full)
    table = fit(store, full, groups=["dark"]).score(QUERIES)
    assert set(table.to_pandas()["score"]) == {0.0}
    assert set(table.to_pandas()["stderr"]) == {0.0}


def test_the_record_names_models_data_and_noise(store: CounterfactualStore, full: FullModel) -> None:
    fitted = fit(store, full)
    record = fitted.score(QUERIES).record
    assert record == fitted.record(QUERIES)
    assert record.provenance == Provenance(full.hash, full.model.schedule.hash, GROUPING.hash)
    assert record.scoring is not None
    assert record.scoring.plan == SCORING.plan(full.model.schedule).record()
    assert isinstance(record.details, Likelihood)
    assert set(record.details.counterfactuals) == set(GROUPS)
    assert len(set(record.details.counterfactuals.values())) == 3
    assert record.group_sizes == dict.fromkeys(GROUPS, 4)
    other = Queries(QUERIES.ids, QUERIES.images + 0.01)
    assert fitted.record(other).query_hash != record.query_hash


def test_groups_may_be_chosen_and_ordered(store: CounterfactualStore, full: FullModel) -> None:
    fitted = fit(store, full, groups=["noisy", "dark"])
    assert fitted.score(QUERIES).groups == ("noisy", "dark")
    assert fitted.record(QUERIES).group_sizes == {"noisy": 4, "dark": 4}
    with pytest.raises(GroupError, match=r"^unknown group 'nosy'\n"):
        fit(store, full, groups=["nosy"])


def test_without_a_grouping_the_groups_are_those_of_the_store(
    store: CounterfactualStore, full: FullModel
) -> None:
    fitted = fit(store, full, grouping=None)
    assert fitted.groups == tuple(sorted(GROUPS))
    assert not fitted.record(QUERIES).group_sizes


def test_groups_without_samples_need_no_counterfactual(tmp_path: Path, full: FullModel) -> None:
    grouping = Grouping({"dark": range(4), "empty": [], "bright": range(4, 8)}, num_samples=12)
    store = CounterfactualStore(tmp_path / "store")
    for seed, group in enumerate(("dark", "bright"), start=1):
        put(store, group, seed, full, grouping_hash=grouping.hash)
    assert fit(store, full, grouping=grouping).groups == ("dark", "bright")


class Counting:
    """Counts evaluations of every network, whichever copy of it computes."""

    def __init__(self, full: FullModel) -> None:
        self.counter = EvaluationCounter()
        # The attributor's copy of the network keeps the hook, and the hook this counter.
        full.model.denoiser.register_forward_hook(self)

    def __deepcopy__(self, memo: object) -> Counting:
        return self

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: object) -> None:
        self.counter(module, args, output)

    @property
    def since(self) -> int:
        count, self.counter.count = self.counter.count, 0
        return count


PER_MODEL = 3 * 4 * 2


def test_a_cached_score_needs_no_network_evaluation(
    store: CounterfactualStore, full: FullModel, tmp_path: Path
) -> None:
    evaluations = Counting(full)
    told: list[int] = []

    def scored() -> tuple[int, ScoreTable]:
        fitted = fit(store, full, cache=tmp_path / "errors", on_evaluations=told.append)
        return fitted.evaluations(QUERIES), fitted.score(QUERIES)

    announced, first = scored()
    assert announced == evaluations.since == sum(told) == 4 * PER_MODEL
    announced, second = scored()
    assert announced == evaluations.since == 0
    assert second.table.equals(first.table)
    assert second.record == first.record
    # Another operator's counterfactuals still use the full model's errors.
    put(store, "dark", 7, full, operator="neggrad")
    other = fit(store, full, operator="neggrad", groups=["dark"], cache=tmp_path / "errors")
    assert other.evaluations(QUERIES) == PER_MODEL
    other.score(QUERIES)
    assert evaluations.since == PER_MODEL


def test_an_interrupted_scoring_goes_on_where_it_was(
    store: CounterfactualStore, full: FullModel, tmp_path: Path
) -> None:
    whole = fit(store, full).score(QUERIES)
    done = 0

    def interrupt(count: int) -> None:
        nonlocal done
        done += count
        if done > 2 * PER_MODEL:
            raise KeyboardInterrupt

    cache = tmp_path / "errors"
    with pytest.raises(KeyboardInterrupt):
        fit(store, full, cache=cache, on_evaluations=interrupt).score(QUERIES)
    assert len(list(cache.iterdir())) == 2
    evaluations = Counting(full)
    fitted = fit(store, full, cache=cache)
    assert fitted.evaluations(QUERIES) == 2 * PER_MODEL
    assert fitted.score(QUERIES).table.equals(whole.table)
    assert evaluations.since == 2 * PER_MODEL


def test_what_is_damaged_in_a_cache_is_measured_again(
    store: CounterfactualStore, full: FullModel, tmp_path: Path
) -> None:
    cache = tmp_path / "errors"
    fitted = fit(store, full, cache=cache)
    before = fitted.score(QUERIES).to_pandas()
    damaged = sorted(cache.iterdir())[0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-8])
    assert fitted.score(QUERIES).to_pandas().equals(before)
    assert damaged.read_bytes() == whole


def test_other_queries_noise_or_schedules_do_not_share_errors(
    store: CounterfactualStore, full: FullModel, tmp_path: Path
) -> None:
    cache = tmp_path / "errors"
    fit(store, full, cache=cache).score(QUERIES)
    others = Queries(QUERIES.ids, QUERIES.images.flip(0))
    fitted = fit(store, full, cache=cache)
    assert fitted.evaluations(others) == 4 * PER_MODEL
    for scoring in (
        Scoring(seed=4, strata=4),
        Scoring(strata=4, precision="bf16"),
        Scoring(strata=4, draws=3),
    ):
        fitted = fit(store, full, cache=cache, scoring=scoring)
        assert fitted.evaluations(QUERIES) == 4 * 3 * 4 * scoring.draws


def test_no_queries_are_refused(store: CounterfactualStore, full: FullModel) -> None:
    expected = message(
        "there is nothing to score",
        "0 queries",
        "at least one image",
        "run `guda sample`, or pass --queries FILE|FOLDER",
    )
    with pytest.raises(QueryError, match=expected):
        fit(store, full).score(Queries((), torch.zeros(0, 1, 8, 8)))


def test_a_missing_counterfactual_is_refused(store: CounterfactualStore, full: FullModel) -> None:
    for record in store.records():
        if record.groups != ("dark",):
            shutil.rmtree(store.path(record.key))
    expected = message(
        f"counterfactuals are missing in {store.root}",
        "none of operator retrack, seed 0 for bright, noisy",
        "one for each of 3 groups",
        "run guda unlearn with --groups bright,noisy",
    )
    with pytest.raises(StoreError, match=expected):
        fit(store, full)


def test_an_empty_store_is_refused(tmp_path: Path, full: FullModel) -> None:
    expected = message(
        f"no counterfactual in {tmp_path / 'store'} fits",
        "an empty store",
        "operator retrack, seed 0",
        "run guda unlearn with --groups dark,bright,noisy",
    )
    with pytest.raises(StoreError, match=expected):
        fit(CounterfactualStore(tmp_path / "store"), full)


def test_an_incomplete_counterfactual_is_refused(store: CounterfactualStore, full: FullModel) -> None:
    (record,) = (record for record in store.records() if record.groups == ("dark",))
    folder = store.path(record.key)
    (folder / "record.json").write_text((folder / "record.json").read_text()[:100])
    with pytest.raises(StoreError, match=rf"^{folder / 'record.json'} "):
        fit(store, full)


def test_damaged_weights_are_refused(store: CounterfactualStore, full: FullModel) -> None:
    (record,) = (record for record in store.records() if record.groups == ("noisy",))
    file = store.path(record.key) / "model.safetensors"
    written = record.files["model.safetensors"]
    file.unlink()
    expected = message(
        f"{file} is damaged",
        "no such file",
        f"sha256 {written}",
        f"remove {file.parent} and run guda unlearn with --groups noisy",
    )
    with pytest.raises(StoreError, match=expected):
        fit(store, full).score(QUERIES)


@pytest.mark.parametrize(
    ("name", "what"),
    [("full_hash", "full model"), ("grouping_hash", "grouping"), ("schedule_hash", "noise schedule")],
)
def test_a_foreign_counterfactual_is_refused(
    name: str, what: str, store: CounterfactualStore, full: FullModel
) -> None:
    expected_values = {
        "full_hash": full.hash,
        "grouping_hash": GROUPING.hash,
        "schedule_hash": full.model.schedule.hash,
    }
    folder = put(store, "noisy", 3, full, **{name: "0" * 64})
    expected = message(
        f"{folder / 'record.json'}: the counterfactual 'retrack' without noisy (seed 0) "
        f"was made from another {what}",
        f"{name} {'0' * 64}",
        f"{name} {expected_values[name]}",
        f"use the {what} it was made from, or remove {folder} and run guda unlearn with --groups noisy",
    )
    with pytest.raises(StoreError, match=expected):
        fit(store, full)


def test_todays_models_and_groups_are_compared(store: CounterfactualStore, full: FullModel) -> None:
    other_grouping = Grouping({name: GROUPING.forget([name])[:3] for name in GROUPS}, num_samples=12)
    for changed, grouping, what in (
        (full_model(seed=9), GROUPING, "full model"),
        (full_model(timesteps=99), GROUPING, "noise schedule"),
        (full, other_grouping, "grouping"),
    ):
        with pytest.raises(StoreError, match=rf"was made from another {what}\n"):
            fit(store, changed, grouping=grouping)


def test_two_kinds_of_counterfactuals_need_a_choice(store: CounterfactualStore, full: FullModel) -> None:
    for seed, group in enumerate(GROUPS, start=4):
        put(store, group, seed, full, hparams={"steps": 90})
    with pytest.raises(StoreError, match=r"several sets of hyper-parameters"):
        fit(store, full)
    (digest,) = {record.hparams_hash for record in store.records() if record.hparams == {"steps": 90}}
    chosen = fit(store, full, hparams=digest[:6])
    assert chosen.record(QUERIES).details.counterfactuals == {
        record.groups[0]: record.files["model.safetensors"]
        for record in store.records()
        if record.hparams == {"steps": 90}
    }


def test_errors_in_the_cache_say_what_they_are(
    store: CounterfactualStore, full: FullModel, tmp_path: Path
) -> None:
    cache = tmp_path / "errors"
    fitted = fit(store, full, cache=cache)
    fitted.score(QUERIES)
    models = set()
    for path in cache.iterdir():
        errors = SquaredErrors.load(path, expect={"query_hash": fitted.record(QUERIES).query_hash})
        assert errors.query_ids == QUERIES.ids
        models.add(errors.record["model"])
    assert models == {full.hash, *fitted.record(QUERIES).details.counterfactuals.values()}
