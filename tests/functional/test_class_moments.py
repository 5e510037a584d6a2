from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from guda_lightning.functional import class_moments
from guda_lightning.functional.class_moments import ClassMoments


def drawn(seed: int, samples: int, number: int, levels: int = 2, size: int = 3) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(levels, samples, size, generator=generator, dtype=torch.float64)
    return features, torch.randint(number, (samples,), generator=generator)


def assert_equal(one: ClassMoments, other: ClassMoments) -> None:
    for name in ("count", "mean", "scatter"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-9, rtol=1e-9)


@given(seed=st.integers(0, 999), samples=st.integers(0, 40), number=st.integers(1, 5))
def test_moments_are_those_of_every_class_by_itself(seed: int, samples: int, number: int) -> None:
    features, classes = drawn(seed, samples, number)
    found = ClassMoments.of(features, classes, number)
    assert found.count.tolist() == [int((classes == one).sum()) for one in range(number)]
    for one in range(number):
        own = features[:, classes == one].numpy()
        for level in range(2):
            mean = own[level].mean(axis=0) if own.shape[1] else np.zeros(3)
            np.testing.assert_allclose(found.mean[level, one], mean, atol=1e-9)
            scatter = (own[level] - mean).T @ (own[level] - mean)
            np.testing.assert_allclose(found.scatter[level, one], scatter, atol=1e-9)


@given(seed=st.integers(0, 999), samples=st.integers(1, 40), number=st.integers(2, 5))
def test_classes_are_taken_and_put_together(seed: int, samples: int, number: int) -> None:
    features, classes = drawn(seed, samples, number)
    every = ClassMoments.of(features, classes, number)
    first, rest = every.take(torch.arange(1)), every.take(torch.arange(1, number))
    assert_equal(first.together(rest), every)
    alone = ClassMoments.of(features[:, classes == 0], classes[classes == 0], 1)
    assert_equal(first, alone)


@given(seed=st.integers(0, 999), number=st.integers(2, 5))
def test_many_classes_share_their_scatter(seed: int, number: int) -> None:
    features, classes = drawn(seed, 40, number)
    own = ClassMoments.of(features, classes, number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(class_moments, "_MOST", 17)  # of 2 levels x 2 or more classes x 3 x 3 numbers
        shared = ClassMoments.of(features, classes, number)
        assert shared.shared and not own.shared
        torch.testing.assert_close(shared.scatter, own.scatter.sum(dim=1, keepdim=True))
        assert_equal(own.together(own), shared.together(shared))
        half = shared.take(torch.arange(1))
    torch.testing.assert_close(half.covariance(), shared.covariance())


def test_virtual_features_have_the_moments_of_their_class() -> None:
    features, classes = drawn(0, 4000, 2)
    features[:, classes == 1] *= torch.tensor([2.0, 1, 0.5])
    features[:, classes == 1] += torch.tensor([3.0, 0, -1])
    moments = ClassMoments.of(features, classes, 2)
    drawn_again = moments.virtual(torch.tensor([5000, 5000]), seed=1)
    virtual = drawn_again.unflatten(1, (2, 5000))
    assert virtual.shape == (2, 2, 5000, 3)
    torch.testing.assert_close(virtual.mean(dim=2), moments.mean, atol=0.1, rtol=0)
    covariance = torch.stack([torch.stack([one.T.cov() for one in level]) for level in virtual])
    torch.testing.assert_close(covariance, moments.scatter / moments.count[:, None, None], atol=0.2, rtol=0)
    assert torch.equal(drawn_again, moments.virtual(torch.tensor([5000, 5000]), seed=1))
    assert moments.virtual(torch.tensor([2, 0]), seed=1).shape == (2, 2, 3)


def test_a_class_of_one_feature_has_the_covariance_of_all() -> None:
    features, classes = drawn(0, 100, 1)
    features = torch.cat([features, torch.full((2, 1, 3), 9.0)], dim=1)
    moments = ClassMoments.of(features, torch.cat([classes, torch.ones(1, dtype=torch.int64)]), 2)
    within = moments.scatter.sum(dim=1) / 101
    torch.testing.assert_close(moments.covariance()[:, 1], within * 3 / 4, rtol=1e-3, atol=1e-3)
    assert bool((torch.linalg.eigvalsh(moments.covariance()) > 0).all())


def test_moments_go_into_a_file_and_come_back() -> None:
    moments = ClassMoments.of(*drawn(0, 20, 3), 3)
    again = ClassMoments.from_tensors(moments.to_tensors())
    torch.testing.assert_close(again.scatter, moments.scatter, atol=1e-5, rtol=1e-5)
    assert again.mean.dtype == torch.float64
