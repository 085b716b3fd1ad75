"""Rows of ``fits`` that follow from the windows of one scope and size: flow of the gap, feedback, gap maximality."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.rolling.standing import StandingWindows
from sedarchive.compute.row_columns import Row
from sedarchive.inference.feedback import MIN_POINTS, Correlations, correlations, lagged, paired_correlations
from sedarchive.inference.gapflow import GapFlow, RandomHistory, gap_flow, gap_series, gap_times, walk_gaps

Floats = NDArray[np.float64]

FLOWS = {"gap_flow": False, "gap_flow_xu": True}
"""Fits that need the sampled null -> whether their difference is the authors' centred one."""
MOST_WINDOWS = 128
OF_ONE_WALK = 0.15
"""Size of r that changes of gap and stability have in a random walk at the lags -1 to 2, being of the same updates.

For k = 1 and W = 5 to 30; it is 0.02 to 0.09 for k = 2 and 3, and below 0.05 at all other lags.
"""
FITS = (*FLOWS, "gap_times", "alpha_feedback", "gap_maximality", "gap_maximality_stability")


@dataclass(frozen=True)
class GapWindows:
    """Windows of one scope and size, as the fits need them: n windows of W updates."""

    step: NDArray[np.int64]
    sigma: Floats
    """(n, W)."""
    signal_rank: Floats
    """(n,); NaN or 0 for none."""

    @property
    def k(self) -> int:
        """The fixed k that is followed: the most frequent signal rank (of several the smallest), 1 if there is none."""
        ranks = np.nan_to_num(self.signal_rank).astype(np.int64)
        counts = np.bincount(ranks[ranks > 0], minlength=2)
        return int(np.argmax(counts)) or 1


def has_flow_null(scope: str) -> bool:
    """Whether the null of the gap's flow is sampled: not for a single layer, role or tensor, which are many."""
    return ":" not in scope


def fit_rows(val_loss: Mapping[int, float], standing: StandingWindows, with_null: bool) -> list[Row]:
    """All fits of the windows of one scope and size; ``val_loss`` by step, NaN where unknown."""
    step = standing.windows["step"]
    windows = GapWindows(step, standing.sigmas["sigma"], standing.windows["signal_rank"])
    flows = flow_rows(windows, RandomHistory(standing.norms, standing.p_eff), with_null)
    loss = np.array([val_loss[at] for at in step.tolist()])
    rows = flows + other_rows(windows, standing.sigmas["overlap_previous"], loss)
    return [{"scope": standing.scope, "window_size": standing.size} | row for row in rows]


def flow_rows(windows: GapWindows, history: RandomHistory, with_null: bool) -> list[Row]:
    """Flow of the gap at the modal signal rank, by both differences; ``history`` is what the null is drawn from.

    Of a long run every second, third, ... window is taken, so that at most ``MOST_WINDOWS`` are: the null costs an
    eigenproblem for each and every draw.
    """
    n_windows, size = windows.sigma.shape
    k, taken = windows.k, np.arange(0, n_windows, -(-n_windows // MOST_WINDOWS))
    null = walk_gaps(history, size, k, taken) if with_null else np.empty((0, len(taken)))
    found = []
    for name, centred in FLOWS.items():
        flow = gap_flow(windows.step[taken], windows.sigma[taken], k, null, centred)
        shared = {"fit": name, "k": k, "n": flow.n, "status": flow.status}
        found += [shared | _damping(flow), shared | _viable(flow)]
    return found


def _damping(flow: GapFlow) -> Row:
    return {
        "parameter": "damping",
        "estimate": flow.damping,
        "low": flow.damping_low,
        "high": flow.damping_high,
        "null_low": flow.null_low,
        "null_high": flow.null_high,
        "p": flow.p,
        "r2": flow.r2,
        "r2_out_of_sample": flow.r2_out_of_sample,
    }


def _viable(flow: GapFlow) -> Row:
    return {
        "parameter": "viable_gap",
        "estimate": flow.viable_gap,
        "low": flow.viable_low,
        "high": flow.viable_high,
    }


def other_rows(windows: GapWindows, stability: Floats, loss: Floats) -> list[Row]:
    """Fits without a sampled null; ``stability`` (n, W) and ``loss`` (n,) as in the functions below."""
    against_gap = feedback_rows(windows, stability) + stability_rows(windows, stability)
    return time_rows(windows) + against_gap + maximality_rows(windows, loss)


def time_rows(windows: GapWindows) -> list[Row]:
    """When the gap opened and collapsed, observed and predicted by the flow of the other part of the run."""
    times = gap_times(windows.step, windows.sigma, windows.k)
    shared = {"fit": "gap_times", "k": windows.k, "n": len(windows.step)}
    values = {one.name: float(getattr(times, one.name)) for one in fields(times)}
    return [
        shared | {"parameter": name, "estimate": value, "status": "none" if np.isnan(value) else "ok"}
        for name, value in values.items()
    ]


def feedback_rows(windows: GapWindows, stability: Floats) -> list[Row]:
    """Lagged correlation of changes of the gap with those of the stability (n, W) of its direction.

    A positive lag means that the gap leads.
    """
    size, k = windows.sigma.shape[1], windows.k
    reach = -(-size // 2) + 5
    inner = slice(reach, -reach)
    gap, target = np.diff(gap_series(windows.sigma, k)), np.diff(stability[:, k - 1])
    lags = np.arange(-reach, reach + 1)
    of_one_walk = np.where((lags >= -1) & (lags <= 2), OF_ONE_WALK, 0.0)
    found = correlations(lagged(gap, reach)[:, inner], target[inner], of_one_walk)
    at = found.strongest
    shared = {"fit": "alpha_feedback", "k": k, "n": found.n, "status": "too_few" if at < 0 else "ok"}
    if at < 0:
        return [shared | {"parameter": name} for name in ("peak_r", "peak_lag")]
    if at in (0, 2 * reach):
        shared["status"] = "at_border"
    peak = {"parameter": "peak_r", "estimate": found.r[at], "p": found.p[at]}
    return [shared | peak, shared | {"parameter": "peak_lag", "estimate": at - reach}]


def maximality_rows(windows: GapWindows, loss: Floats) -> list[Row]:
    """Correlation of the collapse of every ratio with the rise of the validation loss (n,) at the windows' ends."""
    size = windows.sigma.shape[1]
    return _maximality("gap_maximality", correlations(_collapse(windows), np.diff(loss)), size)


def stability_rows(windows: GapWindows, stability: Floats) -> list[Row]:
    """Correlation of the collapse of every ratio with the fall of the stability (n, W) of its own direction."""
    size = windows.sigma.shape[1]
    fall = -np.diff(stability[:, :-1], axis=0).T
    return _maximality("gap_maximality_stability", paired_correlations(_collapse(windows), fall), size)


def _collapse(windows: GapWindows) -> Floats:
    """How much each ratio fell from one window to the next (W - 1, n - 1)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        collapse: Floats = -np.diff(windows.sigma[:, :-1] / windows.sigma[:, 1:], axis=0).T
    return collapse


def _maximality(name: str, found: Correlations, size: int) -> list[Row]:
    return [
        {
            "fit": name,
            "parameter": "r",
            "k": k,
            "estimate": found.r[k - 1],
            "p": found.p[k - 1],
            "n": found.n,
            "status": "too_few" if found.n < MIN_POINTS else "unknown" if np.isnan(found.r[k - 1]) else "ok",
        }
        for k in range(1, size)
    ]
