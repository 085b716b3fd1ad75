"""Metrics of one run's matrices by layer and step, and the rows of waves and of asymmetry that follow from them."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.row_columns import Row
from sedarchive.inference.leads import Line
from sedarchive.lifecycle.asymmetry import Asymmetry, asymmetry
from sedarchive.lifecycle.importance import RankCorrelation
from sedarchive.lifecycle.ranks import RankSlope
from sedarchive.lifecycle.waves import arrivals, compression, fit_wave

Floats = NDArray[np.float64]

ALL_ROLES = "trunk"
"""Scope of the mean over all roles of a layer."""
METRICS = ("stable_rank", "alpha", "entropy")
ALPHAS = (
    *("alpha_sigma_weighted", "alpha_inverse_k", "alpha_ols", "alpha_top_half", "alpha_top_50"),
    *("alpha_hill", "alpha_mle"),
)
"""The other readings of alpha."""
FOLLOWED = (*METRICS, *ALPHAS)
"""What is followed over depth."""
FITS = ("compression_wave", "depth_gradient", "qk_vo_asymmetry")
LEAST_COMPRESSION = 0.05
"""A layer whose compression never gets this large has no arrival."""
REACH = 3 * math.sqrt(2)
"""Standard errors of a difference of two stable ranks inside which a compression is noise."""
_ATTENTION = ("query", "key", "value", "output")


@dataclass(frozen=True)
class LayerMetrics:
    """A metric of one role (or the mean over roles) by layer and step."""

    scope: str
    """role:NAME or trunk."""
    steps: NDArray[np.int64]
    """(T,)."""
    layers: NDArray[np.int64]
    """(L,)."""
    values: dict[str, Floats]
    """Metric -> (L, T), NaN where unknown."""
    spread: Floats
    """Relative standard deviation of the stable rank of noise, mean over a layer's matrices (L,)."""

    def complete(self, metric: str) -> NDArray[np.bool_]:
        """Steps at which every layer has a value (T,)."""
        return np.asarray(np.isfinite(self.values[metric]).all(axis=0))


def rank_row(fit: str, scope: str, parameter: str, found: RankCorrelation) -> Row:
    """Row of ``fits`` for one rank correlation."""
    named: Row = {"fit": fit, "scope": scope, "parameter": parameter}
    return named | {"estimate": found.rho, "status": found.status} | _null_columns(found)


def _null_columns(found: RankCorrelation | Asymmetry) -> Row:
    """Interval, null, p and size of an estimate."""
    return {name: getattr(found, name) for name in ("low", "high", "null_low", "null_high", "p", "n")}


def wave_rows(metrics: LayerMetrics) -> tuple[list[Row], list[Row]]:
    """Rows of ``layer_waves``, and those of ``fits``, for the compression wave of one scope."""
    known = metrics.complete("stable_rank")
    steps, ranks = metrics.steps[known], metrics.values["stable_rank"][:, known]
    if not len(steps) or steps[0] != 0:
        return [_layer_row(metrics, at, math.nan, math.nan, "no_start") for at in range(len(metrics.layers))], []
    compressed = compression(ranks)
    least = np.maximum(LEAST_COMPRESSION, REACH * metrics.spread)
    found = arrivals(steps.astype(np.float64), compressed, least)
    rows = [
        _layer_row(metrics, at, arrival, float(compressed[at].max()), "no_wave" if np.isnan(arrival) else "ok")
        for at, arrival in enumerate(found)
    ]
    wave = fit_wave(metrics.layers.astype(np.float64), found)
    shared: Row = {"fit": "compression_wave", "scope": metrics.scope, "n": wave.line.n}
    velocity = {"estimate": wave.velocity, "low": wave.velocity_low, "high": wave.velocity_high}
    return rows, [
        shared | {"parameter": "slowness"} | _line_columns(wave.line) | {"status": wave.status},
        shared | {"parameter": "slowness_ranks"} | _rank_columns(wave.ranks) | {"status": wave.status},
        shared | {"parameter": "velocity", "status": wave.status} | velocity,
    ]


def asymmetry_rows(by_role: dict[str, LayerMetrics]) -> list[Row]:
    """Rows of ``fits``: spread over depth of query and key against value and output, at the last step."""
    if not all(role in by_role for role in _ATTENTION):
        return []
    rows = []
    for metric, name in (("stable_rank", "compression"), ("alpha", "alpha")):
        values = _last_values(by_role, metric)
        if values is None:
            continue
        found = asymmetry(values)
        named: Row = {"fit": "qk_vo_asymmetry", "scope": "attention", "parameter": f"spread_{name}"}
        status = "too_few" if math.isnan(found.ratio) else "few" if found.n < 10 else "ok"
        rows.append(named | {"estimate": found.ratio, "status": status} | _null_columns(found))
    return rows


def _last_values(by_role: dict[str, LayerMetrics], metric: str) -> Floats | None:
    """Values (4, L) at the last step that all four roles have; compression for the stable rank."""
    series = [by_role[role] for role in _ATTENTION]
    if any(not np.array_equal(one.layers, series[0].layers) for one in series):
        return None
    known = np.logical_and.reduce([one.complete(metric) for one in series])
    if not known.any():
        return None
    found = np.stack([one.values[metric][:, known] for one in series])
    if metric != "stable_rank":
        return np.asarray(found[:, :, -1])
    return None if series[0].steps[known][0] != 0 else np.asarray(1 - found[:, :, -1] / found[:, :, 0])


def _layer_row(metrics: LayerMetrics, at: int, arrival: float, largest: float, status: str) -> Row:
    return {
        "scope": metrics.scope,
        "layer": int(metrics.layers[at]),
        "arrival_step": arrival,
        "largest_compression": largest,
        "compression_null": REACH * float(metrics.spread[at]),
        "status": status,
    }


def _line_columns(line: Line) -> Row:
    return {
        "estimate": line.slope,
        "low": line.slope_low,
        "high": line.slope_high,
        "r2": line.r2,
        "r2_out_of_sample": line.r2_out_of_sample,
    }


def _rank_columns(ranks: RankSlope) -> Row:
    """An interval without an end has NULL there."""
    low, high = (end if math.isfinite(end) else math.nan for end in (ranks.low, ranks.high))
    return {"estimate": ranks.slope, "low": low, "high": high}
