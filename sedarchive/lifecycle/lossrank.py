"""Rank correlation of spectral metrics with a loss over the steps of one run, beyond what any two trends share.

A loss falls and a spectrum changes in every run, so that their levels correlate whatever they have to do with each
other: that correlation is given, and no p. What can be tested is whether they move together from one checkpoint to the
next. First differences are not enough: two unrelated curves that both bend at the start have those in common too, and
naive tests reject up to all of such pairs. So a cubic in step and in the logarithm of step, and the learning rate where
it is known, are taken out of the differences, and what is left is compared with surrogates of the loss's: the same
spectrum, random phases.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from sedarchive.inference.correlation import FEWEST_EFFECTIVE, effective_size, lag_one
from sedarchive.inference.significance import largest_null
from sedarchive.inference.standing import Standing, p_value
from sedarchive.inference.surrogates import DRAWS, phase_randomised
from sedarchive.inference.trends import residuals, trend_basis
from sedarchive.lifecycle.ranks import mean_ranks

Floats = NDArray[np.float64]

FEWEST = 20
"""Differences below which nothing is said of them."""
_DEGREE = 3
_BEND = 50.0
"""The logarithm is of 1 + 50 x share of the run: it bends in the first 2 %."""


@dataclass(frozen=True)
class RankCoupling:
    """Spearman correlation of one feature with a loss; NaN where there is none."""

    n: int
    """Pairs."""
    status: str
    """ok; level (of levels: no p); few_effective (fewer than 10 effective pairs); constant; too_few."""
    rho: float = math.nan
    low: float = math.nan
    """Ends of the 95 % interval (Bonett and Wright 2000, with the effective pairs)."""
    high: float = math.nan
    p: float = math.nan
    """By the largest |rho| of all features."""
    p_feature: float = math.nan
    """Of this feature alone."""
    n_eff: float = math.nan
    """Effective pairs."""


def level_couplings(features: Floats, loss: Floats) -> list[RankCoupling]:
    """Correlate features (m, n) with a loss (n,) as they are: two trends always correlate, so there is no p."""
    n = len(loss)
    if n < FEWEST:
        return [RankCoupling(n, "too_few")] * len(features)
    ranks, its = _standard(features), _standard(loss[None])
    n_eff = effective_size(n, lag_one(ranks), lag_one(its))
    return [
        RankCoupling(n, "constant") if math.isnan(rho) else RankCoupling(n, "level", float(rho), n_eff=float(size))
        for rho, size in zip(ranks @ its[0], n_eff, strict=True)
    ]


def change_couplings(
    features: Floats, loss: Floats, steps: Floats, lr: Floats | None = None, draws: int = DRAWS, seed: int = 0
) -> list[RankCoupling]:
    """Correlate the changes of features (m, n) with those of a loss (n,), less what both do in any run.

    Parameters
    ----------
    features, loss
        Finite.
    steps
        Ascending (n,).
    lr
        Learning rate at these steps (n,), which moves both; None if unknown.
    draws, seed
        Of the surrogates, which all features share.
    """
    n = len(loss) - 1
    if n < FEWEST:
        return [RankCoupling(max(n, 0), "too_few")] * len(features)
    basis = _basis(steps[1:], None if lr is None else (lr[1:] + lr[:-1]) / 2)
    left, its = (residuals(np.diff(rows), basis) for rows in (features, loss[None]))
    drawn = phase_randomised(its[0], draws, seed)
    ranks, versions = _standard(left), _standard(np.concatenate([its, residuals(drawn, basis)]))
    rho = np.clip(ranks @ versions.T, -1.0, 1.0)
    n_eff = effective_size(n, lag_one(ranks), lag_one(versions[:1]))
    p = _p_values(rho)
    return [_judged(n, *row) for row in zip(rho[:, 0].tolist(), n_eff.tolist(), *p, strict=True)]


def _judged(n: int, rho: float, n_eff: float, p: float, p_feature: float) -> RankCoupling:
    if math.isnan(rho):
        return RankCoupling(n, "constant")
    if n_eff < FEWEST_EFFECTIVE:
        return RankCoupling(n, "few_effective", rho, n_eff=n_eff)
    reach = float(ndtri(0.975)) * math.sqrt((1 + rho**2 / 2) / (n_eff - 3))
    z = math.atanh(min(max(rho, -1 + 1e-15), 1 - 1e-15))
    return RankCoupling(n, "ok", rho, math.tanh(z - reach), math.tanh(z + reach), p, p_feature, n_eff)


def _p_values(rho: Floats) -> tuple[list[float], list[float]]:
    """P of each feature by the largest of all, and by itself, from correlations with all versions (m, 1 + draws)."""
    known = np.isfinite(rho[:, 0])
    p = np.full((2, len(rho)), np.nan)
    if known.any():
        standing = Standing.of_peaks(rho[known], "abs")
        largest = largest_null([standing], np.zeros(int(known.sum()), dtype=np.intp))
        p[:, known] = p_value(standing.observed, largest), standing.own_p()
    return p[0].tolist(), p[1].tolist()


def _basis(steps: Floats, lr: Floats | None) -> Floats:
    bent = np.log1p(_BEND * (steps - steps[0]) / max(float(np.ptp(steps)), 1e-300))
    powers = [bent**power for power in range(1, _DEGREE + 1)]
    return trend_basis(steps, _DEGREE, powers if lr is None else [*powers, lr])


def _standard(rows: Floats) -> Floats:
    """Ranks of each row (m, n), of mean 0 and sum of squares 1; NaN for a constant row."""
    ranks = np.stack([mean_ranks(row) for row in rows])
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.sqrt((ranks**2).sum(axis=1, keepdims=True))
    return np.asarray(ranks / np.where(length > 0, length, np.nan))
