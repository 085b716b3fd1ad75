"""Plans of what ``compute`` would read and hold: made before anything is read, and shown by ``--dry-run``."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from sedarchive.archive import Archive, RunArchive
from sedarchive.archive.store import CheckedStore
from sedarchive.compute.matrix.aspect_rows import missing_aspects
from sedarchive.compute.matrix.spectra_rows import missing_spectra
from sedarchive.compute.options import ComputeOptions, RunComputed
from sedarchive.compute.requests import recorded_layout, recorded_matrices
from sedarchive.errors import ArchiveError, MemoryBudgetError
from sedarchive.plan.budget import worst
from sedarchive.plan.tasks import SpectraPlan, SweepPlan
from sedarchive.sizes import format_size
from sedarchive.sweeps.anatomy import Anatomy, anatomy
from sedarchive.sweeps.gram_sweep import plan_gram_sweep
from sedarchive.sweeps.spectra_sweep import plan_spectra_sweep
from sedarchive.sweeps.stored_grams import StoredGrams, gram_key
from sedarchive.tables import Database


@dataclass(frozen=True)
class RunPlan:
    """What computing one run would read and hold."""

    run: str
    gram: SweepPlan
    spectra: tuple[SpectraPlan, ...]
    """Of whole matrices and of sub-matrices; none where spectra are left out."""

    @property
    def reads_weights(self) -> bool:
        """Whether there is anything to sweep."""
        return bool(self.gram.n_tasks or any(plan.tasks for plan in self.spectra))

    def summary(self) -> dict[str, str | int]:
        """Numbers for people, by name."""
        memory = max(self.gram.projected_mem, *(plan.projected_mem for plan in self.spectra), 0)
        return {
            "run": self.run,
            "gram_reads": format_size(self.gram.read_bytes),
            "gram_tasks": self.gram.n_tasks,
            "decodes_per_chunk": self.gram.decodes_per_chunk,
            "spectra_reads": format_size(sum(plan.read_bytes for plan in self.spectra)),
            "spectra_tasks": sum(len(plan.tasks) for plan in self.spectra),
            "projected_memory": format_size(memory),
        }


def plan_compute(archive: Path, database: Path, options: ComputeOptions) -> list[RunPlan]:
    """Plans of what is missing: nothing is read but metadata and the database."""
    opened = Archive(archive)

    if not database.exists():
        anatomies, _ = anatomies_of(opened.runs(), options)
        return plan_runs(anatomies, opened.store, None, options)
    with Database.read(database, opened.archive_id) as tables:
        options = with_recorded(options, tables)
        anatomies, _ = anatomies_of(opened.runs(), options)
        return plan_runs(anatomies, opened.store, tables, options)


def with_recorded(options: ComputeOptions, database: Database) -> ComputeOptions:
    """Return options with those that an earlier request gave and this one leaves out."""
    layout, matrices = recorded_layout(database), recorded_matrices(database)
    return replace(options, matrices=options.matrices.and_those(matrices), **asdict(options.layout.or_else(layout)))


def plan_runs(
    anatomies: Sequence[Anatomy], store: CheckedStore, database: Database | None, options: ComputeOptions
) -> list[RunPlan]:
    """Plans of all runs; where some do not fit, the refusal names what would do for every one.

    Raises
    ------
    MemoryBudgetError
        If one does not fit.
    UnwritableArchiveError
        If Gram matrices are to be made and there is no place for them.
    """
    makers = [partial(_plan_run, parts, store, database, options) for parts in anatomies]
    plans = []
    for at, make in enumerate(makers, start=1):
        try:
            plans.append(make())
        except MemoryBudgetError as error:
            raise worst(error, makers[at:]) from None
    if store.refusal is not None and any(plan.gram.n_tasks for plan in plans):
        raise store.refusal
    return plans


def _plan_run(parts: Anatomy, store: CheckedStore, database: Database | None, options: ComputeOptions) -> RunPlan:
    spectra = partial(_plan_spectra, parts, database, options)
    stored = StoredGrams(parts, store, gram_key(parts, options.gram))
    try:
        gram = plan_gram_sweep(parts, stored.missing_tensors(), options.gram, options.executor.workers)
    except MemoryBudgetError as error:
        raise worst(error, [spectra]) from None
    return RunPlan(parts.run.name, gram, spectra())


def _plan_spectra(parts: Anatomy, database: Database | None, options: ComputeOptions) -> tuple[SpectraPlan, ...]:
    if not options.spectra:
        return ()
    sweeps = [missing_spectra(parts, database, options.every, options.exact)]
    if options.matrices.aspects:
        sweeps.append(missing_aspects(parts, database, options.aspects))
    return tuple(plan_spectra_sweep(parts, missing, options.max_mem, options.executor.workers) for missing in sweeps)


def anatomies_of(runs: Sequence[RunArchive], options: ComputeOptions) -> tuple[list[Anatomy], list[RunComputed]]:
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
