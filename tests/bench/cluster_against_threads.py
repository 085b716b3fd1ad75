"""Sweeps on a local Dask cluster take at most 1.4 times the wall time of as many threads, and give the same bits.

Two workers, one BLAS thread each, the archive in the page cache. The start of the cluster is timed apart (processes,
and the modules that a worker imports), and counted in beside it: it is the same for a short history and a long one.
"""

import hashlib
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from engine import drop_grams, new_archive, open_anatomy, wanted_spectra
from measure import Claim, Settings, in_turn, report, seconds, settings, warm
from workload import FULL, QUICK, history

from sedarchive.archive import Archive
from sedarchive.cluster import sweep_executor
from sedarchive.executor import Executor, one_blas_thread
from sedarchive.sizes import parse_size
from sedarchive.sweeps.gram_sweep import sweep_gram
from sedarchive.sweeps.spectra_sweep import SpectraOptions, sweep_spectra
from sedarchive.sweeps.stored_grams import GramOptions

WORKERS = 2
MAX_MEM = parse_size("2GB")
FIRST_CHUNK = range(8)
"""Checkpoints whose spectra are taken: those of one chunk."""
PLACES = ("threads", "cluster")
Digests = dict[str, str]


class Cluster:
    """A local cluster that is started and ended by the clock."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.executor = Executor(WORKERS)

    def start(self) -> None:
        self.executor = self._stack.enter_context(sweep_executor("local", Executor(WORKERS)))
        list(self.executor.map(_import_sweeps, range(8 * WORKERS)))

    def end(self) -> None:
        self._stack.close()


def _import_sweeps(_: int) -> None:
    import sedarchive.sweeps.gram_sweep
    import sedarchive.sweeps.spectra_sweep  # noqa: F401


def gram(archive: Path, executor: Executor, digests: Digests) -> float:
    drop_grams(archive)
    opened = Archive(archive)
    parts = open_anatomy(archive)

    def sweep() -> None:
        with one_blas_thread(), opened.writing("compute") as store:
            sweep_gram(parts, store, GramOptions(MAX_MEM), executor)

    taken = seconds(sweep)
    stored = hashlib.sha256()
    for path in sorted((parts.run.folder / "gram").glob("*/*/c/**/*")):
        stored.update(path.read_bytes() if path.is_file() else b"")
    _same(digests, "Gram matrices", stored.hexdigest())
    return taken


def spectra(archive: Path, executor: Executor, digests: Digests) -> float:
    parts = open_anatomy(archive)
    found = hashlib.sha256()

    def sweep() -> None:
        wanted = wanted_spectra(parts, FIRST_CHUNK)
        with one_blas_thread():
            for portion in sweep_spectra(parts, wanted, SpectraOptions(MAX_MEM), executor):
                for one in portion:
                    assert one.spectrum is not None
                    found.update(one.spectrum.sigma.tobytes())

    taken = seconds(sweep)
    _same(digests, "spectra", found.hexdigest())
    return taken


def _same(digests: Digests, what: str, found: str) -> None:
    if digests.setdefault(what, found) != found:
        raise RuntimeError(f"{what} differ")


def measured(given: Settings) -> list[Claim]:
    archive = new_archive(history(given.folder, QUICK if given.quick else FULL), given.folder)
    warm(archive)
    cluster, threads, digests = Cluster(), Executor(WORKERS), Digests()
    on_cluster: dict[str, Callable[[], float]] = {
        "start": lambda: seconds(cluster.start),
        "Gram sweep, cluster": lambda: gram(archive, cluster.executor, digests),
        "spectra, cluster": lambda: spectra(archive, cluster.executor, digests),
        "end": lambda: seconds(cluster.end),
    }
    taken = in_turn(
        {
            "Gram sweep, threads": partial(gram, archive, threads, digests),
            "spectra, threads": partial(spectra, archive, threads, digests),
            **on_cluster,
        }
    )
    print(f"the same bits every time: {', '.join(digests)}")
    both = {place: sum(taken[f"{sweep}, {place}"] for sweep in ("Gram sweep", "spectra")) for place in PLACES}
    return [
        Claim("both sweeps, local cluster over threads, its start apart", both["cluster"] / both["threads"], 1.4),
        *(
            Claim(f"  {sweep} alone", taken[f"{sweep}, cluster"] / taken[f"{sweep}, threads"], 1.4)
            for sweep in ("Gram sweep", "spectra")
        ),
        Claim("with start and end", sum(taken[name] for name in on_cluster) / both["threads"]),
        Claim("start and end of the cluster, seconds", taken["start"] + taken["end"]),
    ]


if __name__ == "__main__":
    options = settings(__doc__)
    report(measured(options), options)
