"""Measured errors of random projections into their table, beside the band that simulation gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.keyed import KeyedRows, Owned, Pair
from sedarchive.compute.rolling.window_rows import Columns, concatenated
from sedarchive.compute.turns import Turns
from sedarchive.digests import canonical_digest
from sedarchive.executor import Executor, Progress
from sedarchive.leaves import Scope
from sedarchive.rolling.projection import QUANTITIES, Reference
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.projection_sweep import ProjectionOptions, sweep_projections
from sedarchive.sweeps.stored_grams import StoredGrams

ALGORITHM = "projections-1"
TABLE = "projections"
_DRAWS = 200
_SMALLEST_WINDOW = 3
_BAND = (0.025, 0.975)
_ERRORS = ("error", "error_max", "error_simulated", "error_low", "error_high")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ProjectionRequest:
    """Which windows to project, and how."""

    dimensions: tuple[int, ...]
    n_seeds: int
    window_sizes: tuple[int, ...]
    max_mem: int

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(range(self.n_seeds))


def refresh_projections(
    anatomy: Anatomy,
    stored: StoredGrams,
    scopes: Sequence[Scope],
    request: ProjectionRequest,
    turns: Turns,
    executor: Executor,
    progress: Progress,
) -> int:
    """Bring a run's rows of ``projections`` up to date; return the number of (scope, window size) pairs made.

    Raises
    ------
    ArchiveError
        If a chunk cannot be read.
    MemoryBudgetError
        If a block does not fit.
    """
    started = datetime.now(UTC)
    keyed = KeyedRows(anatomy.run.name, TABLE, ALGORITHM, (Owned(TABLE),))
    work = keyed.outstanding(turns.database, _wanted(anatomy, stored, scopes, request))
    if not work:
        return 0
    turns.end()
    todo = [scope for scope in scopes if any(name == scope.name for name, _ in work.pairs)]
    stored_as_such = [scope for scope in todo if not scope.has_products]
    rows: list[Columns] = []
    projected: dict[str, Floats] = {}
    if stored_as_such:
        options = ProjectionOptions(max(request.dimensions), request.seeds, request.max_mem)
        projected = sweep_projections(anatomy, stored_as_such, options, executor, progress)
    for scope in todo:
        sizes = [size for name, size in work.pairs if name == scope.name]
        rows += [_scope_rows(stored, scope, size, request, projected.get(scope.name)) for size in sizes]
    keyed.write(turns.database, work, {TABLE: [concatenated(rows)]}, started, stored.key)
    return len(work.keys)


def _wanted(
    anatomy: Anatomy, stored: StoredGrams, scopes: Sequence[Scope], request: ProjectionRequest
) -> Mapping[Pair, str]:
    sizes = [size for size in request.window_sizes if _SMALLEST_WINDOW <= size < len(anatomy.run.commits)]
    options = [ALGORITHM, stored.key, request.dimensions, request.n_seeds]
    return {
        (scope.name, size): canonical_digest([*options, [leaf.name for leaf in scope.leaves], size])[:16]
        for scope in scopes
        for size in sizes
    }


def _scope_rows(
    stored: StoredGrams, scope: Scope, size: int, request: ProjectionRequest, projected: Floats | None
) -> Columns:
    """Rows of one scope and window size: for every dimension, seed and quantity."""
    gram = stored.gram(scope)
    updates = None if gram.full is None else gram.updates(0, gram.n_updates)
    if projected is None or updates is None or not np.isfinite(updates).all():
        status = "products" if projected is None else "banded" if updates is None else "nonfinite"
        parts = [_unknown(request, dimension, status) for dimension in request.dimensions]
    else:
        reference = Reference(updates, size, scope.n_elements)
        parts = [_measured(reference, dimension, projected) for dimension in request.dimensions]
    found = concatenated(parts)
    n_rows = len(found["seed"])
    return {"scope": np.full(n_rows, scope.name), "window_size": np.full(n_rows, size), **found}


def _measured(reference: Reference, dimension: int, projected: Floats) -> Columns:
    """Errors of every seed beside the band that simulation gives for the run."""
    errors = reference.errors(projected[:, :, :dimension] / dimension**0.5)
    drawn = reference.simulated(dimension, _DRAWS)
    low, high = np.quantile(drawn, _BAND, axis=0)
    exists = errors.n_windows > 0
    per_seed: dict[str, NDArray[Any]] = {
        "error_simulated": drawn.mean(axis=0),
        "error_low": low,
        "error_high": high,
        "n": errors.n_windows,
        "status": np.where(exists, "ok", "unresolved"),
    }
    n_seeds = len(projected)
    return {
        **_names(n_seeds, dimension),
        "error": errors.mean.ravel(),
        "error_max": errors.largest.ravel(),
        **{name: np.tile(values, n_seeds) for name, values in per_seed.items()},
    }


def _unknown(request: ProjectionRequest, dimension: int, status: str) -> Columns:
    """Rows without values, where there is nothing to compare with."""
    n_rows = request.n_seeds * len(QUANTITIES)
    return {
        **_names(request.n_seeds, dimension),
        **{name: np.full(n_rows, np.nan) for name in _ERRORS},
        "n": np.zeros(n_rows, dtype=np.int64),
        "status": np.full(n_rows, status),
    }


def _names(n_seeds: int, dimension: int) -> Columns:
    return {
        "dimension": np.full(n_seeds * len(QUANTITIES), dimension),
        "seed": np.repeat(np.arange(n_seeds), len(QUANTITIES)),
        "quantity": np.tile(np.array(QUANTITIES), n_seeds),
    }
