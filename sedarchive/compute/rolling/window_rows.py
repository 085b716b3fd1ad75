"""Rows of windows and updates: pure arrays to columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.nulls.noise import noise_levels
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


def window_columns(series: WindowSeries, p_eff: float, history: ScopeHistory) -> Columns:
    """Rows of ``windows`` for one scope and window size, without the sampled null."""
    size, last = series.window_size, series.last_update
    first = history.steps[last - size + 1]
    spans = _Spans(history, last, size)
    return {
        "step": history.steps[last + 1],
        "step_first": first,
        "step_centre": (first + history.steps[last + 1]) / 2,
        **{name: getattr(series, name) for name in _FLOATS},
        **{name: _rank(getattr(series, name)) for name in _RANKS},
        **noise_columns(series, p_eff, history.n_elements),
        **turning_columns(series),
        **adiabatic_columns(series, history.logged),
        "p_eff": np.full(len(last), p_eff),
        "irregular": spans.irregular,
        "status": spans.status(series.status),
    }


def sigma_columns(series: WindowSeries, history: ScopeHistory) -> Columns:
    """Rows of ``window_sigmas`` for one scope and window size, without the sampled null."""
    n_windows, size = series.sigma.shape
    step = history.steps[series.last_update + 1]
    spans = _Spans(history, series.last_update, size)
    status = np.where(series.sigma_status == "nonfinite", spans.status(series.status)[:, None], series.sigma_status)
    return {
        "step": np.repeat(step, size),
        "k": np.tile(np.arange(1, size + 1), n_windows),
        "sigma": series.sigma.ravel(),
        "ratio": series.ratio.ravel(),
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


def _rank(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Ranks with 0, for none, as NaN."""
    return np.where(values > 0, values, np.nan)


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
