"""What a check hands over: a finding, and the checkpoints of tensors that it spoils; and how findings name them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sedarchive.history import Finding

Mark = Literal["duplicate", "suspect"]
_SHOWN_STEPS = 8
_SHOWN_TENSORS = 2


@dataclass(frozen=True)
class Evidence:
    """One finding, and which checkpoints it puts in doubt."""

    finding: Finding
    mark: Mark | None = None
    """Status of the windows that hold these checkpoints; None if none is affected."""
    positions: frozenset[int] = frozenset()
    """Checkpoints in doubt, in step order."""
    tensors: frozenset[str] | None = None
    """Tensors in doubt, by their names in the checkpoints; None for all."""


def evidence_text(evidence: Iterable[Evidence]) -> str:
    """Evidence as JSON, for the tables; :func:`read_evidence` reads it."""
    return json.dumps([asdict(one) for one in evidence], default=sorted)


def read_evidence(text: str) -> list[Evidence]:
    """Evidence from the JSON of :func:`evidence_text`."""
    return [
        Evidence(
            Finding(**one["finding"]),
            one["mark"],
            frozenset(one["positions"]),
            None if one["tensors"] is None else frozenset(one["tensors"]),
        )
        for one in json.loads(text)
    ]


def marked(evidence: Iterable[Evidence], mark: Mark, tensors: frozenset[str], n_steps: int) -> NDArray[np.bool_]:
    """Checkpoints (n_steps,) at which some of these tensors carry a mark."""
    flags = np.zeros(n_steps, dtype=bool)
    for one in evidence:
        if one.mark == mark and (one.tensors is None or one.tensors & tensors):
            flags[sorted(one.positions)] = True
    return flags


def steps_text(steps: Sequence[int], total: int | None = None) -> str:
    """``step 10``, ``steps 10, 20 and 30``; of many the first and how many more, of ``total`` if given."""
    shown = [str(step) for step in steps[:_SHOWN_STEPS]]
    more = (len(steps) if total is None else total) - len(shown)
    return f"step{'s' if len(shown) + more > 1 else ''} {joined([*shown, f'{more} more'] if more else shown)}"


def joined(parts: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def tensors_text(names: Iterable[str]) -> str:
    """``a.weight``, or a count of tensors with two examples."""
    listed = sorted(names)
    if len(listed) == 1:
        return listed[0]
    more = ", ..." if len(listed) > _SHOWN_TENSORS else ""
    return f"{len(listed)} tensors ({', '.join(listed[:_SHOWN_TENSORS])}{more})"


def only(names: Iterable[str]) -> str | None:
    """Name of the one tensor; None if there are several."""
    listed = list(names)
    return listed[0] if len(listed) == 1 else None


def percent(share: float) -> str:
    """A share of 0 to 1 for people: ``41 %``, ``0.3 %``."""
    return f"{100 * share:.2g} %" if share < 0.995 else "100 %"
