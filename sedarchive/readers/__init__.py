"""Readers: from a folder to runs, from a checkpoint to rows of tensors, without executing or mapping anything."""

from sedarchive.readers.contents import CheckpointReader
from sedarchive.readers.discover import find_runs
from sedarchive.readers.opening import fingerprint, open_checkpoint

__all__ = ["CheckpointReader", "find_runs", "fingerprint", "open_checkpoint"]
