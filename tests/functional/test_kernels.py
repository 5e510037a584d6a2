from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.functional import kernels
from guda_lightning.functional.kernels import (
    Moments,
    blocks_of,
    kept_less_all,
    kernel_moments,
    multiplications,
    overall_mean,
    spans,
    whole_window,
)
from guda_lightning.functional.objectives import retain_posterior


class Case(NamedTuple):
    """Noised samples, training images and their atoms."""

    x_t: Tensor
    gamma: Tensor
    sigma: Tensor
    images: Tensor
    atom: Tensor
    atoms: int


def case(
    seed: int, batch: int = 3, samples: int = 12, shape: tuple[int, ...] = (2, 4, 5), atoms: int = 3
) -> Case:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(samples, *shape, generator=generator) * 2 - 1
    atom = torch.randint(atoms, (samples,), generator=generator)
    sigma = torch.rand(batch, generator=generator).double() * 0.8 + 0.1
    gamma = (1 - sigma.square()).sqrt()
    noise = torch.randn(batch, *shape, generator=generator).double()
    clean = images[torch.randint(samples, (batch,), generator=generator)].double()
    wide = sigma.view(-1, 1, 1, 1)
    return Case(gamma.view(-1, 1, 1, 1) * clean + wide * noise, gamma, sigma, images, atom, atoms)


def moments(of: Case, window: int) -> Moments:
    return kernel_moments(of.x_t, of.gamma, of.sigma, blocks_of(of.images, of.atom), of.atoms, window)


def pixel_by_pixel(of: Case, window: int) -> Moments:
    """The definition, in loops."""
    (batch, channels, height, width), reach = of.x_t.shape, window // 2
    log_mass = torch.full((batch, of.atoms, height, width), -torch.inf, dtype=torch.float64)
    mean = torch.zeros(batch, of.atoms, channels, height, width, dtype=torch.float64)
    for sample in range(batch):
        squared = (of.x_t[sample] - of.gamma[sample] * of.images.double()).square().sum(dim=1)
        for row in range(height):
            for column in range(width):
                seen = squared[
                    :, max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1
                ]
                logits = -seen.sum(dim=(1, 2)) / (2 * of.sigma[sample].square())
                for atom in of.atom.unique().tolist():
                    of_atom = logits[of.atom == atom]
                    pixels = of.images[of.atom == atom][:, :, row, column].double()
                    log_mass[sample, atom, row, column] = of_atom.logsumexp(dim=0)
                    mean[sample, atom, :, row, column] = of_atom.softmax(dim=0) @ pixels
    return Moments(log_mass, mean)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1000),
    batch=st.integers(1, 3),
    samples=st.integers(1, 9),
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 5)),
    atoms=st.integers(1, 4),
    window=st.sampled_from([1, 3, 5, 7, 9]),
    held=st.integers(1, 5),
)
def test_masses_and_means_are_those_of_the_definition_however_images_are_streamed(
    seed: int, batch: int, samples: int, shape: tuple[int, ...], atoms: int, window: int, held: int
) -> None:
    of = case(seed, batch, samples, shape, atoms)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_IMAGES", held)
        found = moments(of, window)
    for value, expected in zip(found, pixel_by_pixel(of, window), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


@given(side=st.integers(1, 9), window=st.integers(0, 10).map(lambda half: 2 * half + 1))
def test_pixels_that_see_the_same_part_are_taken_together(side: int, window: int) -> None:
    found = dict(spans(side, window))
    pixels = [pixel for first, last in found for pixel in range(first, last)]
    assert pixels == list(range(side))
    for (first, last), (low, high) in found.items():
        for pixel in range(first, last):
            assert [q for q in range(side) if abs(q - pixel) <= window // 2] == list(range(low, high))
    assert len(set(found.values())) == len(found)


@pytest.mark.parametrize("larger", [0, 2])
def test_a_window_over_the_whole_image_gives_the_weights_of_retrack(larger: int) -> None:
    of = case(0)
    found = moments(of, whole_window(4, 5) + larger)
    for atom in range(of.atoms):
        retain = of.images[of.atom == atom].flatten(1)
        flat = of.x_t.flatten(1)
        expected = retain_posterior(flat, flat, of.gamma[:, None], of.sigma[:, None], retain)
        torch.testing.assert_close(found.mean[:, atom].flatten(1), expected.mean, rtol=1e-12, atol=1e-12)
        mass = expected.log_density + torch.tensor(len(retain)).double().log()
        torch.testing.assert_close(found.log_mass[:, atom, 1, 2], mass, rtol=1e-12, atol=1e-9)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), window=st.sampled_from([1, 3, 9]), sigma=st.sampled_from([0.003, 0.3, 3.0]))
def test_removing_atoms_gives_the_kernel_of_what_is_left(seed: int, window: int, sigma: float) -> None:
    of = case(seed)._replace(sigma=torch.full((3,), sigma, dtype=torch.float64))
    of = of._replace(atom=torch.arange(12) % 3)
    removed = torch.tensor([[1, 0, 0], [0, 1, 1], [0, 0, 0]]).bool()
    found = kept_less_all(moments(of, window), removed)
    everything = overall_mean(moments(of, window))
    for coalition, gone in enumerate(removed):
        stay = ~gone[of.atom]
        left = of._replace(images=of.images[stay], atom=torch.zeros(int(stay.sum())).long(), atoms=1)
        expected = overall_mean(moments(left, window)) - everything
        torch.testing.assert_close(found[:, coalition], expected, rtol=1e-12, atol=1e-12)


def test_removing_the_only_likely_atom_still_gives_what_is_left() -> None:
    log_mass = torch.tensor([0.0, -2000, -2001]).double().view(1, 3, 1, 1)
    mean = torch.tensor([1.0, 2, 3]).double().view(1, 3, 1, 1, 1)
    removed = torch.tensor([[True, False, False]])
    logits = log_mass.flatten(1)
    kept = logits[:, None].masked_fill(removed, -torch.inf).softmax(dim=2)
    slope = kept - logits.softmax(dim=1)[:, None]
    expected = (slope * mean.flatten(1)[:, None]).sum(dim=2)
    found = kept_less_all(Moments(log_mass, mean), removed)
    torch.testing.assert_close(found.flatten(1), expected)
    assert 1.2 < found.item() < 1.3  # of 2 and 3, in shares of e to 1


def test_hardly_any_noise_leaves_one_image_and_much_noise_all() -> None:
    of = case(3, batch=12)._replace(atom=torch.arange(12) % 3)
    clean = of._replace(
        x_t=0.9 * of.images.double(), gamma=torch.full((12,), 0.9), sigma=torch.full((12,), 1e-3)
    )
    shares = moments(clean, 5).log_mass.softmax(dim=1)
    one_hot = torch.nn.functional.one_hot(of.atom, 3).double()[:, :, None, None].expand_as(shares)
    torch.testing.assert_close(shares, one_hot)
    torch.testing.assert_close(overall_mean(moments(clean, 5)), of.images.double())
    noisy = of._replace(sigma=torch.full((12,), 1e6))
    shares = moments(noisy, 5).log_mass.softmax(dim=1)
    sizes = torch.bincount(of.atom).double() / 12
    torch.testing.assert_close(shares, sizes.view(1, 3, 1, 1).expand_as(shares), rtol=1e-9, atol=1e-9)


def test_half_of_one_group_and_half_of_another_is_mapped_so() -> None:
    of = case(5, batch=1, shape=(1, 8, 8))._replace(atom=torch.arange(12) % 2, atoms=2)
    halves = of.images[:1].clone()
    halves[..., 4:] = of.images[1, :, :, 4:]
    sigma = torch.tensor([0.05]).double()
    shares = moments(of._replace(x_t=halves.double(), gamma=torch.ones(1), sigma=sigma), 3)
    first = shares.log_mass.softmax(dim=1)[0, 0]
    assert (first[:, :3] > 0.999).all()
    assert (first[:, 5:] < 0.001).all()


def test_costs_count_what_is_compared() -> None:
    assert multiplications((3, 2, 2), 1) == 4 * (3 + 64) + 12
    assert multiplications((1, 2, 3), whole_window(2, 3)) == 6 + 64 + 6
    assert multiplications((1, 1, 3), 3) == 2 + 3 + 2 + 3 * 64 + 3
