"""Windows without inference: what they leave out comes with a later request, and what is stale does not stay."""

import json

import duckdb
import pytest
from small import run_here, walk, write_safetensors

from sedarchive.compute.turns import Turns
from sedarchive.tables import Database

N = 30
TABLES = ("fits", "phases", "events", "couplings")
SHAPES = {"a.weight": (6, 6)}
"""Of no layer and no role, so that there is one scope."""


@pytest.fixture
def run(tmp_path):
    write_safetensors(tmp_path / "run", walk(N, shapes=SHAPES))
    log(tmp_path / "run", 2.0)
    return tmp_path / "run"


def log(run, level):
    rows = [{"step": 10 * at, "val_loss": level + (at * 7 % 11) / 10} for at in range(N)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def counts(analysis, where="true"):
    return {table: analysis.rows(f"SELECT count(*) FROM {table} WHERE {where}")[0][0] for table in TABLES}


def inferred(analysis):
    """Every row that was inferred, by table; text, since NULL and NaN must not matter."""
    return {table: sorted(map(str, analysis.rows(f"FROM {table}"))) for table in TABLES}


def test_what_no_inference_leaves_out_a_later_request_makes(analysis, run):
    analysis.ingest(run)
    analysis.compute(windows=(5,), spectra=False)
    at_once = inferred(analysis)
    analysis.database.unlink()
    analysis.compute(windows=(5,), spectra=False, inference=False)
    assert analysis.rows("SELECT count(*) > 0 FROM window_sigmas WHERE ratio_null_high IS NOT NULL") == [(True,)]
    assert set(counts(analysis).values()) == {0}
    computed = analysis.rows("SELECT DISTINCT table_name FROM computations ORDER BY ALL")
    assert computed == [("catalog",), ("drift",), ("windows",)]
    place = "--archive", analysis.archive, "--db", analysis.database
    assert "nothing was inferred from the windows" in run_here("query", "phases", *place, code=4).stderr
    assert "compute --preset xu2026" in run_here("query", "xu2026", *place, code=4).stderr
    analysis.compute(spectra=False)
    assert inferred(analysis) == at_once
    assert "nothing was inferred" not in run_here("query", "phases", *place).stderr


def test_nothing_inferred_from_other_windows_stays_beside_new_ones(analysis, run):
    analysis.ingest(run)
    analysis.compute(windows=(5,), spectra=False)
    before = counts(analysis)
    assert all(before.values())
    analysis.compute(spectra=False, inference=False)
    assert counts(analysis) == before
    log(run, 3.0)
    analysis.ingest(run)
    analysis.compute(spectra=False, inference=False)
    assert set(counts(analysis).values()) == {0}
    analysis.compute(spectra=False)
    assert counts(analysis) == before


def test_a_new_size_keeps_the_fits_and_phases_of_the_others(analysis, run):
    analysis.ingest(run)
    analysis.compute(windows=(5,), spectra=False)
    kept = counts(analysis, "window_size = 5")
    analysis.compute(windows=(7,), spectra=False, inference=False)
    assert counts(analysis, "window_size = 7") == dict.fromkeys(TABLES, 0)
    # couplings of a scope are searched over all its sizes: a p-value of fewer is none of these
    assert counts(analysis, "window_size = 5") == {**kept, "couplings": 0}


def test_the_command_has_the_option(analysis, run):
    analysis.ingest(run)
    where = ("--archive", analysis.archive, "--db", analysis.database)
    run_here("compute", "--no-spectra", "--no-inference", "--scope", "all", *where)
    assert set(counts(analysis).values()) == {0}


def test_a_turn_opens_the_file_once_and_its_end_lets_others_in(tmp_path):
    path = tmp_path / "a.duckdb"
    with Turns(path, "one") as turns:
        first = turns.database
        assert turns.database is first
        with turns.last() as database:
            assert database is first
        with Database.read(path, "one") as reader:
            assert reader.rows("FROM runs").rows == []
        assert turns.database is not first
    with pytest.raises(duckdb.Error):
        first.connection.execute("SELECT 1")


def test_a_request_to_which_nothing_is_new_opens_the_database_once(analysis, run, monkeypatch):
    analysis.ingest(run)
    analysis.compute(windows=(5,), scopes=("all",))
    opened = []
    create_or_open = Database.create_or_open.__func__

    def counted(cls, *args):
        opened.append(args)
        return create_or_open(cls, *args)

    monkeypatch.setattr(Database, "create_or_open", classmethod(counted))
    analysis.compute()
    assert len(opened) == 1
