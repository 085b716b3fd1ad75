"""The command ``audit`` tells all that is known: by ingest, by verify, by compute, and by other runs' digests."""

import shutil

import pytest
from small import data_of, few_draws, run_here, walk, write_safetensors

from sedarchive.archive.verify import verify


@pytest.fixture
def places(tmp_path):
    """Options of the commands for one archive."""
    return ("--archive", tmp_path / "a.zarr", "--db", tmp_path / "a.duckdb")


def ingested(tmp_path, places, name="run", seed=0, n=6):
    """One run, with its validation loss, in the archive."""
    folder = tmp_path / name
    write_safetensors(folder, walk(n, seed=seed))
    (folder / "metrics.jsonl").write_text(
        "".join(f'{{"step": {10 * at}, "val_loss": {2 - at / 100}}}\n' for at in range(n))
    )
    return run_here("ingest", folder, *places[:2])


def computed(places, code=0):
    with few_draws():
        return run_here("compute", "--no-spectra", *places, code=code)


def told(places, *more):
    """Checks of severity warning and above, by run."""
    audits = data_of(run_here("audit", "--json", *places, *more))
    return {
        one["run"]: [found["check_name"] for found in one["findings"] if found["severity"] != "info"] for one in audits
    }


def flip(tmp_path, tensor="wte.weight"):
    """Flip a bit of one chunk of weights; what undoes it."""
    (chunk,) = (path for path in (tmp_path / "a.zarr/run/theta" / tensor / "c").rglob("*") if path.is_file())
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:40] + bytes([whole[40] ^ 1]) + whole[41:])
    return lambda: chunk.write_bytes(whole)


def test_a_sound_run_with_its_losses_has_nothing_to_tell(tmp_path, places):
    ingested(tmp_path, places)
    run_here("audit", "--strict", *places)
    assert told(places) == {"run": []}


def test_damage_that_verify_found_is_told_until_verify_finds_none(tmp_path, places):
    ingested(tmp_path, places)
    mend = flip(tmp_path)
    found = run_here("verify", *places[:2], code=1).stdout
    audit = run_here("audit", "--strict", *places, code=3)
    assert "damage: " in audit.stdout
    assert "wte.weight" in audit.stdout
    assert "sedarchive verify" in audit.stdout
    assert "wte.weight" in found
    mend()
    run_here("audit", "--strict", *places, code=3)
    assert verify(tmp_path / "a.zarr") == []
    run_here("audit", "--strict", *places)


def test_damage_belongs_to_its_run_or_to_the_archive(tmp_path, places):
    for name in ("group", "group/inner"):
        write_safetensors(tmp_path / "source", walk(3))
        run_here("ingest", tmp_path / "source", "--run", name, *places[:2])
    next((tmp_path / "a.zarr/group/inner/commits").glob("*.json")).write_text("{}")
    (tmp_path / "a.zarr/strange").write_text("nobody's")
    run_here("verify", *places[:2], code=1)
    found = told(places)
    assert "damage" in found["group/inner"]
    assert "damage" not in found["group"]
    assert found[str(tmp_path / "a.zarr")] == ["damage"]
    assert list(told(places, "--run", "group")) == ["group"]


def test_a_tensor_that_compute_could_not_read_is_told_until_it_can(tmp_path, places):
    ingested(tmp_path, places)
    mend = flip(tmp_path)
    computed(places, code=1)
    assert told(places) == {"run": ["unreadable"]}
    run_here("audit", "--strict", *places, code=3)
    mend()
    computed(places)
    assert told(places) == {"run": []}


def test_a_missing_validation_loss_is_told_by_the_audit_too(tmp_path, places):
    write_safetensors(tmp_path / "run", walk(3))
    run_here("ingest", tmp_path / "run", *places[:2])
    assert told(places) == {"run": ["no_val_loss"]}


def test_a_copy_of_a_run_that_was_ingested_earlier_is_told_at_its_ingest(tmp_path, places):
    ingested(tmp_path, places)
    shutil.copytree(tmp_path / "run", tmp_path / "renamed")
    said = run_here("ingest", tmp_path / "renamed", *places[:2]).stderr
    assert "identical_runs" in said
    assert "run run are the same byte for byte" in said
    assert told(places) == {"renamed": ["identical_runs"], "run": ["identical_runs"]}


@pytest.mark.parametrize("record", ["commits/000000.json", "run.json"])
def test_runs_that_differ_are_no_copies_and_a_damaged_one_stops_no_comparison(tmp_path, places, record):
    ingested(tmp_path, places)
    (tmp_path / "a.zarr/run" / record).write_text("{}")
    assert "identical_runs" not in ingested(tmp_path, places, "other", seed=3).stderr


@pytest.mark.parametrize("form", [("nobody",), ("--run", "nobody")])
def test_a_run_that_is_not_there_is_named_however_it_is_asked_for(tmp_path, places, form):
    ingested(tmp_path, places)
    assert "no run nobody" in run_here("audit", *form, *places, code=4).stderr


def test_a_run_may_be_named_without_an_option(tmp_path, places):
    for name in ("one", "two"):
        ingested(tmp_path, places, name, seed=len(name) + ord(name[0]))
    assert list(told(places, "two")) == ["two"]
    run_here("audit", "one", "--run", "two", *places, code=2)
