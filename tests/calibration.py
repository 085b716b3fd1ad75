"""Cases of the calibration: noise that every default test meets, and truths that every default interval should hold.

A case runs a number of trials and returns, for each thing that it looks at, what came of them: 1 (rejected at 5 %, or
held), 0, or NaN where no p-value or interval is given.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial

import numpy as np
from series import Search, autoregressive, cosine_rate, decaying_loss, lag_test, noise_windows, peak_of

from sedarchive.compute.couplings.coupling_rows import share_columns
from sedarchive.compute.inference.flow_rows import GapWindows, feedback_rows, maximality_rows
from sedarchive.inference import changes
from sedarchive.inference.changes import ShiftOptions
from sedarchive.inference.correlation import (
    FEWEST_EFFECTIVE,
    correlation_p,
    fewest_effective,
)
from sedarchive.inference.coupling import RunMetric, Variant, WindowFeatures, half_places, scan_sizes
from sedarchive.inference.cusum import cusum_statistic, noise_statistics, window_noise
from sedarchive.inference.feedback import correlations, lagged
from sedarchive.inference.gapflow import RandomHistory, walk_gaps
from sedarchive.inference.granger import granger, multiple_r2
from sedarchive.inference.lags import reach_for, scan_lags
from sedarchive.inference.leads import lead_law
from sedarchive.inference.significance import lag_flip, largest_null
from sedarchive.inference.sliding import sliding_bands
from sedarchive.inference.standing import p_value
from sedarchive.inference.surrogates import surrogates
from sedarchive.inference.trends import trend_basis
from sedarchive.inference.walks import walk_sigmas
from sedarchive.nulls.bands import null_bands

NOMINAL = (0.03, 0.07)
AT_MOST = (0.0, 0.07)
HELD = (0.90, 0.99)
SHOWN = (0.0, 1.0)
"""Of the authors' variants, and of what is stated and not bounded."""
STATED_NAMES = {("noise windows [scene decaying loss, linear, centre]", "p_lags W=10, edge_ratio")}
"""(case, name) of single numbers that are stated, in ``explain`` too: a straight line leaves the loss its decay."""
FEW_GIVEN = 0.25
"""Share of trials with an interval below which it is shown and not bounded: luck chooses these."""


@dataclass(frozen=True)
class Case:
    """Something to be counted."""

    name: str
    run: Callable[[np.random.Generator, int], dict]
    bounds: tuple[float, float]
    trials: int = 2000
    quick: int = 60
    """Trials of the reduced tier; 0: the case is a campaign's alone."""


def rejected(p):
    p = np.asarray(p, dtype=float)
    return np.where(np.isnan(p), np.nan, p <= 0.05)


def joined(found):
    return {name: np.concatenate([np.atleast_1d(one[name]) for one in found]) for name in found[0]}


# Couplings of first-order processes

FEATURES = 20
STEPS = 10


def unrelated_pairs(rng, trials, n, rho):
    """Many features to one metric; every test that stands in ``couplings``."""
    return joined([_pairs(rng, n, rho) for _ in range(max(trials // FEATURES, 1))])


def _pairs(rng, n, rho):
    features, metric = autoregressive(rng, n, rho, FEATURES), autoregressive(rng, n, rho)[0]
    seed = int(rng.integers(2**31))
    p = {
        f"peak over lags, {kind}": lag_test(features, metric, Search(kind), seed=seed)[0]
        for kind in ("linear", "cubic")
    }
    versions = surrogates(metric, np.arange(float(n)), Search().draws, seed)
    bands = sliding_bands(features, versions, 7)
    p["granger"] = granger(features, versions).p
    p["sliding, lowest"] = np.array([band.p_low for band in bands])
    p["sliding, highest"] = np.array([band.p_high for band in bands])
    basis = trend_basis(np.arange(float(n)), 1)
    pairs = [features[[at, at - 1]] for at in range(FEATURES)]
    shares = [(multiple_r2(x, versions, basis), fewest_effective(x, versions[:1], basis)) for x in pairs]
    p["multiple_r2"] = np.array([share_columns(share, n, n_eff)["p"][0] for share, n_eff in shares])
    return {name: rejected(values) for name, values in p.items()}


def authors_pairs(rng, trials, n, rho):
    """The authors' p-values on the same."""
    found = []
    for _ in range(max(trials // FEATURES, 1)):
        features, metric = autoregressive(rng, n, rho, FEATURES), autoregressive(rng, n, rho)
        scan = scan_lags(features, metric, 0, Search().reach)
        at = int(np.flatnonzero(scan.lags == 0)[0])
        found.append(
            {
                "p_xu at lag 0": rejected(correlation_p(scan.r[:, at], scan.n_eff_xu[:, at])),
                "p_xu of the peak": rejected(correlation_p(*peak_of(scan, "n_eff_xu"))),
                "p_xu of granger": rejected(granger(features, metric).p_xu),
            }
        )
    return joined(found)


# The pipeline: windows of noise against a loss

T, SIZES, WALKS = 160, (10, 20), 10
PLAIN = ("edge_ratio", "drift_speed", "pc1_share")


def light_windows(updates, size):
    """Singular values (n, W) of all windows of updates, and the plain features (3, n) that follow from them."""
    products = updates @ updates.T
    starts = np.arange(len(updates) - size + 1)[:, None] + np.arange(size)
    gram = products[starts[:, :, None], starts[:, None, :]]
    sigma = np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[:, ::-1], 0.0))
    edge = (sigma[:, :-1] / sigma[:, 1:]).max(axis=1)
    drift = np.sqrt(gram.sum(axis=(1, 2))) / size
    return sigma, np.array([edge, drift, sigma[:, 0] ** 2 / (sigma**2).sum(axis=1)])


def walked_updates(rng, by_lr):
    """Updates of a random walk of 64 dimensions, their norms even or by the learning rate."""
    lr = cosine_rate(T)
    norms = (lr[1:] + lr[:-1]) / 2 * np.exp(0.05 * rng.standard_normal(T - 1)) if by_lr else np.ones(T - 1)
    return rng.standard_normal((T - 1, 64)) * norms[:, None]


@lru_cache(maxsize=4)
def walk_pool(count, by_lr):
    """Features (count, 3, n) at each size, and the singular values (count, n, 10) of windows of 10, of random walks."""
    rng = np.random.default_rng([count, by_lr])
    walks = [walked_updates(rng, by_lr) for _ in range(count)]
    light = [[light_windows(updates, size) for updates in walks] for size in SIZES]
    return [np.array([features for _, features in sized]) for sized in light], np.array(
        [sigma for sigma, _ in light[0]]
    )


SCENES = {
    "decaying loss, cubic, end": Variant("end", "cubic", "plain"),
    "decaying loss, linear, centre": Variant("centre", "linear", "plain"),
    "norms and loss by the learning rate, which is taken out": Variant("end", "linear", "partial_lr"),
}


def noise_against_loss(rng, trials, scene):
    """Some walks to one loss, through the scan of both sizes and its maxima."""
    variant = SCENES[scene]
    by_lr = variant.kind == "partial_lr"
    features, _ = walk_pool(trials, by_lr)
    found = []
    for first in range(0, trials, WALKS):
        found.append(_scene_trial(rng, variant, [one[first : first + WALKS] for one in features], by_lr))
    return joined(found)


def _scene_trial(rng, variant, features, by_lr):
    lr = cosine_rate(T) if by_lr else None
    loss = 3 - 0.5 * lr + 0.05 * autoregressive(rng, T, 0.5)[0] if by_lr else decaying_loss(rng, T)
    sized = [WindowFeatures(s, one.reshape(-1, one.shape[2])) for s, one in zip(SIZES, features, strict=True)]
    metric = RunMetric(np.arange(float(T)), half_places(loss), lr)
    scans = scan_sizes(sized, replace(metric, draws=199, seed=int(rng.integers(2**31))), variant, reach_for(max(SIZES)))
    families = np.repeat(np.arange(WALKS), len(PLAIN))
    found = {}
    for rule in ("abs", "negative"):
        stands = [scan.peaks[rule].standing for scan in scans]
        largest = largest_null(stands, families)
        enough = [scan.at_peak(scan.n_eff, rule) >= FEWEST_EFFECTIVE for scan in scans]
        p = [p_value(stand.observed, largest) for stand in stands]
        least = np.min([np.where(ok, one, 1.0) for ok, one in zip(enough, p, strict=True)], axis=0)
        found[f"p, {rule}: everything searched"] = rejected(least.reshape(WALKS, -1).min(axis=1))
        for size, stand, ok in zip(SIZES, stands, enough, strict=True):
            own = np.where(ok, stand.own_p(), np.nan).reshape(WALKS, -1)
            if rule == "abs":
                found |= {f"p_lags W={size}, {name}": rejected(own[:, at]) for at, name in enumerate(PLAIN)}
        flip = lag_flip(*scans, rule)
        found[f"flip of edge_ratio, {rule}"] = rejected(np.nan_to_num(flip.p[:: len(PLAIN)], nan=1.0))
        any_flip = np.nan_to_num(flip.p_of(largest_null([flip], families)), nan=1.0).reshape(WALKS, -1)
        found[f"flip of any feature, {rule}"] = rejected(any_flip.min(axis=1))
    return found


# Shifts


def shift_p(series, size):
    """p of many series (trials, n), as find_shift counts it; 1 where it gives none."""
    options = ShiftOptions()
    null = np.sort(noise_statistics(series.shape[1], size, options.draws, options.seed))
    below = np.searchsorted(null, cusum_statistic(series, size))
    persistent = [changes._Fit.of(one, size).persistence > changes._PERSISTENT for one in series]
    return np.where(persistent, 1.0, (1 + len(null) - below) / (1 + len(null)))


def averaged(updates, size):
    return np.lib.stride_tricks.sliding_window_view(updates, size, axis=-1).mean(axis=-1)


def walked_edge(rng, n, size):
    """Log edge ratio (n,) of a random walk with norms of its own."""
    norms = np.exp(0.1 * rng.standard_normal(n + size - 1))
    sigma = next(walk_sigmas(norms, 300, size, 1, int(rng.integers(2**31))))
    return np.log(np.max(sigma[:, :-1] / sigma[:, 1:], axis=1))


def shifts_in_noise(rng, trials, n, size):
    found = {"averages of white noise": window_noise(n, size, trials, rng)}
    found["averages of AR(1) 0.5"] = averaged(autoregressive(rng, n + size - 1, 0.5, trials), size)
    found["edge ratio of random walks"] = np.array([walked_edge(rng, n, size) for _ in range(trials)])
    return {name: rejected(shift_p(series, size)) for name, series in found.items()}


def shifts_in_smooth_noise(rng, trials, n, size):
    """Updates so strongly autocorrelated that most series have no p."""
    noise = {rho: autoregressive(rng, n + size - 1, rho, trials) for rho in (0.9, 0.97)}
    return {f"averages of AR(1) {rho}": rejected(shift_p(averaged(one, size), size)) for rho, one in noise.items()}


# Gaps


def gaps_of_walks(rng, trials, n, size, k):
    """Gaps of random walks, each against 99 others."""
    gaps = walk_gaps(RandomHistory(np.ones(n), 300), size, k, draws=trials + 1000, seed=int(rng.integers(2**31)))
    null, steps = gaps[trials:], 50 * np.arange(gaps.shape[1])
    found = {}
    for name, centred in (("damping", False), ("damping, authors' difference (gap_flow_xu)", True)):
        p = []
        for gap in gaps[:trials]:
            sigma = np.column_stack([gap, np.zeros_like(gap)])
            p.append(flow_p(steps, sigma, null[rng.choice(len(null), 99, replace=False)], centred))
        found[name] = rejected(p)
    return found


def flow_p(steps, sigma, null, centred):
    """p of gap_flow, without its intervals, which take the time."""
    from sedarchive.inference import gapflow

    gap = sigma[:, 0]
    fit = gapflow.fit_flow(gap, gapflow.gap_rate(steps, gap, centred))
    return gapflow._against(gapflow.fit_flow(null, gapflow.gap_rate(steps, null, centred)), fit)[2]


def feedback(rng, trials, rho):
    """Changes of two unrelated series over 21 lags."""
    p = []
    for x, y in zip(autoregressive(rng, 150, rho, trials), autoregressive(rng, 150, rho, trials), strict=True):
        p.append(np.nanmin(correlations(lagged(np.diff(x), 10)[:, 10:-10], np.diff(y)[10:-10]).p))
    return {"alpha_feedback": rejected(p)}


def feedback_of_walks(rng, trials):
    """Gap and stability of the same random walk: both are made of the same updates."""
    p = []
    for _ in range(trials):
        one = noise_windows(rng, T - SIZES[0], SIZES[0])
        steps = 50 * np.arange(len(one.sigma))
        rows = feedback_rows(GapWindows(steps, one.sigma, np.ones(len(steps))), one.overlap_previous)
        p.append(rows[0].get("p", np.nan))
    return {"alpha_feedback at k = 1": rejected(p)}


def maximality_of_walks(rng, trials):
    """Every ratio of random walks against a loss that knows nothing of them."""
    p = []
    for sigma in walk_pool(trials, False)[1]:
        n = len(sigma)
        rows = maximality_rows(GapWindows(50 * np.arange(n), sigma, np.ones(n)), decaying_loss(rng, n))
        p.append(np.nanmin([row["p"] for row in rows]))
    return {"gap_maximality, all k": rejected(p)}


# Laws over runs, projections, windows


def unrelated_onsets(rng, trials, n):
    p = [
        lead_law(np.exp(rng.uniform(8, 11, n)), np.exp(rng.uniform(5, 7, n)), draws=199, seed=at).p
        for at in range(trials)
    ]
    return {"p_null": rejected(p)}


def windows_of_noise(rng, trials, size, dimension):
    """Random windows against their band: the largest ratio, and every ratio."""
    norms = np.exp(0.1 * rng.standard_normal((trials, size)))
    updates = rng.standard_normal((trials, size, dimension))
    updates *= (norms / np.linalg.norm(updates, axis=2))[:, :, None]
    sigma = np.linalg.svd(updates, compute_uv=False)
    ratio = sigma[:, :-1] / sigma[:, 1:]
    bands = null_bands(norms, ratio.max(axis=1), dimension)
    inside = (bands.ratio_null_low <= ratio) & (ratio <= bands.ratio_null_high)
    return bands, inside.astype(float)


def edge_ratios_of_noise(rng, trials, size, dimension):
    return {"edge_ratio_p": rejected(windows_of_noise(rng, trials, size, dimension)[0].edge_ratio_p)}


def case(name, run, bounds, trials=2000, quick=60, **options):
    shown = ", ".join(f"{key} {value}" for key, value in options.items() if value is not None)
    return Case(f"{name} [{shown}]" if shown else name, partial(run, **options), bounds, trials, quick)


NULLS = [
    *(
        case("unrelated pairs", unrelated_pairs, NOMINAL if rho <= 0.5 else AT_MOST, n=n, rho=rho)
        for n in (60, 200)
        for rho in (0.0, 0.5, 0.9)
    ),
    *(case("noise windows", noise_against_loss, AT_MOST, quick=40, scene=scene) for scene in SCENES),
    *(case("shifts in noise", shifts_in_noise, AT_MOST, n=n, size=size) for n, size in ((51, 10), (190, 10))),
    *(
        case("shifts in smooth noise", shifts_in_smooth_noise, AT_MOST, n=n, size=s)
        for n, s in ((51, 10), (96, 5), (190, 10))
    ),
    *(case("gaps of random walks", gaps_of_walks, AT_MOST, n=69, size=10, k=k) for k in (1, 3)),
    *(case("unrelated changes", feedback, NOMINAL, rho=rho) for rho in (0.0, 0.5, 0.9)),
    case("noise windows", maximality_of_walks, NOMINAL, quick=50),
    *(case("unrelated onsets", unrelated_onsets, NOMINAL, n=n) for n in (7, 15)),
    *(case("random windows", edge_ratios_of_noise, AT_MOST, size=10, dimension=d) for d in (64, 1000)),
]
STATED = [
    *(case("unrelated pairs", authors_pairs, SHOWN, n=200, rho=rho) for rho in (0.0, 0.5, 0.9)),
    case("gap and stability of one random walk", feedback_of_walks, SHOWN, trials=200, quick=0),
]
