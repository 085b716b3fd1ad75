"""Changes that a history should not have: of dtype, shape, presence and spacing; and tensors that are one."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice, pairwise

from sedarchive.audit.evidence import Evidence, joined, only, steps_text, tensors_text
from sedarchive.audit.tracks import Track, Tracks
from sedarchive.history import Finding, Severity, TensorSpec

_REGULAR = 0.6
"""Share of equal intervals from which the others are gaps, not a schedule."""
_SHOWN = 8


def change_evidence(tracks: Tracks) -> list[Evidence]:
    """Changes of dtype and shape, and tensors that come and go: one finding for all tensors that change alike."""
    every = [*tracks.floats, *tracks.others]
    return [
        *(_dtype(tracks, members) for members in _alike(every, _dtypes)),
        *(_shape(tracks, members) for members in _alike(every, _shapes)),
        *(_absent(tracks, members) for members in _alike(every, lambda track: _absence(track, len(tracks.steps)))),
    ]


Changes = tuple[tuple[int, str], ...]
"""(checkpoint, what it is from there on) of each change."""


def _alike(every: Iterable[Track], changes_of: Callable[[Track], Changes]) -> list[list[Track]]:
    """Tensors that change, together where they change alike."""
    found: dict[Changes, list[Track]] = defaultdict(list)
    for track in every:
        if changes := changes_of(track):
            found[changes].append(track)
    return list(found.values())


def _pairs(track: Track) -> Iterator[tuple[TensorSpec, int, TensorSpec]]:
    """Spec, next checkpoint and spec there, where the next one that has the tensor may say something else."""
    specs = [(position, spec) for position, spec in enumerate(track.specs) if spec is not None]
    for (_, old), (position, new) in pairwise(specs):
        if new is not old:  # tensors of one array share what it says of them
            yield old, position, new


def _dtypes(track: Track) -> Changes:
    """Changes of dtype alone; one of shape begins something new."""
    return tuple((at, new.dtype) for old, at, new in _pairs(track) if old.dtype != new.dtype and old.shape == new.shape)


def _shapes(track: Track) -> Changes:
    return tuple((at, "") for old, at, new in _pairs(track) if old.shape != new.shape)


def _absence(track: Track, n_steps: int) -> Changes:
    return tuple((at, "") for at in sorted(set(range(n_steps)) - set(track.present)))


def _dtype(tracks: Tracks, members: Sequence[Track]) -> Evidence:
    step = tracks.steps[_dtypes(members[0])[0][0]]
    names = dict.fromkeys(spec.dtype for spec in members[0].specs if spec is not None)
    detail = (
        f"{_named(members)}stored as {' then '.join(names)}, from step {step} on; updates across the border mix their "
        "rounding, and windows that hold it have the status dtype_changed"
    )
    return Evidence(_finding("dtype_changed", members, detail, step, "warning"))


def _shape(tracks: Tracks, members: Sequence[Track]) -> Evidence:
    at = _shapes(members[0])[0][0]
    spec = members[0].specs[at]
    shape = f"its shape is {'x'.join(map(str, spec.shape))}" if spec and len(members) == 1 else "their shapes differ"
    detail = (
        f"{_named(members)}from step {tracks.steps[at]} on {shape}; never differenced across, and left out of groups. "
        "Ingest the two parts as runs of their own to have both whole"
    )
    return Evidence(_finding("shape_changed", members, detail, tracks.steps[at], "warning"))


def _absent(tracks: Tracks, members: Sequence[Track]) -> Evidence:
    present, n_steps = members[0].present, len(tracks.steps)
    check, step, what = "tensor_absent", None, f"absent at {n_steps - len(present)} of {n_steps} checkpoints"
    if present == tuple(range(present[0], n_steps)):
        check, step, what = "tensor_appeared", tracks.steps[present[0]], "there only from this step on"
    elif present == tuple(range(present[-1] + 1)):
        check, step, what = "tensor_vanished", tracks.steps[present[-1] + 1], "gone from this step on"
    elif len(missing := [at for at in range(n_steps) if at not in present]) == 1:
        step = tracks.steps[missing[0]]
    severity: Severity = "warning" if any(track.spec.is_float for track in members) else "info"
    detail = (
        f"{_named(members)}{what}; left out of groups, and NULL there in scopes of their own. If a file or shard was "
        "missing, fetch it and ingest the run under a new name"
    )
    return Evidence(_finding(check, members, detail, step, severity))


def _named(members: Sequence[Track]) -> str:
    """Names before a text, unless the finding has the one name in its own column."""
    return "" if len(members) == 1 else f"{tensors_text(track.name for track in members)}: "


def _finding(check: str, members: Sequence[Track], detail: str, step: int | None, severity: Severity) -> Finding:
    return Finding(check, severity, detail, step, only(track.name for track in members))


# Spacing


def spacing_evidence(tracks: Tracks) -> list[Evidence]:
    """Gaps, unequal spacing, and steps that arrived out of order."""
    steps = tracks.steps
    intervals = [after - before for before, after in pairwise(steps)]
    found = []
    if len(set(intervals)) > 1:
        found.append(_gaps(steps, intervals) or _irregular(intervals))
    if late := _late(tracks):
        detail = f"{steps_text(late)} came into the archive after later ones; they are analysed in the order of steps"
        found.append(Finding("steps_out_of_order", "info", detail, late[0]))
    return [Evidence(finding) for finding in found]


def _late(tracks: Tracks) -> list[int]:
    """Steps that came into the archive after a later one."""
    late, earliest = [], len(tracks.slots)
    for step, slot in zip(reversed(tracks.steps), reversed(tracks.slots), strict=True):
        if slot > earliest:
            late.append(step)
        earliest = min(earliest, slot)
    return late[::-1]


def _gaps(steps: Sequence[int], intervals: Sequence[int]) -> Finding | None:
    """Missing steps of an otherwise regular schedule; None if it is another schedule."""
    (usual, count), *_ = Counter(intervals).most_common(1)
    if count < _REGULAR * len(intervals) or any(interval % usual for interval in intervals):
        return None
    inside = (range(before + usual, after, usual) for before, after in pairwise(steps))
    missing = list(islice(chain.from_iterable(inside), _SHOWN))
    total = sum(interval // usual - 1 for interval in intervals)
    detail = (
        f"a checkpoint every {usual} steps, but none at {steps_text(missing, total)}; updates across a gap span more "
        "steps, and windows that hold one have the status irregular. Fetch the missing ones if there are any"
    )
    return Finding("gap_in_steps", "info", detail, missing[0])


def _irregular(intervals: Sequence[int]) -> Finding:
    lengths: list[tuple[int, int]] = []
    for interval in intervals:
        if lengths and lengths[-1][0] == interval:
            lengths[-1] = (interval, lengths[-1][1] + 1)
        else:
            lengths.append((interval, 1))
    shown = [f"{interval} ({count} times)" if count > 1 else str(interval) for interval, count in lengths]
    more = f", ... ({len(shown) - _SHOWN} more)" if len(shown) > _SHOWN else ""
    detail = (
        f"unequal numbers of steps between checkpoints: {', '.join(shown[:_SHOWN])}{more}; windows across a "
        "change have the status irregular. Compare windows of equal spacing only"
    )
    return Finding("irregular_spacing", "info", detail)


# Tensors that are one


def duplicate_evidence(tracks: Tracks, tied_to: Mapping[str, str]) -> list[Evidence]:
    """Trained tensors that are equal at every step, though nothing ties them: each is counted.

    ``tied_to`` names the tensors that are tied by storage or config, and the one that each is counted with.
    """
    same: dict[tuple[str | None, ...], list[str]] = defaultdict(list)
    for track in tracks.trained:
        if track.name not in tied_to and len(track.spec.shape) > 1:
            same[track.digests].append(track.name)
    return [_duplicates(names) for names in same.values() if len(names) > 1]


def _duplicates(names: Sequence[str]) -> Evidence:
    detail = (
        f"{joined(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''} hold the same bytes at every "
        "step, and neither their storage nor a config says that they are tied: each is counted, so that scopes with "
        f"both hold the same updates {len(names)} times. If they are tied, put a config.json with "
        "tie_word_embeddings beside the checkpoints and ingest again, or leave one out of your scopes"
    )
    return Evidence(Finding("duplicate_parameters", "warning", detail, tensor=names[0]))
