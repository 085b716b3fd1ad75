"""Checkpoints, and parts of checkpoints, that hold the bytes of another step.

Training never returns to a weight matrix bit by bit. Where it seems to, a file was saved, named or uploaded twice: the
whole checkpoint, or one shard of it. What repeats by right is told apart: tensors that never move, phases in which a
part is frozen, a warm-up whose first learning rate is 0, and small tensors of few bits.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sedarchive.audit.evidence import Evidence, only, percent, steps_text, tensors_text
from sedarchive.audit.tracks import Track, Tracks
from sedarchive.history import Finding, Severity

_MATERIAL = 0.01
"""Share of the trained elements below which repeated tensors are no sign of a shard."""
_LONGEST_STALL = 2
"""Updates that a part may stand still before it counts as frozen on purpose."""
_SHOWN_CLASSES = 12

Positions = tuple[int, ...]

_REFETCH = (
    "Fetch or save these checkpoints again, compare their hashes and ingest them with --replace STEP, or ingest the "
    "run without them; updates and windows that hold them have the status duplicate"
)


def repeat_evidence(tracks: Tracks) -> list[Evidence]:
    """Repeated checkpoints, repeated tensors, zero updates, and tensors that never move."""
    if len(tracks.steps) < 2 or not tracks.floats:
        return []
    if not tracks.trained:
        return [_nothing_moves(tracks)]
    whole = _whole_states(tracks.trained, len(tracks.steps))
    found = [*_whole_evidence(tracks, whole), *_partial_evidence(tracks, whole)]
    return found + ([_frozen(tracks)] if tracks.frozen else [])


def _nothing_moves(tracks: Tracks) -> Evidence:
    every = range(len(tracks.steps))
    detail = (
        f"all {len(tracks.steps)} checkpoints hold the same weights: nothing was trained, or one file was saved under "
        f"every name; there is nothing to analyse. {_REFETCH}"
    )
    finding = Finding("identical_checkpoints", "error", detail, tracks.steps[0])
    return Evidence(finding, "duplicate", frozenset(every))


def _whole_states(trained: Sequence[Track], n_steps: int) -> list[int]:
    """First checkpoint with the same trained weights, for each checkpoint."""
    first: dict[Positions, int] = {}
    states = zip(*(track.contents for track in trained), strict=True) if trained else iter([()] * n_steps)
    return [first.setdefault(state, position) for position, state in enumerate(states)]


# Whole checkpoints


def _whole_evidence(tracks: Tracks, whole: Sequence[int]) -> list[Evidence]:
    classes = [one for one in _classes(whole) if len(one) > 1]
    distant = [one for one in classes if len(_blocks(one)) > 1]
    returns = [one for one in distant if len(one) == 2 and one[1] - one[0] == 2]
    apart = [one for one in distant if one not in returns]
    stalls = [one for one in classes if one not in distant]
    first = [one for one in stalls if one == (0, 1)]
    stalls = [one for one in stalls if one not in first]
    return [
        *([_identical(tracks, apart)] if apart else []),
        *([_returned(tracks, returns)] if returns else []),
        *([_stalled(tracks, stalls)] if stalls else []),
        *([_first_stall(tracks)] if first else []),
    ]


def _identical(tracks: Tracks, classes: Sequence[Positions]) -> Evidence:
    detail = (
        f"{_classes_text(tracks, classes)} although the steps between are different: at most one step of each group "
        f"holds its own weights, the others were saved, named or uploaded wrongly. {_REFETCH}"
    )
    return _evidence(tracks, "identical_checkpoints", "error", detail, classes)


def _returned(tracks: Tracks, classes: Sequence[Positions]) -> Evidence:
    middles = [tracks.steps[first + 1] for first, _ in classes]
    detail = (
        f"{_classes_text(tracks, classes)} and {steps_text(middles)} between them different: the weights jump and "
        f"return bit by bit, which training does not do; one of the three files is of another step or run. {_REFETCH}"
    )
    return _evidence(tracks, "jump_and_return", "error", detail, [(first, first + 1, last) for first, last in classes])


def _stalled(tracks: Tracks, classes: Sequence[Positions]) -> Evidence:
    detail = (
        f"{_classes_text(tracks, classes)}: the updates between them are zero, because a checkpoint was written twice, "
        f"or because nothing was trained (a learning rate of 0, a stopped run). {_REFETCH}"
    )
    return _evidence(tracks, "zero_update", "warning", detail, classes)


def _first_stall(tracks: Tracks) -> Evidence:
    detail = (
        f"the first two checkpoints, {steps_text(tracks.steps[:2])}, hold the same weights: so does a warm-up whose "
        "first learning rate is 0. If yours is not, the first or the second file is a copy of the other"
    )
    return Evidence(Finding("zero_update", "info", detail, tracks.steps[1]))


def _evidence(
    tracks: Tracks,
    check: str,
    severity: Severity,
    detail: str,
    classes: Sequence[Positions],
    tensors: Iterable[str] | None = None,
) -> Evidence:
    """Evidence on some groups of checkpoints, of all tensors or of some."""
    positions = frozenset(position for one in classes for position in one)
    named = None if tensors is None else frozenset(tensors)
    finding = Finding(check, severity, detail, tracks.steps[min(positions)], only(named or ()))
    return Evidence(finding, "duplicate", positions, named)


def _classes_text(tracks: Tracks, classes: Sequence[Positions]) -> str:
    """``steps 10 and 50, and steps 20 and 60, hold the same weights``, with a count where there are many."""
    groups = [steps_text([tracks.steps[position] for position in one]) for one in classes[:_SHOWN_CLASSES]]
    more = len(classes) - len(groups)
    groups += [f"{more} more groups"] if more else []
    n_steps = sum(len(one) for one in classes)
    each = " each" if len(classes) > 1 else ""
    share = f" ({n_steps} of {len(tracks.steps)} checkpoints)" if n_steps > 2 else ""
    return f"{'; '.join(groups)} hold the same weights{each}{share}"


# Parts of checkpoints


@dataclass(frozen=True)
class _Repeat:
    """Checkpoints at which one tensor holds the same bytes, whole copies of a checkpoint counted once."""

    positions: Positions
    kind: str
    """``apart`` (others between), ``stall`` (a short one in the middle), ``phase`` (begin, end, or long), or ``odd``:
    the few checkpoints at which a tensor that otherwise stays as it is holds something else."""


def _partial_evidence(tracks: Tracks, whole: Sequence[int]) -> list[Evidence]:
    distinct = sorted(set(whole))
    sets: dict[_Repeat, list[Track]] = defaultdict(list)
    for track in tracks.trained:
        for repeat in _repeats(track, distinct):
            sets[repeat].append(track)
    n_trained = sum(track.spec.n_elements for track in tracks.trained)
    shards: dict[tuple[str, frozenset[str]], list[Positions]] = defaultdict(list)
    by_right: dict[str, Track] = {}
    for repeat, members in sets.items():
        if repeat.kind != "phase" and _is_material(members, n_trained):
            shards[repeat.kind, frozenset(track.name for track in members)].append(repeat.positions)
        else:
            by_right.update({track.name: track for track in members})
    sizes = {track.name: track.spec.n_elements / n_trained for track in tracks.trained}
    found = [_shard(tracks, kind, names, sizes, classes) for (kind, names), classes in shards.items()]
    return found + ([_frozen_at_times(tracks, by_right, sizes)] if by_right else [])


def _repeats(track: Track, distinct: Sequence[int]) -> list[_Repeat]:
    """Repeats of one tensor among checkpoints that differ from each other."""
    held = [position for position in distinct if track.contents[position] >= 0]
    classes = [one for one in _classes([track.contents[position] for position in held]) if len(one) > 1]
    inside = [one for one in classes if len(_blocks(one)) == 1]
    often = sum(len(one) - 1 for one in inside) > max(_LONGEST_STALL, len(held) // 4)
    found = []
    for one in classes:
        positions = tuple(held[at] for at in one)
        if len(_blocks(one)) > 1 and 2 * len(one) > len(held) and len(one) > 2:
            found.append(_Repeat(tuple(position for position in held if position not in positions), "odd"))
        elif len(_blocks(one)) > 1:
            found.append(_Repeat(positions, "apart"))
        elif often or one[0] == 0 or one[-1] == len(held) - 1 or len(one) > _LONGEST_STALL + 1:
            found.append(_Repeat(positions, "phase"))
        else:
            found.append(_Repeat(positions, "stall"))
    return found


def _is_material(members: Sequence[Track], n_trained: int) -> bool:
    """Whether these tensors cannot return by chance: enough elements, and matrices where elements have few bits."""
    telling = [track for track in members if not track.is_coarse or len(track.spec.shape) > 1]
    return bool(telling) and sum(track.spec.n_elements for track in members) >= _MATERIAL * n_trained


def _shard(
    tracks: Tracks, kind: str, names: frozenset[str], sizes: dict[str, float], classes: Sequence[Positions]
) -> Evidence:
    part = f"{tensors_text(names)}, {percent(sum(sizes[name] for name in names))} of the trained elements"
    if kind == "stall":
        detail = (
            f"{part}: {_classes_text(tracks, classes)}, while all others move, and these do before and after: a part "
            f"of a checkpoint (one shard, say) was written twice, or was frozen for that time. {_REFETCH}"
        )
        return _evidence(tracks, "partial_zero_update", "warning", detail, classes, names)
    if kind == "odd":
        odd = [tracks.steps[position] for one in classes for position in one]
        detail = (
            f"{part}, hold the same bytes at all steps but {steps_text(odd)}: there they are of another run. {_REFETCH}"
        )
        return _evidence(tracks, "jump_and_return", "error", detail, classes, names)
    detail = (
        f"{part}: {_classes_text(tracks, classes)}, while the others differ, and the steps between do too: a part of a "
        f"checkpoint (one shard, say) holds the weights of another step. {_REFETCH}"
    )
    return _evidence(tracks, "identical_tensors", "error", detail, classes, names)


def _frozen_at_times(tracks: Tracks, by_right: dict[str, Track], sizes: dict[str, float]) -> Evidence:
    detail = (
        f"{tensors_text(by_right)}, {percent(sum(sizes[name] for name in by_right))} of the trained elements, hold the "
        "same bytes at some steps while others move: frozen for a time, not reached by a gradient, or too coarse for "
        "small updates. Their updates there are zero; nothing else is affected"
    )
    return Evidence(Finding("frozen_at_times", "info", detail, tensor=only(by_right)))


def _frozen(tracks: Tracks) -> Evidence:
    names = [track.name for track in tracks.frozen]
    detail = (
        f"{tensors_text(names)} hold the same bytes at every step: buffers or frozen parameters. "
        "They add nothing to any update"
    )
    return Evidence(Finding("frozen_tensors", "info", detail, tensor=only(names)))


def _classes(contents: Sequence[int]) -> list[Positions]:
    """Indices that hold the same, in the order of their first."""
    found: dict[int, list[int]] = defaultdict(list)
    for index, content in enumerate(contents):
        found[content].append(index)
    return [tuple(one) for one in found.values()]


def _blocks(indices: Positions) -> list[list[int]]:
    """Increasing indices, cut where one is left out."""
    blocks: list[list[int]] = []
    for index in indices:
        if blocks and blocks[-1][-1] == index - 1:
            blocks[-1].append(index)
        else:
            blocks.append([index])
    return blocks
