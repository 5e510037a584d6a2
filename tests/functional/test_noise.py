from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from scipy import stats

from guda_lightning.functional.noise import _uniform, gaussian_noise, query_key, seed_of, uniform_draws

MASK = 2**64 - 1
GOLDEN_NOISE = [
    [[0.842749238, 0.962021649], [-1.81501555, -1.78924406]],
    [[-0.976044118, 0.463187814], [-0.35712862, 0.282491833]],
]
GOLDEN_UNIFORM = [[0.8662826718813587, 0.6171017215065687], [0.5942477298316805, 0.4944102877822124]]


def philox4x64(key: list[int], counter: list[int]) -> list[int]:
    """Philox-4×64-10 written from the paper (Salmon et al., SC 2011, section 3.3)."""
    (k0, k1), (c0, c1, c2, c3) = key, counter
    for _ in range(10):
        p0, p1 = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (p1 >> 64) ^ c1 ^ k0, p1 & MASK, (p0 >> 64) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return [c0, c1, c2, c3]


def reference_uniform(seed: int, query: str, purpose: int, index: int, draw: int, count: int) -> list[float]:
    digest = hashlib.sha256(f"{seed}\0{query}".encode()).digest()
    key = [int.from_bytes(digest[0:8], "little"), int.from_bytes(digest[8:16], "little")]
    words: list[int] = []
    for block in range(1, count // 4 + 2):
        words += philox4x64(key, [block, index, draw, purpose])
    return [((word >> 12) + 0.5) / 2**52 for word in words[:count]]


def one(seed: int = 0, query: str = "q", t: int = 1, draw: int = 0, size: int = 512) -> torch.Tensor:
    return gaussian_noise(seed, [query], torch.tensor([t]), torch.tensor([draw]), (size,))[0]


@pytest.mark.parametrize(
    ("seed", "query", "t", "draw"), [(0, "a", 1, 0), (7, "β/ü", 999, 3), (2**40, "", 0, 1)]
)
def test_noise_is_inverse_cdf_of_philox_words(seed: int, query: str, t: int, draw: int) -> None:
    expected = stats.norm.ppf(reference_uniform(seed, query, 0, t, draw, 11))
    np.testing.assert_allclose(one(seed, query, t, draw, 11).numpy(), expected, rtol=1e-6)


def test_timestep_draws_are_philox_words_of_their_own() -> None:
    ours = uniform_draws(3, "query", num_strata=4, num_draws=6)
    assert ours.tolist() == [reference_uniform(3, "query", 1, stratum, 0, 6) for stratum in range(4)]


def test_numbers_of_released_versions_stay() -> None:
    noise = gaussian_noise(0, ["cat", "dog"], torch.tensor([1, 500]), torch.tensor([0, 2]), (2, 2))
    np.testing.assert_allclose(noise.numpy(), GOLDEN_NOISE, rtol=1e-6)
    np.testing.assert_allclose(uniform_draws(0, "cat", 2, 2), GOLDEN_UNIFORM, rtol=1e-15)


def test_the_same_key_gives_the_same_bits_in_any_batch() -> None:
    queries, shape = [f"q{i}" for i in range(6)], (3, 4, 4)
    t, draws = torch.tensor([1, 5, 9, 1, 5, 9]), torch.tensor([0, 0, 0, 1, 1, 1])
    batch = gaussian_noise(1, queries, t, draws, shape)
    assert batch.dtype == torch.float32
    assert batch.shape == (6, 3, 4, 4)
    order = [3, 0, 5, 1, 4, 2]
    shuffled = gaussian_noise(1, [queries[i] for i in order], t[order], draws[order], shape)
    assert torch.equal(shuffled, batch[order])
    for i in range(6):
        assert torch.equal(
            gaussian_noise(1, [queries[i]], t[i : i + 1], draws[i : i + 1], shape)[0], batch[i]
        )


def test_draws_do_not_depend_on_how_many_are_asked_for() -> None:
    few, many = uniform_draws(5, "q", 3, 2), uniform_draws(5, "q", 8, 16)
    assert np.array_equal(few, many[:3, :2])
    assert torch.equal(one(size=10), one(size=100)[:10])


def test_every_part_of_the_key_changes_the_noise() -> None:
    samples = torch.stack([one(), one(seed=1), one(query="r"), one(t=2), one(draw=1), one(t=0, draw=1)])
    limit = 5 / samples.shape[1] ** 0.5
    correlation = torch.corrcoef(samples) - torch.eye(len(samples))
    assert correlation.abs().max() < limit


def test_seed_and_query_do_not_run_into_each_other() -> None:
    keys = {tuple(query_key(seed, query)) for seed, query in [(1, "1"), (11, ""), (1, "\x001"), (11, "1")]}
    assert len(keys) == 4


def test_noise_is_standard_normal() -> None:
    rows = 400
    noise = gaussian_noise(2, ["q"] * rows, torch.arange(rows), torch.zeros(rows).long(), (500,)).double()
    values, count = noise.flatten(), noise.numel()
    assert abs(values.mean()) < 4 / count**0.5
    assert abs(values.var() - 1) < 4 * (2 / count) ** 0.5
    assert stats.kstest(values.numpy(), "norm").pvalue > 0.01
    # each row's mean and energy is right on its own: blocks do not repeat or overlap
    assert stats.kstest((noise.mean(dim=1) * 500**0.5).numpy(), "norm").pvalue > 0.01
    assert stats.kstest(noise.square().sum(dim=1).numpy(), stats.chi2(500).cdf).pvalue > 0.01
    assert values.unique().numel() > 0.95 * count


def test_noise_is_independent_across_keys() -> None:
    rows, size = 60, 2000
    for queries, t, draws in [
        ([f"q{i}" for i in range(rows)], torch.ones(rows), torch.zeros(rows)),
        (["q"] * rows, torch.arange(rows), torch.zeros(rows)),
        (["q"] * rows, torch.ones(rows), torch.arange(rows)),
    ]:
        noise = gaussian_noise(0, queries, t.long(), draws.long(), (size,))
        upper = torch.corrcoef(noise)[tuple(torch.triu_indices(rows, rows, 1))] * size**0.5
        assert stats.kstest(upper.numpy(), "norm").pvalue > 0.01
        # and one key's numbers do not foretell their neighbours
        lagged = (noise[:, 1:] * noise[:, :-1]).mean(dim=1) * size**0.5
        assert stats.kstest(lagged.numpy(), "norm").pvalue > 0.01


def test_timestep_draws_are_uniform_and_independent_of_the_noise() -> None:
    draws = np.stack([uniform_draws(0, f"q{i}", 5, 4) for i in range(1000)])
    assert stats.kstest(draws.ravel(), "uniform").pvalue > 0.01
    correlation = np.corrcoef(draws.reshape(1000, -1).T) - np.eye(20)
    assert np.abs(correlation).max() < 5 / 1000**0.5
    first = torch.stack([one(query=f"q{i}", t=0, size=1)[0] for i in range(1000)]).numpy()
    assert abs(np.corrcoef(first, draws[:, 0, 0])[0, 1]) < 4 / 1000**0.5


def test_no_word_reaches_the_ends_of_the_interval() -> None:
    extremes = _uniform(np.array([0, MASK], dtype=np.uint64))
    assert 0 < extremes[0] < extremes[1] < 1
    assert np.isfinite(stats.norm.ppf(extremes)).all()
    # a stratum of any size is never left on its far side
    sizes = np.arange(1, 5000)
    assert (np.floor(extremes[1] * sizes) == sizes - 1).all()


def test_a_seed_is_the_leading_bits_of_the_hash_of_its_key() -> None:
    digest = hashlib.sha256(b"0 3 7 rank 1").hexdigest()
    assert seed_of("0 3 7 rank 1") == int(digest[:14], 16)
    assert seed_of("0 3 7 rank 1", bits=28) == int(digest[:7], 16)
