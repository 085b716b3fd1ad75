"""Rolling windows of updates and single updates, from the Gram matrix of the updates.

X is the matrix of a window's W updates as rows (Definition 1 of "Spectral Edge Dynamics", arXiv 2603.15678: neither
centred nor normalised); its singular values and vectors come from the W x W Gram matrix (:mod:`.modes`).
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.gram import Gram
from sedarchive.rolling.decay import ModeShares, mode_shares
from sedarchive.rolling.edge import EdgeScalars, argmax_rank, edge_scalars, sigma_ratios
from sedarchive.rolling.modes import RESOLUTION, STATUS, Modes, cosines_between, modes_of
from sedarchive.rolling.repulsion import EnergyMotion, energy_motion
from sedarchive.rolling.turning import (
    Directions,
    directions,
    overlap_bound,
    proxy_stability,
    subspace_angles,
    subspace_bound,
)

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Status = NDArray[np.str_]

_BATCH_ENTRIES = 2**18


@dataclass(frozen=True)
class WindowSeries(EdgeScalars, Directions, EnergyMotion, ModeShares):
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
    unresolved_from: Counts
    """Smallest k whose singular value is unresolved (n,); 0 if all are resolved."""
    edge_ratio_unit: Floats
    """Largest ratio of the singular values of the updates scaled to length 1 (n,); NaN if one of them is 0."""
    edge_k_unit: Counts
    """Where it is (n,); 0 if it is unknown."""
    subspace_angle: Floats
    """Largest principal angle (n,) of span(v_1 .. v_k), k = ``signal_rank``, to that of the window before, radians."""
    subspace_angle_dk: Floats
    """Upper bound of ``subspace_angle`` (n,), pi / 2 where it says nothing (Yu, Wang and Samworth)."""
    overlap_previous: Floats
    """|<v_k, v'_k>| with the window before (n, W)."""
    stability_dk: Floats
    """Lower bound of ``overlap_previous`` (n, W) after Yu, Wang and Samworth (Biometrika 2015, theorem 2)."""
    stability_proxy: Floats
    """The authors' alpha_k (n, W): 1 - gram_change_proxy² / gap_k², at least 0; no bound of anything."""
    stability_split: Floats
    """|<v_k of the first half, v_k of the second half>| (n, W); NaN beyond W // 2 and for W < 4."""

    def __len__(self) -> int:
        return len(self.last_update)


@dataclass(frozen=True)
class UpdateCounts:
    """Counts of a scope, each (T,): index t is the checkpoint, or the update that ends there."""

    zeros: NDArray[np.float64]
    rounding: NDArray[np.float64]
    nonfinite: NDArray[np.float64]
    largest: NDArray[np.float64]


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


def window_series(
    gram: Gram,
    window_size: int,
    n_elements: int,
    decay: Floats | None = None,
    known: dict[int, Modes] | None = None,
) -> WindowSeries:
    """Return every window of `window_size` consecutive updates.

    Parameters
    ----------
    gram
        Gram matrix of the scope, full, or a band of at least `window_size`.
    window_size
        W >= 2, in updates: a window needs W + 1 checkpoints.
    n_elements
        p, the number of parameters of the scope.
    decay
        :func:`.decay.decay_products` of the scope (n_updates, n_updates); None where they are unknown.
    known
        Eigenpairs of all windows of the same scope by size, as calls for smaller sizes left them: half a window is a
        window too. Those of this size are added, if they are worked out in one batch.

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
    scope = _Scope(gram, n_elements, decay, {} if known is None else known)
    batches = [_batch(scope, np.arange(i, min(i + per_batch, n_windows)), window_size) for i in starts]
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
    status = np.select([~np.isfinite(norm), norm == 0], ["nonfinite", "zero"], "ok").astype(STATUS)
    return UpdateSeries(norm, cosine, zeros[1:] / max(n_elements, 1), noise, status)


@dataclass(frozen=True)
class _Scope:
    """What the windows of one scope follow from, as :func:`window_series` takes it."""

    gram: Gram
    n_elements: int
    decay: Floats | None
    known: dict[int, Modes]

    def modes(self, starts: NDArray[np.intp], size: int) -> Modes:
        """Eigenpairs of the windows that begin at the updates `starts` (consecutive)."""
        if size in self.known:
            return self.known[size].part(slice(starts[0], starts[-1] + 1))
        return modes_of(_products(self.gram, starts, starts, np.arange(size)))


def _batch(scope: _Scope, starts: NDArray[np.intp], size: int) -> dict[str, NDArray[Any]]:
    """Return the series of the windows that begin at the updates `starts` (consecutive)."""
    gram, inside = scope.gram, np.arange(size)
    before = np.maximum(starts - 1, 0)  # the first window has none; its comparisons are blanked below
    # the furthest products first: a band that is too narrow is refused with the width that is enough
    across = _products(gram, starts, before, inside)
    each = np.concatenate([before[:1], starts])  # every window is also the next one's predecessor
    stack = _products(gram, each, each, inside)
    both = modes_of(stack)
    pair = _Pair(both.part(slice(1, None)), both.part(slice(None, -1)), stack[1:], stack[:-1], across)
    modes, now = pair.modes, pair.now
    if len(starts) == gram.n_updates - size + 1:
        scope.known[size] = modes
    scalars = edge_scalars(modes.sigma, scope.n_elements)
    compared = _compare(pair, _operator_change(gram, starts, before, size), scalars.signal_rank)
    for values in compared.values():
        values[(starts == 0) | (pair.old.status[:, 0] == "nonfinite") | (modes.status[:, 0] == "nonfinite")] = np.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        adiabatic = compared["gram_change_operator"] / scalars.gap**2
    unresolved = np.asarray(modes.status == "unresolved")
    return {
        **_fields_of(scalars),
        **_fields_of(directions(modes, now[:, -1, -1])),
        **_fields_of(_shares(modes, starts, scope.decay)),
        **_unit_edge(now),
        **compared,
        "last_update": (starts + size - 1).astype(np.int64),
        "sigma": modes.sigma,
        "sigma_status": modes.status,
        "ratio": sigma_ratios(modes.sigma),
        "status": _window_status(modes),
        "resolution": modes.resolution,
        "unresolved_from": np.where(unresolved.any(axis=1), np.argmax(unresolved, axis=1) + 1, 0).astype(np.int64),
        "drift_speed": np.sqrt(np.maximum(now.sum(axis=(1, 2)), 0.0)) / size,
        "adiabatic_free": np.where(np.isfinite(adiabatic), adiabatic, np.nan),
        "stability_split": _split_stability(scope, starts, now),
    }


@dataclass(frozen=True)
class _Pair:
    """Stacks of windows and of the windows before them."""

    modes: Modes
    old: Modes
    now: Floats
    """Gram matrices of the windows (n, W, W)."""
    previous: Floats
    """Those of the windows before (n, W, W)."""
    across: Floats
    """Products of the updates of both (n, W, W)."""


def _products(gram: Gram, first: NDArray[np.intp], second: NDArray[np.intp], inside: NDArray[np.intp]) -> Floats:
    """Return the stacked products (n, W, W) of the windows that begin at `first` and at `second`."""
    return gram.products(first[:, None, None] + inside[:, None], second[:, None, None] + inside)


def _shares(modes: Modes, starts: NDArray[np.intp], decay: Floats | None) -> ModeShares:
    n_windows, size = modes.sigma.shape
    if decay is None:
        return ModeShares.unknown(n_windows, size)
    inside = starts[:, None] + np.arange(size)
    return mode_shares(modes, decay[inside[:, :, None], inside[:, None, :]])


def _fields_of(part: EdgeScalars | Directions | EnergyMotion | ModeShares) -> dict[str, NDArray[Any]]:
    return {f.name: getattr(part, f.name) for f in fields(part)}


def _window_status(modes: Modes) -> Status:
    whole = np.isin(modes.status[:, 0], ["nonfinite", "zero"])
    partly = np.where((modes.status == "unresolved").any(axis=1), "unresolved", "ok")
    return np.where(whole, modes.status[:, 0], partly).astype(STATUS)


def _unit_edge(stack: Floats) -> dict[str, NDArray[Any]]:
    """Return the largest ratio of the updates scaled to length 1, so that a learning rate alone makes none."""
    norm = np.sqrt(np.diagonal(stack, axis1=1, axis2=2))
    usable: NDArray[np.bool_] = np.asarray(np.isfinite(stack).all(axis=(1, 2)) & (norm > 0).all(axis=1))
    scale = np.where(usable[:, None], norm, 1.0)
    cosines = np.where(usable[:, None, None], stack, 0.0) / (scale[:, :, None] * scale[:, None, :])
    energy = np.maximum(np.linalg.eigvalsh(cosines)[:, ::-1], 0.0)
    resolved = usable[:, None] & (energy > RESOLUTION**2 * energy[:, :1])
    ratio = sigma_ratios(np.where(resolved, np.sqrt(energy), np.nan))
    rank = argmax_rank(ratio)
    largest = np.take_along_axis(ratio, np.maximum(rank - 1, 0)[:, None], axis=1)[:, 0]
    return {"edge_ratio_unit": np.where(rank > 0, largest, np.nan), "edge_k_unit": rank}


def _operator_change(gram: Gram, starts: NDArray[np.intp], before: NDArray[np.intp], size: int) -> Floats:
    """Return ||new new^T - old old^T||_F (n,): consecutive windows differ by one update in and one out."""
    new, old = starts + size - 1, before
    new2, old2, both = gram.products(new, new), gram.products(old, old), gram.products(new, old)
    # (a - b)² + 2 (ab - c²) keeps its precision where the two updates are alike
    square = (new2 - old2) ** 2 + 2.0 * np.maximum(new2 * old2 - both**2, 0.0)
    change: Floats = np.sqrt(square)
    return change


def _compare(pair: _Pair, change: Floats, rank: Counts) -> dict[str, Floats]:
    """Return what compares the windows with those before them; ``change`` is that of the operator."""
    modes, old = pair.modes, pair.old
    cosines = cosines_between(modes, old, pair.across)
    proxy = np.sqrt(((modes.energy - old.energy) ** 2).sum(axis=1))
    return {
        "gram_change_operator": change,
        "gram_change_positional": np.sqrt(((pair.now - pair.previous) ** 2).sum(axis=(1, 2))),
        "gram_change_proxy": proxy,
        "overlap_previous": np.abs(np.diagonal(cosines, axis1=1, axis2=2)),
        "stability_dk": overlap_bound(modes, change),
        "stability_proxy": proxy_stability(modes, proxy),
        "subspace_angle": subspace_angles(cosines, rank),
        "subspace_angle_dk": subspace_bound(modes.energy, change, rank),
        **_fields_of(energy_motion(old, pair.across[:, -1], pair.now[:, -1, -1])),
    }


def _split_stability(scope: _Scope, starts: NDArray[np.intp], stack: Floats) -> Floats:
    """Return |<v_k, w_k>| (n, W) of the first and the second half of each of the consecutive windows in `stack`."""
    n_windows, size = stack.shape[:2]
    half = size // 2
    result = np.full((n_windows, size), np.nan)
    if half >= 2 and n_windows:
        # the second half of a window is the first half of a later one
        halves = scope.modes(np.arange(starts[0], starts[-1] + size - half + 1), half)
        first, second = halves.part(slice(None, n_windows)), halves.part(slice(size - half, None))
        cosines = cosines_between(first, second, stack[:, :half, size - half :])
        result[:, :half] = np.abs(np.diagonal(cosines, axis1=1, axis2=2))
        result[~np.isfinite(stack).all(axis=(1, 2))] = np.nan
    return result
