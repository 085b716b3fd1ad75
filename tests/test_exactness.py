"""Tables of trained histories against dense float64 algebra on the checkpoint files themselves.

The files are read with the libraries that wrote them; fused tensors are split as the modules' own forward passes do.
"""

import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from conftest import SCOPES
from histories import HEADS, N_UPDATES, SPACING, read_run

TRANSFORMERS = ("gpt2_float32", "gpt2_bfloat16", "gpt2_float16", "nanogpt", "neox", "encoder")
RUNS = (*TRANSFORMERS, "collinear", "adapter", "rank_two")
SIZES = (3, 5, 10, 20)
ATTENTION, MLP = ("query", "key", "value", "output"), ("up", "down")
ROLE_OF = {
    "attn.c_proj.weight": "output",
    "attention.dense.weight": "output",
    "self_attn.out_proj.weight": "output",
    "mlp.c_fc.weight": "up",
    "mlp.dense_h_to_4h.weight": "up",
    "linear1.weight": "up",
    "mlp.c_proj.weight": "down",
    "mlp.dense_4h_to_h.weight": "down",
    "linear2.weight": "down",
}
FUSED = ("c_attn", "query_key_value", "in_proj")
UNCOUNTED = {"nanogpt": ("lm_head.weight", ".attn.bias")}
"""The tied head and the mask."""
OUTPUTS = (".attn.c_proj.weight", ".dense.weight", ".out_proj.weight")


@dataclass(frozen=True, eq=False)
class Leaf:
    """One logical matrix or vector at every checkpoint, in float64."""

    name: str
    tensor: str
    role: str | None
    values: np.ndarray

    @property
    def layer(self):
        found = re.search(r"\.(?:h|layers)\.(\d+)\.", self.tensor)
        return int(found[1]) if found else None

    @property
    def is_matrix(self):
        return self.values.ndim == 3


def split_fused(run, tensor, values):
    """Queries, keys and values of a fused tensor (T, ...), as the module's forward takes them."""
    if "query_key_value" in tensor:  # NeoX views the outputs as (heads, 3 d) and chunks the last axis
        by_head = values.reshape(len(values), HEADS, 3, -1, *values.shape[2:])
        return [by_head[:, :, part].reshape(len(values), -1, *values.shape[2:]) for part in range(3)]
    # Conv1D holds its outputs as columns, Linear as rows
    return np.split(values, 3, axis=values.ndim - 1 if run.startswith("gpt2") else 1)


def leaves_of(run, tensor, values):
    if not any(mark in tensor for mark in FUSED):
        role = next((role for end, role in ROLE_OF.items() if tensor.endswith(end)), None)
        return [Leaf(tensor, tensor, role, values)]
    names, is_matrix = ATTENTION[:3], values.ndim == 3
    parts = zip(names, split_fused(run, tensor, values), strict=True)
    return [Leaf(f"{tensor}:{name}", tensor, name if is_matrix else None, part) for name, part in parts]


@cache
def truth(folder):
    """Leaves of a run; what is tied or no parameter is left out."""
    states = [state for _, state in read_run(folder)]
    counted = [name for name in states[0] if not name.endswith(UNCOUNTED.get(folder.name, "no such end"))]
    stacks = {name: np.stack([state[name].double().numpy() for state in states]) for name in counted}
    return [leaf for name, values in stacks.items() for leaf in leaves_of(folder.name, name, values)]


def belongs(scope, leaf):
    kind, _, value = scope.partition(":")
    roles = {"trunk": ATTENTION + MLP, "attention": ATTENTION, "mlp": MLP, "role": (value,)}
    if kind in roles:
        return leaf.is_matrix and leaf.role in roles[kind]
    if kind == "layer":
        first, _, last = value.partition("-")
        return leaf.layer is not None and int(first) <= leaf.layer <= int(last or first)
    if kind == "tensor":
        return value in (leaf.name, leaf.tensor)
    return kind == "all" or leaf.tensor.endswith(OUTPUTS)


def deltas_of(folder, scope):
    """Updates (T - 1, p) of a scope."""
    chosen = [leaf.values.reshape(len(leaf.values), -1) for leaf in truth(folder) if belongs(scope, leaf)]
    return np.diff(np.concatenate(chosen, axis=1), axis=0)


def scopes_of(folder):
    names = ["all", "trunk", "attention", "mlp", "layer:0", "layer:1", *(scope.partition("=")[0] for scope in SCOPES)]
    return [name for name in names if any(belongs(name, leaf) for leaf in truth(folder))]


def windows_of(folder, scope, size):
    """All windows (n, W, p), oldest update first."""
    return np.lib.stride_tricks.sliding_window_view(deltas_of(folder, scope), size, axis=0).transpose(0, 2, 1)


@cache
def dense(folder, scope, size):
    """Singular values of the windows (n, W), and the cosines of their right singular vectors with the last ones."""
    _, sigma, vectors = np.linalg.svd(windows_of(folder, scope, size), full_matrices=False)
    overlap = np.abs(np.einsum("nkp,nkp->nk", vectors[1:], vectors[:-1]))
    return tuple(np.pad(found, ((0, 0), (0, size - found.shape[1]))) for found in (sigma, overlap))


@pytest.fixture(params=RUNS)
def folder(request, trained):
    return trained / request.param


@pytest.fixture(params=SIZES)
def size(request):
    return request.param


SIGMA_COLUMNS = ("sigma", "status", "ratio", "overlap_previous")
WINDOW_COLUMNS = ("pc1_share", "drift_speed", "gram_change_operator", "edge_ratio", "edge_k")
UPDATE_COLUMNS = ("step", "norm", "cos_previous", "zero_fraction", "quantization_noise")


@cache
def table(computed, run, name, columns):
    """(scope, size) -> columns of a table, in the order of its rows; updates are of size 1."""
    size, order = "1" if name == "updates" else "window_size", "step, k" if name == "window_sigmas" else "step"
    sql = f"SELECT scope, {size}, {', '.join(columns)} FROM {name} WHERE run = ? ORDER BY {order}"
    pairs = {}
    for scope, length, *values in computed.rows(sql, [run]):
        pairs.setdefault((scope, length), []).append(values)
    return {pair: dict(zip(columns, zip(*rows, strict=True), strict=True)) for pair, rows in pairs.items()}


def sigma_table(computed, folder, scope, size, column):
    """One column of ``window_sigmas`` (n, W)."""
    found = table(computed, folder.name, "window_sigmas", SIGMA_COLUMNS)[scope, size][column]
    array = np.array(found, dtype=object if column == "status" else float)
    return array.reshape(N_UPDATES - size + 1, size)


def window_table(computed, folder, scope, size):
    found = table(computed, folder.name, "windows", WINDOW_COLUMNS)[scope, size]
    return {name: np.array(values, dtype=float) for name, values in found.items()}


def update_table(computed, folder, scope):
    found = table(computed, folder.name, "updates", UPDATE_COLUMNS)[scope, 1]
    return {name: np.array(values, dtype=float) for name, values in found.items()}


def test_every_scope_that_a_run_has_is_in_the_tables(computed, folder):
    rows = computed.rows("SELECT DISTINCT scope FROM windows WHERE run = ?", [folder.name])
    assert {scope for (scope,) in rows} == set(scopes_of(folder))


def test_window_sigmas_hold_their_error_bound_against_a_dense_svd(computed, folder, size):
    for scope in scopes_of(folder):
        sigma, _ = dense(folder, scope, size)
        found, status = (sigma_table(computed, folder, scope, size, name) for name in ("sigma", "status"))
        known = status == "ok"
        with np.errstate(divide="ignore", invalid="ignore"):
            bound = sigma * (1e-9 + 1e-14 * (sigma[:, :1] / sigma) ** 2)
        assert (np.abs(found - sigma) <= bound)[known].all(), scope
        assert np.isin(status[~known], ["unresolved", "zero"]).all()


def test_a_sigma_is_null_only_below_the_stated_resolution(computed, folder, size):
    for scope in scopes_of(folder):
        sigma, _ = dense(folder, scope, size)
        found, status = (sigma_table(computed, folder, scope, size, name) for name in ("sigma", "status"))
        first = np.broadcast_to(sigma[:, :1], sigma.shape)
        assert np.array_equal(np.isnan(found), status == "unresolved")
        # the error bound at the limit makes a computed 1.00e-7 of at most 1.62e-7
        assert (sigma <= 1.62e-7 * first)[status == "unresolved"].all(), scope
        assert (status != "ok")[sigma < 1e-9 * first].all(), scope
        assert np.array_equal(status == "zero", first == 0)
        assert (found[status == "zero"] == 0).all()


def test_the_histories_hold_what_is_hard(trained):
    collinear, sigma = trained / "collinear", {}
    for scope, run in (("all", collinear), ("all", trained / "rank_two"), ("all", trained / "gpt2_float32")):
        values, _ = dense(run, scope, 10)
        sigma[run.name] = values / values[:, :1]
    small = (sigma["collinear"] > 1e-7) & (sigma["collinear"] < 1e-5)
    assert small.any()
    assert (sigma["collinear"] < 1e-9).any()
    assert (sigma["rank_two"][:, 1] > 1e-3).all()
    assert (sigma["rank_two"][:, 2:] < 1e-12).all()
    assert (sigma["gpt2_float32"] > 1e-3).all()
    assert (dense(collinear, "tensor:still.weight", 10)[0] == 0).all()


def test_ratios_are_those_of_neighbouring_sigmas(computed, folder):
    for scope in scopes_of(folder):
        sigma, ratio = (sigma_table(computed, folder, scope, 10, name) for name in ("sigma", "ratio"))
        with np.errstate(divide="ignore", invalid="ignore"):
            wanted = sigma[:, :-1] / sigma[:, 1:]
        np.testing.assert_allclose(ratio[:, :-1], wanted, rtol=1e-14)
        assert np.isnan(ratio[:, -1]).all()


def relative_gaps(sigma):
    """Distance of sigma_k² to the nearest other one, and to 0, over sigma_1² (n, W)."""
    share = (sigma / sigma[:, :1]) ** 2
    wall = np.full_like(share[:, :1], np.inf)
    fall = -np.diff(np.concatenate([wall, share, np.zeros_like(wall)], axis=1), axis=1)
    return np.minimum(fall[:, :-1], fall[:, 1:])


@pytest.mark.parametrize("run", RUNS)
def test_overlaps_are_those_of_dense_singular_vectors(computed, trained, run, size):
    folder, n_compared = trained / run, 0
    for scope in set(scopes_of(folder)) - {"tensor:still.weight"}:
        sigma, wanted = dense(folder, scope, size)
        overlap = sigma_table(computed, folder, scope, size, "overlap_previous")
        gaps = np.minimum(relative_gaps(sigma)[1:], relative_gaps(sigma)[:-1])
        with np.errstate(divide="ignore"):
            tolerance = 1e-9 + 1e-13 / gaps
        sure = (tolerance < 1e-2) & ~np.isnan(overlap[1:])
        assert (np.abs(overlap[1:] - wanted) <= tolerance)[sure].all(), scope
        assert np.isnan(overlap[0]).all()
        n_compared += sure.sum()
    assert n_compared >= (20 if run in TRANSFORMERS else 2) * len(scopes_of(folder))


def test_the_davis_kahan_bound_is_never_above_the_overlap(computed, trained):
    sql = "SELECT stability_dk, overlap_previous FROM window_sigmas WHERE stability_dk + overlap_previous IS NOT NULL"
    bound, overlap = np.array(computed.rows(sql)).T
    assert (bound <= overlap + 1e-9).all()
    assert (bound > 0.5).sum() > 100


def test_updates_are_those_of_the_files(computed, folder):
    for scope in scopes_of(folder):
        deltas = deltas_of(folder, scope)
        found = update_table(computed, folder, scope)
        norm = np.linalg.norm(deltas, axis=1)
        with np.errstate(invalid="ignore"):
            cosine = np.append(np.nan, (deltas[1:] * deltas[:-1]).sum(axis=1) / (norm[1:] * norm[:-1]))
        assert np.array_equal(found["step"], SPACING * np.arange(1, N_UPDATES + 1))
        np.testing.assert_allclose(found["norm"], norm, rtol=1e-13)
        np.testing.assert_allclose(found["cos_previous"], cosine, rtol=0, atol=1e-13)
        assert np.array_equal(found["zero_fraction"], (deltas == 0).mean(axis=1))


@pytest.mark.parametrize("name", ["float32", "float16"])
def test_quantization_noise_is_the_rounding_energy_of_the_stored_format(computed, trained, name):
    folder = trained / f"gpt2_{name}"
    stored = np.concatenate([leaf.values.reshape(len(leaf.values), -1) for leaf in truth(folder)], axis=1)
    spacing = np.spacing(np.abs(stored).astype(name)).astype(float)
    energy = (spacing**2 / 12).sum(axis=1)
    wanted = (energy[1:] + energy[:-1]) / (np.diff(stored, axis=0) ** 2).sum(axis=1)
    found = update_table(computed, folder, "all")["quantization_noise"]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def gram_change(new, old):
    """||new^T new - old^T old||_F; through the triangle of a QR where the p x p matrices would be large."""
    if new.shape[1] <= 400:
        return np.linalg.norm(new.T @ new - old.T @ old)
    triangle = np.linalg.qr(np.concatenate([new, old]).T, mode="r")
    signs = np.repeat([1.0, -1.0], len(new))
    return np.linalg.norm((triangle * signs) @ triangle.T)


def test_scalars_of_windows_are_those_of_the_dense_matrices(computed, folder, size):
    for scope in scopes_of(folder):
        windows, (sigma, _) = windows_of(folder, scope, size), dense(folder, scope, size)
        found = window_table(computed, folder, scope, size)
        moved = sigma[:, 0] > 0
        share = sigma[moved, 0] ** 2 / (sigma[moved] ** 2).sum(axis=1)
        np.testing.assert_allclose(found["pc1_share"][moved], share, rtol=1e-12)
        speed = np.linalg.norm(windows.mean(axis=1), axis=1)
        assert (np.abs(found["drift_speed"] - speed) <= 1e-13 * sigma[:, 0]).all()
        change = np.array([gram_change(new, old) for new, old in zip(windows[1:], windows[:-1], strict=True)])
        scale = (windows[1:, -1] ** 2).sum(axis=1) + (windows[:-1, 0] ** 2).sum(axis=1)
        error = np.abs(found["gram_change_operator"][1:] ** 2 - change**2)
        assert (error <= 1e-9 * change**2 + 1e-14 * scale**2).all(), scope
        assert np.isnan(found["gram_change_operator"][0])


@pytest.mark.parametrize("run", TRANSFORMERS)
def test_edge_ratios_are_the_largest_of_the_dense_ratios(computed, trained, run, size):
    for scope in scopes_of(trained / run):
        sigma, _ = dense(trained / run, scope, size)
        found = window_table(computed, trained / run, scope, size)
        ratio = sigma[:, :-1] / sigma[:, 1:]
        assert (sigma[:, -1] > 1e-4 * sigma[:, 0]).all()
        np.testing.assert_allclose(found["edge_ratio"], ratio.max(axis=1), rtol=3e-6)
        assert np.array_equal(found["edge_k"], ratio.argmax(axis=1) + 1)


DIRECTION_COLUMNS = (
    *("align_last", "drift_along", "residual_speed", "gamma", "turning_total", "signal_rank", "subspace_angle"),
    *("subspace_angle_dk", "edge_ratio_unit", "edge_k_unit", "adiabatic_free", "adiabatic_interval", "lr"),
)


def direction_table(computed, folder, scope, size):
    found = table(computed, folder.name, "windows", DIRECTION_COLUMNS)[scope, size]
    return {name: np.array(values, dtype=float) for name, values in found.items()}


@pytest.mark.parametrize("run", TRANSFORMERS)
def test_directions_of_windows_are_those_of_dense_singular_vectors(computed, trained, run, size):
    for scope in {"all", "attention"} & set(scopes_of(trained / run)):
        found, windows = direction_table(computed, trained / run, scope, size), windows_of(trained / run, scope, size)
        _, sigma, vectors = np.linalg.svd(windows, full_matrices=False)
        first, mean = vectors[:, 0], windows.mean(axis=1)
        along = np.abs(np.vecdot(mean, first))
        last = windows[:, -1] / np.linalg.norm(windows[:, -1], axis=1, keepdims=True)
        np.testing.assert_allclose(found["align_last"], np.abs(np.vecdot(last, first)), atol=1e-8)
        np.testing.assert_allclose(found["drift_along"], along, atol=1e-8 * sigma.max())
        rest = np.linalg.norm(mean - np.vecdot(mean, first)[:, None] * first, axis=1)
        np.testing.assert_allclose(found["residual_speed"], rest, atol=1e-8 * sigma.max())
        gamma = np.abs(np.vecdot(first[1:], first[:-1]))
        np.testing.assert_allclose(found["gamma"][1:], gamma, atol=1e-8)
        turned = np.append(0, np.cumsum(np.arccos(np.minimum(gamma, 1))))
        np.testing.assert_allclose(found["turning_total"], turned, atol=1e-5)
        for t in np.flatnonzero(np.isfinite(found["signal_rank"]))[1:]:
            rank = int(found["signal_rank"][t])
            cosines = np.linalg.svd(vectors[t, :rank] @ vectors[t - 1, :rank].T, compute_uv=False)
            if t > 0:
                assert np.cos(found["subspace_angle"][t]) == pytest.approx(min(cosines), abs=1e-7)
                assert found["subspace_angle"][t] <= found["subspace_angle_dk"][t] + 1e-7
        unit = np.linalg.svd(windows / np.linalg.norm(windows, axis=2, keepdims=True), compute_uv=False)
        ratio = unit[:, :-1] / unit[:, 1:]
        np.testing.assert_allclose(found["edge_ratio_unit"], ratio.max(axis=1), rtol=3e-6)
        assert np.array_equal(found["edge_k_unit"], ratio.argmax(axis=1) + 1)


def test_the_adiabatic_parameter_takes_the_logged_rate_over_the_interval(computed, trained):
    found = direction_table(computed, trained / "gpt2_float32", "all", 10)
    np.testing.assert_allclose(found["lr"], 3e-3)
    np.testing.assert_allclose(found["adiabatic_interval"], found["adiabatic_free"] / (3e-3 * SPACING))
    assert np.isfinite(found["adiabatic_interval"]).any()
    assert np.isnan(direction_table(computed, trained / "collinear", "all", 10)["lr"]).all()


@pytest.mark.parametrize("scope", ["all", "attention", "layer:1"])
def test_gradient_shares_are_those_of_the_files_and_the_optimizer_in_them(computed, trained, scope):
    folder, size = trained / "nanogpt", 5
    chosen = [leaf for leaf in truth(folder) if belongs(scope, leaf)]
    theta = np.concatenate([leaf.values.reshape(len(leaf.values), -1) for leaf in chosen], axis=1)
    decays = np.concatenate([np.full(leaf.values[0].size, leaf.is_matrix) for leaf in chosen])
    own = -3e-3 * SPACING * 0.1 * 0.5 * (theta[1:] + theta[:-1]) * decays
    rows = table(computed, "nanogpt", "window_sigmas", ("gradient_share", "decay_alignment"))[scope, size]
    share, alignment = (np.array(rows[name], dtype=float).reshape(-1, size) for name in rows)
    for t, window in enumerate(windows_of(folder, scope, size)):
        _, _, v = np.linalg.svd(window, full_matrices=False)
        by_decay, by_both = own[t : t + size] @ v.T, window @ v.T
        one, other = (by_decay**2).mean(axis=0), ((by_both - by_decay) ** 2).mean(axis=0)
        np.testing.assert_allclose(share[t], other / (one + other), atol=1e-7)
        wanted = (by_decay * (by_both - by_decay)).mean(axis=0) / np.sqrt(one * other)
        np.testing.assert_allclose(alignment[t], wanted, atol=1e-5)


def test_fits_of_windows_stand_for_every_scope_and_size(trained, analysis):
    analysis.ingest(trained / "gpt2_float32")
    analysis.compute(windows=(3,), spectra=False)
    for size in (3, 10):
        sql = "SELECT scope, fit, count(*) FROM fits WHERE window_size = ? GROUP BY ALL"
        counts = {(scope, fit): n for scope, fit, n in analysis.rows(sql, [size])}
        wanted = {"gap_flow": 2, "gap_flow_xu": 2, "gap_times": 5, "alpha_feedback": 2, "gap_maximality": size - 1}
        wanted["gap_maximality_stability"] = size - 1
        scopes = {scope for scope, _ in counts}
        assert {"all", "trunk", "attention", "mlp", "layer:0"} <= scopes
        assert counts == {(scope, fit): n for scope in scopes for fit, n in wanted.items()}


def spectra_of(computed, folder):
    sql = "SELECT matrix, step, sigma, resolution, n_resolved, method, status FROM matrix_spectra WHERE run = ?"
    return {(matrix, step): rest for matrix, step, *rest in computed.rows(sql, [folder.name])}


def test_every_logical_matrix_has_a_spectrum_at_every_checkpoint(computed, folder):
    matrices = [leaf.name for leaf in truth(folder) if leaf.is_matrix]
    steps = [SPACING * index for index in range(N_UPDATES + 1)]
    assert set(spectra_of(computed, folder)) == {(matrix, step) for matrix in matrices for step in steps}


def test_matrix_spectra_hold_their_error_bound_against_a_dense_svd(computed, folder):
    spectra, methods = spectra_of(computed, folder), set()
    for leaf in (leaf for leaf in truth(folder) if leaf.is_matrix):
        for index, wanted in enumerate(np.linalg.svd(leaf.values, compute_uv=False)):
            sigma, resolution, n_resolved, method, status = spectra[leaf.name, SPACING * index]
            sigma, first = np.array(sigma), wanted[0]
            assert status == ("ok" if first > 0 else "zero")
            assert sigma.shape == wanted.shape
            assert resolution <= 1.000001e-6 * first
            assert n_resolved == (sigma >= resolution).sum() * (first > 0)
            above = wanted >= resolution
            assert (np.abs(sigma - wanted) <= 1e-9 * first)[above].all()
            assert (sigma <= 1.001e-6 * first)[~above].all()
            methods.add(method)
    assert methods <= {"gram", "lapack"}
    assert folder.name != "rank_two" or methods == {"gram", "lapack"}


def test_matrix_stats_are_those_of_the_dense_matrices(computed, folder):
    names = "matrix, step, frobenius_norm, spectral_norm, stable_rank, entropy, n_rows, n_cols"
    rows = computed.rows(f"SELECT {names} FROM matrix_stats WHERE run = ? AND status <> 'zero'", [folder.name])
    values = {leaf.name: leaf.values for leaf in truth(folder)}
    for matrix, step, *found in rows:
        dense_matrix = values[matrix][step // SPACING]
        sigma = np.linalg.svd(dense_matrix, compute_uv=False)
        share = (sigma**2 / (sigma**2).sum())[sigma > 0]
        entropy = -(share * np.log(share)).sum()
        norm = np.linalg.norm(dense_matrix)
        wanted = [norm, sigma[0], (norm / sigma[0]) ** 2, entropy, *dense_matrix.shape]
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-12)
    assert len(rows) >= N_UPDATES
