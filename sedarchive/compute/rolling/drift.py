"""Brings drift and its principal components up to date, from stored Gram matrices alone."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sedarchive.compute.keyed import KeyedRows, Owned, Pair
from sedarchive.compute.rolling.drift_rows import scope_rows
from sedarchive.compute.rolling.histories import scope_history
from sedarchive.compute.rolling.window_rows import Columns, concatenated
from sedarchive.compute.rolling.windows import WindowSource
from sedarchive.compute.stages import Stage
from sedarchive.compute.turns import Turns
from sedarchive.digests import canonical_digest
from sedarchive.executor import Progress
from sedarchive.leaves import Scope
from sedarchive.nulls.drifts import DRAWS, SEED

ALGORITHM = "drift-1"
TABLES = ("drift", "components")


def drift_stages(source: WindowSource, scopes: Sequence[Scope], turns: Turns, progress: Progress) -> list[Stage[Any]]:
    """Stages that bring a run's rows of ``drift`` and ``components`` up to date; none if they stand."""
    run, started = source.anatomy.run.name, datetime.now(UTC)
    keyed = KeyedRows(run, "drift", ALGORITHM, tuple(Owned(table, by=("scope",)) for table in TABLES))
    work = keyed.outstanding(turns.database, {_pair(scope): _key(source, scope) for scope in scopes})
    if not work:
        return []
    todo = [scope for scope in scopes if _pair(scope) in work.keys]

    def write(found: Iterator[dict[str, Columns]]) -> None:
        parts: list[dict[str, Columns]] = []
        for part in found:
            parts.append(part)
            progress(f"drift {run}", len(parts), len(todo))
        rows = {table: [concatenated([part[table] for part in parts])] for table in TABLES}
        keyed.write(turns.database, work, rows, started, source.stored.key)

    windows = len(todo) * len(source.anatomy.run.commits)
    return [Stage(_jobs(source, todo), len(todo), write, windows, source.stored.matrix_bytes)]


def _jobs(source: WindowSource, scopes: Sequence[Scope]) -> Iterator[partial[dict[str, Columns]]]:
    """What makes the rows of each scope."""
    evidence = source.audit.evidence if scopes else ()
    for batch in source.stored.in_batches(scopes):
        for scope, gram in batch:
            history = scope_history(source.anatomy, scope, evidence, source.logged)
            yield partial(scope_rows, scope.name, gram, history)


def _pair(scope: Scope) -> Pair:
    return scope.name, None


def _key(source: WindowSource, scope: Scope) -> str:
    """Hash of everything that the rows of a scope follow from."""
    leaves = [leaf.name for leaf in scope.leaves]
    return canonical_digest([ALGORITHM, DRAWS, SEED, source.stored.key, leaves])[:16]
