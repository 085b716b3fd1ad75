"""Rise, plateau and collapse of a ratio of singular values at a fixed k.

The series is r_k = sigma_k / sigma_{k+1} of consecutive windows at one k for the whole run (its modal signal rank, or
one that is chosen): at a k that moves with the window, steps of the series would be changes of k. Three methods, as in
the authors' scripts of "Spectral Edge Dynamics" (arXiv 2603.15678). Each finds something in any series, so that a
pattern is worth what it is rarer in noise: see :func:`patterns`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Span = tuple[int, int]
"""First and last index of a phase, both inside; neighbouring phases share a point."""

METHODS = ("peak", "derivative", "threshold")


@dataclass(frozen=True)
class PhaseOptions:
    """What the methods go by; the defaults are the authors'."""

    plateau_share: float = 0.85
    """peak: the plateau is where r is at least this part of its maximum."""
    smoothing: int = 5
    """derivative: width of the running mean, in windows; odd."""
    slope: float = -0.01
    """derivative: the collapse begins where r falls faster than this, per window."""
    level: float = 1.30
    """threshold: the plateau lies between the first and the last window at or above it."""
    min_windows: int = 8
    """Fewer windows with a known ratio have no phases."""

    def threshold(self, method: str) -> float:
        """Number that a method goes by."""
        return {"peak": self.plateau_share, "derivative": self.slope, "threshold": self.level}[method]


@dataclass(frozen=True)
class Phases:
    """Phases of one series by one method; indices count the windows of the series from 0."""

    method: str
    status: str
    """ok (all three phases), plateau_at_border (rise or collapse is missing), no_pattern (both are), too_few."""
    rise: Span | None = None
    plateau: Span | None = None
    collapse: Span | None = None

    def spans(self) -> dict[str, Span | None]:
        """Phases by name, in order of time."""
        return {"rise": self.rise, "plateau": self.plateau, "collapse": self.collapse}


_DEFAULTS = PhaseOptions()


def modal_rank(ranks: Counts) -> int:
    """Return the most frequent signal rank of a run's windows (n,), 0 standing for none; ties: the smaller.

    0 if no window has one.
    """
    found, times = np.unique(ranks[ranks > 0], return_counts=True)
    return int(found[np.argmax(times)]) if len(found) else 0


def find_phases(ratio: Floats, method: str = "peak", options: PhaseOptions = _DEFAULTS) -> Phases:
    """Divide a series into rise, plateau and collapse.

    Parameters
    ----------
    ratio
        r_k of consecutive windows (n,); NaN where unknown, which is left out.
    method
        ``peak``: the plateau is the run of windows around the maximum with r >= 0.85 maximum. ``derivative``: the
        plateau goes from the maximum to the first window from there on at which the slope of the running mean is
        below -0.01 per window. ``threshold``: it goes from the first to the last window with r >= 1.30. The rise is
        what comes before, the collapse what comes after.
    options
        The numbers of the methods.

    Returns
    -------
    Phases
        A phase without extent is None. A window of W updates smears a change over W windows: boundaries are no
        sharper than that.

    Raises
    ------
    ValueError
        If there is no such method.
    """
    if method not in METHODS:
        raise ValueError(f"{method!r} is no method of phases; take one of {', '.join(METHODS)}")
    known = np.flatnonzero(np.isfinite(ratio))
    if len(known) < max(options.min_windows, 2):
        return Phases(method, "too_few")
    plateau = _plateau(ratio[known], method, options)
    if plateau is None:
        return Phases(method, "no_pattern")
    first, last = (int(known[at]) for at in plateau)
    rise, collapse = (int(known[0]), first), (last, int(known[-1]))
    has_rise, has_collapse = rise[0] < rise[1], collapse[0] < collapse[1]
    status = {2: "ok", 1: "plateau_at_border", 0: "no_pattern"}[has_rise + has_collapse]
    return Phases(method, status, rise if has_rise else None, (first, last), collapse if has_collapse else None)


def patterns(ratio: Floats, options: PhaseOptions = _DEFAULTS) -> dict[str, bool]:
    """Return whether each method finds all three phases in a series (n,).

    How often it does in noise windows (:func:`sedarchive.inference.walks.walk_sigmas`) is its false-positive rate.
    """
    known = ratio[np.isfinite(ratio)]
    if len(known) < max(options.min_windows, 2):
        return dict.fromkeys(METHODS, False)
    plateaus = {method: _plateau(known, method, options) for method in METHODS}
    last = len(known) - 1
    return {method: span is not None and span[0] > 0 and span[1] < last for method, span in plateaus.items()}


def running_mean(values: Floats, size: int) -> Floats:
    """Return the mean of `size` (odd) neighbours (n,); beyond the ends the series is mirrored, as the authors' is."""
    half = size // 2
    if half > len(values):
        padded = np.pad(values, half, mode="symmetric")
    else:  # np.pad takes longer than all the rest
        padded = np.concatenate([values[:half][::-1], values, values[len(values) - half :][::-1]])
    mean: Floats = np.convolve(padded, np.full(2 * half + 1, 1 / (2 * half + 1)), "valid")
    return mean


def _plateau(ratio: Floats, method: str, options: PhaseOptions) -> Span | None:
    if method == "peak":
        return _around_the_peak(ratio, options.plateau_share)
    if method == "derivative":
        return _until_the_fall(ratio, options)
    above = np.flatnonzero(ratio >= options.level)
    return (int(above[0]), int(above[-1])) if len(above) else None


def _around_the_peak(ratio: Floats, share: float) -> Span:
    peak = int(np.argmax(ratio))
    below = np.flatnonzero(ratio < share * ratio[peak])
    before, after = below[below < peak], below[below > peak]
    return int(before[-1]) + 1 if len(before) else 0, int(after[0]) - 1 if len(after) else len(ratio) - 1


def _until_the_fall(ratio: Floats, options: PhaseOptions) -> Span:
    peak = int(np.argmax(ratio))
    slope = _slope(running_mean(ratio, options.smoothing))
    falling = np.flatnonzero(slope[peak:] < options.slope)
    return peak, peak + int(falling[0]) if len(falling) else len(ratio) - 1


def _slope(values: Floats) -> Floats:
    """Return central differences, one-sided at the ends (n,), as ``np.gradient`` does in ten times the time."""
    step = np.diff(values)
    return np.concatenate([step[:1], (values[2:] - values[:-2]) / 2, step[-1:]])
