"""The library as ``ingest`` and ``compute`` run it, cut where the benchmarks measure: one call a stage."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sedarchive.archive import Archive
from sedarchive.executor import Executor, one_blas_thread
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.leaves import resolve_scopes
from sedarchive.rolling.windows import window_series
from sedarchive.sizes import parse_size
from sedarchive.sweeps.anatomy import Anatomy, anatomy
from sedarchive.sweeps.gram_sweep import sweep_gram
from sedarchive.sweeps.spectra_sweep import SpectraOptions, SpectrumAt, matrix_leaves, sweep_spectra
from sedarchive.sweeps.stored_grams import GramOptions, StoredGrams, gram_key


def ingest_run(run: Path, archive: Path, workers: int, max_mem: str = "512MB", codec: str = "none") -> None:
    """Ingest one history into a new archive."""
    reports = ingest([run], archive, IngestOptions(workers=workers, max_mem=parse_size(max_mem), codec=codec))
    for report in reports:
        if report.error or report.added != report.found or not report.added:
            raise RuntimeError(f"{report.describe()}; {report.error}; {report.findings}")


def new_archive(run: Path, folder: Path) -> Path:
    """Archive of a history, made anew: one that stands may come from an earlier version of the library."""
    archive = folder / "archives" / f"{run.name}.zarr"
    shutil.rmtree(archive, ignore_errors=True)
    archive.parent.mkdir(parents=True, exist_ok=True)
    ingest_run(run, archive, workers=2)
    return archive


def open_anatomy(archive: Path) -> Anatomy:
    """Anatomy of the only run of an archive, opened anew."""
    [run] = Archive(archive).runs()
    return anatomy(run)


def drop_grams(archive: Path) -> None:
    """Forget the Gram matrices of an archive."""
    for key in (open_anatomy(archive).run.folder / "gram").glob("*/"):
        shutil.rmtree(key)


def gram_sweep(archive: Path, workers: int, max_mem: str = "2GB") -> None:
    """Gram matrices of an archive that has none."""
    opened, options = Archive(archive), GramOptions(parse_size(max_mem))
    [run] = opened.runs()
    parts = anatomy(run)
    with one_blas_thread(), opened.writing("compute") as store:
        outcome = sweep_gram(parts, store, options, Executor(workers))
    if outcome.failed or outcome.reused:
        raise RuntimeError(f"failed: {outcome.failed}, reused: {outcome.reused}")


def sigmas_of_windows(
    archive: Path, sizes: Sequence[int], max_mem: str, scope: str = "all"
) -> dict[int, NDArray[np.float64]]:
    """Window size -> singular values (windows, size), from stored Gram matrices."""
    opened = Archive(archive)
    [run] = opened.runs()
    parts = anatomy(run)
    stored = StoredGrams(parts, opened.store, gram_key(parts, GramOptions(parse_size(max_mem))))
    [whole] = resolve_scopes(scope, parts.leaves)
    gram = stored.gram(whole)
    return {size: window_series(gram, size, whole.n_elements).sigma for size in sizes}


def spectra_sweep(
    archive: Path, workers: int, positions: Sequence[int] | None = None, max_mem: str = "2GB"
) -> list[SpectrumAt]:
    """Spectra of all matrices at some checkpoints (all by default), as ``compute`` makes them."""
    parts = open_anatomy(archive)
    with one_blas_thread():
        wanted = wanted_spectra(parts, positions)
        portions = sweep_spectra(parts, wanted, SpectraOptions(parse_size(max_mem)), Executor(workers))
        found = [one for portion in portions for one in portion]
    for one in found:
        if one.spectrum is None:
            raise RuntimeError(one.problem)
    return found


def wanted_spectra(parts: Anatomy, positions: Sequence[int] | None) -> dict[str, list[int]]:
    """Tensor -> positions of checkpoints, for every tensor that holds matrices."""
    chosen = list(range(len(parts.run.commits)) if positions is None else positions)
    return {leaf.tensor: chosen for leaf in matrix_leaves(parts)}
