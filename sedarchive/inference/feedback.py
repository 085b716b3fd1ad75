"""Do gap and stability feed each other, and does one gap matter more than all others? Correlations with surrogates.

Both are claims of the "Spectral Edge Thesis" (arXiv 2603.28964). Windows overlap, so that series of them are smooth and
naive p-values mean nothing: here one series meets surrogates of it with the same spectrum (:mod:`.surrogates`), and the
largest |r| over everything searched (lags, or positions k) is what an observed one must exceed. Circular shifts would
not do: a search of 21 lags leaves some hundred points too few that are independent, and they reject 10 %.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.surrogates import random_phases

Floats = NDArray[np.float64]

DRAWS = 499
MIN_POINTS = 20
"""Points below which nothing is correlated."""


@dataclass(frozen=True)
class Correlations:
    """Correlation of several features with one target."""

    r: Floats
    """Pearson's, after a straight line is taken out of each (m,); NaN where a feature is unknown or constant."""
    p: Floats
    """(1 + surrogates whose largest |r| reaches this one's) / (1 + surrogates) (m,)."""
    n: int
    """Points."""

    @property
    def strongest(self) -> int:
        """Place of the largest |r|; -1 if all are unknown."""
        return int(np.nanargmax(np.abs(self.r))) if np.isfinite(self.r).any() else -1


def correlations(
    features: Floats, target: Floats, allowance: Floats | float = 0.0, draws: int = DRAWS, seed: int = 0
) -> Correlations:
    """Correlate features with a target, against surrogates of it.

    Parameters
    ----------
    features
        (m, n); a feature with a NaN at a point where the target is known is left out.
    target
        (n,); points where it is NaN are left out.
    allowance
        What of |r| each feature has by construction (m,): p is of what exceeds it.
    draws, seed
        Number of surrogates, and the seed.
    """
    return paired_correlations(features, target[None], allowance, draws, seed)


def paired_correlations(
    features: Floats, targets: Floats, allowance: Floats | float = 0.0, draws: int = DRAWS, seed: int = 0
) -> Correlations:
    """Correlate each feature with a target of its own, against surrogates of all targets by the same random phases.

    Parameters
    ----------
    features
        (m, n); one with a NaN, in it or in its target, at a point where some target is known is left out.
    targets
        (m, n), or (1, n) for one that all share; points where all are NaN are left out.
    allowance, draws, seed
        As for :func:`correlations`.
    """
    known = np.isfinite(targets).any(axis=0)
    n = int(known.sum())
    usable = np.isfinite(features[:, known] + targets[:, known]).all(axis=1)
    r, p = np.full(len(features), np.nan), np.full(len(features), np.nan)
    if n < MIN_POINTS or not usable.any():
        return Correlations(r, p, n)
    own = targets if len(targets) == 1 else targets[usable]
    x, y = _standard(features[usable][:, known]), _standard(own[:, known])
    r[usable] = (x * y).sum(axis=1) / n
    if np.isfinite(r).any():
        largest = _largest_of_surrogates(x, y, draws, seed)
        excess = np.abs(r) - allowance
        reached = (largest >= excess[:, None] - 1e-12).sum(axis=1)
        p[:] = np.where(np.isfinite(r), (1 + reached) / (1 + draws), np.nan)
    return Correlations(r, p, n)


def _largest_of_surrogates(x: Floats, y: Floats, draws: int, seed: int) -> Floats:
    """Largest |r| of any feature with the surrogates of its target (draws,); x (m, n), y (m, n) or (1, n).

    All surrogates of a draw have the same random phases, and products of series are sums over their Fourier
    coefficients: no surrogate is made. As of the series themselves, a straight line is taken out of each.
    """
    n = x.shape[1]
    phases = random_phases(n, draws, seed)
    amplitude = np.abs(np.fft.rfft(y))
    line = np.linspace(-1, 1, n)
    along_line = _products(line[None] / np.sqrt(line @ line), amplitude, phases)
    energy = (y**2).sum(axis=1, keepdims=True) - along_line**2
    r = _products(x, amplitude, phases) / np.sqrt(n * energy)
    return np.asarray(np.fmax.reduce(np.abs(r), axis=0, initial=0.0))


def _products(series: Floats, amplitude: Floats, phases: NDArray[np.complex128]) -> Floats:
    """Inner products (m, draws) of series with those of given amplitudes and phases; either may be one for all."""
    n = series.shape[1]
    counts = np.full(n // 2 + 1, 2.0)
    counts[0] = 0.0  # means are 0
    if n % 2 == 0:
        counts[-1] = 1.0
    weighted = np.fft.rfft(series) * (amplitude * counts)
    # the real part of x* y is the inner product of both as pairs of real numbers, half the work of a complex product
    found: Floats = weighted.view(np.float64) @ phases.view(np.float64).T / n
    return found


def lagged(series: Floats, reach: int) -> Floats:
    """Return copies (2 reach + 1, n) of a series (n,), lag -reach first; row of lag l holds the value l points before.

    Against a target, a positive lag means that this series leads.
    """
    n = len(series)
    copies = np.full((2 * reach + 1, n), np.nan)
    for row, lag in enumerate(range(-reach, reach + 1)):
        if abs(lag) >= n:
            continue
        copies[row, max(lag, 0) : n + min(lag, 0)] = series[max(-lag, 0) : n - max(lag, 0)]
    return copies


def _standard(values: Floats) -> Floats:
    """Values (m, n) less their straight line, of mean 0 and variance 1; NaN where nothing is left."""
    time = np.linspace(-1, 1, values.shape[1])
    rest = values - values.mean(axis=1, keepdims=True)
    rest = rest - (rest @ time / (time @ time))[:, None] * time
    scale = np.sqrt((rest**2).mean(axis=1, keepdims=True))
    size = np.sqrt((values**2).mean(axis=1, keepdims=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(scale > 1e-12 * size, rest / scale, np.nan)
