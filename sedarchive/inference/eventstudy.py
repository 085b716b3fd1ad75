"""Event study: when a ratio of singular values collapses, when a loss settles after it, when a run groks.

The rules are those of "Spectral Edge Dynamics" (arXiv 2603.15678). They look ahead: the peak is that of the whole run,
the smoothing takes the next point too. Each has a causal variant that uses nothing of later steps. The authors look for
the settling only after the collapse, so that their lead is positive by construction; without ``after`` it is not.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.phases import running_mean

Floats = NDArray[np.float64]

TAUS = (1.15, 1.20, 1.25, 1.30)
"""Thresholds of the collapse; the authors' own is 1.20."""
TAU = 1.20


@dataclass(frozen=True)
class SettlingOptions:
    """What counts as a settled loss; the defaults are the authors'."""

    share: float = 0.3
    """Of the early change per step of the log, below which the loss has settled."""
    early: int = 10
    """Number of first changes whose median is the early one."""
    smoothing: int = 3
    """Width of the running mean of the changes; odd."""


@dataclass(frozen=True)
class Found:
    """Index of an event in its series, or why there is none."""

    index: int | None
    status: str


_DEFAULTS = SettlingOptions()


def find_collapse(ratio: Floats, tau: float = TAU, causal: bool = False, plateau_share: float = 0.85) -> Found:
    """Find the first window after the peak with a ratio below `tau`.

    Parameters
    ----------
    ratio
        r_k of consecutive windows (n,) at a fixed k; NaN where unknown.
    tau
        Threshold.
    causal
        Take, instead of the peak of the whole run, the largest ratio so far: the first window below `tau` and below
        `plateau_share` of it.
    plateau_share
        Used by the causal variant only.

    Returns
    -------
    Found
        Status ``no_pattern``: the peak itself is below `tau`; ``no_collapse``: it stays above; ``too_few``: fewer than
        two known ratios.
    """
    known = np.flatnonzero(np.isfinite(ratio))
    if len(known) < 2:
        return Found(None, "too_few")
    values = ratio[known]
    if values.max() < tau:
        return Found(None, "no_pattern")
    if causal:
        highest = np.maximum.accumulate(values)
        fallen = (highest >= tau) & (values < plateau_share * highest)
    else:
        fallen = np.arange(len(values)) > np.argmax(values)
    below = np.flatnonzero(fallen & (values < tau))
    return Found(int(known[below[0]]), "ok") if len(below) else Found(None, "no_collapse")


def find_settling(
    values: Floats, after: int | None = None, causal: bool = False, options: SettlingOptions = _DEFAULTS
) -> Found:
    """Find the first point of a log at which a loss has settled.

    A loss has settled where the running mean of the absolute changes from point to point is below a share of its own
    median over the first changes.

    Parameters
    ----------
    values
        The loss at equal distances (n,), finite.
    after
        Look only at points after this index; None: at those after the first changes.
    causal
        The running mean ends at the point instead of lying around it.
    options
        The numbers of the rule.

    Returns
    -------
    Found
        Index into `values`. Status ``too_few``: no point beyond the first changes; ``constant``: these are 0;
        ``no_settling``; ``nonfinite``.
    """
    if len(values) < options.early + 2:
        return Found(None, "too_few")
    if not np.isfinite(values).all():
        return Found(None, "nonfinite")
    change = _smoothed(np.abs(np.diff(values)), options.smoothing, causal)
    early = float(np.median(change[: options.early]))
    if early == 0:
        return Found(None, "constant")
    first = options.early if after is None else max(after, options.early if causal else 0)
    allowed = np.arange(1, len(values)) > first  # change i is that of point i + 1
    settled = np.flatnonzero((change < options.share * early) & allowed)
    return Found(int(settled[0]) + 1, "ok") if len(settled) else Found(None, "no_settling")


def find_grok(accuracy: Floats, level: float = 0.98, lasting: int = 3) -> Found:
    """Find the first point of a log (n,) from which an accuracy stays at or above `level` for `lasting` points.

    Status ``no_grok``: there is none; ``too_few``: the log has fewer points.
    """
    if len(accuracy) < lasting:
        return Found(None, "too_few")
    above = np.lib.stride_tricks.sliding_window_view(accuracy >= level, lasting).all(axis=-1)
    found = np.flatnonzero(above)
    return Found(int(found[0]), "ok") if len(found) else Found(None, "no_grok")


def _smoothed(change: Floats, size: int, causal: bool) -> Floats:
    if not causal:
        return running_mean(change, size)
    mean = np.convolve(change, np.ones(size))[: len(change)] / np.minimum(np.arange(1, len(change) + 1), size)
    return np.asarray(mean, dtype=np.float64)
