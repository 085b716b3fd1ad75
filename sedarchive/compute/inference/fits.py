"""Brings the fits of windows up to date: they follow from the tables of windows and the validation loss."""

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.inference.flow_rows import FITS, fit_rows, has_flow_null
from sedarchive.compute.keyed import KeyedRows, Owned, Pair
from sedarchive.compute.rolling.standing import StandingWindows
from sedarchive.compute.rolling.window_tables import read_windows, window_keys
from sedarchive.compute.row_columns import Row, columns_of
from sedarchive.compute.stages import Stage
from sedarchive.compute.turns import Turns
from sedarchive.digests import canonical_digest
from sedarchive.tables import Database

ALGORITHM = "fits-2"
Floats = NDArray[np.float64]
_COLUMNS = ("step", "signal_rank", "p_eff")
_SIGMA_COLUMNS = ("sigma", "overlap_previous")


def keyed_fits(run: str) -> KeyedRows:
    """Rows of ``fits`` that belong to the windows of one scope and size."""
    return KeyedRows(run, "fits", ALGORITHM, (Owned("fits", kind="fit", kinds=FITS),))


def wanted_fits(database: Database, run: str) -> dict[Pair, str]:
    """Keys of the fits of all windows that stand; those of windows know logs and null."""
    return {pair: canonical_digest([ALGORITHM, key])[:16] for pair, key in window_keys(database, run).items()}


def fit_stages(run: str, val_loss: Mapping[int, float], sizes: Collection[int], turns: Turns) -> list[Stage[Any]]:
    """Stages that derive the fits of a run's windows that are missing or stale; none if all stand.

    Parameters
    ----------
    run
        The run.
    val_loss
        Validation loss by step, NaN where unknown.
    sizes
        Window sizes that were asked for: beside their flows stands a null.
    turns
        Turns at the database.
    """
    started = datetime.now(UTC)
    keyed = keyed_fits(run)
    work = keyed.outstanding(turns.database, wanted_fits(turns.database, run))
    if not work:
        return []
    standing = read_windows(turns.database, run, work.pairs, _COLUMNS, _SIGMA_COLUMNS)
    # long work first, and like beside like: of a batch that runs at once, none waits for the longest
    standing.sort(key=lambda one: (_has_null(one, sizes), one.size), reverse=True)

    def write(found: Iterator[list[Row]]) -> None:
        rows = [row for rows in found for row in rows]
        keyed.write(turns.database, work, {"fits": [columns_of(rows)]}, started)

    windows = sum(len(one.windows["step"]) for one in standing)
    tasks = [partial(fit_rows, val_loss, one, _has_null(one, sizes)) for one in standing]
    return [Stage(tasks, len(tasks), write, windows)]


def _has_null(standing: StandingWindows, sizes: Collection[int]) -> bool:
    """Whether a null of the gap's flow is sampled, which takes most of the time."""
    return standing.size in sizes and has_flow_null(standing.scope)
