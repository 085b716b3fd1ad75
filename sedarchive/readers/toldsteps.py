"""The step that a checkpoint itself tells, nanoGPT's ``iter_num`` or Lightning's ``global_step``, beside its name's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sedarchive.history import CheckpointSource, Finding
from sedarchive.readers.steps import step_in_name

_KEYS = ("iter_num", "global_step", "iteration", "step")
_MOST = 10**18
_NEAR = 1
"""Trainers count from 0 or from 1, and save before or after they count."""
_FEW, _SHOWN = 8, 3


@dataclass(frozen=True)
class ToldStep:
    """What one checkpoint says of its step."""

    step: int
    """Step by its name, or by the user's map."""
    label: str
    told: Mapping[str, int]
    """Entry of the checkpoint to its value; empty if it has none."""

    @property
    def differs(self) -> bool:
        """Whether no entry agrees with the name."""
        return bool(self.told) and all(abs(value - self.step) > _NEAR for value in self.told.values())


def steps_told(meta: Mapping[str, Any]) -> dict[str, int]:
    """Entries of a checkpoint that tell its step, the plainest first.

    Parameters
    ----------
    meta
        Plain values beside its weights; any that are no whole numbers of steps say nothing.
    """
    values: dict[str, Any] = {key: meta.get(key) for key in _KEYS}
    return {key: int(value) for key, value in values.items() if _is_step(value)}


def told_step(source: CheckpointSource, meta: Mapping[str, Any]) -> ToldStep:
    """What a checkpoint says of its step; nothing where its name counts epochs."""
    named = step_in_name(source.path.name if source.path.is_dir() else source.path.stem)
    counts_epochs = named is not None and named.unit == "epoch"
    return ToldStep(source.step, source.label, {} if counts_epochs else steps_told(meta))


def told_findings(seen: Sequence[ToldStep]) -> list[Finding]:
    """Warnings of checkpoints that say another step than their names do.

    One each where they are few: a file under a wrong name, settled when that one is replaced. One for all where they
    are many: then the names count something else.
    """
    off = sorted((one for one in seen if one.differs), key=lambda one: one.step)
    if len(off) <= _FEW:
        return [_finding(one.step, _said(one)) for one in off]
    shown = ", ".join(_said(one) for one in off[:_SHOWN])
    what = f"{len(off)} of {len(seen)} checkpoints say another step than their names: {shown}, and others"
    return [_finding(off[0].step, what)]


def _said(one: ToldStep) -> str:
    return f"{one.label[:80]} says {' and '.join(f'{key} {value}' for key, value in one.told.items())}"


def _finding(step: int, what: str) -> Finding:
    detail = (
        f"{what}; the step of the name stands. If names are wrong, ingest the run under a new name with --steps-map "
        "FILE (label,step); if a file has a wrong name, save or fetch it again and ingest it with --replace STEP"
    )
    return Finding("step_disagrees", "warning", detail, step)


def _is_step(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < _MOST and value == int(value)
