"""Importance of layers: files of users, rank correlations against scipy, and rows beside the spectra."""

import duckdb
import numpy as np
import pytest
from scipy import stats
from small import data_of, run_here, walk, write_safetensors

from sedarchive.compute.lifecycle.importance_file import read_importance
from sedarchive.errors import HistoryError
from sedarchive.lifecycle.importance import rank_correlation

HEAD = "run,layer,importance,metric\n"


@pytest.mark.parametrize("n", [4, 5, 6])
def test_few_layers_have_scipys_exact_p(n):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=n), np.round(rng.normal(size=n), 0)  # with ties

    def size(one):
        return abs(stats.spearmanr(one, y).statistic)

    exact = {"permutation_type": "pairings", "n_resamples": np.inf, "alternative": "greater"}
    found = rank_correlation(x, y)
    assert found.p == pytest.approx(stats.permutation_test((x,), size, **exact).pvalue)
    assert found.rho == pytest.approx(stats.spearmanr(x, y).statistic)
    assert (found.n, found.status) == (n, "few")


def test_the_order_of_four_layers_is_one_of_twenty_four():
    found = rank_correlation(np.arange(4.0), np.arange(4.0) ** 2)
    assert (found.rho, found.p) == (pytest.approx(1), pytest.approx(2 / 24))


def test_noise_is_rejected_as_often_as_said_and_a_monotone_law_is_found():
    rng = np.random.default_rng(0)
    p = [rank_correlation(*rng.normal(size=(2, 12))).p for _ in range(300)]
    assert 0.02 < np.mean(np.array(p) <= 0.05) < 0.09
    x = rng.normal(size=14)
    found = rank_correlation(x, np.exp(x))
    assert found.p == pytest.approx(1 / 10_000)
    assert found.null_low < -0.4 < 0.4 < found.null_high


@pytest.mark.parametrize(("n", "status"), [(3, "too_few"), (6, "constant")])
def test_what_cannot_be_correlated_says_so(n, status):
    found = rank_correlation(np.arange(float(n)), np.ones(n))
    assert found.status == status
    assert np.isnan(found.p)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of eight layers in the archive; where it and its tables stand."""
    root = tmp_path_factory.mktemp("place")
    shapes = {f"blocks.{at}.mlp.up_proj.weight": (14, 8) for at in range(8)}
    write_safetensors(root / "r", walk(1, shapes=shapes))
    at = ["--archive", root / "a.zarr", "--db", root / "a.duckdb"]
    run_here("ingest", root / "r", *at[:2])
    return at


def test_a_table_of_importance_stands_beside_the_spectra(place, tmp_path):
    rows = [f"r,{layer},{0.1 * (layer - 3) ** 2},loss" for layer in range(8)]
    (tmp_path / "i.csv").write_text(
        HEAD + "\n".join([*rows, "r,x,1,loss", "r,2,nan,loss", "r,9,1,loss", "s,0,1,loss"]) + "\n"
    )
    said = run_here("compute", "--no-inference", "--importance", tmp_path / "i.csv", *place).stderr
    assert "row 9 is ignored" in said
    assert "row 10 is ignored" in said
    assert "importance, not used: loss of r: there is no layer 9" in said
    assert "importance, not used: loss of s: there is no such run" in said
    found = data_of(run_here("query", "importance", "--json", *place[2:]))
    by_key = {(row["feature"], row["layers"]): row for row in found}
    assert by_key["alpha", "all"]["n"] == 8
    assert by_key["alpha", "core"]["n"] == 6
    sql = "SELECT alpha, stable_rank FROM matrix_stats ORDER BY layer"
    values = data_of(run_here("query", sql, "--json", *place[2:]))
    importance = [0.1 * (layer - 3) ** 2 for layer in range(8)]
    for feature in ("alpha", "stable_rank"):
        wanted = stats.spearmanr([row[feature] for row in values], importance).statistic
        assert by_key[feature, "all"]["rho"] == pytest.approx(wanted)
    inner = np.mean(importance[1:7])
    assert by_key["excess", "boundary"]["rho"] == pytest.approx((importance[0] + importance[7]) / 2 - inner)
    run_here("compute", "--no-inference", *place)  # what was given stays
    assert data_of(run_here("query", "importance", "--json", *place[2:])) == found


def test_parquet_says_what_csv_says(tmp_path):
    (tmp_path / "a.csv").write_text("run,layer,importance\nr,0,1.5\nr,1,2\n")
    path = tmp_path / "odd[name]*.parquet"
    duckdb.execute(f"COPY (SELECT 'r' AS run, unnest([0, 1]) AS layer, unnest([1.5, 2]) AS importance) TO '{path}'")
    wanted = {("r", "importance"): {0: 1.5, 1: 2.0}}
    assert read_importance(tmp_path / "a.csv").values == read_importance(path).values == wanted


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", b"run,layer\nr,1\n", "lacks importance"),
        ("a.csv", b"", "lacks run, layer, importance"),
        ("a.csv", b"\xff\xfe\x00", "cannot be read"),
        ("a.csv", b'run,layer,importance\n"r,1', "cannot be read"),
        ("a.parquet", b"PAR1 not at all", "cannot be read"),
        ("none.csv", None, "cannot be read"),
    ],
)
def test_a_file_that_is_none_is_told(tmp_path, name, text, words):
    if text is not None:
        (tmp_path / name).write_bytes(text)
    with pytest.raises(HistoryError, match=words):
        read_importance(tmp_path / name)
