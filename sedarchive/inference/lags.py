"""Correlation of features with a metric at every lag, and its peaks.

A feature and a metric lie on the same grid, one place a checkpoint (or half-way between two). A positive lag means
that the feature leads: it is compared with the metric ``lag`` places later.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from sedarchive.inference.correlation import effective_size, effective_size_xu
from sedarchive.inference.standing import Standing
from sedarchive.inference.sums import RunningSums, Stretches, stretches
from sedarchive.inference.trends import gap_patterns

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Singles = NDArray[np.float32]

MIN_PAIRS = 8
"""Pairs below which a lag has no correlation."""
MARGIN = 5
"""Checkpoints beyond half the largest window that a search must reach."""
PEAK_RULES = ("abs", "negative")
"""The peak is where |r| is largest, or where r is most negative."""
_BLOCK = 16
"""Features that are scanned together: their correlations at 40 lags take 2.5 MB."""
_CELLS = 2**22
"""Fewer where their values at all lags would be more than these: 16 MB."""
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

    @cached_property
    def standing(self) -> Standing:
        """How far they stand out of those of the surrogates."""
        return Standing.of_peaks(self.r, self.rule)


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
        surrogates are good to 1e-5 (single precision), those with the metric itself to 1e-12, and to 2e-8 where values
        1e5 times as far apart as the others lie beside the overlap.
    """
    return scan_of_versions(features, Versions.of(metric), offset, reach)


def scan_of_versions(features: Floats, metric: "Versions", offset: int, reach: int) -> LagScan:
    """As :func:`scan_lags`, for several scans of the same versions of a metric."""
    x = _Features.of(_scaled(features), len(metric.own), offset, reach)
    r = _own_correlations(x, metric.own)
    shape = len(features), 1 + metric.surrogates.shape[1]
    peaks = {rule: Peaks(rule, np.empty(shape), np.empty(shape, dtype=np.int64)) for rule in PEAK_RULES}
    _put_peaks(peaks, r.T[:, :, None], x.lags, (slice(None), slice(0, 1)))
    roots = _inverse_roots(metric.energy(x.places), x.n_points[:, None])
    for rows in x.blocks(len(metric.own)):
        _put_peaks(peaks, _correlations(x, rows, metric, roots), x.lags, (rows, slice(1, None)))
    own, its = x.sums.lag_one(), metric.sums.over(x.places).lag_one()
    n_eff, n_eff_xu = (
        np.where(x.n_points >= MIN_PAIRS, size(x.sums.n, own, its), np.nan)
        for size in (effective_size, effective_size_xu)
    )
    return LagScan(x.lags, r, x.sums.n, n_eff, n_eff_xu, peaks)


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


def _shifted(rows: NDArray[Any], first: int, length: int, reach: int) -> NDArray[Any]:
    """Stretches (2 reach + 1, k, length) of rows (k, n), 0 beyond their ends; a view of one copy.

    That of shift s, from -reach to reach, begins at column ``first + s``.
    """
    wide = np.zeros((len(rows), length + 2 * reach), dtype=rows.dtype)
    pairs = overlap(rows.shape[1], wide.shape[1], reach - first)
    wide[:, pairs.metric] = rows[:, pairs.features]
    return sliding_window_view(wide, length, axis=1).swapaxes(0, 1)


@dataclass(frozen=True)
class _Features:
    """Features (m, n) at several lags, 0 where they have no value."""

    values: Floats
    known: NDArray[np.bool_]
    offset: int
    """Place of the first point in the metric, at lag 0."""
    lags: Counts
    """From -reach to reach (n_lags,)."""
    points: Stretches
    places: Stretches
    """What makes pairs at each lag: points of the features and places of the metric."""
    sums: RunningSums
    """Over the points that make pairs (m, n_lags)."""

    @classmethod
    def of(cls, values: Floats, places: int, offset: int, reach: int) -> "_Features":
        lags = np.arange(-reach, reach + 1)
        pairs = [overlap(values.shape[1], places, offset + int(lag)) for lag in lags]
        points, met = stretches([one.features for one in pairs]), stretches([one.metric for one in pairs])
        known, sums = np.isfinite(values), RunningSums.of(values).over(points)
        return cls(np.where(known, values, 0.0), known, offset, lags, points, met, sums)

    @property
    def reach(self) -> int:
        """Largest lag."""
        return len(self.lags) // 2

    @property
    def n_points(self) -> Counts:
        """Points that make pairs, whether they have a value or not (n_lags,)."""
        return self.points[1] - self.points[0]

    @cached_property
    def scale(self) -> Floats:
        """1 / sqrt(sum of squares about the mean) over the points that are there (m, n_lags); NaN if constant."""
        return _inverse_roots(np.where(self.sums.n < MIN_PAIRS, np.nan, self.sums.energy), self.sums.n)

    def blocks(self, places: int) -> list[NDArray[np.intp]]:
        """Rows that are scanned together, those with the same gaps in one block where they fit."""
        order = np.argsort(gap_patterns(self.known)[1], kind="stable")
        size = min(_BLOCK, 1 + _CELLS // (1 + len(self.lags) * places))
        return [order[start : start + size] for start in range(0, len(order), size)]

    def units(self, rows: NDArray[np.intp], places: int) -> Singles:
        """Some rows at every lag, where the metric has its places (n_lags, k, places).

        They have mean 0 and sum of squares 1 over the points that are there, and are 0 elsewhere; NaN if constant.
        """
        mean, scale = (each.T[:, rows, None] for each in (self.sums.mean, self.scale))
        units = np.empty((*mean.shape[:2], places), dtype=np.float32)
        # in double precision, or the mean of a series with a spike is lost
        np.subtract(self._at_places(self.values[rows], places), mean, out=units, casting="same_kind")
        units *= scale.astype(np.float32)
        units *= self._at_places(self.known[rows].astype(np.float32), places)
        return units

    def masks(self, rows: NDArray[np.intp], places: int) -> tuple[Singles, NDArray[np.intp]]:
        """Patterns of gaps of some rows as :meth:`units` (n_lags, n_masks, places), and that of each row (k,)."""
        masks, members = gap_patterns(self.known[rows])
        return np.ascontiguousarray(self._at_places(masks.astype(np.float32), places)), members

    def _at_places(self, rows: NDArray[Any], places: int) -> NDArray[Any]:
        """Rows as the metric meets them at each lag: the larger the lag, the later."""
        return _shifted(rows, -self.offset, places, self.reach)[::-1]


def _own_correlations(x: _Features, metric: Floats) -> Floats:
    """Pearson correlation (m, n_lags) of each feature with a metric (places,), over the points that it has."""
    n_points = x.values.shape[1]
    y, there = (_shifted(each[None], x.offset, n_points, x.reach)[:, 0] for each in (metric, np.ones_like(metric)))
    y = (y - y.sum(axis=1, keepdims=True) / np.maximum(x.n_points[:, None], 1)) * there
    known = x.known.astype(np.float64)
    sums = known @ y.T
    energy = known @ (y**2).T - sums**2 / np.maximum(x.sums.n, 1)
    r = (x.values @ y.T - x.sums.mean * sums) * x.scale * _inverse_roots(energy, x.sums.n)
    return np.asarray(np.clip(r, -1.0, 1.0))


def _correlations(x: _Features, rows: NDArray[np.intp], metric: "Versions", roots: Singles) -> Singles:
    """Pearson correlation (n_lags, k, v) of some features with each surrogate, over the points that they have.

    ``roots`` are those of the surrogates' energy (n_lags, v) over all points that make pairs.
    """
    places = len(metric.surrogates)
    r = _product(x.units(rows, places), metric.surrogates)
    if x.known[rows].all():
        r *= roots[:, None]
        return r
    masks, members = x.masks(rows, places)
    n = masks.sum(axis=2, keepdims=True)
    energy = _product(masks, metric.squares) - _product(masks, metric.surrogates) ** 2 / np.maximum(n, 1)
    r *= _inverse_roots(energy, n)[:, members]
    return r


def _product(rows: Singles, columns: Singles) -> Singles:
    """Rows (n_lags, k, places) times columns (places, v), as one product for all lags."""
    n_lags, k, places = rows.shape
    return np.asarray((rows.reshape(n_lags * k, places) @ columns).reshape(n_lags, k, columns.shape[1]))


def _inverse_roots(energy: NDArray[Any], n: NDArray[Any]) -> NDArray[Any]:
    """1 / sqrt(energy) of what has mean square 1 over n points; NaN if it is constant."""
    return np.asarray(1 / np.sqrt(np.where(energy > _FLAT * n, energy, np.nan)))


@dataclass(frozen=True)
class Versions:
    """A metric and its surrogates, scaled to mean 0 and mean square 1; the surrogates (places, v) in single precision.

    Prepared once for all scans of the same versions.
    """

    own: Floats
    """The metric (places,)."""
    sums: RunningSums
    """Its running sums."""
    surrogates: Singles
    squares: Singles
    running: Floats
    """Running sums of the surrogates and of their squares (2, places + 1, v)."""

    @classmethod
    def of(cls, metric: Floats) -> "Versions":
        """Prepare versions (1 + v, places) without gaps: the metric itself, then its surrogates."""
        y = _scaled(metric)
        surrogates = np.ascontiguousarray(y[1:].T)
        squares = surrogates**2
        running = np.zeros((2, y.shape[1] + 1, len(y) - 1))
        for sums, terms in zip(running, (surrogates, squares), strict=True):
            np.cumsum(terms, axis=0, out=sums[1:])
        return cls(y[0], RunningSums.of(y[:1]), surrogates.astype(np.float32), squares.astype(np.float32), running)

    def energy(self, places: Stretches) -> Singles:
        """Sum of squares of each surrogate about its mean over stretches of places (n_stretches, v)."""
        first, last = places
        sums, squares = self.running[:, last] - self.running[:, first]
        return np.asarray(squares - sums**2 / np.maximum(last - first, 1)[:, None]).astype(np.float32)


def _scaled(rows: Floats) -> Floats:
    """Rows of mean 0 and mean square 1, so that sums of squares keep their precision; constant rows become 0."""
    there = np.isfinite(rows)
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    centred = rows - np.where(there, rows, 0.0).sum(axis=1, keepdims=True) / count
    scale = np.sqrt((np.where(there, centred, 0.0) ** 2).sum(axis=1, keepdims=True) / count)
    return np.asarray(centred / np.where(scale > 0, scale, 1.0))


@dataclass(frozen=True)
class _Extremes:
    """Largest and smallest correlation of each feature with each version over all lags (m, v), and where they are.

    Of equal ones the nearest to lag 0 counts: nearness grows towards it, and is 0 where no lag has a correlation.
    """

    tie: float
    """Correlations no further apart are equal."""
    largest: NDArray[np.floating[Any]]
    smallest: NDArray[np.floating[Any]]
    near_largest: NDArray[Any]
    near_smallest: NDArray[Any]

    @classmethod
    def of(cls, r: NDArray[np.floating[Any]], nearness: NDArray[Any]) -> "_Extremes":
        """Extremes of correlations (n_lags, m, v), NaN where there is none; ``nearness`` is that of each lag."""
        tie = _TIE if r.dtype == np.float64 else 0.0  # single precision does not see it
        largest, smallest = np.fmax.reduce(r, axis=0), np.fmin.reduce(r, axis=0)
        weights = nearness[:, None, None]  # of one byte where they fit: far faster than argmax along the first axis
        at_largest = ((r >= largest - tie) * weights).max(axis=0)
        at_smallest = ((r <= smallest + tie) * weights).max(axis=0)
        return cls(tie, largest, smallest, at_largest, at_smallest)

    def peaks(self, rule: str) -> tuple[NDArray[np.floating[Any]], NDArray[Any]]:
        """Peaks by one rule, and their nearness."""
        if rule == "negative":
            return self.smallest, self.near_smallest
        ahead = self.largest - self.tie > -self.smallest
        level = ~ahead & (self.largest + self.tie >= -self.smallest)
        upper = ahead | (level & (self.near_largest > self.near_smallest))
        return np.where(upper, self.largest, self.smallest), np.where(upper, self.near_largest, self.near_smallest)


def _put_peaks(peaks: dict[str, Peaks], r: NDArray[np.floating[Any]], lags: Counts, where: tuple[Any, Any]) -> None:
    """Put the peaks of correlations (n_lags, k, v), by every rule, to their place among those of all features."""
    order = np.argsort(np.abs(lags), kind="stable")
    nearness = np.empty(len(lags), dtype=np.min_scalar_type(len(lags)))
    nearness[order] = np.arange(len(lags), 0, -1)
    lag_of = np.zeros(len(lags) + 1, dtype=np.int64)
    lag_of[nearness] = lags
    extremes = _Extremes.of(r, nearness)
    for rule, found in peaks.items():
        values, near = extremes.peaks(rule)
        found.r[where], found.lag[where] = np.clip(values, -1.0, 1.0), lag_of[near]
