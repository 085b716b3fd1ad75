"""Rolling spectra from files to sigmas: 100, 20 and 10 times faster than three other ways, in a tenth of the memory.

Windows of 10, 15, 20, 25 and 30 updates of all parameters, every window of the history. Ours: ingest of the safetensors
files (with its digests, checksums and sync), the Gram sweep over the archive, eigenvalues of all windows. The others
read the same files and keep nothing. Each repetition is a fresh process with one thread; imports are not timed; the
files are in the page cache for all of them.

* naive: every window's W x p matrix of updates in float64, ``np.linalg.svd(X, full_matrices=False)``. One window a
  size and repetition is timed (first, middle, last) and the median is extrapolated to all windows. Where its copies do
  not fit into memory, ``compute_uv=False``, which is faster; the singular values alone are a line of their own.
* one Gram per window: X X^T and ``eigvalsh``; timed and extrapolated in the same way.
* pairwise dots: all updates in memory in float32, both of every pair converted to float64 for their ``np.dot``, then
  the windows: what the published scripts do (the row is converted once, its partner for every pair).
* pairwise dots of float64: the same with all updates in float64 from the start.
* one product: all updates in memory in float64, one ``X @ X.T``, then the windows.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from engine import drop_grams, gram_sweep, ingest_run, sigmas_of_windows
from measure import ROUNDS, Claim, Fresh, Settings, explain_unmet, fresh, remove, report, settings, warm
from numpy.typing import NDArray
from safetensors.numpy import load_file
from workload import FULL, N_CHECKPOINTS, QUICK, checkpoint_paths, history

SIZES = (10, 15, 20, 25, 30)
MAX_MEM = "512MB"
N_UPDATES = N_CHECKPOINTS - 1
_SVD_COPIES = 4.5  # the matrix, LAPACK's copy, V as LAPACK's and as numpy's
_SHARE_OF_MEMORY = 0.8
Floats = NDArray[np.float64]
Updates = NDArray[np.floating[Any]]


def ours(run: str, archive: str) -> dict[str, Any]:
    """Ingest, sweep, windows; seconds of each."""
    start = time.perf_counter()
    ingest_run(Path(run), Path(archive), workers=1, max_mem=MAX_MEM)
    ingested = time.perf_counter()
    gram_sweep(Path(archive), workers=1, max_mem=MAX_MEM)
    swept = time.perf_counter()
    sigmas = sigmas_of_windows(Path(archive), SIZES, MAX_MEM)
    end = time.perf_counter()
    times = {"ingest": ingested - start, "sweep": swept - ingested, "windows": end - swept, "all": end - start}
    return {**times, "sigma": {size: values.tolist() for size, values in sigmas.items()}}


def from_archive(archive: str) -> dict[str, Any]:
    """Sweep and windows of an archive without Gram matrices: its memory apart from that of ingest."""
    start = time.perf_counter()
    gram_sweep(Path(archive), workers=1, max_mem=MAX_MEM)
    sigmas_of_windows(Path(archive), SIZES, MAX_MEM)
    return {"all": time.perf_counter() - start}


def naive(run: str, size: int, first: int, vectors: bool) -> dict[str, Any]:
    """One window by a singular value decomposition."""
    start = time.perf_counter()
    updates = read_updates(Path(run), first, size)
    if vectors:
        sigma = np.linalg.svd(updates, full_matrices=False)[1]
    else:
        sigma = np.linalg.svd(updates, compute_uv=False)
    return {"all": time.perf_counter() - start, "sigma": sigma.tolist()}


def one_gram_per_window(run: str, size: int, first: int) -> dict[str, Any]:
    """One window by its own Gram matrix."""
    start = time.perf_counter()
    updates = read_updates(Path(run), first, size)
    sigma = np.sqrt(np.linalg.eigvalsh(updates @ updates.T)[::-1])
    return {"all": time.perf_counter() - start, "sigma": sigma.tolist()}


def pairwise_dots(run: str) -> dict[str, Any]:
    """All windows from dots of every pair of float32 updates, converted for each dot."""
    return _in_memory(run, _dots, np.float32)


def pairwise_dots_of_float64(run: str) -> dict[str, Any]:
    """All windows from dots of every pair of float64 updates."""
    return _in_memory(run, _dots, np.float64)


def _dots(updates: Updates) -> Floats:
    gram = np.empty((len(updates), len(updates)))
    for i in range(len(updates)):
        row = updates[i].astype(np.float64, copy=False)
        for j in range(i + 1):
            gram[i, j] = gram[j, i] = np.dot(row, updates[j].astype(np.float64, copy=False))
    return gram


def one_product(run: str) -> dict[str, Any]:
    """All windows from one product of all updates."""
    return _in_memory(run, lambda updates: updates @ updates.T, np.float64)


def _in_memory(run: str, products: Callable[[Updates], Floats], dtype: type[np.floating[Any]]) -> dict[str, Any]:
    start = time.perf_counter()
    gram = products(read_updates(Path(run), 0, N_UPDATES, dtype))
    sigma = {
        size: [
            np.sqrt(np.linalg.eigvalsh(gram[first : first + size, first : first + size])[::-1]).tolist()
            for first in range(N_UPDATES - size + 1)
        ]
        for size in SIZES
    }
    return {"all": time.perf_counter() - start, "sigma": sigma}


def read_updates(run: Path, first: int, n_updates: int, dtype: type[np.floating[Any]] = np.float64) -> Updates:
    """Updates (n_updates, p) from the files, each file read once and no more held than is needed."""
    paths = checkpoint_paths(run)[first : first + n_updates + 1]
    before = _read_flat(paths[0], dtype)
    updates = np.empty((n_updates, len(before)), dtype)
    for at, path in enumerate(paths[1:]):
        now = _read_flat(path, dtype)
        np.subtract(now, before, out=updates[at])
        before = now
    return updates


def _read_flat(path: Path, dtype: type[np.floating[Any]]) -> Updates:
    state = load_file(path)
    return np.concatenate([state[name].ravel() for name in sorted(state)], dtype=dtype)


def starts(size: int) -> list[int]:
    """First updates of the windows that are timed: first, middle, last."""
    last = N_UPDATES - size
    return [0, last // 2, last]


def vectors_fit(n_parameters: int, size: int) -> bool:
    """Whether a decomposition with vectors has room in memory."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _page_cache()
    return _SVD_COPIES * size * n_parameters * 8 < _SHARE_OF_MEMORY * available


def _page_cache() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Cached:"))


class Race:
    """All variants in turn, and what they took."""

    def __init__(self, run: Path, archive: Path, n_parameters: int) -> None:
        self._run, self._archive, self._n_parameters = run, archive, n_parameters
        self.taken: dict[str, list[Fresh]] = {}

    def go(self) -> None:
        for at in range(ROUNDS):
            remove(self._archive)
            self._one("ours", ours, archive=self._archive)
            drop_grams(self._archive)
            warm(self._archive)
            self._one("from archive", from_archive, archive=self._archive, files=False)
            self._one("pairwise dots", pairwise_dots, tolerance=1e-4)
            self._one("pairwise dots of float64", pairwise_dots_of_float64)
            self._one("one product", one_product)
            for size in SIZES:
                window: dict[str, Any] = {"size": size, "first": starts(size)[at]}
                self._one(f"one Gram per window, {size}", one_gram_per_window, **window)
                self._one(f"singular values alone, {size}", naive, **window, vectors=False)
                if vectors_fit(self._n_parameters, size):
                    self._one(f"naive, {size}", naive, **window, vectors=True)

    def _one(
        self,
        name: str,
        function: Callable[..., dict[str, Any]],
        files: bool = True,
        tolerance: float = 1e-9,
        **arguments: Any,
    ) -> None:
        if files:
            warm(self._run)
            arguments["run"] = self._run
        done = fresh(function, **arguments)
        self._check(done, arguments, tolerance)
        self.taken.setdefault(name, []).append(done)
        print(f"  {name}: {done.result['all']:.2f} s, {done.peak / 1e6:.0f} MB", flush=True)

    def _check(self, done: Fresh, arguments: dict[str, Any], tolerance: float) -> None:
        """Every way must find the singular values that ours found."""
        sigma = done.result.get("sigma")
        if sigma is None or "ours" not in self.taken:
            return
        expected = self.taken["ours"][0].result["sigma"]
        if isinstance(sigma, list):
            sigma = {str(arguments["size"]): [sigma]}
            expected = {size: [expected[size][arguments["first"]]] for size in sigma}
        for size, values in sigma.items():
            np.testing.assert_allclose(values, expected[size], rtol=tolerance)

    def median(self, name: str, part: str = "all") -> float:
        return float(statistics.median(done.result[part] for done in self.taken[name]))

    def peak(self, name: str) -> int:
        return max(done.peak for done in self.taken[name])

    def all_windows(self, name: str) -> float:
        """Time of all windows, from that of the three that were timed for each size."""
        total = 0.0
        for size in SIZES:
            known = f"{name}, {size}" if f"{name}, {size}" in self.taken else f"singular values alone, {size}"
            total += self.median(known) * (N_UPDATES - size + 1)
        return total


def claims_of(race: Race) -> list[Claim]:
    """Claims of both readings: with the ingest of the files, and from an archive that stands."""
    files = race.median("ours")
    archive = race.median("from archive")
    others = {
        "naive SVD of each window (extrapolated)": (race.all_windows("naive"), 100),
        "one Gram per window (extrapolated)": (race.all_windows("one Gram per window"), 20),
        "all in memory, pairwise dots": (race.median("pairwise dots"), 10),
        "all in memory, one product": (race.median("one product"), 1),
    }
    stages = ", ".join(f"{part} {race.median('ours', part):.2f} s" for part in ("ingest", "sweep", "windows"))
    print(f"\nours: {files:.2f} s from files ({stages}); {archive:.2f} s from the archive")
    claims = []
    for name, (taken, bound) in others.items():
        print(f"{name}: {taken:.1f} s")
        claims.append(Claim(f"{name}: times ours, from files", taken / files, bound, at_least=True))
        claims.append(Claim(f"{name}: times ours, from the archive", taken / archive, bound, at_least=True))
    for name in ("singular values alone of each window (extrapolated)", "all in memory, pairwise dots of float64"):
        taken = race.median("pairwise dots of float64") if "dots" in name else race.all_windows("singular values alone")
        claims.append(Claim(f"{name}: times ours, from files", taken / files))
        claims.append(Claim(f"{name}: times ours, from the archive", taken / archive))
    mine = max(race.peak("ours"), race.peak("from archive"))
    for name in ("one product", "pairwise dots"):
        print(f"peak memory: ours {mine / 1e6:.0f} MB, {name} {race.peak(name) / 1e6:.0f} MB")
        claims.append(Claim(f"peak memory: ours in that of all in memory, {name}", mine / race.peak(name), 0.1))
    return claims


def measured(given: Settings) -> list[Claim]:
    shape = QUICK if given.quick else FULL
    run = history(given.folder, shape)
    archive = given.folder / "rolling.zarr"
    race = Race(run, archive, shape.n_parameters)
    race.go()
    claims = claims_of(race)
    drop_grams(archive)
    explain_unmet(claims, {"the Gram sweep": lambda: gram_sweep(archive, 1, MAX_MEM)})
    remove(archive)
    explain_unmet(claims, {"ingest": lambda: ingest_run(run, archive, 1, MAX_MEM)})
    remove(archive)
    return claims


if __name__ == "__main__":
    options = settings(__doc__)
    report(measured(options), options)
