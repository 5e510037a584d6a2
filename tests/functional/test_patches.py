"""Masses of patches, against loops over pixels, closed forms, and the posterior over whole images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from guda_lightning.functional.objectives import retain_posterior
from guda_lightning.functional.patches import Window, log_patch_masses, patch_shares

Array = NDArray[np.float64]
COALITIONS = torch.tensor(
    [[True, False, False], [False, True, False], [False, False, True], [True, True, False]]
)


def pictures(count: int, side: int = 4, channels: int = 2) -> Tensor:
    return torch.rand(count, channels, side, side) * 2 - 1


def shares(
    x_t: Tensor,
    atoms: list[Tensor],
    window: Window,
    sigma: float = 0.4,
    top: int | None = None,
    gamma: float = 0.9,
) -> tuple[Tensor, Tensor]:
    """Of three atoms and of the first two together, each atom's images given at once."""
    masses = log_patch_masses(x_t, gamma, sigma, list(enumerate(atoms)), len(atoms), window, top)
    return patch_shares(*masses, COALITIONS[:, : len(atoms)])


def cut(image: Array, row: int, column: int, window: Window) -> Array:
    """The patch around one pixel, pixel by pixel."""
    channels, height, width = image.shape
    start = (window.size - 1) // 2
    patch = np.full((channels, window.size, window.size), window.outside)
    for c, i, j in itertools.product(range(channels), range(window.size), range(window.size)):
        y, x = row - start + i, column - start + j
        if 0 <= y < height and 0 <= x < width:
            patch[c, i, j] = image[c, y, x]
    if not window.halved:
        return patch
    blocks = [
        patch[c, i : i + 2, j : j + 2].sum() / 2
        for c, i, j in itertools.product(range(channels), *[range(0, window.size, 2)] * 2)
    ]
    return np.array(blocks)


def by_loops(
    x_t: Tensor, atoms: list[Tensor], window: Window, sigma: float, top: int | None
) -> tuple[Array, Array]:
    """ρ and −log(1 − ρ) ``[batch, positions, coalitions]``, one pair of patches after the other."""
    gamma = 0.9
    images = torch.cat(atoms).double().numpy()
    atom = np.repeat(range(len(atoms)), [len(one) for one in atoms])
    places = list(itertools.product(range(x_t.shape[2]), range(x_t.shape[3])))
    found, nats = [], []
    for x, place in itertools.product(x_t.double().numpy(), places):
        patch = cut(x, *place, window)
        there = places if window.anywhere else [place]
        distance = [[((patch - cut(gamma * y, *at, window)) ** 2).sum() for at in there] for y in images]
        weights = np.exp(-np.array(distance) / (2 * sigma**2))
        weights /= weights.sum()
        best = np.sort(weights)[:, ::-1][:, :top].sum(1)
        groups = [np.isin(atom, np.flatnonzero(row)) for row in COALITIONS.numpy()]
        found.append([best[group].sum() for group in groups])
        nats.append([-math.log(weights[~group].sum()) for group in groups])
    shape = (len(x_t), len(places), len(COALITIONS))
    return np.array(found).reshape(shape), np.array(nats).reshape(shape)


@pytest.mark.parametrize(
    "window",
    [Window(3, 10.0), Window(2, -1.5), Window(4, 0.3, halved=True), Window(5, 10.0, anywhere=False)],
)
@pytest.mark.parametrize("top", [None, 3])
def test_shares_are_those_of_loops_over_pixels(window: Window, top: int | None) -> None:
    x_t, atoms = pictures(2), [pictures(2), pictures(1), pictures(3)]
    # One pixel's outside value at another's place costs hundreds of σ²: weights span the range of exp().
    expected = by_loops(x_t, atoms, window, 1.5, top)
    for found, wanted in zip(shares(x_t, atoms, window, 1.5, top), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, atol=1e-12)


def test_windows_that_show_the_whole_picture_give_the_posterior_over_images() -> None:
    """The weights of ReTrack's target, which another formula computes."""
    side, gamma, sigma = 4, 0.9, 0.7
    atoms = [pictures(5, side), pictures(2, side), pictures(4, side)]
    x_t = gamma * atoms[1] + sigma * torch.randn(2, 2, side, side)
    found, _ = shares(x_t, atoms, Window(2 * side - 1, anywhere=False), sigma)
    # The mean of one-hot vectors is the weight of each: append them where no distance changes.
    items, owner = torch.cat(atoms).flatten(1), torch.eye(11)
    both = torch.cat([items, 1e-9 * owner], dim=1)
    x = torch.cat([x_t.flatten(1), torch.zeros(2, 11)], dim=1).double()
    level = torch.tensor([[gamma], [sigma]]).double().view(2, 1, 1)
    weights = 1e9 * retain_posterior(x, x, level[0], level[1], both.double()).mean[:, -11:]
    expected = torch.stack([part.sum(dim=1) for part in weights.split([5, 2, 4], dim=1)], dim=1)
    for position in found.unbind(1):  # every window shows the same
        torch.testing.assert_close(position[:, :3], expected, rtol=1e-6, atol=1e-12)


@given(st.integers(1, 7), st.sampled_from([0.01, 0.3, 3.0]), st.booleans(), st.integers(0, 99))
@settings(max_examples=15)
def test_shares_of_a_partition_sum_to_one(size: int, sigma: float, anywhere: bool, seed: int) -> None:
    torch.manual_seed(seed)
    window = Window(size, 10.0, anywhere=anywhere)
    found, nats = shares(pictures(2), [pictures(3), pictures(1), pictures(2)], window, sigma)
    torch.testing.assert_close(found[..., :3].sum(dim=2), torch.ones(2, 16, dtype=torch.float64))
    torch.testing.assert_close(found[..., 3], found[..., :2].sum(dim=2))  # "a+b"
    assert (nats >= -1e-9).all() and nats.isfinite().all()
    moderate = found < 0.99
    torch.testing.assert_close(nats[moderate], -torch.log1p(-found[moderate]), rtol=1e-9, atol=1e-9)


def test_without_noise_the_group_of_a_planted_patch_has_everything() -> None:
    atoms = [pictures(3), pictures(3), pictures(3)]
    planted = atoms[2][1:2].roll((1, 1), dims=(2, 3))  # its inner patches lie elsewhere in the query
    found, nats = shares(0.9 * planted, atoms, Window(1), sigma=1e-3)
    torch.testing.assert_close(found[0, :, 2], torch.ones(16, dtype=torch.float64))
    assert (nats[0, :, 2] > 100).all()  # far beyond what 1 − ρ could tell


def test_in_nothing_but_noise_a_group_has_its_part_of_the_images() -> None:
    found, _ = shares(pictures(1), [pictures(5), pictures(2), pictures(3)], Window(3), sigma=1e5)
    expected = torch.tensor([0.5, 0.2, 0.3, 0.7], dtype=torch.float64).expand(1, 16, 4)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("top", [None, 2])
def test_shares_do_not_depend_on_how_images_and_queries_come(top: int | None) -> None:
    x_t, atoms, window = pictures(3), [pictures(4), pictures(1), pictures(5)], Window(3, 10.0)

    def pieces() -> Iterator[tuple[int, Tensor]]:
        for atom in (2, 0, 1):
            for image in atoms[atom].split(2):
                yield atom, image

    whole = log_patch_masses(x_t, 0.9, 0.4, list(enumerate(atoms)), 3, window, top)
    parts = [log_patch_masses(one, 0.9, 0.4, pieces(), 3, window, top) for one in x_t.split(1)]
    for of_all, found in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(found), of_all, rtol=1e-12, atol=1e-12)


def test_halves_of_two_images_are_found_where_they_are() -> None:
    atoms = [pictures(4, 8, 1), pictures(4, 8, 1), pictures(4, 8, 1)]
    planted = torch.cat([atoms[0][2, :, :, :4], atoms[1][3, :, :, 4:]], dim=2)[None]
    x_t = 0.95 * planted + 0.05 * torch.randn(1, 1, 8, 8)
    found, _ = shares(x_t, atoms, Window(1, anywhere=False), sigma=0.05, gamma=0.95)
    left, right = found[0, :, :2].unflatten(0, (8, 8)).split(4, dim=1)
    sharp, _ = shares(x_t, atoms, Window(3, 10.0), sigma=0.05, gamma=0.95)
    # Away from the seam a patch of 3 x 3 is of one image alone.
    columns = sharp[0].unflatten(0, (8, 8))
    torch.testing.assert_close(columns[:, :3, 0], torch.ones(8, 3, dtype=torch.float64), rtol=0, atol=1e-3)
    torch.testing.assert_close(columns[:, 5:, 1], torch.ones(8, 3, dtype=torch.float64), rtol=0, atol=1e-3)
    assert left[..., 0].mean() > 0.6 > 0.3 > left[..., 1].mean()
    assert right[..., 1].mean() > 0.6 > 0.3 > right[..., 0].mean()
    torch.testing.assert_close(sharp[0, :, :2].mean(0), torch.full((2,), 0.5).double(), rtol=0, atol=0.08)
