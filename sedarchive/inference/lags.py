"""Correlation of features with a metric at every lag, and its peaks.

A feature and a metric lie on the same grid, one place a checkpoint (or half-way between two). A positive lag means
that the feature leads: it is compared with the metric ``lag`` places later.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.correlation import effective_size, effective_size_xu, lag_one

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

MIN_PAIRS = 8
"""Pairs below which a lag has no correlation."""
MARGIN = 5
"""Checkpoints beyond half the largest window that a search must reach."""
PEAK_RULES = ("abs", "negative")
"""The peak is where |r| is largest, or where r is most negative."""
_FLAT = 1e-12
_TIE = 1e-12


@dataclass(frozen=True)
class Peaks:
    """The peak of each feature against each version of the metric, by one rule."""

    rule: str
    r: Floats
    """(m, versions); NaN if no lag has a correlation."""
    lag: Counts
    """(m, versions); 0 where there is none."""


@dataclass(frozen=True)
class LagScan:
    """Correlations of m features with a metric at all lags, and the peaks with every version of the metric."""

    lags: Counts
    """(n_lags,), ascending."""
    r: Floats
    """With the metric itself, the first version (m, n_lags); NaN where too few pairs, or one of the two is constant."""
    n: Counts
    """Pairs (m, n_lags)."""
    n_eff: Floats
    """Effective pairs (m, n_lags)."""
    n_eff_xu: Floats
    """The same as the authors count (m, n_lags)."""
    peaks: dict[str, Peaks]
    """By rule."""

    def at_peak(self, values: NDArray[Any], rule: str) -> NDArray[Any]:
        """Of values (m, n_lags), those at the peaks with the metric itself (m,)."""
        place = np.searchsorted(self.lags, self.peaks[rule].lag[:, 0])
        return values[np.arange(len(values)), place]

    def first_last(self) -> tuple[Counts, Counts]:
        """First and last lag that has enough pairs, of each feature (m,); (0, -1) if none has."""
        usable = self.n >= MIN_PAIRS
        some = usable.any(axis=1)
        first = self.lags[np.argmax(usable, axis=1)]
        last = self.lags[len(self.lags) - 1 - np.argmax(usable[:, ::-1], axis=1)]
        return np.where(some, first, 0), np.where(some, last, -1)

    def status(self, rule: str) -> list[str]:
        """Why a peak is none: too_few, constant, wrong_sign or border; ok."""
        r, lag = self.peaks[rule].r[:, 0], self.peaks[rule].lag[:, 0]
        first, last = self.first_last()
        flags: dict[str, NDArray[np.bool_]] = {
            "too_few": last < first,
            "constant": np.isnan(r),
            "wrong_sign": (r >= 0) & (rule == "negative"),
            "border": (lag == first) | (lag == last),
        }
        return [str(name) for name in np.select(list(flags.values()), list(flags), "ok")]


def reach_for(largest_window: int) -> int:
    """Lags to search on both sides, for windows of at most so many updates."""
    return -(-largest_window // 2) + MARGIN


def scan_lags(features: Floats, metric: Floats, offset: int, reach: int) -> LagScan:
    """Correlate features with all versions of a metric at the lags -reach to reach.

    Parameters
    ----------
    features
        One series a row (m, n), NaN where it has no value.
    metric
        Versions of the metric (v, places) without gaps: itself, then its surrogates.
    offset
        Place in ``metric`` of the features' first point; may be negative.
    reach
        Largest lag.

    Returns
    -------
    LagScan
        Of several lags with the same r the one nearest to 0 is the peak, the negative one first. Correlations with the
        surrogates are good to 1e-5 (single precision), those with the metric itself to 1e-12.
    """
    lags = np.arange(-reach, reach + 1)
    m = len(features)
    r, sizes, sizes_xu = (np.full((m, len(lags)), np.nan) for _ in range(3))
    n = np.zeros((m, len(lags)), dtype=np.int64)
    x, y = _Features.of(_scaled(features)), _scaled(metric)
    itself, drawn = _Versions.of(y[:1], np.float64), _Versions.of(y[1:], np.float32)
    best = {rule: (_Best.start(m, 1, np.float64), _Best.start(m, len(metric) - 1, np.float32)) for rule in PEAK_RULES}
    for at in sorted(range(len(lags)), key=lambda at: abs(lags[at])):
        pairs = overlap(features.shape[1], metric.shape[1], offset + int(lags[at]))
        part = x.part(pairs.features)
        n[:, at] = part.present.sum(axis=1)
        if part.values.shape[1] < MIN_PAIRS:
            continue
        found = [_correlate(part, versions.part(pairs.metric)) for versions in (itself, drawn)]
        r[:, at] = found[0][:, 0]
        own, its = lag_one(np.where(part.present, part.values, np.nan)), lag_one(y[:1, pairs.metric])
        sizes[:, at], sizes_xu[:, at] = effective_size(n[:, at], own, its), effective_size_xu(n[:, at], own, its)
        for rule, running in best.items():
            for one, correlations in zip(running, found, strict=True):
                one.add(np.abs(correlations) if rule == "abs" else -correlations, correlations, int(lags[at]))
    return LagScan(lags, r, n, sizes, sizes_xu, {rule: _peaks(rule, *running) for rule, running in best.items()})


@dataclass(frozen=True)
class Overlap:
    """Points of the features and places of the metric that make pairs."""

    features: slice
    metric: slice


def overlap(n: int, places: int, offset: int) -> Overlap:
    """Pairs of n points, the first of which stands at place ``offset`` of the metric, which may not exist."""
    first = min(max(0, -offset), n)
    last = max(min(n, places - offset), first)
    return Overlap(slice(first, last), slice(first + offset, last + offset) if last > first else slice(0, 0))


@dataclass(frozen=True)
class _Versions:
    """Versions of a metric (v, n) at some places, and the running sums (v, places + 1) that these are part of."""

    values: NDArray[np.floating[Any]]
    squares: NDArray[np.floating[Any]]
    sums: Floats
    square_sums: Floats
    start: int = 0

    @classmethod
    def of(cls, values: Floats, dtype: type[np.floating[Any]]) -> "_Versions":
        zero = np.zeros((len(values), 1))
        sums, square_sums = (np.concatenate([zero, np.cumsum(one, axis=1)], axis=1) for one in (values, values**2))
        return cls(values.astype(dtype), (values**2).astype(dtype), sums, square_sums)

    def part(self, places: slice) -> "_Versions":
        inside = (slice(None), places)
        return _Versions(self.values[inside], self.squares[inside], self.sums, self.square_sums, places.start)

    def totals(self) -> tuple[Floats, Floats]:
        """Sums of the values and of their squares (1, v)."""
        end = self.start + self.values.shape[1]
        sums, squares = (running[:, end] - running[:, self.start] for running in (self.sums, self.square_sums))
        return sums[None], squares[None]


@dataclass(frozen=True)
class _Features:
    """Features (m, n), 0 where they have no value, and where that is."""

    values: Floats
    present: NDArray[np.bool_]
    masks: Floats
    """The different patterns of gaps, 1 where there is a value (n_masks, n)."""
    members: NDArray[np.intp]
    """Pattern of each feature (m,)."""

    @classmethod
    def of(cls, values: Floats) -> "_Features":
        present = np.isfinite(values)
        masks, members = np.unique(present, axis=0, return_inverse=True)
        return cls(np.where(present, values, 0.0), present, masks.astype(np.float64), members.ravel())

    def part(self, points: slice) -> "_Features":
        return _Features(self.values[:, points], self.present[:, points], self.masks[:, points], self.members)


def _correlate(features: _Features, metric: _Versions) -> NDArray[np.floating[Any]]:
    """Pearson correlation (m, v) of each feature with each version, over the points that the feature has."""
    x = features.values
    n = features.present.sum(axis=1)[:, None]
    sum_x = x.sum(axis=1)[:, None]
    if features.present.all():
        sum_y, square_y = metric.totals()
    else:
        ones = features.masks.astype(metric.values.dtype)
        sum_y, square_y = ((ones @ one.T)[features.members] for one in (metric.values, metric.squares))
    with np.errstate(invalid="ignore", divide="ignore"):
        energy_x = (x**2).sum(axis=1)[:, None] - sum_x**2 / n
        energy_y = square_y - sum_y**2 / n
        usable = n >= MIN_PAIRS
        scale_x = np.where(usable & (energy_x > _FLAT * n), energy_x**-0.5, np.nan)
        scale_y = np.where(energy_y > _FLAT * n.max(initial=1), energy_y**-0.5, np.nan)
        r = (scale_x * x).astype(metric.values.dtype) @ metric.values.T
        r -= (scale_x * sum_x / n).astype(r.dtype) * sum_y.astype(r.dtype)
    r *= scale_y.astype(r.dtype)
    return np.asarray(np.clip(r, -1.0, 1.0, out=r))


def _scaled(rows: Floats) -> Floats:
    """Rows of mean 0 and mean square 1, so that sums of squares keep their precision; constant rows become 0."""
    count = np.maximum(np.isfinite(rows).sum(axis=1, keepdims=True), 1)
    centred = rows - np.nansum(rows, axis=1, keepdims=True) / count
    scale = np.sqrt(np.nansum(centred**2, axis=1, keepdims=True) / count)
    return np.asarray(centred / np.where(scale > 0, scale, 1.0))


@dataclass
class _Best:
    """The best correlation so far, of each feature with each version (m, v)."""

    merit: NDArray[np.floating[Any]]
    r: NDArray[np.floating[Any]]
    lag: Counts

    @classmethod
    def start(cls, m: int, versions: int, dtype: type[np.floating[Any]]) -> "_Best":
        shape = (m, versions)
        return cls(np.full(shape, -np.inf, dtype), np.full(shape, np.nan, dtype), np.zeros(shape, dtype=np.int64))

    def add(self, merit: NDArray[np.floating[Any]], r: NDArray[np.floating[Any]], lag: int) -> None:
        better = merit > self.merit + _TIE
        np.copyto(self.merit, merit, where=better)
        np.copyto(self.r, r, where=better)
        self.lag[better] = lag


def _peaks(rule: str, itself: _Best, drawn: _Best) -> Peaks:
    """Peaks with the metric itself, then with its surrogates."""
    r = np.concatenate([itself.r, drawn.r], axis=1, dtype=np.float64)
    return Peaks(rule, r, np.concatenate([itself.lag, drawn.lag], axis=1))
