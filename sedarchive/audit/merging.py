"""Findings that say the same of many checkpoints, told once."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sedarchive.history import Finding

_PATH = re.compile(r"\S*/\S*")
_NUMBER = re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{7,}\b|\d+")
"""What differs between the paths of a run's checkpoints: steps, and the hashes of a hub's snapshots."""
_SHOWN = 3


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings, those that differ in nothing but their step and what names it as one, which lists the steps.

    The first stands for the others: its step, its file.
    """
    alike: dict[tuple[object, ...], list[Finding]] = {}
    for at, finding in enumerate(dict.fromkeys(findings)):
        key = (finding.check_name, finding.severity, finding.tensor, _without_step(finding))
        alike.setdefault((at,) if finding.step is None else key, []).append(finding)
    return [finding for members in alike.values() for finding in _told_once(members)]


def _without_step(finding: Finding) -> str:
    """What a finding says, but for its step and the numbers in paths."""
    text = _PATH.sub(lambda path: _NUMBER.sub("#", path.group()), finding.detail)
    return re.sub(rf"(?:(?<=[A-Za-z_=-])|(?<=step ))0*{finding.step}(?!\d)", "#", text)  # not where it is a size


def _told_once(members: Sequence[Finding]) -> Sequence[Finding]:
    """One finding for all, unless two are of the same step: then they tell of different things."""
    by_step = {member.step: member for member in members if member.step is not None}
    if len(members) < 2 or len(by_step) < len(members):
        return members
    steps = sorted(by_step)
    listed = ", ".join(map(str, steps))
    if len(steps) > _SHOWN:
        listed = f"{steps[0]}, {steps[1]} ... {steps[-1]}"
    first = by_step[steps[0]]
    return [replace(first, detail=f"at {len(steps)} steps, {listed}: {first.detail}")]
