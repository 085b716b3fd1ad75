"""Compute: an archive's runs through both sweeps into the tables.

Every request recorded in the database is refreshed, whatever is new is added,
and nothing that stands is computed again. One bad run, or one bad tensor, never
stops the others.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from sedarchive.archive import Archive, RunArchive
from sedarchive.archive.store import CheckedStore
from sedarchive.cluster import sweep_executor
from sedarchive.compute.audits import Audit, across_runs, findings_of
from sedarchive.compute.catalog import CATALOG, UNREADABLE, Audited, audit_rows, write_catalog
from sedarchive.compute.couplings import refresh_couplings
from sedarchive.compute.lead_rows import refresh_lead_laws
from sedarchive.compute.lifecycle import refresh_lifecycle
from sedarchive.compute.logged import logged_of
from sedarchive.compute.matrix_stats import refresh_matrix_stats
from sedarchive.compute.phases import PHASE_TABLES, refresh_phases
from sedarchive.compute.projection_rows import ProjectionRequest, refresh_projections
from sedarchive.compute.requests import Asked, Layout, OpenDatabase, Requests, record_requests, recorded_layout
from sedarchive.compute.scaling_rows import refresh_scaling
from sedarchive.compute.spectra_rows import SpectraOutcome, missing_spectra, refresh_spectra
from sedarchive.compute.windows import TABLES, WindowSource, refresh_windows
from sedarchive.errors import ArchiveError, DamagedArchiveError, MemoryBudgetError, SedarchiveError, UnknownNameError
from sedarchive.executor import Executor, Progress, no_progress, one_blas_thread
from sedarchive.history import Finding
from sedarchive.leaves import resolve_scopes, scope_names
from sedarchive.plan.budget import worst
from sedarchive.plan.tasks import SpectraPlan, SweepPlan
from sedarchive.sizes import MIB, format_size
from sedarchive.sweeps.anatomy import Anatomy, anatomy
from sedarchive.sweeps.gram_sweep import GramOutcome, plan_gram_sweep, sweep_gram
from sedarchive.sweeps.spectra_sweep import SpectraOptions, plan_spectra_sweep
from sedarchive.sweeps.stored_grams import GramOptions, StoredGrams, gram_key
from sedarchive.tables import Database
from sedarchive.words import counted, did_you_mean


@dataclass(frozen=True)
class ComputeOptions:
    """What to compute, and with what."""

    windows: tuple[int, ...] = ()
    scopes: tuple[str, ...] = ()
    spectra: bool = True
    every: int = 1
    """Spectra at every so many checkpoints."""
    exact: bool = False
    band: int | None = None
    max_mem: int = 2048 * MIB
    workers: int = 1
    scheduler: str = "threads"
    cluster: str | None = None
    """Where the sweeps run: ``local``, a scheduler's address, or in this process."""
    heads: int | None = None
    kv_heads: int | None = None
    arch: str | None = None
    """Text of a family file of the user's own."""
    runs_info: dict[str, dict[str, str]] = field(default_factory=dict)
    projections: tuple[int, ...] = ()
    """Dimensions of random projections whose errors are wanted."""
    projection_seeds: int | None = None

    @property
    def asked(self) -> Asked:
        """Options that are recorded."""
        return Asked(self.windows, self.scopes, self.runs_info, self.layout, self.projections, self.projection_seeds)

    @property
    def layout(self) -> Layout:
        """Options that change what leaves and Gram matrices are; one left out is the one last given."""
        return Layout(self.heads, self.kv_heads, self.band, self.arch)

    @property
    def gram(self) -> GramOptions:
        return GramOptions(self.max_mem, self.band)

    @property
    def executor(self) -> Executor:
        return Executor(self.workers, "serial" if self.scheduler == "serial" else "threads")


@dataclass
class RunComputed:
    """What was done for one run."""

    run: str
    n_checkpoints: int = 0
    gram: GramOutcome = field(default_factory=GramOutcome)
    spectra: SpectraOutcome = field(default_factory=SpectraOutcome)
    window_sets: int = 0
    """(scope, window size) pairs derived; single updates count as a size."""
    too_long: tuple[int, ...] = ()
    """Window sizes asked for that the run has too few checkpoints for."""
    no_window: str = ""
    """Why no window at all can be derived, where none can."""
    findings: list[Finding] = field(default_factory=list)
    error: str | None = None

    def describe(self) -> str:
        """One line for people."""
        if self.error:
            return f"{self.run}: {self.error}"
        gram = f"Gram matrices of {counted(self.gram.computed, 'tensor')} computed, {self.gram.reused} reused"
        spectra = f"spectra: {self.spectra.computed} computed, {self.spectra.reused} reused"
        windows = self.no_window or f"{counted(self.window_sets, 'set')} of windows derived"
        return f"{self.run}: {gram}; {windows}; {spectra}"


def compute(
    archive: Path, database: Path, options: ComputeOptions, progress: Progress = no_progress
) -> list[RunComputed]:
    """Bring the tables of an archive up to date.

    Raises
    ------
    ArchiveError, DatabaseError
        If the archive or the database cannot be used.
    ClusterError, MissingExtraError
        If ``options.cluster`` cannot be used.
    MemoryBudgetError
        If a plan does not fit ``options.max_mem``; nothing was read then.
    UnknownNameError
        If a scope is none, or matches nothing in any run.
    """
    opened = Archive(archive)

    @contextmanager
    def open_database() -> Iterator[Database]:
        with Database.create_or_open(database, opened.archive_id) as tables:
            yield tables

    with one_blas_thread(), opened.writing("compute") as store:
        with open_database() as tables:
            options = _with_recorded(options, tables)
            runs = opened.runs()
            anatomies, refused = _anatomies(runs, options)
            _check_scopes(options.scopes, anatomies)
            requests = record_requests(tables, options.asked)
            _write_empty_runs(tables, runs)
            _forget_other_runs(tables, opened.run_names)
            # a plan that does not fit is refused before anything is read
            plans = _plan_runs(anatomies, store, tables, options)
        cluster = options.cluster if any(plan.reads_weights for plan in plans) else None
        with sweep_executor(cluster, options.executor) as sweeps:
            job = _Job(store, open_database, options, requests, progress, sweeps, across_runs(runs))
            reports = [*refused, *(job.run_guarded(parts) for parts in anatomies)]
        refresh_lead_laws(open_database)
        refresh_scaling(open_database)
        return sorted(reports, key=lambda report: report.run)


@dataclass(frozen=True)
class RunPlan:
    """What computing one run would read and hold."""

    run: str
    gram: SweepPlan
    spectra: SpectraPlan | None

    @property
    def reads_weights(self) -> bool:
        """Whether there is anything to sweep."""
        return bool(self.gram.tasks or (self.spectra and self.spectra.tasks))

    def summary(self) -> dict[str, str | int]:
        """Numbers for people, by name."""
        memory = max(self.gram.projected_mem, self.spectra.projected_mem if self.spectra else 0)
        return {
            "run": self.run,
            "gram_reads": format_size(self.gram.read_bytes),
            "gram_tasks": len(self.gram.tasks),
            "decodes_per_chunk": self.gram.decodes_per_chunk,
            "spectra_reads": format_size(self.spectra.read_bytes if self.spectra else 0),
            "spectra_tasks": len(self.spectra.tasks) if self.spectra else 0,
            "projected_memory": format_size(memory),
        }


def plan_compute(archive: Path, database: Path, options: ComputeOptions) -> list[RunPlan]:
    """Plans of what is missing: nothing is read but metadata and the database."""
    opened = Archive(archive)

    if not database.exists():
        anatomies, _ = _anatomies(opened.runs(), options)
        return _plan_runs(anatomies, opened.store, None, options)
    with Database.read(database, opened.archive_id) as tables:
        options = _with_recorded(options, tables)
        anatomies, _ = _anatomies(opened.runs(), options)
        return _plan_runs(anatomies, opened.store, tables, options)


def _with_recorded(options: ComputeOptions, database: Database) -> ComputeOptions:
    """Options with those that an earlier request gave and this one leaves out."""
    return replace(options, **asdict(options.layout.or_else(recorded_layout(database))))


def _write_empty_runs(database: Database, runs: Sequence[RunArchive]) -> None:
    """Say in ``audit`` why a run has no checkpoint that could be read."""
    for run in runs:
        with suppress(ArchiveError):  # damaged records are reported with the run itself
            if run.commits:
                continue
            database.replace("audit", {"run": run.name}, audit_rows(run.findings))


def _plan_runs(
    anatomies: Sequence[Anatomy], store: CheckedStore, database: Database | None, options: ComputeOptions
) -> list[RunPlan]:
    """Plans of all runs; where some do not fit, the refusal names what would do for every one."""
    makers = [partial(_plan_run, parts, store, database, options) for parts in anatomies]
    plans = []
    for at, make in enumerate(makers, start=1):
        try:
            plans.append(make())
        except MemoryBudgetError as error:
            raise worst(error, makers[at:]) from None
    return plans


def _plan_run(parts: Anatomy, store: CheckedStore, database: Database | None, options: ComputeOptions) -> RunPlan:
    spectra = partial(_plan_spectra, parts, database, options)
    stored = StoredGrams(parts, store, gram_key(parts, options.gram))
    try:
        gram = plan_gram_sweep(parts, stored.missing_tensors(), options.gram, options.executor.workers)
    except MemoryBudgetError as error:
        raise worst(error, [spectra]) from None
    return RunPlan(parts.run.name, gram, spectra())


def _plan_spectra(parts: Anatomy, database: Database | None, options: ComputeOptions) -> SpectraPlan | None:
    if not options.spectra:
        return None
    missing = missing_spectra(parts, database, options.every, options.exact)
    return plan_spectra_sweep(parts, missing, options.max_mem, options.executor.workers)


def _anatomies(runs: Sequence[RunArchive], options: ComputeOptions) -> tuple[list[Anatomy], list[RunComputed]]:
    """Anatomies of the runs that have checkpoints, and reports on those whose records are damaged."""
    families = options.layout.families
    found: list[Anatomy] = []
    refused: list[RunComputed] = []
    for run in runs:
        try:
            found += [anatomy(run, options.heads, options.kv_heads, families)] if run.commits else []
        except ArchiveError as error:
            refused.append(RunComputed(run.name, error=str(error)))
    return found, refused


def _check_scopes(scopes: Sequence[str], anatomies: Sequence[Anatomy]) -> None:
    for scope in scopes:
        if not any(resolve_scopes(scope, one.leaves) for one in anatomies):
            near = did_you_mean(scope, dict.fromkeys(name for one in anatomies for name in scope_names(one.leaves)))
            raise UnknownNameError(
                f"scope {scope!r} matches no tensor of any run{near}; `sedarchive status` shows the runs, "
                "`sedarchive inspect PATH` the tensors of a checkpoint"
            )


_OF_RUNS = (
    *CATALOG,
    *TABLES,
    *PHASE_TABLES,
    "couplings",
    "projections",
    "matrix_spectra",
    "matrix_stats",
    "layer_waves",
    "depth_gradients",
    "computations",
)


def _forget_other_runs(database: Database, names: Sequence[str]) -> None:
    """Remove the rows of runs that the archive no longer has."""
    for (run,) in database.rows("SELECT DISTINCT run FROM runs").rows:
        if run not in names:
            for table in _OF_RUNS:
                database.replace(table, {"run": run}, {})


@dataclass(frozen=True)
class _Job:
    """What all runs of one ``compute`` share."""

    store: CheckedStore
    open_database: OpenDatabase
    options: ComputeOptions
    requests: Requests
    progress: Progress
    sweeps: Executor
    """Runs the sweeps; what else there is runs in this process."""
    across: Mapping[str, Sequence[Finding]]
    """What the runs have in common, by run."""

    def run_guarded(self, parts: Anatomy) -> RunComputed:
        """One run that cannot be computed never stops the others."""
        report = RunComputed(parts.run.name, len(parts.run.commits))
        try:
            self._run(parts, report)
        except MemoryBudgetError:
            raise
        except SedarchiveError as error:
            report.error = str(error)
        return report

    def _run(self, parts: Anatomy, report: RunComputed) -> None:
        stored = StoredGrams(parts, self.store, gram_key(parts, self.options.gram))
        report.gram = self._sweep_gram(parts)
        report.too_long = self._too_long(parts, report)
        report.no_window = self._no_window(parts)
        sizes = {size: size in self.requests.windows_with_null for size in self._inside_band(parts, report)}
        findings = tuple(report.findings)
        try:
            audit = self._refresh(parts, stored, sizes, report)
        except DamagedArchiveError:
            if not stored.discard_damaged():
                raise
            report.findings = list(findings)
            try:
                report.gram = self._sweep_gram(parts)  # derived: what was damaged is made again
            except MemoryBudgetError as error:  # of this run alone: the others were planned before
                raise ArchiveError(str(error)) from error
            audit = self._refresh(parts, StoredGrams(parts, self.store, stored.key), sizes, report)
        if self.requests.projections:
            self._refresh_projections(parts, StoredGrams(parts, self.store, stored.key), report)
        if self.options.spectra:
            self._refresh_spectra(parts, audit, report)

    def _sweep_gram(self, parts: Anatomy) -> GramOutcome:
        return sweep_gram(parts, self.store, self.options.gram, self.sweeps, self.progress)

    def _refresh(self, parts: Anatomy, stored: StoredGrams, sizes: Mapping[int, bool], report: RunComputed) -> Audit:
        """Bring catalog and windows up to date; return the audit that both hold."""
        audit = Audit(parts, stored)
        unreadable = report.gram.failed
        scopes = {
            scope.name: scope.without(unreadable)
            for name in self.requests.scopes
            for scope in resolve_scopes(name, parts.leaves)
        }
        report.findings += [Finding(UNREADABLE, "error", why, tensor=name) for name, why in unreadable.items()]
        with self.open_database() as database:
            audit.recall(database)
        report.findings += findings_of(audit.numbers)
        self._write_catalog(parts, audit, report)
        logged = logged_of(parts, self.requests.runs_info.get(parts.run.name, {}))
        report.window_sets = refresh_windows(
            WindowSource(parts, stored, audit, logged),
            [scope for scope in scopes.values() if scope.leaves],
            sizes,
            self.open_database,
            self.options.executor,
            self.progress,
        )
        asked = [size for size, with_null in sizes.items() if with_null]
        refresh_phases(parts.run.name, asked, self.open_database, self.options.executor)
        refresh_couplings(parts.run.name, parts.run.steps, asked, self.open_database, self.options.executor)
        return audit

    def _refresh_projections(self, parts: Anatomy, stored: StoredGrams, report: RunComputed) -> None:
        asked = self.requests
        scopes = [
            scope.without(report.gram.failed)
            for name in asked.projected_scopes
            for scope in resolve_scopes(name, parts.leaves)
        ]
        sizes = tuple(size for size in self._inside_band(parts, report) if size in asked.windows_with_null)
        request = ProjectionRequest(asked.projections, asked.projection_seeds, sizes, self.options.max_mem)
        refresh_projections(
            parts,
            stored,
            [scope for scope in scopes if scope.leaves],
            request,
            self.open_database,
            self.sweeps,
            self.progress,
        )

    def _refresh_spectra(self, parts: Anatomy, audit: Audit, report: RunComputed) -> None:
        options = SpectraOptions(self.options.max_mem, self.options.exact)
        report.spectra = refresh_spectra(
            parts, self.open_database, self.options.every, options, self.sweeps, self.progress
        )
        refresh_matrix_stats(parts.run.name, self.open_database, self.options.executor)
        refresh_lifecycle(parts.run.name, self.open_database)
        unreadable = [name for name in report.spectra.failed if name not in report.gram.failed]
        if unreadable:
            report.findings += [
                Finding("unreadable_spectra", "error", report.spectra.failed[name], tensor=name) for name in unreadable
            ]
            self._write_catalog(parts, audit, report)

    def _write_catalog(self, parts: Anatomy, audit: Audit, report: RunComputed) -> None:
        run = parts.run.name
        findings = [*self.across.get(run, ()), *findings_of(audit.digests), *report.findings]
        audited = Audited(audit.key, audit.numbers)
        with self.open_database() as database:
            write_catalog(database, parts, self.requests.runs_info.get(run, {}), findings, audited)

    def _inside_band(self, parts: Anatomy, report: RunComputed) -> list[int]:
        """Window sizes that the stored Gram matrices reach; of the others, those asked for now become a finding."""
        n_checkpoints = len(parts.run.commits)
        band = self.options.gram.band_for(n_checkpoints) or n_checkpoints
        beyond = [size for size in self.options.windows if band < size < n_checkpoints]
        if beyond:
            detail = (
                f"windows of {', '.join(map(str, beyond))} updates compare updates {max(beyond)} apart, but the stored "
                f"Gram matrix is a band of {band}; compute it again with --band {max(beyond)} or wider"
            )
            report.findings.append(Finding("band_too_narrow", "warning", detail))
        return [size for size in self.requests.windows if size <= band]

    def _too_long(self, parts: Anatomy, report: RunComputed) -> tuple[int, ...]:
        n_checkpoints = len(parts.run.commits)
        too_long = tuple(size for size in self.options.windows if size >= n_checkpoints)
        if too_long:
            sizes = ", ".join(map(str, too_long))
            held = counted(n_checkpoints, "checkpoint")
            longest = f", so the longest here is of {n_checkpoints - 1}" if n_checkpoints > 2 else ""
            detail = f"no window of {sizes} updates in {held}: W updates need W + 1 checkpoints{longest}"
            report.findings.append(Finding("too_few_checkpoints", "warning", detail))
        return too_long

    def _no_window(self, parts: Anatomy) -> str:
        """Say why a run has no window of any size, if it has none."""
        n_checkpoints, shortest = len(parts.run.commits), min(self.requests.windows)
        if shortest < n_checkpoints:
            return ""
        longest = f" (--window {n_checkpoints - 1} is the longest possible)" if n_checkpoints > 2 else ""
        held = counted(n_checkpoints, "checkpoint")
        return f"no windows: the shortest, of {shortest} updates, needs {shortest + 1} checkpoints, not {held}{longest}"
