"""The attributor of counterfactuals on a real store."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from guda_lightning.attribution import CounterfactualAttributor, Scoring
from guda_lightning.counterfactuals import CounterfactualRecord, CounterfactualStore, versions
from guda_lightning.diffusion import DiffusionModule, FullModel
from guda_lightning.diffusion.cost import counting
from guda_lightning.errors import QueryError, StoreError
from guda_lightning.functional.elbo import paired_difference
from guda_lightning.functional.noise import gaussian_noise
from guda_lightning.grouping import Grouping
from guda_lightning.scores import ScoreTable
from guda_lightning.types import Queries
from toys import tiny_unet

GROUPING = Grouping({"a": [0, 1], "b": [2], "empty": []}, 4)
SCORING = Scoring(strata=5, draws=2, batch_size=8)


def full_model(seed: int = 0, timesteps: int = 100) -> FullModel:
    return FullModel.of(DiffusionModule(tiny_unet(seed), DDPMScheduler(num_train_timesteps=timesteps)))


def queries(count: int = 3) -> Queries:
    images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return Queries(tuple(f"q{i}" for i in range(count)), images)


def store_all(
    folder: Path, full: FullModel, grouping: Grouping = GROUPING, **changes: Any
) -> CounterfactualStore:
    store = CounterfactualStore(folder)
    for seed, group in enumerate(("a", "b"), start=1):
        record = CounterfactualRecord(
            operator="retrack",
            groups=(group,),
            seed=0,
            hparams={"steps": 1},
            full_hash=full.hash,
            grouping_hash=grouping.hash,
            members_hash=grouping.members_hash([group]),
            schedule_hash=full.model.schedule.hash,
            history=[],
            versions=versions(),
            seconds=0.0,
            steps=1,
            network_evaluations=0,
        )
        store.save(tiny_unet(seed).state_dict(), record)
    return store


def attributor(folder: Path, **arguments: Any) -> CounterfactualAttributor:
    return CounterfactualAttributor(folder, "retrack", SCORING, **arguments)


def test_scores_are_those_of_the_two_networks(tmp_path: Path) -> None:
    full, some = full_model(), queries()
    store_all(tmp_path, full)
    untouched = copy.deepcopy(full.model.denoiser.state_dict())
    table = attributor(tmp_path).fit(full, None, GROUPING).score(some)
    assert all(torch.equal(untouched[k], v) for k, v in full.model.denoiser.state_dict().items())
    assert table.groups == ("a", "b")  # a group without samples has no counterfactual
    # By hand: one query, one timestep and one draw at a time.
    schedule, plan = full.model.schedule, SCORING.plan(full.model.schedule)
    timesteps = plan.draw(0, some.ids)
    networks = {"full": tiny_unet(0), "a": tiny_unet(1), "b": tiny_unet(2)}
    errors = {name: torch.zeros(timesteps.shape, dtype=torch.float64) for name in networks}
    for name, network in networks.items():
        for q, s, r in torch.cartesian_prod(*(torch.arange(n) for n in timesteps.shape)).tolist():
            t = timesteps[q, s, r].view(1)
            noise = gaussian_noise(0, [some.ids[q]], t, torch.tensor([r]), (1, 8, 8))
            x_t = schedule.gamma[t] * some.images[q : q + 1] + schedule.sigma[t] * noise
            with torch.no_grad():
                predicted = network.eval()(x_t.float(), t).sample
            errors[name][q, s, r] = (noise - predicted).square().sum()
    for column, group in enumerate(("a", "b")):
        for weighting in ("elbo", "uniform"):
            score, stderr = paired_difference(
                errors["full"],
                errors[group],
                timesteps,
                plan,
                schedule,
                weighting,  # type: ignore[arg-type]
            )
            chosen = table.select(weighting=weighting)
            assert torch.allclose(chosen.matrix()[:, column], score, rtol=1e-4)
            assert torch.allclose(chosen.stderr_matrix()[:, column], stderr, rtol=1e-3)


def test_what_is_cached_is_not_evaluated_again(tmp_path: Path) -> None:
    full, some = full_model(), queries()
    store_all(tmp_path / "store", full)
    cache = tmp_path / "errors"

    def scored(stop_after: int | None = None) -> tuple[ScoreTable | None, int]:
        done = 0

        def on_batch(evaluations: int) -> None:
            nonlocal done
            done += evaluations
            if stop_after is not None and done >= stop_after:
                raise KeyboardInterrupt

        ready = attributor(tmp_path / "store", cache=cache, on_batch=on_batch).fit(full, None, GROUPING)
        promised = ready.evaluations(some)
        try:
            table = ready.score(some)
        except KeyboardInterrupt:
            return None, done
        assert done == promised
        return table, done

    everything = len(some) * SCORING.strata * SCORING.draws * 3
    assert scored(stop_after=everything // 2)[0] is None  # interrupted in the second of three models
    resumed, evaluations = scored()
    assert evaluations == everything * 2 // 3  # the first model was complete
    again, none = scored()
    assert none == 0
    whole = attributor(tmp_path / "store").fit(full, None, GROUPING).score(some)
    assert resumed is not None and again is not None
    assert resumed.table.equals(whole.table) and again.table.equals(whole.table)


def test_the_full_model_serves_every_method(tmp_path: Path) -> None:
    full, some = full_model(), queries()
    store_all(tmp_path / "store", full)
    attributor(tmp_path / "store", cache=tmp_path / "errors", groups=["a"]).fit(full, None, GROUPING).score(
        some
    )
    other = attributor(tmp_path / "store", cache=tmp_path / "errors").fit(full, None, GROUPING)
    assert other.evaluations(some) == len(some) * SCORING.strata * SCORING.draws  # of b alone


def test_it_never_evaluates_the_network_that_it_was_given(tmp_path: Path) -> None:
    full = full_model()
    store_all(tmp_path, full)
    with counting(full.model.denoiser) as evaluations:
        attributor(tmp_path).fit(full, None, GROUPING).score(queries())
    assert evaluations.count == 0


@pytest.mark.parametrize(
    ("full", "grouping", "what"),
    [
        (full_model(seed=5), GROUPING, "full model"),
        (full_model(), Grouping({"a": [0, 3], "b": [2]}, 4), "grouping"),
        (full_model(timesteps=120), GROUPING, "noise schedule"),
    ],
)
def test_foreign_counterfactuals_are_refused(
    tmp_path: Path, full: FullModel, grouping: Grouping, what: str
) -> None:
    store_all(tmp_path, full_model())
    field = {"full model": "full_hash", "grouping": "grouping_hash", "noise schedule": "schedule_hash"}[what]
    values = {
        "full_hash": (full_model().hash, full.hash),
        "grouping_hash": (GROUPING.hash, grouping.hash),
        "schedule_hash": (full_model().model.schedule.hash, full.model.schedule.hash),
    }
    with pytest.raises(StoreError) as error:
        attributor(tmp_path).fit(full, None, grouping)
    assert f"was made from another {what}" in error.value.problem
    assert error.value.found == f"{field} {values[field][0]}"
    assert error.value.expected == f"{field} {values[field][1]}"
    assert "guda unlearn" in error.value.fix


def test_missing_counterfactuals_are_named(tmp_path: Path) -> None:
    full = full_model()
    grouping = Grouping({"a": [0, 1], "b": [2], "c": [3]}, 5)
    store_all(tmp_path, full, grouping)
    with pytest.raises(StoreError, match="none of operator retrack, seed 0 for c"):
        attributor(tmp_path).fit(full, None, grouping)
    with pytest.raises(StoreError, match=r"no counterfactual in .* fits\n  found:    an empty store"):
        attributor(tmp_path / "nowhere").fit(full, None, grouping)


def test_no_queries_are_refused(tmp_path: Path) -> None:
    full = full_model()
    store_all(tmp_path, full)
    with pytest.raises(QueryError, match=r"^there is nothing to score\n  found:    0 queries"):
        attributor(tmp_path).fit(full, None, GROUPING).score(Queries((), torch.zeros(0, 1, 8, 8)))
