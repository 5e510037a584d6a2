"""Scores by an ensemble of members that each miss some groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import get_args

import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

from guda_lightning.attribution import AblationEnsemble, AttributionContext, CounterfactualAttributor
from guda_lightning.counterfactuals import CounterfactualKey, CounterfactualRecord, CounterfactualStore
from guda_lightning.counterfactuals.ensemble import EnsemblePlan
from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModule, FullModel
from guda_lightning.errors import ConfigError, GroupError, StoreError
from guda_lightning.functional.ablation import OF_MEMBERS
from guda_lightning.scores import Scoring
from guda_lightning.scores.kinds import Ensemble
from guda_lightning.storage.files import sha256_json
from guda_lightning.types import Queries, Weighting
from toys import GROUPS, GaussianDenoiser, gray_queries, message, shades, tiny_full, tiny_unet

SPREAD, PIXELS = 0.3, 64
SCORING = Scoring(strata=5, draws=2)


@pytest.fixture(scope="module")
def data() -> GroupDataModule:
    return shades()


@pytest.fixture(scope="module")
def full() -> FullModel:
    return tiny_full(timesteps=50)


def save_members(
    folder: Path,
    full: FullModel,
    data: GroupDataModule,
    plan: EnsemblePlan,
    networks: Sequence[nn.Module],
    **other: object,
) -> None:
    """A store whose members are these networks, of these other hyper-parameters."""
    store, hparams = CounterfactualStore(folder), {"paired": False, **other}
    for groups, network in zip(plan.removed, networks, strict=False):
        key = CounterfactualKey("retrain", groups, plan.seed, sha256_json(hparams))
        made_from, members = full.provenance(data.grouping.hash), data.grouping.members_hash(groups)
        spent = {"seconds": 1.0, "steps": 1, "network_evaluations": 1}
        record = CounterfactualRecord.of(key, hparams, made_from, members_hash=members, **spent)
        store.save(network.state_dict(), record)


def quarters(data: GroupDataModule, parts: int = 2) -> GroupDataModule:
    """The same images, every group in parts."""
    every = {
        f"{name}{part}": [index for index in data.grouping.forget((name,)) if index % parts == part]
        for name in GROUPS
        for part in range(parts)
    }
    return data.regrouped(Grouping(every, data.grouping.num_samples))


def test_gaussian_members_have_the_scores_that_follow_on_paper(data: GroupDataModule, tmp_path: Path) -> None:
    """The mean of ideal denoisers of Gaussians around μ_j is that of a Gaussian around the mean of the μ_j.

    With c = σ/(γ²s² + σ²) its expected error is ``d (1 − cσ)² + (cγ)² ‖x_0 − μ̄‖²``; the first term cancels.
    """
    module = DiffusionModule(nn.Identity(), DDPMScheduler(num_train_timesteps=100))
    schedule = FullModel.of(module).model.schedule
    module.denoiser = GaussianDenoiser(schedule, torch.zeros(1, 8, 8), SPREAD)
    full, split = FullModel.of(module), quarters(data)
    plan = EnsemblePlan.of(split.grouping.names, 4, 0)
    means = (-0.9, -0.2, 0.3, 0.6)
    networks = [GaussianDenoiser(schedule, torch.full((1, 8, 8), mean), SPREAD) for mean in means]
    save_members(tmp_path, full, split, plan, networks)
    queries = Queries(("low", "high"), torch.stack([torch.full((1, 8, 8), x) for x in (-0.8, 0.7)]))
    scoring = Scoring(strata=99, draws=8)
    context = AttributionContext(full, split, store=tmp_path)
    table = AblationEnsemble(members=4, scoring=scoring).fit(context).score(queries)

    t = schedule.scored_timesteps
    gamma, sigma, weights = schedule.gamma[t], schedule.sigma[t], schedule.kl_weights[t]
    factor = (weights * (sigma * gamma / (gamma**2 * SPREAD**2 + sigma**2)) ** 2).sum() * PIXELS

    def far(x: float, members: Sequence[int]) -> float:
        return (x - sum(means[member] for member in members) / len(members)) ** 2

    expected = torch.zeros(2, len(table.groups), dtype=torch.float64)
    for row, x in enumerate((-0.8, 0.7)):
        halves = [far(x, half) for half in combinations(range(4), 2)]
        for column, group in enumerate(table.groups):
            unseen = plan.unseen((group,))
            assert len(unseen) == 2 and all(group in plan.removed[member] for member in unseen)
            expected[row, column] = factor * (far(x, unseen) - sum(halves) / 6)
    found = table.select(weighting="elbo").matrix()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.05 * float(expected.abs().max()))
    assert expected.abs().max() > 10


def test_members_without_one_group_each_score_as_retrained_models_do(
    full: FullModel, data: GroupDataModule, tmp_path: Path
) -> None:
    plan = EnsemblePlan.of(GROUPS, None, 0, one_each=True)
    networks = [tiny_unet(seed) for seed in (1, 2, 3)]
    save_members(tmp_path, full, data, plan, networks)
    context, queries = AttributionContext(full, data, store=tmp_path), gray_queries("a", "b", "c")
    ensemble = AblationEnsemble(leave_one_out=True, scoring=SCORING).fit(context)
    retrained = CounterfactualAttributor(operator="retrain", scoring=SCORING).fit(context)
    wanted = torch.ones(3, len(GROUPS), dtype=torch.bool)
    mean, of_members, timesteps = ensemble.measure(queries, SCORING, wanted)
    _, of_models, same = retrained.measure(queries, SCORING, wanted)
    assert timesteps.equal(same)
    torch.testing.assert_close(of_members, of_models, rtol=1e-12, atol=0)
    torch.testing.assert_close(mean, of_models.mean(dim=0), rtol=1e-12, atol=0)
    # Scores differ by one number a query: ELBO(full) less the mean ELBO of the models.
    found, expected = (one.score(queries).select(weighting="elbo").matrix() for one in (ensemble, retrained))
    found, expected = (one - one.mean(dim=1, keepdim=True) for one in (found, expected))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    assert ensemble.record(queries).scoring.stderr == "within strata"  # one member says nothing of others


def test_coalitions_and_groups_follow_from_one_pass_of_each_member(
    full: FullModel, data: GroupDataModule, tmp_path: Path
) -> None:
    split = quarters(data)
    plan = EnsemblePlan.of(split.grouping.names, 6, 3)
    save_members(tmp_path / "store", full, split, plan, [tiny_unet(seed) for seed in range(1, 7)])
    counted: list[int] = []
    context = AttributionContext(full, split, store=tmp_path / "store", cache=tmp_path / "errors")
    context = replace(context, execution=replace(context.execution, on_evaluations=counted.append))
    pair = next(
        (one, other)
        for one, other in combinations(plan.groups, 2)
        if len(set(plan.unseen((one,))) & set(plan.unseen((other,)))) == 2
    )
    ensemble = AblationEnsemble(members=6, seed=3, scoring=SCORING)
    both = replace(ensemble, groups=[*plan.groups, "+".join(pair)]).fit(context)
    queries = gray_queries("a", "b")
    assert both.evaluations(queries) == 6 * 2 * 10
    table = both.score(queries)
    assert sum(counted) == 6 * 2 * 10 and both.evaluations(queries) == 0

    # A coalition by itself has the same score beside groups of more members as alone.
    alone = replace(ensemble, groups=["+".join(pair)]).fit(context).score(queries).select(weighting="elbo")
    column = table.groups.index("+".join(pair))
    torch.testing.assert_close(alone.matrix()[:, 0], table.select(weighting="elbo").matrix()[:, column])
    assert sum(counted) == 6 * 2 * 10  # from what was kept of the pairs

    # Standard errors cover the members: those of the noise alone are smaller.
    noise = AblationEnsemble(members=6, seed=3, scoring=SCORING).fit(context)
    errors = noise._all_errors(queries)
    record = noise.record(queries)
    assert record.scoring is not None and record.scoring.stderr == f"within strata, and {OF_MEMBERS}"
    tables = noise._table(errors, record), noise.score(queries)
    of_noise, of_both = (table.select(weighting="uniform") for table in tables)
    assert of_noise.matrix().equal(of_both.matrix())
    assert (of_both.table["stderr"].to_numpy() > of_noise.table["stderr"].to_numpy()).all()
    assert isinstance(noise.details, Ensemble) and len(noise.made()) == 6
    assert noise.score(queries).notes == (
        "ensemble: these scores attribute the mean of an ensemble, not the full model: 3 of 6 members that "
        "never saw a group against as many at random. They are relative to the other groups: their order "
        "counts, and no sign",
    )
    assert not noise.details.sized and noise.details.weightings == get_args(Weighting)


# refused


def test_members_that_are_not_there_are_refused(
    full: FullModel, data: GroupDataModule, tmp_path: Path
) -> None:
    plan = EnsemblePlan.of(GROUPS, None, 0)
    save_members(tmp_path, full, data, plan, [tiny_unet(seed) for seed in range(6)])
    context = AttributionContext(full, data, store=tmp_path)
    assert AblationEnsemble().fit(context).groups == GROUPS  # the fewest that serve
    store = CounterfactualStore(tmp_path)
    (tmp_path / plan.keys(store)[2].folder_name / "record.json").unlink()
    expected = message(
        f"members of the ensemble are missing in {tmp_path}",
        "5 of 6 members of seed 0",
        "a member without each of 6 sets of groups",
        "run guda ensemble with the same members, seed and leave_one_out",
    )
    with pytest.raises(StoreError, match=expected):
        AblationEnsemble().fit(context)


def test_members_of_several_hyper_parameters_are_told_apart(
    full: FullModel, data: GroupDataModule, tmp_path: Path
) -> None:
    plan, networks = EnsemblePlan.of(GROUPS, None, 0), [tiny_unet(seed) for seed in range(6)]
    save_members(tmp_path, full, data, plan, networks)
    save_members(tmp_path, full, data, plan, networks[:2], steps=9)  # more of them were about to be trained
    first, second = (sha256_json({"paired": False, **other}) for other in ({}, {"steps": 9}))
    context, root = AttributionContext(full, data, store=tmp_path), tmp_path
    told = {first: f"{first[:8]} (6 groups: steps=unset)", second: f"{second[:8]} (2 groups: steps=9)"}
    expected = message(
        f"members in {root} were made with several sets of hyper-parameters",
        "; ".join(told[digest] for digest in sorted(told)),
        "one set of hyper-parameters",
        "pass --attributor.init_args.hparams with the first digits of one hash",
    )
    with pytest.raises(StoreError, match=expected):
        AblationEnsemble().fit(context)
    assert AblationEnsemble(hparams=first[:6]).fit(context).details.hparams_hash == first
    for hparams, count in ((second[:6], 2), ("none", 0)):
        expected = message(
            f"members of the ensemble are missing in {root}",
            f"{count} of 6 members of seed 0, hyper-parameters {hparams}",
            "a member without each of 6 sets of groups",
            "run guda ensemble with the same members, seed and leave_one_out, or correct hparams",
        )
        with pytest.raises(StoreError, match=expected):
            AblationEnsemble(hparams=hparams).fit(context)


def test_coalitions_that_every_member_saw_are_refused(
    full: FullModel, data: GroupDataModule, tmp_path: Path
) -> None:
    plan = EnsemblePlan.of(GROUPS, 4, 0)
    save_members(tmp_path, full, data, plan, [tiny_unet(seed) for seed in range(4)])
    pairs = combinations(range(3), 2)  # of two groups, whose codes are complements, no member saw neither
    one, other = (
        plan.groups[row] for row in next(pair for pair in pairs if plan.codes[[*pair]].any(0).all())
    )
    expected = message(
        f"too few members of the ensemble saw none of {one}+{other}",
        "0 of 4 members",
        "at least 2, for a standard error",
        "score fewer groups together, or make an ensemble of more members, or of another seed",
    )
    with pytest.raises(GroupError, match=expected):
        AblationEnsemble(members=4, groups=[f"{one}+{other}"]).fit(
            AttributionContext(full, data, store=tmp_path)
        )
    expected = message(
        "members that leave one group out are as many as groups",
        "4 members, 3 groups",
        "one member a group",
        "leave out members, or leave_one_out",
    )
    with pytest.raises(ConfigError, match=expected):
        EnsemblePlan.of(GROUPS, 4, 0, one_each=True)


def test_an_ensemble_without_groups_is_refused(full: FullModel, tmp_path: Path) -> None:
    expected = message(
        "an ensemble needs the groups of the training data",
        "no groups",
        "the datamodule of the training data, or its grouping",
        "pass AttributionContext(data=datamodule)",
    )
    with pytest.raises(ConfigError, match=expected):
        AblationEnsemble().fit(AttributionContext(full, store=tmp_path))
