"""Checkpoints by their names, and how those of one run are chosen and put in order."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sedarchive.history import CheckpointSource, Finding
from sedarchive.readers.selection import Selection
from sedarchive.readers.steps import StepName, stage_in_name


@dataclass(frozen=True)
class Candidate:
    """A checkpoint by its name, before its run is put in order."""

    step: StepName
    path: Path
    label: str
    """What gave the step: the name of a file or folder, or of a revision."""
    place: str
    """Path below the folder that was searched, for the globs of the user."""
    tokens: int | None = None
    home: Path | None = None
    """Folder that links among its files must not leave; None where they are checked already, or the user's own."""


@dataclass
class Draft:
    """What one folder holds, before it is known whether it is a run."""

    candidates: list[Candidate] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    told: list[Path] = field(default_factory=list)
    """Files and folders that the findings tell of."""

    def tell(self, path: Path, finding: Finding) -> None:
        """Add a finding on a file or folder that is not taken."""
        self.findings.append(finding)
        self.told.append(path)


def ordered(draft: Draft, selection: Selection) -> tuple[tuple[CheckpointSource, ...], list[Finding]]:
    """Checkpoints by step, one a step, and findings on those left out; there may be none."""
    findings = list(draft.findings)
    chosen = [candidate for candidate in draft.candidates if selection.takes(candidate.label, candidate.place)]
    if len(chosen) < len(draft.candidates):
        left = len(draft.candidates) - len(chosen)
        findings.append(
            Finding("not_selected", "info", f"--include and --exclude pass over {left} of {len(draft.candidates)}")
        )
    counted = [candidate for candidate in chosen if candidate.step.unit == "step"]
    if not counted and chosen:
        counted = chosen
        findings.append(Finding("epoch_as_step", "warning", "the names hold epochs only: these stand as steps"))
    for candidate in chosen:
        if candidate not in counted:
            detail = f"{candidate.label}: an epoch among checkpoints with steps; passed over"
            findings.append(Finding("no_step", "info", detail))
            draft.told.append(candidate.path)
    findings += _stage_findings(counted)
    kept, doubled = _one_a_step(counted, selection.key)
    taken = kept[:: selection.every]
    if len(taken) < len(kept):
        detail = f"--every {selection.every} takes {len(taken)} of {len(kept)}"
        findings.append(Finding("not_selected", "info", detail))
    return taken, findings + doubled


def _one_a_step(candidates: Sequence[Candidate], key: str | None) -> tuple[tuple[CheckpointSource, ...], list[Finding]]:
    findings = []
    first: dict[int, CheckpointSource] = {}
    for candidate in sorted(candidates, key=lambda c: (c.step.step, len(c.label), c.label, str(c.path))):
        source = CheckpointSource(
            candidate.step.step, candidate.label, candidate.path, candidate.tokens, key, candidate.home
        )
        kept = first.setdefault(source.step, source)
        if kept is not source:
            detail = f"{source.label} has the step of {kept.label}, which is kept; rename one if both are needed"
            findings.append(Finding("doubled_step", "warning", detail, step=source.step))
    return tuple(first.values()), findings


def _stage_findings(candidates: Sequence[Candidate]) -> list[Finding]:
    """Steps that begin anew at each stage do not make one history."""
    stages = sorted({stage for candidate in candidates if (stage := stage_in_name(candidate.label))})
    if len(stages) < 2:
        return []
    detail = (
        f"the names tell {len(stages)} stages ({', '.join(stages[:8])}), in each of which steps count anew: take one "
        f"with --include '*{stages[0]}-*', each as a run of its own (--run NAME)"
    )
    return [Finding("several_stages", "warning", detail)]
