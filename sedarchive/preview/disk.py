"""How much of the disk an ingest would take, and what would stop it."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from sedarchive.archive import Archive
from sedarchive.archive.lock import refuse_while_written
from sedarchive.errors import ArchiveError, ArchiveNotFoundError
from sedarchive.history import TensorSpec
from sedarchive.plan.grid import ChunkGrid, ChunkSteps, chunk_grid
from sedarchive.sizes import KIB, format_size

_ARRAY_BYTES = 2 * KIB
"""Metadata of an array, and of its files in the run's manifest."""
_ENTRY_BYTES = 160
"""One tensor in one commit record."""


def archive_bytes(
    slots: Mapping[TensorSpec, Sequence[int]], first_slot: int, steps: ChunkSteps, held: Mapping[TensorSpec, ChunkGrid]
) -> int:
    """Bytes that new checkpoints add to an archive, without a codec; logs, which are small, apart.

    A chunk is stored at full size once one of its checkpoints is in it.

    Parameters
    ----------
    slots
        Stored tensor to the new checkpoints, counted from 0, that hold it.
    first_slot
        Checkpoints that the run has in the archive already.
    steps
        What new chunks will depend on.
    held
        Chunk grids of the tensors that have an array already.
    """
    return sum(
        _tensor_bytes(spec, at, first_slot, held.get(spec) or chunk_grid(spec.rows, spec.row_bytes, steps))
        for spec, at in slots.items()
    )


def _tensor_bytes(spec: TensorSpec, slots: Sequence[int], first_slot: int, grid: ChunkGrid) -> int:
    groups = {(first_slot + slot) // grid.steps for slot in slots}
    if first_slot:
        groups.discard((first_slot - 1) // grid.steps)  # that chunk is there already
    chunks = len(groups) * sum(1 for _ in grid.slabs())
    return chunks * grid.steps * grid.slab_rows * spec.row_bytes + _ARRAY_BYTES + _ENTRY_BYTES * len(slots)


def free_bytes(archive: Path) -> int | None:
    """Bytes free where an archive is, or would be made; None if that cannot be told."""
    try:
        return shutil.disk_usage(_existing(archive)).free
    except OSError:
        return None


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def archive_obstacles(archive: Path, needed: int) -> list[str]:
    """What would stop an ingest into an archive, a sentence each with the way out.

    Parameters
    ----------
    archive
        Its path; it need not exist.
    needed
        Bytes that would be added.
    """
    found = _cannot_be_opened(archive)
    place = _existing(archive)
    if not found and not os.access(place, os.W_OK):
        found.append(f"{place} cannot be written; name another place with --archive")
    free = free_bytes(archive)
    if free is not None and needed > free:
        way_out = "make room, name another place with --archive, or take fewer checkpoints with --every or --include"
        found.append(f"{format_size(needed)} are needed and {format_size(free)} are free at {place}; {way_out}")
    return found


def _cannot_be_opened(archive: Path) -> list[str]:
    """Why the archive that is there cannot be added to; nothing if there is none, or it can."""
    try:
        Archive(archive)
        refuse_while_written(archive)
    except ArchiveNotFoundError:
        is_free = not archive.exists() or (archive.is_dir() and not any(archive.iterdir()))
        return [] if is_free else [f"{archive}: this is something else, not an archive; choose another --archive"]
    except ArchiveError as error:
        return [str(error)]
    return []
