"""Principal components of a random walk: independent updates of given norms in a space of p_eff dimensions.

Long histories are drawn on fewer points. Updates are joined to blocks, finer where much is moved in few updates: the
sum of a block's updates has a random direction, independent of its length, whose square has the mean ``sum d_i²`` and
the variance ``2 (sum_(i != j) d_i² d_j²) / p_eff``, drawn from a gamma law. Each block stands for its checkpoints. The
shares of the blocks are then moved (by their odds) by what the blocks change in the limit of many dimensions, where the
shares follow from the norms alone. Up to 16 updates nothing is joined, and the null is exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.rolling.drift import Kind, leading

Floats = NDArray[np.float64]

DRAWS = 999
SEED = 0
BAND = (0.025, 0.5, 0.975)
_BLOCKS = 16
_BLOCKS_OF_FEW_DIMENSIONS = 32
"""Below 16 dimensions blocks cost little: the decomposed matrices have the size of the dimension."""
_KEPT = 12
"""Directions in time, the first of the limit, within which walks in 16 dimensions and more are decomposed."""
_MIXING = 0.02
_TIE = 1e-9
"""Relative difference of shares that is rounding."""


@dataclass(frozen=True)
class ShareNull:
    """Null of the share of the first components (count,); NaN beyond the dimension of the walk."""

    low: Floats
    """2.5 % quantile."""
    median: Floats
    high: Floats
    """97.5 % quantile."""
    p: Floats
    """(1 + number of walks with a share at least as large as the observed one) / (1 + draws)."""


def share_nulls(
    norms: Floats, p_eff: float, observed: Mapping[Kind, Floats], draws: int = DRAWS, seed: int = SEED
) -> dict[Kind, ShareNull]:
    """Return the null of the shares of each kind.

    Parameters
    ----------
    norms
        Norms of all updates (n,), finite, not all 0.
    p_eff
        Effective dimension (:func:`.bands.effective_dimension`); rounded to an integer below 16.
    observed
        Shares of the first components by kind (count,); NaN where unknown.
    draws, seed
        Number of walks and seed.

    Returns
    -------
    dict
        Error against walks drawn update by update (n = 60 and 100; equal norms, decay, growth and spikes; p_eff 5 to
        1,000), in standard deviations of the null: medians and quantiles of the first two components 0.2 (as far as
        3,000 walks tell), of the fifth up to 0.6, in single cases 0.9.
    """
    energy = (norms / norms.max()) ** 2  # whose squares overflow for no norm
    n_moving = np.count_nonzero(energy)
    blocks = _blocks(energy, _BLOCKS if p_eff >= _BLOCKS else _BLOCKS_OF_FEW_DIMENSIONS)
    walks = _walks(blocks, p_eff, draws, np.random.Generator(np.random.Philox(key=seed)))
    limit = np.zeros((1, len(blocks.energy) + 1, len(blocks.energy)))  # of many dimensions: all updates orthogonal
    limit[0, 1:] = np.tril(np.broadcast_to(np.sqrt(blocks.energy), 2 * blocks.energy.shape))
    found: dict[Kind, ShareNull] = {}
    for kind, shares in observed.items():
        rows, drawn_rows = _rows(limit, kind, blocks.checkpoints), _rows(walks, kind, blocks.checkpoints)
        directions = np.linalg.eigh(rows[0] @ rows[0].T)[1][:, ::-1][:, :_KEPT]
        drawn = _shares(drawn_rows, directions, len(shares), p_eff)
        if len(blocks.energy) < n_moving:
            drawn = _moved(drawn, _shares(rows, directions, len(shares)), limit_shares(energy, kind, len(shares)))
        drawn[:, n_moving:] = np.nan
        found[kind] = _compared(drawn, shares)
    return found


def limit_shares(energy: Floats, kind: Kind, count: int) -> Floats:
    """Return the shares (count,) in the limit of many dimensions, where all updates are orthogonal.

    The Gram matrix of the positions is then S_min(s, t), S the sums of the squared norms ``energy`` (n,): its products
    are sums, and it need not be made.
    """
    sums = np.concatenate([[0.0], np.cumsum(energy)])
    weights = np.where(sums > 0, 1.0 / np.sqrt(np.where(sums > 0, sums, 1.0)), 0.0) if kind == "row_normalised" else 1.0
    row = np.broadcast_to(weights, sums.shape)[:, None]

    def product(columns: Floats) -> Floats:
        scaled = row * (columns - columns.mean(axis=0) if kind == "centred" else columns)
        image = np.zeros_like(scaled)
        np.cumsum(energy[:, None] * np.cumsum(scaled[:0:-1], axis=0)[::-1], axis=0, out=image[1:])
        image *= row
        found: Floats = image - image.mean(axis=0) if kind == "centred" else image
        return found

    total = float(row[:, 0] ** 2 @ sums)
    if kind == "centred":
        places = np.arange(len(energy), 0, -1.0)
        total -= float(energy @ places**2) / len(sums)  # the sum over s and t of S_min(s, t)
    shares: Floats = leading(product, len(sums), count)[0] / total
    return shares


@dataclass(frozen=True)
class _Blocks:
    """Updates joined to m blocks."""

    energy: Floats
    """Mean squared length of the sum of a block's updates (m,)."""
    spread: Floats
    """Its variance in one dimension (m,); 0 for single updates, whose length is given."""
    checkpoints: Floats
    """Number of checkpoints that the position after each block stands for, the first that of the start (m + 1,)."""


def _blocks(energy: Floats, most: int) -> _Blocks:
    """Join updates of these squared norms (n,) to at most ``most`` blocks, of like shares of energy and time."""
    n_updates = len(energy)
    starts = np.flatnonzero(energy)  # what moves nothing stays where it is
    if len(starts) > most:
        place = (np.cumsum(energy) - energy / 2) / energy.sum()
        time = (np.arange(n_updates) + 0.5) / n_updates
        starts = np.flatnonzero(np.diff((most * (place + time) / 2).astype(np.int64), prepend=-1))
    single = np.add.reduceat(energy > 0, starts, dtype=np.int64) == 1
    joined, fourth = np.add.reduceat(energy, starts), np.add.reduceat(energy**2, starts)
    checkpoints = np.diff(starts, prepend=-1, append=n_updates).astype(np.float64)
    spread = np.where(single, 0.0, 2.0 * np.maximum(joined**2 - fourth, 0.0))
    return _Blocks(joined, spread, checkpoints)


def _walks(blocks: _Blocks, p_eff: float, draws: int, generator: np.random.Generator) -> Floats:
    """Draw the positions (draws, m + 1, d) after each block, the start first, in coordinates that suit m steps."""
    size = len(blocks.energy)
    steps = _directions(size, p_eff, draws, generator) * np.sqrt(_squared_lengths(blocks, p_eff, draws, generator))
    walks = np.zeros((draws, size + 1, steps.shape[2]))
    np.cumsum(steps, axis=1, out=walks[:, 1:])
    return walks


def _directions(size: int, p_eff: float, draws: int, generator: np.random.Generator) -> Floats:
    """Random unit vectors (draws, m, d); from m dimensions up by Bartlett's decomposition, d = m."""
    if p_eff < size:
        rows = generator.standard_normal((draws, size, round(p_eff)))
    else:
        rows = np.tril(generator.standard_normal((draws, size, size)), -1)
        diagonal = np.arange(size)
        rows[:, diagonal, diagonal] = np.sqrt(generator.chisquare(p_eff - diagonal, size=(draws, size)))
    unit: Floats = rows / np.linalg.norm(rows, axis=2, keepdims=True)
    return unit


def _squared_lengths(blocks: _Blocks, p_eff: float, draws: int, generator: np.random.Generator) -> Floats:
    """Squared lengths of the blocks (draws, m, 1)."""
    variance = blocks.spread / p_eff
    varies = variance > 0
    shape, scale = blocks.energy[varies] ** 2 / variance[varies], variance[varies] / blocks.energy[varies]
    lengths = np.tile(blocks.energy, (draws, 1))
    lengths[:, varies] = generator.gamma(shape, scale, size=(draws, len(shape)))
    return lengths[:, :, None]


def _rows(walks: Floats, kind: Kind, checkpoints: Floats) -> Floats:
    """Rows (draws, m + 1, d) of the matrix that is decomposed."""
    if kind == "row_normalised":
        length = np.linalg.norm(walks, axis=2, keepdims=True)
        walks = np.divide(walks, length, out=np.zeros_like(walks), where=length > 0)
    elif kind == "centred":
        walks = walks - np.average(walks, axis=1, weights=checkpoints, keepdims=True)
    return walks * np.sqrt(checkpoints)[:, None]


def _shares(rows: Floats, directions: Floats, count: int, p_eff: float = 1.0) -> Floats:
    """Shares (draws, count) of the first components, within the first directions in time; NaN beyond the dimension."""
    total = np.square(rows).sum(axis=(1, 2))
    if rows.shape[2] >= _BLOCKS:
        rows = directions.T @ rows
        energy = _energies(rows @ rows.transpose(0, 2, 1), count, p_eff)
    else:
        energy = np.asarray(np.linalg.eigvalsh(rows.transpose(0, 2, 1) @ rows)[:, ::-1][:, :count], dtype=np.float64)
    shares = np.full((len(rows), count), np.nan)
    shares[:, : energy.shape[1]] = np.maximum(energy, 0.0) / total[:, None]
    return shares


def _energies(grams: Floats, count: int, p_eff: float) -> Floats:
    """Largest eigenvalues (draws, count), descending, of Gram matrices that are diagonal but for random cosines.

    To second order in these, which costs a third, where they are small beside the gaps between the eigenvalues.
    """
    size = grams.shape[1]
    alone = np.arange(count)[:, None] != np.arange(size)
    typical = np.diagonal(grams, axis1=1, axis2=2).mean(axis=0)
    gap = np.where(alone, typical[:count, None] - typical, np.inf)
    if (typical[:count, None] * typical >= _MIXING * p_eff * gap**2).any():
        return np.asarray(np.linalg.eigvalsh(grams)[:, ::-1][:, :count], dtype=np.float64)
    diagonal = np.diagonal(grams, axis1=1, axis2=2)
    gaps = np.where(alone, diagonal[:, :count, None] - diagonal[:, None, :], np.inf)
    energy: Floats = diagonal[:, :count] + (grams[:, :count] ** 2 / gaps).sum(axis=2)
    return -np.sort(-energy, axis=1)


def _moved(drawn: Floats, coarse: Floats, fine: Floats) -> Floats:
    """Return shares with their odds moved as the limit moves from blocks to single updates."""
    below, above = fine * (1.0 - coarse), coarse * (1.0 - fine)
    odds = np.divide(below, above, out=np.ones_like(below), where=(below > 0) & (above > 0))
    moved: Floats = odds * drawn / (1.0 - drawn + odds * drawn)
    return moved


def _compared(drawn: Floats, observed: Floats) -> ShareNull:
    low, median, high = np.quantile(drawn, BAND, axis=0)
    reached = np.count_nonzero(drawn >= observed * (1.0 - _TIE), axis=0)
    p = (1.0 + reached) / (1.0 + len(drawn))
    return ShareNull(low, median, high, np.where(np.isnan(median + observed), np.nan, p))
