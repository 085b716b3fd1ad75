"""Brings the fits of windows up to date: they follow from the tables of windows and the validation loss."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from functools import partial

import numpy as np
from numpy.typing import NDArray

from sedarchive.archive.records import canonical_digest
from sedarchive.compute.inference.flow_rows import FITS, GapWindows, flow_rows, has_flow_null, other_rows
from sedarchive.compute.keyed import KeyedRows, Owned, Pair
from sedarchive.compute.rolling.window_tables import StandingWindows, read_windows, window_keys
from sedarchive.compute.row_columns import Row, columns_of
from sedarchive.compute.turns import Turns
from sedarchive.executor import Executor
from sedarchive.inference.gapflow import RandomHistory
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


def refresh_fits(
    run: str, val_loss: Mapping[int, float], sizes: Collection[int], turns: Turns, executor: Executor
) -> int:
    """Derive the fits of a run's windows that are missing or stale; return how many (scope, size) pairs were.

    Parameters
    ----------
    run
        The run.
    val_loss
        Validation loss by step, NaN where unknown.
    sizes
        Window sizes that were asked for: beside their flows stands a null.
    turns, executor
        Turns at the database; runs the fits.
    """
    started = datetime.now(UTC)
    keyed = keyed_fits(run)
    work = keyed.outstanding(turns.database, wanted_fits(turns.database, run))
    if not work:
        return 0
    standing = read_windows(turns.database, run, work.pairs, _COLUMNS, _SIGMA_COLUMNS)
    turns.end()
    # long work first, and like beside like: of a batch that runs at once, none waits for the longest
    standing.sort(key=lambda one: (_has_null(one, sizes), one.size), reverse=True)
    found = executor.map(partial(_fits_of, val_loss, sizes), standing)
    rows = [row for rows in found for row in rows]
    keyed.write(turns.database, work, {"fits": [columns_of(rows)]}, started)
    return len(work.keys)


def _fits_of(val_loss: Mapping[int, float], sizes: Collection[int], standing: StandingWindows) -> list[Row]:
    """All fits of the windows of one scope and size."""
    step = standing.windows["step"]
    windows = GapWindows(step, standing.sigmas["sigma"], standing.windows["signal_rank"])
    history = RandomHistory(standing.norms, standing.p_eff)
    flows = flow_rows(windows, history, _has_null(standing, sizes))
    loss = np.array([val_loss[at] for at in step.tolist()])
    rows = flows + other_rows(windows, standing.sigmas["overlap_previous"], loss)
    return [{"scope": standing.scope, "window_size": standing.size} | row for row in rows]


def _has_null(standing: StandingWindows, sizes: Collection[int]) -> bool:
    """Whether a null of the gap's flow is sampled, which takes most of the time."""
    return standing.size in sizes and has_flow_null(standing.scope)
