"""What an answer rests on is said beside it: windows, stale tables, empty tables and panels."""

import math

import pytest
from small import data_of, few_draws, run_here, walk, write_safetensors

from sedarchive.compute.requests import DEFAULT_WINDOWS
from sedarchive.recipes.answers import SHORTEST_DERIVED
from sedarchive.tables import Database

SHAPES = {"h.0.attn.c_attn.weight": (6, 18), "h.0.mlp.c_fc.weight": (6, 12)}


def placed(root):
    return ("--archive", root / "a.zarr", "--db", root / "a.duckdb")


def ingested(root, name="run", n=14, seed=0):
    write_safetensors(root / name, walk(n, shapes=SHAPES, seed=seed))
    run_here("ingest", root / name, *placed(root)[:2])


def computed(root, *more, code=0):
    with few_draws():
        return run_here("compute", "--no-spectra", *more, *placed(root), code=code)


def windows_of(root, *more):
    """Compute what these tests look at, and no more."""
    return computed(root, "--no-inference", *more)


def rows(root, sql):
    with Database.read(root / "a.duckdb") as tables:
        return tables.rows(sql).rows


@pytest.fixture(scope="module")
def asked_for_five(tmp_path_factory):
    """A run for which windows of 5 updates were asked for, and no others. To be read only."""
    root = tmp_path_factory.mktemp("five")
    ingested(root)
    computed(root, "--window", "5")
    return root


# Short runs


def test_a_run_too_short_for_windows_is_told_what_it_needs_and_not_to_compute_again(tmp_path):
    assert min(DEFAULT_WINDOWS) == SHORTEST_DERIVED
    ingested(tmp_path, n=1)
    windows_of(tmp_path)
    needed = "the table windows is empty: a window of W updates needs W + 1 checkpoints, and no run has more than"
    for recipe in ("spectral_edge", "coupling"):
        said = run_here("query", recipe, *placed(tmp_path), code=4).stderr.splitlines()
        assert f"  {needed} 1; ingest more of them and compute again" in said
    ingested(tmp_path, n=4)
    windows_of(tmp_path)
    said = run_here("query", "spectral_edge", *placed(tmp_path), code=4).stderr.splitlines()[-1]
    way_out = "ask for shorter windows: `sedarchive compute --window 3`"
    assert said == f"  {needed} 4; ingest more of them and compute again, or {way_out}"
    windows_of(tmp_path, "--window", "3")
    said = run_here("query", "spectral_edge", *placed(tmp_path)).stderr
    assert said == (
        "window_size 3, the smallest asked for: there are no windows of the default, 10, which need 11 checkpoints\n"
    )


# The default window


def test_a_recipe_shows_the_windows_asked_for_where_none_are_named(asked_for_five):
    said = run_here("query", "spectral_edge", "--json", *placed(asked_for_five))
    named = run_here("query", "spectral_edge", "--json", "-p", "window_size=5", *placed(asked_for_five))
    assert data_of(said) == data_of(named)
    assert "window_size 5, the smallest asked for" in said.stderr
    assert named.stderr == ""


def test_windows_that_are_named_are_shown_though_they_have_no_null(asked_for_five):
    said = run_here("query", "spectral_edge", "--json", "-p", "window_size=10", *placed(asked_for_five))
    assert len(data_of(said)) == 4  # of 13 updates
    assert said.stderr.startswith(
        "no null was asked for windows of 10, so it is NULL: `sedarchive compute --window 10`"
    )


def test_a_figure_and_an_export_show_the_windows_asked_for(asked_for_five, tmp_path):
    run_here("plot", "-o", tmp_path / "edge.svg", *placed(asked_for_five)[2:])
    run_here("export", tmp_path / "out", *placed(asked_for_five)[2:])
    assert len((tmp_path / "out/recipes/spectral_edge.csv").read_text().splitlines()) == 1 + 9


def test_the_usual_default_needs_no_word(tmp_path):
    ingested(tmp_path)
    windows_of(tmp_path, "--window", "5,10")
    said = run_here("query", "spectral_edge", "--json", *placed(tmp_path))
    assert len(data_of(said)) == 4
    assert said.stderr == ""


# Requests that are withdrawn


def test_a_window_and_a_scope_that_are_withdrawn_leave_with_their_rows(tmp_path):
    ingested(tmp_path)
    computed(tmp_path, "--window", "4,5,10", "--scope", "mine=*attn*", "--scope", "role:*")
    sizes = "SELECT DISTINCT window_size FROM {} WHERE {} ORDER BY 1"
    with_null = sizes.format("windows", "edge_ratio_null IS NOT NULL")
    assert rows(tmp_path, with_null) == [(4,), (5,), (10,)]
    computed(tmp_path, "--forget-window", "4,5", "--forget-scope", "mine")
    assert rows(tmp_path, sizes.format("windows", "true")) == [(5,), (10,)]  # windows of 5 are always derived
    assert rows(tmp_path, with_null) == [(10,)]
    assert rows(tmp_path, sizes.format("phases", "true")) == [(10,)]
    left = {scope for (scope,) in rows(tmp_path, "SELECT DISTINCT scope FROM windows")}
    assert "mine" not in left
    assert "role:query" in left or "role:gate" in left or any(scope.startswith("role:") for scope in left)
    computed(tmp_path)
    assert rows(tmp_path, with_null) == [(10,)]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (("--forget-window", "7"), "window 7 was not asked for, so it cannot be withdrawn; asked: 5"),
        (("--forget-scope", "all"), "scope all was not asked for, so it cannot be withdrawn; asked: none"),
    ],
)
def test_what_was_not_asked_for_cannot_be_withdrawn(asked_for_five, what, said):
    before = rows(asked_for_five, "SELECT * FROM requests ORDER BY ALL")
    assert said in computed(asked_for_five, *what, code=4).stderr
    assert rows(asked_for_five, "SELECT * FROM requests ORDER BY ALL") == before


# Stale tables


def test_tables_that_are_behind_the_archive_are_said_to_be_so(tmp_path):
    ingested(tmp_path, n=12)
    assert "nothing of it yet" not in run_here("status", *placed(tmp_path)).stderr  # there are no tables at all
    windows_of(tmp_path)
    (fresh,) = data_of(run_here("status", "--json", *placed(tmp_path)))["runs"]
    assert fresh["stale"] is None
    assert run_here("query", "history", *placed(tmp_path)).stderr == ""
    ingested(tmp_path, n=14)
    ingested(tmp_path, "other", seed=1)
    said = run_here("query", "history", *placed(tmp_path)).stderr
    assert "run: the tables lack 2 checkpoints that came since; `sedarchive compute`" in said
    assert "other: the tables hold nothing of it yet" in said
    shown = run_here("status", *placed(tmp_path))
    assert "run: the tables lack 2 checkpoints that came since" in shown.stderr
    assert [line.split()[0] for line in shown.stdout.splitlines() if " stale " in line] == ["run"]
    windows_of(tmp_path)
    assert run_here("query", "history", *placed(tmp_path)).stderr == ""


def test_a_checkpoint_that_was_replaced_makes_the_tables_stale_until_compute(tmp_path):
    ingested(tmp_path, n=12)
    windows_of(tmp_path)
    write_safetensors(tmp_path / "run", walk(1, shapes=SHAPES, seed=8), [50])
    run_here("ingest", tmp_path / "run", "--replace", "50", *placed(tmp_path)[:2])
    assert "of other content at 1 checkpoint" in run_here("query", "history", *placed(tmp_path)).stderr
    windows_of(tmp_path)
    assert run_here("query", "history", *placed(tmp_path)).stderr == ""


def test_a_database_alone_is_asked_without_a_word(asked_for_five, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run_here("query", "history", *placed(asked_for_five)[2:]).stderr == ""
    ingested(tmp_path)
    other = ("--archive", tmp_path / "a.zarr")
    assert run_here("query", "history", *other, *placed(asked_for_five)[2:]).stderr == ""


# Empty tables and panels


@pytest.mark.parametrize(
    ("recipe", "way_out"),
    [("wave_velocity", "without --no-spectra"), ("projection_error", "compute --projection 100")],
)
def test_an_empty_answer_from_an_empty_table_says_what_fills_it(asked_for_five, recipe, way_out):
    assert way_out in run_here("query", recipe, *placed(asked_for_five), code=4).stderr


def test_a_run_that_is_not_drawn_or_has_an_empty_panel_is_named_with_the_reason(tmp_path):
    ingested(tmp_path, "short", n=4)
    ingested(tmp_path, "long", seed=1)
    states = walk(14, shapes=SHAPES, seed=2)
    for state in states:
        state["h.0.mlp.c_fc.weight"][0, 0] = math.nan
    write_safetensors(tmp_path / "broken", states)
    run_here("ingest", tmp_path / "broken", *placed(tmp_path)[:2])
    windows_of(tmp_path)
    said = run_here("plot", "-o", tmp_path / "edge.svg", *placed(tmp_path)[2:]).stderr
    assert "short: left out: no windows of 10 updates for scope all (it has 4 checkpoints)" in said
    assert "broken: its panel is empty: no edge ratio: 4 windows with status nonfinite" in said


@pytest.mark.parametrize(
    "args",
    [("query", "nofile.sql"), ("plot", "-o", "nowhere/edge.png"), ("query", "history", "-o", "nowhere/rows.csv")],
)
def test_a_file_that_cannot_be_opened_is_said_without_a_number_of_the_system(asked_for_five, args):
    said = run_here(*args, *placed(asked_for_five)[2:], code=2 if args[-1] == "nofile.sql" else 1).stderr
    assert args[-1] in said
    assert "Errno" not in said
    assert "No such file or directory" in said
