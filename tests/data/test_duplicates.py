from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from guda_lightning.data import Digits, GroupDataModule, NearDuplicate, near_duplicates
from guda_lightning.data.grouping import Grouping
from guda_lightning.errors import ConfigError

Message = Callable[[str, object, object, str], str]


def images(count: int, shape: tuple[int, int, int] = (3, 16, 16), seed: int = 0, levels: int = 256) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, levels, (count, *shape), generator=generator, dtype=torch.uint8)


def halves(count: int) -> Grouping:
    return Grouping({"a": range(count // 2), "b": range(count // 2, count)}, count)


def by_brute_force(pixels: Tensor, members: list[set[str]], within: float) -> list[tuple[int, int, float]]:
    """All pairs, one after the other; for up to 256 images, where the median is of all."""
    rows, count = pixels.flatten(1).numpy().astype(int), len(pixels)
    squared = [[int(((x - y) ** 2).sum()) for y in rows] for x in rows]
    nearest = sorted(min(squared[i][j] for j in range(count) if j != i) for i in range(count))
    limit = within**2 * nearest[(count - 1) // 2]
    return [
        (i, j, math.sqrt(squared[i][j] / rows.shape[1]) / 127.5)
        for i in range(count)
        for j in range(i + 1, count)
        if squared[i][j] <= limit and members[i] | members[j] and not members[i] & members[j]
    ]


shapes = st.sampled_from([(1, 1, 1), (1, 4, 4), (1, 8, 8), (3, 9, 17), (1, 16, 24), (2, 25, 7)])


@given(st.data(), st.integers(2, 24), shapes, st.sampled_from([2, 4, 256]), st.floats(0.3, 1.6))
@settings(deadline=None, max_examples=60)
def test_it_finds_what_a_comparison_of_all_pairs_finds(
    data: st.DataObject, count: int, shape: tuple[int, int, int], levels: int, within: float
) -> None:
    pixels = images(count, shape, data.draw(st.integers(0, 10**6)), levels)
    # Smooth images, which differ little in the sums over blocks.
    if data.draw(st.booleans()):
        pixels = (pixels // 16) + images(count, (1, 1, 1), 1) // 2
    members = data.draw(st.lists(st.sets(st.sampled_from("abc")), min_size=count, max_size=count))
    grouping = Grouping({name: [i for i in range(count) if name in members[i]] for name in "abc"}, count)
    found = near_duplicates(pixels, grouping, within)
    expected = by_brute_force(pixels, members, within)
    assert [(pair.first, pair.second, pair.distance) for pair in found] == sorted(
        expected, key=lambda pair: (pair[2], pair[0], pair[1])
    )
    for pair in found:
        assert pair.groups_first == tuple(sorted(members[pair.first]))
        assert pair.groups_second == tuple(sorted(members[pair.second]))


def test_planted_copies_are_found_across_chunks_of_images() -> None:
    pixels = images(1300)
    pixels[1299] = pixels[3]  # equal, 1296 images apart
    pixels[1200] = pixels[600]
    noisy = pixels[700].int() + torch.randint(-3, 4, (3, 16, 16), generator=torch.Generator().manual_seed(1))
    pixels[20] = noisy.clamp(0, 255).to(torch.uint8)
    pixels[5] = pixels[6]  # inside one group
    pixels[30] = pixels[900].flip(-1)  # mirrored: another picture
    *equal, near = near_duplicates(pixels, halves(1300))
    assert equal == [NearDuplicate(i, j, ("a",), ("b",), 0.0) for i, j in ((3, 1299), (600, 1200))]
    assert (near.first, near.second, near.groups_first, near.groups_second) == (20, 700, ("a",), ("b",))
    difference = (pixels[20].double() - pixels[700].double()) / 127.5
    assert near.distance == pytest.approx(difference.square().mean().sqrt().item(), rel=1e-12)
    assert 0 < near.distance < 0.02


def test_it_adapts_to_the_contrast_of_the_data() -> None:
    pixels = images(60)
    pixels[59] = (pixels[2].float() * 0.95).round().to(torch.uint8)
    (found,) = near_duplicates(pixels, halves(60))
    (pale,) = near_duplicates(120 + pixels // 16, halves(60))
    assert (found.first, found.second) == (pale.first, pale.second) == (2, 59)
    assert pale.distance < found.distance / 8
    assert near_duplicates(pixels, halves(60), within=0.01) == []


def test_samples_without_a_group_count_once() -> None:
    pixels = images(20)
    pixels[10] = pixels[0]  # in no group: stays when group a is removed
    pixels[12] = pixels[11]  # both in no group
    pixels[3] = pixels[2]  # share group a, and the second is in b too
    grouping = Grouping({"a": [0, 2, 3], "b": [3]}, 20)
    assert near_duplicates(pixels, grouping) == [NearDuplicate(0, 10, ("a",), (), 0.0)]


def test_equal_images_are_found_where_every_image_has_a_twin() -> None:
    pixels = images(10).repeat(2, 1, 1, 1)
    pixels[0, 0, 0, 0] ^= 1  # nearly equal only
    found = near_duplicates(pixels, halves(20))
    assert [(pair.first, pair.second, pair.distance) for pair in found] == [
        (i, i + 10, 0) for i in range(1, 10)
    ]


def test_one_image_has_no_duplicate() -> None:
    assert near_duplicates(images(1), Grouping({"a": [0]}, 1)) == []


def test_digits_of_different_classes_are_no_duplicates() -> None:
    data = GroupDataModule(Digits())
    assert near_duplicates(data.images, data.grouping) == []
    # The first pairs come at 1.17 times the distance of a typical digit from the nearest other one.
    assert near_duplicates(data.images, data.grouping, within=1.1) == []
    nearest = near_duplicates(data.images, data.grouping, within=1.3)[0]
    assert {*nearest.groups_first, *nearest.groups_second} == {"1", "8"}
    pixels = data.images.clone()
    (three,), (five,) = (data.grouping.forget([name])[:1] for name in "35")
    pixels[five] = (pixels[three].int() + 8).clamp(0, 255).to(torch.uint8)
    (found,) = near_duplicates(pixels, data.grouping)
    assert {found.first, found.second} == {three, five}


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (torch.zeros(3, 1, 2, 2), "torch.float32 of shape (3, 1, 2, 2)"),
        (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), "torch.uint8 of shape (4, 1, 2, 2)"),
        (torch.zeros(3, 4, dtype=torch.uint8), "torch.uint8 of shape (3, 4)"),
    ],
)
def test_images_of_other_groups_are_refused(pixels: Tensor, found: str, message: Message) -> None:
    expected = message(
        "the images do not fit the groups",
        found,
        "torch.uint8 of shape (3, channels, height, width)",
        "take both from one GroupDataModule",
    )
    with pytest.raises(ConfigError, match=expected):
        near_duplicates(pixels, Grouping({"a": [0]}, 3))


@pytest.mark.parametrize("within", [0.0, -1.0, math.inf, math.nan])
def test_a_share_that_makes_no_sense_is_refused(within: float, message: Message) -> None:
    expected = message("within is out of range", within, "0 < within < inf", "take 0.25")
    with pytest.raises(ConfigError, match=expected):
        near_duplicates(images(3), Grouping({"a": [0]}, 3), within)
