"""What ``compute`` is asked for, and what it says that it did."""

from dataclasses import dataclass, field, replace

from sedarchive.compute.matrix.aspect_rows import AspectRequest
from sedarchive.compute.matrix.spectra_rows import SpectraOutcome
from sedarchive.compute.requests import Asked, Layout, MatrixRequests, Withdrawn
from sedarchive.executor import Executor
from sedarchive.history import Finding
from sedarchive.sizes import MIB
from sedarchive.sweeps.gram_sweep import GramOutcome
from sedarchive.sweeps.spectra_sweep import SpectraOptions
from sedarchive.sweeps.stored_grams import GramOptions
from sedarchive.words import counted

ROWS_EACH = 8
"""Tasks for each worker that are handed out at a time where they end in rows."""


@dataclass(frozen=True)
class ComputeOptions:
    """What to compute, and with what."""

    windows: tuple[int, ...] = ()
    scopes: tuple[str, ...] = ()
    spectra: bool = True
    every: int = 1
    """Spectra at every so many checkpoints."""
    inference: bool = True
    """Fits, phases, events and couplings, which follow from the windows; left out, they wait for a later request."""
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
    presets: tuple[str, ...] = ()
    """Presets to follow beside the defaults; their window sizes are among ``windows``."""
    matrices: MatrixRequests = field(default_factory=MatrixRequests)
    """What is wanted of the matrices beside their metrics."""
    importance: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)
    """(run, metric) -> layer -> importance, from ``--importance``."""
    forget: Withdrawn = field(default_factory=Withdrawn)
    """Earlier requests that are wanted no more."""

    @property
    def asked(self) -> Asked:
        """Options that are recorded."""
        more = (self.projections, self.projection_seeds, self.forget, self.presets, self.matrices)
        return Asked(self.windows, self.scopes, self.runs_info, self.layout, *more)

    @property
    def layout(self) -> Layout:
        """Options that change what leaves and Gram matrices are; one left out is the one last given."""
        return Layout(self.heads, self.kv_heads, self.band, self.arch)

    @property
    def aspects(self) -> AspectRequest:
        """Sub-matrices that are wanted."""
        sweep = SpectraOptions(self.max_mem, self.exact, self.matrices.aspects)
        return AspectRequest(self.matrices.aspects, self.every, sweep)

    @property
    def gram(self) -> GramOptions:
        return GramOptions(self.max_mem, self.band)

    @property
    def executor(self) -> Executor:
        """Of sweeps, whose results are large."""
        return Executor(self.workers, "serial" if self.scheduler == "serial" else "threads")

    @property
    def row_executor(self) -> Executor:
        """Of tasks that end in rows, which are held until they are written: no worker waits for another long."""
        return replace(self.executor, each=ROWS_EACH)


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
        windows = self.no_window or f"{counted(self.window_sets, 'set')} of windows derived"
        return f"{self.run}: {gram}; {windows}; {self.spectra.describe()}"
