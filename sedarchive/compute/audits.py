"""The audit of stored runs: commit records and stored Gram matrices to the checks, and the checks to findings."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from sedarchive.archive import Archive, RunArchive
from sedarchive.archive.damage import KnownDamage, known_damage
from sedarchive.audit import Evidence, digest_evidence, duplicate_evidence, merged, runs_alike, tracks_of
from sedarchive.audit.motion import motion_of
from sedarchive.audit.numbers import (
    Broken,
    Part,
    Rounding,
    motion_evidence,
    nonfinite_evidence,
    rounding_evidence,
)
from sedarchive.comparison import digests_of
from sedarchive.compute.catalog import UNREADABLE, UNREADABLE_SPECTRA, standing_evidence
from sedarchive.compute.requests import Layout, recorded_layout
from sedarchive.digests import canonical_digest
from sedarchive.errors import ArchiveError, DatabaseError
from sedarchive.gram import Gram
from sedarchive.history import Finding
from sedarchive.leaves import Leaf, Scope
from sedarchive.logs import coverage_findings
from sedarchive.sizes import MIB
from sedarchive.sweeps.anatomy import Anatomy, anatomy
from sedarchive.sweeps.stored_grams import GramOptions, StoredGrams, gram_key
from sedarchive.tables import Database

ALGORITHM = "audit-3"


class Audit:
    """Audit of one run, each part worked out once, when it is asked for."""

    def __init__(self, parts: Anatomy, stored: StoredGrams) -> None:
        self._parts, self._stored = parts, stored
        self._recalled: list[Evidence] | None = None

    @cached_property
    def digests(self) -> list[Evidence]:
        """What the digests show."""
        run = self._parts.run
        tracks = tracks_of(run.commits, run.arrays)
        return [*digest_evidence(tracks), *duplicate_evidence(tracks, self._parts.tied_to)]

    @cached_property
    def leaves(self) -> list[Leaf]:
        """Leaves whose Gram matrices are stored; products are left out, since what they are made of is audited."""
        leaves = [leaf for leaf in self._parts.leaves if not leaf.product]
        return [leaf for leaf in leaves if self._stored.is_done(leaf)] if self._stored.exists else []

    @property
    def key(self) -> str:
        """Hash of everything that :attr:`numbers` depend on."""
        return canonical_digest([ALGORITHM, self._stored.key, [leaf.name for leaf in self.leaves]])[:16]

    def recall(self, database: Database) -> bool:
        """Take :attr:`numbers` from the database if they were made there from the same stored numbers; whether so."""
        self._recalled = standing_evidence(database, self._parts.run.name, self.key)
        return self._recalled is not None

    @property
    def numbers(self) -> list[Evidence]:
        """What the numbers per step show; every stored Gram matrix is read once, unless the database knew.

        Raises
        ------
        DamagedArchiveError
            If one cannot be read.
        """
        return self._found if self._recalled is None else self._recalled

    @cached_property
    def _found(self) -> list[Evidence]:
        steps = self._parts.run.steps
        whole = [leaf for leaf in self.leaves if leaf.complete]
        motions = [(leaf, motion_of(self._gram(leaf))) for leaf in whole]
        parts = [Part(self._name(leaf), leaf.n_elements, motion) for leaf, motion in motions]
        return [
            *nonfinite_evidence(steps, [self._broken(leaf) for leaf in self.leaves if self._is_unknown(leaf)]),
            *motion_evidence(steps, parts, self.digests),
            *(rounding_evidence(steps, self._rounding(whole, parts)) if parts else []),
        ]

    @property
    def evidence(self) -> list[Evidence]:
        """All of it."""
        return [*self.digests, *self.numbers]

    def _gram(self, leaf: Leaf) -> Gram:
        return self._stored.gram(Scope(leaf.name, (leaf,)))

    def _name(self, leaf: Leaf) -> str:
        """Name in the checkpoints of the tensor of a leaf."""
        return self._parts.tensors[leaf.tensor].tensor

    def _is_unknown(self, leaf: Leaf) -> bool:
        """Whether the commit records do not tell already that the leaf's tensor has values that are not finite."""
        told = (one.tensors for one in self.digests if one.finding.check_name == "nonfinite")
        return not any(self._name(leaf) in (tensors or ()) for tensors in told)

    def _broken(self, leaf: Leaf) -> Broken:
        counts = self._stored.counts(Scope(leaf.name, (leaf,))).nonfinite
        present = np.isin(np.arange(len(counts)), self._parts.tensors[leaf.tensor].positions)
        return Broken(leaf.name, self._name(leaf), leaf.n_elements, np.where(present, counts, 0.0))

    def _rounding(self, leaves: Sequence[Leaf], parts: Sequence[Part]) -> Rounding:
        counts = self._stored.counts(Scope("all", tuple(leaves)))
        energy = sum((part.motion.energy for part in parts[1:]), parts[0].motion.energy)
        with np.errstate(divide="ignore", invalid="ignore"):
            noise = np.where(energy > 0, (counts.rounding[1:] + counts.rounding[:-1]) / energy, np.nan)
        dtypes = sorted({name for leaf in leaves for name in self._parts.tensors[leaf.tensor].dtypes})
        return Rounding(noise, counts.zeros[1:] / sum(leaf.n_elements for leaf in leaves), tuple(dtypes))


def findings_of(evidence: Iterable[Evidence]) -> list[Finding]:
    """Findings of some evidence."""
    return [one.finding for one in evidence]


def across_runs(runs: Iterable[RunArchive]) -> dict[str, list[Finding]]:
    """Findings on runs that hold each other's checkpoints, by run; damaged runs are left out."""
    return runs_alike(digests_of(runs))


@dataclass(frozen=True)
class RunAudit:
    """Everything that is known to be remarkable or wrong in one run."""

    run: str
    findings: tuple[Finding, ...]
    unchecked: str | None = None
    """Why the numbers per step were not checked; None if they were."""


def audit_archive(archive: Path, database: Path, run: str | None = None) -> list[RunAudit]:
    """Audit the runs of an archive: no weights are read.

    Parameters
    ----------
    archive
        The archive.
    database
        Its database, which says how Gram matrices were made; it need not exist.
    run
        Name of the only run to audit; None for all.

    Raises
    ------
    UnknownNameError
        If the archive has no such run.
    ArchiveError
        If the archive cannot be read.
    """
    opened = Archive(archive)
    known = _known_to_tables(database, opened.archive_id)
    runs = opened.runs()
    wanted = [opened.run(run).name] if run is not None else [one.name for one in runs]
    across, damage = across_runs(runs), known_damage(archive)
    folders = [one.folder for one in runs]
    beside = _damaged(damage, archive, folders) if run is None else []
    return [
        *([RunAudit(str(archive), tuple(beside))] if beside else []),
        *(
            _audit_run(one, known, [*across.get(one.name, []), *_damaged(damage, one.folder, folders)])
            for one in runs
            if one.name in wanted
        ),
    ]


@dataclass(frozen=True)
class _Known:
    """What the tables know and the archive does not."""

    layout: Layout
    """Heads and band that ``compute`` was given."""
    unreadable: Mapping[str, Sequence[Finding]]
    """Tensors that ``compute`` could not read, by run."""


def _known_to_tables(database: Path, archive_id: str) -> _Known:
    if database.exists():
        with suppress(DatabaseError), Database.read(database, archive_id) as tables:
            return _Known(recorded_layout(tables), _unreadable(tables))
    return _Known(Layout(), {})


def _unreadable(tables: Database) -> dict[str, list[Finding]]:
    sql = "SELECT run, check_name, severity, detail, step, tensor FROM audit WHERE check_name IN (?, ?) ORDER BY ALL"
    found: dict[str, list[Finding]] = defaultdict(list)
    for run, *finding in tables.rows(sql, [UNREADABLE, UNREADABLE_SPECTRA]).rows:
        found[run].append(Finding(*finding))
    return found


def _damaged(known: KnownDamage, folder: Path, runs: Sequence[Path]) -> list[Finding]:
    """Findings on damaged files below a folder, but for those of a run further down."""
    inner = [run for run in runs if folder in run.parents]
    return [
        Finding(
            "damage",
            "error",
            f"{damage.path}: {damage.cause}, as `sedarchive verify` found on {known.day}; take it from a copy, or "
            "delete the run's folder and ingest it again, then run `sedarchive verify` once more",
        )
        for damage in known.damages
        if damage.path.is_relative_to(folder) and not any(damage.path.is_relative_to(run) for run in inner)
    ]


def _audit_run(run: RunArchive, known: _Known, others: Sequence[Finding]) -> RunAudit:
    """Audit one run; a damaged one is a finding."""
    found, layout = [*merged(run.findings), *others, *known.unreadable.get(run.name, [])], known.layout
    try:
        if not run.commits:
            return RunAudit(run.name, tuple(found), "the run has no checkpoint")
        found += coverage_findings(run.steps, run.metrics())
        parts = anatomy(run, layout.heads, layout.kv_heads, layout.families)
        options = GramOptions(MIB, layout.band)
        audit = Audit(parts, StoredGrams(parts, run.store, gram_key(parts, options)))
        found += findings_of(audit.digests)
        if not audit.leaves:
            return RunAudit(run.name, tuple(found), "`sedarchive compute` has not been run since it grew")
        found += findings_of(audit.numbers)
    except ArchiveError as error:
        found.append(Finding("unreadable", "error", str(error)))
        return RunAudit(run.name, tuple(found), "the archive is damaged")
    return RunAudit(run.name, tuple(found))
