"""The archive: what is stored is what was in the files, and any Zarr tool can read it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from small import walk, write_log, write_safetensors

from sedarchive.archive import Archive
from sedarchive.archive.names import RESERVED, stored_name
from sedarchive.archive.store import make_group
from sedarchive.archive.verify import verify
from sedarchive.digests import canonical_digest
from sedarchive.errors import (
    ArchiveNotFoundError,
    ArchiveVersionError,
    DamagedArchiveError,
    UnknownNameError,
)
from sedarchive.ingest import IngestOptions, ingest

BIG = {"big.weight": (300, 700), "small.bias": (5,)}


def archived(tmp_path, states, steps=None, **options):
    write_safetensors(tmp_path / "run", states, steps)
    reports = ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions(**options))
    assert [report.error for report in reports] == [None]
    return Archive(tmp_path / "a.zarr").run("run")


def expected(states, name):
    return np.stack([state[name].to(torch.float32).numpy().reshape(len(state[name]), -1) for state in states])


@pytest.mark.parametrize("codec", ["none", "lz4", "small"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_codec_gives_back_the_values(tmp_path, codec, dtype):
    states = walk(3, shapes=BIG, dtype=dtype)
    run = archived(tmp_path, states, codec=codec)
    np.testing.assert_array_equal(run.read("big.weight", (0, 300), [0, 1, 2]), expected(states, "big.weight"))
    assert verify(tmp_path / "a.zarr") == []


@pytest.mark.parametrize("steps_per_chunk", [1, 3, None])
def test_subsets_of_rows_and_steps_are_those_of_the_files(tmp_path, steps_per_chunk):
    states = walk(10, shapes=BIG)
    run = archived(tmp_path, states, steps_per_chunk=steps_per_chunk)
    wanted = expected(states, "big.weight")
    for rows in ((0, 300), (0, 1), (149, 151), (187, 188), (299, 300)):
        for steps in ([0], [9], [0, 9], [2, 3, 4], [7, 8, 9], list(range(10))):
            np.testing.assert_array_equal(run.read("big.weight", rows, steps), wanted[steps, slice(*rows)])


@pytest.mark.parametrize("positions", [[10], [0, 99], [-11], range(9, 12)])
def test_a_position_that_is_not_there_is_said_with_those_that_are(tmp_path, positions):
    run = archived(tmp_path, walk(10, shapes=BIG))
    with pytest.raises(UnknownNameError, match=r"run run: no checkpoint at .* are 0 to 9 \(steps 0 to 90\)"):
        run.read("big.weight", (0, 1), positions)


def test_positions_count_from_the_end_too(tmp_path):
    states = walk(10, shapes=BIG)
    run = archived(tmp_path, states)
    np.testing.assert_array_equal(run.read("big.weight", (0, 9), [-1, -10]), expected(states, "big.weight")[[9, 0], :9])


def test_steps_asked_for_out_of_order_come_in_the_order_asked(tmp_path):
    states = walk(10, shapes=BIG)
    run = archived(tmp_path, states)
    np.testing.assert_array_equal(
        run.read("big.weight", (3, 9), [9, 0, 4]), expected(states, "big.weight")[[9, 0, 4], 3:9]
    )


def test_each_chunk_is_fetched_once_a_read(tmp_path):
    run = archived(tmp_path, walk(10, shapes=BIG))
    run.read("big.weight", (0, 300), range(10))
    fetches = run.store.counts.fetches
    assert len(fetches) == 4  # two slabs, two groups of steps
    assert set(fetches.values()) == {1}


@pytest.mark.parametrize("steps_per_chunk", [1, 16])
def test_appending_leaves_the_earlier_steps_as_they_were(tmp_path, steps_per_chunk):
    states = walk(13, shapes=BIG)
    first = archived(tmp_path, states[:8], steps_per_chunk=steps_per_chunk)
    before = {name: [first.read(name, (0, 5), [at]).tobytes() for at in range(8)] for name in BIG}
    digests = [commit.digest for commit in first.commits]
    partial = tmp_path / "a.zarr/run/theta/small.bias/c/0/0"
    old = partial.stat().st_ino
    run = archived(tmp_path, states, steps_per_chunk=steps_per_chunk)
    assert run.steps == tuple(range(0, 130, 10))
    assert [commit.digest for commit in run.commits][:8] == digests
    for name in BIG:
        assert [run.read(name, (0, 5), [at]).tobytes() for at in range(8)] == before[name]
    np.testing.assert_array_equal(run.read("big.weight", (0, 300), range(13)), expected(states, "big.weight"))
    # the partial chunk is a new file, renamed over the old one: a reader of the old one is not disturbed
    assert steps_per_chunk == 1 or partial.stat().st_ino != old
    assert verify(tmp_path / "a.zarr") == []


def test_one_step_a_chunk_never_touches_a_written_chunk_again(tmp_path):
    archived(tmp_path, walk(8), steps_per_chunk=1)
    chunks = [path for path in (tmp_path / "a.zarr/run/theta/wte.weight/c").rglob("*") if path.is_file()]
    before = {path: (path.stat().st_ino, path.read_bytes()) for path in chunks}
    archived(tmp_path, walk(13), steps_per_chunk=1)
    assert len(before) == 8
    assert {path: (path.stat().st_ino, path.read_bytes()) for path in before} == before


def test_checkpoints_that_arrive_late_stand_in_step_order(tmp_path):
    states = walk(7, shapes=BIG)
    write_safetensors(tmp_path / "run", states)
    late = tmp_path / "run/step_30.safetensors"
    late.rename(tmp_path / "hidden")
    ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
    (tmp_path / "hidden").rename(late)
    ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
    run = Archive(tmp_path / "a.zarr").run("run")
    assert run.steps == (0, 10, 20, 30, 40, 50, 60)
    assert [commit.slot for commit in run.commits] == [0, 1, 2, 6, 3, 4, 5]
    np.testing.assert_array_equal(run.read("big.weight", (0, 300), range(7)), expected(states, "big.weight"))
    np.testing.assert_array_equal(run.read("big.weight", (7, 8), [2, 3, 4]), expected(states, "big.weight")[2:5, 7:8])
    coordinate = zarr.open_array(tmp_path / "a.zarr/run/theta/step", mode="r")[:]
    assert coordinate.tolist() == [0, 10, 20, 40, 50, 60, 30]
    assert verify(tmp_path / "a.zarr") == []


def test_xarray_opens_the_weights(tmp_path):
    states = walk(4)
    archived(tmp_path, states)
    with xarray.open_zarr(tmp_path / "a.zarr", group="run/theta", consolidated=False) as data:
        assert data["step"].values.tolist() == [0, 10, 20, 30]
        values = data["wte.weight"].sel(step=20).values
        assert data["wte.weight"].attrs["tensor"] == "wte.weight"
    np.testing.assert_array_equal(values, states[2]["wte.weight"].numpy())


def test_xarray_opens_the_metrics(tmp_path):
    write_safetensors(tmp_path / "run", walk(2))
    write_log(tmp_path / "run", [0, 10])
    ingest([tmp_path / "run"], tmp_path / "a.zarr", IngestOptions())
    with xarray.open_zarr(tmp_path / "a.zarr", group="run/metrics/train_loss", consolidated=False) as data:
        assert float(data["value"].sel(step=10)) == pytest.approx(1.99)


def test_raw_bits_of_bfloat16_stand_in_the_array_with_their_encoding(tmp_path):
    states = walk(2, dtype=torch.bfloat16)
    archived(tmp_path, states)
    array = zarr.open_array(tmp_path / "a.zarr/run/theta/wte.weight", mode="r")
    assert array.dtype == np.uint16
    assert dict(array.attrs) == {"tensor": "wte.weight", "dtype": "bfloat16", "encoding": "bits"}
    np.testing.assert_array_equal(array[1], states[1]["wte.weight"].view(torch.uint16).numpy())


def test_a_tensor_that_comes_and_goes_is_nan_where_it_is_absent(tmp_path):
    states = walk(5, shapes=BIG)
    for at in (0, 3):
        del states[at]["small.bias"]
    run = archived(tmp_path, states)
    values = run.read("small.bias", (0, 5), range(5))
    assert np.isnan(values[[0, 3]]).all()
    for at in (1, 2, 4):
        np.testing.assert_array_equal(values[at, :, 0], states[at]["small.bias"].numpy())
    assert run.tensors["small.bias"].positions == (1, 2, 4)
    assert verify(tmp_path / "a.zarr") == []


def test_a_change_of_shape_begins_another_tensor_and_one_of_dtype_does_not(tmp_path):
    states = walk(6, shapes={"a": (4, 3), "b": (4, 3)})
    for at in (3, 4, 5):
        states[at]["a"] = torch.full((5, 3), float(at))
        states[at]["b"] = states[at]["b"].to(torch.float64) + 1e-12
    run = archived(tmp_path, states)
    assert list(run.tensors) == ["a", "a~1", "b"]
    assert run.tensors["a"].positions == (0, 1, 2)
    assert run.tensors["a~1"].positions == (3, 4, 5)
    assert run.tensors["b"].dtypes == ("float32", "float64")
    assert (run.read("a~1", (0, 5), [3, 4, 5])[:, 0, 0] == [3, 4, 5]).all()
    mixed = run.read("b", (0, 4), range(6))
    assert mixed.dtype == np.float64
    np.testing.assert_array_equal(mixed, np.stack([state["b"].to(torch.float64).numpy() for state in states]))


def test_a_missing_chunk_is_an_error_and_never_nan(tmp_path):
    run = archived(tmp_path, walk(2))
    next(path for path in (tmp_path / "a.zarr/run/theta/wte.weight/c").rglob("*") if path.is_file()).unlink()
    with pytest.raises(DamagedArchiveError, match=r"wte\.weight.*missing.*verify"):
        run.read("wte.weight", (0, 11), [0])


@pytest.mark.parametrize("damage", [b"\x8a\xff", b"{", b"[]"])
def test_a_group_below_damaged_metadata_is_refused_and_not_made(tmp_path, damage):
    archived(tmp_path, walk(2))
    (tmp_path / "a.zarr/run/zarr.json").write_bytes(damage)
    refused = pytest.raises(DamagedArchiveError, match=r"run: its metadata cannot be read.*verify")
    with Archive(tmp_path / "a.zarr").writing("test") as store, refused:
        make_group(store, "run/fresh")
    assert not (tmp_path / "a.zarr/run/fresh").exists()


def test_files_that_a_killed_writer_left_half_written_are_removed_by_the_next(tmp_path):
    archived(tmp_path, walk(2))
    stale = [tmp_path / "a.zarr/run/theta/wte.weight/c/0/0/0.1234.partial", tmp_path / "a.zarr/zarr.1234.partial"]
    for path in stale:
        path.write_bytes(b"half")
    archived(tmp_path, walk(2))
    assert not any(path.exists() for path in stale)
    assert verify(tmp_path / "a.zarr") == []


def test_a_folder_with_only_a_half_written_root_becomes_an_archive(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/zarr.1234.partial").write_bytes(b"{")
    archived(tmp_path, walk(2))
    assert verify(tmp_path / "a.zarr") == []


@pytest.mark.parametrize("kind", ["file", "folder", "zarr group of another"])
def test_a_path_that_holds_something_else_is_refused_and_left_alone(tmp_path, kind):
    path = tmp_path / "a.zarr"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("precious")
    else:
        zarr.create_group(path, attributes={"precious": True})
    before = {inner: inner.read_bytes() for inner in [path, *path.rglob("*")] if inner.is_file()}
    write_safetensors(tmp_path / "run", walk(2))
    with pytest.raises((ArchiveNotFoundError, DamagedArchiveError), match=r"a\.zarr"):
        ingest([tmp_path / "run"], path, IngestOptions())
    assert {inner: inner.read_bytes() for inner in [path, *path.rglob("*")] if inner.is_file()} == before


def test_an_archive_of_another_format_version_is_refused_by_number(tmp_path, monkeypatch):
    monkeypatch.setattr("sedarchive.archive.FORMAT_VERSION", 99)
    archived(tmp_path, walk(2))
    monkeypatch.undo()
    with pytest.raises(ArchiveVersionError, match="99"):
        Archive(tmp_path / "a.zarr")


def _sealed(**content):
    return {"sedarchive": {**content, "digest": canonical_digest(content)}}


@pytest.mark.parametrize(
    "root",
    [
        "",
        "[]",
        "null",
        "[" * 100_000,
        "[" + "0," * 4_000_000 + "0]",
        {"zarr_format": 2},
        {"node_type": "array"},
        {"attributes": None},
        {"attributes": {"sedarchive": []}},
        {"attributes": {"sedarchive": {"format_version": 1, "archive_id": "a"}}},
        {"attributes": {"sedarchive": {"format_version": 1, "archive_id": "a", "digest": "0" * 64}}},
        {"attributes": _sealed(format_version=1)},
        {"attributes": _sealed(archive_id="a")},
        {"attributes": _sealed(format_version=1, archive_id=["a"])},
    ],
    ids=lambda root: str(root)[:60],
)
def test_a_root_that_is_none_of_an_archive_is_damage(tmp_path, root):
    sound = {"zarr_format": 3, "node_type": "group", "attributes": _sealed(format_version=1, archive_id="a")}
    (tmp_path / "zarr.json").write_text(json.dumps(sound))
    assert Archive(tmp_path).archive_id == "a"
    (tmp_path / "zarr.json").write_text(root if isinstance(root, str) else json.dumps({**sound, **root}))
    with pytest.raises(DamagedArchiveError, match=r"zarr\.json"):
        Archive(tmp_path)


def test_names_that_are_not_there_are_said_with_those_that_are(tmp_path):
    run = archived(tmp_path, walk(2))
    with pytest.raises(ArchiveNotFoundError, match="ingest"):
        Archive(tmp_path / "nowhere.zarr")
    with pytest.raises(UnknownNameError, match=r"no run other; it holds run"):
        Archive(tmp_path / "a.zarr").run("other")
    with pytest.raises(UnknownNameError, match="no tensor 'x'"):
        run.read("x", (0, 1), [0])


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=200, deadline=None)
@given(first=names, second=names)
def test_distinct_names_have_distinct_safe_folders_even_where_case_is_ignored(first, second):
    stored = stored_name(first)
    assert stored not in RESERVED
    assert not stored.startswith(".")
    assert Path(stored).name == stored
    assert stored.isascii()
    assert stored.isprintable()
    assert len(stored) < 255
    if first != second:
        assert stored.lower() != stored_name(second).lower()


@pytest.mark.parametrize("name", ["..", ".", "../x", "zarr.json", "theta", "a" * 10_000, "x/../../y", "CON", "é", "\n"])
def test_hostile_names_stay_inside_their_folder(name, tmp_path):
    target = (tmp_path / stored_name(name)).resolve()
    assert target.parent == tmp_path.resolve()
    target.mkdir()


def test_runs_nested_in_runs_do_not_disturb_each_other(tmp_path):
    folders = ["x", "x/y", "x/theta", "x/commits", "x/metrics", "x/gram", "X", "x/step"]
    for seed, folder in enumerate(folders):
        write_safetensors(tmp_path / "runs" / folder, walk(3, seed=seed, shapes={"w": (2, 2)}))
    ingest([tmp_path / "runs"], tmp_path / "a.zarr", IngestOptions())
    archive = Archive(tmp_path / "a.zarr")
    assert archive.run_names == tuple(sorted(folders))
    for seed, folder in enumerate(folders):
        wanted = expected(walk(3, seed=seed, shapes={"w": (2, 2)}), "w")
        np.testing.assert_array_equal(archive.run(folder).read("w", (0, 2), range(3)), wanted)
    assert verify(tmp_path / "a.zarr") == []
    some = next(path for path in (tmp_path / "a.zarr/x/y/theta/w/c").rglob("*") if path.is_file())
    some.unlink()
    assert any(str(some) in finding.detail for finding in verify(tmp_path / "a.zarr"))
