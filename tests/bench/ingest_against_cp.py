"""Ingest runs at 0.85 of the speed of ``cp -r`` at least, digests and checksums included, and takes no more disk.

Both copy the same files, from the page cache, to the same disk into a folder that does not exist, and end with a sync
that is timed. Ingest with as many workers as there are cores, as the command does, and with one. Size on disk is what
the files occupy (blocks), of float32 without a codec and of a bfloat16 copy of the history with ``lz4``.
"""

import os
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from engine import ingest_run
from measure import Claim, Settings, disk_bytes, explain_unmet, in_turn, remove, report, seconds, settings, warm
from workload import FULL, QUICK, bfloat16_copy, history


def copied(run: Path, target: Path) -> float:
    """Seconds of ``cp -r`` and a sync."""
    remove(target)
    warm(run)
    return seconds(partial(subprocess.run, ["cp", "-r", str(run), str(target)], check=True), os.sync)


def ingested(run: Path, target: Path, workers: int) -> float:
    """Seconds of ingest and a sync."""
    remove(target)
    warm(run)
    return seconds(partial(ingest_run, run, target, workers), os.sync)


def speed_claims(run: Path, folder: Path) -> list[Claim]:
    cores = len(os.sched_getaffinity(0))
    target, archive = folder / "copy", folder / "ingested.zarr"
    variants: dict[str, Callable[[], float]] = {
        "cp -r": partial(copied, run, target),
        f"ingest, {cores} workers": partial(ingested, run, archive, cores),
        "ingest, one worker": partial(ingested, run, archive, 1),
    }
    print(f"\n{disk_bytes(run) / 1e9:.2f} GB of float32", flush=True)
    taken = in_turn(variants)
    copy, all_cores, one = taken.values()
    claims = [
        Claim(f"speed of ingest in that of cp -r, {cores} workers", copy / all_cores, 0.85, at_least=True),
        Claim("speed of ingest in that of cp -r, one worker", copy / one),
        Claim("size on disk in that of the source, float32", disk_bytes(archive) / disk_bytes(run), 1.01),
    ]
    remove(target)
    remove(archive)
    explain_unmet(claims, {"ingest with one worker": lambda: ingest_run(run, archive, 1)})
    remove(archive)
    return claims


def bfloat16_claim(run: Path, folder: Path) -> Claim:
    archive = folder / "ingested.zarr"
    remove(archive)
    ingest_run(run, archive, workers=2, codec="lz4")
    ratio = disk_bytes(archive) / disk_bytes(run)
    remove(archive)
    return Claim("size on disk in that of the source, bfloat16 with lz4", ratio, 0.78)


def measured(given: Settings) -> list[Claim]:
    run = history(given.folder, QUICK if given.quick else FULL)
    half = bfloat16_copy(given.folder, run)
    return [*speed_claims(run, given.folder), bfloat16_claim(half, given.folder)]


if __name__ == "__main__":
    options = settings(__doc__)
    report(measured(options), options)
