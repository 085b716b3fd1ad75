"""Figures from the tables; matplotlib is imported only here, when one is drawn."""

from pathlib import Path
from typing import Any

from sedarchive.errors import MissingExtraError, NothingMatchedError
from sedarchive.tables import Database

_EDGE = "#0072b2"  # blue and vermillion of the Okabe-Ito palette: told apart by all readers
_METRIC = "#d55e00"
_NULL = "#999999"
_WIDTH = 6.75
"""Inches: two columns of a paper."""


def draw_edge(
    database: Database, path: Path, window_size: int = 10, scope: str = "all", metric: str = "val_acc"
) -> None:
    """Edge ratio over steps, beside its null, with a logged metric: one panel a run.

    The ratio is max_k sigma_k / sigma_{k+1} of a window of updates, drawn at the
    step of the window's last update; the grey line is the 95 % bound of the sampled null.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    NothingMatchedError
        If there are no windows of that size and scope.
    """
    sql = (
        "SELECT step, edge_ratio, edge_ratio_null_high FROM windows "
        "WHERE run = ? AND window_size = ? AND scope = ? ORDER BY step"
    )
    runs = [run for (run,) in database.rows("SELECT run FROM runs ORDER BY run").rows]
    series = {run: database.rows(sql, [run, window_size, scope]).rows for run in runs}
    series = {run: rows for run, rows in series.items() if rows}
    if not series:
        raise NothingMatchedError(f"{database.path}: no windows of {window_size} updates for scope {scope!r}")
    figure, axes = _panels(len(series))
    for axis, (run, rows) in zip(axes, series.items(), strict=True):
        _draw_ratio(axis, run, rows)
        logged = database.rows(
            "SELECT step, value FROM metrics WHERE run = ? AND name = ? ORDER BY step", [run, metric]
        )
        _draw_metric(axis, metric, logged.rows)
    axes[-1].set_xlabel("optimizer step (windows: last update)")
    figure.suptitle(f"Edge ratio of windows of {window_size} updates, scope {scope}", fontsize=10)
    figure.savefig(path, dpi=200)
    _close(figure)


def _panels(n_panels: int) -> tuple[Any, list[Any]]:
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        n_panels, 1, figsize=(_WIDTH, 0.6 + 2.2 * n_panels), sharex=True, squeeze=False, layout="constrained"
    )
    return figure, list(axes[:, 0])


def _pyplot() -> Any:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise MissingExtraError("figures need matplotlib: pip install 'sedarchive[plot]'") from error
    mpl.use("Agg")
    mpl.rcParams.update({"pdf.fonttype": 42, "font.size": 8, "axes.spines.top": False, "legend.frameon": False})
    from matplotlib import pyplot

    return pyplot


def _close(figure: Any) -> None:
    _pyplot().close(figure)


def _draw_ratio(axis: Any, run: str, rows: list[Any]) -> None:
    steps, ratio, null = zip(*rows, strict=True)
    axis.plot(steps, _numbers(null), color=_NULL, linewidth=1, linestyle="--", label="95 % bound of the null")
    axis.plot(steps, _numbers(ratio), color=_EDGE, linewidth=1.4, label="edge ratio")
    axis.set_ylabel("edge ratio", color=_EDGE)
    axis.set_title(run, loc="left", fontsize=9)
    axis.set_ylim(bottom=1)
    axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=7)


def _draw_metric(axis: Any, metric: str, rows: list[Any]) -> None:
    if not rows:
        return
    other = axis.twinx()
    other.plot(*zip(*rows, strict=True), color=_METRIC, linewidth=1)
    if metric.endswith("_acc"):
        other.set_ylim(-0.03, 1.03)
    other.set_ylabel(metric, color=_METRIC)
    other.spines["right"].set_visible(True)


def _numbers(values: tuple[float | None, ...]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
