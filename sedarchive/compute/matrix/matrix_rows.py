"""Columns of ``matrix_stats`` and ``matrix_nulls`` for the spectra of matrices of one shape."""

from collections.abc import Iterator, Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from sedarchive.matrix.density import FEWEST as FEWEST_OF_DENSITY
from sedarchive.matrix.density import DensityTail, HillTails, fit_tail, hill_of
from sedarchive.matrix.gaussian import Bulk, bulk_of, gaussian_sigmas
from sedarchive.matrix.metrics import Metrics, metrics_of
from sedarchive.matrix.slopes import FEWEST, Slopes, slopes_of
from sedarchive.matrix.stack import SpectraStack
from sedarchive.matrix.truncated import fit_truncated

Columns = dict[str, NDArray[np.generic]]
Shape = tuple[int, int]

ADVISED_TAIL = 50
"""Shorter tails give exponents that Clauset et al. advise not to trust."""
MOST_DRAWS, FEWEST_DRAWS = 400, 100
DRAWN_NUMBERS = 15_000_000
"""Draws x K² of a null: about half a second."""
WITH_NULL = (
    *("stable_rank", "entropy", "effective_rank", "entropy_sigma", "effective_rank_sigma", "participation"),
    *("sigma_ratio", "condition_number", "n_outliers", "outlier_share"),
    *("alpha", "alpha_sigma_weighted", "alpha_inverse_k", "alpha_ols", "alpha_top_half", "alpha_top_50"),
    *("alpha_hill", "alpha_mle", "alpha_weighted_unit"),
)
"""Metrics that do not depend on the scale of the entries."""
TRUNCATED = "alpha_truncated"
"""The one that is fitted on request only."""


def stats_columns(stack: SpectraStack, n_rows: int, n_cols: int, truncated: bool = False) -> Columns:
    """Every metric of N spectra of matrices (n_rows, n_cols); the truncated power law where it is asked for."""
    columns: Columns = {"n_resolved": stack.n_resolved}
    columns |= _fields_of(metrics_of(stack, max(n_rows, n_cols)))
    columns |= _bulk_columns(bulk_of(stack, n_rows, n_cols), 2 * stack.n_resolved > stack.sigma.shape[1])
    for name, slopes in slopes_of(stack).items():
        columns |= _slope_columns(name, slopes)
    tails = [fit_tail(energies) for energies in _relative_energies(stack)]
    columns |= _hill_columns(hill_of(stack)) | _density_columns(stack, tails)
    columns |= _weighted_columns(stack, columns, n_rows * n_cols)
    if truncated:
        columns |= _truncated_columns(stack, tails)
    return columns | {"status": np.where(stack.n_resolved > 1, "ok", "rank_one")}


def null_columns(n_rows: int, n_cols: int, truncated: bool = False) -> Columns:
    """Mean and spread of each metric over the Gaussian matrices of this shape that have it."""
    draws = int(np.clip(DRAWN_NUMBERS // min(n_rows, n_cols) ** 2, FEWEST_DRAWS, MOST_DRAWS))
    sigma = gaussian_sigmas(n_rows, n_cols, draws)
    stack = SpectraStack(sigma, np.full(draws, sigma.shape[1]))
    found = stats_columns(stack, n_rows, n_cols, truncated)
    names = (*WITH_NULL, TRUNCATED) if truncated else WITH_NULL
    return {"metric": np.array(names), **summary_of([found[name].astype(np.float64) for name in names])}


def summary_of(drawn: Sequence[NDArray[np.float64]]) -> Columns:
    """Mean, spread and quantiles of the draws of each metric, of those that are known."""
    known = [values[np.isfinite(values)] for values in drawn]
    return {
        "mean": np.array([values.mean() if len(values) else np.nan for values in known]),
        "sd": np.array([values.std(ddof=1) if len(values) > 1 else np.nan for values in known]),
        "low": np.array([np.quantile(values, 0.025) if len(values) else np.nan for values in known]),
        "high": np.array([np.quantile(values, 0.975) if len(values) else np.nan for values in known]),
        "draws": np.array([len(values) for values in known]),
    }


def _fields_of(found: Metrics) -> Columns:
    return {one.name: getattr(found, one.name) for one in fields(found)}


def _bulk_columns(bulk: Bulk, known: NDArray[np.bool_]) -> Columns:
    """Without half of its singular values a matrix has no bulk: a product of thin factors, say."""
    columns = {
        "mp_scale": bulk.scale,
        "mp_edge": bulk.edge,
        "tw_edge": bulk.edge_tw,
        "n_outliers": bulk.n_outliers,
        "outlier_share": bulk.outlier_share,
    }
    return {name: np.where(known, values, np.nan) for name, values in columns.items()}


def _slope_columns(name: str, slopes: Slopes) -> Columns:
    return {
        name: slopes.alpha,
        f"{name}_se": slopes.se,
        f"{name}_n": slopes.n,
        f"{name}_status": np.where(slopes.n >= FEWEST, "ok", "too_short"),
    }


def _hill_columns(hill: HillTails) -> Columns:
    return {
        "alpha_hill": hill.alpha,
        "alpha_hill_se": hill.se,
        "alpha_hill_n": hill.n_tail,
        "alpha_hill_status": np.where(np.isfinite(hill.alpha), "ok", "too_short"),
    }


def _relative_energies(stack: SpectraStack) -> Iterator[NDArray[np.float64]]:
    """Resolved sigma² of each spectrum, over the largest."""
    return (sigma[:n] ** 2 for sigma, n in zip(stack.relative, stack.n_resolved, strict=True))


def _density_columns(stack: SpectraStack, tails: Sequence[DensityTail]) -> Columns:
    n_tail = np.array([tail.n_tail for tail in tails])
    short = np.where(n_tail < ADVISED_TAIL, "short_tail", "ok")
    return {
        "alpha_mle": np.array([tail.alpha for tail in tails]),
        "alpha_mle_se": np.array([tail.se for tail in tails]),
        "alpha_mle_n": n_tail,
        "alpha_mle_x_min": np.array([tail.x_min for tail in tails]) * stack.sigma[:, 0] ** 2,
        "alpha_mle_ks": np.array([tail.ks for tail in tails]),
        "alpha_mle_status": np.where(stack.n_resolved < FEWEST_OF_DENSITY, "too_short", short),
    }


def _weighted_columns(stack: SpectraStack, columns: Columns, n_elements: int) -> Columns:
    """WeightWatcher's weighted alpha, as it would be at entries of unit variance: that depends on no scale."""
    weight = np.log10(n_elements / (stack.relative**2).sum(axis=1))
    name = "alpha_weighted_unit"
    return {
        name: columns["alpha_mle"].astype(np.float64) * weight,
        f"{name}_se": columns["alpha_mle_se"].astype(np.float64) * weight,
        f"{name}_n": columns["alpha_mle_n"],
        f"{name}_status": columns["alpha_mle_status"],
    }


def _truncated_columns(stack: SpectraStack, tails: Sequence[DensityTail]) -> Columns:
    """Of the tails of alpha_mle."""
    cases = zip(_relative_energies(stack), tails, strict=True)
    found = [fit_truncated(energies, tail.x_min) for energies, tail in cases]
    return {
        TRUNCATED: np.array([one.alpha for one in found]),
        f"{TRUNCATED}_se": np.array([one.se for one in found]),
        f"{TRUNCATED}_n": np.array([tail.n_tail for tail in tails]),
        f"{TRUNCATED}_rate": np.array([one.rate for one in found]) / stack.sigma[:, 0] ** 2,
        f"{TRUNCATED}_ks": np.array([one.ks for one in found]),
        f"{TRUNCATED}_p": np.array([one.p for one in found]),
        f"{TRUNCATED}_status": np.array([one.status for one in found]),
    }
