"""Lead-time law: how far ahead of the grokking step an early sign comes, as a power of that step.

The published fits (arXiv 2602.16967) regress log lead on log grokking step. Since the lead is the grokking step less
the onset, and the onset varies little, the exponent is near 1 and R² near 1 whatever the onsets are. So the fit stands
beside its null, in which the onsets are shuffled over the runs, and beside that of the onset itself.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

Floats = NDArray[np.float64]

DRAWS = 1999
_FLAT = 1e-12


@dataclass(frozen=True)
class Line:
    """A least-squares line y = intercept + slope x through n points; NaN: see ``status``."""

    n: int
    status: str
    """ok; few (n < 10); three_points (pure noise reaches R² >= 0.99 in 6 % of these); constant (y is); too_few."""
    slope: float = math.nan
    slope_error: float = math.nan
    """Standard error of the slope."""
    slope_low: float = math.nan
    """Lower end of Student's t interval."""
    slope_high: float = math.nan
    intercept: float = math.nan
    intercept_low: float = math.nan
    intercept_high: float = math.nan
    r2: float = math.nan
    r2_out_of_sample: float = math.nan
    """1 - squares of what points miss the line through the others by, over those of what they miss their mean by."""


@dataclass(frozen=True)
class LeadLaw:
    """lead = prefactor grok^exponent over runs, fitted in logarithms."""

    lead: Line
    """Log lead on log grokking step: the slope is the exponent, exp(intercept) the prefactor."""
    onset: Line
    """Log onset on log grokking step: what there is beyond the arithmetic of grok - onset."""
    n_without_lead: int
    """Runs whose onset does not come before their grokking step: not in the fits."""
    r2_null: tuple[float, float, float]
    """2.5 % quantile, mean and 97.5 % quantile of R² with the onsets shuffled over the runs."""
    p: float
    """(1 + number of shuffles with an R² at least as large) / (1 + shuffles)."""


def fit_line(x: Floats, y: Floats, level: float = 0.95) -> Line:
    """Fit a line by least squares.

    Parameters
    ----------
    x, y
        The points (n,), finite.
    level
        Of Student's t intervals.
    """
    n = len(x)
    if n < 3 or len(np.unique(x)) < 3:
        return Line(n, "too_few")
    dx, dy = x - x.mean(), y - y.mean()
    sxx, syy = float(dx @ dx), float(dy @ dy)
    slope = float(dx @ dy) / sxx
    left = dy - slope * dx
    error = math.sqrt(float(left @ left) / (n - 2) / sxx)
    reach = float(stdtrit(n - 2, (1 + level) / 2))
    intercept = float(y.mean()) - slope * float(x.mean())
    intercept_reach = reach * error * math.sqrt(sxx / n + float(x.mean()) ** 2)
    flat = syy <= _FLAT * float(y @ y)
    return Line(
        n=n,
        status="constant" if flat else "three_points" if n == 3 else "few" if n < 10 else "ok",
        slope=slope,
        slope_error=error,
        slope_low=slope - reach * error,
        slope_high=slope + reach * error,
        intercept=intercept,
        intercept_low=intercept - intercept_reach,
        intercept_high=intercept + intercept_reach,
        r2=math.nan if flat else 1 - float(left @ left) / syy,
        r2_out_of_sample=math.nan if flat else _out_of_sample(dx, dy, left),
    )


def lead_law(grok: Floats, onset: Floats, draws: int = DRAWS, seed: int = 0) -> LeadLaw:
    """Fit the lead of an onset before grokking over runs.

    Parameters
    ----------
    grok, onset
        Steps of both in each run (n,), positive.
    draws, seed
        Shuffles of the null, and its seed. A shuffle is fitted through the runs that have a lead in it.

    Raises
    ------
    ValueError
        If a step is not positive and finite.
    """
    if not (np.isfinite(grok) & np.isfinite(onset) & (grok > 0) & (onset > 0)).all():
        raise ValueError("a law of lead times needs positive steps; leave out runs that have none")
    has_lead = grok > onset
    x = np.log(grok[has_lead])
    lead = fit_line(x, np.log((grok - onset)[has_lead]))
    null = _shuffled_r2(grok[has_lead], onset[has_lead], draws, seed)
    known = null[np.isfinite(null)]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (math.nan, math.nan)
    mean = float(known.mean()) if len(known) else math.nan
    reached = int(np.count_nonzero(known >= lead.r2 * (1 - _FLAT)))
    p = (1 + reached) / (1 + len(known)) if len(known) and math.isfinite(lead.r2) else math.nan
    onset_line = fit_line(x, np.log(onset[has_lead]))
    return LeadLaw(lead, onset_line, int((~has_lead).sum()), (float(low), mean, float(high)), p)


def _out_of_sample(dx: Floats, dy: Floats, left: Floats) -> float:
    """Return R² of the predictions of each point from the others, by the leverages of the line and of the mean."""
    n = len(dx)
    leverage = 1 / n + dx**2 / float(dx @ dx)
    if np.any(leverage >= 1 - _FLAT):  # without that point the others have one x
        return math.nan
    missed, mean_missed = left / (1 - leverage), dy * n / (n - 1)
    return 1 - float(missed @ missed) / float(mean_missed @ mean_missed)


def _shuffled_r2(grok: Floats, onset: Floats, draws: int, seed: int) -> Floats:
    """Return R² (draws,) of log lead on log grok with the onsets shuffled; NaN with fewer than three leads."""
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(len(grok)), (draws, 1)), axis=1)
    lead = grok - onset[order]
    weight = (lead > 0).astype(np.float64)
    y = np.log(np.where(lead > 0, lead, 1.0))
    n = np.maximum(weight.sum(axis=1, keepdims=True), 1.0)
    x = np.broadcast_to(np.log(grok), y.shape)
    dx = weight * (x - (weight * x).sum(axis=1, keepdims=True) / n)
    dy = weight * (y - (weight * y).sum(axis=1, keepdims=True) / n)
    products, spread = (dx * dy).sum(axis=1) ** 2, (dx**2).sum(axis=1) * (dy**2).sum(axis=1)
    r2: Floats = np.full(draws, np.nan)
    np.divide(products, spread, out=r2, where=(spread > _FLAT) & (n[:, 0] >= 3))
    return r2
