"""What Weights & Biases leaves: exported tables, and the summary of an offline run."""

from collections.abc import Iterator
from pathlib import Path

from sedarchive.logs.rows import Row, json_rows

SUMMARY = "wandb-summary.json"
_OWN_STEPS = ("step", "trainer/global_step", "train/global_step", "global_step")
_AXES = frozenset({"Step", *_OWN_STEPS})
_BOUNDS = ("__MIN", "__MAX")
_NAMED = 5


def export_columns(names: list[str], run: str) -> list[str]:
    """Names for the columns of a CSV file: those of an export, ``RUN - val_loss`` and its bounds, become the metric's.

    Parameters
    ----------
    names
        The header.
    run
        Name of the run whose values are wanted, where the export holds several.

    Returns
    -------
    list of str
        One a column; "" for those to leave out. Any other header stays as it is, but for the counter ``_step`` where
        the optimizer's own step is beside it.

    Raises
    ------
    ValueError
        If there are several runs and none is called `run`.
    """
    own = any(name in _OWN_STEPS for name in names)
    names = ["" if own and name in ("_step", "Step") else name for name in names]
    runs = dict.fromkeys(name.rpartition(" - ")[0] for name in names if " - " in name)
    if not runs or not any(name in _AXES for name in names):
        return names
    if len(runs) > 1 and run not in runs:
        listed = ", ".join(list(runs)[:_NAMED])
        raise ValueError(f"columns of {len(runs)} runs ({listed}), and none is called {run}: export this run alone")
    chosen = run if run in runs else next(iter(runs))
    return [_column(name, chosen) for name in names]


def _column(name: str, run: str) -> str:
    owner, dash, metric = name.rpartition(" - ")
    if not dash:
        return name
    return metric if owner == run and not metric.endswith(_BOUNDS) and metric not in _AXES | {"_step"} else ""


def summary_rows(path: Path) -> Iterator[Row | None]:
    """The one row of a run's summary.

    It holds the last value of each metric, whenever that was logged, so the names say ``summary/``: a validation loss
    that is older than the last step must not pass for that step's.
    """
    for row in json_rows(path):
        steps = (*_OWN_STEPS, "_step")
        own = {name: value for name, value in (row or {}).items() if name in steps}
        yield own | {f"summary/{name}": value for name, value in (row or {}).items() if not name.startswith("_")}
