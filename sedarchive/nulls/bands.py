"""The null of a window: independent updates of the same norms in a space of p_eff dimensions.

Independent random updates are not exactly orthogonal: their cosines have variance 1 / p_eff, so that the singular
values of a window repel each other and the largest ratio exceeds that of the sorted norms (expected value 1.17, 95 %
quantile 1.27 for 10 equal norms at p_eff = 64). The null is sampled: a Gaussian W x p_eff matrix with its rows scaled
to the norms of the window, of which only the W x W Gram matrix is drawn, by Bartlett's decomposition of a Wishart
matrix (Bartlett 1933). It is conditional on the norms, and invariant to their order and scale.

The draws come from numpy's ``Generator``, whose streams for normal and chi-square numbers may change with numpy's
version: equal seeds give equal bands only for equal versions.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sedarchive.gram import Gram
from sedarchive.nulls.leaders import (
    BAND,
    Draws,
    Leader,
    Moved,
    draw_cosines,
    draw_leader,
    leader_dimension,
    leader_profiles,
    log_sigmas,
    move,
    rank_of,
    scaled,
)

Floats = NDArray[np.float64]

DRAWS = 999
EDGE_HIGH = 0.95
"""Quantile of the one-sided bound of the largest ratio."""
EDGE_TOLERANCE = 1e-2
"""Relative excess over a null edge ratio that does not count as an excess: the error of shared draws."""
CLOSED_FORM_ERROR = 1e-3
_OVERSHOOT = 1.25
_MIN_DIMENSION = 2.0
_MIN_PAIRS = 10
_SMALLEST_NORM = 1e-7
_CHUNK_NUMBERS = 2**19
_CACHE_NUMBERS = 2**22
_KEPT_COSINES = 4


@dataclass(frozen=True)
class NullBand:
    """The null of one window of W updates, K = min(W, p_eff) of whose singular values are not 0."""

    sigma_median: Floats
    """(W,): descending; NaN beyond K."""
    ratio_low: Floats
    """2.5 % quantile of sigma_k / sigma_{k+1} (W - 1,); NaN beyond K - 1."""
    ratio_high: Floats
    """97.5 % quantile (W - 1,)."""
    ratio_median: Floats
    """(W - 1,)."""
    edge_ratios: Floats
    """Largest ratio of each draw (draws,), ascending."""


@dataclass(frozen=True)
class NullBands:
    """The nulls of n windows of W updates; NaN where a window has no null."""

    sigma_null: Floats
    """Median singular values (n, W)."""
    ratio_null_low: Floats
    """2.5 % quantile of each ratio (n, W - 1)."""
    ratio_null_high: Floats
    """97.5 % quantile (n, W - 1)."""
    edge_ratio_null: Floats
    """Median largest ratio (n,)."""
    edge_ratio_null_high: Floats
    """95 % quantile of the largest ratio (n,)."""
    edge_ratio_p: Floats
    """(1 + number of null edge ratios at or above the observed one) / (1 + draws) (n,)."""


class _Observed(NamedTuple):
    """What the p-values compare."""

    edge_ratio: Floats
    """Observed largest ratio of every window (n,)."""
    draws: int


class NullCache:
    """Draws that several scopes may share; what it holds never changes a result."""

    def __init__(self) -> None:
        self._leaders: dict[tuple[float | int | bytes, ...], Leader] = {}
        self._numbers = 0
        self._drawn: dict[tuple[float, ...], Draws] = {}
        self._books = Lock()
        self._turns: dict[tuple[float | int | bytes, ...], Lock] = {}

    def get(self, profile: Floats, dimension: float, draws: int, seed: int) -> Leader:
        """Return the leader at a profile of log norms (W,)."""
        key = (profile.tobytes(), dimension, draws, seed)
        with self._turns.setdefault(key, Lock()):  # threads that want the same wait for the first
            leader = self._leaders.get(key)
            if leader is None:
                leader = draw_leader(self._cosines(len(profile), dimension, draws, seed), profile, dimension)
                self._keep(key, leader)
        self._turns.pop(key, None)
        return leader

    def _keep(self, key: tuple[float | int | bytes, ...], leader: Leader) -> None:
        with self._books:
            if self._numbers + leader.gaps.size > _CACHE_NUMBERS:
                self._leaders.clear()
                self._numbers = 0
            self._leaders[key] = leader
            self._numbers += leader.gaps.size

    def _cosines(self, size: int, dimension: float, draws: int, seed: int) -> Draws:
        """Return the random cosines that all leaders of a size and dimension start from."""
        key = (size, dimension, draws, seed)
        with self._turns.setdefault(key, Lock()):
            drawn = self._drawn.get(key)
            if drawn is None:
                drawn = draw_cosines(size, dimension, draws, seed)
                if len(self._drawn) >= _KEPT_COSINES:
                    self._drawn.clear()
                self._drawn[key] = drawn
        self._turns.pop(key, None)
        return drawn


def effective_dimension(gram: Gram, n_elements: int) -> float:
    """Estimate p_eff, the dimension in which random updates would be as nearly orthogonal as these.

    Parameters
    ----------
    gram
        Gram matrix of the scope.
    n_elements
        p, the number of parameters of the scope.

    Returns
    -------
    float
        1 / mean(cos²) over the pairs of updates at least half of the history apart (with a band, at least half of
        the band), so that the correlation of neighbours by momentum does not count; at most p, at least 2 (p if p is
        smaller). p itself where fewer than 10 such pairs have a cosine. A common drift of all updates lowers it, which
        widens the bands.
    """
    pairs, total = _far_cosines(gram)
    if pairs < _MIN_PAIRS or total == 0:
        return float(n_elements)
    return min(max(pairs / total, _MIN_DIMENSION), float(n_elements))


def dimension_is_estimated(gram: Gram) -> bool:
    """Whether :func:`effective_dimension` has enough pairs of updates to be an estimate."""
    return _far_cosines(gram)[0] >= _MIN_PAIRS


def _far_cosines(gram: Gram) -> tuple[int, float]:
    """Return the number of pairs of updates far apart that have a cosine, and the sum of its squares."""
    reach = min(gram.n_updates - 1, gram.bandwidth)
    nearest = max((min(gram.n_updates, gram.bandwidth) + 1) // 2, 1)
    index = np.arange(gram.n_updates)
    energy = gram.products(index, index)
    distances = range(nearest, reach + 1)
    first = np.concatenate([index[:0], *(index[:-distance] for distance in distances)])
    second = np.concatenate([index[:0], *(index[distance:] for distance in distances)])
    scale = energy[first] * energy[second]
    usable = np.isfinite(scale) & (scale > 0)
    squares = gram.products(first[usable], second[usable]) ** 2 / scale[usable]
    return int(np.count_nonzero(usable)), float(np.sum(squares))


def sampled_null(norms: Floats, p_eff: float, draws: int = DRAWS, seed: int = 0) -> NullBand:
    """Sample the null of one window.

    Parameters
    ----------
    norms
        Norms of the window's updates (W,), positive, in any order.
    p_eff
        Effective dimension, at least 2; rounded to an integer below W.
    draws, seed
        Number of draws and seed.

    Returns
    -------
    NullBand
        The closed form (the sorted norms, no spread) where no ratio can differ from it by more than 1e-3: by
        Ostrowski's theorem a ratio changes by at most sigma_max / sigma_min of a matrix of random unit rows, about
        1 + 2 sqrt(W / p_eff), taken with a margin of a quarter.
    """
    profile = np.log(-np.sort(-np.asarray(norms, dtype=np.float64)))
    if is_closed_form(len(profile), p_eff):
        logs = np.broadcast_to(profile, (draws, len(profile)))
    else:
        cosines = draw_cosines(len(profile), p_eff, draws, seed).cosines
        energy = np.asarray(np.linalg.eigvalsh(scaled(cosines, profile)), dtype=np.float64)
        logs = log_sigmas(energy, p_eff)
    null = _sorted_draws(logs)
    low, median, high = _padded(np.exp(null.gaps[0].T), (3, len(norms) - 1))
    sigma = _padded(np.exp(null.log_sigma), (1, len(norms)))
    return NullBand(sigma[0], low, high, median, np.exp(null.largest[0]))


def is_closed_form(window_size: int, p_eff: float) -> bool:
    """Whether the sorted norms stand for the null: no ratio differs by more than 1e-3 (relative)."""
    return bool(2 * _OVERSHOOT * np.sqrt(window_size / p_eff) <= CLOSED_FORM_ERROR)


def null_bands(
    norms: Floats,
    edge_ratio: Floats,
    p_eff: float,
    draws: int = DRAWS,
    seed: int = 0,
    cache: NullCache | None = None,
) -> NullBands:
    """Return the nulls of all windows of one size.

    Windows share draws: each takes the quantiles of a *leader*, a profile of sorted log norms and a dimension on a
    fixed grid near its own (:mod:`.leaders`), moved to its own norms and p_eff to first order. The result of
    a window is a function of its own norms, p_eff and seed alone. p_eff is rounded to an integer below W.

    Parameters
    ----------
    norms
        Norms of the updates of each window (n, W). Norms below 1e-7 of the window's largest count as 0; the null is
        then that of the others.
    edge_ratio
        Observed largest ratio of each window (n,); NaN where unknown.
    p_eff
        Effective dimension, at least 2.
    draws, seed, cache
        Number of draws, seed, and draws kept between calls.

    Returns
    -------
    NullBands
        No band for windows with a non-finite norm or fewer than two positive ones. Error against windows sampled one
        by one at the same p_eff (:func:`sampled_null`; relative, in nine of ten windows; W = 5 to 30, p_eff from
        max(32, 2 W) to 1e5, cosine learning rate with warm-up, 5 % jitter): median of the largest ratio 0.004, its
        95 % bound 0.006 (0.015 at the worst p_eff, about 1e3 at W = 30; largest seen 0.03); worst band of single ratios
        of a window 0.010 low, 0.013 high (largest seen 0.1); median singular values 0.003, the worst of a window 0.013.
        With 20 % jitter, an outlying norm or very unequal ones 0.024 for median and bound of the largest ratio (largest
        seen 0.12). Near W dimensions the bound errs by up to 0.12, about as much as by its sampling. ``edge_ratio_p``
        counts a null value as reached by an observed one from 1 % above it: it errs towards no excess, and does not
        call an excess below 1 %.
    """
    cache = cache if cache is not None else NullCache()
    n_windows, size = norms.shape
    bands = NullBands(
        *(np.full((n_windows, *rest), np.nan) for rest in ((size,), (size - 1,), (size - 1,), (), (), ()))
    )
    ordered = -np.sort(-norms, axis=1)
    finite = np.isfinite(norms).all(axis=1)
    positive = np.where(finite, (ordered > _SMALLEST_NORM * ordered[:, :1]).sum(axis=1), 0)
    for n_positive in np.unique(positive[positive >= 2]):
        chosen = np.flatnonzero(positive == n_positive)
        scale = np.log(ordered[chosen, :n_positive])
        level = scale.mean(axis=1)
        for rows, null in _nulls(scale - level[:, None], p_eff, draws, seed, cache):
            _store(bands, chosen[rows], level[rows], null, _Observed(edge_ratio, draws))
    return bands


def _nulls(
    profiles: Floats, p_eff: float, draws: int, seed: int, cache: NullCache
) -> Iterator[tuple[NDArray[np.intp], Moved]]:
    """Yield, for groups of windows, their rows and their nulls; one "draw" is the closed form."""
    size = profiles.shape[1]
    if is_closed_form(size, p_eff):
        gaps = profiles[:, :-1] - profiles[:, 1:]
        band = np.repeat(gaps[:, :, None], len(BAND), axis=2)
        yield np.arange(len(profiles)), Moved(profiles, band, gaps.max(axis=1, keepdims=True))
        return
    dimension = leader_dimension(p_eff, size)
    t = np.sqrt(dimension / p_eff) - 1 if p_eff >= size else 0.0
    leaders, members = np.unique(leader_profiles(profiles), axis=0, return_inverse=True)
    for at, profile in enumerate(leaders):
        leader = cache.get(profile, dimension, draws, seed)
        rows = np.flatnonzero(members.ravel() == at)
        at_once = max(_CHUNK_NUMBERS // leader.gaps.size, 1)
        for first in range(0, len(rows), at_once):
            chunk = rows[first : first + at_once]
            change = profiles[chunk] - profile
            yield chunk, move(leader, np.concatenate([change, np.full((len(chunk), 1), t)], axis=1))


def _store(bands: NullBands, rows: NDArray[np.intp], level: Floats, null: Moved, observed: _Observed) -> None:
    """Write the bands of the windows `rows` from their nulls, less their `level`."""
    kept = null.log_sigma.shape[1]
    bands.sigma_null[rows, :kept] = np.exp(null.log_sigma + level[:, None])
    bands.ratio_null_low[rows, : kept - 1] = np.exp(null.gaps[:, :, 0])
    bands.ratio_null_high[rows, : kept - 1] = np.exp(null.gaps[:, :, 2])
    shown = null.largest.shape[1]
    bands.edge_ratio_null[rows] = np.exp(null.largest[:, rank_of(0.5, shown)])
    bands.edge_ratio_null_high[rows] = np.exp(null.largest[:, rank_of(EDGE_HIGH, shown)])
    seen = np.log(observed.edge_ratio[rows] / (1 + EDGE_TOLERANCE)).astype(null.largest.dtype)
    reached = (null.largest >= seen[:, None]).mean(axis=1)
    draws = observed.draws
    bands.edge_ratio_p[rows] = np.where(np.isnan(seen), np.nan, (1 + reached * draws) / (draws + 1))


def _sorted_draws(logs: Floats) -> Moved:
    """Return the null of one window from its log sigma (draws, K)."""
    gaps = np.sort(logs[:, :-1] - logs[:, 1:], axis=0)
    largest = np.sort((logs[:, :-1] - logs[:, 1:]).max(axis=1))
    picked = [rank_of(quantile, len(logs)) for quantile in BAND]
    return Moved(np.sort(logs, axis=0)[None, rank_of(0.5, len(logs))], gaps[picked].T[None], largest[None])


def _padded(values: Floats, shape: tuple[int, int]) -> Floats:
    padded = np.full(shape, np.nan)
    padded[:, : values.shape[-1]] = values.reshape(shape[0], -1)
    return padded
