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
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sedarchive.gram import Gram
from sedarchive.leaders import leader_profiles

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

DRAWS = 999
LOW, HIGH = 0.025, 0.975
"""Quantiles of the two-sided band of each ratio."""
EDGE_HIGH = 0.95
"""Quantile of the one-sided bound of the largest ratio."""
EDGE_TOLERANCE = 1e-2
"""Relative excess over a null edge ratio that does not count as an excess: the error of shared draws."""
CLOSED_FORM_ERROR = 1e-3
_OVERSHOOT = 1.25
_MIN_DIMENSION = 2.0
_MIN_PAIRS = 10
_BUCKETS_PER_OCTAVE = 8
_SMALLEST_NORM = 1e-7
_CHUNK_NUMBERS = 2**21
_CACHE_NUMBERS = 2**24


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


class _Leader(NamedTuple):
    """Draws at one profile of log norms, and how they move with it."""

    log_sigma: Singles
    """(draws, K), descending."""
    weights: Singles
    """d log sigma_k / d log norm_i = u_ik² (draws, K, W)."""


class _Observed(NamedTuple):
    """What the p-values compare."""

    edge_ratio: Floats
    """Observed largest ratio of every window (n,)."""
    draws: int


class NullCache:
    """Draws that several scopes may share; what it holds never changes a result."""

    def __init__(self) -> None:
        self._leaders: dict[tuple[float | int | bytes, ...], _Leader] = {}
        self._numbers = 0
        self._drawn: tuple[tuple[float, ...], Floats] = ((), np.empty(0))

    def get(self, profile: Floats, p_eff: float, draws: int, seed: int) -> _Leader:
        """Return the draws at a profile of log norms (W,)."""
        key = (profile.tobytes(), p_eff, draws, seed)
        leader = self._leaders.get(key)
        if leader is None:
            leader = _expand(self._correlations(len(profile), p_eff, draws, seed), profile, p_eff)
            if self._numbers + leader.weights.size > _CACHE_NUMBERS:
                self._leaders.clear()
                self._numbers = 0
            self._leaders[key] = leader
            self._numbers += leader.weights.size
        return leader

    def _correlations(self, size: int, p_eff: float, draws: int, seed: int) -> Floats:
        """Return the random correlations that all leaders of a size and dimension start from."""
        key = (size, p_eff, draws, seed)
        drawn = self._drawn  # one look: threads that derive windows of other sizes share the cache
        if drawn[0] != key:
            drawn = self._drawn = (key, _correlations(size, p_eff, draws, seed))
        return drawn[1]


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
    reach = min(gram.n_updates - 1, gram.bandwidth)
    nearest = max((min(gram.n_updates, gram.bandwidth) + 1) // 2, 1)
    index = np.arange(gram.n_updates)
    energy = gram.products(index, index)
    total, pairs = 0.0, 0
    for distance in range(nearest, reach + 1):
        first, second = index[:-distance], index[distance:]
        scale = energy[first] * energy[second]
        usable = np.isfinite(scale) & (scale > 0)
        products = gram.products(first[usable], second[usable])
        total += float(np.sum(products**2 / scale[usable]))
        pairs += int(np.count_nonzero(usable))
    if pairs < _MIN_PAIRS or total == 0:
        return float(n_elements)
    return min(max(pairs / total, _MIN_DIMENSION), float(n_elements))


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
        correlation = _correlations(len(profile), p_eff, draws, seed)
        energy = np.asarray(np.linalg.eigvalsh(_scaled(correlation, profile)), dtype=np.float64)
        logs = _log_sigmas(energy, p_eff)
    sigma, ratio, edge = _order_statistics(np.ascontiguousarray(logs.T)[None])
    return NullBand(
        _padded(sigma, len(norms))[0],
        _padded(ratio[0], len(norms) - 1)[0],
        _padded(ratio[2], len(norms) - 1)[0],
        _padded(ratio[1], len(norms) - 1)[0],
        edge[0],
    )


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

    Windows share draws: each takes those of a *leader*, a profile of sorted log norms on a fixed grid near its own
    (:mod:`sedarchive.leaders`), moved to its own norms to first order, draw by draw:
    ``d log sigma_k = sum_i u_ik² d log norm_i``. p_eff is rounded to an eighth of an octave (changes ``ratio - 1`` by
    at most 2.2 %). The result of a window is a function of its own norms, p_eff and seed alone.

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
        No band for windows with a non-finite norm or fewer than two positive ones. Error of sharing against windows
        sampled one by one (cosine learning rate with warm-up, 5 % jitter, p_eff 32 to 1e5; relative, in nine of ten
        windows; worst near p_eff = 1e3 to 1e4): median and 95 % bound of the largest ratio 0.005 for W <= 15 and 0.014
        for W = 30 (largest seen 0.04); bands of single ratios 0.04 low and 0.02 high for W <= 15, 0.06 and 0.04 for
        W = 30 (largest seen 0.1). ``edge_ratio_p`` therefore counts a null value as reached by an observed one from
        1 % above it: it errs towards no excess, and does not call an excess below 1 %.
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
        for rows, logs in _log_draws(scale - level[:, None], p_eff, draws, seed, cache):
            _store(bands, chosen[rows], level[rows], logs, _Observed(edge_ratio, draws))
    return bands


def _log_draws(
    profiles: Floats, p_eff: float, draws: int, seed: int, cache: NullCache
) -> Iterator[tuple[NDArray[np.intp], Floats | Singles]]:
    """Yield, for groups of windows, their rows and log sigma (rows, K, draws); one "draw" is the closed form."""
    size = profiles.shape[1]
    if is_closed_form(size, p_eff):
        yield np.arange(len(profiles)), profiles[:, :, None]
        return
    leaders, members = np.unique(leader_profiles(profiles), axis=0, return_inverse=True)
    for at, profile in enumerate(leaders):
        leader = cache.get(profile, bucketed_dimension(p_eff, size), draws, seed)
        rows = np.flatnonzero(members.ravel() == at)
        at_once = max(_CHUNK_NUMBERS // leader.log_sigma.size, 1)
        for first in range(0, len(rows), at_once):
            chunk = rows[first : first + at_once]
            yield chunk, _moved(leader, profiles[chunk] - profile)


def _moved(leader: _Leader, change: Floats) -> Singles:
    """Return log sigma (n, K, draws) at profiles that differ by `change` (n, W) from the leader's."""
    draws, kept, size = leader.weights.shape
    weights = leader.weights.reshape(draws * kept, size)
    # one product a window: bits of a common product would depend on the company
    shift = np.stack([weights @ row for row in change.astype(np.float32)])
    logs = leader.log_sigma + shift.reshape(len(change), draws, kept)
    logs.sort(axis=2)
    return np.ascontiguousarray(logs[:, :, ::-1].transpose(0, 2, 1))


def _store(
    bands: NullBands, rows: NDArray[np.intp], level: Floats, logs: Floats | Singles, observed: _Observed
) -> None:
    """Write the bands of the windows `rows` from their log sigma (n, K, draws), less their `level`."""
    sigma, ratio, edge = _order_statistics(logs)
    kept = logs.shape[1]
    bands.sigma_null[rows, :kept] = sigma * np.exp(level)[:, None]
    bands.ratio_null_low[rows, : kept - 1] = ratio[0]
    bands.ratio_null_high[rows, : kept - 1] = ratio[2]
    bands.edge_ratio_null[rows] = edge[:, _rank(0.5, edge.shape[1])]
    bands.edge_ratio_null_high[rows] = edge[:, _rank(EDGE_HIGH, edge.shape[1])]
    seen = observed.edge_ratio[rows]
    reached = (edge * (1 + EDGE_TOLERANCE) >= seen[:, None]).mean(axis=1)
    draws = observed.draws
    bands.edge_ratio_p[rows] = np.where(np.isnan(seen), np.nan, (1 + reached * draws) / (draws + 1))


def _order_statistics(logs: Floats | Singles) -> tuple[Any, tuple[Any, Any, Any], Any]:
    """Return median sigma (n, K), (low, median, high) ratios (n, K - 1) and ascending edge ratios (n, draws)."""
    draws = logs.shape[2]
    middle = _rank(0.5, draws)
    ratio = logs[:, :-1] - logs[:, 1:]
    edge = np.exp(np.sort(ratio.max(axis=1), axis=1))
    sigma = np.exp(np.sort(logs, axis=2)[:, :, middle])  # a vectorised sort beats a partition
    ratio.sort(axis=2)
    low, median, high = (np.exp(ratio[:, :, _rank(quantile, draws)]) for quantile in (LOW, 0.5, HIGH))
    return sigma, (low, median, high), edge


def _rank(quantile: float, draws: int) -> int:
    return min(int(np.ceil(quantile * draws)), draws) - 1


def bucketed_dimension(p_eff: float, window_size: int) -> float:
    """Return p_eff on its grid: an integer below the window size, else eighths of an octave."""
    if p_eff < window_size:
        return float(max(round(p_eff), 2))
    step: float = 2.0 ** (round(float(np.log2(p_eff)) * _BUCKETS_PER_OCTAVE) / _BUCKETS_PER_OCTAVE)
    return max(step, float(window_size))


def _expand(correlation: Floats, profile: Floats, p_eff: float) -> _Leader:
    energy, vectors = np.linalg.eigh(_scaled(correlation, profile))
    log_sigma = _log_sigmas(energy, p_eff)
    weights = vectors[:, :, ::-1][:, :, : log_sigma.shape[1]] ** 2
    return _Leader(log_sigma.astype(np.float32), np.ascontiguousarray(weights.transpose(0, 2, 1), dtype=np.float32))


def _log_sigmas(energy: Floats, p_eff: float) -> Floats:
    """Return log sigma (draws, K), descending, from ascending eigenvalues (draws, W)."""
    size = energy.shape[1]
    kept = min(size, round(p_eff)) if p_eff < size else size
    leading = energy[:, ::-1][:, :kept]
    logs: Floats = 0.5 * np.log(np.maximum(leading, np.finfo(np.float64).tiny))
    return logs


def _scaled(correlation: Floats, profile: Floats) -> Floats:
    """Return the Gram matrices (draws, W, W) with norms exp(profile)."""
    norms = np.exp(profile)
    return correlation * norms[:, None] * norms


def _correlations(size: int, p_eff: float, draws: int, seed: int) -> Floats:
    """Return Gram matrices (draws, W, W) of W random unit vectors in p_eff dimensions."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    if p_eff < size:
        rows = generator.standard_normal((draws, size, round(p_eff)))
    else:
        rows = np.tril(generator.standard_normal((draws, size, size)), -1)
        diagonal = np.arange(size)
        rows[:, diagonal, diagonal] = np.sqrt(generator.chisquare(p_eff - diagonal, size=(draws, size)))
    rows /= np.linalg.norm(rows, axis=2, keepdims=True)
    return rows @ rows.transpose(0, 2, 1)


def _padded(values: Floats, length: int) -> Floats:
    padded = np.full((len(values), length), np.nan)
    padded[:, : values.shape[1]] = values
    return padded
