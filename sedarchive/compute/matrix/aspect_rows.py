"""Metrics at a fixed aspect ratio into ``aspect_stats``, and their nulls: on request, since weights are read for them.

A row is known by a digest of all that it depends on, as a spectrum is: a longer history costs its new steps.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from sedarchive.compute.matrix.matrix_rows import ADVISED_TAIL, Columns, summary_of
from sedarchive.compute.matrix.spectra_rows import (
    MatrixAt,
    SpectraOutcome,
    by_tensor,
    content_of,
    part_key,
    wanted_at,
)
from sedarchive.compute.turns import Turns
from sedarchive.digests import canonical_digest
from sedarchive.executor import Executor, Progress
from sedarchive.leaves import Leaf
from sedarchive.matrix.aspect import MOST_PARTS, Cut, PartsMetric, parts_metrics
from sedarchive.matrix.gaussian import gaussian_sigmas
from sedarchive.matrix.stack import SpectraStack
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.spectra_sweep import SpectraOptions, SpectrumAt, matrix_leaves, sweep_spectra
from sedarchive.tables import Database

ALGORITHM = "aspect-2"
NULL_ALGORITHM = "aspect-nulls-1"
TABLE, NULLS = "aspect_stats", "aspect_nulls"
DRAWS = 100
_DRAWN_NUMBERS = 15_000_000
"""Spectra x K² from which the draws take theirs."""
METRICS = (
    *("alpha", "alpha_sigma_weighted", "alpha_inverse_k", "alpha_ols", "alpha_top_half", "alpha_top_50"),
    *("alpha_hill", "alpha_mle", "stable_rank", "entropy"),
)
_MISSING_NULLS = """
    SELECT DISTINCT s.longer, s.shorter, s.n_parts
    FROM (
        SELECT greatest(part_rows, part_cols) AS longer, least(part_rows, part_cols) AS shorter, n_parts
        FROM aspect_stats WHERE run = ? AND value IS NOT NULL
    ) AS s
    ANTI JOIN aspect_nulls AS n
        ON n.part_longer = s.longer AND n.part_shorter = s.shorter AND n.n_parts = s.n_parts AND n.digest = ?
    ORDER BY ALL
"""
AspectAt = tuple[str, int, float]
"""(matrix, step, aspect)."""
Parts = tuple[int, int, int]
"""Longer side, shorter side, number."""


@dataclass(frozen=True)
class AspectRequest:
    """What is wanted, at which checkpoints."""

    aspects: tuple[float, ...]
    every: int
    options: SpectraOptions


def missing_aspects(anatomy: Anatomy, database: Database | None, request: AspectRequest) -> dict[str, list[int]]:
    """Tensor -> checkpoints at which sub-matrices are missing or stale."""
    digests = _digests(anatomy, request)
    known = _known(database, anatomy.run.name, digests) if database else set()
    return by_tensor(anatomy, {at[:2] for at in _missing(anatomy, request, digests, known)})


def _missing(
    anatomy: Anatomy, request: AspectRequest, digests: Mapping[AspectAt, str], known: Collection[AspectAt]
) -> set[AspectAt]:
    steps = wanted_at(anatomy, {(matrix, step) for matrix, step, _ in digests}, request.every)
    return {at for at in digests if at[:2] in steps and at not in known}


def refresh_aspects(
    anatomy: Anatomy, request: AspectRequest, turns: Turns, executor: Executor, progress: Progress
) -> SpectraOutcome:
    """Bring a run's rows of ``aspect_stats`` up to date; what is counted is a matrix at one step and aspect.

    Raises
    ------
    MemoryBudgetError
        If one step of a matrix does not fit.
    """
    run = anatomy.run.name
    digests = _digests(anatomy, request)
    known = _known(turns.database, run, digests)
    turns.database.keep(TABLE, {"run": run}, ("matrix", "step", "aspect"), sorted(known))
    missing = _missing(anatomy, request, digests, known)
    outcome = SpectraOutcome(len(missing), len(known))
    before = anatomy.run.store.counts.so_far
    if missing:
        turns.end()
        todo: set[MatrixAt] = {at[:2] for at in missing}
        for portion in sweep_spectra(anatomy, by_tensor(anatomy, todo), request.options, executor, progress):
            outcome.failed |= {found.leaf.tensor: found.problem for found in portion if found.problem}
            rows = [row for at, found in _by_matrix(anatomy, portion) if at in missing for row in _rows(at, found)]
            _insert(turns, run, rows, digests)
    outcome.reads = anatomy.run.store.counts.so_far - before
    _refresh_nulls(run, turns, executor, progress)
    return outcome


def _digests(anatomy: Anatomy, request: AspectRequest) -> dict[AspectAt, str]:
    """Digest of what the rows of each matrix, step and aspect are made from; products are left out."""
    found = {}
    for leaf in matrix_leaves(anatomy):
        if leaf.product is not None:
            continue
        for position in anatomy.positions(leaf):
            content = content_of(anatomy, leaf, position)
            for aspect in request.aspects:
                key = [ALGORITHM, MOST_PARTS, aspect, request.options.exact, part_key(leaf), content]
                found[leaf.name, anatomy.run.steps[position], aspect] = canonical_digest(key)[:16]
    return found


def _known(database: Database, run: str, digests: Mapping[AspectAt, str]) -> set[AspectAt]:
    sql = "SELECT DISTINCT matrix, step, aspect, digest FROM aspect_stats WHERE run = ? AND status <> 'unreadable'"
    rows = database.rows(sql, [run]).rows
    return {
        (matrix, step, aspect) for matrix, step, aspect, made in rows if digests.get((matrix, step, aspect)) == made
    }


def _by_matrix(anatomy: Anatomy, portion: Sequence[SpectrumAt]) -> list[tuple[AspectAt, list[SpectrumAt]]]:
    """Sub-matrices of each matrix, step and aspect, as they come: those of one follow each other."""
    steps = anatomy.run.steps
    groups = groupby(portion, key=lambda one: (one.leaf.name, steps[one.position], one.aspect))
    return [((name, step, aspect), list(parts)) for (name, step, aspect), parts in groups if aspect is not None]


def _rows(at: AspectAt, parts: Sequence[SpectrumAt]) -> list[dict[str, Any]]:
    """Rows of one matrix, step and aspect: one for each metric."""
    matrix, step, aspect = at
    leaf = parts[0].leaf
    cut = _cut_of(leaf, aspect)
    shared = {"matrix": matrix, "step": step, "layer": leaf.layer, "role": leaf.role, "aspect": aspect}
    shared |= {"part_rows": cut.n_rows, "part_cols": cut.n_cols, "n_parts": len(cut.starts)}
    spectra = [one.spectrum for one in parts if one.spectrum is not None]
    bad = [spectrum.status for spectrum in spectra if spectrum.status != "ok"]
    if bad or len(spectra) < len(parts):
        why = bad[0] if bad else "unreadable"
        return [shared | {"metric": name, "status": why} for name in METRICS]
    stack = SpectraStack(
        np.stack([spectrum.sigma for spectrum in spectra]), np.array([spectrum.n_resolved for spectrum in spectra])
    )
    found = parts_metrics(stack)
    resolved = {"n_resolved": int(stack.n_resolved.sum())}
    return [shared | resolved | _metric_row(name, found[name]) for name in METRICS]


def _cut_of(leaf: Leaf, aspect: float) -> Cut:
    assert leaf.shape is not None
    return Cut.of(*leaf.shape, aspect)


def _metric_row(name: str, metric: PartsMetric) -> dict[str, Any]:
    status = "ok" if np.isfinite(metric.value) else "too_short"
    if status == "ok" and name == "alpha_mle" and metric.n < ADVISED_TAIL:
        status = "short_tail"
    named = {"metric": name, "value": metric.value, "se": metric.se, "n": metric.n}
    return named | {"x_min": metric.x_min, "ks": metric.ks, "status": status}


_COLUMNS = (
    *("matrix", "step", "layer", "role", "aspect", "part_rows", "part_cols", "n_parts", "n_resolved"),
    *("metric", "value", "se", "n", "x_min", "ks", "status"),
)


def _insert(turns: Turns, run: str, rows: Sequence[dict[str, Any]], digests: Mapping[AspectAt, str]) -> None:
    if not rows:
        return
    columns: dict[str, Any] = {name: [row.get(name) for row in rows] for name in _COLUMNS}
    columns["digest"] = [digests[row["matrix"], row["step"], row["aspect"]] for row in rows]
    with turns.last() as database:
        database.insert(TABLE, {"run": run, **columns})


def _refresh_nulls(run: str, turns: Turns, executor: Executor, progress: Progress) -> None:
    """Draw the nulls that the rows of a run lack."""
    digest = canonical_digest([NULL_ALGORITHM, list(METRICS), DRAWS, _DRAWN_NUMBERS])[:16]
    turns.database.keep(NULLS, {}, ("digest",), [(digest,)])
    shapes = [(longer, shorter, n) for longer, shorter, n in turns.database.rows(_MISSING_NULLS, [run, digest]).rows]
    if not shapes:
        return
    turns.end()
    nulls: list[Columns] = []
    for null in executor.map(partial(aspect_null, draws=DRAWS), shapes):
        nulls.append(null)
        progress("nulls of sub-matrices", len(nulls), len(shapes))
    with turns.database.transaction():
        for (longer, shorter, n_parts), null in zip(shapes, nulls, strict=True):
            where = {"part_longer": longer, "part_shorter": shorter, "n_parts": n_parts}
            turns.database.replace(NULLS, where, {**null, "digest": digest})


def aspect_null(parts: Parts, draws: int) -> Columns:
    """Mean and spread of each metric over Gaussian matrices cut in the same way.

    The sub-matrices of a draw are independent. Where decompositions are dear the draws share a pool of them: the
    spread is right, the mean known to the spread over the root of the pool's share only.
    """
    longer, shorter, n_parts = parts
    pool_size = int(np.clip(_DRAWN_NUMBERS // shorter**2, DRAWS, draws * n_parts))
    pool = gaussian_sigmas(longer, shorter, max(pool_size, n_parts))
    rng = np.random.default_rng([longer, shorter, n_parts])
    order = np.concatenate([rng.permutation(len(pool)) for _ in range(-(-draws * n_parts // len(pool)))])
    resolved = np.full(n_parts, shorter)
    found = [
        parts_metrics(SpectraStack(pool[order[first : first + n_parts]], resolved))
        for first in range(0, draws * n_parts, n_parts)
    ]
    values = [np.array([one[name].value for one in found]) for name in METRICS]
    return {"metric": np.array(METRICS), **summary_of(values)}
