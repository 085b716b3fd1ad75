"""Rows of ``dissociations``: whether compression becomes even over depth again while alpha stays uneven."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from sedarchive.compute.lifecycle.gradient_rows import DepthSeries
from sedarchive.compute.lifecycle.lifecycle_rows import LEAST_COMPRESSION, REACH, LayerMetrics
from sedarchive.compute.row_columns import Row
from sedarchive.lifecycle.dissociation import KeptSpread, Turn, decisive_turn, kept_spread
from sedarchive.lifecycle.strengthening import FEWEST
from sedarchive.lifecycle.waves import compression

_LEVEL = 0.05


def dissociation_rows(metrics: LayerMetrics, series: Sequence[DepthSeries], trends: Sequence[Row]) -> list[Row]:
    """Row of one scope; none if it has no alpha or stable rank at all.

    Parameters
    ----------
    metrics
        By layer and step.
    series
        Of the same scope.
    trends
        Its rows of ``depth_trends``.
    """
    by_metric = {one.metric: one for one in series}
    if not {"stable_rank", "alpha"} <= by_metric.keys():
        return []
    n = len(metrics.layers)
    shared: Row = {"scope": metrics.scope, "n": n}
    known = metrics.complete("stable_rank") & metrics.complete("alpha")
    if n < 3 or np.count_nonzero(known) < FEWEST:
        return [shared | {"status": "too_few"}]
    alpha = _alpha_columns(trends)
    if metrics.steps[0] != 0 or not known[0]:
        return [shared | alpha | {"status": "no_start"}]
    compressed = compression(metrics.values["stable_rank"][:, known])
    least = max(LEAST_COMPRESSION, REACH * math.hypot(metrics.spread[0], metrics.spread[-1]))
    turn = decisive_turn(metrics.steps[known].astype(np.float64), compressed[-1] - compressed[0], least)
    kept = kept_spread(compressed, metrics.values["alpha"][:, known])
    parts = shared | alpha | _turn_columns(turn) | {"gradient_null": least} | _spread_columns(kept)
    return [parts | _verdict(parts) | {"status": _status(parts)}]


def _alpha_columns(trends: Sequence[Row]) -> Row:
    [trend] = [row for row in trends if row["metric"] == "alpha" and row["gradient"] == "slope"]
    return {"alpha_slope": trend["last"], "alpha_tau": trend["tau"], "alpha_p": trend["p"]}


def _turn_columns(turn: Turn) -> Row:
    return {"reversal_step": turn.step, "gradient_before": turn.before, "gradient_after": turn.after}


def _spread_columns(kept: KeptSpread) -> Row:
    return {
        "spread_compression": kept.compression,
        "spread_alpha": kept.alpha,
        "spread_ratio": kept.ratio,
        "spread_low": kept.low,
        "spread_high": kept.high,
        "spread_p": kept.p,
    }


def _verdict(parts: Row) -> dict[str, Any]:
    """Whether every part holds; None if one is unknown and none fails."""
    p = float(np.maximum(parts["spread_p"], parts["alpha_p"]))  # NaN if one is
    fails = (
        math.isnan(parts["reversal_step"])
        or parts["spread_ratio"] <= 1
        or parts["alpha_tau"] * parts["alpha_slope"] <= 0
        or max(_known(parts["spread_p"]), _known(parts["alpha_p"])) > _LEVEL
    )
    return {"p": p, "dissociated": False if fails else None if math.isnan(p) else True}


def _known(p: float) -> float:
    return 0.0 if math.isnan(p) else p


def _status(parts: Row) -> str:
    if math.isnan(parts["spread_ratio"]) or math.isnan(parts["alpha_tau"]):
        return "constant"
    if math.isnan(parts["alpha_p"]):
        return "few_effective"
    return "few" if parts["n"] < 10 else "ok"
