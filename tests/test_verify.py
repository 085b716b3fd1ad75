"""Verify: any flipped bit and any deleted file is found; a clean archive gives no finding."""

import json
import random

import pytest
from small import walk, write_log, write_safetensors

from sedarchive.archive import Archive
from sedarchive.archive.damage import DAMAGE_RECORD
from sedarchive.archive.lock import LOCK_NAME
from sedarchive.archive.verify import verify
from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.restore import restore

BIG = {"big.weight": (300, 700), "h.0.mlp.c_fc.weight": (4, 6), "small.bias": (5,), "one": ()}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """An archive with two runs (one nested), metrics, two groups of steps and Gram matrices."""
    root = tmp_path_factory.mktemp("clean")
    write_safetensors(root / "runs/a", walk(10, shapes=BIG))
    write_log(root / "runs/a", range(0, 100, 10))
    write_safetensors(root / "runs/a/b", walk(3, seed=1))
    ingest([root / "runs"], root / "a.zarr", IngestOptions())
    compute(root / "a.zarr", root / "a.duckdb", ComputeOptions(spectra=False, inference=False))
    return root / "a.zarr"


def files_of(archive):
    return sorted(path for path in archive.rglob("*") if path.is_file() and path.name != DAMAGE_RECORD)


def kinds_of(files):
    """Files by kind, so that a sample of them holds data, records and metadata alike."""
    kinds = {}
    for path in files:
        kind = path.name if path.suffix == ".json" and path.parent.name != "commits" else path.parent.parts[-1]
        kinds.setdefault(kind, []).append(path)
    return list(kinds.values())


def errors(archive):
    return [finding for finding in verify(archive) if finding.severity == "error"]


def test_a_clean_archive_has_no_finding_after_ingest_compute_and_growth(tmp_path):
    write_safetensors(tmp_path / "run", walk(8))
    write_log(tmp_path / "run", [0, 10])
    for n in (8, 13):
        write_safetensors(tmp_path / "run", walk(n))
        write_log(tmp_path / "run", range(0, 10 * n, 10))
        ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
        assert verify(tmp_path / "a.zarr") == []
        compute(tmp_path / "a.zarr", tmp_path / "a.duckdb", ComputeOptions(inference=False))
        assert verify(tmp_path / "a.zarr") == []


def test_an_archive_below_a_folder_called_theta_is_verified_like_any_other(tmp_path):
    write_safetensors(tmp_path / "theta/run", walk(2))
    ingest([tmp_path / "theta/run"], tmp_path / "theta/a.zarr", IngestOptions())
    next(path for path in (tmp_path / "theta/a.zarr/run/theta/wte.weight/c").rglob("*") if path.is_file()).unlink()
    assert errors(tmp_path / "theta/a.zarr")


def flip_and_find(archive, path, rng):
    data = path.read_bytes()
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    damaged = bytearray(data)
    damaged[at] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        found = errors(archive)
    finally:
        path.write_bytes(data)
    assert found, f"bit {bit} of byte {at} of {path} was flipped and not found"
    inner = path.relative_to(archive)
    array = inner.parts[: inner.parts.index("c")] if "c" in inner.parts else inner.parts
    assert any("/".join(array) in finding.detail for finding in found), (path, found)


def delete_and_find(archive, path):
    data = path.read_bytes()
    path.unlink()
    try:
        found = errors(archive)
    finally:
        path.write_bytes(data)
    assert found, f"{path} was deleted and not found"


def sample(archive, n, seed):
    """``n`` files: each kind in turn, so that the many chunks do not crowd out the metadata."""
    rng = random.Random(seed)
    kinds = kinds_of(files_of(archive))
    return [rng.choice(kinds[at % len(kinds)]) for at in range(n)], rng


def test_every_flipped_bit_is_found(clean):
    files, rng = sample(clean, 25, seed=0)
    for path in files:
        flip_and_find(clean, path, rng)
    assert verify(clean) == []


def test_every_deleted_file_is_found(clean):
    for path in sample(clean, 5, seed=1)[0]:
        delete_and_find(clean, path)
    assert verify(clean) == []


@pytest.mark.slow
def test_each_of_200_flipped_bits_is_found(clean):
    files, rng = sample(clean, 200, seed=2)
    for path in files:
        flip_and_find(clean, path, rng)


@pytest.mark.slow
def test_each_of_20_deleted_files_is_found(clean):
    for path in sample(clean, 20, seed=3)[0]:
        delete_and_find(clean, path)


def test_an_unknown_file_is_found(clean):
    for folder in (clean, clean / "a", clean / "a/theta", clean / "a/theta/big.weight/c/0/0", clean / "a/commits"):
        stranger = folder / "stranger"
        stranger.write_text("x")
        try:
            assert any("stranger" in finding.detail for finding in errors(clean)), folder
        finally:
            stranger.unlink()


@pytest.fixture
def grown(tmp_path):
    """A run of 8 archived checkpoints whose folder holds 12 by now."""
    write_safetensors(tmp_path / "run", walk(8))
    write_log(tmp_path / "run", range(0, 80, 10))
    ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
    write_safetensors(tmp_path / "run", walk(12))
    write_log(tmp_path / "run", range(0, 120, 10))
    return tmp_path


def damaged_file(archive, pattern):
    return next(path for path in sorted((archive / "run").rglob(pattern)) if path.is_file())


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", ["flip", "unlink"])
@pytest.mark.parametrize(
    "pattern",
    [
        "theta/wte.weight/c/0/0/0",
        "theta/wte.weight/zarr.json",
        "commits/000003.json",
        "commits/000007.json",
        "manifest.json",
        "metrics/train_loss/value/c/0",
    ],
)
def test_growing_a_damaged_run_never_covers_the_damage(grown, damage, pattern):
    archive = grown / "a.zarr"
    path = archive / "run" / pattern
    flip(path) if damage == "flip" else path.unlink()
    reports = ingest([grown / "run"], archive, IngestOptions())
    healed = damage == "unlink" and pattern.endswith("000007.json")  # its source is there: it is ingested again
    if healed:
        assert errors(archive) == []
    else:
        assert errors(archive)
        assert reports[0].error is None or "verify" in reports[0].error


@pytest.mark.parametrize("pattern", ["theta/wte.weight/zarr.json", "theta/h.0.ln_1.bias/c/0/0", "commits/000007.json"])
@pytest.mark.parametrize("damage", ["flip", "unlink"])
def test_computing_on_a_damaged_run_never_covers_the_damage(grown, pattern, damage):
    archive = grown / "a.zarr"
    path = archive / "run" / pattern
    flip(path) if damage == "flip" else path.unlink()
    (report,) = compute(archive, grown / "a.duckdb", ComputeOptions(spectra=False, inference=False))
    assert report.error is None or "verify" in report.error
    assert errors(archive)


def test_a_deleted_middle_commit_never_gives_its_neighbour_s_slot_away(grown):
    (grown / "a.zarr/run/commits/000003.json").unlink()
    before = Archive(grown / "a.zarr").run("run")
    (report,) = ingest([grown / "run"], grown / "a.zarr", IngestOptions())
    assert "000003.json" in report.error
    for step in before.steps:
        restore(Archive(grown / "a.zarr").run("run"), step, grown / "out.safetensors")  # checks the digest itself


def test_an_interrupted_writer_is_told_and_is_no_damage(clean):
    (clean / LOCK_NAME).write_text(json.dumps({"pid": 1}))
    (clean / "a/theta/big.weight/c/0/0/0.123.partial").write_text("half")
    try:
        findings = verify(clean)
    finally:
        (clean / LOCK_NAME).unlink()
        (clean / "a/theta/big.weight/c/0/0/0.123.partial").unlink()
    assert {finding.severity for finding in findings} == {"info"}
    assert {finding.check_name for finding in findings} == {"interrupted", "leftover"}


def test_what_is_no_archive_is_said_to_be_none(tmp_path):
    (tmp_path / "zarr.json").write_text("{}")
    assert any("zarr.json" in finding.detail for finding in errors(tmp_path))
