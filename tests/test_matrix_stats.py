"""Metrics of stored spectra in their table: the same whatever they are summarised with, made once, held in portions."""

import numpy as np
import pytest

from sedarchive.compute.matrix import matrix_nulls, matrix_rows, matrix_stats
from sedarchive.compute.matrix.matrix_rows import stats_columns
from sedarchive.compute.matrix.matrix_stats import refresh_matrix_stats
from sedarchive.compute.turns import Turns
from sedarchive.executor import Executor
from sedarchive.matrix.gaussian import gaussian_sigmas
from sedarchive.matrix.stack import SpectraStack
from sedarchive.tables import Database

SHAPES = {"a": (24, 24), "b": (40, 24), "c": (24, 24), "thin": (60, 3), "d": (24, 24)}
ALONE = Executor(1)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(matrix_rows, "MOST_DRAWS", 6)
    monkeypatch.setattr(matrix_rows, "FEWEST_DRAWS", 6)


@pytest.fixture
def turns(tmp_path):
    with Turns(tmp_path / "t.duckdb", "archive") as turns:
        yield turns


def spectra_of(matrix, steps):
    seed = sorted(SHAPES).index(matrix)
    return gaussian_sigmas(*SHAPES[matrix], len(steps) + steps[0], seed=seed)[steps[0] :]


def insert(database, matrices, steps, run="one", status="ok"):
    for matrix in matrices:
        n_rows, n_cols = SHAPES[matrix]
        if not database.rows("SELECT 1 FROM matrices WHERE run = ? AND matrix = ?", [run, matrix]).rows:
            shape = {"n_rows": n_rows, "n_cols": n_cols, "layer": 3, "role": "key"}
            database.insert("matrices", {"run": run, "matrix": [matrix], **shape})
        sigma = np.empty(len(steps), dtype=object)
        sigma[:] = list(spectra_of(matrix, steps)) if status == "ok" else None
        found = {"step": list(steps), "sigma": sigma, "n_resolved": min(n_rows, n_cols), "status": status}
        database.insert("matrix_spectra", {"run": run, "matrix": matrix, **found})


def content(database, table="matrix_stats"):
    return database.rows(f"SELECT * FROM {table} ORDER BY ALL").rows


def nulls(database):
    return database.rows("SELECT n_rows, n_cols, count(*), any_value(digest) FROM matrix_nulls GROUP BY ALL").rows


def test_metrics_of_a_spectrum_do_not_depend_on_its_company():
    rng = np.random.default_rng(0)
    for n_values in (1, 2, 3, 17, 111):
        sigma = np.sort(rng.pareto(1.5, (23, n_values)) + 1e-3, axis=1)[:, ::-1]
        n_resolved = rng.integers(1, n_values + 1, 23)
        together = stats_columns(SpectraStack(sigma, n_resolved), 120, n_values)
        for size in (1, 2, 7):
            for first in range(0, 23, size):
                part = slice(first, first + size)
                alone = stats_columns(SpectraStack(sigma[part].copy(), n_resolved[part]), 120, n_values)
                for name, values in alone.items():
                    assert np.array_equal(values, together[name][part], equal_nan=values.dtype.kind == "f"), name


@pytest.mark.parametrize("values", [2**17, 24 * 3])
def test_a_grown_run_has_the_metrics_of_a_fresh_one_whatever_the_portions(turns, tmp_path, monkeypatch, values):
    insert(turns.database, ["a", "b", "thin"], range(4))
    refresh_matrix_stats("one", turns, ALONE)
    monkeypatch.setattr(matrix_stats, "_BATCH_VALUES", values)
    monkeypatch.setattr(matrix_stats, "_ROUND_BATCHES", 2)
    insert(turns.database, ["a", "b", "thin"], range(4, 7))
    insert(turns.database, ["c", "d"], range(7))
    assert refresh_matrix_stats("one", turns, Executor(2)) == 9 + 14
    with Turns(tmp_path / "fresh.duckdb", "archive") as fresh:
        insert(fresh.database, SHAPES, range(7))
        assert refresh_matrix_stats("one", fresh, ALONE) == 35
        assert content(fresh.database) == content(turns.database)
        assert content(fresh.database, "matrix_nulls") == content(turns.database, "matrix_nulls")
    assert refresh_matrix_stats("one", turns, ALONE) == 0


def test_no_more_spectra_are_held_than_a_round_takes(turns, monkeypatch):
    insert(turns.database, ["a", "b", "c", "thin"], range(10))
    monkeypatch.setattr(matrix_stats, "_BATCH_VALUES", 24 * 4)
    monkeypatch.setattr(matrix_stats, "_ROUND_BATCHES", 2)
    held = []
    monkeypatch.setattr(ALONE.__class__, "map", lambda _, function, tasks: held.append(tasks) or map(function, tasks))
    refresh_matrix_stats("one", turns, ALONE)
    batches = [task for tasks in held[:-1] for task in tasks]
    assert max(len(tasks) for tasks in held[:-1]) == 2
    assert max(len(batch.rows) * min(batch.shape) for batch in batches) <= 24 * 4
    assert len(content(turns.database)) == 40


def test_an_interrupted_refresh_goes_on_where_it_stopped(turns, monkeypatch):
    insert(turns.database, ["a", "b"], range(6))
    monkeypatch.setattr(matrix_stats, "_BATCH_VALUES", 24 * 6)
    monkeypatch.setattr(matrix_stats, "_ROUND_BATCHES", 1)
    calls = iter([None, KeyboardInterrupt])
    inner = matrix_stats._summarised

    def interrupted(truncated, batch):
        if next(calls):
            raise KeyboardInterrupt
        return inner(truncated, batch)

    monkeypatch.setattr(matrix_stats, "_summarised", interrupted)
    with pytest.raises(KeyboardInterrupt):
        refresh_matrix_stats("one", turns, ALONE)
    assert len(content(turns.database)) == 6
    monkeypatch.setattr(matrix_stats, "_summarised", inner)
    assert refresh_matrix_stats("one", turns, ALONE) == 6


def test_spectra_without_values_say_why(turns):
    insert(turns.database, ["a"], [0], status="nonfinite")
    insert(turns.database, ["c"], [0], status="zero")
    refresh_matrix_stats("one", turns, ALONE)
    sql = "SELECT matrix, status, spectral_norm, alpha FROM matrix_stats ORDER BY ALL"
    assert turns.database.rows(sql).rows == [("a", "nonfinite", None, None), ("c", "zero", 0.0, None)]
    assert nulls(turns.database) == []


def test_metrics_by_other_definitions_are_made_again(turns, monkeypatch):
    insert(turns.database, ["a"], range(2))
    refresh_matrix_stats("one", turns, ALONE)
    monkeypatch.setattr(matrix_stats, "ALGORITHM", "matrix-stats-next")
    assert refresh_matrix_stats("one", turns, ALONE) == 2
    assert refresh_matrix_stats("one", turns, ALONE) == 0
    assert len(content(turns.database)) == 2


def test_truncated_power_laws_come_when_asked_for_with_their_null(turns):
    insert(turns.database, ["a", "b"], range(3))
    refresh_matrix_stats("one", turns, ALONE)
    plain = content(turns.database)
    count = "SELECT count(*), count(alpha_truncated_status) FROM matrix_stats"
    assert turns.database.rows(count).rows == [(6, 0)]
    assert refresh_matrix_stats("one", turns, ALONE, truncated=True) == 6
    assert turns.database.rows(count).rows == [(6, 6)]
    metrics = "SELECT count(DISTINCT metric) FROM matrix_excess WHERE metric = 'alpha_truncated'"
    assert turns.database.rows(metrics).rows == [(1,)]
    assert refresh_matrix_stats("one", turns, ALONE, truncated=True) == 0
    refresh_matrix_stats("one", turns, ALONE)
    assert content(turns.database) == plain


def test_nulls_by_other_definitions_are_drawn_again_and_known_ones_are_kept(turns, monkeypatch):
    insert(turns.database, ["a", "b"], [0])
    insert(turns.database, ["a", "thin"], [0], run="two")
    drawn = []
    inner = matrix_nulls.null_columns
    monkeypatch.setattr(matrix_nulls, "null_columns", lambda *given: drawn.append(given[:2]) or inner(*given))
    refresh_matrix_stats("one", turns, ALONE)
    refresh_matrix_stats("two", turns, ALONE)
    assert sorted(drawn) == [(24, 24), (40, 24), (60, 3)]
    before = {digest for *_, digest in nulls(turns.database)}
    monkeypatch.setattr(matrix_nulls, "ALGORITHM", "matrix-nulls-next")
    drawn.clear()
    refresh_matrix_stats("one", turns, ALONE)
    assert sorted(drawn) == [(24, 24), (40, 24)]
    refresh_matrix_stats("two", turns, ALONE)
    assert sorted(drawn) == [(24, 24), (40, 24), (60, 3)]
    after = {digest for *_, digest in nulls(turns.database)}
    assert (len(before), len(after), before & after) == (1, 1, set())


def test_the_nulls_hold_every_metric_that_the_view_compares(turns):
    with Database.in_memory() as tables:
        [(sql,)] = tables.rows("SELECT sql FROM duckdb_views() WHERE view_name = 'matrix_excess'").rows
    insert(turns.database, ["a"], [0])
    refresh_matrix_stats("one", turns, ALONE)
    for (metric,) in turns.database.rows("SELECT DISTINCT metric FROM matrix_nulls").rows:
        assert metric in sql
    known = turns.database.rows("SELECT count(DISTINCT metric) FROM matrix_nulls").rows
    assert turns.database.rows("SELECT count(DISTINCT metric) FROM matrix_excess").rows == known
