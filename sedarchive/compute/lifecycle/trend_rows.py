"""Rows of ``depth_trends``: whether gradients over depth strengthen in the course of a run."""

from collections.abc import Sequence
from dataclasses import asdict

from sedarchive.compute.lifecycle.gradient_rows import DepthSeries
from sedarchive.compute.row_columns import Row
from sedarchive.lifecycle.strengthening import slow_trend

GRADIENTS = ("slope", "spread")
"""Columns of ``depth_gradients`` that are followed."""


def trend_rows(series: Sequence[DepthSeries]) -> list[Row]:
    """Rows of all metrics of one scope; of a gradient that needs more layers than there are, none."""
    return [_row(one, gradient) for one in series for gradient in GRADIENTS if len(one.values) > 2]


def _row(series: DepthSeries, gradient: str) -> Row:
    values = getattr(series.gradients, gradient)
    trend = asdict(slow_trend(series.steps, values))
    return {"scope": series.scope, "metric": series.metric, "gradient": gradient, "last": float(values[-1]), **trend}
