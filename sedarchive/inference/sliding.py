"""Sliding correlations of a feature with a metric, beside the band that a run's largest and smallest keep to."""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WIDTHS = (7, 11)
"""Points of a sliding correlation: the authors' two."""
_BLOCK = 12
_FLAT = 1e-20


@dataclass(frozen=True)
class SlidingBand:
    """Extremes of a feature's sliding correlations over a run, with their null."""

    r: Floats
    """At each centre (n - width + 1,); NaN where one of the two is constant or missing."""
    lowest: float
    highest: float
    """Extremes of r; NaN if there are none."""
    null_low: float
    """2.5 % quantile of the lowest in the surrogates: 95 % of runs of noise stay above it, and below the other."""
    null_high: float
    """97.5 % quantile of the highest in the surrogates."""
    p_low: float
    """Share of surrogates whose lowest is as low."""
    p_high: float
    """Share of surrogates whose highest is as high."""


def sliding_bands(features: Floats, metric: Floats, width: int) -> list[SlidingBand]:
    """Slide windows of ``width`` points over features and a metric.

    Parameters
    ----------
    features
        One series a row (m, n); NaN where it has no value.
    metric
        Versions of the metric at the same points (v, n): itself, then its surrogates.
    width
        Points of a window, at least 3.

    Returns
    -------
    list
        One band a feature. Correlations with the surrogates are good to 1e-6 (single precision).
    """
    r = np.full((len(features), max(features.shape[1] - width + 1, 0)), np.nan)
    shape = (len(features), max(len(metric) - 1, 0))
    low, high = np.full(shape, np.inf, np.float32), np.full(shape, -np.inf, np.float32)
    room = np.empty((_BLOCK, _BLOCK, shape[1]), dtype=np.float32)
    columns = [np.ascontiguousarray(one.T) for one in (features, metric)]  # what is taken at once lies together
    for centres in _blocks(r.shape[1]):
        x, y = (_standardised(one[centres.start : centres.stop + width - 1], width) for one in columns)
        r[:, centres] = (y[:, None, :, 0] @ x)[:, 0].T
        one, others = x.swapaxes(1, 2).astype(np.float32), y[:, :, 1:].astype(np.float32)
        for rows in _blocks(len(features)):
            found = np.matmul(one[:, rows], others, out=room[: len(one), : rows.stop - rows.start])
            low[rows] = np.fmin(low[rows], np.fmin.reduce(found, axis=0))
            high[rows] = np.fmax(high[rows], np.fmax.reduce(found, axis=0))
    lowest, highest = _known(low), _known(high)
    ends = np.stack([_quantile(lowest, 0.025), _quantile(highest, 0.975)], axis=1)
    return [_band(*parts) for parts in zip(r, lowest, highest, ends, strict=True)]


def _quantile(rows: Floats, level: float) -> Floats:
    """Quantile of each row (m, draws), of the values that are there; NaN for a row without any."""
    found = np.full(len(rows), np.nan)
    there = np.isfinite(rows)
    whole: NDArray[np.bool_] = np.asarray(there.all(axis=1) & there.any(axis=1))
    if whole.any():
        found[whole] = np.quantile(rows[whole], level, axis=1)
    for at in np.flatnonzero(there.any(axis=1) & ~whole):
        found[at] = np.nanquantile(rows[at], level)
    return found


def _known(extremes: NDArray[np.float32]) -> Floats:
    return np.where(np.isfinite(extremes), extremes, np.nan).astype(np.float64)


def _blocks(n: int) -> list[slice]:
    """Of n centres, or features, those that are taken at once, so that their correlations stay in the cache."""
    return [slice(start, min(start + _BLOCK, n)) for start in range(0, n, _BLOCK)]


def _standardised(columns: Floats, width: int) -> Floats:
    """All stretches (n - width + 1, width, m) of columns (n, m), of mean 0 and sum of squares 1; NaN where constant."""
    stretches = sliding_window_view(columns, width, axis=0).swapaxes(1, 2)
    mean = stretches.mean(axis=1, keepdims=True)
    standardised = stretches - mean
    energy = np.einsum("nwm,nwm->nm", standardised, standardised)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        standardised *= np.where(energy > _FLAT * width * mean**2, 1 / np.sqrt(energy), np.nan)
    return np.asarray(standardised)


def _band(r: Floats, low: Floats, high: Floats, ends: Floats) -> SlidingBand:
    """Extremes of r (n,) beside those of the surrogates (draws,), whose band has two ends."""
    known = r[np.isfinite(r)]
    lowest, highest = (float(known.min()), float(known.max())) if len(known) else (np.nan, np.nan)
    if not len(known) or not len(low):
        return SlidingBand(r, lowest, highest, *([float("nan")] * 4))
    null_low, null_high = ends
    p_low = (1 + np.count_nonzero(low <= lowest)) / (1 + len(low))
    p_high = (1 + np.count_nonzero(high >= highest)) / (1 + len(high))
    return SlidingBand(r, lowest, highest, float(null_low), float(null_high), p_low, p_high)
