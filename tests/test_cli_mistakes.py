"""What a user may get wrong at the command line: each is said with the way out, and nothing is dropped in silence."""

import csv
import json
import re
import subprocess
import sys

import duckdb
import pytest
import typer
from safetensors.torch import load_file
from small import data_of, environment, few_draws, run_here, walk, write_log, write_safetensors

from sedarchive.archive import Archive
from sedarchive.cli.common import GOES_ON, handled
from sedarchive.figure import SUFFIXES, _begin_at_one, _close, _draw_ratio, _panels
from sedarchive.tables import Database

SHAPES = {"h.0.attn.c_attn.weight": (6, 18), "h.0.mlp.c_fc.weight": (6, 12)}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two runs, one with a log and a config, in tables."""
    root = tmp_path_factory.mktemp("place")
    for name, seed in (("logged", 1), ("silent", 2)):
        write_safetensors(root / "runs" / name, walk(12, shapes=SHAPES, seed=seed))
    write_log(root / "runs/logged", range(0, 120, 10))
    (root / "runs/logged/config.json").write_text(json.dumps({"model_type": "gpt2", "n_head": 2, "seed": 3, "lr": 1.0}))
    archive, database = ["--archive", root / "a.zarr"], ["--db", root / "a.duckdb"]
    run_here("ingest", root / "runs", *archive)
    with few_draws():
        run_here("compute", "--no-spectra", *archive, *database)
    return root


@pytest.fixture
def archive(place):
    return "--archive", place / "a.zarr"


@pytest.fixture
def database(place):
    return "--db", place / "a.duckdb"


# plot


@pytest.mark.parametrize("name", ["edge.txt", "edge", "edge.png.gz", ".png"])
def test_a_figure_of_no_known_suffix_is_a_usage_error_with_those_that_work(database, tmp_path, name):
    said = run_here("plot", "-o", tmp_path / name, *database, code=2).stderr
    assert all(suffix in said for suffix in SUFFIXES)
    assert list(tmp_path.iterdir()) == []


BEGINNINGS = {
    ".png": b"\x89PNG",
    ".pdf": b"%PDF",
    ".svg": b"<?xml",
    ".eps": b"%!PS",
    ".jpg": b"\xff\xd8\xff",
    ".jpeg": b"\xff\xd8\xff",
    ".tif": b"II*\0",
    ".tiff": b"II*\0",
    ".webp": b"RIFF",
}


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".PNG"])
def test_a_figure_is_written_in_the_format_of_its_suffix(database, tmp_path, suffix):
    run_here("plot", "-o", tmp_path / f"edge{suffix}", *database)
    assert (tmp_path / f"edge{suffix}").read_bytes().startswith(BEGINNINGS[suffix.lower()])


def test_the_common_scale_of_a_figure_holds_the_ratios_of_every_run():
    """A limit set while the first run is drawn would hold for all."""
    figure, axes = _panels(3)
    for axis, highest in zip(axes, (None, 2.0, 9.0), strict=True):
        _draw_ratio(axis, "run", [(10, 1.5, None), (20, highest, None)])
    _begin_at_one(axes)
    assert {axis.get_ylim()[0] for axis in axes} == {1}
    assert axes[0].get_ylim()[1] > 9
    _close(figure)


def test_a_metric_that_no_run_has_is_4_with_those_that_they_have(database, tmp_path):
    said = run_here("plot", "--metric", "nosuch", "-o", tmp_path / "edge.png", *database, code=4).stderr
    assert "logged: no metric 'nosuch' is logged; what is: train_loss" in said
    assert "silent: no metric 'nosuch' is logged; what is: none" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "missing"), [(["--metric", "train_loss"], ["silent"]), ([], ["logged", "silent"])], ids=["one", "default"]
)
def test_runs_without_the_metric_are_drawn_and_named(database, tmp_path, args, missing):
    result = run_here("plot", "-o", tmp_path / "edge.png", *args, *database)
    assert re.findall(r"^(\w+): no metric", result.stderr, re.MULTILINE) == missing
    assert (tmp_path / "edge.png").exists()


def test_windows_that_are_not_there_are_4_with_those_that_are(database, tmp_path):
    said = run_here("plot", "--scope", "nosuch", "-o", tmp_path / "edge.png", *database, code=4).stderr
    assert "scopes: all, attention, layer:0, mlp, trunk" in said
    assert "window sizes: 5, 10" in said


# query


def read_back(path):
    """Names of the runs in a file, read by others' readers."""
    if path.suffix == ".parquet":
        return [run for (run,) in duckdb.connect().execute("SELECT run FROM read_parquet(?)", [str(path)]).fetchall()]
    text = path.read_text()
    if path.suffix == ".csv":
        return [row["run"] for row in csv.DictReader(text.splitlines())]
    if path.suffix == ".json":
        return [row["run"] for row in json.loads(text)]
    if path.suffix in (".jsonl", ".ndjson"):
        return [json.loads(line)["run"] for line in text.splitlines()]
    if path.suffix in (".md", ".MARKDOWN"):
        return [line.split("|")[1].strip() for line in text.splitlines()[2:]]
    return [line.split()[0] for line in text.splitlines()[1:]]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".ndjson", ".md", ".MARKDOWN", ".parquet", ".txt"])
def test_the_suffix_of_the_file_is_the_format(database, tmp_path, suffix):
    result = run_here("query", "history", "-o", tmp_path / f"out{suffix}", *database)
    assert result.stdout == ""
    assert read_back(tmp_path / f"out{suffix}") == ["logged", "silent"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-o", "out.xls"], r"no format has the suffix '\.xls'; use one of .*\.parquet, or add --format"),
        (["-o", "out"], r"no format has the suffix ''"),
        (["-o", "out.csv", "--format", "json"], r"the suffix means csv, but json is asked for"),
        (["-o", "out.csv", "--json"], r"the suffix means csv, but json is asked for"),
        (["--json", "--format", "csv"], r"--json and --format csv exclude each other"),
        (["--format", "xml"], r"there is no format 'xml'; use one of table, csv, json, jsonl, markdown, parquet"),
        (["--format", "parquet"], r"parquet needs a file"),
    ],
)
def test_a_format_that_is_unclear_is_a_usage_error(database, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    result = run_here("query", "history", *args, *database, code=2)
    assert re.search(message, result.stderr)
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_is_given_needs_no_suffix(database, tmp_path):
    run_here("query", "history", "-o", tmp_path / "out", "--format", "csv", *database)
    (tmp_path / "out").rename(tmp_path / "out.csv")
    assert read_back(tmp_path / "out.csv") == ["logged", "silent"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            ["lag_flip", "-p", "scope=nosuch"],
            {"scope 'nosuch'": "all, attention, layer:0, mlp, trunk", "target 'val_loss'": "train_loss"},
        ),
        (["spectral_edge", "-p", "run=other"], {"run 'other'": "logged, silent"}),
        (["spectral_edge", "-p", "window_size=7"], {"window_size 7": "5, 10"}),
        (["spectral_edge", "-p", "window_size=07", "-p", "run=silent"], {"window_size 7": "5, 10"}),
        (["wave_velocity", "-p", "role=up"], {"role 'up'": "none"}),
    ],
)
def test_no_rows_are_4_with_what_the_database_has(database, args, said):
    lines = run_here("query", *args, *database, code=4).stderr.splitlines()
    told = [f"  {what} is not in the database; what it has: {has}" for what, has in said.items()]
    assert [line for line in lines if "--no-spectra" not in line] == ["no rows", *told]
    assert any("--no-spectra" in line for line in lines) == (args[0] == "wave_velocity")


def test_no_rows_of_ones_own_query_say_no_more(database):
    assert run_here("query", "SELECT 1 WHERE false", *database, code=4).stderr == "no rows\n"


# explain


def test_explain_without_a_name_lists_every_table_and_view():
    rows = data_of(run_here("explain", "--json"))
    with Database.in_memory() as tables:
        wanted = list(dict.fromkeys(tables.describe().column("table")))
    assert sorted(row["table"] for row in rows) == sorted(wanted)
    assert all(row["meaning"] for row in rows)
    shown = run_here("explain")
    assert [line.split()[0] for line in shown.stdout.splitlines()[1:]] == [row["table"] for row in rows]
    assert "sedarchive explain NAME" in shown.stderr


# ingest --run


@pytest.mark.parametrize("name", ["", " ", "/", "//", ".", "..", "a//b", "/a", "a/", "../a", "a/./b"])
def test_a_name_that_names_no_run_is_a_usage_error(place, tmp_path, name):
    result = run_here("ingest", place / "runs/silent", "--run", name, "--archive", tmp_path / "b.zarr", code=2)
    assert f"{name!r} names no run" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a/b", "a..b", ".a", "ä b"])
def test_any_other_name_is_that_of_the_run(place, tmp_path, name):
    run_here("ingest", place / "runs/silent", "--run", name, "--archive", tmp_path / "b.zarr")
    assert Archive(tmp_path / "b.zarr").run_names == (name,)


# compute --runs-info


def compute_with(place, database, text):
    path = database.parent / "info.csv"
    path.write_bytes(text.encode())
    result = run_here(
        "compute", "--archive", place / "a.zarr", "--db", database, "--no-spectra", "--window", "5", "--runs-info", path
    )
    return [line.removeprefix(f"{path}: ") for line in result.stderr.splitlines() if line.startswith(str(path))]


def facts(database, *columns):
    with Database.read(database) as tables:
        return tables.rows(f"SELECT {', '.join(columns)} FROM runs ORDER BY run").rows


def test_what_of_runs_info_is_not_used_is_said_by_run_and_column(place, tmp_path):
    text = (
        "\ufeffrun,seed,lr,task,dose\r\n"
        'logged,abc,nan,"a, b",2\r\n'
        "silent,7.0,1e-3,,inf\r\n"
        "later,4,,,\r\n"
        "silent,8,,,\r\n"
        ",9,,,\r\n"
        "other,1,2,3,4,5\r\n"
    )
    with few_draws():
        assert compute_with(place, tmp_path / "b.duckdb", text) == [
            "run logged, column seed: 'abc' is ignored: it is not a whole number",
            "run logged, column lr: 'nan' is ignored: it is not a finite number",
            "run silent, column dose: 'inf' is ignored: it is not a finite number",
            "row 4 (run silent) is ignored: the run has a row above",
            "row 5 (run without a name) is ignored: it names no run",
            "row 6 (run other) is ignored: it has more values than the file has columns",
            "run later is not in the archive, which holds logged, silent; its row is kept for when it is",
        ]
    # what does not fit does not overrule the config of the run
    assert facts(tmp_path / "b.duckdb", "seed", "lr", "task", "dose") == [(3, 1.0, "a, b", 2.0), (7, 1e-3, None, None)]


def test_a_row_is_kept_for_a_run_that_comes_later(place, tmp_path):
    write_safetensors(tmp_path / "runs/early", walk(3, shapes=SHAPES))
    for name in ("early", "later"):
        write_safetensors(tmp_path / "runs" / name, walk(3, shapes=SHAPES))
        run_here("ingest", tmp_path / "runs" / name, "--archive", tmp_path / "a.zarr")
        args = ["--archive", tmp_path / "a.zarr", "--db", tmp_path / "a.duckdb", "--no-spectra"]
        if name == "early":
            (tmp_path / "info.csv").write_text("run,seed\nlater,12345678901234567\n")
            args += ["--runs-info", tmp_path / "info.csv"]
        run_here("compute", *args)
    assert facts(tmp_path / "a.duckdb", "run", "seed") == [("early", None), ("later", 12345678901234567)]


@pytest.mark.parametrize(
    ("text", "message"),
    [("run,sead\nlogged,1\n", "it also has 'sead'"), ("", "needs a column run"), ('run,task\na,"b\n', "read as CSV")],
)
def test_a_file_of_another_kind_is_refused(archive, tmp_path, text, message):
    (tmp_path / "info.csv").write_text(text)
    args = ["compute", *archive, "--db", tmp_path / "b.duckdb", "--runs-info", tmp_path / "info.csv"]
    said = run_here(*args, code=1).stderr
    assert said.startswith(f"error: {tmp_path / 'info.csv'}")
    assert message in said
    assert not (tmp_path / "b.duckdb").exists()


# restore


def written(folder):
    """Files below a folder, and when each was written."""
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}


def test_runs_are_restored_side_by_side_and_never_over_a_file(place, archive, tmp_path):
    for name in ("logged", "silent"):
        run_here("restore", name, "--step", 30, "--to", tmp_path, *archive)
    restored = written(tmp_path)
    assert sorted(restored) == ["logged/step_00000030.safetensors", "silent/step_00000030.safetensors"]
    for name in ("logged", "silent"):
        found = load_file(tmp_path / name / "step_00000030.safetensors")
        source = load_file(place / "runs" / name / "step_30.safetensors")
        assert all((found[tensor] == source[tensor]).all() for tensor in SHAPES)
    refused = run_here("restore", "silent", "--all", "--to", tmp_path, *archive, code=1).stderr
    assert re.search(r"silent/step_00000030\.safetensors exists; nothing was written; .*--force", refused)
    assert written(tmp_path) == restored
    run_here("restore", "silent", "--all", "--force", "--to", tmp_path, *archive)
    assert len(list((tmp_path / "silent").iterdir())) == 12


def test_a_step_that_is_not_there_stops_the_others_too(archive, tmp_path):
    run_here("restore", "silent", "--step", 30, "--step", 31, "--to", tmp_path, *archive, code=4)
    run_here("restore", "silent", "--step", 30, "--all", "--to", tmp_path, *archive, code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_checkpoints_is_4(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/step_1.pt").write_bytes(b"nothing")
    run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr", code=1)
    for args in ([], ["--all"]):
        said = run_here("restore", "run", *args, "--archive", tmp_path / "a.zarr", code=4).stderr
        assert "run run has no checkpoints" in said


@pytest.mark.parametrize("name", ["Upper/case", "../a", ".a", "a\\b", "x" * 300])
def test_a_name_never_leads_out_of_the_folder(place, tmp_path, name):
    from sedarchive.ingest import IngestOptions, ingest

    ingest([place / "runs/silent"], tmp_path / "a.zarr", IngestOptions(run=name))
    run_here("restore", name, "--to", tmp_path / "deep/er", "--archive", tmp_path / "a.zarr")
    [path] = tmp_path.rglob("*.safetensors")
    assert path.is_relative_to(tmp_path / "deep/er")
    assert (path.parent.relative_to(tmp_path / "deep/er").as_posix() == name) == (name == "Upper/case")


# Ctrl-C

STRIKE = """
import os, signal, sys
{before}
class Striker:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Striker())
sys.argv = ["sedarchive", *{args!r}]
from sedarchive.__main__ import main
main()
"""


def struck(module, args, before=""):
    """The command line in a process that gets SIGINT when it begins to import a module."""
    script = STRIKE.format(module=module, args=args, before=before)
    return subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("module", "args"),
    [
        ("sedarchive.cli.app", ["--version"]),
        ("typer", ["recipes"]),
        ("sedarchive.recipes", ["recipes"]),
        ("numpy", ["ingest", "nowhere"]),
        ("zarr", ["verify"]),
        ("duckdb", ["query", "history"]),
    ],
)
def test_an_interrupt_during_the_imports_is_130_with_the_word_of_later_ones(module, args):
    done = struck(module, args)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_a_job_in_the_background_ignores_the_interrupts_of_the_terminal():
    done = struck("typer", ["--version"], "signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("sedarchive ")


@pytest.mark.parametrize(("after", "said"), [("", "interrupted"), (GOES_ON, f"interrupted; {GOES_ON}")])
def test_only_what_goes_on_says_so_when_it_is_interrupted(capsys, after, said):
    with pytest.raises(typer.Exit) as ended, handled(after):
        raise KeyboardInterrupt
    assert ended.value.exit_code == 130
    assert capsys.readouterr().err == f"error: {said}\n"


def test_one_checkpoint_is_said_as_one(tmp_path):
    write_safetensors(tmp_path / "run", walk(1, shapes={"w": (3, 4)}))
    archive = ["--archive", tmp_path / "a.zarr"]
    planned = run_here("ingest", tmp_path / "run", *archive, "--dry-run").stdout
    assert planned.startswith("1 run, 1 checkpoint to add: ")
    assert "\nrun: 1 checkpoint, step 0\n" in planned
    assert "run: 1 checkpoint added (48 B), 0 already" in run_here("ingest", tmp_path / "run", *archive).stderr
    said = run_here("compute", *archive, "--db", tmp_path / "a.duckdb", "--window", "5").stderr
    assert "Gram matrices of 1 tensor computed" in said
    assert "no window of 5 updates in 1 checkpoint: W updates need W + 1 checkpoints" in said
