"""The command line: help, exit codes, JSON on stdout alone, dry runs, completion."""

import contextlib
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small import (
    command,
    data_of,
    environment,
    few_draws,
    run_cli,
    walk,
    write_log,
    write_safetensors,
    write_torch,
    write_trainer,
)
from small import run_here as run
from typer.main import get_command

from sedarchive.archive import Archive
from sedarchive.cli.app import app
from sedarchive.recipes import find_recipes

COMMANDS = sorted(get_command(app).commands)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Three kinds of runs side by side, ingested and asked for by the real command line in their folder.

    What is computed between is computed in this process, with few draws; test_docs.py starts that command too.
    """
    root = tmp_path_factory.mktemp("place")
    states = walk(12)
    write_trainer(root / "runs/trainer", states)
    write_torch(root / "runs/torch", states)
    write_safetensors(root / "runs/safe", states)
    write_log(root / "runs/torch", range(0, 120, 10))
    started(root, "ingest", "runs/")
    with few_draws(), contextlib.chdir(root):
        run("compute", "--window", "10")
    root.joinpath("lag_flip.txt").write_text(started(root, "query", "lag_flip"))
    return root


def started(folder, *args):
    """What a command of its own process writes to stdout."""
    done = run_cli(*args, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture
def at(place):
    return ["--archive", place / "archive.zarr"], ["--db", place / "archive.duckdb"]


def test_the_three_commands_analyse_three_formats_side_by_side(place):
    shown = (place / "lag_flip.txt").read_text()
    assert {line.split()[0] for line in shown.splitlines()[1:]} >= {"trainer", "torch", "safe"}
    sql = "SELECT run, count(*) FROM windows WHERE window_size = 10 AND scope = 'all' GROUP BY run ORDER BY run"
    found = data_of(run("query", sql, "--json", "--db", place / "archive.duckdb"))
    assert [list(row.values()) for row in found] == [["safe", 2], ["torch", 2], ["trainer", 2]]


def test_the_same_weights_in_three_formats_give_the_same_rows(place):
    sql = (
        "SELECT count(DISTINCT edge_ratio) AS n FROM windows WHERE window_size = 5 "
        "GROUP BY scope, (step_first - (run = 'trainer')::INT * 10) HAVING n > 1"
    )
    run("query", sql, "--json", "--db", place / "archive.duckdb", code=4)


# Help and completion


def test_the_root_help_lists_every_command_in_words():
    shown = run("--help").stdout
    listed = re.findall(r"^  ([a-z]+) +\w+", shown.split("Commands:\n")[1].split("\n\n")[0], re.MULTILINE)
    assert sorted(listed) == COMMANDS
    assert {"ingest", "compute", "query", "export", "status", "verify", "restore", "recipes", "explain"} <= set(
        COMMANDS
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_an_example(name):
    shown = run(name, "--help").stdout
    assert re.search(rf"Example: .*sedarchive {name}", shown.replace("\n", " "))


def test_the_root_help_shows_exit_codes_and_an_example():
    shown = " ".join(run("--help").stdout.split())
    assert "Example: sedarchive ingest" in shown
    assert all(f"{code} " in shown for code in (0, 1, 2, 4, 130))


def test_the_version_is_that_of_the_package():
    import sedarchive

    assert run("--version").stdout == f"sedarchive {sedarchive.__version__}\n"


def test_completion_is_offered_for_the_shell():
    done = run_cli("--show-completion", "bash", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert done.returncode == 0, done.stderr
    assert "_SEDARCHIVE_COMPLETE" in done.stdout or "COMPLETE" in done.stdout


def test_recipe_names_are_completed():
    script = "import sys; from sedarchive.cli.app import app; app(prog_name='sedarchive')"
    env = environment(
        _SEDARCHIVE_COMPLETE="complete_bash", COMP_WORDS="sedarchive query lag", COMP_CWORD="2",
        _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1",
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, timeout=60)
    expected = [name for name in find_recipes() if name.startswith("lag")]
    assert expected
    assert set(done.stdout.split()) == set(expected), done.stderr


@pytest.mark.slow
def test_help_costs_little_more_than_the_interpreter():
    def cpu_seconds(args):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(args, env=environment(), capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    bare = min(cpu_seconds([sys.executable, "-c", "pass"]) for _ in range(5))
    shown = min(cpu_seconds(command("--help")) for _ in range(5))
    assert shown - bare < 2 * 0.25  # the aim is 0.25 s; twice that for a busy machine


def test_help_imports_none_of_the_heavy_packages():
    script = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from sedarchive.cli.app import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print([name for name in ('numpy', 'zarr', 'dask', 'duckdb', 'torch', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


# JSON


def test_json_of_the_reading_commands_stands_alone_on_stdout(place, at, tmp_path):
    archive, database = at
    status = data_of(run("status", "--json", *archive, *database))
    assert [one["run"] for one in status["runs"]] == ["safe", "torch", "trainer"]
    assert all(one["checkpoints"] == 12 and one["windows"] > 0 and one["spectra"] > 0 for one in status["runs"])
    assert (status["interrupted"], status["database_problem"]) == (False, None)
    assert data_of(run("verify", "--json", *archive)) == []
    assert data_of(run("query", "lag_flip", "--json", *database))
    assert {"recipe", "summary", "params"} <= data_of(run("recipes", "--json"))[0].keys()
    assert data_of(run("recipes", "lag_flip", "--json"))["name"] == "lag_flip"
    assert all(row["comment"] for row in data_of(run("explain", "edge_ratio", "--json")))
    exported = data_of(run("export", tmp_path / "csv", "--json", *database))
    assert {"path", "rows"} == exported[0].keys()
    assert all(Path(file["path"]).exists() for file in exported)
    restored = data_of(run("restore", "safe", "--step", 30, "--to", tmp_path / "back", "--json", *archive))
    assert [one["step"] for one in restored] == [30]


def test_json_of_the_writing_commands_stands_alone_on_stdout(tmp_path):
    write_safetensors(tmp_path / "run", walk(7))
    archive, database = ["--archive", tmp_path / "a.zarr"], ["--db", tmp_path / "a.duckdb"]
    (planned,) = data_of(run("ingest", tmp_path / "run", *archive, "--dry-run", "--json"))["runs"]
    assert (planned["run"], len(planned["steps"])) == ("run", 7)
    (report,) = data_of(run("ingest", tmp_path / "run", *archive, "--json"))
    assert (report["run"], report["added"]) == ("run", 7)
    (plan,) = data_of(run("compute", *archive, *database, "--dry-run", "--json"))
    assert plan["gram_tasks"] >= 1
    (computed,) = data_of(run("compute", *archive, *database, "--json"))
    assert computed["run"] == "run"
    assert computed["spectra"]["computed"] == 7 * 7  # query, key and value apart, and four unsplit matrices
    (again,) = data_of(run("compute", *archive, *database, "--json"))
    assert (again["gram"]["computed"], again["spectra"]["computed"], again["window_sets"]) == (0, 0, 0)


def test_words_go_to_stderr(tmp_path):
    write_safetensors(tmp_path / "run", walk(2))
    result = run("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    assert result.stdout == ""
    assert "2 checkpoints added" in result.stderr


# Dry runs


def test_dry_runs_write_nothing(tmp_path):
    write_safetensors(tmp_path / "run", walk(7))
    archive, database = ["--archive", tmp_path / "a.zarr"], ["--db", tmp_path / "a.duckdb"]
    shown = run("ingest", tmp_path / "run", *archive, "--dry-run").stdout
    assert "7 checkpoints, steps 0 to 60" in shown
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    run("ingest", tmp_path / "run", *archive)
    before = sorted(tmp_path.rglob("*"))
    shown = run("compute", *archive, *database, "--dry-run").stdout
    assert re.search(r"projected_memory\s*\n.*\d+(\.\d+)? [kMG]B", shown)
    assert sorted(tmp_path.rglob("*")) == before


# Defaults


def test_the_environment_names_archive_and_database(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = {
        "SEDARCHIVE_ARCHIVE": str(place / "archive.zarr"),
        "SEDARCHIVE_DB": str(place / "archive.duckdb"),
    }
    assert len(data_of(run("status", "--json", **env))["runs"]) == 3
    assert data_of(run("query", "SELECT count(*) AS n FROM runs", "--json", **env)) == [{"n": 3}]
    run("status", code=1)
    assert run("status", "--archive", "other.zarr", code=1, **env).stderr.startswith("error: other.zarr")


def test_restore_writes_the_last_step_or_all_of_them(place, at, tmp_path):
    archive, _ = at
    run("restore", "torch", "--to", tmp_path / "last", *archive)
    assert [path.name for path in (tmp_path / "last/torch").iterdir()] == ["step_00000110.safetensors"]
    run("restore", "torch", "--all", "--to", tmp_path / "all", *archive)
    assert len(list((tmp_path / "all/torch").iterdir())) == 12
    found = load_file(tmp_path / "all/torch/step_00000030.safetensors")
    wanted = walk(12)[3]
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


# Exit codes


def test_a_usage_error_is_2(tmp_path, at):
    archive, database = at
    run("ingest", code=2)
    run("ingest", tmp_path, "--codec", "zip", code=2)
    run("ingest", tmp_path, "--max-mem", "many", code=2)
    run("compute", "--window", "1", *archive, *database, code=2)
    run("compute", "--scheduler", "cluster", *archive, *database, code=2)
    run("query", "lag_flip", "-p", "scope", *database, code=2)
    run("query", "lag_flip", "-p", "nonsense=1", *database, code=2)
    run("query", "no_such_recipe", *database, code=2)
    run("nonsense", code=2)


def test_what_does_not_exist_is_4(at, tmp_path):
    archive, database = at
    assert "no run other" in run("restore", "other", "--to", tmp_path, *archive, code=4).stderr
    assert "nearest" in run("restore", "safe", "--step", 31, "--to", tmp_path, *archive, code=4).stderr
    run("query", "SELECT 1 WHERE false", *database, code=4)
    run("explain", "no_such_column", code=4)
    run("compute", "--scope", "role:router", *archive, *database, code=4)


def test_what_failed_is_1_with_one_line(tmp_path):
    nowhere = tmp_path / "nowhere.zarr"
    for args in (
        ["ingest", tmp_path / "missing", "--archive", nowhere],
        ["compute", "--archive", nowhere, "--db", tmp_path / "a.duckdb"],
        ["verify", "--archive", nowhere],
        ["status", "--archive", nowhere],
        ["restore", "run", "--archive", nowhere],
        ["query", "SELECT 1 AS x", "--db", tmp_path / "nowhere.duckdb"],
        ["export", tmp_path / "csv", "--db", tmp_path / "nowhere.duckdb"],
    ):
        result = run(*args, code=1)
        assert result.stdout == ""
        assert re.fullmatch(r"error: .*(nowhere|missing).*\n", result.stderr), result.stderr
    assert not nowhere.exists()


def test_damage_found_by_verify_is_1_and_listed_on_stdout(tmp_path):
    write_safetensors(tmp_path / "run", walk(2))
    run("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    (tmp_path / "a.zarr/run/commits/000000.json").unlink()
    result = run("verify", "--archive", tmp_path / "a.zarr", code=1)
    assert "000000.json" in result.stdout
    assert re.search(r": (1 file|[2-9] files) damaged or missing", result.stderr)
    found = run("verify", "--archive", tmp_path / "a.zarr", "--json", code=1)
    assert all(finding["severity"] == "error" for finding in data_of(found))


def test_a_refused_run_is_1_with_the_way_out(tmp_path):
    write_safetensors(tmp_path / "one/run", walk(2))
    write_safetensors(tmp_path / "two/run", walk(2, seed=3))
    run("ingest", tmp_path / "one/run", "--archive", tmp_path / "a.zarr")
    result = run("ingest", tmp_path / "two/run", "--archive", tmp_path / "a.zarr", code=1)
    assert "--run NAME" in result.stderr
    run("ingest", tmp_path / "two/run", "--archive", tmp_path / "a.zarr", "--run", "two")
    assert Archive(tmp_path / "a.zarr").run_names == ("run", "two")


def test_a_history_without_one_readable_checkpoint_is_1(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/step_1.pt").write_bytes(b"nothing")
    assert "step_1.pt" in run("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr", code=1).stderr


def test_a_budget_that_is_too_small_is_1_and_says_what_would_do(place, at, tmp_path):
    archive, _ = at
    args = ["compute", *archive, "--db", tmp_path / "a.duckdb", "--workers", 1]
    message = run(*args, "--max-mem", "1kB", code=1).stderr
    enough = re.search(r"--max-mem (\w+)", message)[1]
    run(*args, "--max-mem", enough, "--dry-run")


def test_control_characters_of_names_in_files_never_reach_the_terminal(tmp_path):
    write_safetensors(tmp_path / "run", [{"\x1b[31mred\x07": torch.tensor([float("nan"), 1.0])}] * 2)
    run("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    result = run("compute", "--archive", tmp_path / "a.zarr", "--db", tmp_path / "a.duckdb")
    assert "red" in result.stderr
    assert "\x1b" not in result.output
    assert "\x07" not in result.output


def interrupted_compute(root, seconds):
    """A compute that gets SIGINT some time after it has taken the lock."""
    args = ["compute", "--archive", root / "a.zarr", "--db", root / "a.duckdb", "--exact", "--workers", 2]
    process = subprocess.Popen(
        command(*args), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (root / "a.zarr/writer.lock").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.mark.parametrize("seconds", [pytest.param(0.1, marks=pytest.mark.slow), 1.0])
def test_an_interrupted_compute_is_130_and_goes_on_from_there(tmp_path, seconds):
    write_safetensors(tmp_path / "run", walk(16, shapes={f"h.{at}.mlp.c_fc.weight": (400, 400) for at in range(3)}))
    archive = ["--archive", tmp_path / "a.zarr"]
    run("ingest", tmp_path / "run", *archive)
    code, out, err = interrupted_compute(tmp_path, seconds)
    assert code == 130, err
    assert out == ""
    assert re.search(r"error: interrupted; .*same command", err)
    assert "Traceback" not in err
    run("verify", *archive)
    run("compute", *archive, "--db", tmp_path / "a.duckdb", "--exact", "--no-inference")
    status = data_of(run("status", *archive, "--db", tmp_path / "a.duckdb", "--json"))
    assert status["interrupted"] is False
    assert status["runs"][0]["spectra"] == 48


def test_a_reader_that_goes_away_is_no_failure(place):
    process = subprocess.Popen(
        command("query", "SELECT * FROM range(300000)", "--db", place / "archive.duckdb", "--format", "csv"),
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    process.stdout.readline()
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0, err
    assert "Traceback" not in err
