"""Which findings of earlier ingests still stand after a new one: what it looked at again, it tells anew."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from sedarchive.history import Finding

_LEFT_OUT = frozenset({"unreadable_checkpoint", "beyond_max_mem"})
_OF_SOURCES = _LEFT_OUT | {"changed_source"}
"""Findings on files that did not come into the archive: what it holds is sound."""
_OF_SEARCH = frozenset({"not_supported", "no_step", "no_file", "last_copy", "unsearched"})
"""Findings on what lies beside the checkpoints."""


@dataclass(frozen=True)
class Look:
    """What one ingest of a run looked at."""

    found: Collection[int]
    """Steps of the checkpoints on the disk."""
    opened: Collection[int]
    """Of these the ones that were read, or that were to be read."""
    named: Collection[int] = ()
    """Steps whose source the user has called the right one."""
    same_folder: bool = True
    """Whether it was the folder that earlier findings speak of."""
    whole: bool = True
    """Whether the folder was searched, and every checkpoint of it was to be taken."""


def standing(earlier: Iterable[Finding], look: Look, archived: Collection[int]) -> list[Finding]:
    """Earlier findings that a new ingest has not settled.

    Parameters
    ----------
    earlier
        What stood before.
    look
        What the new ingest looked at.
    archived
        Steps that the archive holds now.
    """
    return [finding for finding in earlier if _stands(finding, look, archived)]


def without_archived(findings: Iterable[Finding], paths: Collection[str]) -> list[Finding]:
    """Findings but for those on files without a step that were archived on their own, under the step they were given.

    Parameters
    ----------
    findings
        Those of a run.
    paths
        Where its archived checkpoints come from, relative to its folder.
    """
    return [one for one in findings if not (_is_passed_over(one) and one.detail.partition(":")[0] in paths)]


def _is_passed_over(finding: Finding) -> bool:
    return finding.check_name == "no_step" and finding.step is None


def _stands(finding: Finding, look: Look, archived: Collection[int]) -> bool:
    if finding.check_name in _OF_SOURCES:
        return _source_stands(finding, look, archived)
    if finding.step is not None:  # what the archive holds is concerned: it outlives its source
        return finding.step not in look.opened and finding.step not in look.named
    if finding.check_name == "settings_disagree" and not look.opened:
        return True  # the settings of checkpoints are seen only where these are opened
    return not look.same_folder or (finding.check_name in _OF_SEARCH and not look.whole)


def _source_stands(finding: Finding, look: Look, archived: Collection[int]) -> bool:
    """Whether a file is still unread or another one; a file that is gone is neither."""
    if finding.check_name in _LEFT_OUT and finding.step in archived:
        return False
    return finding.step not in look.found and not (look.same_folder and look.whole)
