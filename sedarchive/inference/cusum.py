"""The self-normalised CUSUM statistic of a change point, and what noise of overlapping windows gives it."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

CHUNK_NUMBERS = 2**16
"""Numbers of all series of noise that are held at once."""
_LONG_ROW = 32


def cusum_statistic(series: Floats, trim: int) -> Floats:
    """Return the largest self-normalised CUSUM statistic (...) of series (..., n) over the splits trim .. n - trim."""
    values = np.moveaxis(series, -1, 0)
    n, nearest = len(values), max(trim, 2)
    # all partial sums but the last, which is 0; a split at s leaves s values before it, whose sum is at s - 1
    sums = _accumulated(values - values.mean(axis=0))[:-1]
    spread = _partial_sum_energy(sums)
    spread += _partial_sum_energy(sums[::-1])[::-1]  # what comes later has the same sums with the other sign
    spread, total = spread[nearest - 1 : n - nearest], sums[nearest - 1 : n - nearest] ** 2
    floor = np.finfo(np.float64).eps * (total + spread).max(axis=0) + np.finfo(np.float64).tiny
    largest: Floats = n * (total / np.maximum(spread, floor)).max(axis=0)
    return largest


def window_noise(n: int, window_size: int, draws: int, generator: np.random.Generator) -> Floats:
    """Return white noise averaged over W updates (draws, n), of unit variance."""
    steps = generator.standard_normal((draws, n + window_size))
    total = _accumulated(np.ascontiguousarray(steps.T))
    noise: Floats = (total[window_size:] - total[:-window_size]) / np.sqrt(window_size)
    return noise.T


@lru_cache(maxsize=64)
def noise_statistics(n: int, window_size: int, draws: int, seed: int) -> Floats:
    """Return the statistics (draws,) of noise averaged over W updates, at a length n."""
    generator = np.random.default_rng(seed)
    at_once = max(CHUNK_NUMBERS // n, 1)
    sizes = [min(at_once, draws - first) for first in range(0, draws, at_once)]
    return np.concatenate(
        [cusum_statistic(window_noise(n, window_size, size, generator), window_size) for size in sizes]
    )


def _accumulated(values: Floats) -> Floats:
    """Turn values (n, ...) into their running sums, in place; long rows take ``np.cumsum`` several times as long."""
    if values[0].size < _LONG_ROW:
        return np.cumsum(values, axis=0, out=values)
    for before, row in pairwise(values):
        row += before
    return values


def _partial_sum_energy(sums: Floats) -> Floats:
    """Return sum_{t <= k} (S_t - (t / k) S_k)² (n, ...) for every k, from the partial sums S (n, ...)."""
    k = np.arange(1, len(sums) + 1, dtype=np.float64).reshape(-1, *[1] * (sums.ndim - 1))
    energy, mean = _accumulated(sums**2), sums / k
    correction = 2 * _accumulated(k * sums)
    correction -= mean * (k * (k + 1) * (2 * k + 1) / 6)
    correction *= mean
    energy -= correction
    return np.maximum(energy, 0.0, out=energy)
