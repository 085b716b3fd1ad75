"""Every benchmark, one after the other, and one table of all claims at the end.

Run: ``python tests/bench/run_all.py [--folder F] [--quick]``. At full size it takes about an hour on two cores, and
30 GB of disk; histories and archives stay in the folder for the next time. Nothing else should run beside it.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import Claim, Settings, print_table, settings

BENCHMARKS = (
    "gram_sweep_at_the_limit",
    "spectra_of_gpt2_shapes",
    "matrix_metrics",
    "ingest_against_cp",
    "two_workers",
    "peak_memory",
    "twelve_layers",
    "inference",
    "cluster_against_threads",
    "rolling_spectra",
)


def run_one(name: str, given: Settings) -> list[Claim]:
    """Claims of one benchmark, in a process of its own; none if it fails."""
    with tempfile.NamedTemporaryFile(suffix=".json") as claims:
        options = ["--folder", str(given.folder), "--json", claims.name, *(["--quick"] if given.quick else [])]
        code = _run(name, options)
        written = Path(claims.name).read_text()
    return [] if code or not written else [Claim(**content) for content in json.loads(written)]


def _run(name: str, options: list[str]) -> int:
    print(f"\n=== {name}", flush=True)
    start = time.perf_counter()
    code = subprocess.run([sys.executable, str(Path(__file__).with_name(f"{name}.py")), *options]).returncode
    print(f"=== {name}: {time.perf_counter() - start:.0f} s", flush=True)
    return code


def main() -> int:
    given = settings(__doc__)
    found = {name: run_one(name, given) for name in BENCHMARKS}
    claims = [claim for of_one in found.values() for claim in of_one]
    print_table(claims)
    failed = [name for name, of_one in found.items() if not of_one]
    unmet = sum(not claim.met for claim in claims)
    print(f"{unmet} of {sum(claim.bound is not None for claim in claims)} claims not met; failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
