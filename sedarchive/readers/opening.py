"""Opening a checkpoint of any known format, and telling whether one has changed."""

import hashlib
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sedarchive.history import CheckpointSource
from sedarchive.readers.byteranges import RandomAccessFile
from sedarchive.readers.contents import ByteRangeReader, CheckpointReader, Contents
from sedarchive.readers.dcp import dcp_contents
from sedarchive.readers.deepspeed import universal_contents, zero3_contents
from sedarchive.readers.faults import reading, unreadable
from sedarchive.readers.folder import WeightFiles, weight_files
from sedarchive.readers.formats import format_name
from sedarchive.readers.links import leads_outside
from sedarchive.readers.safetensors import header_length, parse_safetensors
from sedarchive.readers.torchfile import torch_contents
from sedarchive.readers.torchlegacy import parse_torchlegacy
from sedarchive.readers.torchzip import parse_torchzip
from sedarchive.sizes import KIB

_ENDS = 64 * KIB
_TAR_MAGIC_AT = 257


def open_checkpoint(source: CheckpointSource, spool: Path | None = None) -> CheckpointReader:
    """Open a checkpoint: safetensors or torch, one file, a folder of shards, or a distributed one.

    Only headers are read; nothing that a file asks for is executed, and torch is not needed.

    Parameters
    ----------
    source
        Where the checkpoint stands.
    spool
        Folder for the records of a compressed torch file (the system's temporary folder if None).

    Raises
    ------
    UnreadableCheckpointError
        If it is truncated, malformed or of an unsupported format.
    UnsafeCheckpointError
        If its pickle names something that runs code; nothing was executed.
    """
    found = weight_files(source.path)
    if source.home is not None:
        _refuse_links(found, source.home)
    with ExitStack() as stack, reading(source.path):
        files: list[RandomAccessFile] = []
        if found.layout == "plain":
            contents = _plain(found, source.key, spool, files, stack)
        else:
            contents = _distributed(found, source.key)
        contents = replace(contents, format=format_name(source.path, contents.format))
        reader = ByteRangeReader(source, contents, files)
        stack.pop_all()
    return reader


def _refuse_links(found: WeightFiles, home: Path) -> None:
    """Refuse a checkpoint whose files are links out of the folder that was searched."""
    for path in found.files if found.index is None else (found.index, *found.files):
        if leads_outside(path, home):
            way_out = "copy the file here, or point to this checkpoint itself if you trust the link"
            raise unreadable(path, f"it is a link that leaves the folder searched, {home}", way_out)


def _plain(
    found: WeightFiles, key: str | None, spool: Path | None, files: list[RandomAccessFile], stack: ExitStack
) -> Contents:
    """Contents of files that are read each on its own; the files opened are added to `files`."""
    parts: dict[str, Contents] = {}
    of_file = key if found.names is None else None
    for path in found.files:
        file = RandomAccessFile(path)
        stack.callback(file.close)
        files.append(file)
        parts[path.name], spooled = _parse(file, spool, of_file)
        if spooled is not None:
            stack.callback(spooled.close)
            files.append(spooled)
    joined = _joined(found, parts)
    return joined if key == of_file else _under_key(joined, str(key), found.files[0].parent)


def _distributed(found: WeightFiles, key: str | None) -> Contents:
    """Contents of a layout of many files, each opened when it is read."""
    folder = found.folder or found.files[0].parent
    if found.layout == "dcp":
        return _named(dcp_contents(folder, key), "DCP")
    if found.layout == "zero3":
        contents = _named(zero3_contents(found.files), "DeepSpeed ZeRO-3")
    else:
        contents = _named(universal_contents(found.files), "DeepSpeed universal")
    return contents if key is None else _under_key(contents, key, folder)


def _under_key(contents: Contents, key: str, path: Path) -> Contents:
    """Tensors whose names begin with the user's key, for formats that know no nesting."""
    prefix = f"{key}."
    tensors = {n.removeprefix(prefix): view for n, view in contents.tensors.items() if n.startswith(prefix)}
    if not tensors:
        way_out = "look at its names with any reader of its format, and give another --key or none"
        raise unreadable(path, f"it holds no tensor whose name begins with {prefix[:80]!r}", way_out)
    ties = {a.removeprefix(prefix): b.removeprefix(prefix) for a, b in contents.ties.items() if a.startswith(prefix)}
    return replace(contents, tensors=tensors, ties={a: b for a, b in ties.items() if b in tensors})


def _parse(file: RandomAccessFile, spool: Path | None, key: str | None) -> tuple[Contents, RandomAccessFile | None]:
    """Contents of one file; the format is told by its first bytes, safetensors by its suffix."""
    if not file.size:
        raise unreadable(file.path, "it is empty")
    if file.path.suffix.lower() == ".safetensors":
        return _safetensors(file, key), None
    start = file.read_at(0, min(file.size, 512))
    if start[:4] == b"PK\x03\x04":
        contents, spooled = parse_torchzip(file, spool, partial(torch_contents, key=key))
        return _named(contents, "PyTorch zip"), spooled
    if start[0] == 0x80:
        return _named(parse_torchlegacy(file, partial(torch_contents, key=key)), "PyTorch legacy"), None
    if start[_TAR_MAGIC_AT : _TAR_MAGIC_AT + 5] == b"ustar":
        way_out = "load it with torch.load and save it again with any later PyTorch"
        raise unreadable(file.path, "it is in the tar format of PyTorch before 0.1.10, which is not read", way_out)
    if start[8:9] == b"{":
        return _safetensors(file, key), None
    raise unreadable(file.path, "it is neither safetensors nor a file of torch.save", "save it as safetensors")


def _named(contents: Contents, container: str) -> Contents:
    """Contents with the name of their format, which may tell who saved them already."""
    return replace(contents, format=", ".join(filter(None, (contents.format, container))))


def _safetensors(file: RandomAccessFile, key: str | None) -> Contents:
    contents = _named(parse_safetensors(file), "safetensors")
    return contents if key is None else _under_key(contents, key, file.path)


def _joined(found: WeightFiles, parts: dict[str, Contents]) -> Contents:
    """One checkpoint from its shards, after checking that index and shards name the same tensors."""
    if found.names is None:
        return next(iter(parts.values()))
    index = found.index or found.files[0]
    for tensor, shard in found.names.items():
        if tensor not in parts[shard].tensors and tensor not in parts[shard].unread:
            raise unreadable(index, f"the shard {shard} does not hold the tensor {tensor[:80]!r} that it names")
    joined = Contents({})
    for shard, part in parts.items():
        unnamed = [name for name in part.tensors if found.names.get(name) != shard and name not in part.ties]
        if unnamed:
            raise unreadable(index, f"it does not name the tensor {unnamed[0][:80]!r} of the shard {shard}")
        joined = Contents(
            {**joined.tensors, **part.tensors},
            {**joined.ties, **part.ties},
            (*joined.findings, *part.findings),
            format=f"sharded {part.format}",
        )
    return joined


def fingerprint(path: Path, key: str | None = None) -> dict[str, Any]:
    """Size, time and header of the files of a checkpoint: equal fingerprints mean an unchanged source.

    Parameters
    ----------
    path
        A checkpoint file or folder.
    key
        Nested key of the weights, where the user names one: the weights of another key are another source.

    Returns
    -------
    dict
        ``{"files": [{"path", "size", "mtime_ns", "header_sha256"}, ...]}``, sorted by path, plain JSON values, and
        ``"key"`` if there is one;
        paths are relative to the folder, or the file's own name. The header of a safetensors file is its JSON;
        of any other file its first and last 64 KiB, where torch keeps the pickle and the zip directory.

    Raises
    ------
    UnreadableCheckpointError
        If the checkpoint's files cannot be told or read.
    """
    found = weight_files(path)
    files = found.files if found.index is None else (*found.files, found.index)
    entries = [_file_fingerprint(file, path if path.is_dir() else path.parent) for file in files]
    marks = {"files": sorted(entries, key=lambda entry: str(entry["path"]))}
    return marks if key is None else {**marks, "key": key}


def _file_fingerprint(path: Path, folder: Path) -> dict[str, Any]:
    with reading(path):
        file = RandomAccessFile(path)
        try:
            digest = hashlib.sha256()
            for start, count in _header_ranges(file):
                digest.update(file.read_at(start, count))
            modified = path.stat().st_mtime_ns
        finally:
            file.close()
    return {
        "path": path.relative_to(folder).as_posix(),
        "size": file.size,
        "mtime_ns": modified,
        "header_sha256": digest.hexdigest(),
    }


def _header_ranges(file: RandomAccessFile) -> list[tuple[int, int]]:
    """Byte ranges (start, length) that identify a file without reading its weights."""
    if file.path.suffix.lower() == ".safetensors":
        return [(0, 8 + header_length(file))]
    head = min(file.size, _ENDS)
    tail = min(file.size - head, _ENDS)
    return [(0, head), (file.size - tail, tail)]
