"""A trained classifier under other groups: what stays is exact, what is new is learnt and tested."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from guda_lightning.data import GroupDataModule, HeldOutDataModule, ImageTable, Source
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.errors import GroupError
from guda_lightning.functional.class_moments import ClassMoments
from guda_lightning.functional.prediction import add_noise
from guda_lightning.posteriors import ClassifierPlan, GroupClassifier
from guda_lightning.posteriors.feature_moments import hashed, level_features, seen_rows, split_moments
from guda_lightning.posteriors.held_out import HeldOut
from guda_lightning.posteriors.recalibration import Recalibrated, recalibrate
from guda_lightning.posteriors.regrouped import Regrouped
from guda_lightning.posteriors.tempering import NoiseLevel
from guda_lightning.posteriors.trained import TrainedClassifier, explained
from toys import GROUPS, Shades, message, quiet_trainer, shades

SCHEDULE = noise_schedule(DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2"))
FULL = DiffusionModel(nn.Identity(), SCHEDULE, "epsilon")
PLAN = ClassifierPlan(channels=(), width=16, features=8, steps=150, lr=5e-3, batch_size=32, held_out=0.25)
PER_GROUP = 40


@dataclass(frozen=True)
class Without(Source):
    """Shades without one of them."""

    group: str

    def load(self) -> ImageTable:
        table = Shades(PER_GROUP).load()
        rows = [row for row, label in enumerate(table.labels or ()) if label != self.group]
        return ImageTable(
            tuple(table.ids[row] for row in rows),
            lambda index: table.read(rows[index]),
            tuple((table.labels or ())[row] for row in rows),
            tuple(name for name in GROUPS if name != self.group),
        )


@cache
def trained(without: str | None = None) -> tuple[TrainedClassifier, GroupClassifier]:
    data = shades(PER_GROUP) if without is None else GroupDataModule(Without(without), batch_size=8)
    module = GroupClassifier(PLAN, data, FULL)
    held_out = HeldOutDataModule(data, PLAN.held_out, PLAN.batch_size, seed=0)
    quiet_trainer(Path("unused"), max_steps=PLAN.steps).fit(module, datamodule=held_out)
    module.calibrate(held_out)
    module.take_moments(held_out)
    assert module.moments is not None
    _, moments = split_moments({"head": torch.zeros(1), **module.moments.to_tensors()})
    assert moments is not None
    record = _record(module.levels)
    return TrainedClassifier(posterior=module.posterior, record=record, moments=moments), module


def under(data: GroupDataModule, base: TrainedClassifier) -> tuple[Regrouped, Recalibrated]:
    to = Regrouped.of(base.moments, data, seed=0)
    return to, recalibrate(base, data, to, seed=0)


def noised(count: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 1, 8, 8, generator=generator), torch.randint(5, 90, (count,))


def test_moments_are_those_of_the_features_of_every_class() -> None:
    base, module = trained()
    data = shades(PER_GROUP)
    held_out = HeldOutDataModule(data, PLAN.held_out, PLAN.batch_size, seed=0)
    samples = HeldOut.of(held_out, module.atom, SCHEDULE, False, None)
    features = level_features(samples, module.kept, SCHEDULE, 4, seed=0)
    assert features.shape == (10, 4 * 30, 8)
    expected = ClassMoments.of(features, samples.atom.repeat_interleave(4), 3)
    found = base.moments.tested
    torch.testing.assert_close(found.mean, expected.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.scatter, expected.scatter, atol=1e-2, rtol=1e-4)
    assert base.moments.trained.count.tolist() == (4 * torch.bincount(module.atom[held_out.kept])).tolist()
    assert base.moments.sample.tolist() == hashed(data).tolist()
    assert base.moments.held_out.nonzero()[:, 0].tolist() == held_out.held_out.tolist()


def test_of_many_samples_as_few_of_every_class_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    atom = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)
    assert seen_rows(atom).tolist() == list(range(73))
    monkeypatch.setattr("guda_lightning.posteriors.feature_moments.SEEN", 15)
    rows = seen_rows(atom)
    assert torch.bincount(atom[rows]).tolist() == [6, 3, 6]
    assert rows.tolist() == sorted(set(rows.tolist()))


def test_a_group_that_is_removed_drops_its_rows_and_nothing_else() -> None:
    base, _ = trained()
    data = GroupDataModule(Without("bright"), batch_size=8)
    to, found = under(data, base)
    assert (to.new, len(to.fresh), found.evaluations) == (0, 0, 0)
    x, timesteps = noised()
    left = [row for row, name in enumerate(base.posterior.groups) if name != "bright"]
    kept = [int(base.posterior.atoms[:, row].nonzero()[0, 0]) for row in left]
    order = [int(found.posterior.atoms[:, row].nonzero()[0, 0]) for row in range(2)]
    assert found.posterior.groups == ("dark", "noisy")
    expected = base.posterior.logits(x, timesteps)[:, kept].softmax(dim=1)
    torch.testing.assert_close(found.posterior.logits(x, timesteps)[:, order].softmax(dim=1), expected)
    assert torch.equal(found.posterior.temperatures, base.posterior.temperatures)
    assert found.levels[0].accuracy > 0.9 > found.levels[-1].accuracy


def test_groups_that_are_merged_add_up() -> None:
    base, _ = trained()
    data = shades(PER_GROUP)
    members = {name: np.arange(row * PER_GROUP, (row + 1) * PER_GROUP) for row, name in enumerate(GROUPS)}
    plain = {"plain": np.concatenate([members["dark"], members["bright"]]), "noisy": members["noisy"]}
    to, found = under(data.regrouped(Grouping(plain, 3 * PER_GROUP)), base)
    assert (to.new, len(to.kept)) == (0, 3)
    assert (found.levels, found.explained) == (base.levels, base.explained)
    x, timesteps = noised()
    both = base.posterior.corrections(x, timesteps)(base.posterior.removed([["dark", "bright"]]))
    one = found.posterior.corrections(x, timesteps)(found.posterior.removed([["plain"]]))
    torch.testing.assert_close(one, both)


def test_a_group_is_added_from_its_own_images_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    base, _ = trained("bright")
    data = shades(PER_GROUP)
    looked_at: list[int] = []
    seen = GroupDataModule.seen_inputs

    def recorded(self: GroupDataModule, indices: Any) -> Tensor:
        looked_at.extend(indices.tolist())
        return seen(self, indices)

    monkeypatch.setattr(GroupDataModule, "seen_inputs", recorded)
    to, found = under(data, base)
    assert set(looked_at) == set(range(PER_GROUP, 2 * PER_GROUP)) == set(to.fresh.tolist())
    assert (to.new, int(to.held_out.sum()), to.sizes.tolist()) == (1, 4, [40, 40, 40])
    assert found.levels[0].accuracy > 0.9  # hardly any noise: dark, bright and noisy are easy to tell
    assert found.levels[-1].accuracy < 0.7  # nothing but noise
    assert found.explained > base.explained - 0.1
    # Of the groups that were there, it says relative to each other what was said.
    x, timesteps = noised()
    old, new = (one.posterior.network(*_inputs(x, timesteps)) for one in (base, found))
    torch.testing.assert_close(new[:, 0] - new[:, 1], old[:, 0] - old[:, 1], atol=1e-4, rtol=1e-4)
    # On real images that nobody was trained on, the new group is told from the others.
    fresh = data.seen_inputs(to.fresh[to.held_out.numpy()])
    probability = found.posterior.logits(fresh, torch.full((4,), 2)).softmax(dim=1)
    assert float(probability[:, 2].min()) > 0.5
    # What was made can be given other groups in turn: here, those of before.
    again = TrainedClassifier(posterior=found.posterior, record=_record(found.levels), moments=found.moments)
    back, undone = under(GroupDataModule(Without("bright"), batch_size=8), again)
    assert back.new == 0
    torch.testing.assert_close(undone.posterior.network.head.weight, base.posterior.network.head.weight)


def test_a_group_is_split_and_its_samples_are_told_apart_anew() -> None:
    base, _ = trained()
    data = shades(PER_GROUP)
    members = {name: np.arange(row * PER_GROUP, (row + 1) * PER_GROUP) for row, name in enumerate(GROUPS)}
    dark = members.pop("dark")
    halves = {"a": dark[: PER_GROUP // 2], "b": dark[PER_GROUP // 2 :], **members}
    to, found = under(data.regrouped(Grouping(halves, 3 * PER_GROUP)), base)
    assert (to.new, to.fresh.tolist()) == (2, dark.tolist())
    # What the trained classifier did not learn from is what tests.
    assert set(to.fresh[to.held_out.numpy()]) == set(dark) & set(
        base.moments.held_out.nonzero()[:, 0].tolist()
    )
    generator = torch.Generator().manual_seed(3)
    x0, timesteps = data.seen_inputs(np.arange(0, 120, 2)), torch.randint(5, 90, (60,), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    x = add_noise(x0, noise, *SCHEDULE.at(timesteps, like=x0))
    dark_is_out = base.posterior.removed([["dark"]])
    halves_are_out = found.posterior.removed([["a", "b"]])
    before = base.posterior.corrections(x, timesteps)(dark_is_out).flatten()
    after = found.posterior.corrections(x, timesteps)(halves_are_out).flatten()
    assert float(torch.corrcoef(torch.stack([before, after]))[0, 1]) > 0.7


def test_other_images_of_the_same_ids_are_new() -> None:
    base, _ = trained()
    data = shades(PER_GROUP)
    data.setup()
    data.inputs[:PER_GROUP] = data.inputs[:PER_GROUP].flip(0)  # the dark ones change places
    to = Regrouped.of(base.moments, data, seed=0)
    assert (to.new, to.fresh.tolist()) == (1, list(range(PER_GROUP)))
    data.inputs[:] = 255 - data.inputs
    assert Regrouped.of(base.moments, data, seed=0).new == 3


def test_what_is_tested_on_trained_samples_is_counted() -> None:
    base, _ = trained()
    data = shades(PER_GROUP)
    members = {name: np.arange(row * PER_GROUP, (row + 1) * PER_GROUP) for row, name in enumerate(GROUPS)}
    learnt = members["dark"][~base.moments.held_out[:PER_GROUP].numpy()]
    split = Grouping({**members, "dark": np.setdiff1d(members["dark"], learnt), "learnt": learnt}, 120)
    to, found = under(data.regrouped(split), base)
    assert (to.new, to.tested_on_trained, found.tested_on_trained) == (2, 1, 1)
    bare = replace(base.moments.tested, count=torch.tensor([30.0, 0, 30]))
    without = replace(base, moments=replace(base.moments, tested=bare))
    assert under(GroupDataModule(Without("bright"), batch_size=8), without)[1].tested_on_trained == 0
    assert under(GroupDataModule(Without("dark"), batch_size=8), without)[1].tested_on_trained == 1
    assert under(data, without)[1].tested_on_trained == 0  # nothing is tested anew


def test_one_sample_is_too_few() -> None:
    base, _ = trained()
    data = shades(PER_GROUP)
    members = {name: np.arange(row * PER_GROUP, (row + 1) * PER_GROUP) for row, name in enumerate(GROUPS)}
    members["odd"] = np.array([3])
    refused = message(
        "dark and odd has too few new samples to learn from and to test on",
        "1 sample that the trained classifier does not tell apart",
        "at least 2 in every set of groups",
        "add samples, or run guda guide, which trains a classifier of these groups",
    )
    to = Regrouped.of(base.moments, data.regrouped(Grouping(members, 3 * PER_GROUP)), seed=0)
    with pytest.raises(GroupError, match=refused):
        to.refuse_single(tuple(members))


def test_the_entropy_that_is_explained() -> None:
    level = cast(NoiseLevel, SimpleNamespace(cross_entropy=0.25 * np.log(4)))
    none = cast(NoiseLevel, SimpleNamespace(cross_entropy=np.log(4)))
    assert explained([level], torch.tensor([5, 5, 5, 5])) == pytest.approx(0.75)
    assert explained([level, none], torch.tensor([5, 5, 5, 5, 0])) == pytest.approx(0.375)
    assert explained([level], torch.tensor([5])) == 1


def _inputs(x: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    from guda_lightning.posteriors.classifier_posterior import classifier_inputs

    return classifier_inputs(SCHEDULE, x, timesteps)


def _record(levels: tuple[NoiseLevel, ...]) -> Any:
    return SimpleNamespace(levels=[level.to_row() for level in levels], tested_on_trained=0)
