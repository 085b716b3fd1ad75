"""The log files beside a run, by names alone: none is opened here."""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from sedarchive.history import Finding

LOG_NAMES = ("metrics.jsonl", "log.jsonl", "metrics.csv", "trainer_state.json")
"""Logs that are looked for inside checkpoints too."""
_PLACES = frozenset({
    "logs", "log", "lightning_logs", "runs", "tb", "tb_logs", "tensorboard", "events", "csv_logs", "wandb", "mlruns",
})  # fmt: skip
"""Folders beside checkpoints that loggers write into."""
_CHECKPOINTS = frozenset({"checkpoint", "checkpoints", "ckpt", "ckpts", "weights"})
"""Folders for checkpoints alone: the logs are beside them."""
_LOG_NAME = re.compile(
    r"(?:.*[._-])?(?:metrics|history|logs?|losses|progress|wandb)(?:[._-].*)?\.(?:jsonl|ndjson|json|csv)"
    r"|.*\.log|(?:.*[._-])?(?:slurm|nohup|train|training|log|output|stdout)(?:[._-].*)?\.(?:out|txt)"
    r"|events\.out\.tfevents\..*",
    re.IGNORECASE,
)
_DEPTH, _ENTRY_LIMIT = 6, 20_000


def find_logs(
    folder: Path, checkpoints: Sequence[Path], others: Collection[Path] = ()
) -> tuple[tuple[Path, ...], tuple[Finding, ...]]:
    """Logs of a run, newest first as their names tell, and what was passed over.

    First those in the run's own folder, then those inside its checkpoints from the last one back, then those in the
    folders that loggers make beside them (``lightning_logs``, ``runs``, ``wandb``, ``mlruns`` ...), up to six deep.

    Parameters
    ----------
    folder
        The run's folder. One with a name like ``checkpoints`` has its logs in the folder above too.
    checkpoints
        Its checkpoints, in step order.
    others
        Folders of the other runs: what is in them is theirs.
    """
    search = _Search(folder, frozenset(others) - {folder})
    known = [folder / name for name in LOG_NAMES]
    inside = [path for path in reversed(checkpoints) if path.is_dir() and path != folder]
    known += [path / name for path in inside for name in LOG_NAMES]
    found = [path for path in known if path.is_file() and search.stays(path)]
    places = [folder]
    if folder.name.lower() in _CHECKPOINTS and not search.is_shared(folder.parent):
        places.append(folder.parent)
    found += [path for place in places for path in search.beside(place)]
    found += sorted((path for place in places for path in search.below(place)), key=_age, reverse=True)
    return tuple(dict.fromkeys(found)), search.findings()


def is_log_name(name: str) -> bool:
    """Whether a file of this name is taken for a log where logs are looked for."""
    return _LOG_NAME.fullmatch(name) is not None


class _Search:
    """One search for the logs of one run."""

    def __init__(self, folder: Path, others: frozenset[Path]) -> None:
        self._folder = folder
        self._others = others
        self._left = _ENTRY_LIMIT
        self._links: list[str] = []

    def is_shared(self, folder: Path) -> bool:
        """Whether other runs lie in a folder, so that its logs may be theirs."""
        return any(other == folder or folder in other.parents for other in self._others)

    def stays(self, path: Path) -> bool:
        """Whether a file is what it seems: not a link that leads out of the run's folder."""
        if not path.is_symlink() or path.resolve().is_relative_to(self._folder.resolve()):
            return True
        self._links.append(path.name)
        return False

    def beside(self, place: Path) -> Iterator[Path]:
        """Logs that lie in a folder itself, newest first."""
        files = [path for path in self._entries(place) if is_log_name(path.name) and path.is_file()]
        yield from (path for path in sorted(files, key=_age, reverse=True) if self.stays(path))

    def below(self, place: Path) -> Iterator[Path]:
        """Logs in the folders that loggers make in a folder."""
        for path in self._entries(place):
            if path.name.lower() in _PLACES and self._enters(path):
                yield from self._inside(path, path.name.lower())

    def _inside(self, place: Path, kind: str) -> Iterator[Path]:
        pending = [(place, 1)]
        while pending:
            folder, depth = pending.pop()
            for path in self._entries(folder):
                if self._enters(path):
                    pending += [(path, depth + 1)] if depth < _DEPTH else []
                elif path.is_file() and not path.is_symlink() and _is_log(path.relative_to(place).parts, kind):
                    yield path

    def _enters(self, path: Path) -> bool:
        return path.is_dir() and not path.is_symlink() and path not in self._others and not path.name.startswith(".")

    def _entries(self, folder: Path) -> list[Path]:
        """Entries of a folder in the order of names, as far as they are bounded; none of one that cannot be read."""
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            return []
        taken = entries[: self._left]
        self._left -= len(taken)
        return taken

    def findings(self) -> tuple[Finding, ...]:
        found = []
        if self._links:
            detail = f"{', '.join(self._links[:8])}: links that lead out of the run's folder are not read as logs"
            found.append(Finding("log_link", "info", detail))
        if self._left <= 0:
            detail = f"{self._folder}: more than {_ENTRY_LIMIT} entries beside the checkpoints; logs may be missing"
            found.append(Finding("many_files", "warning", detail))
        return tuple(found)


def _is_log(parts: tuple[str, ...], kind: str) -> bool:
    """Whether a file below a logger's folder is a log, by its path there: wandb and MLflow keep much else."""
    if kind == "wandb":
        return parts[-2:-1] == ("files",) and parts[-1] in ("wandb-summary.json", "wandb-history.jsonl", "output.log")
    if kind == "mlruns":
        return len(parts) > 3 and parts[2] == "metrics"
    return is_log_name(parts[-1])


def _age(path: Path) -> tuple[int, list[str | int]]:
    """Sorts files from old to new by the times, versions and dates in their names, and the more exact before them.

    Times of the file system are not asked: a copy of a run would be read in another order.
    """
    if ".tfevents." in path.name:  # in single precision, and named by the second it was begun in
        return 1, _numbered(path.name.partition(".tfevents.")[2] + str(path))
    printed = path.suffix.lower() in (".log", ".out", ".txt") and "wandb" not in path.parts  # numbers cut short
    return 0 if printed else 2, _numbered(str(path))


def _numbered(text: str) -> list[str | int]:
    """Text and numbers in turn, so that 10 comes after 9."""
    return [int(part) if at % 2 else part for at, part in enumerate(re.split(r"([0-9]+)", text))]
