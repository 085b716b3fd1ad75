"""The format of ``torch.save`` before PyTorch 1.6: five pickles, then one storage after another.

Each storage is its number of elements (int64, little-endian) and its bytes, which are little-endian
whatever machine wrote them; so the place of each follows from those before it.
"""

from collections.abc import Callable
from typing import BinaryIO, TypeVar

from sedarchive.readers.byteranges import RandomAccessFile
from sedarchive.readers.faults import reading, unreadable
from sedarchive.readers.torchfile import Place, TorchObject
from sedarchive.readers.torchobjects import Storage, TorchPickle
from sedarchive.readers.unpickle import interpret

_MAGIC = 0x1950A86A20F9469CFC6C
_SMALL = 1000  # opcodes of a pickle that holds a few numbers
_Built = TypeVar("_Built")


def parse_torchlegacy(file: RandomAccessFile, build: Callable[[TorchObject], _Built]) -> _Built:
    """Build something from a file in the stream format, from its pickles and the lengths of its storages.

    Parameters
    ----------
    file
        The file; it stays open, since views of it are built.
    build
        Makes the result from the object of the file, such as
        :func:`sedarchive.readers.torchfile.torch_contents`.

    Raises
    ------
    UnreadableCheckpointError
        If the stream is malformed or cut, or holds no weights.
    UnsafeCheckpointError
        If a pickle names something that runs code.
    """
    with reading(file.path):
        pickled = TorchPickle(file.path)
        with file.stream() as stream:
            root, keys = _read_pickles(stream, pickled)
            start = stream.tell()
        places = _walk(file, start, keys, pickled.storages)

        def locate(storage: Storage) -> Place:
            return file, places[storage.key]

        return build(TorchObject(file.path, root, frozenset(pickled.opaque), locate))


def _read_pickles(stream: BinaryIO, pickled: TorchPickle) -> tuple[object, list[str]]:
    """Read the saved object, and the keys of its storages in the order of the file."""
    rules = pickled.rules()
    if interpret(stream, rules) != _MAGIC:
        raise unreadable(
            pickled.path,
            "it is a plain pickle, not a file of torch.save",
            "load it in the program that wrote it and save the weights as safetensors",
        )
    interpret(stream, rules, _SMALL)  # the protocol number and the sizes of C types: nothing to learn from them
    interpret(stream, rules, _SMALL)
    root = interpret(stream, rules)
    keys = interpret(stream, rules)
    if not isinstance(keys, list) or not all(isinstance(key, str | int) for key in keys):
        raise ValueError("the list of storages is malformed")
    return root, [str(key) for key in keys]


def _walk(file: RandomAccessFile, start: int, keys: list[str], storages: dict[str, Storage]) -> dict[str, int]:
    """Byte at which each storage begins, checking every length on the way."""
    places: dict[str, int] = {}
    for key in keys:
        storage = storages[key]
        n_elements = int.from_bytes(file.read_at(start, 8), "little", signed=True)
        if n_elements != storage.n_elements:
            raise ValueError(f"storage {key[:40]!r} has {n_elements} elements instead of {storage.n_elements}")
        places[key] = start + 8
        start += 8 + storage.n_bytes
    if start > file.size:
        raise ValueError(f"the storages end at byte {start}, the file at byte {file.size}")
    return places
