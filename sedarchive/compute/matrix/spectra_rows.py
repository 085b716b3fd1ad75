"""Spectra into their tables: only what is missing is computed, and each portion is stored at once.

A spectrum is known by a digest of all that it depends on, so a longer history
costs its new steps, and an interrupted sweep goes on where it stopped.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sedarchive.archive.store import ChunkReads
from sedarchive.compute.turns import Turns
from sedarchive.digests import canonical_digest
from sedarchive.executor import Executor, Progress
from sedarchive.leaves import Leaf
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.sweeps.spectra_sweep import (
    ALGORITHM,
    PRODUCT_ALGORITHM,
    SpectraOptions,
    SpectrumAt,
    matrix_leaves,
    sweep_spectra,
)
from sedarchive.tables import Database

MatrixAt = tuple[str, int]
"""(matrix, step)."""
Digests = dict[MatrixAt, tuple[str, ...]]
"""Digests that stand for what is wanted: that of a new spectrum first."""


@dataclass
class SpectraOutcome:
    """What the spectra of one run took."""

    computed: int = 0
    reused: int = 0
    reads: ChunkReads = field(default_factory=ChunkReads)
    """Chunks of weights that the sweep fetched."""
    failed: dict[str, str] = field(default_factory=dict)
    """Tensor -> why some of its steps could not be read."""
    aspects: "SpectraOutcome | None" = None
    """What those of sub-matrices took, if any were wanted."""

    def with_aspects(self, aspects: "SpectraOutcome") -> "SpectraOutcome":
        """Both sweeps together: what either could not read is told."""
        return replace(self, aspects=aspects, failed=self.failed | aspects.failed)

    def describe(self) -> str:
        """Part of a line for people."""
        more = f"; sub-matrices of a fixed aspect: {self.aspects._numbers()}" if self.aspects else ""
        return f"spectra: {self._numbers()}{more}"

    def _numbers(self) -> str:
        return f"{self.computed} computed, {self.reused} reused"


def missing_spectra(anatomy: Anatomy, database: Database | None, every: int, exact: bool) -> dict[str, list[int]]:
    """Tensor -> checkpoints at which a spectrum is missing or stale."""
    digests = _digests(anatomy, exact)
    known = _known(database, anatomy.run.name, digests) if database else set()
    return by_tensor(anatomy, wanted_at(anatomy, digests, every) - known)


def by_tensor(anatomy: Anatomy, missing: Iterable[MatrixAt]) -> dict[str, list[int]]:
    """Tensor -> positions of the checkpoints at which some of its matrices are missing."""
    position_of = {step: position for position, step in enumerate(anatomy.run.steps)}
    tensor_of = {leaf.name: leaf.tensor for leaf in matrix_leaves(anatomy)}
    todo: dict[str, set[int]] = {}
    for matrix, step in sorted(missing):
        todo.setdefault(tensor_of[matrix], set()).add(position_of[step])
    return {tensor: sorted(positions) for tensor, positions in todo.items()}


def refresh_spectra(
    anatomy: Anatomy,
    turns: Turns,
    every: int,
    options: SpectraOptions,
    executor: Executor,
    progress: Progress,
) -> SpectraOutcome:
    """Bring a run's spectra up to date, at every ``every``-th checkpoint and the last."""
    digests = _digests(anatomy, options.exact)
    known = _known(turns.database, anatomy.run.name, digests)
    with turns.database.transaction():
        for table in ("matrix_spectra", "matrix_stats"):
            turns.database.keep(table, {"run": anatomy.run.name}, ("matrix", "step"), sorted(known))
    missing = wanted_at(anatomy, digests, every) - known
    if missing:
        turns.end()
    before = anatomy.run.store.counts.so_far
    failed: dict[str, str] = {}
    for portion in sweep_spectra(anatomy, by_tensor(anatomy, missing), options, executor, progress):
        failed |= {found.leaf.tensor: found.problem for found in portion if found.problem}
        new = [found for found in portion if (found.leaf.name, anatomy.run.steps[found.position]) in missing]
        with turns.last() as database:
            _store(database, anatomy, new, digests)
    return SpectraOutcome(len(missing), len(known), anatomy.run.store.counts.so_far - before, failed)


def wanted_at(anatomy: Anatomy, known: Iterable[MatrixAt], every: int) -> set[MatrixAt]:
    """Spectra at every ``every``-th checkpoint and the last; others that stand are kept."""
    steps = {*anatomy.run.steps[::every], anatomy.run.steps[-1]}
    return {(matrix, step) for matrix, step in known if step in steps}


def _digests(anatomy: Anatomy, exact: bool) -> Digests:
    """(matrix, step) -> digests of what its spectrum may depend on: that of a new one, and those that do as well."""
    found = {}
    kinds = (True,) if exact else (False, True)  # an exact spectrum serves where an exact one was not asked for
    for leaf in matrix_leaves(anatomy):
        part = part_key(leaf)
        for position in anatomy.positions(leaf):
            digest = content_of(anatomy, leaf, position)
            keys = (canonical_digest([ALGORITHM, kind, part, digest])[:16] for kind in kinds)
            found[leaf.name, anatomy.run.steps[position]] = tuple(keys)
    return found


def content_of(anatomy: Anatomy, leaf: Leaf, position: int) -> str | list[Any]:
    """Digest of what a leaf is made of at one checkpoint; of a product also how it is made."""
    stored = anatomy.run.commits[position].tensors
    digests = [stored[anatomy.tensors[name].tensor].digest for name in leaf.sources]
    product = leaf.product
    return [PRODUCT_ALGORITHM, product.scale, product.transposed, *digests] if product else digests[0]


def part_key(leaf: Leaf) -> list[int] | None:
    """What of a tensor's elements, in what shape where its own does not say it."""
    part = leaf.part
    key = [] if part is None else [part.axis, part.period, part.start, part.stop]
    if part is not None and part.row is not None:
        key += [part.row, *(leaf.shape or ())]
    return [*key, leaf.blocks] if leaf.blocks > 1 else key or None


def _known(database: Database, run: str, digests: Digests) -> set[MatrixAt]:
    """Spectra that stand in the database as they are wanted."""
    sql = "SELECT matrix, step, digest FROM matrix_spectra WHERE run = ? AND status <> 'unreadable'"
    rows = database.rows(sql, [run]).rows
    return {(matrix, step) for matrix, step, digest in rows if digest in digests.get((matrix, step), ())}


def _store(database: Database, anatomy: Anatomy, portion: Sequence[SpectrumAt], digests: Digests) -> None:
    """Insert a portion; nothing stands in its place."""
    if not portion:
        return
    steps = anatomy.run.steps
    rows = [(found.leaf, steps[found.position], found) for found in portion]
    shared = {
        "run": anatomy.run.name,
        "step": [step for _, step, _ in rows],
        "matrix": [leaf.name for leaf, _, _ in rows],
    }
    spectra = {
        **shared,
        "digest": [digests[leaf.name, step][0] for leaf, step, _ in rows],
        **_spectrum_columns([found for _, _, found in rows]),
    }
    database.insert("matrix_spectra", spectra)


def _spectrum_columns(found: Sequence[SpectrumAt]) -> dict[str, Any]:
    spectra = [one.spectrum for one in found]
    sigma = np.empty(len(found), dtype=object)
    for at, spectrum in enumerate(spectra):
        sigma[at] = spectrum.sigma if spectrum is not None and len(spectrum.sigma) else None
    return {
        "sigma": sigma,
        "resolution": [None if spectrum is None else spectrum.resolution for spectrum in spectra],
        "n_resolved": [None if spectrum is None else spectrum.n_resolved for spectrum in spectra],
        "method": [None if spectrum is None else spectrum.method for spectrum in spectra],
        "status": ["unreadable" if spectrum is None else spectrum.status for spectrum in spectra],
    }
