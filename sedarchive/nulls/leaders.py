"""Leaders: fixed profiles of norms and dimensions at which random updates are drawn once, for all windows near them.

A *profile* is a window's sorted log norms less their mean. The grid of leaders does not depend on the windows seen
before: the leader of a profile is a function of that profile alone. From a leader to a window, quantiles are moved
rather than draws: to first order the quantile of ``g`` moves by the mean of g's derivative over the draws near that
quantile, with ``d log sigma_k = sum_i u_ik² d log norm_i`` (first-order perturbation of ``D C D``, D the norms, C the
cosines). The gaps ``g_k = log sigma_k - log sigma_{k+1}`` keep their joint order among draws.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

_GRIDS = ((0.0, 0.03, 0.8), (0.0, 0.1, 1.5), (0.012, 0.06, 1.5))
"""Centre, unit and step of the grids of slope, bend and skew; 5 % jitter has about the centre's skew."""
_COARSE_SIZE = 15
"""Window size from which all grids are coarse."""
_FEW_DIMENSIONS = 128
_EDGE_DENSITY = 4
_LARGE_GAP, _LARGE_SHARE, _LONELY_SHARE, _JUMP_STEP = 0.3, 4.0, 3.0, 0.3
_BIN_EDGES = np.array([0.0, 0.2, 0.8, 1.0])
_RELATIVE_STEP = 1e-5
BAND = (0.025, 0.5, 0.975)
"""Quantiles of the gaps: low, median, high."""


class Draws(NamedTuple):
    """Cosines of random vectors."""

    cosines: Floats
    """Gram matrices of unit vectors (draws, W, W)."""
    rate: Floats
    """Derivative of a third of them by ``t`` at 1, where the dimension is p_eff / t² (draws / 3, W, W)."""


class Leader(NamedTuple):
    """Quantiles at one profile and dimension, and how they move with the W log norms and t (see `Draws`)."""

    log_sigma: Floats
    """Medians (K,), descending."""
    sigma_rates: Floats
    """(K, W + 1)."""
    gaps: Singles
    """log sigma_k - log sigma_{k+1} (K - 1, draws)."""
    gap_rates: Floats
    """Mean derivative of the gaps in bins of their rank ((K - 1) * bins, W + 1)."""
    hats: Singles
    """Weight of each bin at the rank of each gap (K - 1, bins, draws)."""
    quantiles: Singles
    """Low, median and high gaps (K - 1, 3)."""
    quantile_hats: Singles
    """Weight of each bin at these ranks (bins, 3)."""


class Moved(NamedTuple):
    """The null of n windows in logarithms."""

    log_sigma: Any
    """Medians (n, K)."""
    gaps: Any
    """Low, median and high gaps (n, K - 1, 3)."""
    largest: Any
    """Largest gap of every draw, ascending (n, draws)."""


def leader_profiles(profiles: Floats) -> Floats:
    """Return the leader of each profile.

    A lonely gap between neighbours, far above the typical one and those beside it (an outlier, a step of the learning
    rate), is taken out of the profile and rounded to steps of 0.3. What stays is written as a polynomial of third
    degree in the rank, whose coefficients are rounded to inverse hyperbolic sine grids (even near the centre, then
    proportional). Jitter is left to the first-order correction.

    Parameters
    ----------
    profiles
        Log norms (n, W), W >= 2, each descending, with mean 0.

    Returns
    -------
    ndarray
        (n, W), each descending.
    """
    jumps = _lonely_gaps(profiles[:, :-1] - profiles[:, 1:])
    basis = _polynomials(profiles.shape[1])
    centre, unit, step = np.array(_GRIDS)[: len(basis)].T
    step = step * min(max(profiles.shape[1] / _COARSE_SIZE, 0.5), 1.0)  # draws of small windows are cheap
    coefficients = (_coefficients(profiles - _steps(jumps), basis) - centre) / unit
    rounded = centre + unit * np.sinh(np.rint(np.arcsinh(coefficients) / step) * step)
    smooth = (rounded[:, :, None] * basis).sum(axis=1)
    leaders: Floats = -np.sort(-(smooth + _steps(np.rint(jumps / _JUMP_STEP) * _JUMP_STEP)), axis=1)
    return leaders + 0.0  # one zero, not two: equal leaders have equal bytes


def _lonely_gaps(gaps: Floats) -> Floats:
    """Return the excess of the lonely gaps over the typical gap, 0 for the others (n, W - 1)."""
    typical = np.sort(gaps, axis=1)[:, [(gaps.shape[1] - 1) // 2]]
    padded = np.pad(gaps, ((0, 0), (1, 1)))
    beside = np.maximum(padded[:, :-2], padded[:, 2:])
    bound = np.maximum(np.maximum(_LARGE_SHARE * typical, _LONELY_SHARE * beside), _LARGE_GAP)
    return np.where(gaps > bound, gaps - typical, 0.0)


def _steps(jumps: Floats) -> Floats:
    """Return the descending steps (n, W) with these jumps (n, W - 1) and mean 0."""
    steps = np.zeros((len(jumps), jumps.shape[1] + 1))
    steps[:, 1:] = -np.cumsum(jumps, axis=1)
    centred: Floats = steps - steps.mean(axis=1, keepdims=True)
    return centred


def _coefficients(profiles: Floats, basis: Floats) -> Floats:
    """Return the coefficients (n, degrees) of profiles; not by a product, whose bits depend on the other profiles."""
    return np.stack([(profiles * row).mean(axis=1) for row in basis], axis=1)


def _polynomials(size: int) -> Floats:
    """Return the polynomials of degree 1 to 3 in the rank (at most 3, W), orthogonal, of mean 0 and mean square 1."""
    powers = np.vander(np.linspace(1.0, -1.0, size), min(4, size), increasing=True)
    orthogonal, triangle = np.linalg.qr(powers)
    signs = np.sign(np.diagonal(triangle))
    basis: Floats = np.ascontiguousarray((orthogonal * signs * np.sqrt(size)).T[1:])
    return basis


def leader_dimension(p_eff: float, window_size: int) -> float:
    """Return the dimension of the leaders of p_eff: an integer below the window size, else on a geometric grid.

    Below 2 W the grid is one of p_eff - W + 1, the degrees of freedom of the smallest singular value. Above it has one
    value an octave from 6 W up, more below, and for small windows in few dimensions, whose ratios spread widely.
    """
    if p_eff < window_size:
        return float(max(round(p_eff), 2))
    if p_eff < 2 * window_size:
        return window_size - 1 + _rounded_octaves(p_eff - window_size + 1, _EDGE_DENSITY)
    small = window_size < _COARSE_SIZE and p_eff < _FEW_DIMENSIONS
    if p_eff < 4 * window_size or small:
        return _rounded_octaves(p_eff, 4)
    return _rounded_octaves(p_eff, 2 if p_eff < 6 * window_size else 1)


def _rounded_octaves(value: float, density: int) -> float:
    """Return the nearest value of a grid of `density` values an octave."""
    rounded: float = 2.0 ** (round(float(np.log2(value)) * density) / density)
    return rounded


def draw_cosines(size: int, p_eff: float, draws: int, seed: int) -> Draws:
    """Draw the cosines of W random vectors in p_eff dimensions, by Bartlett's decomposition from W dimensions up."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    n_rates = -(-draws // 3)
    if p_eff < size:
        cosines = _cosines(generator.standard_normal((draws, size, round(p_eff))))
        return Draws(cosines, np.zeros_like(cosines[:n_rates]))
    rows = np.tril(generator.standard_normal((draws, size, size)), -1)
    diagonal = np.arange(size)
    heights = np.sqrt(generator.chisquare(p_eff - diagonal, size=(draws, size)))
    rows[:, diagonal, diagonal] = heights
    cosines = _cosines(rows)
    t = 1 - _RELATIVE_STEP
    rows = rows[:n_rates]
    rows[:, diagonal, diagonal] *= np.sqrt((p_eff / t**2 - diagonal) / (p_eff - diagonal))
    return Draws(cosines, (cosines[:n_rates] - _cosines(rows)) / _RELATIVE_STEP)


def _cosines(rows: Floats) -> Floats:
    unit: Floats = rows / np.linalg.norm(rows, axis=2, keepdims=True)
    return unit @ unit.transpose(0, 2, 1)


def scaled(cosines: Floats, profile: Floats) -> Floats:
    """Return the Gram matrices (draws, W, W) with norms exp(profile)."""
    norms = np.exp(profile)
    return cosines * norms[:, None] * norms


def log_sigmas(energy: Floats, p_eff: float) -> Floats:
    """Return log sigma (draws, K), descending, from ascending eigenvalues (draws, W)."""
    size = energy.shape[1]
    kept = min(size, round(p_eff)) if p_eff < size else size
    leading = energy[:, ::-1][:, :kept]
    logs: Floats = 0.5 * np.log(np.maximum(leading, np.finfo(np.float64).tiny))
    return logs


def draw_leader(drawn: Draws, profile: Floats, p_eff: float) -> Leader:
    """Return the leader at a profile (W,) and a dimension."""
    logs, rates = _log_sigmas_and_rates(drawn, profile, p_eff)
    gaps = (logs[:, :-1] - logs[:, 1:]).T
    ranks = np.argsort(np.argsort(gaps, axis=1), axis=1)
    n_draws = len(logs)
    n_rates = len(rates)
    edges = np.unique(np.rint(_BIN_EDGES * n_rates).astype(np.intp))
    gap_rates = _means_by_rank(rates[:, :-1] - rates[:, 1:], gaps[:, :n_rates], edges)
    middle = _means_by_rank(rates, logs[:n_rates].T, _middle(n_rates))
    hats = _hats(edges / n_rates, n_draws)
    picked = [rank_of(quantile, n_draws) for quantile in BAND]
    return Leader(
        np.sort(logs, axis=0)[rank_of(0.5, n_draws)],
        middle[:, 0],
        np.ascontiguousarray(gaps, dtype=np.float32),
        gap_rates.reshape(-1, gap_rates.shape[2]),
        np.ascontiguousarray(hats[:, ranks].transpose(1, 0, 2)),
        np.sort(gaps, axis=1)[:, picked].astype(np.float32),
        hats[:, picked],
    )


def rank_of(quantile: float, draws: int) -> int:
    """Return the place of a quantile among sorted draws."""
    return min(int(np.ceil(quantile * draws)), draws) - 1


def _middle(draws: int) -> NDArray[np.intp]:
    """Return first and last + 1 of the fifth of all ranks around the median, at least one."""
    first = min(int(0.4 * draws), (draws - 1) // 2)
    return np.array([first, draws - first], dtype=np.intp)


def _log_sigmas_and_rates(drawn: Draws, profile: Floats, p_eff: float) -> tuple[Floats, Floats]:
    """Return log sigma (draws, K) and, for the first draws, its derivatives by log norms and t (draws, K, W + 1)."""
    grams = scaled(drawn.cosines, profile)
    n_rates = len(drawn.rate)
    energy, vectors = np.linalg.eigh(grams[:n_rates])
    logs = log_sigmas(np.concatenate([energy, np.linalg.eigvalsh(grams[n_rates:])]), p_eff)
    leading = np.ascontiguousarray(vectors[:, :, ::-1][:, :, : logs.shape[1]].transpose(0, 2, 1))
    change = np.sum((leading @ scaled(drawn.rate, profile)) * leading, axis=2)
    by_t = 0.5 * change * np.exp(-2 * logs[:n_rates])
    return logs, np.concatenate([leading**2, by_t[:, :, None]], axis=2)


def _means_by_rank(rates: Floats, values: Floats, edges: NDArray[np.intp]) -> Floats:
    """Return the means of rates (draws, k, W + 1) over bins of the rank of the values (k, draws)."""
    order = np.argsort(values, axis=1)[:, edges[0] : edges[-1]]
    ranked = rates[order, np.arange(len(values))[:, None]]
    sums = np.add.reduceat(ranked, edges[:-1] - edges[0], axis=1)
    means: Floats = sums / np.diff(edges)[:, None]
    return means


def _hats(edges: Floats, draws: int) -> Singles:
    """Return the weights (bins, draws) that interpolate between the centres of the bins."""
    centres = (edges[1:] + edges[:-1]) / 2
    quantiles = (np.arange(draws) + 0.5) / draws
    return np.stack([np.interp(quantiles, centres, row) for row in np.eye(len(centres))]).astype(np.float32)


def move(leader: Leader, change: Floats) -> Moved:
    """Return the nulls of n windows whose log norms and t differ by `change` (n, W + 1) from the leader's."""
    vectors = change[:, :, None]  # stacked: one product a window, whose bits do not depend on the company
    log_sigma = leader.log_sigma + (leader.sigma_rates @ vectors)[:, :, 0]
    shift = (leader.gap_rates @ vectors).reshape(len(change), len(leader.gaps), -1).astype(np.float32)
    gaps = (shift[:, :, None] @ leader.hats)[:, :, 0]
    gaps += leader.gaps
    largest = np.maximum(np.sort(gaps.max(axis=1), axis=1), 0)
    quantiles = np.sort(np.maximum(leader.quantiles + shift @ leader.quantile_hats, 0), axis=2)
    return Moved(-np.sort(-log_sigma, axis=1), quantiles, largest)
