"""Runs and their checkpoints below a path, by names alone: no checkpoint is opened here."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sedarchive.errors import HistoryError, NoCheckpointsError, SedarchiveError
from sedarchive.history import CheckpointSource, Finding, RunSource
from sedarchive.readers.folder import has_standard_weights
from sedarchive.readers.logfiles import find_logs
from sedarchive.readers.steps import (
    WEIGHT_SUFFIXES,
    StepName,
    compile_step_pattern,
    is_last_copy,
    is_weights_name,
    step_in_name,
)
from sedarchive.sizes import MIB

_CONFIG_LIMIT = 16 * MIB
_LOOKED_FOR = (
    "files .safetensors .pt .pth .bin .ckpt, or folders with such a file, with a step in the name "
    "(step_100, checkpoint-100, ckpt_100, iter_100, model_00100); --step-regex reads other names"
)


@dataclass(frozen=True)
class _Candidate:
    """A checkpoint by its name, before its run is put in order."""

    step: StepName
    path: Path


@dataclass
class _Draft:
    """What one folder holds, before it is known whether it is a run."""

    candidates: list[_Candidate] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def find_runs(path: Path, *, run: str | None = None, step_pattern: str | None = None) -> tuple[RunSource, ...]:
    """Find the runs below `path`, sorted by name.

    A run is the folder that directly holds checkpoints (of a folder ``checkpoints``: the one above it).
    Folders behind symbolic links are not entered: they may lead out of the tree or round in it.

    Parameters
    ----------
    path
        A folder of runs, a run, or a single checkpoint (file or folder).
    run
        Name to give the run instead of its path; only where one is found.
    step_pattern
        Regular expression with one group, that of the step's digits in a file or folder name.

    Returns
    -------
    tuple of RunSource
        At least one, each with at least one checkpoint.

    Raises
    ------
    NoCheckpointsError
        If nothing is found.
    HistoryError
        If `run` is given and several runs are found, or `step_pattern` is no such expression.
    """
    finder = _Finder(Path(os.path.abspath(path)), compile_step_pattern(step_pattern))  # noqa: PTH100 - keeps links
    try:
        found = finder.runs()
    except SedarchiveError:
        raise
    except OSError as error:
        where = error.filename or path
        raise NoCheckpointsError(f"{where}: it cannot be searched ({error.strerror}); check its rights") from error
    if run is None:
        return found
    if len(found) > 1:
        names = ", ".join(source.name for source in found[:8])
        raise HistoryError(f"{path}: {len(found)} runs are found ({names}); --run names one: point to that one")
    return (replace(found[0], name=run),)


class _Finder:
    """One search below a root."""

    def __init__(self, root: Path, pattern: re.Pattern[str] | None) -> None:
        self._root = root
        self._pattern = pattern
        self._drafts: dict[Path, _Draft] = {}
        self._links = 0

    def runs(self) -> tuple[RunSource, ...]:
        if not self._root.exists():
            raise NoCheckpointsError(f"{self._root}: there is no such file or folder; check the path")
        if self._root.is_file() or self._is_checkpoint(self._root):
            return (self._single(),)
        self._search()
        found = [self._run(folder, draft) for folder, draft in self._drafts.items() if draft.candidates]
        if not found and _weights_in(self._root):
            return (self._single(),)
        if not found:
            links = f"; {self._links} folders behind symbolic links were not entered" if self._links else ""
            raise NoCheckpointsError(f"{self._root}: no checkpoints found; looked for {_LOOKED_FOR}{links}")
        return tuple(sorted(found, key=lambda source: source.name))

    def _search(self) -> None:
        """Visit every folder once, on a list of our own: depth is no danger."""
        pending = [self._root]
        while pending:
            folder = pending.pop()
            draft = self._drafts.setdefault(_run_folder(folder), _Draft())
            for path in _entries(folder):
                if path.is_dir():
                    pending += self._visit_folder(path, draft)
                elif path.is_file():
                    self._visit_file(path, draft)

    def _visit_file(self, path: Path, draft: _Draft) -> None:
        if not is_weights_name(path.name):
            return
        step = self._step(path)
        if step is not None:
            draft.candidates.append(_Candidate(step, path))
        elif is_last_copy(path.name):
            draft.findings.append(Finding("last_copy", "info", f"{path.name}: a copy of the latest one; passed over"))
        else:
            draft.findings.append(Finding("no_step", "info", f"{path.name}: no step in the name; passed over"))

    def _visit_folder(self, path: Path, draft: _Draft) -> list[Path]:
        """Note what the folder is; returned is what to search inside it."""
        if path.is_symlink():
            self._links += 1
            return []
        if path.name.startswith(".") or path.suffix == ".zarr":
            return []
        if self._is_checkpoint(path):
            step = self._step(path)
            draft.candidates += [_Candidate(step, path)] if step else []
            return []
        if has_standard_weights(_file_names(path)) and self._step(path) is None:
            draft.findings.append(Finding("no_step", "info", f"{path.name}/: no step in the name; passed over"))
        return [path]

    def _step(self, path: Path) -> StepName | None:
        return step_in_name(path.name if path.is_dir() else path.stem, self._pattern)

    def _is_checkpoint(self, folder: Path) -> bool:
        """Whether a folder is one checkpoint: a step in its name, weights inside, and no history of its own.

        Trainers save the final model beside the checkpoints, in a folder that may well be called ``out-3``.
        """
        if self._step(folder) is None or not _weights_in(folder):
            return False
        return not any(self._is_history(path) for path in _entries(folder))

    def _is_history(self, path: Path) -> bool:
        if path.is_dir():
            return self._step(path) is not None and has_standard_weights(_file_names(path))
        return is_weights_name(path.name) and path.name not in _STANDARD and self._step(path) is not None

    def _single(self) -> RunSource:
        """Make a run of the one checkpoint that the root is."""
        if self._root.is_file() and self._root.suffix.lower() not in WEIGHT_SUFFIXES:
            raise NoCheckpointsError(f"{self._root}: not a checkpoint; looked for {_LOOKED_FOR}")
        step = self._step(self._root)
        draft = _Draft([_Candidate(step or StepName(0), self._root)])
        if step is None:
            draft.findings.append(
                Finding("no_step", "info", f"{self._root.name}: no step in the name; taken as step 0")
            )
        inside = self._root.is_dir() and step is None
        return self._run(self._root if inside else _run_folder(self._root.parent), draft)

    def _run(self, folder: Path, draft: _Draft) -> RunSource:
        checkpoints, findings = _ordered(draft)
        config, problems = _config(folder, checkpoints[-1].path)
        others = [other for other, draft in self._drafts.items() if draft.candidates]
        logs, passed_over = find_logs(folder, [source.path for source in checkpoints], others)
        return RunSource(
            name=self._name(folder),
            folder=folder,
            checkpoints=checkpoints,
            logs=logs,
            config=config,
            findings=(*findings, *problems, *passed_over),
        )

    def _name(self, folder: Path) -> str:
        if folder != self._root and folder.is_relative_to(self._root):
            return folder.relative_to(self._root).as_posix()
        return folder.name or "run"


_STANDARD = frozenset({"model.safetensors", "pytorch_model.bin"})


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _file_names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir() if path.is_file())


def _weights_in(folder: Path) -> bool:
    """Whether a folder directly holds the weights of one checkpoint: standard names, shards, or one file."""
    names = _file_names(folder)
    shards = any("-of-" in name and Path(name).suffix in WEIGHT_SUFFIXES for name in names)
    return has_standard_weights(names) or shards or sum(map(is_weights_name, names)) == 1


def _run_folder(folder: Path) -> Path:
    return folder.parent if folder.name == "checkpoints" else folder


def _ordered(draft: _Draft) -> tuple[tuple[CheckpointSource, ...], list[Finding]]:
    """Checkpoints by step, one a step, and findings on those left out."""
    findings = list(draft.findings)
    counted = [candidate for candidate in draft.candidates if candidate.step.unit == "step"]
    if not counted:
        counted = draft.candidates
        findings.append(Finding("epoch_as_step", "warning", "the names hold epochs only: these stand as steps"))
    for candidate in draft.candidates:
        if candidate not in counted:
            detail = f"{candidate.path.name}: an epoch among checkpoints with steps; passed over"
            findings.append(Finding("no_step", "info", detail))
    first: dict[int, CheckpointSource] = {}
    for candidate in sorted(counted, key=lambda c: (c.step.step, c.path.name, str(c.path))):
        source = CheckpointSource(candidate.step.step, candidate.path.name, candidate.path)
        kept = first.setdefault(source.step, source)
        if kept is not source:
            detail = f"{source.label} has the step of {kept.label}, which is kept; rename one if both are needed"
            findings.append(Finding("doubled_step", "warning", detail, step=source.step))
    return tuple(first.values()), findings


def _config(folder: Path, last: Path) -> tuple[Mapping[str, Any], list[Finding]]:
    """Read the config beside the last checkpoint or in the run's folder."""
    for path in _config_paths(folder, last):
        try:
            if path.stat().st_size > _CONFIG_LIMIT:
                raise ValueError("larger than 16 MiB")
            config = json.loads(path.read_bytes())
            if not isinstance(config, dict):
                raise ValueError("not a JSON object")
        except (OSError, ValueError, RecursionError) as error:
            return {}, [Finding("config", "warning", f"{path}: it cannot be read ({error}); the config is unknown")]
        return config, []
    return {}, []


def _config_paths(folder: Path, last: Path) -> Iterator[Path]:
    for place in (last, folder):
        if (place / "config.json").is_file():
            yield place / "config.json"
