"""Rows of ``phases`` and ``events`` for the windows of one scope and size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.row_columns import Row
from sedarchive.inference.changes import Shift, find_shift
from sedarchive.inference.eventstudy import TAUS, Found, find_collapse, find_grok, find_settling
from sedarchive.inference.phases import METHODS, PhaseOptions, find_phases, modal_rank, patterns
from sedarchive.inference.walks import ratio_series, walk_sigmas

Floats = NDArray[np.float64]

LEADING_RATIOS = 4
"""Ratios that are followed besides that at the modal signal rank."""
AGREEING_WALKS = 9
"""Random walks that are enough if each pattern is in all of them or in none: its share is then above 72 % or below 28 %
(one-sided, 95 %)."""
NULL_WALKS = (19, 49)
"""Fewest and most of them otherwise: fewer where there are many or long windows, whose eigenvalues take the time."""
_NULL_ENTRIES = 1_000_000
"""Windows x W² of all walks of a pair, about 0.2 s; the fewest walks are drawn in any case."""


@dataclass(frozen=True)
class LogSeries:
    """A metric at checkpoints, or at the steps of its own log."""

    name: str
    steps: NDArray[np.int64]
    values: Floats


@dataclass(frozen=True)
class WindowedScope:
    """Windows of one scope and size in order of time, as they stand in the tables."""

    scope: str
    size: int
    checkpoints: NDArray[np.int64]
    """Steps of all checkpoints (T,)."""
    step: NDArray[np.int64]
    """Of each window's last update (n,)."""
    step_first: NDArray[np.int64]
    edge_ratio: Floats
    edge_ratio_null: Floats
    ratio: Floats
    """sigma_k / sigma_{k+1} (n, W); NaN where unknown."""
    signal_rank: NDArray[np.int64]
    """0 for none (n,)."""
    norms: Floats
    """Of all updates (T - 1,)."""
    p_eff: float
    loss: LogSeries | None
    """Loss at the checkpoints."""

    @property
    def modal_rank(self) -> int:
        return modal_rank(self.signal_rank)

    @property
    def followed(self) -> list[int]:
        """Every k whose ratio is followed."""
        leading = range(1, min(LEADING_RATIOS, self.size - 1) + 1)
        return sorted({*leading, self.modal_rank} - {0})


def rows_of_size(windows: Sequence[WindowedScope]) -> tuple[list[Row], list[Row]]:
    """Rows of ``phases`` and of ``events``, with scope and size; scopes of one size share the noise of their series."""
    phases: list[Row] = []
    events: list[Row] = []
    for one in windows:
        named: Row = {"scope": one.scope, "window_size": one.size}
        phases += [named | row for row in phase_rows(one)]
        events += [named | row for row in event_rows(one)]
    return phases, events


def phase_rows(windows: WindowedScope) -> list[Row]:
    """Rows of ``phases``: three phases by three methods at each k that is followed."""
    noise = _noise_of(windows)
    return [row for k in windows.followed for method in METHODS for row in _rows_of_method(windows, k, method, noise)]


def event_rows(windows: WindowedScope) -> list[Row]:
    """Rows of ``events``: collapses at each k that is followed, the settling of the loss after each, and shifts."""
    rows: list[Row] = []
    for k in windows.followed:
        for tau in TAUS:
            for causal in (False, True):
                collapse = find_collapse(windows.ratio[:, k - 1], tau, causal)
                rows.append(_collapse_row(windows, collapse, k, f"tau={tau:.2f}", causal))
                if collapse.index is not None:
                    rows.append(_settling_row(windows, int(windows.step[collapse.index]), k, f"tau={tau:.2f}", causal))
    rows += [_settling_row(windows, None, None, "any time", causal) for causal in (False, True)]
    return rows + _shift_rows(windows)


def grok_rows(accuracy: LogSeries | None) -> list[Row]:
    """Rows of ``events`` for a run: when its validation accuracy reaches 0.95, and 0.98 for good."""
    rules = {"first >= 0.95": (0.95, 1), "3 x >= 0.98": (0.98, 3)}
    rows: list[Row] = []
    for method, (level, lasting) in rules.items():
        shared = {"event": "grok", "feature": "val_acc", "method": method, "causal": lasting == 1}
        if accuracy is None:
            rows.append({**shared, "status": "no_target"})
            continue
        found = find_grok(accuracy.values, level, lasting)
        before = found.index - 1 if found.index else found.index
        ends = {"low": _step(accuracy.steps, before), "high": _step(accuracy.steps, found.index)}
        rows.append({**shared, "step": _step(accuracy.steps, found.index), **ends, "status": found.status})
    return rows


@dataclass(frozen=True)
class _Noise:
    """What random walks with the norms of a run show."""

    peaks: dict[int, list[float]]
    """k -> the largest ratio of each walk."""
    patterns: dict[tuple[int, str], list[bool]]
    """(k, method) -> whether each has all three phases."""

    @property
    def agrees(self) -> bool:
        """Whether each pattern is in all walks or in none."""
        return all(len(set(found)) == 1 for found in self.patterns.values())

    def add(self, sigma: Floats, options: PhaseOptions) -> None:
        """Look at one more walk (n, W)."""
        for k, peaks in self.peaks.items():
            ratio = ratio_series(sigma, k)
            peaks.append(_largest(ratio))
            for method, found in patterns(ratio, options).items():
                self.patterns[k, method].append(found)


def _noise_of(windows: WindowedScope) -> _Noise:
    ks, p_eff = windows.followed, windows.p_eff if windows.p_eff > 0 else 1.0
    noise = _Noise({k: [] for k in ks}, {(k, method): [] for k in ks for method in METHODS})
    walks = _null_walks(len(windows.step), windows.size)
    for drawn, sigma in enumerate(walk_sigmas(windows.norms, p_eff, windows.size, walks), start=1):
        noise.add(sigma, PhaseOptions())
        if drawn == AGREEING_WALKS and noise.agrees:
            break
    return noise


def _null_walks(n_windows: int, size: int) -> int:
    fewest, most = NULL_WALKS
    return min(max(_NULL_ENTRIES // max(n_windows * size**2, 1), fewest), most)


def _rows_of_method(windows: WindowedScope, k: int, method: str, noise: _Noise) -> list[Row]:
    """Rows of three phases."""
    options, ratio = PhaseOptions(), windows.ratio[:, k - 1]
    found, in_noise = find_phases(ratio, method, options), noise.patterns[k, method]
    shared = {
        "k": k,
        "method": method,
        "threshold": options.threshold(method),
        "is_modal": k == windows.modal_rank,
        "peak_ratio": _largest(ratio),
        "null_peak_ratio": float(np.median(noise.peaks[k])),
        "null_share": float(np.mean(in_noise)) if found.status != "too_few" else None,
        "null_walks": len(in_noise),
        "status": found.status,
    }
    return [
        {"phase": phase, "step_from": _step(windows.step, first), "step_to": _step(windows.step, last), **shared}
        for phase, span in found.spans().items()
        for first, last in [span or (None, None)]
    ]


def _largest(ratio: Floats) -> float:
    """Largest known ratio; NaN, which becomes NULL, where none is."""
    known = ratio[np.isfinite(ratio)]
    return float(known.max()) if len(known) else float("nan")


def _collapse_row(windows: WindowedScope, found: Found, k: int, method: str, causal: bool) -> Row:
    step = _step(windows.step, found.index)
    return {
        "event": "collapse",
        "feature": f"sigma_{k}/sigma_{k + 1}",
        "k": k,
        "method": method,
        "step": step,
        "low": _step(windows.step_first, found.index),
        "high": step,
        "causal": causal,
        "status": found.status,
    }


def _settling_row(windows: WindowedScope, collapse: int | None, k: int | None, method: str, causal: bool) -> Row:
    row: Row = {"event": "stabilisation", "k": k, "method": method, "causal": causal, "status": "no_target"}
    loss = windows.loss
    if loss is None:
        return row
    # the last logged point up to the collapse; the first point is looked at only where none comes before it
    after = None if collapse is None else int(np.searchsorted(loss.steps, collapse, side="right")) - 1
    found = find_settling(loss.values, after, causal)
    return row | {"feature": loss.name, "step": _step(loss.steps, found.index), "status": found.status}


def _shift_rows(windows: WindowedScope) -> list[Row]:
    with np.errstate(divide="ignore", invalid="ignore"):
        edge, null = np.log(windows.edge_ratio), np.log(windows.edge_ratio_null)
    series = {"edge_ratio": edge, "edge_ratio / edge_ratio_null": edge - null}
    return [_shift_row(windows, name, find_shift(values, windows.size)) for name, values in series.items()]


def _shift_row(windows: WindowedScope, feature: str, shift: Shift) -> Row:
    return {
        "event": "shift",
        "feature": feature,
        "method": "self-normalised CUSUM",
        "step": _first_checkpoint(windows.checkpoints, shift.update),
        "low": _first_checkpoint(windows.checkpoints, shift.low),
        "high": _first_checkpoint(windows.checkpoints, shift.high),
        "p": shift.p,
        "causal": False,
        "change": shift.size,
        "status": shift.status,
    }


def _first_checkpoint(checkpoints: NDArray[np.int64], update: float | None) -> int | None:
    """Step of the first checkpoint after an update, counted from 0."""
    return None if update is None else int(checkpoints[min(int(update) + 1, len(checkpoints) - 1)])


def _step(steps: NDArray[np.int64], index: int | None) -> int | None:
    return None if index is None else int(steps[index])
