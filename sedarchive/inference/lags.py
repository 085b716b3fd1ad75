"""Correlation of features with a metric at every lag, and its peaks.

A feature and a metric lie on the same grid, one place a checkpoint (or half-way between two). A positive lag means
that the feature leads: it is compared with the metric ``lag`` places later.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.correlation import effective_size, effective_size_xu
from sedarchive.inference.standing import Standing
from sedarchive.inference.sums import RunningSums
from sedarchive.inference.trends import gap_patterns

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Singles = NDArray[np.float32]
Visits = NDArray[np.int16]

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
        surrogates are good to 1e-5 (single precision), those with the metric itself to 1e-12.
    """
    return scan_of_versions(features, Versions.of(metric), offset, reach)


def scan_of_versions(features: Floats, metric: "Versions", offset: int, reach: int) -> LagScan:
    """As :func:`scan_lags`, for several scans of the same versions of a metric."""
    lags, x = np.arange(-reach, reach + 1), _Features.of(_scaled(features))
    found = _Scan.start(len(features), lags)
    own = _Extremes.start((len(features), 1), np.float64)
    others = _Extremes.start((len(features), len(metric.surrogates)), np.float32)
    visits = sorted(range(len(lags)), key=lambda at: abs(lags[at]))
    for visit, at in enumerate(visits, start=1):
        pairs = overlap(features.shape[1], len(metric.own), offset + int(lags[at]))
        part = x.part(pairs.features)
        found.n[:, at] = part.sums.n
        if part.n_points < MIN_PAIRS:
            continue
        r = _correlate(part, metric.own[pairs.metric])
        found.add(at, part, np.clip(r, -1.0, 1.0), float(metric.sums.part(pairs.metric).lag_one()[0]))
        own.add(r[:, None], visit)
        others.add(metric.correlate(part, pairs.metric), visit)
    order = np.concatenate([[0], lags[visits]])
    peaks = {rule: _peaks(rule, [one.peaks(rule) for one in (own, others)], order, x.rank) for rule in PEAK_RULES}
    back = x.rank
    return LagScan(lags, found.r[back], found.n[back], found.n_eff[back], found.n_eff_xu[back], peaks)


@dataclass(frozen=True)
class _Scan:
    """What is known of each lag (m, n_lags), for the metric itself."""

    r: Floats
    n: Counts
    n_eff: Floats
    n_eff_xu: Floats

    @classmethod
    def start(cls, m: int, lags: Counts) -> "_Scan":
        r, n_eff, n_eff_xu = (np.full((m, len(lags)), np.nan) for _ in range(3))
        return cls(r, np.zeros((m, len(lags)), dtype=np.int64), n_eff, n_eff_xu)

    def add(self, at: int, part: "_Features", r: Floats, its: float) -> None:
        """Add a lag; ``its`` is the metric's autocorrelation there."""
        own = part.sums.lag_one()
        self.r[:, at] = r
        self.n_eff[:, at] = effective_size(part.sums.n, own, its)
        self.n_eff_xu[:, at] = effective_size_xu(part.sums.n, own, its)


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
class _Features:
    """Features (m, n), 0 where they have no value; those with the same gaps stand together."""

    values: Floats
    masks: NDArray[np.bool_]
    """The different patterns of gaps, True where there is a value (n_masks, n)."""
    groups: tuple[slice, ...]
    """Rows of each pattern."""
    rank: NDArray[np.intp]
    """Row of each feature (m,)."""
    sums: RunningSums

    @classmethod
    def of(cls, values: Floats) -> "_Features":
        masks, members = gap_patterns(np.isfinite(values))
        order = np.argsort(members, kind="stable")
        ends = np.cumsum(np.bincount(members, minlength=len(masks))).tolist()
        groups = tuple(slice(first, end) for first, end in zip([0, *ends], ends, strict=False))
        rows = values[order]
        return cls(np.where(np.isfinite(rows), rows, 0.0), masks, groups, np.argsort(order), RunningSums.of(rows))

    def part(self, points: slice) -> "_Features":
        inside = (slice(None), points)
        return _Features(self.values[inside], self.masks[inside], self.groups, self.rank, self.sums.part(points))

    @property
    def n_points(self) -> int:
        return int(self.values.shape[1])

    @cached_property
    def gaps(self) -> NDArray[np.intp]:
        """Patterns that lack a point."""
        return np.flatnonzero(~self.masks.all(axis=1))

    @cached_property
    def counts(self) -> Counts:
        """Points of each pattern (n_masks, 1)."""
        return np.asarray(self.masks.sum(axis=1, keepdims=True))

    @cached_property
    def scale(self) -> Floats:
        """1 / sqrt(sum of squares about the mean) over the points that are there (m,); NaN if constant."""
        flat = (self.sums.n < MIN_PAIRS) | (self.sums.energy <= _FLAT * self.sums.n)
        return np.asarray(1 / np.sqrt(np.where(flat, np.nan, self.sums.energy)))

    def unit(self) -> Singles:
        """Rows of mean 0 and sum of squares 1 over the points that are there, 0 elsewhere; NaN if constant."""
        rows = np.empty(self.values.shape, dtype=np.float32)
        np.subtract(self.values, self.sums.mean[:, None], out=rows, casting="same_kind")
        rows *= self.scale.astype(np.float32)[:, None]
        for at in self.gaps:
            rows[self.groups[at]] *= self.masks[at]
        return rows

    def inverse_roots(self, energy: Floats | Singles) -> Any:
        """1 / sqrt(energy) of a metric over the points of each pattern (n_masks, v); NaN if it is constant there."""
        usable = (self.counts >= MIN_PAIRS) & (energy > _FLAT * self.counts.max(initial=1))
        return 1 / np.sqrt(np.where(usable, energy, np.nan))


def _correlate(features: _Features, metric: Floats) -> Floats:
    """Pearson correlation (m,) of each feature with a metric (n,), over the points that the feature has."""
    centred = metric - metric.mean()
    weights = features.masks.astype(np.float64)
    sums = weights @ centred
    energy = weights @ centred**2 - sums**2 / np.maximum(features.counts[:, 0], 1)
    r = (features.values @ centred) * features.scale
    for rows, total, scale in zip(features.groups, sums, features.inverse_roots(energy[:, None])[:, 0], strict=True):
        r[rows] = (r[rows] - features.sums.mean[rows] * features.scale[rows] * total) * scale
    return np.asarray(r)


@dataclass(frozen=True)
class Versions:
    """A metric and its surrogates, scaled to mean 0 and mean square 1; the surrogates (v, places) in single precision.

    Prepared once for all scans of the same versions.
    """

    own: Floats
    """The metric (places,)."""
    sums: RunningSums
    """Its running sums."""
    surrogates: Singles
    squares: Singles
    running: Floats
    """Running sums of the surrogates and of their squares (2, v, places + 1)."""

    @classmethod
    def of(cls, metric: Floats) -> "Versions":
        """Prepare versions (1 + v, places) without gaps: the metric itself, then its surrogates."""
        y = _scaled(metric)
        squares = y[1:] ** 2
        running = np.zeros((2, len(squares), y.shape[1] + 1))
        for sums, terms in zip(running, (y[1:], squares), strict=True):
            np.cumsum(terms, axis=1, out=sums[:, 1:])
        return cls(y[0], RunningSums.of(y[:1]), y[1:].astype(np.float32), squares.astype(np.float32), running)

    def correlate(self, features: _Features, places: slice) -> Singles:
        """Pearson correlation (m, v) of each feature with each surrogate, over the points that the feature has."""
        chosen = features.masks[features.gaps].astype(np.float32)
        products = np.concatenate([features.unit(), chosen]) @ self.surrogates[:, places].T
        r, sums = np.split(products, [len(features.values)])
        energy = np.empty((len(features.masks), r.shape[1]), dtype=np.float32)
        energy[:] = self._energy(places)
        if len(chosen):
            n = np.maximum(features.counts[features.gaps], 1).astype(np.float32)
            energy[features.gaps] = chosen @ self.squares[:, places].T - sums**2 / n
        for rows, scale in zip(features.groups, features.inverse_roots(energy), strict=True):
            r[rows] *= scale
        return r

    def _energy(self, places: slice) -> Floats:
        """Sum of squares of each surrogate about its mean over all places (v,)."""
        sums, squares = self.running[:, :, places.stop] - self.running[:, :, places.start]
        return np.asarray(squares - sums**2 / (places.stop - places.start))


def _scaled(rows: Floats) -> Floats:
    """Rows of mean 0 and mean square 1, so that sums of squares keep their precision; constant rows become 0."""
    there = np.isfinite(rows)
    count = np.maximum(there.sum(axis=1, keepdims=True), 1)
    centred = rows - np.where(there, rows, 0.0).sum(axis=1, keepdims=True) / count
    scale = np.sqrt((np.where(there, centred, 0.0) ** 2).sum(axis=1, keepdims=True) / count)
    return np.asarray(centred / np.where(scale > 0, scale, 1.0))


@dataclass(frozen=True)
class _Extremes:
    """Largest and smallest correlation so far, of each feature with each version (m, v), and the visits they are from.

    Visits count from 1, so that the last one that brought an improvement is the largest: no masked copy is needed,
    which would take ten times as long.
    """

    tie: float
    """Correlations no further apart are equal."""

    largest: NDArray[np.floating[Any]]
    smallest: NDArray[np.floating[Any]]
    visit_largest: Visits
    visit_smallest: Visits

    @classmethod
    def start(cls, shape: tuple[int, int], dtype: type[np.floating[Any]]) -> "_Extremes":
        tie = _TIE if dtype is np.float64 else 0.0  # single precision does not see it
        visits = np.zeros(shape, dtype=np.int16), np.zeros(shape, dtype=np.int16)
        return cls(tie, np.full(shape, -np.inf, dtype), np.full(shape, np.inf, dtype), *visits)

    def add(self, r: NDArray[np.floating[Any]], visit: int) -> None:
        """Compare the correlations of one more lag."""
        above = r > (self.largest + self.tie if self.tie else self.largest)
        below = r < (self.smallest - self.tie if self.tie else self.smallest)
        np.maximum(self.visit_largest, above * np.int16(visit), out=self.visit_largest)
        np.maximum(self.visit_smallest, below * np.int16(visit), out=self.visit_smallest)
        np.fmax(self.largest, r, out=self.largest)
        np.fmin(self.smallest, r, out=self.smallest)

    def peaks(self, rule: str) -> tuple[NDArray[np.floating[Any]], Visits]:
        """Peaks by one rule and their visits; NaN and 0 where no lag has a correlation."""
        r, visit = self.smallest, self.visit_smallest
        if rule == "abs":
            ahead = self.largest - self.tie > -r
            level = ~ahead & (self.largest + self.tie >= -r)
            upper = ahead | (level & (self.visit_largest < visit))
            r, visit = np.where(upper, self.largest, r), np.where(upper, self.visit_largest, visit)
        return np.where(visit > 0, r, np.nan), visit


def _peaks(
    rule: str,
    parts: Sequence[tuple[NDArray[np.floating[Any]], Visits]],
    lag_of_visit: Counts,
    rank: NDArray[np.intp],
) -> Peaks:
    """Peaks with the metric itself, then with its surrogates."""
    r = np.concatenate([one for one, _ in parts], axis=1, dtype=np.float64)
    visits = np.concatenate([visit for _, visit in parts], axis=1)
    return Peaks(rule, np.clip(r, -1.0, 1.0)[rank], lag_of_visit[visits][rank])
