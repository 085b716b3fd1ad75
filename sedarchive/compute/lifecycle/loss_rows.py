"""Rows of ``loss_correlations``: whether alpha and its spread over depth go with a loss."""

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.couplings.coupling_inputs import read_inputs
from sedarchive.compute.lifecycle.lifecycle_rows import LayerMetrics
from sedarchive.compute.row_columns import Row
from sedarchive.inference.coupling import RunMetric
from sedarchive.lifecycle.lossrank import RankCoupling, change_couplings, level_couplings
from sedarchive.tables import Database

Floats = NDArray[np.float64]

FEATURES = ("mean_alpha", "spread_alpha")
KINDS = ("level", "difference")


def loss_rows(database: Database, run: str, metrics: LayerMetrics) -> list[Row]:
    """Rows of one scope, for every loss that is logged: validation losses, or the training loss."""
    known = metrics.complete("alpha")
    if not known.any():
        return []
    steps, alpha = metrics.steps[known], metrics.values["alpha"][:, known]
    features = np.stack([alpha.mean(axis=0), np.ptp(alpha, axis=0)])
    logged = read_inputs(database, run, steps.tolist(), [], []).metrics
    return [
        {"scope": metrics.scope, "target": name} | row
        for name, metric in logged.items()
        for row in _rows(features, metric)
    ]


def _rows(features: Floats, metric: RunMetric) -> list[Row]:
    loss = metric.values[::2]  # every other place is a checkpoint
    there = np.isfinite(loss)
    features, loss, steps = features[:, there], loss[there], metric.steps[there]
    lr = None if metric.lr is None else metric.lr[there]
    found = (level_couplings(features, loss), change_couplings(features, loss, steps, lr))
    return [
        _row(kind, at, one) for kind, couplings in zip(KINDS, found, strict=True) for at, one in enumerate(couplings)
    ]


def _row(kind: str, at: int, coupling: RankCoupling) -> Row:
    return {"feature": FEATURES[at], "kind": kind, **asdict(coupling)}
