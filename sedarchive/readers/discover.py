"""Runs and their checkpoints below a path, by names: only a single checkpoint without a step is opened here."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sedarchive.errors import HistoryError, NoCheckpointsError, SedarchiveError
from sedarchive.history import CheckpointSource, Finding, RunSource
from sedarchive.readers.adapters import adapter_findings, adapter_settings
from sedarchive.readers.candidates import Candidate, Draft, ordered
from sedarchive.readers.folder import has_standard_weights
from sedarchive.readers.hub import hub_draft, hub_main, is_hub_repository
from sedarchive.readers.layouts import find_layout
from sedarchive.readers.links import leads_outside
from sedarchive.readers.logfiles import find_logs
from sedarchive.readers.opening import open_checkpoint
from sedarchive.readers.selection import Selection
from sedarchive.readers.steps import (
    FOREIGN_SUFFIXES,
    WEIGHT_SUFFIXES,
    StepName,
    compile_step_pattern,
    is_last_copy,
    is_weights_name,
    names_checkpoint,
)
from sedarchive.readers.toldsteps import steps_told
from sedarchive.sizes import MIB
from sedarchive.untrusted import load_json, writable
from sedarchive.words import counted

_CONFIG_LIMIT = 16 * MIB
_LOOKED_FOR = (
    "files .safetensors .pt .pth .bin .ckpt, or folders with such a file, with a step in the name "
    "(step_100, checkpoint-100, ckpt_100, iter_100, model_00100), folders of torch.distributed.checkpoint or "
    "DeepSpeed, and models in a Hugging Face cache; --step-regex and --steps-map read other names"
)


def find_runs(
    path: Path, *, run: str | None = None, step_pattern: str | None = None, selection: Selection | None = None
) -> tuple[RunSource, ...]:
    """Find the runs below `path`, sorted by name.

    A run is the folder that directly holds checkpoints (of a folder ``checkpoints``: the one above it), or a
    model in the cache of the Hugging Face hub, whose revisions are its checkpoints. A single checkpoint whose name
    has no step has the one that it tells itself, or 0.
    Folders behind symbolic links are not entered: they may lead out of the tree or round in it.

    Parameters
    ----------
    path
        A folder of runs, a run, or a single checkpoint (file or folder).
    run
        Name to give the run instead of its path; only where one is found.
    step_pattern
        Regular expression with one group, that of the step's digits in a file or folder name.
    selection
        Which checkpoints are taken, and what their labels mean; all that are found, if None.

    Returns
    -------
    tuple of RunSource
        At least one, each with at least one checkpoint.

    Raises
    ------
    NoCheckpointsError
        If nothing is found, or nothing is left of it.
    HistoryError
        If `run` is given and several runs are found, or `step_pattern` is no such expression.
    """
    root = Path(os.path.abspath(path))  # noqa: PTH100 - keeps links
    finder = _Finder(root, compile_step_pattern(step_pattern), selection or Selection())
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

    def __init__(self, root: Path, pattern: re.Pattern[str] | None, selection: Selection) -> None:
        self._root = root
        self._pattern = pattern
        self._selection = selection
        self._drafts: dict[Path, Draft] = {}
        self._entered: list[tuple[Path, Draft]] = []
        self._links = 0

    def runs(self) -> tuple[RunSource, ...]:
        if not self._root.exists():
            raise NoCheckpointsError(f"{self._root}: there is no such file or folder; check the path")
        if self._root.is_file() and self._root.name in _STANDARD and self._is_checkpoint(self._root.parent):
            self._root = self._root.parent  # the file of a checkpoint's folder: step and run are in the names above it
        if self._root.is_file() or self._is_checkpoint(self._root):
            return self._single()
        self._search()
        self._report_unread()
        if not any(draft.candidates for draft in self._drafts.values()):
            return self._lonely()
        found = [self._run(folder, draft) for folder, draft in self._drafts.items() if draft.candidates]
        return self._some(sorted(filter(None, found), key=lambda source: source.name))

    def _some(self, found: list[RunSource]) -> tuple[RunSource, ...]:
        """Return the runs found, the first with a word on what belongs to none."""
        if not found:
            cause = "none of the checkpoints found passes --include and --exclude"
            raise NoCheckpointsError(f"{self._root}: {cause}; the globs are matched with labels and paths below it")
        found[0] = replace(found[0], findings=(*found[0].findings, *self._homeless()))
        return tuple(found)

    def _homeless(self) -> list[Finding]:
        """Warnings of folders that are no runs, one a folder, and labels of the map that name nothing."""
        findings = []
        for folder, draft in self._drafts.items():
            worth = [finding for finding in draft.findings if finding.severity != "info"]
            if worth and not draft.candidates:
                more = f" (and {len(worth) - 1} more like it)" if len(worth) > 1 else ""
                detail = f"in {self._place(folder)}, which is no run: {worth[0].detail}{more}"
                findings.append(Finding(worth[0].check_name, worth[0].severity, detail))
        unused = set(self._selection.steps or ()) - self._named
        if unused:
            labels = counted(len(unused), "label")
            detail = f"{labels} of --steps-map without a checkpoint here, such as {min(unused)[:80]}"
            findings.append(Finding("steps_map", "warning", detail))
        return findings

    @property
    def _named(self) -> set[str]:
        """Labels of checkpoints, with and without suffix."""
        labels = {candidate.label for draft in self._drafts.values() for candidate in draft.candidates}
        return labels | {Path(label).stem for label in labels}

    def _lonely(self) -> tuple[RunSource, ...]:
        """Make a run of a root that is itself a checkpoint without a step, if it is one."""
        if is_hub_repository(self._root):
            draft = hub_main(self._root, self._root.name)
            if draft.candidates:
                self._drafts[self._root] = draft
                return self._some(list(filter(None, [self._run(self._root, draft)])))
        if _weights_in(self._root):
            return self._single()
        links = f"; not entered: {counted(self._links, 'link')} to folders" if self._links else ""
        seen = [finding.detail for draft in self._drafts.values() for finding in draft.findings]
        seen_words = f"; seen: {'; '.join(seen[:3])}" if seen else ""
        raise NoCheckpointsError(f"{self._root}: no checkpoints found; looked for {_LOOKED_FOR}{links}{seen_words}")

    def _search(self) -> None:
        """Visit every folder once, on a list of our own: depth is no danger."""
        pending = [self._root]
        while pending:
            folder = pending.pop()
            try:
                pending += self._enter(folder)
            except OSError as error:
                if folder == self._root:
                    raise
                self._report_unsearched(folder, error)

    def _enter(self, folder: Path) -> list[Path]:
        """Note what a folder holds; returned are the folders to enter next."""
        if is_hub_repository(folder):
            self._drafts[folder] = hub_draft(folder, self._place(folder), self._selection, self._named_step)
            return []
        draft = self._drafts.setdefault(_run_folder(folder), Draft())
        return [inner for path in _entries(folder) for inner in self._visit(path, draft)]

    def _visit(self, path: Path, draft: Draft) -> list[Path]:
        """Note what one entry is; one that may not be looked into keeps nobody from the others."""
        try:
            if path.is_dir():
                return self._visit_folder(path, draft)
            if path.is_file():
                self._visit_file(path, draft)
            elif is_weights_name(path.name) and self._step(path) is not None:
                draft.tell(path, _no_file(path))
        except OSError as error:
            self._report_unsearched(path, error)
        return []

    def _report_unsearched(self, path: Path, error: OSError) -> None:
        detail = f"{path}: it cannot be searched ({error.strerror}), so its checkpoints are missing; check its rights"
        draft = self._drafts.setdefault(_run_folder(path.parent), Draft())
        draft.findings.append(Finding("unsearched", "warning", detail))

    def _visit_file(self, path: Path, draft: Draft) -> None:
        if not is_weights_name(path.name):
            self._report_foreign(path, draft)
            return
        step = self._step(path)
        if step is not None:
            draft.candidates.append(self._candidate(step, path))
        elif is_last_copy(path.name):
            draft.tell(path, Finding("last_copy", "info", f"{path.name}: a copy of the latest one; passed over"))
        else:
            draft.tell(path, self._no_step(path.name))

    def _report_foreign(self, path: Path, draft: Draft) -> None:
        """Tell of a checkpoint in a format that is not read."""
        what = FOREIGN_SUFFIXES.get(path.suffix.lower())
        if what is not None and names_checkpoint(path.stem):
            detail = f"{path.name}: {what}, which is not read; save the weights as safetensors, one file a step"
            draft.tell(path, Finding("not_supported", "warning", detail))

    def _no_step(self, name: str) -> Finding:
        if self._selection.steps is not None:
            return Finding("no_step", "info", f"{name}: --steps-map does not name it; passed over")
        return Finding("no_step", "info", f"{name}: no step in the name; passed over")

    def _visit_folder(self, path: Path, draft: Draft) -> list[Path]:
        """Note what the folder is; returned is what to search inside it."""
        if path.is_symlink():
            self._links += 1
            return []
        if path.name.startswith(".") or path.suffix == ".zarr":
            return []
        if self._is_checkpoint(path):
            step = self._step(path)
            draft.candidates += [self._candidate(step, path)] if step else []
            return []
        if self._step(path) is None and _holds_layout(path):
            draft.tell(path, self._no_step(f"{path.name}/"))
        elif names_checkpoint(path.name):
            self._entered.append((path, draft))
        return [path]

    def _report_unread(self) -> None:
        """Tell of folders named like checkpoints in which nothing was found; a map of steps leaves out what it will."""
        if self._selection.steps is not None:
            return
        candidates = [candidate for draft in self._drafts.values() for candidate in draft.candidates]
        covered = {folder for candidate in candidates for folder in candidate.path.parents}
        for folder, draft in self._entered:
            if folder not in covered:
                detail = (
                    f"{folder.name}/ is named like a checkpoint, but no weights are recognised in it (another format, "
                    "or several files without an index): save them as one safetensors file, or with an index"
                )
                draft.tell(folder, Finding("not_supported", "warning", detail))

    def _candidate(self, step: StepName, path: Path) -> Candidate:
        tokens = self._selection.tokens(path.name, _stem(path))
        home = None if path == self._root else self._root
        return Candidate(step, path, path.name, self._place(path), tokens, home)

    def _place(self, path: Path) -> str:
        """Path below the root, or the name of the root itself or of what is above it."""
        inside = path != self._root and path.is_relative_to(self._root)
        return path.relative_to(self._root).as_posix() if inside else path.name

    def _step(self, path: Path) -> StepName | None:
        return self._selection.step(path.name, _stem(path), self._pattern)

    def _named_step(self, label: str) -> StepName | None:
        return self._selection.step(label, label, self._pattern)

    def _is_checkpoint(self, folder: Path) -> bool:
        """Whether a folder is one checkpoint: a step in its name, weights inside, and no history of its own.

        Trainers save the final model beside the checkpoints, in a folder that may well be called ``out-3``.
        """
        if self._step(folder) is None or not _weights_in(folder):
            return False
        return not any(self._is_history(path) for path in _entries(folder))

    def _is_history(self, path: Path) -> bool:
        if path.is_dir():
            step = self._step(path)
            inside = path.name.startswith("global_step") and step == self._step(path.parent)  # DeepSpeed's own folder
            return step is not None and not inside and _holds_layout(path)
        return is_weights_name(path.name) and path.name not in _STANDARD and self._step(path) is not None

    def _single(self) -> tuple[RunSource, ...]:
        """Make a run of the one checkpoint that the root is."""
        if self._root.is_file() and self._root.suffix.lower() not in WEIGHT_SUFFIXES:
            raise NoCheckpointsError(f"{self._root}: not a checkpoint; looked for {_LOOKED_FOR}")
        step = self._step(self._root)
        told = self._told_by_itself() if step is None else {}
        key, value = next(iter(told.items()), ("", 0))
        draft = Draft([self._candidate(step or StepName(value), self._root)])
        if step is None:
            what = f"step {value}, its {key}" if told else "step 0"
            detail = f"{self._root.name}: no step in the name; taken as {what}"
            draft.findings.append(Finding("no_step", "info", detail, step=value))
        inside = self._root.is_dir() and step is None
        folder = self._root if inside else _run_folder(self._root.parent)
        self._drafts[folder] = draft
        found = self._run(folder, draft)
        return self._some([replace(found, whole=inside)] if found else [])

    def _told_by_itself(self) -> Mapping[str, int]:
        """Step that the one checkpoint tells, such as the ``ckpt.pt`` that nanoGPT overwrites; {} if none."""
        try:
            with open_checkpoint(CheckpointSource(0, self._root.name, self._root, None, self._selection.key)) as reader:
                return steps_told(reader.meta)
        except SedarchiveError:
            return {}  # why it cannot be read is told when it is to be read

    def _run(self, folder: Path, draft: Draft) -> RunSource | None:
        checkpoints, findings = ordered(draft, self._selection)
        if not checkpoints:
            return None
        config, problems = _config(folder, checkpoints[-1].path, self._root)
        adapter, differences = adapter_settings(source.path for source in checkpoints)
        others = [other for other, draft in self._drafts.items() if draft.candidates]
        logs, passed_over = find_logs(folder, [source.path for source in checkpoints], others)
        return RunSource(
            name=self._name(folder),
            folder=folder,
            checkpoints=checkpoints,
            logs=logs,
            config={**config, **adapter},
            findings=(*findings, *problems, *passed_over, *adapter_findings(checkpoints[-1].path), *differences),
            told=tuple(draft.told),
        )

    def _name(self, folder: Path) -> str:
        inside = folder != self._root and folder.is_relative_to(self._root)
        return writable(folder.relative_to(self._root).as_posix() if inside else folder.name or "run")


_STANDARD = frozenset({"model.safetensors", "pytorch_model.bin"})


def _no_file(path: Path) -> Finding:
    what = "a link that leads nowhere" if not path.exists() else "no plain file but a pipe, a socket or a device"
    return Finding("no_file", "warning", f"{path.name}: {what}; passed over")


def _entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def _file_names(folder: Path) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir() if path.is_file())


def _weights_in(folder: Path) -> bool:
    """Whether a folder directly holds the weights of one checkpoint: standard names, shards, or one file."""
    names = _file_names(folder)
    shards = any("-of-" in name and Path(name).suffix in WEIGHT_SUFFIXES for name in names)
    one = sum(map(is_weights_name, names)) == 1
    return has_standard_weights(names) or shards or one or find_layout(folder) is not None


def _holds_layout(folder: Path) -> bool:
    """Whether a folder holds weights under names that say so, in one file or many."""
    return has_standard_weights(_file_names(folder)) or find_layout(folder) is not None


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _run_folder(folder: Path) -> Path:
    return folder.parent if folder.name == "checkpoints" else folder


def _config(folder: Path, last: Path, home: Path) -> tuple[Mapping[str, Any], list[Finding]]:
    """Read the config beside the last checkpoint or in the run's folder; a link that leaves `home` is not followed."""
    for path in _config_paths(folder, last, home):
        try:
            if path.stat().st_size > _CONFIG_LIMIT:
                raise ValueError("larger than 16 MiB")
            config = load_json(path.read_bytes())
            if not isinstance(config, dict):
                raise ValueError("not a JSON object")
        except (OSError, ValueError, RecursionError) as error:
            return {}, [Finding("config", "warning", f"{path}: it cannot be read ({error}); the config is unknown")]
        return config, []
    return {}, []


def _config_paths(folder: Path, last: Path, home: Path) -> Iterator[Path]:
    for place in (last, folder):
        path = place / "config.json"
        if path.is_file() and not (path.is_symlink() and leads_outside(path, home)):
            yield path
