"""What the numbers per step show: leaps, returns, distances out of line, rounding, and values that are not finite."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from sedarchive.audit.evidence import Evidence, only, percent, steps_text, tensors_text
from sedarchive.audit.motion import Flags, Motion, copies_out_of_line, leaps, misplaced, returns
from sedarchive.audit.tracks import Track, Tracks
from sedarchive.history import Finding, Severity
from sedarchive.words import counted

_CONSENSUS = 0.1
"""Share of the elements whose tensors must show the same at a step where the whole run does not."""
_NOISE = 0.1
"""Share of rounding in an update's energy from which it is material."""
_NOISY_UPDATES = 0.1
"""Share of the updates from which rounding is a warning."""


@dataclass(frozen=True)
class Part:
    """One logical matrix, or unsplit tensor."""

    tensor: str
    n_elements: int
    motion: Motion


@dataclass(frozen=True)
class Rounding:
    """Signs of coarse storage of the whole run, by update (T - 1,)."""

    noise: NDArray[np.float64]
    """Rounding energy of both ends over the update's energy; NaN for a zero update."""
    zero_fraction: NDArray[np.float64]
    """Share of the entries that did not change."""
    dtypes: tuple[str, ...]
    """What the run is stored in."""


def motion_evidence(steps: Sequence[int], parts: Sequence[Part], known: Sequence[Evidence]) -> list[Evidence]:
    """Jumps, distances out of line and leaps, each step in one finding only.

    Parameters
    ----------
    steps
        Steps of the checkpoints (T,).
    parts
        Disjoint parts of the run, at all checkpoints.
    known
        What the digests showed: what lies beside it is not reported again.
    """
    if not parts or len(steps) < 3:
        return []
    copies = frozenset().union(*(one.positions for one in known if one.mark)) if known else frozenset()
    look = _Look(np.asarray(steps, dtype=np.float64), parts)
    jumps = look.at(lambda motion: returns(motion.norm, motion.cosine)).without(copies)
    distant = look.at(misplaced).without(jumps.positions)
    far = distant.without(copies)
    wrong = _Seen(look.wrong_copies(known), None)
    # an update is named by the checkpoint at its end; it touches the one before it too
    seen = copies | jumps.positions | distant.positions
    leap = look.at(lambda motion: np.append(False, leaps(motion.norm, look.interval)))
    leap = leap.without(seen | {position + 1 for position in seen})
    return [
        *([_jump(steps, jumps)] if jumps.positions else []),
        *([_far(steps, far, look.whole)] if far.positions else []),
        *([_wrong_copies(steps, wrong, look.whole)] if wrong.positions else []),
        *([_leap(steps, leap, look.whole)] if leap.positions else []),
    ]


@dataclass(frozen=True)
class _Seen:
    """Checkpoints at which something shows, and in which tensors."""

    positions: frozenset[int]
    tensors: frozenset[str] | None
    """None where the whole run shows it."""

    def without(self, positions: frozenset[int] | set[int]) -> "_Seen":
        return _Seen(self.positions - positions, self.tensors)

    @property
    def where(self) -> str:
        return "" if self.tensors is None else f"{tensors_text(self.tensors)}: "


class _Look:
    """The same look at the whole run and at each of its parts."""

    def __init__(self, steps: NDArray[np.float64], parts: Sequence[Part]) -> None:
        self.interval = np.diff(steps)
        self._parts = parts
        self.whole = reduce(add, (part.motion for part in parts))
        self._n_elements = sum(part.n_elements for part in parts)

    def at(self, look: Callable[[Motion], Flags]) -> _Seen:
        """Checkpoints where the whole run shows it, or several parts of some weight together do."""
        whole = frozenset(np.flatnonzero(look(self.whole)).tolist())
        flags = [(part, look(part.motion)) for part in self._parts]
        share = np.sum([part.n_elements * found for part, found in flags], axis=0) / self._n_elements
        several = np.sum([found for _, found in flags], axis=0) > 1
        partial = frozenset(np.flatnonzero((share >= _CONSENSUS) & several).tolist()) - whole
        if not partial:
            return _Seen(whole, None)
        tensors = frozenset(part.tensor for part, found in flags if found[sorted(partial)].any())
        return _Seen(whole | partial, None if whole else tensors)

    def wrong_copies(self, known: Sequence[Evidence]) -> frozenset[int]:
        """Of checkpoints that hold the same bytes, those out of line with the others, by the tensors concerned."""
        found: set[int] = set()
        for one in known:
            motions = [part.motion for part in self._parts if one.tensors is None or part.tensor in one.tensors]
            if one.mark == "duplicate" and motions:
                found.update(copies_out_of_line(reduce(add, motions).distance, one.positions))
        return frozenset(found)


def _evidence(check: str, steps: Sequence[int], seen: _Seen, detail: str, positions: frozenset[int]) -> Evidence:
    finding = Finding(check, "warning", seen.where + detail, steps[min(seen.positions)], only(seen.tensors or ()))
    return Evidence(finding, "suspect", positions, seen.tensors)


def _jump(steps: Sequence[int], seen: _Seen) -> Evidence:
    detail = (
        f"the weights jump at {_steps(steps, seen)} and come back with the next update, along the same line and far "
        "further than the updates around: a checkpoint of another step or run under this name. Fetch it again "
        "and ingest it with --replace, or ingest the run without it; windows that hold it have the status suspect"
    )
    return _evidence("jump_and_return", steps, seen, detail, seen.positions)


def _far(steps: Sequence[int], seen: _Seen, whole: Motion) -> Evidence:
    detail = (
        f"{_distances(steps, seen, whole)}: so would the weights of another step under this name. Compare the file "
        "with its source, or ingest the run without it; windows that hold it have the status suspect"
    )
    return _evidence("distance_out_of_line", steps, seen, detail, seen.positions)


def _wrong_copies(steps: Sequence[int], seen: _Seen, whole: Motion) -> Evidence:
    detail = (
        f"{_distances(steps, seen, whole)}: of the checkpoints that hold the same weights, these are the ones that "
        "hold another step's"
    )
    first = steps[min(seen.positions)]
    return Evidence(Finding("distance_out_of_line", "info", detail, first))


def _leap(steps: Sequence[int], seen: _Seen, whole: Motion) -> Evidence:
    first = min(seen.positions)
    around = [at for at in range(max(first - 4, 0), min(first + 3, len(whole.norm))) if at != first - 1]
    usual = float(np.median(whole.norm[around]))
    detail = (
        f"the update that ends at {_steps(steps, seen)} is far longer than those before and after it (all tensors: "
        f"{whole.norm[first - 1]:.3g} against {usual:.3g}): a spike of the loss, another run's checkpoints from there "
        "on, or a changed file. Look at the loss there; windows that hold the update have the status suspect"
    )
    both = seen.positions | {position - 1 for position in seen.positions}
    return _evidence("norm_leap", steps, seen, detail, frozenset(both))


def _steps(steps: Sequence[int], seen: _Seen) -> str:
    return steps_text([steps[position] for position in sorted(seen.positions)])


def _distances(steps: Sequence[int], seen: _Seen, whole: Motion) -> str:
    first = min(seen.positions)
    beside = [whole.distance[at] for at in (first - 1, first + 1) if 0 <= at < len(steps)]
    return (
        f"{_steps(steps, seen)} out of line with the steps around by the distance from the first checkpoint (at step "
        f"{steps[first]} {whole.distance[first]:.3g}, beside it {' and '.join(f'{one:.3g}' for one in beside)})"
    )


def rounding_evidence(steps: Sequence[int], rounding: Rounding) -> list[Evidence]:
    """Updates that are rounding to a material part."""
    noise = rounding.noise
    noisy = np.flatnonzero(noise > _NOISE)
    if not len(noisy):
        return []
    worst = int(np.nanargmax(noise))
    unchanged = float(np.median(rounding.zero_fraction[noisy]))
    finite = int(np.isfinite(noise).sum())
    detail = (
        f"rounding to {' and '.join(rounding.dtypes)} is more than {percent(_NOISE)} of the energy of {len(noisy)} of "
        f"{counted(finite, 'update')} (median {percent(float(np.median(noise[noisy])))}, at step {steps[worst + 1]} "
        f"{_noise_text(noise[worst])}), and {percent(unchanged)} of the entries do not change in one: small singular "
        "values of such windows are noise. Use checkpoints in float32, or every second or fifth of these"
    )
    severity: Severity = "warning" if len(noisy) > max(_NOISY_UPDATES * finite, 1) else "info"
    return [Evidence(Finding("quantization", severity, detail, steps[int(noisy[0]) + 1]))]


def _noise_text(share: float) -> str:
    return percent(share) if share < 1 else "all of it"


@dataclass(frozen=True)
class Broken:
    """Values that are not finite in one logical matrix, or unsplit tensor."""

    name: str
    tensor: str
    n_elements: int
    count: NDArray[np.float64]
    """NaN and infinite values at each checkpoint (T,), 0 where the tensor is absent."""


def nonfinite_evidence(steps: Sequence[int], parts: Sequence[Broken]) -> list[Evidence]:
    """Values that are NaN or infinite; parts that go bad at the same step are one finding."""
    by_first: dict[int, list[Broken]] = defaultdict(list)
    for part in parts:
        if part.count.any():
            by_first[int(np.flatnonzero(part.count)[0])].append(part)
    return [_nonfinite(steps, first, members) for first, members in sorted(by_first.items())]


def counted_evidence(tracks: Tracks) -> list[Evidence]:
    """Values that are not finite, as ingest counted them; in a tensor that never moves they may be a mask."""
    bad = [track for track in tracks.floats if track.nonfinite]
    constant = {track.name for track in tracks.frozen}
    still = [track for track in bad if track.name in constant]
    parts = [
        Broken(track.name, track.name, track.spec.n_elements, np.array(track.nonfinite, dtype=np.float64))
        for track in bad
        if track.name not in constant
    ]
    return [*nonfinite_evidence(tracks.steps, parts), *([_still(still)] if still else [])]


def _still(members: Sequence[Track]) -> Evidence:
    names = [track.name for track in members]
    detail = (
        f"{tensors_text(names)} hold NaN or infinite values and the same bytes at every step: the mask of an "
        "attention, say. If they are parameters, `sedarchive compute` tells them as an error"
    )
    return Evidence(Finding("nonfinite_constant", "info", detail, tensor=only(names)))


def _nonfinite(steps: Sequence[int], first: int, members: Sequence[Broken]) -> Evidence:
    bad, total = sum(int(part.count[first]) for part in members), sum(part.n_elements for part in members)
    later = int(np.any([part.count > 0 for part in members], axis=0).sum()) - 1
    detail = (
        f"{bad} of {total} values of {tensors_text(part.name for part in members)} are NaN or infinite at step "
        f"{steps[first]}"
        + (f" and {later} later ones" if later else "")
        + "; windows that hold these steps are NULL with status nonfinite. If the run did not diverge there, the file "
        f"is damaged: fetch it again, and ingest it with --replace {steps[first]}"
    )
    tensors = frozenset(part.tensor for part in members)
    return Evidence(Finding("nonfinite", "error", detail, steps[first], only(tensors)), tensors=tensors)
