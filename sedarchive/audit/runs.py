"""Runs of one archive that hold the same bytes: copies of each other, forks, or one run's steps in another."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from sedarchive.audit.evidence import joined, steps_text
from sedarchive.history import Finding

_SHOWN_RUNS = 5


@dataclass(frozen=True)
class RunDigests:
    """One run's checkpoints, in step order."""

    run: str
    steps: tuple[int, ...]
    digests: tuple[str, ...]


def runs_alike(runs: Sequence[RunDigests]) -> dict[str, list[Finding]]:
    """Findings on runs that hold checkpoints of other runs, by run."""
    holders: dict[str, set[int]] = defaultdict(set)
    for at, run in enumerate(runs):
        for digest in run.digests:
            holders[digest].add(at)
    pairs = {(one, other) for at in holders.values() if len(at) > 1 for one in at for other in at if one != other}
    kinds: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for one, other in sorted(pairs):
        kinds[one][_kind(runs[one], runs[other])].append(other)
    return {
        runs[one].run: [_FINDINGS[kind](runs, one, others) for kind, others in sorted(found.items()) if kind]
        for one, found in kinds.items()
    }


def _kind(one: RunDigests, other: RunDigests) -> str:
    """How two runs that share checkpoints are related; nothing where they begin alike and no more."""
    mine, theirs = set(one.digests), set(other.digests)
    shared = mine & theirs
    if shared in (mine, theirs) and len(shared) > 1:
        return "copy"
    if len(shared) == 1 and (one.digests[0] in shared or other.digests[0] in shared):
        return ""  # the same initialisation, or a run that goes on from another's checkpoint
    return "fork" if _is_fork(one, other) else "mixed"


def _is_fork(one: RunDigests, other: RunDigests) -> bool:
    """Whether the runs are equal up to a step and different from there on."""
    first, second = dict(zip(one.steps, one.digests, strict=True)), dict(zip(other.steps, other.digests, strict=True))
    common = sorted(first.keys() & second.keys())
    equal = [step for step in common if first[step] == second[step]]
    shared = set(one.digests) & set(other.digests)
    return equal == common[: len(equal)] and shared == {first[step] for step in equal}


def _copy(runs: Sequence[RunDigests], one: int, others: Sequence[int]) -> Finding:
    detail = (
        f"the checkpoints of this run and of {_names(runs, others)} are the same byte for byte: not two runs but one, "
        "uploaded or ingested under two names; counted as two, they make every statistic over runs too certain. Use "
        "one of them, and fetch the other again if it should be another run"
    )
    return Finding("identical_runs", "warning", detail)


def _fork(runs: Sequence[RunDigests], one: int, others: Sequence[int]) -> Finding:
    last = max(_shared_steps(runs, one, others))
    detail = (
        f"the same as {_names(runs, others)} up to step {last}, then different: a fork. Up to there they are one run, "
        "not independent ones"
    )
    return Finding("shared_history", "info", detail, last)


def _mixed(runs: Sequence[RunDigests], one: int, others: Sequence[int]) -> Finding:
    steps = _shared_steps(runs, one, others)
    detail = (
        f"{steps_text(steps)} of this run hold the weights of checkpoints of {_names(runs, others)}, though the runs "
        "differ before: files of one run were saved or uploaded as the other's. Compare the hashes with the source, "
        "and leave out the wrong ones"
    )
    return Finding("shared_checkpoints", "warning", detail, steps[0])


_FINDINGS = {"copy": _copy, "fork": _fork, "mixed": _mixed}


def _shared_steps(runs: Sequence[RunDigests], one: int, others: Sequence[int]) -> list[int]:
    """Steps of a run whose digests some of the others hold."""
    theirs = {digest for other in others for digest in runs[other].digests}
    return [step for step, digest in zip(runs[one].steps, runs[one].digests, strict=True) if digest in theirs]


def _names(runs: Sequence[RunDigests], others: Sequence[int]) -> str:
    shown = [f"run {runs[other].run}" for other in others[:_SHOWN_RUNS]]
    more = len(others) - len(shown)
    return joined([*shown, f"{more} more"] if more else shown)
