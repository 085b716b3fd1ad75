"""Two workers against one: spectra 1.8 times as fast, the Gram sweep 1.4 times, ingest 1.2 times.

One BLAS thread a worker, files and archive in the page cache; ingest ends with a sync. Beside ingest stand the seconds
that writing and syncing as many bytes takes, since two workers share one disk; beside all of them what two threads
gain on the bare kernels of the spectra, since a machine that is busy, or cores that are no cores, allow no more.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from engine import drop_grams, gram_sweep, ingest_run, new_archive, spectra_sweep
from measure import MIB, Claim, Settings, explain_unmet, in_turn, remove, report, seconds, settings, warm
from workload import FULL, QUICK, checkpoint_paths, history

from sedarchive.executor import one_blas_thread

FIRST_CHUNK = range(8)
"""Checkpoints whose spectra are taken: those of one chunk."""


def swept(archive: Path, workers: int) -> float:
    drop_grams(archive)
    return seconds(lambda: gram_sweep(archive, workers))


def spectra(archive: Path, workers: int) -> float:
    return seconds(lambda: spectra_sweep(archive, workers, FIRST_CHUNK))


def ingested(run: Path, target: Path, workers: int) -> float:
    remove(target)
    warm(run)
    return seconds(partial(ingest_run, run, target, workers), os.sync)


def kernels(workers: int) -> float:
    """Seconds of products and eigenvalues of matrices of the workload's width, in threads of their own."""
    matrices = np.random.default_rng(0).standard_normal((workers, 4 * FULL.width, FULL.width))
    with one_blas_thread(), ThreadPoolExecutor(workers) as pool:
        jobs = [matrices[at % workers] for at in range(96)]
        return seconds(lambda: list(pool.map(lambda one: np.linalg.eigvalsh(one.T @ one), jobs)))


def written(folder: Path, n_bytes: int) -> float:
    """Seconds of writing zeros once and syncing: the disk alone."""
    path, block = folder / "written", bytes(8 * MIB)

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(n_bytes // len(block)):
                file.write(block)
        os.sync()

    taken = seconds(write)
    path.unlink()
    os.sync()
    return taken


def measured(given: Settings) -> list[Claim]:
    run = history(given.folder, QUICK if given.quick else FULL)
    archive = new_archive(run, given.folder)
    target = given.folder / "ingested.zarr"
    n_bytes = sum(path.stat().st_size for path in checkpoint_paths(run))
    warm(archive)
    taken = in_turn(
        {
            **{f"spectra, {n}": partial(spectra, archive, n) for n in (1, 2)},
            **{f"Gram sweep, {n}": partial(swept, archive, n) for n in (1, 2)},
            **{f"ingest, {n}": partial(ingested, run, target, n) for n in (1, 2)},
            **{f"bare kernels, {n}": partial(kernels, n) for n in (1, 2)},
            "writing as many bytes": partial(written, given.folder, n_bytes),
        }
    )
    remove(target)
    bounds = {"spectra": 1.8, "Gram sweep": 1.4, "ingest": 1.2}
    claims = [
        Claim(f"two workers, times as fast as one: {name}", taken[f"{name}, 1"] / taken[f"{name}, 2"], bound, True)
        for name, bound in bounds.items()
    ]
    gain = taken["bare kernels, 1"] / taken["bare kernels, 2"]
    claims.append(Claim("two threads, times as fast as one: bare kernels", gain))
    disk = taken["writing as many bytes"] / taken["ingest, 2"]
    claims.append(Claim("writing as many bytes in the time of ingest, two workers", disk))
    drop_grams(archive)
    slow: dict[str, Callable[[], object]] = {
        "spectra": partial(spectra_sweep, archive, 2, FIRST_CHUNK),
        "Gram sweep": partial(gram_sweep, archive, 2),
        "ingest": partial(ingest_run, run, target, 2),
    }
    for claim, (name, function) in zip(claims, slow.items(), strict=False):
        explain_unmet([claim], {f"{name} with two workers": function})
    remove(target)
    return claims


if __name__ == "__main__":
    options = settings(__doc__)
    report(measured(options), options)
