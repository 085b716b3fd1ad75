"""Rows of ``fits``: whether entropy and alpha say the same of the layers at the last step."""

from sedarchive.compute.lifecycle.lifecycle_rows import LayerMetrics
from sedarchive.compute.row_columns import Row
from sedarchive.lifecycle.importance import rank_correlation

FIT = "entropy_alpha"


def agreement_rows(metrics: LayerMetrics) -> list[Row]:
    """Rank correlation over layers of one scope, at the last step at which every layer has both; none without one."""
    known = metrics.complete("entropy") & metrics.complete("alpha")
    if not known.any():
        return []
    entropy, alpha = (metrics.values[name][:, known][:, -1] for name in ("entropy", "alpha"))
    found = rank_correlation(entropy, alpha)
    return [
        {
            "fit": FIT,
            "scope": metrics.scope,
            "parameter": "rho",
            "estimate": found.rho,
            "low": found.low,
            "high": found.high,
            "null_low": found.null_low,
            "null_high": found.null_high,
            "p": found.p,
            "n": found.n,
            "status": found.status,
        }
    ]
