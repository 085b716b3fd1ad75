"""Rows of ``fits``: whether entropy and alpha say the same of the layers at the last step."""

from sedarchive.compute.lifecycle.lifecycle_rows import LayerMetrics, rank_row
from sedarchive.compute.row_columns import Row
from sedarchive.lifecycle.importance import rank_correlation

FIT = "entropy_alpha"


def agreement_rows(metrics: LayerMetrics) -> list[Row]:
    """Rank correlation over layers of one scope, at the last step at which every layer has both; none without one."""
    known = metrics.complete("entropy") & metrics.complete("alpha")
    if not known.any():
        return []
    entropy, alpha = (metrics.values[name][:, known][:, -1] for name in ("entropy", "alpha"))
    return [rank_row(FIT, metrics.scope, "rho", rank_correlation(entropy, alpha))]
