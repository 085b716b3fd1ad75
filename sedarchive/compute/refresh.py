"""Compute: an archive's runs through both sweeps into the tables.

Every request recorded in the database is refreshed, whatever is new is added,
and nothing that stands is computed again. One bad run, or one bad tensor, never
stops the others.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from sedarchive.archive import Archive, RunArchive
from sedarchive.archive.lock import writer_lock
from sedarchive.archive.store import CheckedStore
from sedarchive.audit import merged
from sedarchive.cluster import sweep_executor
from sedarchive.compute.audits import Audit, across_runs, findings_of
from sedarchive.compute.catalog import CATALOG, UNREADABLE, UNREADABLE_SPECTRA, Audited, audit_rows, write_catalog
from sedarchive.compute.couplings.edge_couplings import record_presets
from sedarchive.compute.inference.inference import InferenceSource, drop_stale_inference, inference_stages
from sedarchive.compute.inference.lead_rows import refresh_lead_laws
from sedarchive.compute.inference.phases import PHASE_TABLES
from sedarchive.compute.lifecycle.importance_rows import refresh_importance
from sedarchive.compute.lifecycle.lifecycle import refresh_lifecycle
from sedarchive.compute.lifecycle.scaling_rows import refresh_scaling
from sedarchive.compute.logged import logged_of
from sedarchive.compute.matrix.aspect_rows import refresh_aspects
from sedarchive.compute.matrix.matrix_stats import refresh_matrix_stats
from sedarchive.compute.matrix.spectra_rows import refresh_spectra
from sedarchive.compute.options import ComputeOptions, RunComputed
from sedarchive.compute.plans import RunPlan, anatomies_of, plan_compute, plan_runs, with_recorded
from sedarchive.compute.requests import Requests, record_requests
from sedarchive.compute.rolling.drift import TABLES as DRIFT_TABLES
from sedarchive.compute.rolling.drift import drift_stages
from sedarchive.compute.rolling.projection_rows import ProjectionRequest, refresh_projections
from sedarchive.compute.rolling.windows import TABLES, WindowRefresh, WindowSource
from sedarchive.compute.stages import run_stages
from sedarchive.compute.turns import Turns
from sedarchive.errors import ArchiveError, DamagedArchiveError, MemoryBudgetError, SedarchiveError, UnknownNameError
from sedarchive.executor import Executor, Progress, no_progress, one_blas_thread
from sedarchive.history import Finding
from sedarchive.leaves import Scope, resolve_scopes, scope_names
from sedarchive.processes import RowMaker, row_maker
from sedarchive.sweeps.anatomy import Anatomy, check_some_have
from sedarchive.sweeps.gram_sweep import GramOutcome, sweep_gram
from sedarchive.sweeps.spectra_sweep import SpectraOptions
from sedarchive.sweeps.stored_grams import StoredGrams, gram_key
from sedarchive.tables import Database
from sedarchive.words import counted, did_you_mean

__all__ = ["ComputeOptions", "RunComputed", "RunPlan", "compute", "plan_compute"]


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
    HistoryError
        If no run can have as many heads as are given.
    """
    opened = Archive(archive)
    with (
        one_blas_thread(),
        opened.writing("compute") as store,
        _alone(store, database),
        Turns(database, opened.archive_id) as turns,
    ):
        tables = turns.database
        options = with_recorded(options, tables)
        runs = opened.runs()
        anatomies, refused = anatomies_of(runs, options)
        _check_scopes(options.scopes, anatomies)
        check_some_have(anatomies, options.heads, options.kv_heads)
        # a plan that does not fit is refused before anything is read, and what was asked for is forgotten
        plans = plan_runs(anatomies, store, tables, options)
        requests = record_requests(tables, options.asked)
        record_presets(tables, requests.presets)
        _write_empty_runs(tables, runs)
        _forget_other_runs(tables, opened.run_names)
        reads_weights = any(plan.reads_weights for plan in plans)
        if reads_weights:
            turns.end()
        with (
            sweep_executor(options.cluster if reads_weights else None, options.executor) as sweeps,
            row_maker(options.row_executor, options.max_mem) as rows,
        ):
            job = _Job(store, turns, options, requests, progress, sweeps, rows, across_runs(runs))
            reports = [*refused, *(job.run_guarded(parts) for parts in anatomies)]
        refresh_lead_laws(turns.database)
        refresh_scaling(turns.database)
        refresh_importance(turns.database, options.importance)
        return sorted(reports, key=lambda report: report.run)


def _alone(store: CheckedStore, database: Path) -> AbstractContextManager[object]:
    """Hold the writer's lock beside the database where the archive, which cannot be written, has none."""
    return nullcontext() if store.refusal is None else writer_lock(database.absolute().parent, "compute")


def _write_empty_runs(database: Database, runs: Sequence[RunArchive]) -> None:
    """Say in ``audit`` why a run has no checkpoint that could be read."""
    for run in runs:
        with suppress(ArchiveError):  # damaged records are reported with the run itself
            if run.commits:
                continue
            database.replace("audit", {"run": run.name}, audit_rows(merged(run.findings)))


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
    *DRIFT_TABLES,
    *PHASE_TABLES,
    "fits",
    "couplings",
    "projections",
    "matrix_spectra",
    "matrix_stats",
    "aspect_stats",
    "layer_waves",
    "depth_gradients",
    "depth_trends",
    "dissociations",
    "loss_correlations",
    "layer_importance",
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
    turns: Turns
    options: ComputeOptions
    requests: Requests
    progress: Progress
    sweeps: Executor
    """Runs the sweeps."""
    rows: RowMaker
    """Runs what follows from windows."""
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
        if StoredGrams(parts, self.store, gram_key(parts, self.options.gram)).missing_tensors():
            self.turns.end()
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
        logged = logged_of(parts, self.requests.runs_info.get(parts.run.name, {}))
        windows = WindowSource(parts, stored, audit, logged)
        held = [scope for scope in scopes.values() if scope.leaves]
        refresh = WindowRefresh.of(windows, held, sizes, self.turns, self.progress)
        self.rows.expect(refresh.n_sets * len(parts.run.commits))
        if not audit.recall(self.turns.database):
            self.turns.end()  # every stored Gram matrix is read
        report.findings += findings_of(audit.numbers)
        self._write_catalog(parts, audit, report)
        self._refresh_rows(refresh, held)
        report.window_sets = refresh.n_sets
        return audit

    def _refresh_rows(self, refresh: WindowRefresh, scopes: Sequence[Scope]) -> None:
        """Windows and drift of some scopes, then what is inferred from them."""
        source, sizes = refresh.source, refresh.sizes
        run_stages(refresh.window_stages(), self.rows, self.turns)
        drifts = drift_stages(source, scopes, self.turns, self.progress)
        run_stages([*refresh.null_stages(), *drifts], self.rows, self.turns)
        run, asked = source.anatomy.run, tuple(size for size, with_null in sizes.items() if with_null)
        inferred = InferenceSource(run.name, tuple(run.steps), asked, source.logged.val_loss, self.requests.presets)
        if self.options.inference:
            run_stages(inference_stages(inferred, self.turns), self.rows, self.turns)
        else:
            drop_stale_inference(inferred, self.turns.database)

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
            self.turns,
            self.sweeps,
            self.progress,
        )

    def _refresh_spectra(self, parts: Anatomy, audit: Audit, report: RunComputed) -> None:
        options = SpectraOptions(self.options.max_mem, self.options.exact)
        report.spectra = refresh_spectra(parts, self.turns, self.options.every, options, self.sweeps, self.progress)
        refresh_matrix_stats(parts.run.name, self.turns, self.options.row_executor, self.requests.matrices.truncated)
        if self.requests.matrices.aspects:
            aspects = self.options.aspects
            cut = refresh_aspects(parts, aspects, self.turns, self.sweeps, self.progress)
            report.spectra = report.spectra.with_aspects(cut)
        refresh_lifecycle(parts.run.name, self.turns.database)
        unreadable = [name for name in report.spectra.failed if name not in report.gram.failed]
        if unreadable:
            report.findings += [
                Finding(UNREADABLE_SPECTRA, "error", report.spectra.failed[name], tensor=name) for name in unreadable
            ]
            self._write_catalog(parts, audit, report)

    def _write_catalog(self, parts: Anatomy, audit: Audit, report: RunComputed) -> None:
        run = parts.run.name
        findings = [*self.across.get(run, ()), *findings_of(audit.digests), *report.findings]
        audited = Audited(audit.key, audit.numbers)
        info = self.requests.runs_info.get(run, {})
        write_catalog(self.turns.database, parts, info, findings, audited)

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
