"""Windows and all that is inferred from them, from stored Gram matrices: 400 checkpoints, 12 layers, 20 scopes.

Run: ``python tests/bench/inference.py``. The archive is that of ``twelve_layers.py``; the tables begin empty, so that
catalog, audit, windows of five sizes with their sampled nulls, fits, phases, events and couplings are all in the time.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from measure import Claim, Settings, explain_unmet, in_turn, report, seconds, settings
from twelve_layers import history_of_twelve_layers

from sedarchive.compute import requests
from sedarchive.compute.options import ComputeOptions
from sedarchive.compute.refresh import compute

WINDOWS = (5, 10, 15, 20, 25)
LONGER = (10, 15, 20, 25, 30)
"""The time grows with the cube of the longest window: for information."""
ROLES = ("query", "key", "value", "output")
OPTIONS = ComputeOptions(windows=WINDOWS, scopes=tuple(f"role:{role}" for role in ROLES), spectra=False, workers=2)
"""With all, trunk, attention, mlp and twelve layers these are 20 scopes; windows of 30 updates come without null."""
BOUND = 30.0


def whole_tables(root: Path, options: ComputeOptions) -> float:
    """Time of one compute into a new database, imports apart."""
    database = root / "inference.duckdb"
    for old in (database, database.with_name(f"{database.name}.wal")):
        old.unlink(missing_ok=True)

    def run() -> None:
        [done] = compute(root / "archive.zarr", database, options)
        assert done.error is None

    taken = seconds(run)
    database.unlink()
    return taken


def of_asked_sizes(root: Path, options: ComputeOptions) -> float:
    """As :func:`whole_tables`, of the sizes that are asked for alone."""
    with mock.patch.object(requests, "DEFAULT_WINDOWS", options.windows):
        return whole_tables(root, options)


def eigenvalues_microseconds() -> float:
    """What the clock of the machine gives just now: eigenvalues of one 25 x 25 matrix, of which this takes 300,000."""
    drawn = np.random.default_rng(0).standard_normal((3000, 25, 50))
    matrices = drawn @ drawn.transpose(0, 2, 1)
    return seconds(lambda: np.linalg.eigvalsh(matrices)) / len(matrices) * 1e6


def claims(root: Path, given: Settings) -> list[Claim]:
    """What the whole takes, and what of it are the windows with their nulls."""
    whole = partial(whole_tables, root, OPTIONS)
    five = partial(of_asked_sizes, root, OPTIONS)
    windows = partial(whole_tables, root, replace(OPTIONS, inference=False))
    longer = partial(whole_tables, root, replace(OPTIONS, windows=LONGER))
    one_worker = partial(whole_tables, root, replace(OPTIONS, workers=1))
    variants = {
        "five sizes": five,
        "as a user runs it": whole,
        "windows alone": windows,
        "10 to 30": longer,
        "one worker": one_worker,
    }
    taken = in_turn(variants, rounds=1 if given.quick else 3)
    bound = None if given.quick else BOUND
    found = [
        Claim("windows of 5 to 25 and all inference, 20 scopes, s", taken["five sizes"], bound),
        Claim("the same with windows of 30, which are always made, without null, s", taken["as a user runs it"]),
        Claim("of it windows with their nulls, s", taken["windows alone"]),
        Claim("windows of 10 to 30 and all inference, 20 scopes, s", taken["10 to 30"]),
        Claim("windows of 5 to 25 and 30, one worker, s", taken["one worker"]),
        Claim("eigenvalues of one 25 x 25 matrix beside them, us", eigenvalues_microseconds()),
    ]
    explain_unmet(found, {"five sizes": five})
    return found


def main() -> None:
    given = settings(__doc__)
    root = history_of_twelve_layers(given)
    whole_tables(root, replace(OPTIONS, windows=(), inference=False))  # the first one sweeps the weights
    report(claims(root, given), given)


if __name__ == "__main__":
    main()
