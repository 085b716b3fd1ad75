"""Whether a feature's past predicts a metric beyond the metric's own past (Granger), and how much features explain.

The restricted model has a constant, the learning rate if one is given, and p lags of the metric; the unrestricted one p
lags of the feature besides; p is 1 or 2, by the AIC of the unrestricted model. Each order is fitted to the points it
has, as the authors do, so that the choice depends a little on the metric's unit. It is made after seeing the data, and
the F distribution rejects too often (7 to 12 % at nominal 5 %): that is the authors' p-value. The default compares with
surrogates of the metric, which choose their order too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc

from sedarchive.inference.trends import trend_basis

Floats = NDArray[np.float64]

ORDERS = (1, 2)
FEWEST_POINTS = 10
"""Points below which an order is not fitted."""
_DEPENDENT = 1e-10


@dataclass(frozen=True)
class Granger:
    """The nested F test of m features."""

    f: Floats
    """(m,); NaN where no order can be fitted."""
    order: NDArray[np.int64]
    """p (m,); 0 where none can be."""
    n: NDArray[np.int64]
    """Points fitted (m,)."""
    p_xu: Floats
    """From the F distribution (m,)."""
    p: Floats
    """From the surrogates (m,)."""


def granger(features: Floats, metric: Floats, lr: Floats | None = None) -> Granger:
    """Test every feature for predicting a metric.

    Parameters
    ----------
    features
        One series a row (m, n); one with a gap (NaN) is not fitted.
    metric
        Versions of the metric at the same points (v, n): itself, then its surrogates.
    lr
        Learning rate at the same points (n,).
    """
    whole = np.asarray(np.isfinite(features).all(axis=1))
    x, y = _scaled(np.where(whole[:, None], features, 0.0)), _scaled(metric)
    fits = [_fit(x, y, metric.var(axis=1), lr, order) for order in ORDERS if metric.shape[1] - order >= FEWEST_POINTS]
    if not fits:
        nothing, none = np.full(len(features), np.nan), np.zeros(len(features), dtype=np.int64)
        return Granger(nothing, none, none, nothing, nothing)
    best = np.argmin([fit.aic for fit in fits], axis=0)  # (m, v)
    f, tail = np.choose(best, [fit.f for fit in fits]), np.empty(best.shape)
    for at, fit in enumerate(fits):
        tail[best == at] = fdtrc(fit.order, fit.df, fit.f[best == at])
    known = whole & np.isfinite(f[:, 0])
    order = np.where(known, np.array(ORDERS)[best[:, 0]], 0)
    reached = (tail[:, 1:] <= tail[:, :1]).sum(axis=1)
    share = (1 + reached) / tail.shape[1] if tail.shape[1] > 1 else np.full(len(f), np.nan)
    return Granger(
        np.where(known, f[:, 0], np.nan),
        order,
        np.where(known, metric.shape[1] - order, 0),
        np.where(known, tail[:, 0], np.nan),
        np.where(known, share, np.nan),
    )


@dataclass(frozen=True)
class _Fit:
    """One order, for every feature and version (m, v)."""

    order: int
    df: int
    """Degrees of freedom of what is left."""
    aic: Floats
    f: Floats


def _fit(x: Floats, y: Floats, variance: Floats, lr: Floats | None, order: int) -> _Fit:
    """Fit scaled features (m, n) and versions of a metric (v, n), whose own variance (v,) the AIC needs."""
    n = y.shape[1] - order
    fixed = trend_basis(np.arange(n, dtype=np.float64), 0, [] if lr is None else [lr[order:]])
    target, *past = (_less(y[:, order - lag : order - lag + n], fixed) for lag in range(order + 1))
    lagged = [_less(x[:, order - lag : order - lag + n], fixed) for lag in range(1, order + 1)]
    own = _orthonormal(past)
    left = target - _projected(target, own)
    rss = (left**2).sum(axis=1)
    df_restricted = fixed.shape[1] + order
    df_left = n - df_restricted - order
    with np.errstate(divide="ignore", invalid="ignore"):
        explained = _explained(left, lagged, own)
        rest = np.maximum(rss - explained, 0.0)
        f = (explained / order) / (rest / df_left)
        aic = n * np.log(rest * variance / n) + 2 * (df_restricted + order)  # the authors': in the metric's unit
    f = np.where(rss > _DEPENDENT * (target**2).sum(axis=1), f, np.nan)
    return _Fit(order, df_left, np.where(np.isfinite(f), aic, np.inf), f)


def _explained(left: Floats, lagged: Sequence[Floats], own: Sequence[Floats]) -> Floats:
    """How much of what is left of each version (v, n) the one or two lags of each feature (m, n) explain (m, v)."""
    along = [lag @ left.T for lag in lagged]
    held = [[lag @ past.T for past in own] for lag in lagged]
    aa = _product(lagged[0], lagged[0], held[0], held[0])
    if len(lagged) == 1:
        return np.asarray(along[0] ** 2 / _positive(aa, lagged[0]))
    ab, bb = (_product(one, lagged[1], of_one, held[1]) for one, of_one in zip(lagged, held, strict=True))
    first, second = along
    determinant = _positive(aa * bb - ab**2, lagged[0], lagged[1])
    return np.asarray((first**2 * bb - 2 * first * second * ab + second**2 * aa) / determinant)


def _product(a: Floats, b: Floats, held_a: Sequence[Floats], held_b: Sequence[Floats]) -> Floats:
    """Products (m, v) of the rows of two lags of the features (m, n), less what each version's own past holds of them.

    The past is orthonormal; ``held_a`` and ``held_b`` are the components along each of its lags (m, v).
    """
    product: Floats = (a * b).sum(axis=1)[:, None]
    for one, other in zip(held_a, held_b, strict=True):
        product = product - one * other
    return product


def _positive(determinant: Floats, *lagged: Floats) -> Floats:
    """Determinants (m, v), NaN where the lags are so nearly dependent that only rounding is left."""
    scale = np.prod([(lag**2).sum(axis=1) for lag in lagged], axis=0)[:, None]
    return np.where(determinant > _DEPENDENT * scale, determinant, np.nan)


def multiple_r2(features: Floats, metric: Floats, basis: Floats) -> Floats:
    """Share of each version's variance that features explain together, beyond a trend.

    Parameters
    ----------
    features
        Series without gaps, one a row (k, n).
    metric
        Versions of the metric at the same points (v, n).
    basis
        Orthonormal columns (n, q) that are taken out of all of them first.

    Returns
    -------
    array
        (v,); NaN for a version of which nothing is left.
    """
    return multiple_r2_of_each([features], metric, basis)[0]


def multiple_r2_of_each(groups: Sequence[Floats], metric: Floats, basis: Floats) -> list[Floats]:
    """As :func:`multiple_r2` for several sets of features, against what is left of the metric once."""
    target = _less(_scaled(metric), basis)
    energy = (target**2).sum(axis=1)
    found: list[Floats] = []
    for features in groups:
        columns = [_less(_scaled(row[None]), basis) for row in features]
        explained = sum(((target @ direction[0]) ** 2 for direction in _orthonormal(columns)), np.zeros(len(target)))
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append(np.where(energy > 0, explained / energy, np.nan))
    return found


def _orthonormal(columns: Sequence[Floats]) -> list[Floats]:
    """Rows (v, n) of each column made orthonormal to those of the columns before; 0 where they depend on them."""
    found: list[Floats] = []
    for column in columns:
        left = column
        for _ in range(2):  # the second pass takes what rounding left in the first
            left = left - _projected(left, found)
        energy = (left**2).sum(axis=1, keepdims=True)
        kept = energy > _DEPENDENT * (column**2).sum(axis=1, keepdims=True)
        found.append(np.where(kept, left / np.sqrt(np.where(kept, energy, 1.0)), 0.0))
    return found


def _projected(rows: Floats, directions: Sequence[Floats]) -> Floats:
    """Projection of rows (v, n) on orthonormal directions, one of each (v, n) or (1, n) a version."""
    total = np.zeros_like(rows)
    for direction in directions:
        total += (rows * direction).sum(axis=1, keepdims=True) * direction
    return total


def _less(rows: Floats, basis: Floats) -> Floats:
    """Rows (m, n) less their projection on orthonormal columns (n, q)."""
    projected = (rows @ basis) @ basis.T
    return np.asarray(np.subtract(rows, projected, out=projected))


def _scaled(rows: Floats) -> Floats:
    """Rows of mean 0 and mean square 1; constant rows become 0."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    scale = np.sqrt((centred**2).mean(axis=1, keepdims=True))
    return np.asarray(centred / np.where(scale > 0, scale, 1.0))
