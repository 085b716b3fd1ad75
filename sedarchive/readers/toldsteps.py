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
_SHOWN = 3


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
    """One warning for all checkpoints that say another step than their names do."""
    off = sorted((one for one in seen if one.differs), key=lambda one: one.step)
    if not off:
        return []
    shown = [f"{one.label[:80]} says {' and '.join(f'{k} {v}' for k, v in one.told.items())}" for one in off[:_SHOWN]]
    more = f", and {len(off) - _SHOWN} more" if len(off) > _SHOWN else ""
    detail = (
        f"{len(off)} of {len(seen)} checkpoints say another step than their names: {', '.join(shown)}{more}. The steps "
        "of the names stand: if they are wrong, ingest the run under a new name with --steps-map FILE (label,step); if "
        "files stand under wrong names, save or fetch these again and ingest them with --replace STEP"
    )
    return [Finding("step_disagrees", "warning", detail, off[0].step)]


def _is_step(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < _MOST and value == int(value)
