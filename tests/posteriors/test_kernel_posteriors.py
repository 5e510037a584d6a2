from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor, nn

from guda_lightning.data import GroupDataModule
from guda_lightning.data.grouping import Grouping
from guda_lightning.diffusion import DiffusionModel
from guda_lightning.diffusion.schedulers import noise_schedule
from guda_lightning.errors import ConfigError, GroupError, StoreError
from guda_lightning.functional.prediction import implied_noise
from guda_lightning.functional.schedule import NoiseSchedule
from guda_lightning.posteriors import (
    ImageKernel,
    KernelLevel,
    Mixture,
    PatchKernel,
    PosteriorKey,
    PosteriorRecord,
    PosteriorStore,
    fit_windows,
    guided,
    open_posterior,
    windows,
)
from guda_lightning.posteriors.kernel import KernelPosterior
from guda_lightning.posteriors.patch_kernel import refuse_costly
from guda_lightning.posteriors.windows import windows_for
from guda_lightning.storage.files import sha256_json
from guda_lightning.storage.provenance import Provenance
from toys import GROUPS, message, posterior_noise, shades

SCHEDULE = noise_schedule(DDPMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2"))
LEVELS = (KernelLevel(1, 49, 3, 0.9, 0.1), KernelLevel(50, 98, 15, 0.9, 0.1))
TIMESTEPS = torch.tensor([2, 20, 49, 50, 70, 98])


def kernel(kind: type[KernelPosterior], data: GroupDataModule) -> KernelPosterior:
    return PatchKernel.of(data, SCHEDULE, LEVELS) if kind is PatchKernel else ImageKernel.of(data, SCHEDULE)


def noised(data: GroupDataModule) -> Tensor:
    clean = data.seen_inputs(np.arange(0, 48, 8)).double()[:6]
    gamma, sigma = SCHEDULE.at(TIMESTEPS, like=clean)
    return gamma * clean + sigma * torch.randn_like(clean)


class Machine(nn.Module):
    """A kernel as the denoiser of a full model, its noise off by a constant."""

    def __init__(self, posterior: KernelPosterior, off: float = 0.0) -> None:
        super().__init__()
        self.posterior, self.off = posterior, off

    def forward(self, x_t: Tensor, timesteps: Tensor, class_labels: Tensor | None = None) -> Tensor:
        posterior = self.posterior
        mean = posterior.denoised(x_t, timesteps, posterior.windows(timesteps), class_labels)
        return implied_noise(x_t, mean, *SCHEDULE.at(timesteps, like=mean)).to(x_t.dtype) + self.off


@pytest.mark.parametrize("kind", [ImageKernel, PatchKernel])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("groups", [("dark",), ("dark", "noisy")])
def test_the_guided_form_is_the_retain_denoiser(
    kind: type[KernelPosterior], flip: bool, groups: tuple[str, ...]
) -> None:
    data = shades(horizontal_flip=flip)
    posterior = kernel(kind, data)
    full = DiffusionModel(Machine(posterior), SCHEDULE, "epsilon")
    x_t = noised(data)
    found = guided(full, posterior, groups).output(x_t, TIMESTEPS)
    stay = np.flatnonzero(~np.isin(np.array(GROUPS).repeat(16), groups))
    without = PatchKernel.of(data, SCHEDULE, LEVELS, indices=stay)
    mean = without.denoised(x_t, TIMESTEPS, posterior.windows(TIMESTEPS))
    expected = implied_noise(x_t, mean, *SCHEDULE.at(TIMESTEPS, like=x_t))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_image_kernel_without_a_group_is_the_score_of_the_rest() -> None:
    data = shades()
    x_t = noised(data)
    full = DiffusionModel(Machine(ImageKernel.of(data, SCHEDULE)), SCHEDULE, "epsilon")
    found = guided(full, ImageKernel.of(data, SCHEDULE), ("bright",)).output(x_t, TIMESTEPS)
    rest = data.seen_inputs(data.grouping.retain(["bright"])).flatten(1)
    gamma, sigma = (value.flatten(1) for value in SCHEDULE.at(TIMESTEPS, like=x_t))
    expected = posterior_noise(x_t.flatten(1), gamma, sigma, rest)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [ImageKernel, PatchKernel])
def test_overlapping_groups_are_removed_as_their_union(kind: type[KernelPosterior]) -> None:
    grouping = Grouping({"a": range(20), "b": range(10, 30), "ab": range(30)}, 48)
    posterior = kernel(kind, shades().regrouped(grouping))
    assert len(posterior.atoms) == 4  # a, a and b, b, none
    found = posterior.corrections(noised(shades()), TIMESTEPS)(
        posterior.removed([("a", "b"), ("ab",), ("a",)])
    )
    torch.testing.assert_close(found[:, 0], found[:, 1])
    assert (found[:, 0] - found[:, 2]).abs().max() > 1e-3


def test_every_noise_level_has_its_window() -> None:
    posterior = kernel(PatchKernel, shades())
    assert posterior.windows(torch.tensor([0, 1, 49, 50, 98, 99])).tolist() == [3, 3, 3, 15, 15, 15]
    assert kernel(ImageKernel, shades()).windows(torch.tensor([0, 99])).tolist() == [15, 15]


def test_classes_are_compared_with_their_own_images() -> None:
    data = shades().regrouped(Grouping({"even": range(0, 48, 2), "odd": range(1, 48, 2)}, 48))
    posterior, x_t = kernel(PatchKernel, data), noised(data)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    removed = posterior.removed([("even",)])
    found = posterior.corrections(x_t, TIMESTEPS, labels)(removed)
    for label in range(3):
        rows = labels == label
        alone = PatchKernel.of(data, SCHEDULE, LEVELS, indices=np.arange(16 * label, 16 * label + 16))
        expected = alone.corrections(x_t[rows], TIMESTEPS[rows])(removed)
        torch.testing.assert_close(found[rows], expected, rtol=1e-12, atol=1e-12)


def test_groups_that_leave_no_image_of_a_class_are_refused() -> None:
    posterior = kernel(ImageKernel, shades())
    correct = posterior.corrections(noised(shades()), TIMESTEPS, torch.tensor([0, 0, 1, 1, 1, 1]))
    with pytest.raises(
        GroupError,
        match=message(
            "without bright, noisy, no training image of class 1 is left",
            "16 images of that class",
            "some that are in none of these groups",
            "remove fewer groups at once, or group the images by something else than their classes",
        ),
    ):
        correct(posterior.removed([("noisy",), ("bright", "noisy")]))


def test_the_fit_finds_the_windows_of_a_full_model_that_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "NOISE_LEVELS", 2)
    data, told = shades(), []
    seen = np.setdiff1d(np.arange(48), windows._held_out(data, False, 0))
    machine = Machine(PatchKernel.of(data, SCHEDULE, LEVELS, indices=seen), off=0.1)
    levels = fit_windows(data, DiffusionModel(machine, SCHEDULE, "epsilon"), on_level=told.append)
    assert [(level.first, level.last, level.window) for level in levels] == [(1, 49, 3), (50, 98, 15)]
    assert tuple(told) == levels
    for level in levels:
        assert level.mse == pytest.approx(0.01, rel=1e-3)
        assert level.r2 < 1
    assert levels[-1].r2 == pytest.approx(0.99, abs=2e-3)  # ε̂ of much noise has variance 1
    assert KernelLevel(**levels[0].to_row()) == levels[0]


def test_windows_grow_to_the_whole_image() -> None:
    assert windows_for((1, 8, 8)) == (1, 3, 5, 7, 15)
    assert windows_for((3, 32, 32)) == (1, 3, 5, 7, 9, 13, 19, 27, 63)
    assert windows_for((1, 1, 1)) == (1, 1)


def test_too_few_samples_to_choose_windows_on_are_refused() -> None:
    data = shades(limit=1)
    full = DiffusionModel(nn.Identity(), SCHEDULE, "epsilon")
    with pytest.raises(
        ConfigError,
        match=message(
            "the patch kernel needs training samples to choose its windows on",
            "1 samples",
            "at least two",
            "take another posterior, such as the classifier",
        ),
    ):
        fit_windows(data, full)


def test_comparisons_that_would_take_hours_are_refused() -> None:
    refuse_costly(40_000, (3, 8, 8), 7)
    with pytest.raises(
        ConfigError,
        match=message(
            "the patch kernel would take too long on images of 32 x 32",
            "100000 images × 1024 pixels × windows of 7 x 7 x 3: 20e9 multiplications per noised sample, "
            "about 3 core hours for 160 queries at 50 timesteps",
            "at most 10e9",
            "take another posterior, such as the classifier, fewer samples with data.limit, or a smaller "
            "data.image_size",
        ),
    ):
        refuse_costly(100_000, (3, 32, 32), 7)


def test_a_timestep_without_noise_is_refused() -> None:
    schedule = NoiseSchedule.from_alphas_cumprod(torch.tensor([1.0, 0.9, 0.5, 0.1]))
    with pytest.raises(
        ConfigError,
        match=message(
            "posteriors of training images need noise at every timestep",
            "none at timestep 0 of 4",
            "sigma > 0",
            "train the full model with a noise schedule whose first step adds noise",
        ),
    ):
        ImageKernel.of(shades(), schedule)


def test_a_posterior_keeps_its_images_once() -> None:
    posterior = kernel(ImageKernel, shades(horizontal_flip=True))
    assert posterior.images.shape == (96, 1, 8, 8)
    assert torch.equal(posterior.images[48:], posterior.images[:48].flip(-1))
    assert torch.equal(posterior.atom[48:], posterior.atom[:48])
    assert replace(posterior, groups=("a", "b", "c")).groups == ("a", "b", "c")


def test_images_that_are_mirrored_now_are_other_images(tmp_path: Path) -> None:
    data, store = shades(), PosteriorStore(tmp_path)
    hparams = {"data": data.hash, "mirrored": False}
    key = PosteriorKey("image_kernel", data.grouping.names, 0, sha256_json(hparams))
    made = Provenance("full", SCHEDULE.hash, data.grouping.hash)
    store.save({}, PosteriorRecord.of(key, hparams, made, seconds=0, steps=0, network_evaluations=0))
    open_posterior(store, "image_kernel", SCHEDULE, seed=0, data=data)
    with pytest.raises(
        StoreError,
        match=message(
            f"{store.described(key)} was made from other training data",
            "mirrored True",
            "mirrored False",
            f"use the data it was made from, or remove {store.path(key)} and run guda guide with "
            "--posterior image_kernel",
        ),
    ):
        open_posterior(store, "image_kernel", SCHEDULE, seed=0, data=shades(horizontal_flip=True))


def test_regions_are_the_softmax_over_what_each_window_shows() -> None:
    data = shades()
    posterior, x_t = kernel(PatchKernel, data), noised(data)
    removed = posterior.removed([("dark",), ("dark", "noisy")])
    found = posterior.regions(x_t, TIMESTEPS, removed)
    assert found is not None
    assert found.weights.tolist() == [1, 1, 1, 0, 0, 0]  # a window of 15 sees all of 8 x 8 from every pixel
    gamma, sigma = SCHEDULE.at(TIMESTEPS, like=x_t)
    images, member = data.seen_inputs(np.arange(48)).double(), torch.from_numpy(data.grouping.membership())
    columns = [data.grouping.names.index(name) for name in ("dark", "noisy")]
    for row, (y, x) in ((0, (0, 3)), (2, (5, 7))):
        part = slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2)
        gaps = (x_t[row, 0] - gamma[row, 0] * images[:, 0])[:, part[0], part[1]].square().sum((1, 2))
        weights = (-gaps / (2 * sigma[row].item() ** 2)).softmax(dim=0)
        dark, noisy = (float(weights[member[:, column]].sum()) for column in columns)
        assert found.shares[row, :, y, x].tolist() == pytest.approx([dark, dark + noisy])
    mixed = Mixture(
        schedule=SCHEDULE,
        atoms=posterior.atoms,
        groups=posterior.groups,
        members=(kernel(ImageKernel, data), posterior),
        weights=torch.tensor([[0.75, 0.25]], dtype=torch.float64).repeat(len(SCHEDULE), 1),
    )
    of_mixture = mixed.regions(x_t, TIMESTEPS, removed)
    assert of_mixture is not None  # the image kernel tells no regions
    assert of_mixture.weights.tolist() == [0.25, 0.25, 0.25, 0, 0, 0]
    torch.testing.assert_close(of_mixture.shares[:3], found.shares[:3])
    assert kernel(ImageKernel, data).regions(x_t, TIMESTEPS, removed) is None
