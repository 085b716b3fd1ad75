"""One run's features and one metric on common places, and their scans under every choice of stamp and trend.

Places count half checkpoints, so that the middle of a window of an odd number of updates has one too: checkpoint i has
place 2 i. The metric is interpolated to the places that it is compared at, never rounded to them. It counts from the
first stamp of the smallest window on: what a loss does before any window exists is no answer to one, and would rule
its trend.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.lags import LagScan, Versions, overlap, scan_of_versions
from sedarchive.inference.surrogates import DRAWS, surrogates
from sedarchive.inference.trends import DEGREES, without_trend

Floats = NDArray[np.float64]

STAMPS = ("end", "centre")
"""Place that stands for a window: that of its last checkpoint, or its middle."""
KINDS = ("plain", "partial_lr", "difference")
"""What is correlated: the series; the series less the effect of the learning rate; their first differences."""


@dataclass(frozen=True)
class Variant:
    """How two series are compared."""

    stamp: str = "end"
    detrend: str = "linear"
    kind: str = "plain"


@dataclass(frozen=True)
class WindowFeatures:
    """Features of all windows of one size, one series a row."""

    size: int
    """W, in updates."""
    values: Floats
    """(m, T - W): the window in column i begins at checkpoint i; NaN where it has no value."""


@dataclass(frozen=True)
class RunMetric:
    """One metric of a run, at every place."""

    steps: Floats
    """Step of each checkpoint (T,)."""
    values: Floats
    """(2 T - 1,); NaN before the first and after the last logged step, nowhere else."""
    lr: Floats | None = None
    """Learning rate at each checkpoint (T,); None if unknown."""
    draws: int = DRAWS
    """Surrogates."""
    seed: int = 0

    @classmethod
    def joined(cls, steps: Floats, log_steps: Floats, log_values: Floats, lr: Floats | None = None) -> "RunMetric":
        """Interpolate a log (ascending steps, finite values) to the places of a run."""
        places = half_places(steps)
        known = np.interp(places, log_steps, log_values) if len(log_steps) else np.full(len(places), np.nan)
        inside = (places >= log_steps[0]) & (places <= log_steps[-1]) if len(log_steps) else np.zeros(len(places), bool)
        return cls(steps, np.where(inside, known, np.nan), lr)

    def grids(self, variant: Variant, sizes: Sequence[int]) -> "Grids":
        """Versions of the metric for windows of some sizes, all of which share their phases."""
        start = min(sizes) * (2 if variant.stamp == "end" else 1)
        odd = variant.stamp == "centre" and any(size % 2 for size in sizes)
        places = np.flatnonzero(np.isfinite(self.values))
        places = places[places >= start]
        if not odd:  # every other place: the series is its own spectrum, not one thinned out
            places = places[places % 2 == 0]
        covariates = [half_places(self.lr)[places]] if variant.kind == "partial_lr" and self.lr is not None else []
        steps = half_places(self.steps)[places]
        versions = surrogates(self.values[places], steps, self.draws, self.seed, covariates)
        return Grids(places, steps, versions, covariates, variant)


def half_places(values: Floats) -> Floats:
    """Values (T,), and the mean of neighbours between them (2 T - 1,)."""
    found = np.empty(max(2 * len(values) - 1, 0))
    found[::2] = values
    found[1::2] = (values[1:] + values[:-1]) / 2
    return found


@dataclass(frozen=True)
class Grids:
    """Versions of a metric at places; a window needs those of its own parity alone."""

    places: NDArray[np.intp]
    steps: Floats
    versions: Floats
    """(versions, n_places)."""
    covariates: Sequence[Floats]
    variant: Variant

    @cached_property
    def _by_parity(self) -> dict[int, tuple[int, Floats]]:
        return {parity: self._grid(parity) for parity in (0, 1)}

    def _grid(self, parity: int) -> tuple[int, Floats]:
        """First place, halved, and detrended versions (versions, n) of the places of one parity."""
        chosen = np.flatnonzero(self.places % 2 == parity)
        first = int(self.places[chosen[0]]) // 2 if len(chosen) else 0
        versions, steps = self.versions[:, chosen], self.steps[chosen]
        if self.variant.kind == "difference":
            versions, steps = np.diff(versions, axis=1), steps[1:]
        others = [covariate[chosen] for covariate in self.covariates]
        degree = DEGREES[self.variant.detrend]
        return first, without_trend(versions, steps, degree, others) if versions.size else versions

    @cached_property
    def _prepared(self) -> dict[int, Versions]:
        return {parity: Versions.of(versions) for parity, (_, versions) in self._by_parity.items()}

    def prepared(self, place: int) -> tuple[int, Versions]:
        """As :meth:`for_place`, prepared for scans."""
        return self.for_place(place)[0], self._prepared[place % 2]

    def for_place(self, place: int) -> tuple[int, Floats]:
        """Offset of a window's place in the grid of its parity, and the detrended versions there."""
        first, versions = self._by_parity[place % 2]
        return place // 2 - first, versions


def scan_sizes(features: Sequence[WindowFeatures], metric: RunMetric, variant: Variant, reach: int) -> list[LagScan]:
    """Scan the features of every window size against one metric and the same surrogates of it.

    Parameters
    ----------
    features
        One entry a window size.
    metric
        The metric; ``partial_lr`` needs its learning rate.
    variant
        Stamp, trend and kind.
    reach
        Largest lag, in checkpoints.
    """
    grids = metric.grids(variant, [one.size for one in features])
    return [_scan(one, metric, grids, reach) for one in features]


@dataclass(frozen=True)
class Aligned:
    """Features and a metric where both have values, each window at the checkpoint that it ends at."""

    features: Floats
    """(m, n)."""
    metric: Floats
    """Versions (v, n)."""
    steps: Floats
    """(n,)."""
    lr: Floats | None
    """(n,)."""


def aligned(features: WindowFeatures, metric: RunMetric, grids: Grids) -> Aligned:
    """Windows against the metric at lag 0; ``grids`` has the stamp ``end``."""
    offset, versions = grids.for_place(2 * features.size)
    pairs = overlap(features.values.shape[1], versions.shape[1], offset)
    ends = slice(features.size + pairs.features.start, features.size + pairs.features.stop)
    lr = None if metric.lr is None else metric.lr[ends]
    return Aligned(features.values[:, pairs.features], versions[:, pairs.metric], metric.steps[ends], lr)


def _scan(features: WindowFeatures, metric: RunMetric, grids: Grids, reach: int) -> LagScan:
    size, variant = features.size, grids.variant
    n_windows = features.values.shape[1]
    place = 2 * size if variant.stamp == "end" else size
    offset, versions = grids.prepared(place)
    steps = half_places(metric.steps)[place : place + 2 * n_windows : 2]
    others = []
    if variant.kind == "partial_lr" and metric.lr is not None:
        others = [np.convolve(half_places(metric.lr)[1::2], np.full(size, 1 / size), "valid")]
    values = features.values
    if variant.kind == "difference":
        values, steps = np.diff(values, axis=1), steps[1:]
    left = without_trend(values, steps, DEGREES[variant.detrend], others)
    return scan_of_versions(left, versions, offset, reach)
