"""Rows of ``depth_gradients``, and those of ``fits`` that say when a gradient over depth turned."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.lifecycle.lifecycle_rows import FOLLOWED, METRICS, LayerMetrics
from sedarchive.compute.rolling.window_rows import Columns
from sedarchive.compute.row_columns import Row
from sedarchive.lifecycle.gradients import Gradients, gradients_of, humps_of, reversal

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DepthSeries:
    """One metric of one scope at the steps where every layer has it."""

    scope: str
    metric: str
    steps: Floats
    """(T,), T at least 1."""
    values: Floats
    """(L, T), L at least 2."""
    gradients: Gradients
    """Of the values."""


def depth_series(metrics: LayerMetrics) -> list[DepthSeries]:
    """Series of every metric that all layers of a scope have at some step."""
    found = []
    for metric in FOLLOWED:
        known = metrics.complete(metric)
        if known.any() and len(metrics.layers) > 1:
            values = metrics.values[metric][:, known]
            steps = metrics.steps[known].astype(np.float64)
            found.append(DepthSeries(metrics.scope, metric, steps, values, gradients_of(values)))
    return found


def gradient_columns(series: DepthSeries) -> Columns:
    """Columns of ``depth_gradients``, one row a step."""
    n_layers, n_steps = series.values.shape
    return {
        "scope": np.full(n_steps, series.scope),
        "metric": np.full(n_steps, series.metric),
        "step": series.steps.astype(np.int64),
        **asdict(series.gradients),
        **asdict(humps_of(series.values)),
        "n": np.full(n_steps, n_layers),
    }


def reversal_rows(series: Sequence[DepthSeries]) -> list[Row]:
    """Rows of ``fits``: when the gradient of each metric turned."""
    return [_reversal_row(one) for one in series if one.metric in METRICS]


def _reversal_row(series: DepthSeries) -> Row:
    turned = reversal(series.steps, series.gradients.first_last)
    return {
        "fit": "depth_gradient",
        "scope": series.scope,
        "parameter": f"reversal_{series.metric}",
        "estimate": turned,
        "n": len(series.steps),
        "status": "none" if math.isnan(turned) else "ok",
    }
