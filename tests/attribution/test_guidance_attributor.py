from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler

from guda_lightning.attribution import AttributionContext, GuidanceAttributor, squared_errors
from guda_lightning.counterfactuals import CounterfactualStore
from guda_lightning.diffusion import DiffusionModule, FullModel
from guda_lightning.distributed.execution import Execution
from guda_lightning.errors import GroupError, StoreError
from guda_lightning.functional.elbo import paired_difference
from guda_lightning.posteriors import PosteriorStore, guided, open_posterior
from guda_lightning.scores import Scoring
from toys import GROUPS, gray_queries, shades, tiny_unet

SCORING = Scoring(strata=4, draws=2, batch_size=7)
QUERIES = gray_queries("first", "second")
DATA = shades()


@pytest.fixture
def full(guided_full: FullModel) -> FullModel:
    return guided_full


@pytest.fixture
def store(guidance_store: CounterfactualStore) -> CounterfactualStore:
    return guidance_store


def test_scores_are_those_of_the_guided_models(store: CounterfactualStore, full: FullModel) -> None:
    fitted = GuidanceAttributor(store.root, SCORING).fit(AttributionContext(full, grouping=DATA.grouping))
    assert fitted.groups == GROUPS
    table = fitted.score(QUERIES).select(weighting="elbo")
    posterior, _ = open_posterior(PosteriorStore(store.root), "guidance", full.model.schedule, seed=0)
    of_full, timesteps = squared_errors(full.model, QUERIES, SCORING)
    plan, schedule = SCORING.plan(full.model.schedule), full.model.schedule
    for column, group in enumerate(GROUPS):
        of_guided, _ = squared_errors(guided(full.model, posterior, [group]), QUERIES, SCORING)
        score, stderr = paired_difference(of_full, of_guided, timesteps, plan, schedule, "elbo")
        torch.testing.assert_close(table.matrix()[:, column], score, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(table.stderr_matrix()[:, column], stderr, atol=1e-4, rtol=1e-4)
    assert table.record.group_sizes == dict.fromkeys(GROUPS, 16)


def test_one_pass_of_the_full_model_serves_all_groups(
    store: CounterfactualStore, full: FullModel, tmp_path: Path
) -> None:
    spent: list[int] = []
    context = AttributionContext(
        full,
        grouping=DATA.grouping,
        store=store.root,
        cache=tmp_path / "errors",
        execution=Execution(on_evaluations=spent.append),
    )
    fitted = GuidanceAttributor(scoring=SCORING).fit(context)
    assert fitted.evaluations(QUERIES) == 2 * 8
    table = fitted.score(QUERIES)
    assert sum(spent) == 2 * 8
    assert len(list((tmp_path / "errors").iterdir())) == 1 + len(GROUPS)
    assert fitted.evaluations(QUERIES) == 0
    again = fitted.score(QUERIES)
    assert sum(spent) == 2 * 8  # nothing was computed again
    assert torch.equal(again.select(weighting="elbo").matrix(), table.select(weighting="elbo").matrix())


def test_scores_do_not_depend_on_the_batch_size(store: CounterfactualStore, full: FullModel) -> None:
    one, other = (
        GuidanceAttributor(store.root, Scoring(strata=4, draws=2, batch_size=size))
        .fit(AttributionContext(full))
        .score(QUERIES)
        .select(weighting="elbo")
        .matrix()
        for size in (1, 64)
    )
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_the_full_model_is_left_as_it_was(store: CounterfactualStore, full: FullModel) -> None:
    full.model.denoiser.train()
    GuidanceAttributor(store.root, SCORING).fit(AttributionContext(full)).score(QUERIES)
    assert full.model.denoiser.training
    assert all(parameter.requires_grad for parameter in full.model.denoiser.parameters())


def test_a_classifier_of_another_full_model_is_refused(store: CounterfactualStore) -> None:
    other = FullModel.of(DiffusionModule(tiny_unet(5), DDPMScheduler(num_train_timesteps=100)))
    with pytest.raises(StoreError, match="was made from another full model"):
        GuidanceAttributor(store.root, SCORING).fit(AttributionContext(other, grouping=DATA.grouping))


def test_an_unknown_group_is_refused(store: CounterfactualStore, full: FullModel) -> None:
    with pytest.raises(GroupError, match="unknown group 'brihgt'"):
        GuidanceAttributor(store.root, SCORING, groups=["brihgt"]).fit(
            AttributionContext(full, grouping=DATA.grouping)
        )
