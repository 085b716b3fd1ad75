"""Reads windows as they stand in the tables."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.keyed import ScopeSize
from sedarchive.compute.rolling.standing import StandingWindows
from sedarchive.tables import Database

Floats = NDArray[np.float64]


def window_keys(database: Database, run: str) -> dict[ScopeSize, str]:
    """Keys of all windows of a run that stand."""
    sql = (
        "SELECT scope, window_size, key FROM computations "
        "WHERE run = ? AND table_name = 'windows' AND window_size > 1 ORDER BY ALL"
    )
    return {(scope, size): key for scope, size, key in database.rows(sql, [run]).rows}


def read_windows(
    database: Database, run: str, pairs: Iterable[ScopeSize], columns: Sequence[str], sigma_columns: Sequence[str] = ()
) -> list[StandingWindows]:
    """Read the windows of some scopes and sizes that stand: a query for each size and table.

    Parameters
    ----------
    database, run, pairs
        Where, of which run, and which.
    columns, sigma_columns
        Columns of ``windows`` and of ``window_sigmas`` that are wanted, all of them numbers.
    """
    scopes_of: dict[int, list[str]] = {}
    for scope, size in pairs:
        scopes_of.setdefault(size, []).append(scope)
    norms = _norms(database, run) if scopes_of else {}
    found = []
    for size, scopes in scopes_of.items():
        of_windows = _by_scope(database, run, ("windows", "step"), columns, (size, scopes))
        of_sigmas = _by_scope(database, run, ("window_sigmas", "step, k"), sigma_columns, (size, scopes))
        for scope in scopes:
            sigmas = {name: values.reshape(-1, size) for name, values in of_sigmas.get(scope, {}).items()}
            found.append(StandingWindows(scope, size, norms[scope], of_windows[scope], sigmas))
    return found


def _norms(database: Database, run: str) -> dict[str, Floats]:
    rows = database.rows("SELECT scope, list(norm ORDER BY step) FROM updates WHERE run = ? GROUP BY scope", [run]).rows
    return {scope: np.array(norms, dtype=np.float64) for scope, norms in rows}


def _by_scope(
    database: Database,
    run: str,
    table: tuple[str, str],
    columns: Sequence[str],
    wanted: tuple[int, list[str]],
) -> dict[str, dict[str, NDArray[Any]]]:
    """Columns of a table, and its order, by scope; ``wanted`` is a window size and scopes."""
    if not columns:
        return {}
    name, order = table
    where = f"FROM {name} WHERE run = ? AND window_size = ? AND list_contains(?, scope)"
    parameters = [run, *wanted]
    counts = database.rows(f"SELECT scope, count(*) {where} GROUP BY scope ORDER BY scope", parameters).rows
    ends = np.cumsum([count for _, count in counts])[:-1]
    arrays = database.arrays(f"SELECT {', '.join(columns)} {where} ORDER BY scope, {order}", parameters)
    parts = {column: np.split(values, ends) for column, values in arrays.items()}
    return {scope: {column: parts[column][at] for column in columns} for at, (scope, _) in enumerate(counts)}
