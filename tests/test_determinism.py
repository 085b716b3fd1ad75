"""The same history gives the same tables: whatever computes it, however often, and in whatever order it arrived."""

import shutil
import sys

import numpy as np
import pytest
from conftest import Analysis
from histories import N_UPDATES, SPACING

from sedarchive.archive import Archive
from sedarchive.compute.refresh import ComputeOptions, plan_compute
from sedarchive.errors import BandError
from sedarchive.leaves import Scope
from sedarchive.rolling.windows import window_series
from sedarchive.sizes import MIB
from sedarchive.sweeps.anatomy import anatomy
from sedarchive.sweeps.stored_grams import GramOptions, StoredGrams, gram_key
from sedarchive.tables import Database

NUMBERS = ("updates", "windows", "window_sigmas", "drift", "components", "matrix_spectra", "matrix_stats")
CATALOG = ("runs", "checkpoints", "tensors", "matrices", "metrics", "audit", "requests")
TIGHT = 20 * MIB
SCOPES = ("role:value", "values=*:value")


def exactly(value):
    """Value in a form in which equal means equal bits."""
    if isinstance(value, list):
        return tuple(map(exactly, value))
    return value.hex() if isinstance(value, float) else value


def content(analysis, table):
    return [tuple(map(exactly, row)) for row in analysis.rows(f"SELECT * FROM {table} ORDER BY ALL")]


def assert_same_tables(one, other, tables=NUMBERS + CATALOG):
    for table in tables:
        found = content(one, table)
        assert found == content(other, table), table
        assert found or table not in NUMBERS


def gram_files(analysis):
    """Chunk -> bytes of every stored Gram matrix."""
    chunks = [path for path in analysis.archive.rglob("gram/*/*/c/**/*") if path.is_file()]
    return {path.relative_to(analysis.archive): path.read_bytes() for path in chunks}


def stored_grams(analysis, run, **options):
    parts = anatomy(Archive(analysis.archive).run(run))
    stored = StoredGrams(parts, parts.run.store, gram_key(parts, GramOptions(MIB, **options)))
    return {leaf.name: stored.gram(Scope(leaf.name, (leaf,))) for leaf in parts.leaves}


def checkpoints(first, end):
    return [f"checkpoint-{SPACING * index}" for index in range(first, end)]


@pytest.fixture(scope="module")
def ingested(trained, wide, tmp_path_factory):
    """An archive of three runs, of the largest no more than it takes, of which nothing is computed."""
    folder = tmp_path_factory.mktemp("ingested")
    made = Analysis(folder / "archive.zarr", folder / "archive.duckdb")
    for name in checkpoints(0, 16):
        shutil.copytree(trained / "gpt2_bfloat16" / name, folder / "gpt2_bfloat16" / name)
    for path in (folder / "gpt2_bfloat16", trained / "collinear", wide):
        made.ingest(path)
    return made


def computed_copy(original, folder, **options):
    """A copy of an archive, Gram matrices included if it has them, with tables computed anew."""
    made = Analysis(folder / "archive.zarr", folder / "archive.duckdb")
    shutil.copytree(original.archive, made.archive)
    reports = made.compute(inference=False, **options)
    assert [report.error for report in reports] == [None] * 3
    return made


@pytest.fixture(scope="module")
def reference(ingested, tmp_path_factory):
    """What one serial worker with plenty of memory computes; to be read only."""
    made = computed_copy(ingested, tmp_path_factory.mktemp("reference"), scheduler="serial", scopes=SCOPES)
    with Database.read(made.database):  # a file that is open here is opened again in no time
        yield made


@pytest.fixture(scope="module")
def banded(ingested, tmp_path_factory):
    """Tables from the products of updates at most 10 apart, with a window asked for that needs more."""
    return computed_copy(ingested, tmp_path_factory.mktemp("banded"), band=10, windows=(12,), spectra=False)


@pytest.fixture
def hurried_threads():
    """Threads that take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


MORE_EXECUTORS = [pytest.param(*one, marks=pytest.mark.slow) for one in (("serial", 2), ("threads", 1), ("threads", 5))]


@pytest.mark.parametrize(("scheduler", "workers"), [("threads", 2), *MORE_EXECUTORS])
def test_tables_and_grams_are_the_same_bits_for_any_executor(
    ingested, reference, tmp_path, hurried_threads, scheduler, workers
):
    found = computed_copy(ingested, tmp_path, scheduler=scheduler, workers=workers, scopes=SCOPES)
    assert_same_tables(found, reference)
    assert gram_files(found) == gram_files(reference)
    assert len(gram_files(found)) > 3


def energies(analysis, run):
    """sigma² of the windows of the default scopes, NULL as 0: (scope, size, step) -> array."""
    sql = """SELECT scope, window_size, step, list(coalesce(sigma, 0) ORDER BY k) FROM window_sigmas
             WHERE run = ? AND scope NOT IN ('role:value', 'values') GROUP BY ALL"""
    return {tuple(pair): np.array(sigma) ** 2 for *pair, sigma in analysis.rows(sql, [run])}


def assert_same_energies(found, wanted, run, longest=N_UPDATES):
    """Windows of up to some length agree norm-wise, and the others are not there."""
    one, other = energies(found, run), energies(wanted, run)
    assert set(one) == {pair for pair in other if pair[1] <= longest}
    for pair, energy in one.items():
        assert np.linalg.norm(energy - other[pair]) <= 1e-13 * np.linalg.norm(other[pair]), pair
    assert len(one) > 30


def decodes(analysis, **options):
    plans = plan_compute(analysis.archive, analysis.database, ComputeOptions(**options))
    return {
        plan.run: (plan.gram.decodes_per_chunk, *(sweep.decodes_per_chunk for sweep in plan.spectra)) for plan in plans
    }


MORE_MEMORY = [pytest.param(*one, marks=pytest.mark.slow) for one in ((2 * TIGHT, 1), (10 * TIGHT, 1), (TIGHT, 2))]


@pytest.mark.parametrize(("max_mem", "workers"), [(TIGHT, 1), (2 * TIGHT, 2), *MORE_MEMORY])
def test_grams_and_windows_agree_to_rounding_for_any_memory(ingested, reference, tmp_path, max_mem, workers):
    options = {"max_mem": max_mem, "workers": workers, "spectra": False}
    assert (decodes(ingested, **options)["wide"][0] > 1) == (max_mem == TIGHT)
    found = computed_copy(ingested, tmp_path, **options)
    for run in ("gpt2_bfloat16", "collinear", "wide"):
        wanted = stored_grams(reference, run)
        for leaf, gram in stored_grams(found, run).items():
            error = np.linalg.norm(gram.full - wanted[leaf].full)
            assert error <= 1e-13 * np.linalg.norm(wanted[leaf].full), (run, leaf)
        assert_same_energies(found, reference, run)


def test_spectra_are_the_same_bits_where_steps_are_held_in_parts(ingested, reference, tmp_path):
    options = {"max_mem": 19 * MIB}
    assert decodes(ingested, **options)["wide"][1] > 1
    found = computed_copy(reference, tmp_path, **options)
    assert_same_tables(found, reference, ("matrix_spectra", "matrix_stats"))


def test_a_band_gives_the_windows_inside_it_as_the_full_matrix_does(banded, reference):
    for run in ("gpt2_bfloat16", "collinear", "wide"):
        assert_same_energies(banded, reference, run, longest=10)
    columns = "run, scope, step, round(norm, 12), zero_fraction, status"
    sql = f"SELECT {columns} FROM updates WHERE scope NOT IN ('role:value', 'values') ORDER BY ALL"
    assert banded.rows(sql) == reference.rows(sql)


def test_a_window_beyond_the_band_is_a_finding_and_the_others_are_computed(banded):
    assert banded.rows("SELECT DISTINCT window_size FROM windows ORDER BY ALL") == [(5,), (10,)]
    ((detail,),) = banded.rows("SELECT detail FROM audit WHERE run = 'wide' AND check_name = 'band_too_narrow'")
    assert "12 apart" in detail
    assert "--band 12" in detail


def test_the_library_refuses_a_window_beyond_the_band(banded):
    (gram,) = stored_grams(banded, "wide", band=10).values()
    assert gram.bandwidth == 10
    assert len(window_series(gram, 10, 1000)) == N_UPDATES - 9
    with pytest.raises(BandError, match="band of 10; compute it again with --band 12 or wider"):
        window_series(gram, 12, 1000)


def test_a_history_that_grew_gives_the_tables_of_a_fresh_one(trained, tmp_path):
    folder = tmp_path / "run"
    grown, fresh = (Analysis(tmp_path / f"{name}.zarr", tmp_path / f"{name}.duckdb") for name in ("grown", "fresh"))
    for part in (checkpoints(0, 9), checkpoints(9, 10), checkpoints(10, 18)):
        for name in part:
            shutil.copytree(trained / "neox" / name, folder / name)
        shutil.copy(trained / "neox" / "metrics.jsonl", folder)
        grown.ingest(folder)
        if len(part) > 1:
            grown.compute(inference=False, windows=(3,), scopes=("role:key",))
    fresh.ingest(folder)
    fresh.compute(inference=False, windows=(3,), scopes=("role:key",))
    assert_same_tables(grown, fresh)
    assert gram_files(grown) == gram_files(fresh)


def test_checkpoints_that_arrive_out_of_order_give_the_same_tables(trained, tmp_path):
    folder, names = tmp_path / "run", checkpoints(0, 12)
    late, fresh = (Analysis(tmp_path / f"{name}.zarr", tmp_path / f"{name}.duckdb") for name in ("late", "fresh"))
    for part in (names[1::2], names[::2]):
        for name in part:
            shutil.copytree(trained / "gpt2_float16" / name, folder / name)
        late.ingest(folder)
    fresh.ingest(folder)
    for one in (late, fresh):
        one.compute(inference=False)
    assert_same_tables(late, fresh, NUMBERS)
    assert gram_files(late) == gram_files(fresh)


def test_spectra_at_every_third_checkpoint_are_those_of_the_full_tables(reference, tmp_path):
    found = computed_copy(reference, tmp_path, every=3)
    steps = {SPACING * index for index in (*range(0, N_UPDATES, 3), N_UPDATES)}
    for table in ("matrix_spectra", "matrix_stats"):
        place = [name for name, *_ in found.rows(f"DESCRIBE {table}")].index("step")
        assert content(found, table) == [row for row in content(reference, table) if row[place] in steps]
    found.compute(inference=False)
    assert_same_tables(found, reference, ("matrix_spectra", "matrix_stats"))


def test_a_deleted_database_is_rebuilt_with_the_same_tables(reference, tmp_path):
    found = computed_copy(reference, tmp_path, scopes=SCOPES)
    assert_same_tables(found, reference)


def test_a_null_asked_for_later_is_the_one_of_windows_derived_anew(ingested, tmp_path):
    whole = computed_copy(ingested, tmp_path / "whole", windows=(5, 10), spectra=False)
    found = computed_copy(ingested, tmp_path / "found", windows=(10,), spectra=False)
    assert content(found, "windows") != content(whole, "windows")
    sums = {path: path.read_bytes() for path in found.archive.rglob("gram/*/updates/c/**/*") if path.is_file()}
    for path in sums:  # what stands in the tables is enough
        path.write_bytes(b"")
    reports = found.compute(inference=False, windows=(5,), spectra=False)
    for path, data in sums.items():
        path.write_bytes(data)
    assert [(report.error, report.window_sets > 0) for report in reports] == [(None, True)] * 3
    for table in ("updates", "windows", "window_sigmas"):
        assert content(found, table) == content(whole, table) != []
    assert found.compute(inference=False, spectra=False)[0].window_sets == 0


def test_computing_twice_changes_nothing(reference, analysis):
    shutil.copytree(reference.archive, analysis.archive)
    shutil.copy(reference.database, analysis.database)
    before = gram_files(analysis)
    reports = analysis.compute(inference=False)
    assert_same_tables(analysis, reference, (*NUMBERS, *CATALOG, "computations"))
    assert gram_files(analysis) == before
    assert [(report.window_sets, report.spectra.computed) for report in reports] == [(0, 0)] * 3
    assert [report.gram.reads.chunks + report.spectra.reads.chunks for report in reports] == [0] * 3
