"""Files made to harm: nothing runs, and only errors of sedarchive come out."""

import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from sedarchive.errors import UnreadableCheckpointError, UnsafeCheckpointError
from sedarchive.history import CheckpointSource
from sedarchive.readers import fingerprint, open_checkpoint

torch.set_num_threads(1)
KINDS = ["zip", "legacy", "compressed", "safetensors"]
STATE = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.bfloat16), "epoch": 3}


def opened(path, spool=None):
    return open_checkpoint(CheckpointSource(0, path.name, path), spool)


def read_everything(path):
    with opened(path) as reader:
        for name, spec in reader.specs.items():
            reader.read_rows(name, 0, min(spec.rows, 100))
    fingerprint(path)


def zip_with(path, pickled, records=(), method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, data in records:
            archive.writestr(f"a/{name}", data)
    return path


def legacy_with(path, pickled):
    head = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
    path.write_bytes(head + pickled + pickle.dumps([], 2))
    return path


def calling(module, name, argument):
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + pickle.dumps((argument,), 2)[2:-1] + b"R."


def valid_file(folder, kind):
    path = folder / ("a.safetensors" if kind == "safetensors" else "a.pt")
    if kind == "safetensors":
        save_file({name: value for name, value in STATE.items() if name != "epoch"}, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind != "legacy")
    if kind == "compressed":
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(folder / "z.pt", "w", zipfile.ZIP_DEFLATED) as new:
            for entry in old.infolist():
                new.writestr(entry.filename, old.read(entry))
        return folder / "z.pt"
    return path


class Payload:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_pickle_that_calls_the_shell_is_refused_and_nothing_runs(tmp_path, protocol, zipped):
    state = {"w": torch.ones(2), "x": Payload(tmp_path / "ran")}
    torch.save(state, tmp_path / "a.pt", pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match=r"a\.pt.*(posix|os)\.system.*nothing was executed"):
        opened(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "a.pt", weights_only=False)
    assert (tmp_path / "ran").exists()  # the payload is live: a loader that trusts the file does run it


@pytest.mark.parametrize(
    "dotted",
    [
        "os system", "posix system", "nt system", "subprocess Popen", "builtins eval", "builtins exec",
        "builtins getattr", "__builtin__ eval", "builtins __import__", "sys exit", "importlib import_module",
        "runpy run_path", "pty spawn", "socket create_connection", "shutil rmtree", "ctypes CDLL",
        "code InteractiveInterpreter", "types FunctionType", "operator methodcaller", "_operator attrgetter",
        "pickle loads", "torch.hub load", "torch load", "torch.jit load", "torch.utils.data x",
        "torch.storage _load_from_bytes", "webbrowser open", "os.path join", "torch serialization.os.system",
        "collections abc.sys.exit", "numpy.testing._private.utils runstring", "asyncio run", "io open",
    ],
)  # fmt: skip
@pytest.mark.parametrize("write", [zip_with, legacy_with])
def test_a_global_that_can_run_code_is_refused_by_name(tmp_path, write, dotted):
    module, name = dotted.split()
    with pytest.raises(UnsafeCheckpointError) as caught:
        opened(write(tmp_path / "a.pt", calling(module, name, "x")))
    assert f"{module}.{name}" in str(caught.value)


def test_unsafe_globals_are_seen_in_every_opcode_that_names_one(tmp_path):
    for pickled in (
        b"cos\nsystem\n.",
        b"(ios\nsystem\n.",
        b"(cos\nsystem\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93.",
    ):
        with pytest.raises(UnsafeCheckpointError):
            opened(zip_with(tmp_path / "a.pt", pickled))


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b".",
        b"\x80\x02}",
        b"\x80\x02h\x05.",
        b"\x80\x02u.",
        b"\x80\x02(K\x01K\x02u.",
        b"\x80\x02](K\x01K\x02u.",
        b"\x80\x02}K\x01a.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02K\x01K\x02\x93.",
        b"\x80\x02U\x01aQ.",
        b"Pabc\n.",
        b"\x80\x02)Q.",
        b"\x82\x01.",
        b"\x97.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x8b\xff\xff\xff\x7f.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"\x8b\x00\x10\x00\x00" + b"\x7f" * 4096 + b".",
        b"F" + b"x" * 50 + b"\n.",
        b"V\\ud8\n.",
        b"\xff\xff",
    ],
)
@pytest.mark.parametrize("write", [zip_with, legacy_with])
def test_malformed_pickles_are_unreadable(tmp_path, write, pickled):
    with pytest.raises(UnreadableCheckpointError, match=r"a\.pt"):
        opened(write(tmp_path / "a.pt", pickled))


def test_a_memo_index_of_four_billion_takes_no_memory(tmp_path):
    path = zip_with(tmp_path / "a.pt", b"\x80\x02}r\xff\xff\xff\xff.")
    tracemalloc.start()
    with pytest.raises(UnreadableCheckpointError, match="no tensor"):
        opened(path)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_deep_looped_and_self_multiplying_objects_end(tmp_path):
    deep = b"]" * 100_000 + b"a" * 99_999
    doubled = (
        b"\x80\x02"
        + b"]q\x00"
        + b"".join(b"]" + b"h" + bytes([i]) + b"ah" + bytes([i]) + b"aq" + bytes([i + 1]) for i in range(60))
    )
    looped = b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s."
    keyed = b"\x80\x02)q\x00" + b"".join(
        b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(60)
    )
    keyed += b"}h\x3cNs."
    for pickled in (deep + b".", doubled + b".", looped, keyed):
        with pytest.raises(UnreadableCheckpointError):
            opened(zip_with(tmp_path / "a.pt", pickled))


def test_weights_that_contain_themselves_are_unreadable(tmp_path):
    torch.save({"w": torch.ones(2), "self": "here"}, tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "b.pt") as archive:
        pickled = archive.read("b/data.pkl")
        record = ("data/0", archive.read("b/data/0"))
    here = pickled.index(b"X\x04\x00\x00\x00here")
    end = here + len(b"X\x04\x00\x00\x00here")
    end += 2 if pickled[end : end + 1] == b"q" else 0
    path = zip_with(tmp_path / "a.pt", pickled[:here] + b"h\x00" + pickled[end:], [record])
    with pytest.raises(UnreadableCheckpointError, match="without end"):
        opened(path)


def test_a_config_whose_parts_repeat_a_million_million_times_ends(tmp_path):
    level = {"x": 1}
    for _ in range(4):
        level = dict.fromkeys(map(str, range(1000)), level)
    torch.save({"config": level, "w": torch.ones(2)}, tmp_path / "a.pt")
    with opened(tmp_path / "a.pt") as reader:
        assert list(reader.specs) == ["w"]


def test_a_name_of_absurd_length_is_unreadable(tmp_path):
    torch.save({"n" * 5000: torch.ones(2)}, tmp_path / "a.pt")
    with pytest.raises(UnreadableCheckpointError, match="absurd length"):
        opened(tmp_path / "a.pt")


def tensor_pickle(count, offset, shape, strides, storage=b"ctorch\nFloatStorage\n", view=b""):
    identity = (
        b"(X\x07\x00\x00\x00storage"
        + storage
        + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        + number(count)
        + view
        + b"tQ"
    )
    tail = b"".join(b"(" + b"".join(map(number, axis)) + b"t" for axis in (shape, strides))
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + identity + number(offset) + tail + b"\x89)tR."


def number(value):
    return pickle.dumps(value, 2)[2:-1]


@pytest.mark.parametrize(
    ("count", "offset", "shape", "strides"),
    [
        (4, 1, (2, 2), (2, 1)),
        (4, 0, (2, 2), (3, 1)),
        (4, -1, (2,), (1,)),
        (4, 0, (-2,), (1,)),
        (4, 3, (2,), (-1,)),
        (4, 0, (2, 2), (1,)),
        (4, 0, (2.0,), (1,)),
        (4, 0, (True,), (1,)),
        (4, 0, (2**63,), (0,)),
        (4, 0, (2**40,), (0,)),
        (4, 0, (2**31, 2**31), (0, 0)),
        (5, 0, (2,), (1,)),
        (3, 0, (2,), (1,)),
        (2**61, 0, (2,), (1,)),
        (-4, 0, (2,), (1,)),
        (4, 0, (1,) * 65, (1,) * 65),
    ],
)
def test_tensors_that_do_not_fit_their_storage_are_unreadable(tmp_path, count, offset, shape, strides):
    path = zip_with(tmp_path / "a.pt", tensor_pickle(count, offset, shape, strides), [("data/0", bytes(16))])
    with pytest.raises(UnreadableCheckpointError):
        opened(path)


def test_the_tensor_of_the_test_above_is_read_when_it_fits(tmp_path):
    data = struct.pack("<4f", 1, 2, 3, 4)
    with opened(zip_with(tmp_path / "a.pt", tensor_pickle(4, 1, (3,), (1,)), [("data/0", data)])) as reader:
        assert reader.read_rows("tensor", 0, 3).tolist() == [[2], [3], [4]]


@pytest.mark.parametrize(("view", "values"), [(b"N", [2, 3]), (b"(X\x01\x00\x00\x00vK\x02K\x03t", [4, 5])])
def test_a_view_of_a_storage_in_an_old_stream_file_begins_inside_it(tmp_path, view, values):
    path = legacy_with(tmp_path / "a.pt", tensor_pickle(5, 1, (2,), (1,), view=view))
    stream = path.read_bytes()[: -len(pickle.dumps([], 2))] + pickle.dumps(["0"], 2)
    path.write_bytes(stream + struct.pack("<q5f", 5, 1, 2, 3, 4, 5))
    with opened(path) as reader:
        assert reader.read_rows("tensor", 0, 2).ravel().tolist() == values


@pytest.mark.parametrize("view", [b"(X\x01\x00\x00\x00vK\x03K\x03t", b"(K\x01t", b"K\x01"])
def test_a_view_beyond_its_storage_or_malformed_is_unreadable(tmp_path, view):
    with pytest.raises(UnreadableCheckpointError, match="view of a storage"):
        opened(legacy_with(tmp_path / "a.pt", tensor_pickle(5, 1, (2,), (1,), view=view)))


@pytest.mark.parametrize("storage", [b"ctorch\nFooStorage\n", b"cevil\nFloatStorage\n", b"N"])
def test_a_storage_of_an_unknown_class_is_unreadable(tmp_path, storage):
    pickled = tensor_pickle(4, 0, (4,), (1,), storage)
    with pytest.raises(UnreadableCheckpointError, match="unknown class"):
        opened(zip_with(tmp_path / "a.pt", pickled, [("data/0", bytes(16))]))


def test_a_missing_record_is_unreadable(tmp_path):
    with pytest.raises(UnreadableCheckpointError, match="'0' is missing"):
        opened(zip_with(tmp_path / "a.pt", tensor_pickle(4, 0, (4,), (1,))))


def test_a_zip_bomb_is_refused_before_anything_is_unpacked(tmp_path):
    (tmp_path / "spool").mkdir()
    n_bytes = 80 * 2**20
    pickled = tensor_pickle(n_bytes // 4, 0, (4,), (1,))
    path = zip_with(tmp_path / "a.pt", pickled, [("data/0", bytes(n_bytes))], zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**18
    with pytest.raises(UnreadableCheckpointError, match="bomb"):
        opened(path, tmp_path / "spool")
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_bomb_in_the_pickle_s_record_is_refused_too(tmp_path):
    path = zip_with(tmp_path / "a.pt", bytes(80 * 2**20), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(UnreadableCheckpointError, match="bomb"):
        opened(path)


def test_a_record_named_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate"):
        path = zip_with(tmp_path / "a.pt", b"N.", [("data.pkl", b"N.")])
    with pytest.raises(UnreadableCheckpointError, match="twice"):
        opened(path)


def test_a_zip_that_is_no_checkpoint_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme.txt", "x")
    with pytest.raises(UnreadableCheckpointError, match=r"data\.pkl"):
        opened(tmp_path / "a.pt")


def test_an_old_tar_and_a_plain_pickle_are_refused_with_the_way_out(tmp_path):
    with tarfile.open(tmp_path / "a.pt", "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    with pytest.raises(UnreadableCheckpointError, match=r"tar format.*torch\.load"):
        opened(tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UnreadableCheckpointError, match="plain pickle"):
        opened(tmp_path / "b.pt")


@pytest.mark.parametrize("data", [b"", b"x", b"\x80", b"PK\x03\x04", b"\x00" * 600, b"text" * 200])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.bin"])
def test_files_of_nothing_or_nonsense_are_unreadable(tmp_path, data, name):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UnreadableCheckpointError, match=name):
        opened(tmp_path / name)


def test_a_missing_file_and_a_folder_named_as_a_file_are_unreadable(tmp_path):
    (tmp_path / "b.pt").mkdir()
    for name in ("a.pt", "b.pt"):
        with pytest.raises(UnreadableCheckpointError, match=name):
            opened(tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_at_any_length_is_unreadable(tmp_path, kind):
    path = valid_file(tmp_path, kind)
    data = path.read_bytes()
    read_everything(path)
    for length in sorted({*range(0, len(data), 23), *range(len(data) - 30, len(data))}):
        path.write_bytes(data[:length])
        with pytest.raises(UnreadableCheckpointError):
            read_everything(path)
