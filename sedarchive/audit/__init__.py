"""The audit: what a history shows to be duplicated, mislabelled, broken or rounded away, before it ruins a result.

Two sources, no weights: the commit records with their digests and counts (``repeats``, ``changes``, ``runs``), which
are there right after ingest, and numbers per step from the stored Gram matrices (``motion``). What ingest noticed
stands as long as it holds (``standing``) and is told once (``merging``). Nothing here reads a file.
"""

from sedarchive.audit.changes import change_evidence, duplicate_evidence, spacing_evidence
from sedarchive.audit.evidence import Evidence, marked
from sedarchive.audit.merging import merged
from sedarchive.audit.numbers import counted_evidence
from sedarchive.audit.repeats import repeat_evidence
from sedarchive.audit.runs import RunDigests, runs_alike
from sedarchive.audit.standing import Look, standing, without_archived
from sedarchive.audit.tracks import Tracks, tracks_of

__all__ = [
    "Evidence",
    "Look",
    "RunDigests",
    "Tracks",
    "change_evidence",
    "digest_evidence",
    "duplicate_evidence",
    "marked",
    "merged",
    "repeat_evidence",
    "runs_alike",
    "spacing_evidence",
    "standing",
    "tracks_of",
    "without_archived",
]


def digest_evidence(tracks: Tracks) -> list[Evidence]:
    """Everything that the commit records of one run show, without its tied parameters (which need the roles)."""
    return [*counted_evidence(tracks), *repeat_evidence(tracks), *change_evidence(tracks), *spacing_evidence(tracks)]
