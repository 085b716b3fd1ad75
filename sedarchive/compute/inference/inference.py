"""Inference over the tables of a run's windows: fits, phases, events and couplings, each beside its null.

It reads tables alone, and takes far longer than the windows that it follows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.couplings.couplings import keyed_couplings, refresh_couplings, wanted_couplings
from sedarchive.compute.couplings.edge_couplings import (
    keyed_edge_couplings,
    refresh_edge_couplings,
    wanted_edge_couplings,
)
from sedarchive.compute.inference.fits import keyed_fits, refresh_fits, wanted_fits
from sedarchive.compute.inference.phases import keyed_phases, refresh_phases, wanted_phases
from sedarchive.compute.rolling.momentum_rows import keyed_momentum, refresh_momentum, wanted_momentum
from sedarchive.compute.turns import Turns
from sedarchive.executor import Executor
from sedarchive.tables import Database


@dataclass(frozen=True)
class InferenceSource:
    """What of one run is inferred from."""

    run: str
    steps: tuple[int, ...]
    """Of its T checkpoints."""
    sizes: tuple[int, ...]
    """Window sizes that were asked for, whose null is in the tables."""
    val_loss: NDArray[np.float64]
    """Validation loss at each checkpoint (T,); NaN where unknown."""
    presets: tuple[str, ...] = ()
    """Presets that are followed."""

    @property
    def reached(self) -> list[int]:
        """Sizes of which the run has a window, ascending."""
        return [size for size in sorted(self.sizes) if size < len(self.steps)]


def refresh_inference(source: InferenceSource, turns: Turns, executor: Executor) -> None:
    """Derive what is missing or stale."""
    val_loss = dict(zip(source.steps, source.val_loss.tolist(), strict=True))
    refresh_fits(source.run, val_loss, source.sizes, turns, executor)
    refresh_phases(source.run, source.sizes, turns, executor)
    refresh_couplings(source.run, source.steps, source.sizes, turns, executor)
    refresh_momentum(source.run, source.sizes, turns, executor)
    refresh_edge_couplings(source.run, source.steps, source.reached, source.presets, turns)


def drop_stale_inference(source: InferenceSource, database: Database) -> None:
    """Remove what was inferred from windows or logs that stand no more, and make nothing in its place."""
    run, sizes = source.run, source.sizes
    for keyed, wanted in (
        (keyed_fits(run), wanted_fits(database, run)),
        (keyed_phases(run), wanted_phases(database, run, sizes)),
        (keyed_couplings(run), wanted_couplings(database, run, sizes)),
        (keyed_momentum(run), wanted_momentum(database, run, sizes)),
        (keyed_edge_couplings(run), wanted_edge_couplings(database, run, source.reached, source.presets)),
    ):
        keyed.drop(database, keyed.outstanding(database, wanted))
