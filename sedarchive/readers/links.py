"""Links to files: whether they stay where the user pointed to."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

_BLOB = re.compile(r"blobs/[0-9a-f]{40,64}")
_SHARED_BLOB = re.compile(r"blobs/[0-9a-f]{2}/[0-9a-f]{64}")
"""Files of the Hugging Face cache: of one model, and of the cache for all its models."""


def leads_outside(path: Path, home: Path) -> bool:
    """Whether a path is, or lies behind, a link that leaves a folder.

    A snapshot in the Hugging Face cache may link to the blobs of its own model, and to those of its own cache.

    Parameters
    ----------
    path
        A file; it need not exist.
    home
        The folder; links in its own path do not count.
    """
    target = Path(os.path.realpath(path))
    if target.is_relative_to(os.path.realpath(home)):
        return False
    return not any(_is_blob(target, repository) for repository in _repositories(path))


def _repositories(path: Path) -> Iterator[Path]:
    """Models of the cache in whose snapshots a path lies, without links in their own paths."""
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - keeps links
    for folder in absolute.parents:
        if folder.name == "snapshots" and folder.parent.name.startswith("models--"):
            yield Path(os.path.realpath(folder.parent))


def _is_blob(target: Path, repository: Path) -> bool:
    """Whether a file is a blob of a model in the cache, or one of those that the models of its cache share."""
    for home, pattern in ((repository, _BLOB), (repository.parent, _SHARED_BLOB)):
        if target.is_relative_to(home) and pattern.fullmatch(target.relative_to(home).as_posix()):
            return True
    return False
