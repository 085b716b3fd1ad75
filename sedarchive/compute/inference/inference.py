"""Inference over the tables of a run's windows: fits, phases, events and couplings, each beside its null.

It reads tables alone, and takes far longer than the windows that it follows.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sedarchive.compute.couplings.couplings import coupling_stages, keyed_couplings, wanted_couplings
from sedarchive.compute.couplings.edge_couplings import (
    keyed_edge_couplings,
    refresh_edge_couplings,
    wanted_edge_couplings,
)
from sedarchive.compute.inference.fits import fit_stages, keyed_fits, wanted_fits
from sedarchive.compute.inference.phases import keyed_phases, phase_stages, wanted_phases
from sedarchive.compute.rolling.momentum_rows import keyed_momentum, momentum_stages, wanted_momentum
from sedarchive.compute.stages import Stage
from sedarchive.compute.turns import Turns
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


def inference_stages(source: InferenceSource, turns: Turns) -> list[Stage[Any]]:
    """Stages that derive what is missing or stale."""
    val_loss = dict(zip(source.steps, source.val_loss.tolist(), strict=True))

    def write_edge_couplings(_: Iterator[None]) -> None:
        refresh_edge_couplings(source.run, source.steps, source.reached, source.presets, turns)

    return [
        *phase_stages(source.run, source.sizes, turns),
        # by phase, so once the phases stand: made here while other processes are at the stages below
        Stage((), 0, write_edge_couplings, 0),
        *momentum_stages(source.run, source.sizes, turns),
        *coupling_stages(source.run, source.steps, source.sizes, turns),
        *fit_stages(source.run, val_loss, source.sizes, turns),  # last, for its rows are the quickest to write
    ]


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
