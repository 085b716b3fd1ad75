"""Peak memory is at most --max-mem + 200 MB (350 MB where torch is loaded), and 0 to 20 % below what the plan projects.

ru_maxrss of fresh processes for ingest (safetensors, ``.pt`` in both formats) and both sweeps, with ``--max-mem`` 512MB
and 2GB and as many workers as there are cores, and of the whole ``compute`` command. Two more histories, whose blocks
are cut by 512MB: a long one of a small model, and two checkpoints of GPT-2 124M. What a plan projects is working
memory, interpreter and libraries apart; it is held against the peak less what was resident when the sweep began.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.threaded  # noqa: F401  # a library, so resident before a sweep begins
from engine import drop_grams, gram_sweep, ingest_run, new_archive, open_anatomy, spectra_sweep, wanted_spectra
from measure import Claim, Fresh, Settings, current_memory, fresh, remove, report, settings
from workload import FULL, GPT2, GPT2_QUICK, LONG, QUICK, history, torch_copy

from sedarchive.cli.app import app
from sedarchive.errors import MemoryBudgetError
from sedarchive.sizes import parse_size
from sedarchive.sweeps.gram_sweep import plan_gram_sweep
from sedarchive.sweeps.spectra_sweep import plan_spectra_sweep
from sedarchive.sweeps.stored_grams import GramOptions

LIMITS = ("512MB", "2GB")
WORKERS = len(os.sched_getaffinity(0))
N_TORCH = 8
MB = 10**6


def ingest_alone(run: str, archive: str, max_mem: str) -> dict[str, Any]:
    before = current_memory()
    ingest_run(Path(run), Path(archive), WORKERS, max_mem)
    return {"before": before, "torch": "torch" in sys.modules}


def gram_alone(archive: str, max_mem: str) -> dict[str, Any]:
    parts = open_anatomy(Path(archive))
    tensors = sorted({leaf.tensor for leaf in parts.leaves})
    return _sweep_alone(
        lambda: plan_gram_sweep(parts, tensors, GramOptions(parse_size(max_mem)), WORKERS).projected_mem,
        lambda: gram_sweep(Path(archive), WORKERS, max_mem),
    )


def spectra_alone(archive: str, max_mem: str) -> dict[str, Any]:
    parts = open_anatomy(Path(archive))
    return _sweep_alone(
        lambda: plan_spectra_sweep(parts, wanted_spectra(parts, None), parse_size(max_mem), WORKERS).projected_mem,
        lambda: spectra_sweep(Path(archive), WORKERS, None, max_mem),
    )


def _sweep_alone(project: Callable[[], int], sweep: Callable[[], object]) -> dict[str, Any]:
    try:
        projected = project()
    except MemoryBudgetError as error:
        return {"refused": str(error)}
    before = current_memory()
    sweep()
    return {"before": before, "torch": "torch" in sys.modules, "projected": projected}


def compute_command(archive: str, database: str, max_mem: str) -> dict[str, Any]:
    before = current_memory()
    options = ["--archive", archive, "--db", database, "--workers", str(WORKERS), "--max-mem", max_mem, "--quiet"]
    app(["compute", "--window", "10", *options], standalone_mode=False)
    return {"before": before, "torch": "torch" in sys.modules}


def claims_of(name: str, max_mem: str, done: Fresh) -> list[Claim]:
    """Peak over the limit, in MB (NaN where the plan was refused); the projection in what was used, if there is one."""
    if "refused" in done.result:
        print(f"  {name}, --max-mem {max_mem}: refused: {done.result['refused']}", flush=True)
        return [Claim(f"{name}, --max-mem {max_mem}: MB beyond it", float("nan"), 200)]
    beyond = (done.peak - parse_size(max_mem)) / MB
    told = f"peak {done.peak / MB:.0f} MB, of which {done.result['before'] / MB:.0f} MB before it began"
    allowed = 350 if done.result["torch"] else 200
    claims = [Claim(f"{name}, --max-mem {max_mem}: MB beyond it", beyond, allowed)]
    if "projected" in done.result:
        used = done.peak - done.result["before"]
        ratio = done.result["projected"] / used
        told += f"; projected {done.result['projected'] / MB:.0f} MB, used {used / MB:.0f} MB"
        claims.append(Claim(f"{name}, --max-mem {max_mem}: projected in used memory, at least", ratio, 1.0, True))
        claims.append(Claim(f"{name}, --max-mem {max_mem}: projected in used memory, at most", ratio, 1.2))
    print(f"  {name}, --max-mem {max_mem}: {told}; torch loaded: {done.result['torch']}", flush=True)
    return claims


class Measuring:
    """Ingest and sweeps of one history under one limit."""

    def __init__(self, folder: Path, run: Path, archive: Path, max_mem: str) -> None:
        self._folder, self._run, self._archive, self._max_mem = folder, run, archive, max_mem

    def ingest(self, source: Path | None = None, kind: str = "safetensors") -> list[Claim]:
        target = self._folder / "ingested.zarr"
        remove(target)
        done = fresh(ingest_alone, run=source or self._run, archive=target, max_mem=self._max_mem)
        remove(target)
        return claims_of(f"{self._run.name}: ingest of {kind}", self._max_mem, done)

    def sweep(self, name: str, function: Callable[..., dict[str, Any]], **arguments: Any) -> list[Claim]:
        drop_grams(self._archive)
        done = fresh(function, archive=self._archive, max_mem=self._max_mem, **arguments)
        return claims_of(f"{self._run.name}: {name}", self._max_mem, done)

    def compute(self) -> list[Claim]:
        database = self._folder / "peak.duckdb"
        database.unlink(missing_ok=True)
        claims = self.sweep("compute", compute_command, database=database)
        database.unlink()
        return claims


def measured(given: Settings) -> list[Claim]:
    folder = given.folder
    run = history(folder, QUICK if given.quick else FULL)
    long = history(folder, LONG, 120 if given.quick else 320)
    wide = history(folder, GPT2_QUICK if given.quick else GPT2, 2)
    formats = {f".pt {kind}": torch_copy(folder, run, N_TORCH, legacy=kind == "legacy") for kind in ("zip", "legacy")}
    archives = {one: new_archive(one, folder) for one in (run, long, wide)}
    claims: list[Claim] = []
    for max_mem in LIMITS:
        of_run, of_long, of_wide = (Measuring(folder, one, archive, max_mem) for one, archive in archives.items())
        claims += of_run.ingest()
        for kind, source in formats.items():
            claims += of_run.ingest(source, kind)
        claims += of_run.sweep("Gram sweep", gram_alone) + of_run.sweep("spectra sweep", spectra_alone)
        claims += of_run.compute()
        claims += of_long.ingest() + of_long.sweep("Gram sweep", gram_alone)
        claims += of_wide.ingest() + of_wide.sweep("spectra sweep", spectra_alone)
    return claims


if __name__ == "__main__":
    options = settings(__doc__)
    report(measured(options), options)
