"""Cases of the calibration: truths that every default 95 % interval should hold."""

import numpy as np
from calibration import HELD, averaged, case, joined, windows_of_noise
from series import autoregressive, filtered

from sedarchive.compute.lifecycle.lifecycle_rows import LayerMetrics
from sedarchive.compute.lifecycle.timescale_rows import timescale_rows
from sedarchive.inference.changes import find_shift
from sedarchive.inference.correlation import (
    FEWEST_EFFECTIVE,
    effective_size,
    fisher_interval,
    lag_one,
    peak_interval,
)
from sedarchive.inference.cusum import window_noise
from sedarchive.inference.gapflow import gap_flow
from sedarchive.inference.leads import fit_line
from sedarchive.inference.trends import without_trend
from sedarchive.rolling.projection import Reference


def planted_shifts(rng, trials, n, size, height):
    """A jump of some standard deviations of the windows' noise: whether the interval holds its first update."""
    held = []
    for _ in range(trials):
        first = int(rng.integers(2 * size, n - size))
        jump = height * averaged((np.arange(n + size - 1) >= first).astype(float), size)
        shift = find_shift(window_noise(n, size, 1, rng)[0] + jump, size)
        held.append(shift.low <= first <= shift.high if shift.status == "ok" else np.nan)
    return {"first update": np.array(held, dtype=float)}


def wandering(rng, trials, n, return_rate, start):
    """Series (trials, n) that return to 5 at a rate per point; ``start`` None: from their own distribution."""
    phi, noise = 1 - return_rate, rng.standard_normal((trials, n))
    gap = np.empty((trials, n))
    gap[:, 0] = noise[:, 0] / np.sqrt(1 - phi**2) if start is None else start
    for at in range(1, n):
        gap[:, at] = phi * gap[:, at - 1] + noise[:, at]
    return 5 + 0.3 * gap


def damped_gaps(rng, trials, n, return_rate, start):
    steps, found = 50 * np.arange(n), []
    for gap in wandering(rng, trials, n, return_rate, start):
        flow = gap_flow(steps, np.column_stack([gap + 9, gap + 2, np.full(n, 2.0)]), 2, np.empty((0, n)))
        viable = float(flow.viable_low <= 5 <= flow.viable_high) if np.isfinite(flow.viable_low) else np.nan
        known = np.isfinite(flow.damping_low) and np.isfinite(flow.damping_high)
        held = float(flow.damping_low <= return_rate / 50 <= flow.damping_high) if known else np.nan
        found.append({"damping": held, "viable gap": viable})
    return joined(found)


def lines(rng, trials, n):
    x, found = np.sort(rng.uniform(8, 11, n)), []
    for _ in range(trials):
        line = fit_line(x, 1.2 * x - 2 + 0.3 * rng.standard_normal(n))
        slope, intercept = line.slope_low <= 1.2 <= line.slope_high, line.intercept_low <= -2 <= line.intercept_high
        found.append({"exponent, onset_exponent": float(slope), "prefactor": float(intercept)})
    return joined(found)


def projected(rng, trials, dimension):
    """Explicit projections of explicit updates; six quantities at 25 projections of a history."""
    found = []
    for _ in range(max(trials // 25, 1)):
        updates = rng.standard_normal((30, 400)) + 2 * rng.standard_normal((30, 1)) * rng.standard_normal(400)
        reference = Reference(updates @ updates.T, 10, 400)
        low, high = np.quantile(reference.simulated(dimension, 200), (0.025, 0.975), axis=0)
        maps = rng.standard_normal((25, 400, dimension)) / dimension**0.5
        error = reference.errors(updates @ maps).mean
        found.append({"error of all quantities": ((low <= error) & (error <= high))[:, ::3].astype(float).ravel()})
    return joined(found)


def ratios_of_noise(rng, trials, size, dimension):
    inside = windows_of_noise(rng, trials, size, dimension)[1]
    return {f"null of ratio_{k}": inside[:, k - 1] for k in (1, 2, size - 1)}


def shared_series(rng, trials, n, rho_x, rho_y, share, lead=0):
    """Two filtered noises with something in common, the first ``lead`` points ahead (trials, n) each."""
    common, own = rng.standard_normal((2, n + 220, trials))
    late = share * np.roll(common, lead, axis=0) + np.sqrt(1 - share**2) * own
    return [filtered(noise, rho)[220:].T for noise, rho in ((common, rho_x), (late, rho_y))]


def true_correlation(lag, rho_x, rho_y, share, lead=0):
    """Of the same at a lag."""
    top = share * np.sqrt((1 - rho_x**2) * (1 - rho_y**2)) / (1 - rho_x * rho_y)
    past = np.asarray(lag) - lead
    return top * np.where(past >= 0, rho_y, rho_x) ** np.abs(past)


def correlated(x, y):
    x, y = (one - one.mean(axis=1, keepdims=True) for one in (x, y))
    return (x * y).sum(axis=1) / np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))


def one_lag(rng, trials, n, rho_x, rho_y, share):
    x, y = shared_series(rng, trials, n, rho_x, rho_y, share)
    size = effective_size(n, lag_one(x), lag_one(y))
    low, high = fisher_interval(correlated(x, y), size)
    truth = true_correlation(0, rho_x, rho_y, share)
    return {"r of one lag": np.where(size < FEWEST_EFFECTIVE, np.nan, (low <= truth) & (truth <= high))}


def best_lag(rng, trials, n, rho_x, rho_y, share, lead=3, reach=10):
    """The |r| of the peak over 21 lags of detrended series."""
    steps = np.arange(float(n))
    x, y = (without_trend(one, steps, 1) for one in shared_series(rng, trials, n, rho_x, rho_y, share, lead))
    lags = np.arange(-reach, reach + 1)
    pairs = [(x[:, max(-lag, 0) : n - max(lag, 0)], y[:, max(lag, 0) : n - max(-lag, 0)]) for lag in lags]
    r = np.stack([correlated(*pair) for pair in pairs], axis=1)
    sizes = np.stack([effective_size(a.shape[1], lag_one(a), lag_one(b)) for a, b in pairs], axis=1)
    at = np.argmax(np.abs(r), axis=1)
    size = sizes[np.arange(trials), at]
    low, high = peak_interval(np.arctanh(np.abs(r)), at, size)
    truth = true_correlation(lags[at], rho_x, rho_y, share, lead) * np.sign(r[np.arange(trials), at])
    return {"r of the peak": np.where(size < FEWEST_EFFECTIVE, np.nan, (low <= truth) & (truth <= high))}


LAYERS, SLOWER, UNLIKE = 8, 2.0, 0.2
"""Of a run with two timescales: layers, tau of alpha in that of the stable rank, deviation of ln tau over layers."""


def relaxing(rng, trials, n, tau, rho):
    """Layers that come to rest: each one's time constants and rests, and the typical ones over the run's layers."""
    return joined([_relaxing_run(rng, n, tau, rho) for _ in range(trials)])


def _relaxing_run(rng, n, tau, rho):
    taus = 25 * tau * np.array([[1.0], [SLOWER]]) * np.exp(UNLIKE * rng.standard_normal((2, LAYERS)))
    steps = 25 * np.arange(n)
    noise = 0.1 * np.stack([autoregressive(rng, n, rho, LAYERS) for _ in range(2)])
    ranks, alphas = 3 + 2 * np.exp(-steps / taus[:, :, None]) + noise
    values = {"stable_rank": ranks, "alpha": alphas, "entropy": alphas}
    metrics = LayerMetrics("trunk", steps, np.arange(LAYERS), values, np.zeros(LAYERS))
    rows = timescale_rows(metrics, [{"arrival_step": 0.0, "status": "ok"}] * LAYERS)
    truths = {"tau_stable_rank": taus[0], "tau_alpha": taus[1], "tau_ratio": taus[0] / taus[1]}
    typical = {"tau_stable_rank": 25 * tau, "tau_alpha": 25 * tau * SLOWER, "tau_ratio": 1 / SLOWER}
    rests = {"equilibrium_stable_rank": np.full(LAYERS, 3.0), "equilibrium_alpha": np.full(LAYERS, 3.0)}
    found = {(row["scope"], row["parameter"]): _holds(row) for row in rows}
    each = {
        name: np.array([found[f"layer:{at}", name](truth) for at, truth in enumerate(of_layers)])
        for name, of_layers in (truths | rests).items()
    }
    return each | {f"{name}, all layers": found["trunk", name](truth) for name, truth in typical.items()}


def _holds(row):
    """Whether the interval of a row holds a truth; NaN if it lacks an end."""
    low, high = row.get("low", np.nan), row.get("high", np.nan)
    return lambda truth: float(low <= truth <= high) if np.isfinite(low + high) else np.nan


LENGTHS = (60, 120, 400)
SMOOTHNESS = ((0.0, 0.0), (0.5, 0.5), (0.9, 0.9), (0.9, 0.3))


def correlation_bounds(rho_x, rho_y, share):
    """Effective pairs are too few for strong correlations of series of unlike smoothness: intervals are too wide."""
    return HELD if rho_x == rho_y and share < 0.9 else (HELD[0], 1.0)


INTERVALS = [
    *(
        case("", run, correlation_bounds(*rhos, share), n=n, rho_x=rhos[0], rho_y=rhos[1], share=share)
        for run in (one_lag, best_lag)
        for n in LENGTHS
        for rhos in SMOOTHNESS
        for share in (0.0, 0.5, 0.9)
    ),
    *(
        case("jump", planted_shifts, HELD, trials=300, quick=20, n=n, size=size, height=height)
        for n, size in ((51, 10), (190, 10), (180, 20))
        for height in (2, 4, 8)
    ),
    *(
        case("returning gap", damped_gaps, HELD, trials=500, quick=25, n=n, return_rate=rate, start=start)
        for n, rate, start in ((40, 0.7, None), (60, 0.18, 20.0), (60, 0.1, None), (118, 0.1, 20.0), (118, 0.02, None))
    ),
    *(case("law over runs", lines, HELD, n=n) for n in (3, 5, 15)),
    *(
        case("two timescales", relaxing, HELD, trials=240, quick=3, n=n, tau=tau, rho=rho)
        for n, tau, rho in ((24, 4.0, 0.0), (40, 7.0, 0.5), (40, 9.0, 0.5), (60, 10.0, 0.8))
    ),
    case("projections", projected, HELD, trials=1000, quick=50, dimension=50),
    *(case("random windows", ratios_of_noise, HELD, size=10, dimension=d) for d in (64, 1000)),
]
