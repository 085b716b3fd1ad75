"""Findings that say the same of many checkpoints, told once."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from sedarchive.history import Finding

_NUMBERS = re.compile(r"\b(?=[a-f]*\d)[0-9a-f]{7,}\b|\d+")
"""What differs between checkpoints where nothing else does: steps, sizes, and the hashes of a hub's snapshots."""


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Findings, those that differ in nothing but their steps and numbers as one, which names the steps.

    The first stands for the others: its step, its numbers.
    """
    alike: dict[tuple[object, ...], list[Finding]] = {}
    for at, finding in enumerate(findings):
        same = _NUMBERS.sub("#", finding.detail)
        key = (finding.check_name, finding.severity, finding.tensor, same)
        alike.setdefault((at,) if finding.step is None else key, []).append(finding)
    return [_one(members) for members in alike.values()]


def _one(members: Sequence[Finding]) -> Finding:
    steps = sorted({member.step for member in members if member.step is not None})
    if len(steps) < 2:
        return members[0]
    listed = ", ".join(map(str, steps)) if len(steps) < 4 else f"{steps[0]}, {steps[1]} ... {steps[-1]}"
    first = next(member for member in members if member.step == steps[0])
    return replace(first, detail=f"at {len(steps)} steps, {listed}: {first.detail}")
