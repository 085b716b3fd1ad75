"""Random projections: the entries, the sweep, the measured errors and the band they lie in, against naive forms."""

from itertools import pairwise

import numpy as np
import pytest
from small import SMALL_MODEL, walk, write_safetensors

from sedarchive.archive import Archive
from sedarchive.executor import Executor, one_blas_thread
from sedarchive.leaves import resolve_scopes
from sedarchive.rolling.projection import GROUP, QUANTITIES, Projection, Reference, projected_updates
from sedarchive.sizes import MIB
from sedarchive.sweeps.anatomy import anatomy
from sedarchive.sweeps.projection_sweep import ProjectionOptions, sweep_projections

FIGURE_1A = [198.58, 169.08, 122.47, 110.73, 106.22, 92.66, 78.30, 61.27, 44.58, 22.79]
"""Singular values of figure 1A of "Spectral Edge Dynamics"."""
FIGURE_1A_ELEMENTS = 163_150_848


# Entries


def test_entries_do_not_depend_on_how_a_tensor_is_cut():
    projection = Projection(3, "h.0.weight")
    whole = projection.columns(range(4), 0, 3 * GROUP + 5)
    cuts = [0, 1, 700, GROUP, GROUP + 9, 3 * GROUP + 2, 3 * GROUP + 5]
    pieces = [projection.columns(range(4), *cut) for cut in pairwise(cuts)]
    assert np.array_equal(np.concatenate(pieces, axis=1), whole)
    assert np.array_equal(projection.columns(range(2, 4), 5, 9), whole[2:, 5:9])


@pytest.mark.parametrize("other", [Projection(4, "h.0.weight"), Projection(3, "h.1.weight")])
def test_entries_of_other_seeds_and_tensors_are_others(other):
    one = Projection(3, "h.0.weight").columns(range(50), 0, 2 * GROUP).ravel()
    assert abs(np.corrcoef(one, other.columns(range(50), 0, 2 * GROUP).ravel())[0, 1]) < 0.01


def test_entries_are_independent_standard_normals():
    entries = Projection(0, "wte.weight").columns(range(60), 0, 2 * GROUP)
    assert abs(entries.mean()) < 4 / entries.size**0.5
    assert abs(entries.var() - 1) < 4 * (2 / entries.size) ** 0.5
    assert abs((entries**4).mean() - 3) < 4 * (96 / entries.size) ** 0.5
    between = np.corrcoef(entries)
    assert np.abs(between - np.eye(60)).max() < 5 / (2 * GROUP) ** 0.5


# The sweep


@pytest.fixture
def history(analysis, tmp_path):
    """Twelve checkpoints, one tensor of several groups among them, and its anatomy."""
    shapes = {**SMALL_MODEL, "h.0.mlp.big.weight": (120, 90)}
    states = walk(12, shapes=shapes)
    write_safetensors(tmp_path / "run", states)
    analysis.ingest(tmp_path / "run")
    (run,) = Archive(analysis.archive).runs()
    return anatomy(run), states


def naive(states, names, seed, dimension, columns=slice(None)):
    """Projected updates of whole tensors, or of some columns of a matrix."""
    total = 0
    for name in names:
        theta = np.stack([state[name].double().numpy() for state in states])
        entries = Projection(seed, name).columns(range(dimension), 0, theta[0].size).reshape(dimension, *theta[0].shape)
        updates = theta[1:] - theta[:-1]
        chosen = (values[..., columns].reshape(len(values), -1) for values in (updates, entries))
        total = total + np.einsum("te,de->td", *chosen)
    return total


def swept(parts, request, *, workers=1, max_mem=64 * MIB, dimension=7, seeds=(0, 5)):
    scopes = resolve_scopes(request, parts.leaves)
    options = ProjectionOptions(dimension, seeds, max_mem)
    with one_blas_thread():
        return sweep_projections(parts, scopes, options, Executor(workers))


def test_the_sweep_projects_every_element_of_a_scope_once(history):
    parts, states = history
    found = swept(parts, "all")["all"]
    for at, seed in enumerate((0, 5)):
        expected = naive(states, states[0], seed, 7)
        assert np.abs(found[at] - expected).max() < 1e-12 * np.abs(expected).max()


def test_a_part_of_a_fused_tensor_is_projected_by_its_own_elements(history):
    parts, states = history
    found = swept(parts, "role:query")["role:query"][1]
    expected = naive(states, ["h.0.attn.c_attn.weight"], 5, 7, slice(0, 6))
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max()


def test_the_sweep_is_the_same_for_any_workers_and_memory(history, monkeypatch):
    parts, _ = history
    one = swept(parts, "layer:*")
    two = swept(parts, "layer:*", workers=2)
    assert one.keys() == two.keys()
    assert all(np.array_equal(one[name], two[name]) for name in one)
    monkeypatch.setattr("sedarchive.sweeps.projection_sweep._ENTRIES_BYTES", 4096)
    tight = swept(parts, "layer:*", max_mem=12 * MIB)
    for name, values in one.items():
        assert np.abs(tight[name] - values).max() < 1e-12 * np.abs(values).max()


# Errors


def dense_errors(updates, projected, size, rank_of):
    """Mean relative errors by dense SVD of every window, in loops."""
    found = {name: [] for name in QUANTITIES}
    for start in range(len(updates) - size + 1):
        exact, sketch = (np.linalg.svd(rows[start : start + size], compute_uv=False) for rows in (updates, projected))
        for name, k in (("1", 1), ("2", 2), ("signal", rank_of(exact))):
            if k is None:
                continue
            ratio, gap = (lambda s, k=k: s[k - 1] / s[k]), (lambda s, k=k: s[k - 1] - s[k])
            found[f"ratio_{name}"].append(abs(ratio(sketch) / ratio(exact) - 1))
            found[f"gap_{name}"].append(abs(gap(sketch) / gap(exact) - 1))
    return found


def signal_rank(sigma, n_elements):
    """Position of the largest ratio whose lower value lies above the Marchenko-Pastur edge; None if there is none."""
    size = len(sigma)
    edge = np.sqrt(np.mean(sigma[size // 2 :] ** 2)) * (1 + np.sqrt(size / n_elements))
    ratios = [(sigma[k - 1] / sigma[k], -k) for k in range(1, size) if sigma[k] >= edge]
    return -max(ratios)[1] if ratios else None


def test_errors_are_those_of_dense_windows():
    rng = np.random.default_rng(0)
    updates = rng.standard_normal((20, 300)) * np.linspace(1, 3, 20)[:, None]
    projected = updates @ rng.standard_normal((300, 40)) / 40**0.5
    found = Reference(updates @ updates.T, 6, 300).errors(projected)
    expected = dense_errors(updates, projected, 6, lambda sigma: signal_rank(sigma, 300))
    for at, name in enumerate(QUANTITIES):
        assert found.n_windows[at] == len(expected[name]) > 0
        assert found.mean[at] == pytest.approx(np.mean(expected[name]), rel=1e-8), name
        assert found.largest[at] == pytest.approx(np.max(expected[name]), rel=1e-8), name


def test_simulated_errors_have_the_distribution_of_real_projections():
    rng = np.random.default_rng(1)
    updates = np.cumsum(rng.standard_normal((16, 500)), axis=0)
    reference = Reference(updates @ updates.T, 5, 500)
    real = np.array([reference.errors(projected(updates, seed, 30)).mean for seed in range(300)])
    drawn = reference.simulated(30, 300)
    error = np.sqrt((real.var(axis=0) + drawn.var(axis=0)) / 300)
    assert (np.abs(real.mean(axis=0) - drawn.mean(axis=0)) < 4 * error).all()
    inside = (real > np.quantile(drawn, 0.025, axis=0)) & (real < np.quantile(drawn, 0.975, axis=0))
    assert (inside.mean(axis=0) > 0.89).all()


def projected(updates, seed, dimension):
    theta = np.concatenate([np.zeros((1, updates.shape[1])), np.cumsum(updates, axis=0)])
    return projected_updates(theta, Projection(seed, "one").columns(range(dimension), 0, 500)) / dimension**0.5


@pytest.mark.parametrize("dimension", [100, 400])
def test_the_error_of_a_ratio_of_separated_modes_follows_theory(dimension):
    gram = np.diag([10_000.0, 100.0, 1.0]) ** 2
    drawn = Reference(gram, 3, 10**6).simulated(dimension, 4000)
    assert drawn[:, QUANTITIES.index("ratio_1")].mean() == pytest.approx((2 / (np.pi * dimension)) ** 0.5, rel=0.05)


def test_the_published_window_has_the_errors_that_simulation_gave():
    reference = Reference(np.diag(np.array(FIGURE_1A) ** 2), 10, FIGURE_1A_ELEMENTS)
    drawn = dict(zip(QUANTITIES, reference.simulated(100, 4000).mean(axis=0), strict=True))
    assert drawn["gap_2"] == pytest.approx(0.23, abs=0.015)
    assert drawn["ratio_2"] == pytest.approx(0.071, abs=0.006)


# The table


def projections(analysis, columns="*"):
    return analysis.rows(f"SELECT {columns} FROM projections ORDER BY scope, window_size, dimension, seed, quantity")


def test_the_table_holds_the_errors_of_every_seed_and_dimension_beside_their_band(analysis, tmp_path):
    states = walk(16)
    write_safetensors(tmp_path / "run", states)
    analysis.ingest(tmp_path / "run")
    analysis.compute(spectra=False, inference=False, windows=(5,), projections=(8, 30), projection_seeds=2)
    columns = "scope, window_size, dimension, seed, quantity, error, error_low, error_high, n, status"
    found = projections(analysis, columns)
    assert len(found) == 2 * 2 * len(QUANTITIES)
    theta = [np.concatenate([state[name].double().numpy().ravel() for name in state]) for state in states]
    updates = np.diff(theta, axis=0)
    for scope, size, dimension, seed, quantity, error, low, high, n, status in found:
        assert (scope, size) == ("all", 5)
        sketch = naive(states, states[0], seed, dimension) / dimension**0.5
        errors = dense_errors(updates, sketch, 5, lambda sigma: signal_rank(sigma, updates.shape[1]))[quantity]
        assert n == len(errors)
        if n:
            assert error == pytest.approx(np.mean(errors), rel=1e-6)
            assert 0 < low < high
        assert (status, error is None) == (("ok", False) if n else ("unresolved", True))


def test_projections_stand_until_the_run_grows_and_are_made_for_scopes_asked_for(analysis, tmp_path):
    write_safetensors(tmp_path / "run", walk(10))
    analysis.ingest(tmp_path / "run")
    analysis.compute(spectra=False, inference=False, windows=(5,), projections=(8,), projection_seeds=1)
    made = analysis.rows("SELECT finished FROM computations WHERE table_name = 'projections'")
    analysis.compute(spectra=False, inference=False)
    assert analysis.rows("SELECT finished FROM computations WHERE table_name = 'projections'") == made
    analysis.compute(spectra=False, inference=False, scopes=("role:query",))
    assert {row[0] for row in projections(analysis, "scope")} == {"all", "role:query"}
    write_safetensors(tmp_path / "run", walk(12))
    analysis.ingest(tmp_path / "run")
    analysis.compute(spectra=False, inference=False)
    assert {row[0] for row in projections(analysis, "n")} <= {7, *range(7)}
    assert max(row[0] for row in projections(analysis, "n")) == 7
    assert len(projections(analysis)) == 2 * len(QUANTITIES)


def test_a_history_with_nan_has_a_status_and_no_value(analysis, tmp_path):
    states = walk(9)
    states[4]["wte.weight"][0, 0] = float("nan")
    write_safetensors(tmp_path / "run", states)
    analysis.ingest(tmp_path / "run")
    analysis.compute(spectra=False, inference=False, windows=(5,), projections=(8,), projection_seeds=1)
    assert set(projections(analysis, "status, error, error_low, n")) == {("nonfinite", None, None, 0)}
