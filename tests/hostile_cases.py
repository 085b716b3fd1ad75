"""Hostile files by name: how each is written, and what must become of it among good checkpoints.

``test_hostile_files`` counts them and puts each through ``ingest``.
"""

import copyreg
import json
import os
import pickle
import stat
import struct
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from small import walk, write_safetensors
from test_readers_hostile import legacy_with, tensor_pickle, zip_with
from test_readers_safetensors import entry, write_raw

SHAPES = {"w": (3, 2)}
REFUSED, WARNED, SILENT, TAKEN = "refused", "warned", "passed over", "taken"


@dataclass(frozen=True)
class Place:
    """Where a case writes: the run's folder, and a file that must not come to be."""

    run: Path
    canary: Path

    def file(self, suffix):
        return self.run / f"step_20{suffix}"

    def outside(self):
        """A good checkpoint beside the tree that is ingested."""
        return write_safetensors(self.run.parent.parent / "outside", walk(1, shapes=SHAPES), [20])[0]


@dataclass(frozen=True)
class Case:
    """A hostile file: how it is written, what becomes of it, and what is said."""

    write: object
    outcome: str = REFUSED
    words: str = ""


CASES = {}


def case(name, outcome=REFUSED, words=""):
    def kept(write):
        CASES[name] = Case(write, outcome, words)
        return write

    return kept


# Headers


def header(name, content, data=bytes(8), length=None, words=""):
    CASES[name] = Case(lambda place: write_raw(place.file(".safetensors"), content, data, length), REFUSED, words)


TWICE = b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}"
header("a header longer than its file", {"a": entry()}, length=10**6, words="its header claims")
header("a header said to be 100 MB long", {"a": entry()}, length=100_000_000, words="its header claims")
header("a header said to be 2^64 bytes long", {"a": entry()}, length=2**64 - 1, words="its header claims")
header("tensors that overlap", {"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12), words="overlap")
header("a key twice", TWICE, words="twice")
header("negative offsets", {"a": entry(offsets=(-8, 0))}, words="whole numbers")
header("a shape whose product wraps 64 bits", {"a": entry(shape=(2**32, 2**32), offsets=(0, 0))}, b"", words="as many")
header("a header nested without end", b'{"a":' + b"[" * 200_000, b"", words="RecursionError")
header("a number of ten thousand digits", b'{"a":' + b"9" * 10_000 + b"}", b"", words="digits")
header(
    "an empty tensor of an absurd shape", {"a": entry(shape=(0, 2**50, 8), offsets=(0, 0))}, b"", words="absurd shape"
)


# Indexes


def index(name, weight_map, words, text=None):
    def write(place):
        folder = place.file("")
        folder.mkdir()
        save_file({"a": torch.ones(2)}, folder / "one.safetensors")
        place.outside()
        content = text or json.dumps({"weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(content)

    CASES[name] = Case(write, REFUSED, words)


index(
    "an index that leads out of its folder", {"a": "../../../outside/step_20.safetensors"}, "not a file of its folder"
)
index("an index of an absolute path", {"a": "/etc/passwd"}, "not a file of its folder")
index(
    "an index of a key that is absent", {"a": "one.safetensors", "z": "one.safetensors"}, "does not hold the tensor 'z'"
)
index("an index of a shard that is absent", {"a": "two.safetensors"}, "missing")
index("an index that names itself", {"a": "model.safetensors.index.json"}, "neither safetensors nor")
index("an index with a key twice", {}, "twice", '{"weight_map": {"a": "one.safetensors", "a": "one.safetensors"}}')


# Zip archives

FEW = tensor_pickle(20 * 2**20, 0, (4,), (1,))


@case("a zip bomb in a storage", words="bomb")
def _(place):
    zip_with(place.file(".pt"), FEW, [("data/0", bytes(80 * 2**20))], zipfile.ZIP_DEFLATED)


@case("a zip bomb in the pickle", words="bomb")
def _(place):
    zip_with(place.file(".pt"), b"\x80\x02" + b"]0" * (36 * 2**20) + b"N.", method=zipfile.ZIP_DEFLATED)


@case("a zip bomb inside a zip archive", words=r"no data\.pkl")
def _(place):
    bomb = zip_with(place.run / "inner", bytes(60 * 2**20), method=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(place.file(".pt"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(bomb, "a/inner.pt")
    bomb.unlink()


@case("a zip bomb of records that share their bytes", words="bomb")
def _(place):
    with zipfile.ZipFile(place.file(".pt"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", FEW)
        archive.writestr("a/data/0", bytes(2**20))
        first = archive.infolist()[1]
        for at in range(1, 100):
            other = zipfile.ZipInfo(f"a/data/{at}")
            for name in ("compress_type", "CRC", "compress_size", "file_size", "header_offset"):
                setattr(other, name, getattr(first, name))
            archive.filelist.append(other)


@case("a zip archive that was cut", words="cut off or not complete.*download it again")
def _(place):
    torch.save({"w": torch.ones(50)}, place.file(".pt"))
    place.file(".pt").write_bytes(place.file(".pt").read_bytes()[:-100])


# Pickles

COMMAND = {
    "REDUCE": lambda run: b"cos\nsystem\n(" + run + b"tR.",
    "STACK_GLOBAL": lambda run: b"\x80\x04\x8c\x02os\x8c\x06system\x93(" + run + b"tR.",
    "STACK_GLOBAL by memo": lambda run: b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94h\x01h\x00\x93(" + run + b"tR.",
    "INST": lambda run: b"(" + run + b"ios\nsystem\n.",
    "OBJ": lambda run: b"(csubprocess\ngetoutput\n" + run + b"o.",
    "NEWOBJ": lambda run: b"\x80\x02csubprocess\nPopen\n(" + run + b"I-1\nNNNNI01\nI01\nt\x81.",
    "NEWOBJ_EX": lambda run: b"\x80\x04csubprocess\nPopen\n(" + run + b"t}X\x05\x00\x00\x00shellI01\ns\x92.",
    "BUILD": lambda run: b"\x80\x02ctypes\nSimpleNamespace\n)\x81}S'__setstate__'\ncos\nsystem\nsb" + run + b"b.",
    "BINPERSID": lambda run: b"\x80\x02cos\nsystem\n(" + run + b"tRQ.",
    "a dotted name": lambda run: b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93(" + run + b"tR.",
    "the extension registry": lambda run: b"\x80\x02\x82\xf0(" + run + b"tR.",
}  # fmt: skip


def text_of(path):
    return b"S'touch " + os.fsencode(path) + b"'\n"


@contextmanager
def registered():
    """The number of an extension, as a program that loads such a file may have given it out."""
    copyreg.add_extension("os", "system", 0xF0)
    try:
        yield
    finally:
        copyreg.remove_extension("os", "system", 0xF0)


for opcode, made in COMMAND.items():
    said = "opcode EXT1" if "registry" in opcode else "can run code; nothing was executed"
    for kind, put in (("zip", zip_with), ("stream", legacy_with)):
        CASES[f"a pickle that runs a command by {opcode}, {kind}"] = Case(
            lambda place, put=put, made=made: put(place.file(".pt"), made(text_of(place.canary))), REFUSED, said
        )


def pickled(name, data, words):
    CASES[name] = Case(lambda place: zip_with(place.file(".pt"), data), REFUSED, words)


DOUBLED = b"".join(b"]" + b"h" + bytes([i]) + b"ah" + bytes([i]) + b"aq" + bytes([i + 1]) for i in range(60))
pickled("a pickle nested 100,000 deep", b"]" * 100_000 + b"a" * 99_999 + b".", "no tensor")
pickled("a pickle that holds itself", b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "no tensor")
pickled("a memo bomb of 2^60 lists", b"\x80\x02]q\x00" + DOUBLED + b".", "no tensor")
pickled("a text said to be 2^60 bytes long", b"\x8d" + struct.pack("<Q", 2**60) + b"x.", "claims more than")
pickled("a persistent id that is a text", b"P../../etc/passwd\n.", "persistent id")


@case("an index of chunks that runs a command", words="can run code")
def _(place):
    chunks(place)
    (place.file("") / ".metadata").write_bytes(COMMAND["REDUCE"](text_of(place.canary)))


@case("an index of chunks that leads out of its folder", words="not one of its folder")
def _(place):
    chunks(place)
    index = pickle.loads((place.file("") / ".metadata").read_bytes())
    for key, info in index.storage_data.items():
        index.storage_data[key] = replace(info, relative_path="../step_10.safetensors")
    (place.file("") / ".metadata").write_bytes(pickle.dumps(index))


def chunks(place):
    place.file("").mkdir()
    dcp.save({"w": torch.ones(3, 2)}, checkpoint_id=place.file(""), no_dist=True)


# What only looks like a file


@case("a link out of the tree", words="a link that leaves the folder searched.*point to this checkpoint itself")
def _(place):
    place.file(".safetensors").symlink_to(place.outside())


@case("a folder whose shard is a link out of the tree", words="a link that leaves the folder searched")
def _(place):
    index = place.file("") / "model.safetensors.index.json"
    index.parent.mkdir()
    index.write_text('{"weight_map": {"w": "one.safetensors"}}')
    (index.parent / "one.safetensors").symlink_to(place.outside())


@case("a link inside the tree", TAKEN)
def _(place):
    (path,) = write_safetensors(place.run / "real", walk(1, shapes=SHAPES), [20])
    path = path.rename(place.run / "real" / "weights")
    place.file(".safetensors").symlink_to(path)


@case("a link round to itself", WARNED, "a link that leads nowhere")
def _(place):
    place.file(".pt").symlink_to(place.file(".pt"))


@case("a folder linked into itself", SILENT)
def _(place):
    place.file("").symlink_to(place.run)


@case("a pipe", WARNED, "no plain file but a pipe")
def _(place):
    os.mkfifo(place.file(".pt"))


@case("a socket", WARNED, "no plain file but a pipe")
def _(place):
    os.mknod(place.file(".pt"), stat.S_IFSOCK | 0o600)


@case("a link to a device without end", WARNED, "a link that leads nowhere|a device")
def _(place):
    place.file(".pt").symlink_to("/dev/zero")


@case("a folder named like a file", WARNED, "no weights are recognised in it")
def _(place):
    place.file(".pt").mkdir()


@case("pipes and devices in place of config and settings", SILENT)
def _(place):
    os.mkfifo(place.run / "config.json")
    os.mkfifo(place.run / "args.json")
    os.mkfifo(place.run / "hparams.yaml")
    (place.run / "training_args.json").symlink_to("/dev/zero")
    place.file("").mkdir()
    os.mkfifo(place.file("") / "model.safetensors")


@case("a config of adapters that is a pipe", TAKEN)
def _(place):
    folder = place.run / "checkpoint-99"  # of the last checkpoint it is read
    folder.mkdir()
    save_file({"w": torch.ones(3, 2)}, folder / "adapter_model.safetensors")
    os.mkfifo(folder / "adapter_config.json")


# Names


def named(name, *names):
    def write(place):
        save_file({"w": torch.ones(3, 2), **{each: torch.ones(2) for each in names}}, place.file(".safetensors"))

    CASES[name] = Case(write, TAKEN)


named("tensors whose names climb out", "../outside", "../../../outside", "a/../../b")
named("tensors whose names are absolute", "/absolute", "//absolute", "C:\\absolute")
named("tensors whose names are control characters", "\n\r\t", "\x1b[2J", "\u202eevil", "\x7f")
named("a tensor with a name of 10,000 characters", "x" * 10_000)
named("tensors whose names differ in case", "Layer.weight", "layer.weight", "LAYER.WEIGHT")
named("tensors named as the archive's own files", "zarr.json", "c", "step", ".", "..", "~1", "%2E")


@case("a tensor whose name holds a zero", words="with the name")
def _(place):
    save_file({"a\0b": torch.ones(2)}, place.file(".safetensors"))


@case("a file whose name is no UTF-8", TAKEN)
def _(place):
    (path,) = write_safetensors(place.run, walk(1, shapes=SHAPES), [20])
    path.rename(os.fsdecode(os.fsencode(place.run) + b"/step_20_\xff\xfe.safetensors"))
