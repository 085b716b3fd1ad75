"""Metrics at a fixed aspect ratio: how matrices are cut, what is fitted, its null, and the rows of ``compute``."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import run_here, walk, write_safetensors

from sedarchive.compute.matrix import aspect_rows, matrix_rows
from sedarchive.compute.matrix.aspect_rows import METRICS, aspect_null
from sedarchive.compute.options import ComputeOptions
from sedarchive.compute.plans import plan_compute
from sedarchive.compute.refresh import compute
from sedarchive.compute.requests import MatrixRequests
from sedarchive.matrix.aspect import MOST_PARTS, Cut, parts_metrics
from sedarchive.matrix.density import fit_tail
from sedarchive.matrix.stack import SpectraStack
from sedarchive.tables import Database

SHAPES = {"h.0.attn.c_proj.weight": (6, 6), "h.0.attn.c_attn.weight": (24, 72), "h.0.mlp.c_fc.weight": (24, 60)}
DENSITIES = {"alpha_hill", "alpha_mle"}


@pytest.fixture
def few_draws(monkeypatch):
    for module, name in ((matrix_rows, "MOST_DRAWS"), (matrix_rows, "FEWEST_DRAWS"), (aspect_rows, "DRAWS")):
        monkeypatch.setattr(module, name, 5)


def stack_of(cut, matrix):
    sigma = np.stack([np.linalg.svd(part, compute_uv=False) for part in cut.parts(matrix)])
    return SpectraStack(sigma, np.full(len(sigma), sigma.shape[1]))


@settings(max_examples=200, deadline=None)
@given(m=st.integers(1, 90), n=st.integers(1, 90), aspect=st.floats(1, 12))
def test_a_matrix_is_cut_into_equal_parts_that_do_not_overlap(m, n, aspect):
    cut = Cut.of(m, n, aspect)
    count = np.zeros((m, n), dtype=int)
    for part in cut.parts(count):
        assert part.shape == (cut.n_rows, cut.n_cols)
        part += 1
    assert count.max() == 1
    longer, shorter = max(part.shape), min(part.shape)
    if shorter > 1:
        assert longer / shorter == pytest.approx(aspect, rel=1.0 / shorter + 1.0 / longer)
    assert cut.n_rows == m or cut.n_cols == n
    assert 1 <= len(cut.starts) <= MOST_PARTS
    turned = Cut.of(n, m, aspect)
    if m != n:
        assert (turned.n_cols, turned.n_rows, turned.starts) == (cut.n_rows, cut.n_cols, cut.starts)


@pytest.mark.parametrize(
    ("shape", "aspect", "part", "starts"),
    [
        ((6, 6), 1, (6, 6), (0,)),
        ((6, 20), 1, (6, 6), (0, 7, 14)),
        ((20, 6), 2, (12, 6), (0,)),
        ((8, 8), 2, (8, 4), (0, 4)),
        ((4, 100), 1, (4, 4), (0, 13, 27, 41, 54, 68, 82, 96)),
    ],
)
def test_parts_are_the_largest_that_fit_and_spread_evenly(shape, aspect, part, starts):
    cut = Cut.of(*shape, aspect)
    assert ((cut.n_rows, cut.n_cols), cut.starts) == (part, starts)


def test_densities_are_fitted_to_all_eigenvalues_and_the_rest_is_averaged():
    matrix = np.random.default_rng(0).standard_normal((20, 70))
    cut = Cut.of(20, 70, 1)
    found = parts_metrics(stack_of(cut, matrix))
    assert set(found) == set(METRICS)
    spectra = [np.linalg.svd(matrix[:, start : start + 20], compute_uv=False) for start in cut.starts]
    together = np.sort(np.concatenate(spectra) ** 2)
    tail = fit_tail(together)
    assert found["alpha_mle"].value == pytest.approx(tail.alpha, rel=1e-9)
    assert (found["alpha_mle"].n, found["alpha_mle"].x_min) == (tail.n_tail, pytest.approx(tail.x_min))
    k = len(together) // 2
    hill = 1 + k / np.log(together[-k:] / together[-k - 1]).sum()
    assert found["alpha_hill"].value == pytest.approx(hill)
    ranks = [(sigma**2).sum() / sigma[0] ** 2 for sigma in spectra]
    assert found["stable_rank"].value == pytest.approx(np.mean(ranks))
    assert found["stable_rank"].se == pytest.approx(np.std(ranks, ddof=1) / np.sqrt(3))


def test_the_shape_bias_is_gone():
    """Gaussian matrices of ratio 1 and 4 differ in every exponent, and do not at a fixed ratio."""
    rng = np.random.default_rng(1)
    values = {shape: [] for shape in [(40, 40), (40, 160)]}
    whole = {shape: [] for shape in values}
    for shape, found in values.items():
        for _ in range(60):
            matrix = rng.standard_normal(shape)
            found.append(parts_metrics(stack_of(Cut.of(*shape, 1), matrix)))
            sigma = np.linalg.svd(matrix, compute_uv=False)
            whole[shape].append(parts_metrics(SpectraStack(sigma[None], np.array([len(sigma)]))))
    for name in METRICS:
        square, wide = ([one[name].value for one in values[shape]] for shape in values)
        error = np.hypot(np.std(square), np.std(wide)) / np.sqrt(60)
        plain = [np.mean([one[name].value for one in whole[shape]]) for shape in whole]
        if name not in DENSITIES:  # the maximum of a likelihood over more values is another
            assert abs(np.mean(square) - np.mean(wide)) < 4 * error, name
        assert abs(plain[0] - plain[1]) > 8 * error or name == "alpha_mle", name


@pytest.mark.parametrize(("shape", "aspect"), [((30, 30), 2), ((24, 100), 1)])
def test_fresh_gaussian_matrices_show_no_excess_and_planted_power_laws_do(shape, aspect):
    cut = Cut.of(*shape, aspect)
    sides = sorted((cut.n_rows, cut.n_cols))
    null = aspect_null((sides[1], sides[0], len(cut.starts)), draws=300)
    rng = np.random.default_rng(2)
    fresh = [parts_metrics(stack_of(cut, 3 * rng.standard_normal(shape))) for _ in range(200)]
    k = min(shape)
    profile = 12 * np.arange(1, k + 1.0) ** -1.2
    planted = []
    for _ in range(60):
        left, right = (np.linalg.qr(rng.standard_normal((n, k)))[0] for n in shape)
        matrix = (left * profile) @ right.T + 0.002 * rng.standard_normal(shape)
        planted.append(parts_metrics(stack_of(cut, matrix)))
    for at, name in enumerate(null["metric"]):
        values = np.array([one[name].value for one in fresh])
        error = np.hypot(values.std() / np.sqrt(200), null["sd"][at] / np.sqrt(300))
        assert abs(values.mean() - null["mean"][at]) < 3.5 * error, name
        tried = np.array([one[name].value for one in planted])
        if name.startswith("alpha"):
            beyond = tried < null["low"][at] if name in DENSITIES else tried > null["high"][at]
            assert np.mean(beyond) >= 0.95, name


# rows


def contents(analysis, table="aspect_stats"):
    return analysis.rows(f"SELECT * FROM {table} ORDER BY ALL")


def test_rows_are_those_of_the_weights_and_only_new_steps_are_read(analysis, tmp_path, few_draws):
    states = walk(4, shapes=SHAPES)
    write_safetensors(tmp_path / "run", states[:3])
    analysis.ingest(tmp_path / "run")
    analysis.compute(inference=False)
    assert contents(analysis) == []
    wanted = MatrixRequests(aspects=(1.0, 2.5))
    analysis.compute(inference=False, matrices=wanted)
    first = contents(analysis)
    counted = analysis.rows("SELECT count(*), count(DISTINCT metric) FROM aspect_stats")
    n_matrices = analysis.rows("SELECT count(*) FROM matrices")[0][0]
    assert counted == [(3 * n_matrices * 2 * len(METRICS), len(METRICS))]
    write_safetensors(tmp_path / "run", states)
    analysis.ingest(tmp_path / "run")
    analysis.compute(inference=False)  # the request is remembered
    grown = contents(analysis)
    assert set(first) < set(grown)
    sql = """
        SELECT part_rows, part_cols, n_parts, value, status FROM aspect_stats
        WHERE matrix = 'h.0.mlp.c_fc.weight' AND step = 30 AND aspect = 1 AND metric = ?
    """
    weight = states[3]["h.0.mlp.c_fc.weight"].double().numpy()
    found = parts_metrics(stack_of(Cut.of(24, 60, 1), weight))
    for name in METRICS:
        [(rows, columns, n, value, status)] = analysis.rows(sql, [name])
        assert (rows, columns, n) == (24, 24, 2)
        assert value == pytest.approx(found[name].value, rel=1e-6), name
        assert status in ("ok", "short_tail")
    assert analysis.rows("SELECT count(DISTINCT metric) FROM aspect_excess") == [(len(METRICS),)]
    analysis.database.unlink()
    analysis.compute(inference=False, matrices=wanted)
    assert contents(analysis) == grown


def test_a_dry_run_counts_the_reads_of_sub_matrices_until_they_are_there(analysis, tmp_path, few_draws):
    write_safetensors(tmp_path / "run", walk(3, shapes=SHAPES))
    analysis.ingest(tmp_path / "run")
    n_bytes = 3 * sum(4 * prod(shape) for shape in SHAPES.values() if len(shape) == 2)

    def planned(*asked):
        options = ComputeOptions(matrices=MatrixRequests(aspects=asked))
        [plan] = plan_compute(analysis.archive, analysis.database, options)
        return [sweep.read_bytes for sweep in plan.spectra]

    assert (planned(), planned(1.0)) == ([n_bytes], [n_bytes, n_bytes])
    analysis.compute(inference=False)
    assert (planned(), planned(1.0)) == ([0], [0, n_bytes])
    analysis.compute(inference=False, matrices=MatrixRequests(aspects=(1.0,)))
    assert planned() == [0, 0]  # what was asked for before is planned, too


def test_matrices_without_values_say_why(analysis, tmp_path, few_draws):
    states = walk(2, shapes=SHAPES)
    states[1]["h.0.mlp.c_fc.weight"][:] = 0
    states[1]["h.0.attn.c_proj.weight"][0, 0] = float("nan")
    write_safetensors(tmp_path / "run", states)
    analysis.ingest(tmp_path / "run")
    analysis.compute(inference=False, matrices=MatrixRequests(aspects=(1.0,)))
    sql = "SELECT DISTINCT matrix, status, value FROM aspect_stats WHERE step = 10 AND status IN ('zero', 'nonfinite')"
    assert analysis.rows(f"{sql} ORDER BY ALL") == [
        ("h.0.attn.c_proj.weight", "nonfinite", None),
        ("h.0.mlp.c_fc.weight", "zero", None),
    ]


def test_the_command_takes_both_requests_and_keeps_them(analysis, tmp_path, few_draws):
    write_safetensors(tmp_path / "run", walk(3, shapes=SHAPES))
    analysis.ingest(tmp_path / "run")
    place = ("--archive", analysis.archive, "--db", analysis.database, "--no-inference", "--quiet")
    said = run_here("compute", *place, "--truncated", "--fixed-aspect", "1", "--fixed-aspect", "2").stderr
    again = run_here("compute", *place).stderr
    n = 3 * 5 * 2  # checkpoints, matrices (queries, keys and values apart), aspects
    assert f"; sub-matrices of a fixed aspect: {n} computed, 0 reused\n" in said
    assert f"; sub-matrices of a fixed aspect: 0 computed, {n} reused\n" in again
    with Database.read(analysis.database) as tables:
        sql = "SELECT kind, value FROM requests WHERE kind IN ('truncated', 'fixed_aspect') ORDER BY ALL"
        assert tables.rows(sql).rows == [("fixed_aspect", "1.0"), ("fixed_aspect", "2.0"), ("truncated", "yes")]
        assert tables.rows("SELECT count(alpha_truncated_status) > 0 FROM matrix_stats").rows == [(True,)]
    run_here("compute", *place, "--fixed-aspect", "0.5", code=2)


def test_progress_tells_sub_matrices_and_their_nulls_from_whole_matrices(analysis, tmp_path, few_draws):
    write_safetensors(tmp_path / "run", walk(2, shapes=SHAPES))
    analysis.ingest(tmp_path / "run")
    seen = {}
    options = ComputeOptions(inference=False, matrices=MatrixRequests(aspects=(1.0,)))
    compute(analysis.archive, analysis.database, options, lambda stage, done, total: seen.update({stage: done / total}))
    for stage in ("spectra run", "spectra of sub-matrices run", "nulls of sub-matrices"):
        assert seen[stage] == 1


def test_bytes_that_cannot_be_read_become_a_finding_and_the_rest_is_computed(analysis, tmp_path, few_draws):
    write_safetensors(tmp_path / "run", walk(3, shapes=SHAPES))
    analysis.ingest(tmp_path / "run")
    analysis.compute(inference=False)
    [chunk] = [path for path in (analysis.archive / "run" / "theta").glob("*c_fc*/c/**/*") if path.is_file()]
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    [report] = analysis.compute(inference=False, matrices=MatrixRequests(aspects=(1.0,)))
    assert [finding.tensor for finding in report.findings] == ["h.0.mlp.c_fc.weight"]
    sql = "SELECT DISTINCT status = 'unreadable', matrix LIKE '%c_fc%' FROM aspect_stats ORDER BY ALL"
    assert analysis.rows(sql) == [(False, False), (True, True)]
