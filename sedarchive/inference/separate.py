"""A feature of one window size against a metric at the same windows alone, as the authors of SED correlate them.

Both series hold one point a window and are detrended over these points. The default (:mod:`.coupling`) compares all
window sizes with one stretch of the metric instead, so that their surrogates, and a flip between them, have one null.
Surrogates are cut here from those of the whole metric, so that those of several sizes belong together all the same.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.correlation import correlation_p, effective_size, effective_size_xu, fisher_interval, lag_one
from sedarchive.inference.lags import Peaks, overlap
from sedarchive.inference.significance import Flip
from sedarchive.inference.standing import Standing
from sedarchive.inference.trends import DEGREES, without_trend
from sedarchive.presets import LagSearch

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_FLAT = 1e-20
"""Energy of what is no more than rounding, over that of the series."""


@dataclass(frozen=True)
class SeparateScan:
    """Correlations of one feature with a metric at every lag of a search, and the peaks."""

    search: LagSearch
    lags: Counts
    """(n_lags,), ascending."""
    r: Floats
    """With the metric itself (n_lags,); NaN where too few pairs, or one of the two is constant."""
    n: Counts
    """Pairs (n_lags,)."""
    n_eff: Floats
    n_eff_xu: Floats
    """Effective pairs (n_lags,), and as the authors count them."""
    peaks: Peaks
    """With every version of the metric (1, versions)."""

    @property
    def at(self) -> int:
        """Place of the peak among the lags; 0 if there is none."""
        return int(self.peaks.lag[0, 0]) - self.search.first_lag if np.isfinite(self.peaks.r[0, 0]) else 0

    @property
    def status(self) -> str:
        """Why the peak is none: too_few, constant, wrong_sign or border; ok."""
        usable = np.flatnonzero(self.n >= self.search.fewest_pairs)
        r = float(self.peaks.r[0, 0])
        if not len(usable):
            return "too_few"
        if np.isnan(r):
            return "constant"
        if r >= 0 and self.search.peak_rule == "negative":
            return "wrong_sign"
        return "border" if self.at in (usable[0], usable[-1]) else "ok"

    @property
    def standing(self) -> Standing:
        """How far the peak stands out of those of the surrogates."""
        return self.peaks.standing

    def p_xu(self) -> Floats:
        """Return the authors' p-value at every lag (n_lags,)."""
        return correlation_p(self.r, self.n_eff_xu)

    def interval(self) -> tuple[Floats, Floats]:
        """95 % interval of r at every lag (n_lags,), not corrected for a choice among them."""
        return fisher_interval(self.r, self.n_eff)


def scan_separately(features: Floats, metric: Floats, steps: Floats, search: LagSearch) -> list[SeparateScan]:
    """Correlate each feature with all versions of a metric over the lags of a search.

    Parameters
    ----------
    features
        One series a row, one point a window (m, n); NaN where it has no value.
    metric
        Versions of the metric at the same windows (v, n) without gaps: itself, then its surrogates.
    steps
        Step of each window (n,).
    search
        Detrending, lags and rule; of several lags with the same r the first is the peak, as in the authors' scripts.
    """
    degree = DEGREES[search.detrend]
    x, y = without_trend(features, steps, degree), without_trend(metric, steps, degree)
    lags = np.arange(search.first_lag, search.last_lag + 1)
    r = np.full((len(x), len(metric), len(lags)), np.nan)
    n = np.zeros((len(x), len(lags)), dtype=np.int64)
    n_eff, n_eff_xu = np.full((2, *n.shape), np.nan)
    for at, lag in enumerate(lags):
        pairs = overlap(x.shape[1], x.shape[1], int(lag))
        some, others = x[:, pairs.features], y[:, pairs.metric]
        n[:, at] = np.count_nonzero(np.isfinite(some), axis=1)
        enough = n[:, at] >= search.fewest_pairs
        if enough.any():
            r[enough, :, at] = _pearson(some[enough], others)
            own, its = lag_one(some[enough]), lag_one(others[:1])
            n_eff[enough, at] = effective_size(n[enough, at], own, its)
            n_eff_xu[enough, at] = effective_size_xu(n[enough, at], own, its)
    peaks = [_peaks(versions, lags, search.peak_rule) for versions in r]
    parts = zip(r[:, 0], n, n_eff, n_eff_xu, peaks, strict=True)
    return [SeparateScan(search, lags, *part) for part in parts]


def flip_between(smaller: SeparateScan, larger: SeparateScan) -> Flip:
    """Whether the peak lags at two window sizes have opposite signs, and how often surrogates do as strongly.

    As :func:`.significance.lag_flip`: a flip is as strong as the weaker peak, and peaks at the border are none.
    """
    lags = smaller.peaks.lag * larger.peaks.lag
    opposite = (lags < 0) & _inside(smaller) & _inside(larger)
    return Flip.of(opposite, [smaller.standing, larger.standing])


def _inside(scan: SeparateScan) -> NDArray[np.bool_]:
    usable = scan.lags[scan.n >= scan.search.fewest_pairs]
    if not len(usable):
        return np.zeros(scan.peaks.lag.shape, dtype=bool)
    inside = (scan.peaks.lag > usable[0]) & (scan.peaks.lag < usable[-1]) & np.isfinite(scan.peaks.r)
    return np.asarray(inside & (scan.peaks.r < 0) if scan.search.peak_rule == "negative" else inside)


def _pearson(features: Floats, others: Floats) -> Floats:
    """Correlation (m, v) of features (m, n) with others (v, n) where they have values; NaN if one is constant there."""
    known = np.isfinite(features)
    x, n = np.where(known, features, 0.0), known.sum(axis=1, keepdims=True)
    weights = known.astype(np.float64)
    centred = np.where(known, x - x.sum(axis=1, keepdims=True) / n, 0.0)
    sums, squares = weights @ others.T, weights @ (others**2).T
    energy_x, energy_y = (centred**2).sum(axis=1, keepdims=True), squares - sums**2 / n
    varied = (energy_x > _FLAT * (x**2).sum(axis=1, keepdims=True)) & (energy_y > _FLAT * squares)
    with np.errstate(invalid="ignore", divide="ignore"):
        r = np.clip(centred @ others.T / np.sqrt(energy_x * energy_y), -1.0, 1.0)
    return np.where(varied, r, np.nan)


def _peaks(r: Floats, lags: Counts, rule: str) -> Peaks:
    """Peak of each version, from correlations (v, n_lags)."""
    merit = np.where(np.isnan(r), -np.inf, np.abs(r) if rule == "abs" else -r)
    at = np.argmax(merit, axis=1)
    found = r[np.arange(len(r)), at]
    return Peaks(rule, found[None], np.where(np.isnan(found), 0, lags[at])[None])
