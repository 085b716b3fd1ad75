"""What every row of ``couplings`` holds that correlates one edge series with a metric at lag 0."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.couplings.edge_inputs import EdgeSeries
from sedarchive.inference.correlation import FEWEST_EFFECTIVE
from sedarchive.inference.lags import MIN_PAIRS
from sedarchive.inference.separate import SeparateScan
from sedarchive.inference.standing import p_value


def status_of(edge: EdgeSeries, scan: SeparateScan) -> str:
    """Why there is no p, or what is doubtful."""
    if scan.n[0] < MIN_PAIRS:
        return "too_few"
    if np.isnan(scan.r[0]):
        return "constant"
    if scan.n_eff[0] < FEWEST_EFFECTIVE:
        return "few_effective"
    return "irregular" if edge.irregular else "ok"


def numbers_at_lag_0(edge: EdgeSeries, scan: SeparateScan, largest: NDArray[np.float64]) -> dict[str, Any]:
    """Columns of one row; ``largest`` holds the largest |r| of each surrogate over everything searched."""
    status, standing, (low, high) = status_of(edge, scan), scan.standing, scan.interval()
    known = {
        "p": p_value(standing.observed, largest)[0],
        "p_lags": standing.own_p()[0],
        "low": low[0],
        "high": high[0],
    }
    return {
        "lag": 0,
        "r": scan.r[0],
        "n": scan.n[0],
        "n_eff": scan.n_eff[0],
        "n_eff_xu": scan.n_eff_xu[0],
        "p_xu": scan.p_xu()[0],
        **(known if status in ("ok", "irregular") else {}),
        "status": status,
    }
