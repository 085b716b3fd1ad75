"""Series with and without a planted coupling, and trials of the tests on them."""

import math
from dataclasses import dataclass, replace

import numpy as np

from sedarchive.gram import Gram
from sedarchive.inference.correlation import FEWEST_EFFECTIVE, correlation_p, fisher_interval
from sedarchive.inference.coupling import RunMetric, Variant, WindowFeatures, half_places, scan_sizes
from sedarchive.inference.granger import granger
from sedarchive.inference.lags import reach_for, scan_lags
from sedarchive.inference.significance import Standing, lag_flip, largest_null, p_values
from sedarchive.inference.sliding import sliding_bands
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
    p = Standing.of_peaks(scan.peaks[search.rule]).own_p()
    return np.where(n_eff < FEWEST_EFFECTIVE, np.nan, p), n_eff, scan.peaks[search.rule].lag[:, 0]


def rejections(p_values, level=0.05):
    """Share of trials that reject, and share that give a p-value."""
    p_values = np.asarray(p_values, dtype=float)
    return float(np.mean(np.nan_to_num(p_values, nan=1.0) <= level)), float(np.mean(np.isfinite(p_values)))


FEATURES_A_METRIC = 10


def pair_trial(rng, n, rho):
    """Unrelated first-order processes, a few features to one metric: p of all tests, and of the authors'."""
    features, metric = autoregressive(rng, n, rho, FEATURES_A_METRIC), autoregressive(rng, n, rho)[0]
    seed = int(rng.integers(2**31))
    found = {f"peak, {detrend}": lag_test(features, metric, Search(detrend), seed=seed)[0] for detrend in DEGREES}
    scan = scan_lags(features, metric[None], 0, Search().reach)
    found["peak, authors (_xu)"] = correlation_p(*peak_of(scan, "n_eff_xu"))
    found["peak, t with n_eff"] = correlation_p(*peak_of(scan, "n_eff"))
    at = int(np.flatnonzero(scan.lags == 0)[0])
    found["lag 0, t with n_eff"] = correlation_p(scan.r[:, at], scan.n_eff[:, at])
    found["lag 0, t with n_eff_xu"] = correlation_p(scan.r[:, at], scan.n_eff_xu[:, at])
    versions = surrogates(metric, np.arange(float(n)), Search().draws, seed)
    tested, bands = granger(features, versions), sliding_bands(features, versions, 7)
    found |= {"granger": tested.p, "granger, authors (_xu)": tested.p_xu}
    found["sliding lowest"] = np.array([band.p_low for band in bands])
    return found | {"sliding highest": np.array([band.p_high for band in bands])}


def peak_of(scan, size):
    """Correlation and effective pairs of the strongest lag."""
    return scan.at_peak(scan.r, "abs"), scan.at_peak(getattr(scan, size), "abs")


def window_trial(rng, loss, sizes=(10, 20), n_checkpoints=160, detrend="cubic", lr=None, kind="plain", stamp="end"):
    """Noise windows through the whole pipeline, at two sizes, against a loss that knows nothing of them."""
    n_updates = n_checkpoints - 1
    norms = np.ones(n_updates) if lr is None else (lr[1:] + lr[:-1]) / 2 * np.exp(0.05 * rng.standard_normal(n_updates))
    updates = rng.standard_normal((n_updates, 64)) * norms[:, None]
    rows = np.concatenate([np.zeros((1, 64)), updates])
    gram = gram_of(rows)
    features = [WindowFeatures(size, noise_features(window_series(gram, size, 64))) for size in sizes]
    metric = replace(
        RunMetric(np.arange(float(n_checkpoints)), half_places(loss), lr), draws=99, seed=int(rng.integers(2**31))
    )
    scans = scan_sizes(features, metric, Variant(stamp, detrend, kind), reach_for(max(sizes)))
    stands = [Standing.of_peaks(scan.peaks["abs"]) for scan in scans]
    largest = largest_null(stands, np.zeros(len(features[0].values), dtype=int))
    family = [p_values(stand.observed[:, None], largest)[:, 0] for stand in stands]
    enough = [scan.at_peak(scan.n_eff, "abs") >= FEWEST_EFFECTIVE for scan in scans]
    found = {
        f"{name} W={size}": p if ok else np.nan
        for size, stand, oks in zip(sizes, stands, enough, strict=True)
        for name, p, ok in zip(FEATURE_NAMES, stand.own_p(), oks, strict=True)
    }
    found["everything searched"] = np.nanmin(np.where(enough, family, 1.0))
    flip = lag_flip(*scans, "abs")
    found["flip of edge_ratio"] = flip.p[0]
    found["flip of edge_ratio, no test"] = 0.0 if flip.flips[0] else 1.0
    return found


FEATURE_NAMES = ("edge_ratio", "drift_speed", "pc1_share")


def noise_features(windows):
    return np.stack([getattr(windows, name) for name in FEATURE_NAMES])


def coverage_trial(rng, n, rho_x, rho_y, share):
    """Whether the default interval at lag 0 holds the correlation; NaN where there is none."""
    shared, own = rng.standard_normal((2, n + 200))
    noise = [shared, share * shared + np.sqrt(1 - share**2) * own]
    x, y = (filtered(one, rho)[200:][None] for one, rho in zip(noise, (rho_x, rho_y), strict=True))
    truth = share * np.sqrt((1 - rho_x**2) * (1 - rho_y**2)) / (1 - rho_x * rho_y)
    scan = scan_lags(x, y, 0, 0)
    low, high = fisher_interval(scan.r[0, 0], scan.n_eff[0, 0])
    return float(low <= truth <= high) if scan.n_eff[0, 0] >= FEWEST_EFFECTIVE else np.nan


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
    return {"peak over lags": p[0], "lag wrong": 1.0 if lag[0] == lead else 0.0}


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
