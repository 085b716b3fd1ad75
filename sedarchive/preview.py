"""Preview: what ingest would do, from folders and one header a run; nothing is written."""

import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sedarchive.errors import HistoryError
from sedarchive.families import Family
from sedarchive.history import CheckpointSource, Finding, RunSource, TensorSpec
from sedarchive.ingest import IngestOptions, find_sources
from sedarchive.readers import open_checkpoint
from sedarchive.render import counted
from sedarchive.roles import ROLES, TensorRole, assign_roles
from sedarchive.sizes import format_size


@dataclass(frozen=True)
class IngestPlan:
    """What ingest would do for one run."""

    run: str
    folder: str
    checkpoints: int
    first_step: int
    last_step: int
    checkpoint_bytes: int
    """Bytes of the weights of the last checkpoint."""
    tensors: int
    """Tensors of the last checkpoint."""
    logs: list[str]
    findings: list[Finding]
    architecture: str
    roles: dict[str, int]
    """Logical matrices and vectors of the last checkpoint by role; ``no parameter`` for buffers and integers."""
    kept_whole: dict[str, str]
    """Fused tensor -> why it is not split."""

    def describe(self) -> str:
        """Lines for people."""
        size, total = format_size(self.checkpoint_bytes), format_size(self.checkpoint_bytes * self.checkpoints)
        steps = f"steps {self.first_step} to {self.last_step}" if self.checkpoints > 1 else f"step {self.first_step}"
        lines = [
            f"{self.run}: {counted(self.checkpoints, 'checkpoint')}, {steps}, from {self.folder}",
            f"  {counted(self.tensors, 'tensor')}, {size} a checkpoint, about {total} in all",
            f"  architecture: {self.architecture}; {', '.join(f'{n} {role}' for role, n in self.roles.items())}",
            f"  logs: {', '.join(self.logs) or 'none'}",
        ]
        lines += [f"  {names[0]} ({counted(len(names), 'tensor')}): {why}" for why, names in self._by_reason().items()]
        return "\n".join(lines + [f"  {found.severity}: {found.detail}" for found in self.findings])

    def _by_reason(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for tensor, why in self.kept_whole.items():
            found.setdefault(why, []).append(tensor)
        return found


def plan_ingest(paths: Sequence[Path], options: IngestOptions, families: Sequence[Family] = ()) -> list[IngestPlan]:
    """What :func:`sedarchive.ingest.ingest` would add: one checkpoint's header a run is read, and nothing is written.

    ``families`` of the user's own tell the architecture before the shipped ones do.

    Raises
    ------
    NoCheckpointsError
        If a path holds none.
    """
    sources, _ = find_sources(paths, options)
    return [_plan_run(source, families) for source in sources]


def _plan_run(source: RunSource, families: Sequence[Family]) -> IngestPlan:
    specs, problems = _last_readable(source.checkpoints)
    findings = [*source.findings, *problems]
    found = assign_roles(specs, source.config, families=families)
    return IngestPlan(
        source.name,
        str(source.folder),
        len(source.checkpoints),
        source.checkpoints[0].step,
        source.checkpoints[-1].step,
        sum(spec.nbytes for spec in specs.values()),
        len(specs),
        [os.path.relpath(log, source.folder) for log in source.logs],
        findings,
        found.family,
        _by_role(found.roles.values()),
        {name: role.reason for name, role in found.roles.items() if role.contains and role.reason},
    )


def _last_readable(checkpoints: Sequence[CheckpointSource]) -> tuple[dict[str, TensorSpec], list[Finding]]:
    """Tensors of the last checkpoint that can be read, {} if there is none, and findings on those after it."""
    problems: list[Finding] = []
    for last in reversed(checkpoints):
        try:
            with (
                tempfile.TemporaryDirectory(prefix="sedarchive-") as spool,
                open_checkpoint(last, Path(spool)) as reader,
            ):
                return {name: spec for name, spec in reader.specs.items() if name not in reader.ties}, problems
        except HistoryError as error:
            problems.append(Finding("unreadable_checkpoint", "error", str(error), step=last.step))
    return {}, problems


def _by_role(roles: Iterable[TensorRole]) -> dict[str, int]:
    """Count logical matrices and vectors by role, in the order of the roles."""
    counts: Counter[str] = Counter()
    for role in roles:
        if role.kind in ("buffer", "integer"):
            counts["no parameter"] += 1
        else:
            counts.update([part.role for part in role.parts] or [role.role])
    return {role: counts[role] for role in (*ROLES, "no parameter") if counts[role]}
