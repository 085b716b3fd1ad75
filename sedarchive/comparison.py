"""Checkpoints on disk against those in the archive: which are new, which have changed, which take another's place."""

import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sedarchive.archive import RunArchive
from sedarchive.archive.commits import Commit, StoredTensor, checkpoint_digest, tensor_hash
from sedarchive.audit import RunDigests
from sedarchive.errors import ArchiveError, ChangedSourceError, HistoryError
from sedarchive.history import CheckpointSource, Finding, RunSource
from sedarchive.readers import CheckpointReader, fingerprint, open_checkpoint
from sedarchive.sizes import MIB
from sedarchive.words import few_of

_BLOCK = 8 * MIB


@dataclass(frozen=True)
class Archived:
    """What the archive holds of a run."""

    folder: str
    """Where it was first ingested from."""
    commits: Mapping[int, Commit]
    """By step."""


@dataclass
class Comparison:
    """What a run on disk is, beside the archive."""

    unchanged: int = 0
    """Checkpoints that are archived as they are."""
    new: list[CheckpointSource] = field(default_factory=list)
    """Checkpoints to archive, in the order found."""
    replacing: set[int] = field(default_factory=set)
    """Steps of those of the new ones that take the place of an archived one."""
    changed: list[Finding] = field(default_factory=list)
    """Checkpoints with other content than the archived one of their step; those are left alone."""


def compare(source: RunSource, archived: Archived, replace: Collection[int], verify: bool) -> Comparison:
    """Compare a run with the archive; nothing is written.

    Parameters
    ----------
    source
        The run as it was found.
    archived
        What the archive holds under its name.
    replace
        Steps whose content may have changed: the new one is wanted.
    verify
        Read what is archived even where size, time and header are as they were.

    Raises
    ------
    ChangedSourceError
        If nothing shows that the two are the same run.
    HistoryError
        If the checkpoint that is to show it cannot be read.
    """
    found = Comparison()
    common = [one for one in source.checkpoints if one.step in archived.commits]
    moved = str(source.folder) != archived.folder
    if archived.commits and not common and moved:
        raise ChangedSourceError(
            f"run {source.name}: the archive has a run of this name from {archived.folder}, and no step is common "
            f"with {source.folder}; give this one its own name with --run NAME"
        )
    first: HistoryError | None = None
    known = not moved  # elsewhere, equal sizes and times prove nothing: tar and rsync give whole seconds to many runs
    for one in common:
        try:
            check_unchanged(source.name, one, archived.commits[one.step], must_read=verify or not known)
            found.unchanged += 1
            known = True
        except HistoryError as error:
            first = first or error
            if one.step in replace:
                found.replacing.add(one.step)
            else:
                found.changed.append(Finding("changed_source", "error", str(error), step=one.step))
    if first and not found.unchanged and (moved or found.changed):
        raise first  # nothing shows that it is the same run
    if moved and found.changed:
        raise HistoryError(found.changed[0].detail)
    kept = archived.commits.keys() - found.replacing
    found.new = [one for one in source.checkpoints if one.step not in kept]
    return found


def check_replaced(sources: Sequence[RunSource], steps: Sequence[int]) -> None:
    """Refuse to replace steps of several runs at once, and steps that are not there.

    Raises
    ------
    HistoryError
        Saying which.
    """
    if not steps:
        return
    if len(sources) > 1:
        names = few_of([source.name for source in sources], 8)
        raise HistoryError(f"--replace: {len(sources)} runs are found ({names}); point to the one that is meant")
    found = {checkpoint.step for checkpoint in sources[0].checkpoints}
    lacking = [str(step) for step in steps if step not in found]
    if lacking:
        raise HistoryError(f"--replace: {sources[0].folder} has no checkpoint of step {few_of(lacking, 8)}")


def digests_of(runs: Iterable[RunArchive]) -> list[RunDigests]:
    """Digests of archived runs, for a comparison of runs with each other; damaged ones are left out."""
    readable = []
    for run in runs:
        with suppress(ArchiveError):
            readable.append(RunDigests(run.name, run.steps, tuple(commit.digest for commit in run.commits)))
    return readable


def check_unchanged(run: str, source: CheckpointSource, commit: Commit, *, must_read: bool) -> None:
    """Refuse a checkpoint with other content than the archived one.

    Raises
    ------
    ChangedSourceError
        If it has; the message says what can be done.
    HistoryError
        If it cannot be read.
    """
    if not must_read and fingerprint(source.path, source.key) == commit.source["fingerprint"]:
        return
    with tempfile.TemporaryDirectory(prefix="sedarchive-") as spool, open_checkpoint(source, Path(spool)) as reader:
        same = _digest_of(reader) == commit.digest
    if not same:
        raise ChangedSourceError(
            f"{source.path}: step {source.step} of run {run} was archived with other content (from "
            f"{commit.source['path']}); nothing was changed. If it is another run, ingest it with --run NAME; if the "
            f"file was fetched or saved anew and is the right one, --replace {source.step} archives it in place of the "
            "other; if it is damaged, `sedarchive restore` gives the archived one back"
        )


def _digest_of(reader: CheckpointReader) -> str:
    """Digest of a checkpoint on disk, read slab by slab."""
    tensors = {}
    for name, spec in reader.specs.items():
        digest = tensor_hash(spec)
        rows = max(1, _BLOCK // max(1, spec.row_bytes))
        for start in range(0, spec.rows, rows):
            digest.update(reader.read_rows(name, start, min(start + rows, spec.rows)).data)
        tensors[name] = StoredTensor("", digest.hexdigest())
    return checkpoint_digest(tensors)
