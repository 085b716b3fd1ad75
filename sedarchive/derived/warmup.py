"""Spectral warm-up: a fresh model whose matrices have the singular values of an archived checkpoint."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.archive import Archive
from sedarchive.derived.files import CONFIG, WEIGHTS, Output, check_free, write_config, write_weights
from sedarchive.derived.matrices import Matrix, matrices_of
from sedarchive.derived.model import Stored, model_config, stored_checkpoint
from sedarchive.derived.reference import Shape, shape_of
from sedarchive.errors import NothingMatchedError
from sedarchive.families.match import bare_name
from sedarchive.history import TensorSpec
from sedarchive.matrix.warmup import DEFAULT_SPREAD, matrix_with, norm_of, norm_of_default, resampled, scaled
from sedarchive.sweeps.anatomy import anatomy
from sedarchive.tables import Database
from sedarchive.words import few_of

Floats = NDArray[np.float64]
_ZERO_NORMS = ("gemma", "gemma2", "gemma3", "gemma3_text")
"""Model types whose norms multiply by 1 + weight."""


@dataclass(frozen=True)
class WarmupOptions:
    """What the user asks for."""

    scale: str = "frobenius"
    """One of :data:`sedarchive.matrix.warmup.SCALES`: which norm of the default initialisation is met."""
    like: Path | None = None
    """Checkpoint that gives shapes, names, vectors and norms; None: the archived one, with 0.02 normal entries."""
    seed: int = 0
    width: Fraction | None = None
    """What the widths of the archived model are multiplied by, where ``like`` gives none; None: as they are."""


@dataclass(frozen=True)
class Warmed:
    """What was written."""

    run: str
    step: int
    written: tuple[Path, ...]
    matrices: int
    """Matrices with singular values of the archived checkpoint."""
    resampled: int
    """Those among them that are of another size than there."""
    kept: tuple[str, ...]
    """Matrices that the archived checkpoint lacks: as in the default initialisation."""

    def describe(self) -> str:
        """Say it in one line."""
        said = f"{self.run}, step {self.step}: {self.matrices} matrices with its singular values"
        said += f", {self.resampled} of them of another size" if self.resampled else ""
        return said + (f"; not in the run, and left as they were: {few_of(self.kept)}" if self.kept else "")


@dataclass(frozen=True)
class _Work:
    """What the tensors are made from."""

    shape: Shape
    options: WarmupOptions
    sigmas: "Sigmas"
    tied_to: Mapping[str, str]
    """Tensors that are others too, by name."""


@dataclass(frozen=True)
class Sigmas:
    """Singular values of the archived checkpoint, asked for one matrix at a time."""

    tables: Database
    run: str
    step: int
    lengths: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """Bare name of a matrix -> its name in the tables, and how many values it has."""

    def of(self, matrix: str) -> Floats:
        """Values (r,), descending; those that are not resolved are 0."""
        sql = "SELECT sigma FROM matrix_spectra WHERE run = ? AND step = ? AND matrix = ?"
        (values,) = self.tables.rows(sql, [self.run, self.step, self.lengths[matrix][0]]).rows[0]
        return np.array([0.0 if value is None else value for value in values])


def warm_up(
    archive: Path, database: Path, run: str, step: int | None, options: WarmupOptions, folder: Path, force: bool = False
) -> Warmed:
    """Write an initialisation with the singular values of an archived checkpoint and random singular vectors.

    Parameters
    ----------
    archive, database, run, step
        The checkpoint; the last one if no step is given.
    options
        Scale, shapes and seed.
    folder
        For the weights (float32) and the config.
    force
        Whether files that exist are replaced.

    Raises
    ------
    NothingMatchedError
        If the database holds no spectra of the checkpoint.
    SedarchiveError
        If there is no such checkpoint, or a file exists and may not be replaced.
    """
    with Database.read(database, Archive(archive).archive_id) as tables:
        stored = stored_checkpoint(archive, run, step, tables)
        sigmas = _known_sigmas(tables, stored)
        with shape_of(stored, options.like, options.width) as shape:
            return _written(_Work(shape, options, sigmas, _ties(shape)), folder, force)


def _known_sigmas(tables: Database, stored: Stored) -> Sigmas:
    run, step = stored.run.name, stored.commit.step
    sql = "SELECT matrix, len(sigma) FROM matrix_spectra WHERE run = ? AND step = ? AND len(sigma) > 0"
    lengths = {bare_name(name): (name, n) for name, n in tables.rows(sql, [run, step]).rows}
    if not lengths:
        held = tables.rows("SELECT DISTINCT step FROM matrix_spectra WHERE run = ? ORDER BY step", [run]).rows
        way_out = (
            f"it holds those of step {few_of([str(row[0]) for row in held[-3:]])}"
            if held
            else "run `sedarchive compute`"
        )
        raise NothingMatchedError(f"{stored.describe()}: the database has no spectra of it; {way_out}")
    return Sigmas(tables, run, step, lengths)


def _ties(shape: Shape) -> dict[str, str]:
    """Tensors that are others too."""
    if shape.reader is not None:
        return dict(shape.reader.ties)
    layout = shape.stored.layout
    return dict(anatomy(shape.stored.run, layout.heads, layout.kv_heads, layout.families).tied_to)


def _written(work: _Work, folder: Path, force: bool) -> Warmed:
    shape, sigmas = work.shape, work.sigmas
    weights, settings = folder / WEIGHTS, folder / CONFIG
    config = model_config(shape.config)
    written = (weights, settings) if config else (weights,)
    check_free(written, force)
    asked = {"scale": work.options.scale, "seed": work.options.seed, "width": str(work.options.width or 1)}
    write_weights(
        weights, [_output(work, name) for name in shape.specs], {"run": sigmas.run, "step": sigmas.step, **asked}
    )
    if config:
        write_config(settings, config)
    matrices = [one for name in shape.specs for one in _own_matrices(work, name)]
    known = [one for one in matrices if one.name in sigmas.lengths]
    return Warmed(
        sigmas.run,
        sigmas.step,
        written,
        len(known),
        sum(sigmas.lengths[one.name][1] != min(one.shape) for one in known),
        tuple(one.name for one in matrices if one.name not in sigmas.lengths),
    )


def _own_matrices(work: _Work, name: str) -> list[Matrix]:
    """Matrices of a tensor of float parameters that is no other."""
    role = work.shape.roles[name]
    is_own = name not in work.tied_to and role.kind not in ("buffer", "integer")
    return matrices_of(work.shape.specs[name], role) if is_own else []


def _output(work: _Work, name: str) -> Output:
    spec = work.shape.specs[name]
    told = bare_name(name)
    if work.shape.roles[name].kind in ("buffer", "integer"):
        return Output(replace(spec, name=told), partial(work.shape.copied, name))
    return Output(TensorSpec(told, "float32", spec.shape), partial(_fresh, work, work.tied_to.get(name, name)))


def _fresh(work: _Work, name: str) -> Iterator[memoryview]:
    """Elements of a tensor of parameters: its matrices made anew, all else as the default initialisation has it."""
    spec = work.shape.specs[name]
    reference = work.shape.values(name)
    flat = (_default(work, name) if reference is None else reference).astype(np.float32).reshape(-1)
    for matrix in matrices_of(spec, work.shape.roles[name]):
        if matrix.name in work.sigmas.lengths:
            at = matrix.indices(spec)
            chosen = slice(None) if at is None else at
            norm = _norm(work.options.scale, matrix, None if reference is None else flat[chosen])
            flat[chosen] = _warm(work, matrix, norm).reshape(-1)
    yield flat.data


def _norm(scale: str, matrix: Matrix, values: NDArray[Any] | None) -> float:
    """Norm that the default initialisation of a matrix has."""
    if scale == "none":
        return 1.0
    if values is None:
        return norm_of_default(scale, matrix.shape)
    return norm_of(scale, values.astype(np.float64).reshape(matrix.shape))


def _warm(work: _Work, matrix: Matrix, norm: float) -> Floats:
    sigma = scaled(resampled(work.sigmas.of(matrix.name), min(matrix.shape)), work.options.scale, norm)
    return matrix_with(sigma, matrix.shape, _generator(work.options.seed, matrix.name))


def _default(work: _Work, name: str) -> Floats:
    """Elements (n,) of a tensor as a model begins: 1 in norms, 0 in other vectors, the rest is normal."""
    spec, role = work.shape.specs[name], work.shape.roles[name]
    if role.kind != "vector":
        return _generator(work.options.seed, f"{name} default").normal(0.0, DEFAULT_SPREAD, spec.n_elements)
    is_one = role.role == "norm" and work.shape.config.get("model_type") not in _ZERO_NORMS
    return np.full(spec.n_elements, float(is_one and not name.endswith("bias")))


def _generator(seed: int, name: str) -> np.random.Generator:
    """Random numbers of one matrix, whatever else the model holds."""
    return np.random.default_rng([seed, *hashlib.sha256(name.encode(errors="replace")).digest()[:8]])
