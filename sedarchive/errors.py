"""The errors of sedarchive: one tree, each also of the stdlib kind a caller would expect.

::

    SedarchiveError(Exception)
      HistoryError(ValueError)               the checkpoints are not a usable history
        NoCheckpointsError(FileNotFoundError)
        UnreadableCheckpointError            truncated, malformed, an unsupported format
        UnsafeCheckpointError                a pickle that asks for code to be run
        ChangedSourceError                   an archived checkpoint's source has other content now
      ArchiveError                           the Zarr archive
        ArchiveNotFoundError(FileNotFoundError)
        ArchiveVersionError                  written in another format version
        ArchiveLockedError                   another process writes it
        UnwritableArchiveError               its folder cannot be written
        DamagedArchiveError                  a chunk or record is missing or fails its checksum
        UnknownNameError(LookupError)        no such run, step, tensor or scope
      MemoryBudgetError(MemoryError)         the plan does not fit into --max-mem
      BandError(IndexError)                  the stored band of the Gram matrix is too narrow
      ClusterError(ConnectionError)          a Dask cluster that cannot be reached, differs from here, or is lost
      WorkerError(RuntimeError)              a process that made rows has ended before it was done
      DatabaseError                          the DuckDB file: of another archive, locked, or not ours
      RecipeError(ValueError)                a recipe's header, parameters or statement
        UnknownRecipeError(LookupError)
      NothingMatchedError(LookupError)       a query or filter that selects nothing where that is an error
      MissingExtraError(ImportError)         an optional dependency is not installed

A message says what is wrong, where (file, tensor, step), why, and the way out.
"""


class SedarchiveError(Exception):
    """Base of all errors raised on purpose by sedarchive."""


class HistoryError(SedarchiveError, ValueError):
    """The checkpoints are not a usable history."""


class NoCheckpointsError(HistoryError, FileNotFoundError):
    """No checkpoint was found under the given path."""


class UnreadableCheckpointError(HistoryError):
    """A checkpoint is truncated, malformed, or of an unsupported format."""


class UnsafeCheckpointError(HistoryError):
    """A pickle asks for code to be run; it was not."""


class ChangedSourceError(HistoryError):
    """The source of an archived checkpoint now holds something else."""


class ArchiveError(SedarchiveError):
    """The Zarr archive cannot be used as asked."""


class ArchiveNotFoundError(ArchiveError, FileNotFoundError):
    """There is no archive at this path."""


class ArchiveVersionError(ArchiveError):
    """The archive was written in another format version."""


class ArchiveLockedError(ArchiveError):
    """Another process is writing this archive."""


class UnwritableArchiveError(ArchiveError):
    """The folder of the archive cannot be written."""


class DamagedArchiveError(ArchiveError):
    """A chunk or a record is missing or fails its checksum."""


class UnknownNameError(ArchiveError, LookupError):
    """No run, step, tensor or scope of that name."""


class MemoryBudgetError(SedarchiveError, MemoryError):
    """The plan does not fit into the memory that the user gives; ``needed`` is what would do, in bytes."""

    def __init__(self, message: str, needed: int = 0) -> None:
        super().__init__(message)
        self.needed = needed


class BandError(SedarchiveError, IndexError):
    """The stored band of the Gram matrix is too narrow for what is asked."""


class ClusterError(SedarchiveError, ConnectionError):
    """A Dask cluster cannot be reached, has other versions than here, or is lost."""


class WorkerError(SedarchiveError, RuntimeError):
    """A process that made rows has ended before it was done."""


class DatabaseError(SedarchiveError):
    """The DuckDB file is locked, belongs to another archive, or is not ours."""


class RecipeError(SedarchiveError, ValueError):
    """A recipe's header, parameters or statement is wrong."""


class UnknownRecipeError(RecipeError, LookupError):
    """There is no recipe of that name."""


class NothingMatchedError(SedarchiveError, LookupError):
    """A filter or query selects nothing where that is an error."""


class MissingExtraError(SedarchiveError, ImportError):
    """An optional dependency is not installed."""
