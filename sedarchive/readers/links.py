"""Links to files: whether they stay where the user pointed to."""

import os
import re
from pathlib import Path

_BLOB = re.compile(r"(?:.*/)?(?:models--[^/]+/blobs/[0-9a-f]{40,64}|blobs/[0-9a-f]{2}/[0-9a-f]{64})")
"""Files of the Hugging Face cache, which its snapshots, and folders downloaded from it, are links to."""


def leads_outside(path: Path, home: Path) -> bool:
    """Whether a path is, or lies behind, a link that leaves a folder; a link to a file of the hub's cache may.

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
    return _BLOB.fullmatch(target.as_posix()) is None
