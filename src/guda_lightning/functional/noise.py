"""Counter-based randomness: a number is a pure function of what it belongs to.

A score must not depend on batch size, order, rank or device, so nothing that a score uses is drawn
from a stream. Every (seed, query, timestep, draw) owns a block of the Philox generator: the seed and
the query make the key, the timestep and the draw the counter (Salmon et al., SC 2011). What stands for a
query is the content of its image (``Queries.noise_keys``), so that its score does not depend on its name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_NOISE, _TIMESTEP = 0, 1  # separate counters, so that a timestep and its noise are independent


def query_key(seed: int, key: str) -> NDArray[np.uint64]:
    """The 128-bit Philox key of a query, or of another purpose, under a seed."""
    digest = hashlib.sha256(f"{seed}\0{key}".encode()).digest()
    return np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)


def seed_of(key: str, bits: int = 56) -> int:
    """A seed that is a pure function of a text: the leading bits of its sha256.

    Args:
        key: What the randomness belongs to.
        bits: Bits of the seed; at most 63 for torch.
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest(), "big") >> (256 - bits)


class _Philox:
    """One generator that is set to the block of each owner in turn: to make one costs four times as much."""

    def __init__(self) -> None:
        self._generator = np.random.Philox(key=0)
        self._state = self._generator.state  # with nothing drawn yet

    def words(
        self, key: NDArray[np.uint64], purpose: int, index: int, draw: int, count: int
    ) -> NDArray[np.uint64]:
        # Word 0 of the counter runs with the block; the others name the block's owner.
        counter = np.array([0, index, draw, purpose], dtype=np.uint64)
        self._state["state"] = {"counter": counter, "key": key}
        self._generator.state = self._state
        return self._generator.random_raw(count)


def _uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Uniform in the open interval (0, 1), from the 52 high bits: with 53 the half would round up to 1."""
    uniform = (words >> np.uint64(12)).astype(np.float64)
    uniform += 0.5
    uniform *= 2.0**-52
    return uniform


def gaussian_noise(
    seed: int, keys: Sequence[str], timesteps: Tensor, draws: Tensor, shape: Sequence[int]
) -> Tensor:
    """Standard normal noise for a batch of (query, timestep, draw).

    Args:
        seed: Seed of the whole scoring.
        keys: ``batch`` keys of queries, such as ``Queries.noise_keys``.
        timesteps: ``[batch]`` int64.
        draws: ``[batch]`` int64.
        shape: Shape of one sample.

    Returns:
        ``[batch, *shape]`` float32 on the CPU. Inverse-CDF of raw Philox words rather than a library's
        normal sampler, whose stream may change between versions.
    """
    size = int(np.prod(shape))
    words = np.empty((len(keys), size), dtype=np.uint64)
    philox, of_query = _Philox(), {key: query_key(seed, key) for key in set(keys)}
    for row, (key, t, draw) in enumerate(zip(keys, timesteps.tolist(), draws.tolist(), strict=True)):
        words[row] = philox.words(of_query[key], _NOISE, t, draw, size)
    normal: Tensor = torch.special.ndtri(torch.from_numpy(_uniform(words)))
    return normal.to(torch.float32).view(len(keys), *shape)


def uniform_draws(seed: int, key: str, num_strata: int, num_draws: int) -> NDArray[np.float64]:
    """One uniform number in (0, 1) per (stratum, draw) of a query, or of what else a key stands for.

    Returns:
        ``[strata, draws]``.
    """
    of_query, philox = query_key(seed, key), _Philox()
    words = [philox.words(of_query, _TIMESTEP, stratum, 0, num_draws) for stratum in range(num_strata)]
    return _uniform(np.stack(words))
