"""Windows of every scope into their tables, from stored Gram matrices alone."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.audit import Evidence, marked
from sedarchive.leaves import Scope
from sedarchive.nulls import NullBands
from sedarchive.sweeps.anatomy import Anatomy
from sedarchive.windows import UpdateSeries, WindowSeries

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ScopeHistory:
    """What the rows of one scope need to know of its history, by checkpoint."""

    steps: NDArray[np.int64]
    """(T,)."""
    absent: NDArray[np.bool_]
    """Whether some tensor of the scope is missing (T,)."""
    dtype_border: NDArray[np.bool_]
    """Whether some tensor of the scope changed its dtype from checkpoint i to i + 1 (T - 1,)."""
    duplicate: NDArray[np.bool_]
    """Whether some tensor of the scope holds the bytes of another step (T,)."""
    suspect: NDArray[np.bool_]
    """Whether the audit doubts that the checkpoint is of this step (T,)."""
    incomplete: bool = False
    """Whether a tensor of the scope was left out, since it cannot be read."""

    @property
    def irregular(self) -> NDArray[np.bool_]:
        """Whether update i spans another number of steps than the one before it (T - 1,); False for the first."""
        spacing = np.diff(self.steps)
        return np.concatenate([[False], spacing[1:] != spacing[:-1]])[: len(spacing)]


@dataclass(frozen=True)
class WindowNulls:
    """Null of every window of one scope and size."""

    bands: NullBands
    p_eff: float


def unknown_bands(n_windows: int, size: int) -> NullBands:
    """Return the bands of windows whose null was not asked for: NaN, which becomes NULL."""
    shapes = {"sigma_null": (size,), "ratio_null_low": (size - 1,), "ratio_null_high": (size - 1,)}
    return NullBands(**{one.name: np.full((n_windows, *shapes.get(one.name, ())), np.nan) for one in fields(NullBands)})


def scope_history(anatomy: Anatomy, scope: Scope, audit: Sequence[Evidence] = ()) -> ScopeHistory:
    """Steps, absences, dtype borders of a scope, and its checkpoints that the audit has marked."""
    n_steps = len(anatomy.run.commits)
    absent, border = np.zeros(n_steps, dtype=bool), np.zeros(max(n_steps - 1, 0), dtype=bool)
    for name in dict.fromkeys(leaf.tensor for leaf in scope.leaves):
        tensor = anatomy.tensors[name]
        absent |= ~np.isin(np.arange(n_steps), tensor.positions)
        if len(tensor.arrays) > 1:
            stored = [commit.tensors.get(tensor.tensor) for commit in anatomy.run.commits]
            known = anatomy.run.arrays
            dtypes = np.array([known[entry.array].spec.dtype if entry else "" for entry in stored])
            border |= dtypes[1:] != dtypes[:-1]
    tensors = frozenset(anatomy.tensors[leaf.tensor].tensor for leaf in scope.leaves)
    duplicate, suspect = marked(audit, "duplicate", tensors, n_steps), marked(audit, "suspect", tensors, n_steps)
    steps = np.array(anatomy.run.steps, dtype=np.int64)
    return ScopeHistory(steps, absent, border, duplicate, suspect, scope.incomplete)


def update_columns(series: UpdateSeries, history: ScopeHistory) -> Columns:
    """Rows of ``updates`` for one scope."""
    n_updates = len(series.norm)
    spans = _Spans(history, np.arange(n_updates), 1)
    return {
        "step": history.steps[1:],
        "norm": series.norm,
        "cos_previous": series.cos_previous,
        "zero_fraction": np.where(series.status == "nonfinite", np.nan, series.zero_fraction),
        "quantization_noise": series.quantization_noise,
        "status": spans.status(series.status),
    }


def window_columns(series: WindowSeries, nulls: WindowNulls, history: ScopeHistory) -> Columns:
    """Rows of ``windows`` for one scope and window size."""
    size, last = series.window_size, series.last_update
    first = history.steps[last - size + 1]
    spans = _Spans(history, last, size)
    floats = ("edge_ratio", "gap", "mp_edge", "bbp_ratio", "pc1_share", "drift_speed", "adiabatic_free")
    changes = ("gram_change_operator", "gram_change_positional", "gram_change_proxy")
    ranks = ("edge_k", "signal_rank", "signal_rank_mp", "signal_rank_argmax", "signal_rank_weighted", "k95")
    return {
        "step": history.steps[last + 1],
        "step_first": first,
        "step_centre": (first + history.steps[last + 1]) / 2,
        **{name: getattr(series, name) for name in floats + changes},
        **{name: _rank(getattr(series, name)) for name in ranks},
        **null_columns(nulls.bands),
        "p_eff": np.full(len(last), nulls.p_eff),
        "irregular": spans.irregular,
        "status": spans.status(series.status),
    }


def sigma_columns(series: WindowSeries, nulls: WindowNulls, history: ScopeHistory) -> Columns:
    """Rows of ``window_sigmas`` for one scope and window size."""
    n_windows, size = series.sigma.shape
    step = history.steps[series.last_update + 1]
    spans = _Spans(history, series.last_update, size)
    status = np.where(series.sigma_status == "nonfinite", spans.status(series.status)[:, None], series.sigma_status)
    return {
        "step": np.repeat(step, size),
        "k": np.tile(np.arange(1, size + 1), n_windows),
        "sigma": series.sigma.ravel(),
        "ratio": series.ratio.ravel(),
        **ratio_null_columns(nulls.bands, size),
        "overlap_previous": series.overlap_previous.ravel(),
        "stability_dk": series.stability_dk.ravel(),
        "stability_split": series.stability_split.ravel(),
        "status": status.ravel(),
    }


def null_columns(bands: NullBands) -> Columns:
    """Columns of ``windows`` that hold the null."""
    return {name: getattr(bands, name) for name in ("edge_ratio_null", "edge_ratio_null_high", "edge_ratio_p")}


def ratio_null_columns(bands: NullBands, size: int) -> Columns:
    """Columns of ``window_sigmas`` that hold the null, a value for each window and k."""
    ratios = {name: _padded(getattr(bands, name), size).ravel() for name in ("ratio_null_low", "ratio_null_high")}
    return {"sigma_null": bands.sigma_null.ravel(), **ratios}


def _rank(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ranks with 0, for none, as NaN."""
    return np.where(values > 0, values, np.nan)


def _padded(ratios: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Ratios (n, W - 1) with a last column of NaN, since sigma_W has no successor."""
    return np.concatenate([ratios, np.full((len(ratios), size - ratios.shape[1]), np.nan)], axis=1)


class _Spans:
    """What lies inside windows of ``size`` updates that end at the updates ``last``."""

    def __init__(self, history: ScopeHistory, last: NDArray[np.int64], size: int) -> None:
        self.absent = _any_inside(history.absent, last - size + 1, size + 1)
        self.border = _any_inside(history.dtype_border, last - size + 1, size)
        self.duplicate = _any_inside(history.duplicate, last - size + 1, size + 1)
        self.suspect = _any_inside(history.suspect, last - size + 1, size + 1)
        # the first update of a window has no predecessor in it
        self.irregular = _any_inside(history.irregular, last - size + 2, size - 1)
        self.incomplete = np.full(len(last), history.incomplete)

    def status(self, numeric: NDArray[np.str_]) -> NDArray[np.str_]:
        """Status of each window: the gravest of what the numbers and the history say."""
        grave = np.isin(numeric, ["nonfinite", "zero"])
        causes: dict[str, NDArray[np.bool_]] = {
            "incomplete": self.incomplete,
            "duplicate": self.duplicate,
            "suspect": self.suspect,
            "dtype_changed": self.border,
            "unresolved": numeric == "unresolved",
            "irregular": self.irregular,
        }
        names: list[Any] = ["absent", numeric, *causes]
        return np.select([self.absent, grave, *causes.values()], names, "ok")


def _any_inside(flags: NDArray[np.bool_], start: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    """Whether any of ``length`` flags from each start is set."""
    total = np.concatenate([[0], np.cumsum(flags)])
    return np.asarray(total[start + length] > total[start])


def concatenated(parts: Sequence[Columns]) -> Columns:
    """Columns of several parts, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
