"""Figures from the tables; matplotlib is imported only here, when one is drawn."""

import importlib.util
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from sedarchive.errors import MissingExtraError, NothingMatchedError
from sedarchive.recipes import known_values, shortened
from sedarchive.tables import Database
from sedarchive.words import counted, did_you_mean

_EDGE = "#0072b2"  # blue and vermillion of the Okabe-Ito palette: told apart by all readers
_METRIC = "#d55e00"
_NULL = "#999999"
_WIDTH = 6.75
"""Inches: two columns of a paper."""
_FEW = 40
"""Windows up to which each is marked by a point."""


SUFFIXES = (".png", ".pdf", ".svg", ".eps", ".jpg", ".jpeg", ".tif", ".tiff", ".webp")
"""Of the files that a figure is written to."""


def check_suffix(path: Path) -> None:
    """Refuse a file whose suffix is no format of figures.

    Raises
    ------
    ValueError
        Naming the suffixes that work.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a figure needs one of the suffixes {', '.join(SUFFIXES)}")


def draw_edge(
    database: Database,
    path: Path,
    window_size: int = 10,
    scope: str = "all",
    metric: str = "val_acc",
    metric_needed: bool = False,
) -> list[str]:
    """Edge ratio over steps, beside its null, with a logged metric: one panel a run.

    The ratio is max_k sigma_k / sigma_{k+1} of a window of updates, drawn at the
    step of the window's last update; the grey line is the 95 % bound of the sampled null.

    Parameters
    ----------
    database : Database
        The tables.
    path : Path
        File to write; its suffix, one of :data:`SUFFIXES`, is the format.
    window_size, scope
        The windows drawn.
    metric : str
        Name of the metric in the logs.
    metric_needed : bool
        Whether a figure of runs none of which has the metric is refused.

    Returns
    -------
    list of str
        Lines for people: on runs without such windows, on runs whose windows have no ratio, and on runs that have no
        such metric, with those that they have.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    NothingMatchedError
        If there are no windows of that size and scope, or no run has a metric that is needed.
    ValueError
        If the suffix is none of those.
    """
    check_suffix(path)
    series = _series(database, window_size, scope)
    logged = {run: _logged(database, run, metric) for run in series}
    missing = [run for run, rows in logged.items() if not rows]
    lines = _left_out(database, series, window_size, scope) + _without_metric(database, missing, metric)
    if metric_needed and len(missing) == len(series):
        raise NothingMatchedError("\n".join(lines))
    figure, axes = _panels(len(series))
    for axis, (run, rows) in zip(axes, series.items(), strict=True):
        _draw_ratio(axis, run, rows)
        if why := _why_empty(database, run, window_size, scope):
            lines.append(f"{run}: its panel is empty: {why}")
            axis.text(0.5, 0.5, why, transform=axis.transAxes, ha="center", va="center", color=_NULL)
        others = _draw_metric(axis, metric, logged[run])
        lines_shown = [*axis.get_lines(), *others]
        axis.legend(handles=lines_shown, loc="lower right", bbox_to_anchor=(1, 1), ncols=len(lines_shown), fontsize=7)
    _begin_at_one(axes)
    axes[-1].xaxis.get_major_locator().set_params(integer=True)
    axes[-1].set_xlabel("optimizer step (windows: last update)")
    figure.suptitle(f"Edge ratio of windows of {window_size} updates, scope {scope}", fontsize=10)
    figure.savefig(path, dpi=200)
    _close(figure)
    return lines


def require_matplotlib() -> None:
    """Refuse to begin what ends in a figure.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError("figures need matplotlib: pip install 'sedarchive[plot]'")


def _series(database: Database, window_size: int, scope: str) -> dict[str, list[Any]]:
    """Rows (step, edge ratio, bound of the null) by run."""
    sql = (
        "SELECT step, edge_ratio, edge_ratio_null_high FROM windows "
        "WHERE run = ? AND window_size = ? AND scope = ? ORDER BY step"
    )
    runs = [run for (run,) in database.rows("SELECT run FROM runs ORDER BY run").rows]
    series = {run: database.rows(sql, [run, window_size, scope]).rows for run in runs}
    series = {run: rows for run, rows in series.items() if rows}
    if not series:
        sizes, scopes = (known_values(database.connection, name) for name in ("window_size", "scope"))
        near = did_you_mean(scope, scopes) if scope not in scopes else ""
        raise NothingMatchedError(
            f"{database.path}: no windows of {window_size} updates for scope {scope!r}{near}; "
            f"window sizes: {shortened(sizes)}; scopes: {shortened(scopes)}"
        )
    return series


def _left_out(database: Database, drawn: Collection[str], window_size: int, scope: str) -> list[str]:
    """A line on each run without such windows."""
    runs = database.rows("SELECT run, n_checkpoints FROM runs ORDER BY run").rows
    return [
        f"{run}: left out: no windows of {window_size} updates for scope {scope} "
        f"(it has {counted(n_checkpoints, 'checkpoint')})"
        for run, n_checkpoints in runs
        if run not in drawn
    ]


def _why_empty(database: Database, run: str, window_size: int, scope: str) -> str:
    """Why no window of a run has a ratio; empty where one has."""
    sql = (
        "SELECT status, count(edge_ratio), count(*) FROM windows "
        "WHERE run = ? AND window_size = ? AND scope = ? GROUP BY status ORDER BY count(*) DESC"
    )
    found = database.rows(sql, [run, window_size, scope]).rows
    if any(n_ratios for _, n_ratios, _ in found):
        return ""
    parts = (f"{counted(n_windows, 'window')} with status {status}" for status, _, n_windows in found)
    return f"no edge ratio: {', '.join(parts)}"


def _logged(database: Database, run: str, metric: str) -> list[Any]:
    """Rows (step, value) of one metric."""
    return database.rows("SELECT step, value FROM metrics WHERE run = ? AND name = ? ORDER BY step", [run, metric]).rows


def _without_metric(database: Database, runs: list[str], metric: str) -> list[str]:
    """A line on all runs whose logs hold the same other metrics."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        names = database.rows("SELECT DISTINCT name FROM metrics WHERE run = ? ORDER BY name", [run]).rows
        alike.setdefault(tuple(name for (name,) in names), []).append(run)
    return [
        f"{shortened(members)}: no metric {metric!r} is logged{did_you_mean(metric, names)}; "
        f"what is: {shortened(names)}"
        for names, members in alike.items()
    ]


def _panels(n_panels: int) -> tuple[Any, list[Any]]:
    pyplot = _pyplot()
    figure, axes = pyplot.subplots(
        n_panels,
        1,
        figsize=(_WIDTH, 0.6 + 2.2 * n_panels),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    return figure, list(axes[:, 0])


def _pyplot() -> Any:
    require_matplotlib()
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update(
        {
            "pdf.fonttype": 42,
            "font.size": 8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
    )
    from matplotlib import pyplot

    return pyplot


def _close(figure: Any) -> None:
    _pyplot().close(figure)


def _draw_ratio(axis: Any, run: str, rows: list[Any]) -> None:
    steps, ratio, null = zip(*rows, strict=True)
    marker = "o" if len(rows) <= _FEW else ""
    if any(value is not None for value in null):
        axis.plot(steps, _numbers(null), color=_NULL, linewidth=1, linestyle="--", label="95 % bound of the null")
    axis.plot(steps, _numbers(ratio), color=_EDGE, linewidth=1.4, marker=marker, markersize=3, label="edge ratio")
    axis.set_ylabel("edge ratio", color=_EDGE)
    axis.set_title(run, loc="left", fontsize=9)


def _begin_at_one(axes: Sequence[Any]) -> None:
    """Let the common scale begin at a ratio of 1, once all runs are drawn: set before, it holds for the rest."""
    highest = axes[0].get_ylim()[1]
    if highest > 1:
        axes[0].set_ylim(1, highest)


def _draw_metric(axis: Any, metric: str, rows: list[Any]) -> list[Any]:
    """Draw a metric on an axis of its own, if it is logged; returned is its line."""
    if not rows:
        return []
    other = axis.twinx()
    lines: list[Any] = other.plot(*zip(*rows, strict=True), color=_METRIC, linewidth=1, label=metric)
    if metric.endswith("_acc"):
        other.set_ylim(-0.03, 1.03)
    other.set_ylabel(metric, color=_METRIC)
    other.spines["right"].set_visible(True)
    return lines


def _numbers(values: tuple[float | None, ...]) -> list[float]:
    return [float("nan") if value is None else value for value in values]
