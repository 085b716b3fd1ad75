"""Rows of ``fits`` for the two timescales: how fast stable rank and alpha of each layer come to rest, and where."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.lifecycle.lifecycle_rows import ALL_ROLES, LayerMetrics
from sedarchive.compute.row_columns import Row
from sedarchive.lifecycle.correlated import Interval
from sedarchive.lifecycle.timescales import Decay, fit_decay, ratio_of, shape_over_depth, shared_rest, tau_ranges
from sedarchive.lifecycle.typical import Sample, typical

FIT = "two_timescales"
Floats = NDArray[np.float64]
Series = tuple[Floats, Floats]


@dataclass(frozen=True)
class _Layer:
    """One layer's series and their fits."""

    scope: str
    ranks: Series
    """Steps and stable ranks from the arrival on."""
    rank: Decay
    alpha: Decay


def timescale_rows(metrics: LayerMetrics, waves: Sequence[Row]) -> list[Row]:
    """Rows of each layer and of all together.

    Parameters
    ----------
    metrics
        Means over the roles of each layer.
    waves
        The layers' rows of ``layer_waves``: the stable rank is followed from the arrival on.
    """
    layers = [_layer(metrics, at, wave) for at, wave in enumerate(waves)]
    rows = [row for layer in layers for row in _layer_rows(layer)]
    return rows + _shape_rows(layers) + _typical_rows(layers) + _shared_rows(layers)


def _layer(metrics: LayerMetrics, at: int, wave: Row) -> _Layer:
    arrival = wave["arrival_step"]
    ranks = _series(metrics, "stable_rank", at, arrival)
    rank = Decay(0, wave["status"]) if math.isnan(arrival) else fit_decay(*ranks)
    alpha = fit_decay(*_series(metrics, "alpha", at, -math.inf))
    return _Layer(f"layer:{metrics.layers[at]}", ranks, rank, alpha)


def _series(metrics: LayerMetrics, metric: str, at: int, start: float) -> Series:
    values = metrics.values[metric][at]
    known = np.isfinite(values) & (metrics.steps >= start)
    return metrics.steps[known].astype(np.float64), values[known]


def _layer_rows(layer: _Layer) -> list[Row]:
    both = layer.rank.status == layer.alpha.status == "ok"
    ratio = ratio_of(layer.rank, layer.alpha) if both else _unknown()
    status = next((one.status for one in (layer.rank, layer.alpha) if one.status != "ok"), "ok")
    shared: Row = {"fit": FIT, "scope": layer.scope}
    return [
        *(shared | row for row in _decay_rows("stable_rank", layer.rank)),
        *(shared | row for row in _decay_rows("alpha", layer.alpha)),
        shared | {"parameter": "tau_ratio", "n": layer.rank.n, "status": status} | _columns(ratio),
    ]


def _decay_rows(metric: str, decay: Decay) -> list[Row]:
    shared: Row = {"n": decay.n, "status": decay.status}
    tau = Interval(decay.tau, decay.tau_low, decay.tau_high)
    rest = Interval(decay.rest, decay.rest_low, decay.rest_high)
    return [
        shared | {"parameter": f"tau_{metric}"} | _columns(tau),
        shared | {"parameter": f"equilibrium_{metric}"} | _columns(rest),
    ]


def _shape_rows(layers: Sequence[_Layer]) -> list[Row]:
    """Shape psi over the layers, if the alpha of every layer comes to rest."""
    if len(layers) < 2 or any(layer.alpha.status != "ok" for layer in layers):
        return []
    shape = shape_over_depth(np.array([layer.alpha.rest for layer in layers]))
    return [
        {"fit": FIT, "scope": layer.scope, "parameter": "psi", "estimate": float(psi), "n": len(layers), "status": "ok"}
        for layer, psi in zip(layers, shape, strict=True)
    ]


def _typical_rows(layers: Sequence[_Layer]) -> list[Row]:
    """Means in logarithms, over the layers of whose tau something is known."""
    ranks, alphas = tau_ranges([layer.rank for layer in layers]), tau_ranges([layer.alpha for layer in layers])
    # the least ratio is that to the largest alpha; without an end where either of them has none
    with np.errstate(divide="ignore"):
        ratios = ranks / alphas[:, ::-1]
    rows = []
    for name, ranges in (("tau_stable_rank", ranks), ("tau_alpha", alphas), ("tau_ratio", ratios)):
        sample = Sample.of(ranges)
        n = len(sample.known)
        rows.append({"fit": FIT, "scope": ALL_ROLES, "parameter": name, "n": n, "status": _size(n)})
        rows[-1] |= _columns(typical(sample))
    return rows


def _shared_rows(layers: Sequence[_Layer]) -> list[Row]:
    """Whether one equilibrium of the stable rank will do for all layers that have one."""
    known = [layer for layer in layers if layer.rank.status == "ok"]
    shared: Row = {"fit": FIT, "scope": ALL_ROLES, "n": len(known), "status": _size(len(known))}
    names = ("shared_equilibrium", "shared_equilibrium_aicc_gain")
    if len(known) < 3:
        return [shared | {"parameter": name} for name in names]
    found = shared_rest([layer.ranks for layer in known], [layer.rank for layer in known])
    return [
        shared | {"parameter": name, "estimate": estimate}
        for name, estimate in zip(names, (found.rest, found.aicc_gain), strict=True)
    ]


def _size(n: int) -> str:
    return "too_few" if n < 3 else "few" if n < 10 else "ok"


def _columns(interval: Interval) -> Row:
    return {"estimate": interval.best, "low": interval.low, "high": interval.high}


def _unknown() -> Interval:
    return Interval(math.nan, math.nan, math.nan)
