"""Series with and without a planted coupling, and trials of the tests on them."""

import math
from dataclasses import dataclass

import numpy as np

from sedarchive.gram import Gram
from sedarchive.inference.correlation import FEWEST_EFFECTIVE
from sedarchive.inference.lags import scan_lags
from sedarchive.inference.surrogates import surrogates
from sedarchive.inference.trends import DEGREES, without_trend
from sedarchive.rolling.windows import window_series


def autoregressive(rng, n, rho, rows=1):
    """Stationary first-order processes (rows, n) of variance 1."""
    noise = rng.standard_normal((rows, n))
    values = np.empty((rows, n))
    values[:, 0] = noise[:, 0]
    for at in range(1, n):
        values[:, at] = rho * values[:, at - 1] + np.sqrt(1 - rho**2) * noise[:, at]
    return values


def decaying_loss(rng, n, noise=0.05, rho=0.5):
    """A loss that falls from 5 to 2 and is noisy."""
    return 2 + 3 * np.exp(-8 * np.arange(n) / n) + noise * autoregressive(rng, n, rho)[0]


def cosine_rate(n, warm_up=0.1):
    """Learning rate with warm-up and a cosine to a tenth."""
    at = np.arange(n) / n
    return np.where(at < warm_up, at / warm_up, 0.55 + 0.45 * np.cos(np.pi * (at - warm_up) / (1 - warm_up)))


def gram_of(rows):
    """Gram matrix of the first checkpoint and the updates (T, p)."""
    products = rows @ rows.T
    return Gram(products, None, products[0])


def noise_windows(rng, n_windows, size, norms=None, dimension=64):
    """Windows of independent updates."""
    n_updates = n_windows + size - 1
    updates = rng.standard_normal((n_updates, dimension)) * (np.ones(n_updates) if norms is None else norms)[:, None]
    rows = np.concatenate([np.zeros((1, dimension)), updates])
    return window_series(gram_of(rows), size, dimension)


@dataclass(frozen=True)
class Search:
    """How a coupling is looked for."""

    detrend: str = "linear"
    reach: int = 10
    draws: int = 99
    rule: str = "abs"


def lag_test(features, metric, search, covariate=None, seed=0):
    """p, effective pairs and lag of the peak of each feature, as the rows are made: one place a point, no offset."""
    steps = np.arange(metric.size, dtype=np.float64)
    others = [] if covariate is None else [covariate]
    versions = surrogates(metric, steps, search.draws, seed, others)
    degree = DEGREES[search.detrend]
    left = without_trend(versions, steps, degree, others)
    scan = scan_lags(without_trend(features, steps, degree, others), left, 0, search.reach)
    n_eff = scan.at_peak(scan.n_eff, search.rule)
    p = scan.peaks[search.rule].standing.own_p()
    return np.where(n_eff < FEWEST_EFFECTIVE, np.nan, p), n_eff, scan.peaks[search.rule].lag[:, 0]


def rejections(p_values, level=0.05):
    """Share of trials that reject, and share that give a p-value."""
    p_values = np.asarray(p_values, dtype=float)
    return float(np.mean(np.nan_to_num(p_values, nan=1.0) <= level)), float(np.mean(np.isfinite(p_values)))


def peak_of(scan, size):
    """Correlation and effective pairs of the strongest lag."""
    return scan.at_peak(scan.r, "abs"), scan.at_peak(getattr(scan, size), "abs")


def filtered(noise, rho):
    values = np.empty_like(noise)
    values[0] = noise[0]
    for at in range(1, len(noise)):
        values[at] = rho * values[at - 1] + np.sqrt(1 - rho**2) * noise[at]
    return values


def power_trial(rng, n, rho, effect, lead=3):
    """A metric that follows the feature: p of the peak, and whether it lies at the true lag."""
    hidden = autoregressive(rng, n + 20, rho)[0]
    feature = hidden[10 : 10 + n]
    metric = -effect * hidden[10 - lead : 10 - lead + n] + np.sqrt(1 - effect**2) * autoregressive(rng, n, rho)[0]
    p, _, lag = lag_test(feature[None], metric, Search(), seed=int(rng.integers(2**31)))
    return {"peak over lags": p[0], "lag right": float(lag[0] == lead)}


def integrated_tail(f, df1, df2):
    """P(F >= f), by Simpson's rule for the beta density in the variable that has no pole."""
    log_beta = math.lgamma(df1 / 2) + math.lgamma(df2 / 2) - math.lgamma((df1 + df2) / 2)
    end = math.asin(math.sqrt(df2 / (df2 + df1 * f)))
    angle = np.linspace(0, end, 20_001)
    with np.errstate(divide="ignore"):
        log_density = (df2 - 1) * np.log(np.sin(angle)) + (df1 - 1) * np.log(np.cos(angle))
    density = 2 * np.exp(log_density - log_beta)
    weights = np.tile([2.0, 4.0], 100_001)[: len(angle)]
    weights[[0, -1]] = 1
    return float((density * weights).sum() * end / 20_000 / 3)
