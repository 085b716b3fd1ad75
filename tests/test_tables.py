"""The database: its contract, its transactions, its locks, and what may be asked of it."""

import datetime
import shutil
import subprocess
import sys
import textwrap

import duckdb
import numpy as np
import pytest

from sedarchive.errors import DatabaseError
from sedarchive.result import Result
from sedarchive.tables import Database, write_parquet

CONTRACT = {
    "runs": "run source architecture n_checkpoints n_parameters n_layers run_group family task seed optimizer beta1 "
    "beta2 lr weight_decay arm dose parent_run parent_step",
    "checkpoints": "run step checkpoint_index tokens source digest lr weight_decay",
    "tensors": "run tensor shape dtype n_elements layer role kind tied_to skipped_reason",
    "matrices": "run matrix tensor layer role expert n_rows n_cols",
    "metrics": "run step name value source",
    "checkpoint_metrics": "run step name value join_rule distance",
    "audit": "run step tensor check_name severity detail",
    "updates": "run scope step norm cos_previous zero_fraction quantization_noise status",
    "windows": "run scope window_size step step_first step_centre edge_ratio edge_k signal_rank signal_rank_mp "
    "signal_rank_argmax signal_rank_weighted gap mp_edge bbp_ratio pc1_share k95 drift_speed gram_change_operator "
    "gram_change_positional gram_change_proxy adiabatic_free adiabatic_step adiabatic_interval p_eff edge_ratio_null "
    "edge_ratio_null_high edge_ratio_p irregular status",
    "window_sigmas": "run scope window_size step k sigma ratio sigma_null ratio_null_low ratio_null_high "
    "overlap_previous stability_dk stability_split status",
    "phases": "run scope window_size k method phase step_from step_to threshold status",
    "events": "run scope window_size event method step low high p causal status",
    "couplings": "run scope window_size feature target stamp detrend phase lag r n n_eff p low high status",
    "drift": "run scope kind reference_step step displacement backbone_coordinate residual backbone_share status",
    "components": "run scope kind step_from step_to k share share_null null_low null_high p status",
    "matrix_spectra": "run step matrix sigma resolution n_resolved method status",
    "matrix_sigmas": "run step matrix k sigma",
    "matrix_stats": "run step matrix layer role n_rows n_cols frobenius_norm spectral_norm stable_rank entropy "
    "effective_rank sigma_ratio alpha alpha_se alpha_status alpha_top_half alpha_top_half_status alpha_hill "
    "alpha_mle alpha_mle_x_min alpha_mle_status alpha_truncated alpha_truncated_status status",
    "matrix_nulls": "n_rows n_cols metric mean sd low high draws digest",
    "aspect_stats": "run step matrix layer role aspect part_rows part_cols n_parts metric value se n status",
    "aspect_nulls": "part_longer part_shorter n_parts metric mean sd low high draws",
    "fits": "fit run scope parameter estimate low high n r2 r2_out_of_sample status",
    "computations": "run table_name key options versions digests started finished",
    "requests": "kind value",
    "presets": "preset choice value evidence source",
    "schema_meta": "key value",
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "archive.duckdb"


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    made = tmp_path_factory.mktemp("template") / "archive.duckdb"
    Database.create_or_open(made, "mine").close()
    return made


@pytest.fixture
def db(path, template):
    shutil.copyfile(template, path)  # the schema takes longer to make than to copy
    with Database.create_or_open(path, "mine") as database:
        yield database


def test_the_contract_tables_have_their_columns(db):
    columns = {}
    for table, column, _, _ in db.describe().rows:
        columns.setdefault(table, set()).add(column)
    assert {table: set(names.split()) - columns[table] for table, names in CONTRACT.items()} == {
        t: set() for t in CONTRACT
    }


def test_every_column_has_a_comment_that_ends_in_its_unit(db):
    lacking = [(table, column) for table, column, _, comment in db.describe().rows if not (comment or "").endswith("]")]
    assert lacking == []


def test_types_are_the_few_that_other_tools_read(db):
    types = {type_name for _, _, type_name, _ in db.describe().rows}
    assert types == {"VARCHAR", "DOUBLE", "BIGINT", "BOOLEAN", "TIMESTAMP", "DOUBLE[]"}


def test_fact_tables_have_no_keys_that_would_slow_inserts(db):
    assert db.rows("SELECT * FROM duckdb_constraints()").rows == []


def test_nan_and_none_become_null_and_left_out_columns_too(db):
    columns = {
        "step": [1, None, 3],
        "norm": np.array([1.5, np.nan, np.inf]),
        "cos_previous": [None, 0.5, float("nan")],
        "status": ["ok", None, "nonfinite"],
    }
    db.replace("updates", {"run": "a", "scope": "all"}, columns)
    found = db.rows(
        "SELECT run, scope, step, norm, cos_previous, zero_fraction, status FROM updates ORDER BY rowid"
    ).rows
    assert found == [
        ("a", "all", 1, 1.5, None, None, "ok"),
        ("a", "all", None, None, 0.5, None, None),
        ("a", "all", 3, float("inf"), None, None, "nonfinite"),
    ]


def test_lists_flags_times_and_masked_counts_keep_their_nulls(db):
    spectra = {"step": [0, 1, 2], "matrix": "w", "sigma": [np.array([3.0, np.nan]), None, []]}
    db.replace("matrix_spectra", {"run": "a"}, spectra)
    assert db.rows("SELECT sigma FROM matrix_spectra ORDER BY step").rows == [([3.0, None],), (None,), ([],)]
    assert db.rows("SELECT step, k, sigma FROM matrix_sigmas ORDER BY step, k").rows == [(0, 1, 3.0), (0, 2, None)]
    windows = {"irregular": [True, None, False], "edge_k": np.ma.array([1, 2, 3], mask=[False, True, False])}
    db.replace("windows", {"run": "a"}, windows)
    assert db.rows("SELECT irregular, edge_k FROM windows ORDER BY rowid").rows == [(True, 1), (None, None), (False, 3)]
    aware = datetime.datetime(2026, 1, 2, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    db.replace("computations", {"run": "a"}, {"started": [aware, None], "finished": datetime.datetime(2026, 5, 6)})
    assert db.rows("SELECT started, finished FROM computations ORDER BY rowid").rows == [
        (datetime.datetime(2026, 1, 2, 1), datetime.datetime(2026, 5, 6)),
        (None, datetime.datetime(2026, 5, 6)),
    ]


NUMBERS = [None, 0.0, -0.0, 1 / 3, 5e-324, 1.7976931348623157e308, float("inf"), float("-inf")]
COUNTS = [None, 0, -1, 2**31, 2**53 + 1, 2**63 - 1, -(2**63)]
TEXTS = [None, "", "NaN", "None", "null", "a'b\"c", "é\n", "𝛔", "x" * 5000]


@pytest.mark.parametrize("seed", range(8))
def test_what_is_written_is_what_is_read(db, seed):
    rng = np.random.default_rng(seed)
    n_rows = int(rng.integers(0, 3000))
    drawn = {"value": NUMBERS, "step": COUNTS, "name": TEXTS}
    columns = {name: [choices[i] for i in rng.integers(0, len(choices), n_rows)] for name, choices in drawn.items()}
    db.replace("metrics", {"run": "a"}, columns)
    found = db.rows("SELECT value, step, name FROM metrics ORDER BY rowid").rows
    assert found == list(zip(*columns.values(), strict=True))


def test_replacing_touches_only_the_rows_that_match(db):
    for run in ("a", "b"):
        for scope in ("all", None):
            db.replace("updates", {"run": run, "scope": scope}, {"step": [1, 2]})
    db.replace("updates", {"run": "a", "scope": None}, {"step": [7]})
    db.replace("updates", {"run": "b", "scope": "all"}, {})
    found = db.rows("SELECT run, scope, step FROM updates ORDER BY ALL NULLS LAST").rows
    assert found == [("a", "all", 1), ("a", "all", 2), ("a", None, 7), ("b", None, 1), ("b", None, 2)]


def test_columns_that_are_all_single_values_make_one_row(db):
    db.replace("requests", {"kind": "window"}, {"value": "10"})
    assert db.rows("SELECT * FROM requests").rows == [("window", "10")]


def test_many_rows_are_written_at_once(db):
    n_rows = 50_000
    columns = {"step": np.arange(n_rows), "k": np.arange(n_rows) % 10, "sigma": np.linspace(0, 1, n_rows)}
    db.replace("window_sigmas", {"run": "a"}, columns)
    expected = [(n_rows, sum(range(n_rows)), pytest.approx(n_rows / 2))]
    assert db.rows("SELECT count(*), CAST(sum(step) AS BIGINT), sum(sigma) FROM window_sigmas").rows == expected


@pytest.mark.parametrize(
    ("table", "where", "columns", "message"),
    [
        ("nothing", {}, {"a": [1]}, "no table 'nothing'"),
        ("updates", {}, {"step": [1], "speed": [1.0]}, "no column speed; it has run, scope"),
        ("updates", {"speed": 1}, {"step": [1]}, "no column speed"),
        ("updates", {}, {"step": [1, 2], "norm": [1.0]}, "differ in length"),
        ("updates", {}, {"step": [1.5]}, "updates.step .BIGINT. cannot hold"),
        ("updates", {}, {"step": [2**63]}, "updates.step"),
        ("updates", {}, {"norm": ["1.5"]}, "updates.norm"),
        ("updates", {}, {"norm": np.zeros((2, 2))}, "shape"),
        ("updates", {}, {"scope": [3]}, "updates.scope"),
        ("windows", {}, {"irregular": [1]}, "flag"),
        ("updates", {"run": "a"}, {"run": ["a", "b"]}, "must all have run = 'a'"),
        ("updates", {"run": "a"}, {"run": "b"}, "must all have run = 'a'"),
    ],
)
def test_rows_that_do_not_fit_are_refused_and_nothing_changes(db, table, where, columns, message):
    db.replace("updates", {"run": "a"}, {"step": [1]})
    with pytest.raises(DatabaseError, match=message):
        db.replace(table, where, columns)
    assert db.rows("SELECT run, step FROM updates").rows == [("a", 1)]


def test_a_transaction_that_fails_leaves_everything_as_it_was(db):
    db.replace("updates", {"run": "a"}, {"step": [1]})

    def fail_halfway():
        with db.transaction():
            db.replace("updates", {"run": "a"}, {"step": [2]})
            db.replace("updates", {"run": "b"}, {"step": [3]})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_halfway()
    assert db.rows("SELECT run, step FROM updates").rows == [("a", 1)]
    with db.transaction():
        db.replace("updates", {"run": "a"}, {"step": [2]})
    assert db.rows("SELECT run, step FROM updates").rows == [("a", 2)]


def test_transactions_cannot_be_nested(db):
    with pytest.raises(DatabaseError, match="nested"), db.transaction(), db.transaction():
        pass


def test_a_database_is_opened_again_with_its_rows(path):
    with Database.create_or_open(path, "mine") as db:
        db.replace("updates", {"run": "a"}, {"step": [1]})
    with Database.create_or_open(path, "mine") as db:
        assert db.rows("SELECT count(*) FROM updates").rows == [(1,)]
    with Database.read(path, "mine") as db:
        assert db.archive_id == "mine"
        assert db.rows("SELECT count(*) AS n FROM updates") == Result(["n"], ["BIGINT"], [(1,)])


@pytest.mark.parametrize("door", [Database.create_or_open, Database.read])
def test_another_archives_database_is_refused(path, door):
    Database.create_or_open(path, "mine").close()
    with pytest.raises(DatabaseError, match=r"tables of archive mine, not of yours; name another file with --db"):
        door(path, "yours")
    Database.create_or_open(path, "mine").close()


def test_a_database_of_another_schema_version_is_refused(path):
    with Database.create_or_open(path, "mine") as db:
        db.replace("schema_meta", {"key": "schema_version"}, {"value": "0"})
    with pytest.raises(DatabaseError, match=r"schema version 0, .*delete the file and run `sedarchive compute`"):
        Database.read(path)


def test_a_foreign_duckdb_file_is_refused_and_left_alone(path):
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE theirs AS SELECT 1 AS a")
    with pytest.raises(DatabaseError, match="did not make"):
        Database.create_or_open(path, "mine")
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SHOW TABLES").fetchall() == [("theirs",)]


def test_a_file_that_is_no_database_and_a_missing_one_are_refused(path):
    with pytest.raises(DatabaseError, match="there is no database"):
        Database.read(path)
    path.write_text("hello " * 1000)
    with pytest.raises(DatabaseError, match="not a DuckDB database"):
        Database.create_or_open(path, "mine")
    assert path.read_text().startswith("hello")


HOLD = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print('held', flush=True); sys.stdin.readline()"


@pytest.fixture
def holder(path):
    Database.create_or_open(path, "mine").close()
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.communicate()


@pytest.mark.parametrize("door", [Database.create_or_open, Database.read])
def test_a_file_in_use_names_the_process(path, holder, door):
    with pytest.raises(DatabaseError, match=rf"in use by process {holder.pid};"):
        door(path, "mine", patience=0.3)


def test_a_lock_that_is_given_up_is_waited_for(path, holder, monkeypatch):
    def let_go(_seconds):
        if holder.poll() is None:
            holder.stdin.write("\n")
            holder.stdin.flush()
            holder.wait()

    monkeypatch.setattr("sedarchive.tables.connecting.time.sleep", let_go)
    with Database.create_or_open(path, "mine", patience=60) as db:
        assert db.archive_id == "mine"


def test_a_file_open_for_writing_in_this_process_says_so(db, path):
    with pytest.raises(DatabaseError, match="already open in this process"):
        Database.read(path)


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM runs",
        "COPY runs TO '{folder}/out.csv'",
        "SELECT * FROM read_text('{folder}/secret.txt')",
        "SELECT * FROM '{folder}/secret.txt'",
        "ATTACH '{folder}/other.duckdb'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "SELECT * FROM a_python_variable",
    ],
)
def test_a_reader_reaches_nothing_but_the_tables(path, tmp_path, sql):
    a_python_variable = {"a": np.arange(3)}
    (tmp_path / "secret.txt").write_text("secret")
    Database.create_or_open(path, "mine").close()
    before = sorted(tmp_path.iterdir())
    with Database.read(path) as db, pytest.raises(DatabaseError):
        db.rows(sql.format(folder=tmp_path))
    assert sorted(tmp_path.iterdir()) == before
    assert len(a_python_variable) == 1


def test_a_query_that_fails_while_it_is_fetched_is_a_database_error(db):
    db.replace("metrics", {"run": "a"}, {"name": ["x"]})
    with pytest.raises(DatabaseError):
        db.rows("SELECT CAST(name AS BIGINT) FROM metrics")
    assert db.rows("SELECT name FROM metrics WHERE run = ?", ["a"]).column("name") == ["x"]


def test_tables_need_neither_pandas_nor_arrow(path):
    program = """
        import sys
        sys.modules["pandas"] = sys.modules["pyarrow"] = None
        import numpy as np
        from sedarchive.tables import Database, write_parquet
        with Database.create_or_open(sys.argv[1], "mine") as db:
            columns = {"step": [1, None], "norm": np.array([1.0, np.nan]), "status": ["ok", None]}
            db.replace("updates", {"run": "a"}, columns)
            result = db.rows("SELECT run, step, norm, status FROM updates ORDER BY rowid")
            assert result.rows == [("a", 1, 1.0, "ok"), ("a", None, None, None)], result
            write_parquet(result, sys.argv[1] + ".parquet")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program), str(path)], check=True, timeout=60)


def test_files_are_of_the_format_that_duckdb_1_4_opens(path):
    Database.create_or_open(path, "mine").close()
    header = path.read_bytes()[:24]
    assert header[8:12] == b"DUCK"
    assert int.from_bytes(header[12:20], "little") <= 67  # the storage version of DuckDB 1.4


def test_a_result_goes_to_parquet_and_back(tmp_path, db):
    result = db.rows(
        "SELECT * FROM (VALUES (1::BIGINT, 0.1::DOUBLE, 'a', true, [1.0, NULL]::DOUBLE[], DATE '2026-01-02', 1.50), "
        "(NULL, NULL, NULL, NULL, NULL, NULL, NULL)) AS t(i, d, s, b, l, day, money)"
    )
    target = tmp_path / "it's.parquet"
    write_parquet(result, target)
    with duckdb.connect() as connection:
        back = Result.fetch(connection.execute("SELECT * FROM read_parquet(?)", [str(target)]))
    assert back == result


def test_an_empty_result_goes_to_parquet_with_its_columns(tmp_path, db):
    write_parquet(db.rows("SELECT run, step, norm FROM updates"), tmp_path / "empty.parquet")
    with duckdb.connect() as connection:
        back = Result.fetch(connection.execute("SELECT * FROM read_parquet(?)", [str(tmp_path / "empty.parquet")]))
    assert back == Result(["run", "step", "norm"], ["VARCHAR", "BIGINT", "DOUBLE"], [])


def test_a_parquet_file_that_cannot_be_written_is_named(tmp_path, db):
    with pytest.raises(DatabaseError, match=r"nowhere.x\.parquet cannot be written"):
        write_parquet(db.rows("SELECT 1 AS a"), tmp_path / "nowhere" / "x.parquet")


def test_repeated_column_names_are_told_apart(db):
    assert db.rows("SELECT 1 AS a, 2 AS a, 3 AS b").columns == ["a", "a_1", "b"]
