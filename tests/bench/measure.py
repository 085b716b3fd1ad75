"""What the benchmarks share: where they ran, medians in turn, memory of fresh processes, the table of claims.

Run as a script, this module is the fresh process: it calls one function of one benchmark and prints what it returned
together with the largest resident memory of the process.
"""

import argparse
import importlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROUNDS = 3
MIB = 2**20
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_PACKAGES = ("sedarchive", "numpy", "zarr", "dask", "duckdb", "torch", "safetensors")
_ASK_BLAS = """
import numpy, threadpoolctl, torch
for one in threadpoolctl.threadpool_info():
    print(one["internal_api"], one["version"], one.get("architecture"), one["num_threads"], "thread", end="; ")
print("torch with MKL" if torch.backends.mkl.is_available() else "torch without MKL", torch.get_num_threads(), "thread")
"""
_WAITING = ("threading.py", "selectors.py", "queue.py", "thread.py", "base_events.py", "measure.py")


@dataclass(frozen=True)
class Settings:
    """How a benchmark was asked to run."""

    folder: Path
    quick: bool
    json: Path | None


@dataclass(frozen=True)
class Claim:
    """One number beside what it is held to."""

    text: str
    measured: float
    bound: float | None = None
    """None: for information only."""
    at_least: bool = False
    """Whether the bound is the smallest value allowed; otherwise it is the largest."""

    @property
    def met(self) -> bool:
        if self.bound is None:
            return True
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound


@dataclass(frozen=True)
class Fresh:
    """What a function returned in a process of its own."""

    result: dict[str, Any]
    peak: int
    """Largest resident memory in bytes (ru_maxrss)."""


def settings(description: str | None) -> Settings:
    """Command line of a benchmark; prints where it runs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(tempfile.gettempdir()) / "sedarchive-bench"
    parser.add_argument("--folder", type=Path, default=default, help="where histories and archives are kept")
    parser.add_argument("--quick", action="store_true", help="a tenth of the size, to see that it runs")
    parser.add_argument("--json", type=Path, help="write the claims here too")
    given = parser.parse_args()
    os.environ.update(ONE_THREAD)
    given.folder.mkdir(parents=True, exist_ok=True)
    print((description or "").split("\n", 1)[0])
    print_place(given.folder)
    return Settings(given.folder.resolve(), given.quick, given.json)


def print_place(folder: Path) -> None:
    """Versions, cores, BLAS with its threads, disk."""
    versions = ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    print(f"Python {platform.python_version()}, {versions}")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    print(f"{_processor()}: {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB; load {os.getloadavg()[0]:.1f}")
    print(f"BLAS: {_blas()}")
    print(f"disk: {_filesystem(folder)}, {_disk_rate(folder):.2f} GB/s written and synced", flush=True)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {platform.machine()}"


def _blas() -> str:
    """BLAS of numpy and of torch with their threads, as a benchmark's process has them."""
    done = subprocess.run([sys.executable, "-c", _ASK_BLAS], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def _filesystem(folder: Path) -> str:
    listed = subprocess.run(["df", "-T", str(folder)], capture_output=True, text=True, check=True).stdout.split("\n")[1]
    device, kind = listed.split()[:2]
    return f"{device} {kind}, {shutil.disk_usage(folder).free / 1e9:.0f} GB free"


def _disk_rate(folder: Path) -> float:
    """GB/s of writing 256 MB and syncing."""
    block = os.urandom(MIB)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        start = time.perf_counter()
        for _ in range(256):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return 256 * MIB / 1e9 / (time.perf_counter() - start)


def require_space(folder: Path, n_bytes: int) -> None:
    """End with a message if the disk is too small."""
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        sys.exit(f"{folder}: {n_bytes / 1e9:.0f} GB needed, {free / 1e9:.0f} GB free; give another --folder")


def seconds(*functions: Callable[[], Any]) -> float:
    """Wall time of some calls, one after the other."""
    start = time.perf_counter()
    for function in functions:
        function()
    return time.perf_counter() - start


def in_turn(variants: Mapping[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median of what each variant returns (seconds, mostly): all once, then all again."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, variant in variants.items():
            taken[name].append(variant())
    for name, values in taken.items():
        print(
            f"  {name}: {statistics.median(values):.3f} s (of {', '.join(f'{one:.3f}' for one in values)})", flush=True
        )
    return {name: statistics.median(values) for name, values in taken.items()}


def fresh(function: Callable[..., dict[str, Any]], **arguments: Any) -> Fresh:
    """Call a function of a benchmark in a new process, one BLAS thread.

    A shell stands between, since Linux counts the memory of a process into ru_maxrss of the one that it spawns.
    """
    module = function.__module__ if function.__module__ != "__main__" else Path(sys.argv[0]).stem
    command = [sys.executable, __file__, module, function.__name__, json.dumps(arguments, default=str)]
    between = ["/bin/sh", "-c", '"$@"; exit $?', "sh"]
    done = subprocess.run([*between, *command], capture_output=True, text=True, env=os.environ | ONE_THREAD)
    if done.returncode:
        raise RuntimeError(f"{module}.{function.__name__} ended with {done.returncode}\n{done.stderr}")
    return Fresh(**json.loads(done.stdout.splitlines()[-1]))


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def current_memory() -> int:
    """Resident memory of this process now, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def warm(folder: Path) -> None:
    """Read every file once, so that all that follows finds it in the page cache."""
    buffer = bytearray(8 * MIB)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def disk_bytes(folder: Path) -> int:
    """Bytes that the files below a folder take on the disk."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def remove(folder: Path) -> None:
    """Remove a folder and wait for the disk, so that the next measurement does not pay for it."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()


def report(claims: Sequence[Claim], given: Settings) -> None:
    """Print the table, and write it where asked."""
    print_table(claims)
    if given.json:
        given.json.write_text(json.dumps([asdict(claim) for claim in claims]))


def print_table(claims: Sequence[Claim]) -> None:
    """Claims with what was measured, the bound, and whether it is met."""
    width = max(len(claim.text) for claim in claims)
    print(f"\n{'claim':{width}}  measured      bound  met")
    for claim in claims:
        sign = "" if claim.bound is None else f"{'>=' if claim.at_least else '<='} {claim.bound:.4g}"
        verdict = "" if claim.bound is None else ("yes" if claim.met else "NO")
        print(f"{claim.text:{width}}  {claim.measured:8.4g}  {sign:>9}  {verdict}")
    print(flush=True)


def explain_unmet(claims: Sequence[Claim], functions: Mapping[str, Callable[[], Any]]) -> None:
    """If a claim is not met, show where the time of some functions goes, over all threads."""
    if all(claim.met for claim in claims):
        return
    for name, function in functions.items():
        with sampled() as lines:
            taken = seconds(function)
        total = sum(lines.values()) or 1
        print(f"\nwhere the {taken:.1f} s of {name} go (samples of all busy threads, innermost Python line):")
        for line, count in lines.most_common(16):
            print(f"  {100 * count / total:5.1f} %  {line}")


@contextmanager
def sampled() -> Iterator[Counter[str]]:
    """Count the innermost Python line of every thread that is not waiting, 200 times a second."""
    lines: Counter[str] = Counter()
    end = threading.Event()

    def watch() -> None:
        while not end.wait(0.005):
            for frame in sys._current_frames().values():
                code = frame.f_code
                if not code.co_filename.endswith(_WAITING):
                    place = "/".join(Path(code.co_filename).parts[-3:])
                    lines[f"{place}:{frame.f_lineno} {code.co_name}"] += 1

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lines
    finally:
        end.set()
        watcher.join()


def _child(module: str, function: str, arguments: str) -> None:
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    print(json.dumps(asdict(Fresh(result, peak_memory()))))


if __name__ == "__main__":
    _child(*sys.argv[1:])
