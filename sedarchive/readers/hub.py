"""The cache of the Hugging Face hub: each revision whose name tells a step is a checkpoint.

``models--ORG--NAME/refs/<revision>`` holds a commit, ``snapshots/<commit>/`` its files, which are links into
``blobs/`` of the same folder, or into the cache's own ``blobs/<xx>/<hash>``. Source: huggingface_hub 2.4.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from sedarchive.history import Finding
from sedarchive.readers.candidates import Candidate, Draft
from sedarchive.readers.links import leads_outside
from sedarchive.readers.selection import Selection
from sedarchive.readers.steps import StepName
from sedarchive.words import counted

_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_INDEX = re.compile(r"ckpt[_-]\d{1,4}", re.IGNORECASE)
_REF_BYTES = 256
_ENTRY_LIMIT = 100_000


def is_hub_repository(folder: Path) -> bool:
    """Whether a folder is a model's in the cache of the hub."""
    return folder.name.startswith("models--") and (folder / "snapshots").is_dir()


def hub_draft(repository: Path, place: str, selection: Selection, step_of: Callable[[str], StepName | None]) -> Draft:
    """Checkpoints and findings of one model in the cache.

    Parameters
    ----------
    repository
        The folder ``models--ORG--NAME``.
    place
        Its path below the folder that is searched, for the globs of the user.
    selection
        What the user says of labels.
    step_of
        Step that the name of a revision tells.

    Returns
    -------
    Draft
        One candidate a revision that tells a step and is on disk.
    """
    draft = Draft()
    labels = _labels(repository, draft)
    for label, commit in labels:
        step = step_of(label)
        problem = _problem(repository, label, commit)
        if step is None:
            draft.findings.append(Finding("no_step", "info", f"revision {label}: no step in the name; passed over"))
        elif problem is not None:
            draft.findings.append(problem)
        else:
            path = repository / "snapshots" / commit
            tokens = selection.tokens(label, label)
            draft.candidates.append(Candidate(step, path, label, f"{place}/{label}", tokens))
    draft.findings += _doubled_snapshots(draft)
    draft.findings += _indices(draft) if selection.steps is None else []
    return draft


def hub_main(repository: Path, place: str) -> Draft:
    """Draft of one checkpoint, at step 0: the revision ``main`` of a model without others."""
    draft = Draft()
    for label, commit in _labels(repository, draft):
        problem = _problem(repository, label, commit)
        draft.findings += [problem] if problem else []
        if label == "main" and problem is None:
            path = repository / "snapshots" / commit
            draft.candidates.append(Candidate(StepName(0), path, label, f"{place}/{label}"))
            detail = "revision main: no step in the name; taken as step 0"
            draft.findings.append(Finding("no_step", "info", detail, step=0))
    return draft


def _labels(repository: Path, draft: Draft) -> list[tuple[str, str]]:
    """Revisions and their commits; commits that no revision names stand for themselves."""
    found, named = [], set()
    for path in _files(repository / "refs"):
        label = path.relative_to(repository / "refs").as_posix()
        commit = _first_bytes(path) if path.is_file() and not path.is_symlink() else ""
        if _COMMIT.fullmatch(commit):
            found.append((label, commit))
            named.add(commit)
        else:
            detail = f"revision {label[:80]}: its file in refs/ names no commit; passed over: download it again"
            draft.findings.append(Finding("hub_revision", "warning", detail))
    snapshots = sorted(path.name for path in (repository / "snapshots").iterdir() if path.is_dir())
    return found + [(name, name) for name in snapshots if name not in named]


def _files(folder: Path) -> Iterator[Path]:
    """Files below a folder, in order, up to a number of them; links to folders are not entered."""
    count = 0
    for base, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > _ENTRY_LIMIT:
                return
            yield Path(base) / name


def _first_bytes(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_REF_BYTES).decode("ascii", "replace").strip()


def _problem(repository: Path, label: str, commit: str) -> Finding | None:
    """Tell why the snapshot of a commit is not taken, if it is not."""
    snapshot = repository / "snapshots" / commit
    if not snapshot.is_dir():
        detail = (
            f"revision {label}: its snapshot {commit[:12]} is not in the cache; download it (hf download --revision)"
        )
        return Finding("hub_revision", "warning", detail)
    outside = _link_outside(snapshot, repository)
    if outside is None:
        return None
    detail = (
        f"revision {label}: {outside.name} in its snapshot is a link that leaves the model's folder in the cache; the "
        "checkpoint is refused: download it again, or point to the folder of the snapshot itself if you trust the link"
    )
    return Finding("link_outside", "error", detail)


def _link_outside(snapshot: Path, repository: Path) -> Path | None:
    """First link of a snapshot that leads neither into the model's folder nor to the cache's shared files."""
    links = (path for path in (snapshot, *_entries(snapshot)) if path.is_symlink())
    return next((path for path in links if leads_outside(path, repository)), None)


def _entries(folder: Path) -> Iterator[Path]:
    for base, folders, names in os.walk(folder):
        yield from (Path(base) / name for name in (*folders, *names))


def _doubled_snapshots(draft: Draft) -> list[Finding]:
    """Two revisions with one commit are one set of weights under two steps."""
    first: dict[Path, Candidate] = {}
    findings = []
    for candidate in sorted(draft.candidates, key=lambda c: c.step.step):
        kept = first.setdefault(candidate.path, candidate)
        if kept is not candidate:
            detail = f"revision {candidate.label} is the same commit as {kept.label}: one set of weights at two steps"
            findings.append(Finding("same_snapshot", "warning", detail, step=candidate.step.step))
    return findings


def _indices(draft: Draft) -> list[Finding]:
    """Tell of labels that count checkpoints, not steps, as those of LLM360 do."""
    labels = [candidate.label for candidate in draft.candidates if _INDEX.fullmatch(candidate.label)]
    if not labels:
        return []
    detail = (
        f"{counted(len(labels), 'revision')} such as {labels[0]}: the number may count checkpoints, not steps (LLM360 "
        "names them so), and stands as the step; give the real ones with --steps-map FILE (CSV: label, step, tokens)"
    )
    return [Finding("index_as_step", "warning", detail)]
