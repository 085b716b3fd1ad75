"""What is said to a user whose words name nothing, whose memory is too small, or who may not write."""

import fcntl
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest
from small import data_of, environment, few_draws, run_here, walk, write_log, write_safetensors

from sedarchive.archive import Archive
from sedarchive.cli.common import _what_failed, progress_bar
from sedarchive.compute.refresh import _alone
from sedarchive.errors import ArchiveLockedError, UnknownNameError, UnwritableArchiveError
from sedarchive.tables import database as tables_database

SHAPES = {"h.0.attn.c_attn.weight": (6, 18), "h.0.mlp.c_fc.weight": (6, 12), "wte.weight": (9, 6)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One run with a log, in tables."""
    root = tmp_path_factory.mktemp("place")
    write_safetensors(root / "runs/seed_one", walk(12, shapes=SHAPES))
    write_log(root / "runs/seed_one", range(0, 120, 10))
    run_here("ingest", root / "runs", "--archive", root / "a.zarr")
    with few_draws():
        run_here("compute", "--no-spectra", "--archive", root / "a.zarr", "--db", root / "a.duckdb")
    return root


@pytest.fixture
def archive(place):
    return "--archive", place / "a.zarr"


@pytest.fixture
def database(place):
    return "--db", place / "a.duckdb"


# Names


@pytest.mark.parametrize("recipe", ["lag_flip", "lag_scan"])
def test_a_metric_that_is_not_logged_is_4_with_those_that_are(database, recipe):
    result = run_here("query", recipe, "-p", "target=trainloss", "--json", *database, code=4)
    assert data_of(result) == []
    assert result.stderr.splitlines()[1:] == [
        "  target 'trainloss' is not in the database (did you mean 'train_loss'?); what it has: train_loss",
    ]


def test_a_default_metric_that_is_not_logged_is_told_and_is_no_failure(database):
    result = run_here("query", "lag_flip", *database)
    assert "target 'val_loss' is not in the database" in result.stderr
    assert "no_target" in result.stdout


def test_a_metric_that_is_logged_needs_no_word(database):
    assert run_here("query", "lag_flip", "-p", "target=train_loss", *database).stderr == ""


def test_unknown_names_are_met_with_the_nearest_known_ones(place, archive, database, tmp_path):
    both = [*archive, *database]
    for args, code, near in (
        (["query", "lagflip", *database], 2, "lag_flip"),
        (["recipes", "spectraledge"], 2, "spectral_edge"),
        (["query", "lag_flip", "-p", "targt=lr", *database], 2, "target"),
        (["query", "lag_flip", "-p", "scope=attentoin", *database], 4, "attention"),
        (["query", "lag_flip", "-p", "run=seed_ne", *database], 4, "seed_one"),
        (["explain", "edge_ration"], 4, "edge_ratio"),
        (["explain", "windws"], 4, "windows"),
        (["plot", "--scope", "atention", "-o", tmp_path / "x.png", *database], 4, "attention"),
        (["plot", "--metric", "trainloss", "-o", tmp_path / "x.png", *database], 4, "train_loss"),
        (["compute", "--scope", "tensor:h.0.mlp.c_fc.wight", *both], 4, "tensor:h.0.mlp.c_fc.weight"),
        (["compute", "--scope", "layer:7", *both], 4, "layer:0"),
        (["compute", "--scope", "atention", *both], 2, "attention"),
        (["compute", "--scope", "role:quary", *both], 2, "query"),
        (["restore", "seed-one", "--to", tmp_path, *archive], 4, "seed_one"),
        (["audit", "--run", "sedone", *both], 4, "seed_one"),
        (["arch", "show", "gpt_nox"], 4, "gpt_neox"),
        (["ingest", place, "--codec", "lz", *archive], 2, "lz4"),
    ):
        said = " ".join(run_here(*args, code=code).stderr.replace("│", " ").split())
        assert f"did you mean '{near}'" in said, (args, said)
    assert list(tmp_path.iterdir()) == []


def test_unknown_commands_and_options_are_met_with_the_nearest_too():
    for args, near in ((["ingst", "runs"], "ingest"), (["compute", "--windw", "5"], "--window")):
        said = " ".join(run_here(*args, code=2).stderr.split())
        assert re.search(rf"(Did you mean '|Possible options: .*){near}", said), said


def test_an_unknown_tensor_is_met_with_the_nearest(place):
    run = Archive(place / "a.zarr").run("seed_one")
    with pytest.raises(UnknownNameError, match=r"did you mean 'wte\.weight'"):
        run.tensor("wte.wight")


def test_the_bare_name_of_nothing_like_it_brings_no_guess(database):
    assert "did you mean" not in run_here("query", "qqqqqq", *database, code=2).stderr


# Usage


@pytest.mark.parametrize("scope", ["nonsense", "layer:x", "role:", "role:foo", "all=*.weight", "tensor:", "layer:1-"])
def test_a_scope_that_is_written_wrongly_is_a_usage_error(archive, tmp_path, scope):
    result = run_here("compute", "--scope", scope, *archive, "--db", tmp_path / "b.duckdb", code=2)
    assert "--scope" in result.stderr
    assert not (tmp_path / "b.duckdb").exists()


@pytest.mark.parametrize("command", [["ingest"], ["inspect"], ["arch", "test"]])
@pytest.mark.parametrize(("pattern", "words"), [("step(", "no regular expression"), ("step", "0 groups")])
def test_a_step_pattern_that_is_written_wrongly_is_a_usage_error(place, command, pattern, words):
    result = run_here(*command, place / "runs", "--step-regex", pattern, code=2)
    assert "--step-regex" in result.stderr
    assert words in " ".join(result.stderr.split())


# Memory


def test_the_memory_that_a_refused_compute_asks_for_does_for_all_runs_and_both_sweeps(tmp_path):
    for name, shape in (("a_small", (8, 8)), ("b_wide", (700, 900)), ("c_long", (4, 9000))):
        write_safetensors(tmp_path / "runs" / name, walk(3, shapes={f"{name}.weight": shape}))
    run_here("ingest", tmp_path / "runs", "--archive", tmp_path / "a.zarr")
    args = ["compute", "--archive", tmp_path / "a.zarr", "--db", tmp_path / "a.duckdb", "--workers", 1]
    said = run_here(*args, "--max-mem", "1kB", code=1).stderr
    assert re.match(r"error: tensor b_wide\.weight: one step needs [0-9.]+ MB in all, .*than the 1\.0 kB given", said)
    enough = int(re.search(r"use --max-mem (\d+)MB, the least that will do", said)[1])
    run_here(*args, "--max-mem", f"{enough}MB", "--dry-run")
    run_here(*args, "--max-mem", f"{enough - 1}MB", "--dry-run", code=1)


def test_a_refused_compute_says_how_much_is_fixed_and_leaves_no_database(tmp_path):
    """Of a model of a few numbers nearly all is: no smaller one would need less."""
    write_safetensors(tmp_path / "run", walk(3, shapes={"w": (5, 4)}))
    run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    args = ["compute", "--archive", tmp_path / "a.zarr", "--db", tmp_path / "a.duckdb", "--workers", 1]
    said = run_here(*args, "--max-mem", "1kB", code=1).stderr
    sizes = re.match(
        r"error: tensor w: one row at 3 steps needs ([0-9.]+) MB in all, ([0-9.]+) MB of it fixed \(buffers", said
    )
    needed, fixed = map(float, sizes.groups())
    assert 0.9 * needed < fixed <= needed
    assert f"use --max-mem {math.ceil(needed)}MB" in said
    assert not list(tmp_path.glob("a.duckdb*"))
    with few_draws():
        run_here(*args, "--max-mem", f"{math.ceil(needed)}MB")
    run_here(*args, "--max-mem", "1kB")
    assert (tmp_path / "a.duckdb").exists()  # nothing is to be swept, and what was made stays


def test_an_ingest_that_no_checkpoint_fits_leaves_nothing_and_is_not_called_unreadable(tmp_path):
    write_safetensors(tmp_path / "run", walk(3, shapes={"large.weight": (400, 1000)}))
    archive = tmp_path / "a.zarr"
    result = run_here("ingest", tmp_path / "run", "--archive", archive, "--max-mem", "100kB", "--json", code=1)
    (report,) = data_of(result)
    assert [one["check_name"] for one in report["findings"]] == ["beyond_max_mem"]
    assert "error: run: none of its checkpoints fits into --max-mem; nothing was written" in result.stderr
    assert not archive.exists()
    write_safetensors(tmp_path / "runs/small", walk(2, shapes={"w": (2, 2)}))
    (tmp_path / "run").rename(tmp_path / "runs/large")
    run_here("ingest", tmp_path / "runs", "--archive", archive, "--max-mem", "100kB", code=1)
    assert Archive(archive).run_names == ("small",)


def test_a_checkpoint_beyond_the_memory_given_is_a_finding_until_it_is_archived(tmp_path):
    states = [{"w": walk(1, shapes={"w": shape})[0]["w"]} for shape in ((2, 4), (2, 2000))]
    write_safetensors(tmp_path / "run", states)
    args = ["ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr", "--json"]
    for max_mem, expected in (("100kB", ["beyond_max_mem"]), ("10MB", [])):
        run_here(*args, "--max-mem", max_mem)
        errors = [one.check_name for one in Archive(tmp_path / "a.zarr").run("run").findings if one.severity == "error"]
        assert errors == expected


def test_a_refused_ingest_names_the_tensor_and_the_memory_that_will_do(tmp_path):
    write_safetensors(tmp_path / "run", walk(3, shapes={"small": (2, 2), "large.weight": (400, 1000)}))
    args = ["ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr"]
    said = run_here(*args, "--max-mem", "100kB", code=1).stderr
    assert re.search(r"tensor large\.weight: a slab at \d steps? needs", said)
    enough = int(re.search(r"use --max-mem (\d+)MB", said)[1])
    said = run_here(*args, "--max-mem", f"{enough - 1}MB", code=1).stderr
    assert f"use --max-mem {enough}MB" in said
    run_here(*args, "--max-mem", f"{enough}MB")


# Places that cannot be written


def forbid(monkeypatch, folder):
    """Let nothing be made below a folder, as for a user without the right; root would have it."""
    opened = os.open

    def refusing(path, flags, *more, **options):
        if flags & os.O_CREAT and str(path).startswith(str(folder)):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refusing)
    monkeypatch.setattr(os, "access", lambda path, mode, **_: mode != os.W_OK or not str(path).startswith(str(folder)))


def test_an_archive_that_cannot_be_written_says_where_to_go(place, archive, tmp_path, monkeypatch):
    run_here("ingest", place / "runs", "--archive", place / "bare.zarr")
    forbid(monkeypatch, place)
    said = run_here("compute", "--archive", place / "bare.zarr", "--db", tmp_path / "b.duckdb", code=1).stderr
    assert not (tmp_path / "b.duckdb").exists()
    assert re.search(r"keeps its Gram matrices in the archive, .*cannot be written \(Permission denied\); .*copy", said)
    said = run_here("ingest", place / "runs", *archive, code=1).stderr
    assert re.search(r"`sedarchive ingest` writes into the archive, .*--archive", said)
    said = run_here("ingest", place / "runs", "--archive", place / "b.zarr", code=1).stderr
    assert "no archive can be made here (Permission denied); name another place with --archive" in said
    plan = run_here("ingest", place / "runs", "--dry-run", *archive, code=1).stdout
    assert "cannot be written; name another place with --archive" in " ".join(plan.split())


def test_what_a_compute_before_left_in_an_archive_does_for_ones_own_database(place, archive, tmp_path, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in (place / "a.zarr").rglob("*")}
    forbid(monkeypatch, place)
    with few_draws():
        said = run_here("compute", "--no-inference", *archive, "--db", tmp_path / "b.duckdb").stderr
    assert "Gram matrices of 0 tensors computed, 3 reused" in said
    assert "spectra: 60 computed" in said  # they go into the database alone
    assert {path: path.stat().st_mtime_ns for path in (place / "a.zarr").rglob("*")} == before
    with (place / "a.zarr/writer.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is writing this archive" in run_here("compute", *archive, "--db", tmp_path / "b.duckdb", code=1).stderr
    (place / "a.zarr/writer.lock").unlink()


@pytest.mark.parametrize("cause", ["Permission denied", "Read-only file system"])
def test_a_database_that_cannot_be_made_says_where_to_go(archive, tmp_path, monkeypatch, cause):
    def refuse(path, **options):
        raise duckdb.IOException(f'IO Error: Cannot open file "{path}": {cause}')

    monkeypatch.setattr(tables_database.duckdb, "connect", refuse)
    said = run_here("compute", *archive, "--db", tmp_path / "b.duckdb", code=1).stderr
    assert re.fullmatch(r"error: .*b\.duckdb cannot be opened or made \(" + cause + r"\); .*--db\n", said)


def test_a_database_in_a_folder_that_is_not_there_says_so(archive, tmp_path):
    said = run_here("compute", *archive, "--db", tmp_path / "none/b.duckdb", code=1).stderr
    assert re.search(r"No such file or directory\); .*--db", said)


def test_an_output_that_cannot_be_written_is_named_with_cause_and_way_out(place, archive, database, tmp_path):
    (tmp_path / "file").write_text("")
    for args, path, way_out in (
        (["plot", "-o"], "none/edge.png", r", with --output"),
        (["query", "history", "-o"], "none/h.csv", r", with --output"),
        (["query", "history", "-o"], "none/h.parquet", ""),
        (["export"], "file", ", with FOLDER"),
    ):
        said = run_here(*args, tmp_path / path, *database, code=1).stderr
        assert re.fullmatch(
            rf"error: {tmp_path / path} cannot be written \((No such file or directory|File exists)\); "
            rf"name another place, in a folder that you may write{way_out}\n",
            said,
        ), said
    said = run_here("restore", "seed_one", "--to", tmp_path / "file/x", *archive, code=1).stderr
    assert re.search(r"file/x/.* cannot be written \(Not a directory\); .* with --to\n", said), said


def test_export_says_which_column_of_a_table_only_parquet_holds(database, tmp_path):
    said = run_here("export", tmp_path / "csv", *database).stderr
    assert "leaves out" not in run_here("export", tmp_path / "parquet", "--format", "parquet", *database).stderr
    differ = {}
    for path in tmp_path.glob("parquet/**/*.parquet"):
        text = tmp_path / "csv" / path.relative_to(tmp_path / "parquet").with_suffix(".csv")
        columns = {*duckdb.sql(f"SELECT * FROM '{path}' LIMIT 0").columns}
        if more := columns ^ {*text.read_text().splitlines()[0].split(",")}:
            differ[path.stem] = more
    assert differ == {"matrix_spectra": {"sigma"}}
    assert re.search(r"matrix_spectra\.csv leaves out the column sigma, .*: matrix_sigmas\.csv holds its entries", said)


# Few checkpoints


def computed(tmp_path, n, *args):
    write_safetensors(tmp_path / "run", walk(n, shapes={"w": (5, 4)}))
    run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    both = ["--archive", tmp_path / "a.zarr", "--db", tmp_path / "a.duckdb"]
    return run_here("compute", "--no-spectra", *both, *args).stderr


def test_a_window_that_is_too_long_is_told_with_the_longest_that_is_not(tmp_path):
    said = computed(tmp_path, 8, "--window", "100")
    assert "no window of 100 updates in 8 checkpoints: W updates need W + 1 checkpoints" in said
    assert "so the longest here is of 7" in said


@pytest.mark.parametrize(
    ("n", "said"),
    [
        (
            5,
            "no windows: the shortest, of 5 updates, needs 6 checkpoints, not 5 checkpoints (--window 4 is",
        ),
        (2, "no windows: the shortest, of 5 updates, needs 6 checkpoints, not 2 checkpoints;"),
    ],
)
def test_a_run_with_too_few_checkpoints_for_any_window_says_so(tmp_path, n, said):
    assert said in computed(tmp_path, n)


def test_a_run_with_windows_does_not(tmp_path):
    assert "no windows" not in computed(tmp_path, 6)


# Progress and interrupts


def test_progress_in_lines_is_a_line_a_quarter_on_stderr(capsys):
    with progress_bar(quiet=False, in_lines=True) as progress:
        for done in range(1, 101):
            progress("train", done, 100)
        progress("compute", 1, 1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        *("train: 1 of 100", "train: 25 of 100", "train: 50 of 100", "train: 75 of 100", "train: 100 of 100"),
        "compute: 1 of 1",
    ]


@pytest.mark.parametrize(("quiet", "in_lines"), [(True, True), (True, False), (False, False)])
def test_progress_elsewhere_is_silent(capsys, quiet, in_lines):
    with progress_bar(quiet, in_lines) as progress:
        progress("train", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_hardly_anything_is_imported_before_an_interrupt_is_seen_to():
    script = "import sys; before = {*sys.modules}; import sedarchive; print(*{*sys.modules} - before)"
    done = subprocess.run([sys.executable, "-S", "-c", script], env=environment(), capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "sedarchive" in loaded, done.stderr
    assert not {"pathlib", "fnmatch", "urllib", "numpy", "typer"} & loaded


def test_two_computes_into_one_database_of_an_archive_that_cannot_be_written_are_kept_apart(tmp_path):
    store, database = SimpleNamespace(refusal=UnwritableArchiveError("read-only")), tmp_path / "mine.duckdb"
    with _alone(store, database):
        with pytest.raises(ArchiveLockedError, match="compute"), _alone(store, database):
            pass
        with _alone(SimpleNamespace(refusal=None), database):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("named", "output", "ours"),
    [
        ("out/a.csv", "out", True),
        ("out", "out", True),
        ("a.csv", ".", True),
        ("out.zarr/zarr.json", "out", False),
        ("/else/.hidden", ".", False),
    ],
)
def test_only_what_lies_in_the_output_is_said_to_be_what_cannot_be_written(named, output, ours):
    said = _what_failed(PermissionError(13, "Permission denied", named), Path(output), "--output")
    assert ("cannot be written" in said) == ours
    assert named in said
