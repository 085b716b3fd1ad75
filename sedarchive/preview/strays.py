"""Files and folders below a path that no run takes in, and why: what the findings of runs do not tell."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sedarchive.errors import HistoryError
from sedarchive.history import RunSource
from sedarchive.readers.folder import weight_files
from sedarchive.readers.hub import is_hub_repository
from sedarchive.readers.logfiles import is_log_name
from sedarchive.readers.steps import FOREIGN_SUFFIXES, WEIGHT_SUFFIXES, compile_step_pattern, is_weights_name
from sedarchive.readers.training import settings_files
from sedarchive.sources import IngestOptions

_ENTRY_LIMIT = 20_000
_SHARD = re.compile(r"-\d+-of-\d+\.")
_NOT_TAKEN = "a checkpoint that --include, --exclude, --every or --steps-map leaves out, or whose step another one has"
_OTHER = "neither weights, nor a log, nor settings that are read"


@dataclass(frozen=True)
class PassedOver:
    """Some files and folders that are not taken, for one reason."""

    reason: str
    paths: tuple[str, ...]
    """Below the path given; folders end with a slash."""


def passed_over(root: Path, sources: Sequence[RunSource], options: IngestOptions) -> list[PassedOver]:
    """What lies below a path and belongs to no run.

    Checkpoints and what is inside them, logs and settings that are read, and files of which a finding of a run tells
    are left out.

    Parameters
    ----------
    root
        Path that was searched.
    sources
        The runs found there.
    options
        Those that they were found with.

    Returns
    -------
    list of PassedOver
        One a reason, in the order in which they are met; a folder of which nothing is taken stands for its files.
    """
    if not root.is_dir():
        return []
    walk = _Walk(Path(os.path.abspath(root)), sources, options)  # noqa: PTH100 - keeps links
    groups: dict[str, dict[str, None]] = {}
    for path, reason in walk.entries():
        groups.setdefault(reason, {})[path] = None
    return [PassedOver(reason, tuple(paths)) for reason, paths in groups.items()]


class _Walk:
    """One walk below a root."""

    def __init__(self, root: Path, sources: Sequence[RunSource], options: IngestOptions) -> None:
        self._root = root
        self._selection, self._pattern = options.selection, compile_step_pattern(options.step_pattern)
        self._left = _ENTRY_LIMIT
        self._whole = {checkpoint.path for source in sources for checkpoint in source.checkpoints}
        self._whole |= {source.folder for source in sources if is_hub_repository(source.folder)}
        self._used = self._whole | {path for source in sources for path in _read_of(source)}
        self._told = {path for source in sources for path in source.told}
        self._homes = {folder for path in self._used for folder in path.parents}

    def entries(self) -> Iterator[tuple[str, str]]:
        """Paths, as they are shown, with the reason of each."""
        if self._root in self._whole:
            return
        pending = [self._root]
        while pending:
            folder = pending.pop()
            for path in self._listed(folder):
                if path in self._used or path in self._told:
                    continue
                try:
                    reason = self._why_not(path)
                except OSError as error:  # a folder that may be listed and not entered
                    yield path.relative_to(self._root).as_posix(), f"cannot be looked at ({error.strerror})"
                    continue
                if reason is None:
                    pending.append(path)
                else:
                    yield self._shown(path, reason)
        if self._left <= 0:
            yield "the rest", f"more than {_ENTRY_LIMIT} files and folders: not looked at here"

    def _why_not(self, path: Path) -> str | None:
        """Why an entry is not taken; None for a folder to search."""
        if path not in self._homes and self._is_checkpoint(path):
            return _NOT_TAKEN
        return _not_entered(path) if path.is_dir() else _not_read(path)

    def _is_checkpoint(self, path: Path) -> bool:
        """Whether an entry is a checkpoint with a step: one that was found and not taken."""
        stem = path.name if path.is_dir() else path.stem
        if path.is_symlink() or self._selection.step(path.name, stem, self._pattern) is None:
            return False
        if path.is_file():
            return is_weights_name(path.name)
        try:
            return bool(weight_files(path).files)
        except HistoryError:
            return False

    def _listed(self, folder: Path) -> list[Path]:
        try:
            entries = sorted(folder.iterdir())[: self._left]
        except OSError:
            return []
        self._left -= len(entries)
        return entries

    def _shown(self, path: Path, reason: str) -> tuple[str, str]:
        """Name of an entry, or of the topmost folder above it of which nothing is taken, and the reason."""
        if reason == _OTHER:
            inside = [path, *path.parents][: len(path.relative_to(self._root).parts)]
            strangers = [place for place in inside if place not in self._homes]
            path = strangers[-1]
        return path.relative_to(self._root).as_posix() + ("/" if path.is_dir() else ""), reason


def _read_of(source: RunSource) -> Iterator[Path]:
    yield from source.logs
    yield from settings_files(source)
    yield source.folder / "config.json"


def _not_entered(folder: Path) -> str | None:
    """Why a folder is not searched; None if it is."""
    if folder.is_symlink():
        return "a link to a folder, which is not followed"
    if folder.name.startswith("."):
        return "hidden"
    return "an archive of Zarr, not a run" if folder.suffix == ".zarr" else None


def _not_read(path: Path) -> str:
    """Why a file is not read."""
    suffix = path.suffix.lower()
    if path.name.startswith("."):
        return "hidden"
    if is_weights_name(path.name):
        return "no step in the name (--step-regex or --steps-map gives it one)"
    if suffix in WEIGHT_SUFFIXES:
        return "one shard of several" if _SHARD.search(path.name) else "state of the training, not weights"
    if is_log_name(path.name):
        return "a log, but in no place where the logs of a run are looked for"
    if suffix in FOREIGN_SUFFIXES:
        return f"{FOREIGN_SUFFIXES[suffix]}, which is not read"
    return _OTHER
