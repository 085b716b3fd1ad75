"""What a checkpoint may ask of the archive: a file of holes claims any length, and a header any number of tensors."""

from collections.abc import Collection, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

from sedarchive.errors import HistoryError, MemoryBudgetError
from sedarchive.history import CheckpointSource, Finding, TensorSpec
from sedarchive.plan.grid import ChunkSteps, chunk_grid
from sedarchive.plan.tasks import ingest_workers
from sedarchive.readers.faults import left_out, unreadable
from sedarchive.readers.opening import open_checkpoint

_MANY, _FINE = 20_000, 1024


def check_bounds(path: Path, specs: Collection[TensorSpec], max_mem: int, steps: ChunkSteps) -> None:
    """Refuse a checkpoint that would take more memory or files than its weights are worth.

    Parameters
    ----------
    path
        The checkpoint, which the error names.
    specs
        Its tensors.
    max_mem
        Bytes that ingest may work in.
    steps
        What its chunks will depend on.

    Raises
    ------
    MemoryBudgetError
        If a slab of a tensor does not fit `max_mem`.
    UnreadableCheckpointError
        If more than 20,000 tensors hold less than 1 KiB on average.
    """
    n_bytes = sum(spec.nbytes for spec in specs)
    if len(specs) > _MANY and n_bytes < _FINE * len(specs):
        cause = (
            f"it holds {len(specs)} tensors of {n_bytes // len(specs)} bytes on average, each of which would become a "
            "folder; no model is cut so finely"
        )
        raise unreadable(path, cause, "join them before they are saved, or leave this checkpoint out")
    grids = [(one.name, chunk_grid(one.rows, one.row_bytes, steps), one.row_bytes) for one in specs]
    try:
        ingest_workers(grids, 1, max_mem, 1)
    except MemoryBudgetError as error:
        raise MemoryBudgetError(f"{path}: {error}", error.needed) from error


def none_fits(checkpoints: Iterable[CheckpointSource], max_mem: int, steps: ChunkSteps) -> list[Finding]:
    """Findings on all checkpoints of a run, if none of them fits `max_mem`; none as soon as one is fit or unreadable.

    Parameters
    ----------
    checkpoints
        Those of the run.
    max_mem, steps
        As for :func:`check_bounds`.
    """
    found: list[Finding] = []
    for source in checkpoints:
        try:
            with TemporaryDirectory(prefix="sedarchive-") as spool, open_checkpoint(source, Path(spool)) as reader:
                check_bounds(source.path, reader.specs.values(), max_mem, steps)
            return []
        except MemoryBudgetError as error:
            found.append(left_out(error, source.step))
        except HistoryError:
            return []
    return found
