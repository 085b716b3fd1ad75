"""Windows of every scope into their tables, from stored Gram matrices alone."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.nulls.bands import NullBands
from sedarchive.nulls.noise import NoiseOverlaps, noise_levels
from sedarchive.rolling.logged import Logged
from sedarchive.rolling.turning import turning
from sedarchive.rolling.windows import UpdateSeries, WindowSeries

Columns = dict[str, NDArray[Any]]
_FLOATS = (
    *("edge_ratio", "gap", "mp_edge", "bbp_ratio", "edge_ratio_unit", "pc1_share", "drift_speed", "drift_along"),
    *("residual_speed", "align_last", "subspace_angle", "subspace_angle_dk", "gram_change_operator"),
    *("gram_change_positional", "gram_change_proxy", "adiabatic_free"),
)
_RANKS = (
    *("edge_k", "signal_rank", "signal_rank_mp", "signal_rank_argmax", "signal_rank_weighted", "k95"),
    *("unresolved_from", "edge_k_unit"),
)
"""Columns of ``windows`` that are fields of :class:`WindowSeries`; of the latter 0 means none."""


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
    logged: Logged
    """Rates and losses of the run."""
    n_elements: int
    """Parameters of the scope."""
    incomplete: bool = False
    """Whether a tensor of the scope was left out, since it cannot be read."""

    @property
    def irregular(self) -> NDArray[np.bool_]:
        """Whether update i spans another number of steps than the one before it (T - 1,); False for the first."""
        spacing = np.diff(self.steps)
        return np.concatenate([[False], spacing[1:] != spacing[:-1]])[: len(spacing)]


@dataclass(frozen=True)
class UnitNull:
    """Null of updates of equal norms; NaN if it was not asked for."""

    edge_ratio: float
    """Median of the largest ratio."""
    edge_ratio_high: float
    """Its 95 % quantile."""
    overlaps: NoiseOverlaps

    @classmethod
    def unknown(cls, size: int) -> "UnitNull":
        """Return the null of windows of ``size`` updates for which none was asked."""
        none = np.full(size, np.nan)
        return cls(np.nan, np.nan, NoiseOverlaps(none, none))


@dataclass(frozen=True)
class WindowNulls:
    """Null of every window of one scope and size."""

    bands: NullBands
    unit: UnitNull
    p_eff: float


def unknown_bands(n_windows: int, size: int) -> NullBands:
    """Return the bands of windows whose null was not asked for: NaN, which becomes NULL."""
    shapes = {"sigma_null": (size,), "ratio_null_low": (size - 1,), "ratio_null_high": (size - 1,)}
    return NullBands(**{one.name: np.full((n_windows, *shapes.get(one.name, ())), np.nan) for one in fields(NullBands)})


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
    return {
        "step": history.steps[last + 1],
        "step_first": first,
        "step_centre": (first + history.steps[last + 1]) / 2,
        **{name: getattr(series, name) for name in _FLOATS},
        **{name: _rank(getattr(series, name)) for name in _RANKS},
        **noise_columns(series, nulls.p_eff, history.n_elements),
        **turning_columns(series),
        **adiabatic_columns(series, history.logged),
        **null_columns(nulls.bands, nulls.unit),
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
        **ratio_null_columns(nulls.bands, nulls.unit),
        "overlap_previous": series.overlap_previous.ravel(),
        "stability_dk": series.stability_dk.ravel(),
        "stability_split": series.stability_split.ravel(),
        "stability_proxy": series.stability_proxy.ravel(),
        "gradient_share": series.gradient_share.ravel(),
        "decay_alignment": series.decay_alignment.ravel(),
        "energy_drive": series.energy_drive.ravel(),
        "energy_repulsion": series.energy_repulsion.ravel(),
        "status": status.ravel(),
    }


def noise_columns(series: WindowSeries, p_eff: float, n_elements: int) -> Columns:
    """Columns of ``windows`` that say what pure noise gives for edge and threshold."""
    n_windows, size = series.sigma.shape
    noise = noise_levels(size, p_eff, n_elements)
    resolved = np.isfinite(series.sigma).any(axis=1)
    root_mean_square = np.sqrt(np.where(resolved, np.nansum(series.sigma**2, axis=1), np.nan) / size)
    above = (series.sigma >= series.mp_edge[:, None]).sum(axis=1)
    return {
        "noise_level": series.noise,
        "mp_edge_noise": noise.mp_edge * root_mean_square,
        "above_mp": np.where(np.isnan(series.mp_edge), np.nan, above),
        "above_mp_noise": np.full(n_windows, noise.above_mp),
        "bbp_ratio_noise": np.full(n_windows, noise.bbp_ratio),
    }


def turning_columns(series: WindowSeries) -> Columns:
    """Columns of ``windows`` that follow v_1 from window to window."""
    gamma = series.overlap_previous[:, 0]
    angle, total = turning(gamma)
    return {"gamma": gamma, "kappa": 1.0 - gamma, "turning": angle, "turning_total": total}


def adiabatic_columns(series: WindowSeries, logged: Logged) -> Columns:
    """Columns of ``windows`` that need a learning rate: the rates themselves, and the adiabatic parameter by both."""
    last = series.last_update
    lr, lr_sum = logged.lr[last + 1], logged.lr_sum[last]
    return {
        "lr": lr,
        "lr_sum": lr_sum,
        "adiabatic_step": _over(series.adiabatic_free, lr),
        "adiabatic_interval": _over(series.adiabatic_free, lr_sum),
    }


def _over(values: NDArray[np.float64], rate: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return values over a rate, NaN where it is 0 or unknown."""
    quotient: NDArray[np.float64] = np.divide(values, rate, out=np.full(len(values), np.nan), where=rate > 0)
    return quotient


def null_columns(bands: NullBands, unit: UnitNull) -> Columns:
    """Columns of ``windows`` that hold the null."""
    own = {name: getattr(bands, name) for name in ("edge_ratio_null", "edge_ratio_null_high", "edge_ratio_p")}
    n_windows = len(bands.edge_ratio_null)
    equal = {"edge_ratio_unit_null": unit.edge_ratio, "edge_ratio_unit_null_high": unit.edge_ratio_high}
    return own | {name: np.full(n_windows, value) for name, value in equal.items()}


def ratio_null_columns(bands: NullBands, unit: UnitNull) -> Columns:
    """Columns of ``window_sigmas`` that hold the null, a value for each window and k."""
    n_windows, size = bands.sigma_null.shape
    overlaps = {"overlap_null": unit.overlaps.median, "overlap_null_high": unit.overlaps.high}
    ratios = {name: _padded(getattr(bands, name), size).ravel() for name in ("ratio_null_low", "ratio_null_high")}
    repeated = {name: np.tile(values, n_windows) for name, values in overlaps.items()}
    return {"sigma_null": bands.sigma_null.ravel(), **ratios, **repeated}


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
