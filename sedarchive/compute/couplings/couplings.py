"""Brings the table of couplings up to date: it follows from the window tables and the logs alone."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from sedarchive.compute.couplings.coupling_inputs import input_keys, read_inputs
from sedarchive.compute.couplings.coupling_rows import Columns
from sedarchive.compute.couplings.coupling_scans import MEASURES, by_columns, coupling_tasks
from sedarchive.compute.keyed import KeyedRows, Owned, Pair
from sedarchive.compute.stages import Stage
from sedarchive.compute.turns import Turns
from sedarchive.digests import canonical_digest
from sedarchive.inference.surrogates import DRAWS
from sedarchive.tables import Database

ALGORITHM = "couplings-5"


def keyed_couplings(run: str) -> KeyedRows:
    """Rows of ``couplings`` of one run; all window sizes of a scope are searched together."""
    options = json.dumps({"draws": DRAWS, "seed": 0})
    return KeyedRows(run, "couplings", ALGORITHM, (Owned("couplings", ("scope",), "measure", MEASURES),), options)


def wanted_couplings(database: Database, run: str, sizes: Sequence[int]) -> dict[Pair, str]:
    """Keys of what should stand, by scope: a hash of its windows and the logs."""
    inputs = input_keys(database, run, sizes)
    return {(scope, None): canonical_digest([ALGORITHM, key])[:16] for scope, key in inputs.items()}


def coupling_stages(run: str, steps: Sequence[int], sizes: Sequence[int], turns: Turns) -> list[Stage[Any]]:
    """Stages that derive the couplings of a run anew; none if what they follow from is unchanged.

    Parameters
    ----------
    run, steps
        The run, and the steps of its checkpoints.
    sizes
        Window sizes whose couplings are wanted.
    turns
        Turns at the database.
    """
    started = datetime.now(UTC)
    keyed = keyed_couplings(run)
    work = keyed.outstanding(turns.database, wanted_couplings(turns.database, run, sizes))
    if not work:
        return []
    inputs = read_inputs(turns.database, run, steps, sizes, sorted(scope for scope, _ in work.keys if scope))
    tasks = coupling_tasks(inputs)

    def write(found: Iterator[list[Columns]]) -> None:
        rows = {"couplings": by_columns(inputs, found)}
        keyed.write(turns.database, work, rows, started)

    windows = len(inputs.scopes) * sum(len(steps) - table.size for table in inputs.sizes)
    return [Stage(tasks, len(tasks), write, windows)]
