"""Surrogates of a logged metric: series with its trend and its spectrum that know nothing of the geometry.

Every surrogate keeps the trend (a cubic in step, and a learning rate if one is given) and the modulus of each Fourier
coefficient of what is left, and draws the phases anew. Whatever two series share beyond their trends, they share by
their phases; the test is exact where one of the two is stationary on a circle, and its error comes from the ends
alone, which the removed trend keeps small. Only the metric is redrawn: a feature, many features, several scopes and
window sizes meet the same surrogates, so that the largest of all their correlations has its own null.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.trends import residuals, trend_basis

Floats = NDArray[np.float64]

DRAWS = 999
KEPT_DEGREE = 3
"""Degree of the trend that surrogates keep."""
_KEPT_PHASES = 16
"""All scopes meet the same phases at a window size: 3 MB a length of 400 points."""


def phase_randomised(series: Floats, draws: int, seed: int) -> Floats:
    """Series (draws, n) with the amplitudes of a series (n,) and random phases; mean 0."""
    amplitude = np.abs(np.fft.rfft(series - series.mean()))
    return np.asarray(np.fft.irfft(amplitude * random_phases(len(series), draws, seed), len(series), axis=1))


@lru_cache(maxsize=_KEPT_PHASES)
def random_phases(n: int, draws: int, seed: int) -> NDArray[np.complex128]:
    """Turns (draws, n // 2 + 1) of the Fourier coefficients of real series of n points; read-only."""
    generator = np.random.default_rng(seed)
    turns: NDArray[np.complex128] = np.exp(2j * np.pi * generator.random((draws, n // 2 + 1)))
    if n % 2 == 0:  # the coefficient at half the sampling rate is real
        turns[:, -1] = np.where(generator.random(draws) < 0.5, -1.0, 1.0)
    turns.setflags(write=False)
    return turns


def surrogates(
    series: Floats, steps: Floats, draws: int = DRAWS, seed: int = 0, covariates: Sequence[Floats] = ()
) -> Floats:
    """The series itself and its surrogates (1 + draws, n).

    Parameters
    ----------
    series, steps
        A metric without gaps, and the step of each value (n,).
    draws, seed
        Number of surrogates, and the seed of numpy's generator: equal seeds and lengths draw equal phases.
    covariates
        Series (n,) whose linear effect stays, like that of the cubic in step.
    """
    if not len(series):
        return np.empty((1 + draws, 0))
    basis = trend_basis(steps, KEPT_DEGREE, covariates)
    left = residuals(series[None], basis)[0]
    drawn = phase_randomised(left, draws, seed)
    return np.concatenate([series[None], (series - left) + drawn])
