"""Rolling windows of updates and single updates, from the Gram matrix of the updates.

With X the matrix of a window's W updates as rows (Definition 1 of "Spectral Edge Dynamics", arXiv 2603.15678: neither
centred nor normalised), its W x W Gram matrix ``X X^T = U diag(lambda) U^T`` gives the singular values sqrt(lambda_k)
and the right singular vectors ``v_k = X^T u_k / sigma_k``, whose inner products need no p-dimensional work.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.edge import EdgeScalars, edge_scalars, sigma_ratios
from sedarchive.gram import Gram

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Status = NDArray[np.str_]

RESOLUTION = 1e-7
"""Singular values below this part of the largest are rounding of the float64 Gram matrix."""
_BATCH_ENTRIES = 2**18
_STATUS = "<U10"


@dataclass(frozen=True)
class WindowSeries(EdgeScalars):
    """All windows of one size, in order: n windows of W updates. NaN: see the status of the same window and k."""

    window_size: int
    last_update: Counts
    """0-based index of each window's last update (n,): W - 1 .. n_updates - 1."""
    sigma: Floats
    """Singular values (n, W), descending; NaN where unresolved or non-finite."""
    sigma_status: Status
    """(n, W): ok, unresolved (below ``resolution``), nonfinite, or zero (in a window of zero updates only)."""
    ratio: Floats
    """sigma_k / sigma_{k+1} (n, W); the last is NaN."""
    status: Status
    """(n,): ok, unresolved (some sigma is), nonfinite, zero."""
    resolution: Floats
    """Smallest singular value that counts as resolved (n,)."""
    drift_speed: Floats
    """Norm of the mean update (n,)."""
    gram_change_operator: Floats
    """||X^T X - X'^T X'||_F against the window before (n,): sqrt(|new|⁴ + |old|⁴ - 2 <new, old>²)."""
    gram_change_positional: Floats
    """||X X^T - X' X'^T||_F of the W x W Gram matrices by position (n,); no bound on v_k follows from it."""
    gram_change_proxy: Floats
    """sqrt(sum_k (lambda_k - lambda'_k)²) (n,): the authors' proxy, a lower bound of the others."""
    adiabatic_free: Floats
    """gram_change_operator / gap² (n,): the adiabatic parameter without a learning rate."""
    overlap_previous: Floats
    """|<v_k, v'_k>| with the window before (n, W)."""
    stability_dk: Floats
    """Lower bound of ``overlap_previous`` (n, W) after Yu, Wang and Samworth (Biometrika 2015, theorem 2)."""
    stability_split: Floats
    """|<v_k of the first half, v_k of the second half>| (n, W); NaN beyond W // 2 and for W < 4."""

    def __len__(self) -> int:
        return len(self.last_update)


@dataclass(frozen=True)
class UpdateSeries:
    """Every update of one scope, in order (n_updates,)."""

    norm: Floats
    """||delta_i||."""
    cos_previous: Floats
    """Cosine with the update before; NaN for the first, and where either is zero or non-finite."""
    zero_fraction: Floats
    """Share of entries that did not change, 0 to 1."""
    quantization_noise: Floats
    """Rounding energy of both ends of the update over its energy; NaN where the norm is 0."""
    status: Status
    """ok, zero or nonfinite."""


@dataclass(frozen=True)
class _Modes:
    """Eigenpairs of a stack of Gram matrices, descending."""

    energy: Floats
    """lambda_k >= 0 (n, W), 0 where unresolved; NaN in non-finite windows."""
    sigma: Floats
    """sqrt(lambda_k) (n, W); NaN where unresolved or non-finite."""
    vectors: Floats
    """u_k as columns (n, W, W)."""
    status: Status
    """(n, W)."""
    resolution: Floats
    """(n,)."""

    def part(self, windows: slice) -> "_Modes":
        """Return those of some of the windows."""
        return _Modes(**{f.name: getattr(self, f.name)[windows] for f in fields(self)})


def window_series(gram: Gram, window_size: int, n_elements: int) -> WindowSeries:
    """Return every window of `window_size` consecutive updates.

    Parameters
    ----------
    gram
        Gram matrix of the scope, full, or a band of at least `window_size`.
    window_size
        W >= 2, in updates: a window needs W + 1 checkpoints.
    n_elements
        p, the number of parameters of the scope.

    Returns
    -------
    WindowSeries
        n_updates - W + 1 windows, none if the history is too short. Relative error of sigma_k: at most
        1e-9 + 1e-14 (sigma_1 / sigma_k)². A non-finite update spoils the windows that hold it, and the comparison of
        the window after them with its predecessor; no others.

    Raises
    ------
    BandError
        If the stored band is too narrow.
    ValueError
        If `window_size` is below 2.
    """
    if window_size < 2:
        raise ValueError(f"a window of {window_size} updates has no edge; take at least 2")
    n_windows = max(gram.n_updates - window_size + 1, 0)
    per_batch = max(_BATCH_ENTRIES // (window_size + 1) ** 2, 1)
    starts = range(0, max(n_windows, 1), per_batch)
    batches = [_batch(gram, np.arange(i, min(i + per_batch, n_windows)), window_size, n_elements) for i in starts]
    series = {
        f.name: np.concatenate([b[f.name] for b in batches]) for f in fields(WindowSeries) if f.name in batches[0]
    }
    return WindowSeries(window_size=window_size, **series)


def update_series(gram: Gram, zeros: Counts, rounding: Floats, n_elements: int) -> UpdateSeries:
    """Return norms, cosines and the two signs of quantised checkpoints for every update.

    Parameters
    ----------
    gram
        Gram matrix of the scope; a band of at least 1.
    zeros, rounding
        As in :class:`sedarchive.gram.GramSums` (T,), summed over the scope.
    n_elements
        p, the number of parameters of the scope.
    """
    index = np.arange(gram.n_updates)
    energy = gram.products(index, index)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        norm = np.sqrt(energy)
        cosine = np.full(len(index), np.nan)
        cosine[1:] = gram.products(index[1:], index[:-1]) / (norm[1:] * norm[:-1])
        noise = np.where(energy > 0, (rounding[1:] + rounding[:-1]) / energy, np.nan)
    cosine = np.where(np.isfinite(cosine), np.clip(cosine, -1.0, 1.0), np.nan)
    status = np.select([~np.isfinite(norm), norm == 0], ["nonfinite", "zero"], "ok").astype(_STATUS)
    return UpdateSeries(norm, cosine, zeros[1:] / max(n_elements, 1), noise, status)


def _batch(gram: Gram, starts: NDArray[np.intp], size: int, n_elements: int) -> dict[str, NDArray[Any]]:
    """Return the series of the windows that begin at the updates `starts` (consecutive)."""
    inside = np.arange(size)
    before = np.maximum(starts - 1, 0)  # the first window has none; its comparisons are blanked below
    # the furthest products first: a band that is too narrow is refused with the width that is enough
    across = _products(gram, starts, before, inside)
    each = np.concatenate([before[:1], starts])  # every window is also the next one's predecessor
    stack = _products(gram, each, each, inside)
    now, previous, both = stack[1:], stack[:-1], _modes(stack)
    modes, old = both.part(slice(1, None)), both.part(slice(None, -1))
    scalars = edge_scalars(modes.sigma, n_elements)
    change = _operator_change(gram, starts, before, size)
    compared = _compare(modes, old, across, change)
    compared["gram_change_operator"] = change
    compared["gram_change_positional"] = np.sqrt(((now - previous) ** 2).sum(axis=(1, 2)))
    compared["gram_change_proxy"] = np.sqrt(((modes.energy - old.energy) ** 2).sum(axis=1))
    for values in compared.values():
        values[(starts == 0) | (old.status[:, 0] == "nonfinite") | (modes.status[:, 0] == "nonfinite")] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        adiabatic = compared["gram_change_operator"] / scalars.gap**2
    return {
        **{f.name: getattr(scalars, f.name) for f in fields(EdgeScalars)},
        **compared,
        "last_update": (starts + size - 1).astype(np.int64),
        "sigma": modes.sigma,
        "sigma_status": modes.status,
        "ratio": sigma_ratios(modes.sigma),
        "status": _window_status(modes),
        "resolution": modes.resolution,
        "drift_speed": np.sqrt(np.maximum(now.sum(axis=(1, 2)), 0.0)) / size,
        "adiabatic_free": np.where(np.isfinite(adiabatic), adiabatic, np.nan),
        "stability_split": _split_stability(gram, starts, now),
    }


def _products(gram: Gram, first: NDArray[np.intp], second: NDArray[np.intp], inside: NDArray[np.intp]) -> Floats:
    """Return the stacked products (n, W, W) of the windows that begin at `first` and at `second`."""
    return gram.products(first[:, None, None] + inside[:, None], second[:, None, None] + inside)


def _modes(stack: Floats) -> _Modes:
    n_windows, size = stack.shape[:2]
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(stack).all(axis=(1, 2)))
    energy, vectors = np.linalg.eigh(np.where(finite[:, None, None], stack, np.eye(size)))
    energy, vectors = np.maximum(energy[:, ::-1], 0.0), vectors[:, :, ::-1]
    largest = np.where(np.diagonal(stack, axis1=1, axis2=2).max(axis=1, initial=0.0) == 0, 0.0, energy[:, 0])
    zero = (largest == 0) & finite
    resolved = (energy > RESOLUTION**2 * largest[:, None]) & (finite & ~zero)[:, None]
    status = np.full((n_windows, size), "unresolved", dtype=_STATUS)
    status[resolved], status[zero], status[~finite] = "ok", "zero", "nonfinite"
    energy = np.where(resolved, energy, np.where(finite[:, None], 0.0, np.nan))
    sigma = np.where(resolved | zero[:, None], np.sqrt(energy), np.nan)
    return _Modes(energy, sigma, vectors, status, np.where(finite, RESOLUTION * np.sqrt(largest), np.nan))


def _window_status(modes: _Modes) -> Status:
    whole = np.isin(modes.status[:, 0], ["nonfinite", "zero"])
    partly = np.where((modes.status == "unresolved").any(axis=1), "unresolved", "ok")
    return np.where(whole, modes.status[:, 0], partly).astype(_STATUS)


def _operator_change(gram: Gram, starts: NDArray[np.intp], before: NDArray[np.intp], size: int) -> Floats:
    """Return ||new new^T - old old^T||_F (n,): consecutive windows differ by one update in and one out."""
    new, old = starts + size - 1, before
    new2, old2, both = gram.products(new, new), gram.products(old, old), gram.products(new, old)
    # (a - b)² + 2 (ab - c²) keeps its precision where the two updates are alike
    square = (new2 - old2) ** 2 + 2.0 * np.maximum(new2 * old2 - both**2, 0.0)
    change: Floats = np.sqrt(square)
    return change


def _compare(modes: _Modes, old: _Modes, across: Floats, change: Floats) -> dict[str, Floats]:
    """Return the overlaps of v_k with the window before, and the bound on them."""
    nearest = _eigenvalue_gaps(modes.energy)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sine = 2.0 * change[:, None] / nearest
        bound = np.sqrt(np.maximum(1.0 - sine**2, 0.0))
    bound = np.where(nearest > 0, bound, 0.0)
    return {
        "overlap_previous": _overlaps(modes, old, across),
        "stability_dk": np.where(modes.status == "ok", bound, np.nan),
    }


def _eigenvalue_gaps(energy: Floats) -> Floats:
    """Return the distance (n, W) of lambda_k to the nearest other one, lambda_{W+1} = 0 counted."""
    below: Floats = energy - np.concatenate([energy[:, 1:], np.zeros_like(energy[:, :1])], axis=1)
    above = np.concatenate([np.full_like(energy[:, :1], np.inf), below[:, :-1]], axis=1)
    nearest: Floats = np.minimum(below, above)
    return nearest


def _overlaps(first: _Modes, second: _Modes, across: Floats) -> Floats:
    """Return |<v_k, w_k>| (n, W) of two stacks, `across` the products of their updates; NaN where unresolved."""
    ok = (first.status == "ok") & (second.status == "ok")
    with np.errstate(invalid="ignore"):
        projected = (first.vectors * (np.nan_to_num(across) @ second.vectors)).sum(axis=1)
    scale = np.where(ok, first.sigma * second.sigma, 1.0)
    return np.where(ok, np.minimum(np.abs(projected) / scale, 1.0), np.nan)


def _split_stability(gram: Gram, starts: NDArray[np.intp], stack: Floats) -> Floats:
    """Return |<v_k, w_k>| (n, W) of the first and the second half of each of the consecutive windows in `stack`."""
    n_windows, size = stack.shape[:2]
    half = size // 2
    result = np.full((n_windows, size), np.nan)
    if half >= 2 and n_windows:
        # the second half of a window is the first half of a later one
        each = np.arange(starts[0], starts[-1] + size - half + 1)
        halves = _modes(_products(gram, each, each, np.arange(half)))
        first, second = halves.part(slice(None, n_windows)), halves.part(slice(size - half, None))
        result[:, :half] = _overlaps(first, second, stack[:, :half, size - half :])
        result[~np.isfinite(stack).all(axis=(1, 2))] = np.nan
    return result
