"""Rows of ``couplings`` from scans, sliding correlations and tests: pure arrays to columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.couplings.coupling_features import FEATURES
from sedarchive.inference.correlation import FEWEST_EFFECTIVE, correlation_p, fisher_interval, peak_interval
from sedarchive.inference.coupling import Variant
from sedarchive.inference.granger import Granger
from sedarchive.inference.lags import MIN_PAIRS, LagScan
from sedarchive.inference.significance import Flip
from sedarchive.inference.sliding import SlidingBand
from sedarchive.inference.standing import Standing, p_value, p_values

Columns = dict[str, NDArray[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SizeScan:
    """A scan of all scopes' features at one window size."""

    size: int
    scan: LagScan
    irregular: NDArray[np.bool_]
    """Of each series of the scan (m,)."""

    def standing(self, rule: str) -> Standing:
        """Standing of the peaks by one rule."""
        return self.scan.peaks[rule].standing


@dataclass(frozen=True)
class Labels:
    """Whose the rows are: the columns that all of a batch share, and those of each series."""

    target: str
    scopes: tuple[str, ...]

    def columns(self, variant: Variant, size: int, measure: str) -> Columns:
        """Labels of one row a series (n_scopes * n_features,)."""
        scope, feature = np.repeat(self.scopes, len(FEATURES)), np.tile(FEATURES, len(self.scopes))
        return self.shared(variant, size, measure, len(scope)) | {"scope": scope, "feature": feature}

    def shared(self, variant: Variant, size: int, measure: str, n_rows: int) -> Columns:
        """Labels that do not tell series apart (n_rows,)."""
        one = {
            "target": self.target,
            "stamp": variant.stamp,
            "detrend": variant.detrend,
            "kind": variant.kind,
            "phase": "all",
            "measure": measure,
        }
        return {name: np.full(n_rows, text) for name, text in one.items()} | {"window_size": np.full(n_rows, size)}


def peak_columns(one: SizeScan, rule: str, largest: Floats) -> Columns:
    """Peaks of one scan by one rule; ``largest`` is the null of the largest of everything searched (m, draws)."""
    scan, standing = one.scan, one.standing(rule)
    r, n_eff = scan.at_peak(scan.r, rule), scan.at_peak(scan.n_eff, rule)
    n_eff_xu = scan.at_peak(scan.n_eff_xu, rule)
    status = _status(scan.status(rule), n_eff, one.irregular)
    usable = np.isin(status, ["ok", "irregular"])
    low, high = _peak_ends(scan, rule, n_eff)
    first, last = scan.first_last()
    known = {
        "p": p_value(standing.observed, largest),
        "p_lags": standing.own_p(),
        "low": low,
        "high": high,
    }
    return {
        "peak_rule": np.full(len(r), rule),
        "lag": np.where(np.isnan(r), np.nan, scan.peaks[rule].lag[:, 0]),
        "r": r,
        "n": np.where(np.isnan(r), scan.n.max(axis=1), scan.at_peak(scan.n, rule)),
        "n_eff": n_eff,
        "n_eff_xu": n_eff_xu,
        "p_xu": correlation_p(r, n_eff_xu),
        "first_lag": np.where(last < first, np.nan, first),
        "last_lag": np.where(last < first, np.nan, last),
        **{name: np.where(usable, values, np.nan) for name, values in known.items()},
        "status": status,
    }


def _peak_ends(scan: LagScan, rule: str, n_eff: Floats) -> tuple[Floats, Floats]:
    """Ends of the interval of r at each peak (m,)."""
    peak = scan.at_peak(scan.r, rule)
    sign = np.where(peak < 0, -1.0, 1.0)
    with np.errstate(divide="ignore"):
        merit = np.arctanh(np.abs(scan.r) if rule == "abs" else -scan.r)
    at = np.searchsorted(scan.lags, scan.peaks[rule].lag[:, 0])
    ends = peak_interval(merit if rule == "abs" else merit * -sign[:, None], at, n_eff)
    low, high = (sign * end for end in ends)
    return np.minimum(low, high), np.maximum(low, high)


def lag_columns(one: SizeScan, largest: Floats) -> Columns:
    """Every lag of one scan, one row a series and lag."""
    scan, standing = one.scan, one.standing("abs")
    units = standing.in_units(scan.r)
    low, high = fisher_interval(scan.r, scan.n_eff)
    reasons = np.select([scan.n < MIN_PAIRS, np.isnan(scan.r)], ["too_few", "constant"], "ok")
    status = _status(reasons, scan.n_eff, one.irregular[:, None])
    usable = np.isin(status, ["ok", "irregular"])
    known = {"p": p_values(units, largest), "p_lags": standing.own_p(units), "low": low, "high": high}
    columns = {
        "lag": np.broadcast_to(scan.lags.astype(np.float64), scan.r.shape),
        "r": scan.r,
        "n": scan.n,
        "n_eff": scan.n_eff,
        "n_eff_xu": scan.n_eff_xu,
        "p_xu": correlation_p(scan.r, scan.n_eff_xu),
        **{name: np.where(usable, values, np.nan) for name, values in known.items()},
        "status": status,
    }
    return {name: values.ravel() for name, values in columns.items()}


def flip_columns(smaller: SizeScan, larger: SizeScan, rule: str, flip: Flip, largest: Floats) -> Columns:
    """Comparison of the peaks at two window sizes; ``largest`` is the null of the strongest of all flips (m, draws)."""
    sides = [(one.scan.status(rule), one.scan.at_peak(one.scan.n_eff, rule)) for one in (smaller, larger)]
    statuses = [_status(status, n_eff, larger.irregular) for status, n_eff in sides]
    bad = [np.where(np.isin(status, ["ok", "irregular"]), "", status) for status in statuses]
    reason = np.where(bad[0] != "", bad[0], bad[1])
    status = np.where(reason != "", reason, np.where(flip.flips, statuses[1], "no_flip"))
    r = larger.scan.peaks[rule].r[:, 0]
    return {
        "peak_rule": np.full(len(r), rule),
        "other_window_size": np.full(len(r), smaller.size),
        "other_lag": np.where(np.isnan(smaller.scan.peaks[rule].r[:, 0]), np.nan, smaller.scan.peaks[rule].lag[:, 0]),
        "lag": np.where(np.isnan(r), np.nan, larger.scan.peaks[rule].lag[:, 0]),
        "r": r,
        "p": np.where(reason == "", flip.p_of(largest), np.nan),
        "p_lags": np.where(reason == "", flip.p, np.nan),
        "status": status,
    }


def sliding_columns(bands: Sequence[SlidingBand], end: str, width: int, irregular: NDArray[np.bool_]) -> Columns:
    """Largest or smallest sliding correlation of each series, beside its band."""
    highest = end == "highest"
    r = np.array([band.highest if highest else band.lowest for band in bands])
    return {
        "peak_rule": np.full(len(bands), end),
        "width": np.full(len(bands), width),
        "lag": np.zeros(len(bands)),
        "r": r,
        "n": np.array([np.count_nonzero(np.isfinite(band.r)) for band in bands]),
        "p": np.array([band.p_high if highest else band.p_low for band in bands]),
        "null_low": np.array([band.null_low for band in bands]),
        "null_high": np.array([band.null_high for band in bands]),
        "status": np.where(np.isnan(r), "too_few", np.where(irregular, "irregular", "ok")),
    }


def granger_columns(test: Granger, irregular: NDArray[np.bool_]) -> Columns:
    """The nested F test of each series."""
    known = np.isfinite(test.f)
    return {
        "statistic": test.f,
        "lag_order": np.where(known, test.order, np.nan),
        "n": test.n,
        "p": test.p,
        "p_xu": test.p_xu,
        "status": np.where(known, np.where(irregular, "irregular", "ok"), "gaps_or_too_few"),
    }


def share_columns(share: Floats, n: int, n_eff: float, irregular: bool = False) -> Columns:
    """Share of variance explained together (1 + draws,), one row; ``n_eff`` of the least independent feature."""
    known = bool(np.isfinite(share[0])) and bool(np.isfinite(share[1:]).all()) and len(share) > 1
    null = share[1:] if known else np.full(1, np.nan)
    p = (1 + np.count_nonzero(null >= share[0])) / (1 + len(null)) if known else np.nan
    few = not n_eff >= FEWEST_EFFECTIVE
    return {
        "statistic": share[:1],
        "n": np.array([n]),
        "n_eff": np.array([n_eff]),
        "p": np.array([np.nan if few else p]),
        "null_high": np.array([np.quantile(null, 0.95)]),
        "status": _status(["ok" if known else "gaps_or_too_few"], np.array([n_eff]), np.array([irregular])),
    }


def _status(reasons: Sequence[str] | NDArray[np.str_], n_eff: Floats, irregular: NDArray[np.bool_]) -> NDArray[np.str_]:
    """The gravest of what a search says, few effective pairs and unequal spacing."""
    found = np.asarray(reasons).astype("U15")
    found = np.where((found == "ok") & ~(n_eff >= FEWEST_EFFECTIVE), "few_effective", found)
    return np.where((found == "ok") & irregular, "irregular", found)
