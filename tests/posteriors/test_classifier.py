from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from guda_lightning.data import HeldOutDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.errors import ConfigError, StoreError
from guda_lightning.posteriors import (
    ClassifierPlan,
    GroupClassifier,
    NoiseLevel,
    PosteriorKey,
    PosteriorRecord,
    PosteriorStore,
    network_hparams,
    open_posterior,
    weights_of,
)
from guda_lightning.posteriors.classifier import refuse_determined
from guda_lightning.posteriors.network import NoisyClassifier
from guda_lightning.posteriors.tempering import temper
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.provenance import Provenance
from guda_lightning.storage.weights_record import RECORD
from toys import GROUPS, message, quiet_trainer, shades

SCHEDULE = noise_schedule(DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2"))
FULL = DiffusionModel(nn.Identity(), SCHEDULE, "epsilon")
SIZES = torch.tensor([10, 10, 10])
PLAN = ClassifierPlan(channels=(8,), width=16, features=8, steps=150, lr=5e-3, batch_size=32, held_out=0.25)


def trained(folder: Path, plan: ClassifierPlan = PLAN) -> tuple[GroupClassifier, HeldOutDataModule]:
    data = shades(per_group=40)
    module = GroupClassifier(plan, data, FULL)
    held_out = HeldOutDataModule(data, plan.held_out, plan.batch_size, seed=0)
    quiet_trainer(folder, max_steps=plan.steps).fit(module, datamodule=held_out)
    module.calibrate(held_out)
    return module, held_out


def test_it_learns_which_group_a_noised_image_is_from(tmp_path: Path) -> None:
    module, held_out = trained(tmp_path)
    assert len(held_out.held_out) == 30
    assert not set(held_out.held_out) & set(held_out.kept)
    assert module.levels[0].accuracy > 0.9  # hardly any noise: dark, bright and noisy are easy to tell
    assert module.levels[-1].accuracy < 0.6  # nothing but noise
    scored = SCHEDULE.scored_timesteps
    assert (module.levels[0].first, module.levels[-1].last) == (int(scored[0]), int(scored[-1]))
    for level in module.levels:
        temperatures = cast(Tensor, module.temperatures)[level.first : level.last + 1]
        torch.testing.assert_close(temperatures, torch.full_like(temperatures, level.temperature))


def test_dense_layers_alone_learn_it_too(tmp_path: Path) -> None:
    module, _ = trained(tmp_path, replace(PLAN, channels=()))
    assert module.levels[0].accuracy > 0.9


def test_the_same_seed_gives_the_same_classifier(tmp_path: Path) -> None:
    plan = replace(PLAN, steps=20)
    (one, _), (other, _) = trained(tmp_path, plan), trained(tmp_path, plan)
    for name, weights in weights_of(one).items():
        assert torch.equal(weights, weights_of(other)[name])


def test_without_held_out_samples_nothing_is_tempered(tmp_path: Path) -> None:
    module, _ = trained(tmp_path, ClassifierPlan(channels=(8,), features=8, steps=2, held_out=0))
    assert module.levels == ()
    assert torch.equal(weights_of(module)["temperatures"], torch.ones(100))


def test_a_temperature_mends_overconfident_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    log_probability = torch.randn(4000, 3, generator=generator).mul(1.5).log_softmax(dim=1)
    atom = torch.multinomial(log_probability.exp(), 1, generator=generator).flatten()
    level = temper(2 * log_probability, atom, SIZES, 1, 10)
    assert level.temperature == pytest.approx(2, rel=0.1)
    assert level.ece > 0.05
    assert level.ece_tempered < 0.02
    assert level.accuracy == pytest.approx(float((log_probability.argmax(1) == atom).double().mean()))
    honest = temper(log_probability, atom, SIZES, 1, 10)
    assert honest.temperature == pytest.approx(1, rel=0.08)


def test_calibration_is_told_near_a_group_and_for_small_groups() -> None:
    sure, unsure = [0.96, 0.03, 0.01], [0.45, 0.3, 0.25]
    logits = torch.tensor([sure] * 20 + [unsure] * 20).log()
    atom = torch.tensor([0] * 19 + [1] * 1 + [0] * 10 + [1] * 8 + [2] * 2)
    level = temper(logits, atom, torch.tensor([30, 25, 5]), 1, 10)
    assert level.temperature == pytest.approx(1, abs=0.2)
    given = (logits.double() / level.temperature).softmax(dim=1)
    assert (level.near, level.near_observed) == (0.5, 0.05)
    assert level.near_predicted == pytest.approx(1 - float(given[0, 0]), rel=1e-5)
    assert level.near_log_kept == pytest.approx(math.log(1 - float(given[0, 0])), rel=1e-5)
    # Atom 2 alone has less than half of the mean size: none of its 2 samples is among the sure ones.
    wrong = 20 * float(given[0, 2]), 20 * float(given[-1, 2]) - 2
    assert level.ece_small == pytest.approx(sum(map(abs, wrong)) / 2, rel=1e-4)
    assert temper(logits, atom, SIZES, 1, 10).ece_small is None


def test_what_is_always_right_is_not_sharpened_without_end() -> None:
    atom = torch.arange(200) % 3
    logits = 8.0 * nn.functional.one_hot(atom, 3)
    assert 0.9 < temper(logits, atom, SIZES, 1, 2).temperature < 1
    assert temper(logits.repeat(8, 1), atom.repeat(8), SIZES, 1, 2, draws=8).temperature > 0.9


def test_the_atoms_of_overlapping_groups_are_their_sets() -> None:
    grouping = Grouping({"a": [0, 1, 2], "b": [2, 3], "empty": []}, num_samples=6)
    table, atom = grouping.atoms()
    assert {tuple(row) for row in table.tolist()} == {
        (False, False, False),
        (True, False, False),
        (False, True, False),
        (True, True, False),
    }
    assert np.array_equal(table[atom], grouping.membership())


@pytest.mark.parametrize(
    ("changes", "problem", "found", "expected", "fix"),
    [
        (
            {"steps": 0},
            "classifier.steps is out of range",
            0,
            "steps >= 1",
            "set classifier.steps, or leave it out",
        ),
        (
            {"channels": (12,)},
            "classifier.channels is invalid",
            [12],
            "one number per convolutional level, each a multiple of 8",
            "set classifier.channels, e.g. [32, 64] for 32 x 32 images, or leave it out",
        ),
    ],
)
def test_a_plan_that_cannot_be_built_is_refused(
    changes: dict[str, Any], problem: str, found: object, expected: str, fix: str
) -> None:
    with pytest.raises(ConfigError, match=message(problem, found, expected, fix)):
        ClassifierPlan(**changes)


def test_more_levels_than_an_image_has_halves_are_refused() -> None:
    with pytest.raises(
        ConfigError,
        match=message(
            "classifier.channels has too many levels: each halves the image",
            "4 levels for images of shape (1, 8, 8)",
            "at most 3 levels",
            "shorten classifier.channels, or leave it out",
        ),
    ):
        GroupClassifier(ClassifierPlan(channels=(8, 8, 8, 8)), shades(), FULL)


@pytest.mark.parametrize(
    ("side", "channels"),
    [(1, ()), (5, (16,)), (8, (16, 32)), (32, (16, 32, 64, 128)), (90, (16, 32, 64, 128, 128))],
)
def test_large_images_are_halved_until_dense_layers_can_take_them(
    side: int, channels: tuple[int, ...]
) -> None:
    assert ClassifierPlan().channels_for((3, side, side + 3)) == channels
    network = NoisyClassifier((3, side, side + 3), 4, channels, width=16)
    assert network(torch.zeros(2, 3, side, side + 3), torch.zeros(2)).shape == (2, 4)


def test_a_share_of_all_samples_cannot_be_held_out() -> None:
    with pytest.raises(
        ConfigError,
        match=message(
            "the share of held-out samples is out of range",
            1.0,
            "0 <= held_out < 1",
            "pass --classifier.held_out 0.1, or 0 to train on all samples without calibration",
        ),
    ):
        HeldOutDataModule(shades(), 1.0, 8, seed=0)


@pytest.mark.parametrize(
    ("atom", "labels", "refused"),
    [([0, 0, 1], [0, 0, 1], True), ([0, 0, 0], [0, 1, 1], True), ([0, 1, 1], [0, 0, 1], False)],
)
def test_labels_that_tell_the_group_are_refused(atom: list[int], labels: list[int], refused: bool) -> None:
    given: tuple[Tensor, Tensor] = torch.tensor(atom), torch.tensor(labels)
    if not refused:
        return refuse_determined(*given)
    with pytest.raises(
        ConfigError,
        match=message(
            "guidance does not support these groups: class labels of the conditional model determine them",
            "one set of groups per label",
            "groups that the labels do not determine, or an unconditional model",
            "use guda unlearn, or group the samples by something else than their labels",
        ),
    ):
        refuse_determined(*given)


MADE_FROM = Provenance("full", SCHEDULE.hash, "grouping")


def stored(folder: Path, seed: int = 0, **hparams: Any) -> tuple[GroupClassifier, PosteriorStore]:
    module = GroupClassifier(PLAN, shades(), FULL, seed=seed)
    store = PosteriorStore(folder / "store")
    values = {**network_hparams(PLAN, shades().image_shape), **hparams}
    key = PosteriorKey("classifier", module.groups, seed, sha256_json(values))
    levels = [NoiseLevel(1, 9, 1.0, 0.1, 0.9, *[0.01] * 8).to_row()]
    costs: dict[str, Any] = {"seconds": 1.0, "steps": 1, "network_evaluations": 1}
    store.save(weights_of(module), PosteriorRecord.of(key, values, MADE_FROM, levels=levels, **costs))
    return module, store


def test_a_stored_classifier_comes_back(tmp_path: Path) -> None:
    module, store = stored(tmp_path)
    found = open_posterior(store, "classifier", SCHEDULE, seed=0, expect=MADE_FROM)
    assert found.posterior.groups == tuple(sorted(GROUPS))
    x, timesteps = torch.randn(5, 1, 8, 8), torch.tensor([1, 20, 40, 60, 90])
    probability = found.posterior.logits(x, timesteps).softmax(dim=1)
    torch.testing.assert_close(probability, module.eval().posterior.logits(x, timesteps).softmax(dim=1))
    for group in GROUPS:  # sorted names find the same atoms
        column = module.groups.index(group)
        assert torch.equal(found.posterior.removed([[group]])[0], module.atoms[:, column])


def test_a_store_without_a_classifier_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError,
        match=message(
            f"there is no posterior of kind classifier in {tmp_path / 'posteriors'}",
            "none of any kind",
            "one with seed 3",
            "run guda guide with --posterior classifier --seed 3",
        ),
    ):
        open_posterior(PosteriorStore(tmp_path), "classifier", SCHEDULE, seed=3)


def test_one_of_several_classifiers_has_to_be_chosen(tmp_path: Path) -> None:
    stored(tmp_path)
    _, store = stored(tmp_path, steps=5)
    hashes = sorted(r.hparams_hash for r in store.records())
    with pytest.raises(
        StoreError,
        match=message(
            f"{store.root} holds several posteriors of kind classifier",
            "; ".join(
                f"{r.hparams_hash[:8]} (steps={r.hparams.get('steps', 'unset')})"
                for r in sorted(store.records(), key=lambda r: r.hparams_hash)
            ),
            "one with seed 0",
            "pass --hparams, in Python hparams=..., with the first digits of one hash",
        ),
    ):
        open_posterior(store, "classifier", SCHEDULE, seed=0)
    found = open_posterior(store, "classifier", SCHEDULE, seed=0, hparams=hashes[1][:6])
    assert found.record.hparams_hash == hashes[1]


@pytest.mark.parametrize("place", ["guidance-0-1-2-0123456789ab", "classifiers/classifier-0123456789ab"])
def test_a_classifier_of_an_earlier_layout_is_refused(tmp_path: Path, place: str) -> None:
    root = tmp_path / "store"
    folder = root / place
    folder.mkdir(parents=True)
    (folder / RECORD).write_text('{"versions": {"guda_lightning": "0.1.0"}, "operator": "guidance"}')
    store = PosteriorStore(root)
    expected = message(
        f"{folder} holds a classifier of an earlier layout",
        "a classifier that guda-lightning 0.1.0 wrote",
        f"posteriors in {root / 'posteriors'}",
        f"run guda guide, which trains it again, and remove {folder}",
    )
    assert store.methods() == ["guidance"]  # so that the error is met where no operator is named
    with pytest.raises(StoreError, match=expected):
        store.find("guidance", seed=0)
    _, store = stored(tmp_path)  # made again
    assert store.find("classifier", seed=0).seed == 0
