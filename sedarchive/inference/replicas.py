"""Replicas of a change with noise averaged over W updates, from which the interval of its date comes.

All that is wanted of a replica but its energies is linear in the series: the replicas of any change are those of the
change itself plus as much of the noise. So the noise and what is linear in it is made once for all series of a length.
"""

from dataclasses import dataclass, fields
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sedarchive.inference.cusum import CHUNK_NUMBERS, cusum_statistic, window_noise
from sedarchive.inference.ramps import Ramps, explained, kinds_of_ramps, left_over, prepared_for

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Replicas:
    """Residuals (replicas,) of series of a known jump and noise."""

    true: Floats
    """Of the jump itself."""
    jump: Floats
    """Of the jump that fits best."""
    any_kind: Floats
    """Of the change that fits best."""
    statistic: Floats
    """CUSUM statistic."""

    def chosen(self, significant: float) -> "Replicas":
        """Those that would have been dated, and as many of the next as make a third of all.

        Luck helps a small jump to be dated, and misplaces it: what is not dated must not speak for what is.
        """
        enough = float(np.quantile(self.statistic, 2 / 3))
        kept = self.statistic >= min(significant, enough)
        return Replicas(self.true[kept], self.jump[kept], self.any_kind[kept], self.statistic[kept])


@dataclass(frozen=True)
class Planted:
    """A jump, and how much noise is added to it."""

    kinds: tuple[Ramps, ...]
    """What is fitted: jumps first."""
    at: int
    """Which of the jumps it is."""
    model: Floats
    """(n,)."""
    variance: float

    @cached_property
    def centred(self) -> Floats:
        return np.asarray(self.model - self.model.mean())

    @cached_property
    def scores(self) -> list[list[Floats]]:
        """Of the jump alone, by kind: (m,) each."""
        prepared = prepared_for(self.kinds, self.model)
        return [kind.scores(prepared) for kind in self.kinds]


def best_jumps(planted: Planted, replicas: int, seed: int) -> Floats:
    """Return the residuals (replicas,) of the jumps that fit a first set of replicas best."""
    noise = _noise(_Wanted.of(planted, 1, replicas), (seed, 1))
    return left_over(_energy(planted, noise), _explained(planted, noise, 0).max(axis=-1))


def draw_replicas(planted: Planted, replicas: int, seed: int) -> Replicas:
    """Draw replicas of a jump, others than those of :func:`best_jumps`."""
    at_once = max(CHUNK_NUMBERS // len(planted.model), 1)
    found = [
        _of_noise(
            planted, _noise(_Wanted.of(planted, len(planted.kinds), min(at_once, replicas - first)), (seed, 2 + first))
        )
        for first in range(0, replicas, at_once)
    ]
    return Replicas(*(np.concatenate([getattr(part, one.name) for part in found]) for one in fields(Replicas)))


class _Wanted(NamedTuple):
    """Which noise is wanted."""

    n: int
    window_size: int
    kinds: int
    """How many kinds of ramps are fitted to it."""
    replicas: int

    @classmethod
    def of(cls, planted: Planted, kinds: int, replicas: int) -> "_Wanted":
        return cls(len(planted.model), planted.kinds[0].window_size, kinds, replicas)


@dataclass(frozen=True)
class _Noise:
    """Series of noise, and what is linear in them."""

    series: Floats
    """(n, replicas)."""
    energy: Floats
    """About the mean (replicas,)."""
    scores: list[list[Floats]]
    """By kind: (replicas, m) each."""


@lru_cache(maxsize=8)
def _noise(wanted: _Wanted, seed: tuple[int, ...]) -> _Noise:
    """Return noise; what is kept serves series of one length that come one after the other."""
    drawn = window_noise(wanted.n, wanted.window_size, wanted.replicas, np.random.default_rng(seed))
    kinds = kinds_of_ramps(wanted.n, wanted.window_size)[: wanted.kinds]
    prepared = prepared_for(kinds, np.ascontiguousarray(drawn))
    return _Noise(drawn.T, prepared.energy[:, 0], [kind.scores(prepared) for kind in kinds])


def _of_noise(planted: Planted, noise: _Noise) -> Replicas:
    energy, jumps = _energy(planted, noise), _explained(planted, noise, 0)
    best = jumps.max(axis=-1)
    smooth = [_explained(planted, noise, kind).max(axis=-1) for kind in range(1, len(planted.kinds))]
    series = planted.model[:, None] + np.sqrt(planted.variance) * noise.series
    return Replicas(
        left_over(energy, jumps[:, planted.at]),
        left_over(energy, best),
        left_over(energy, np.max([best, *smooth], axis=0)),
        cusum_statistic(series.T, planted.kinds[0].window_size),
    )


def _energy(planted: Planted, noise: _Noise) -> Floats:
    """Return the sums of squares (replicas,) of the replicas about their means."""
    across = 2 * np.sqrt(planted.variance) * (planted.centred @ noise.series)
    energy: Floats = planted.centred @ planted.centred + across + planted.variance * noise.energy
    return energy


def _explained(planted: Planted, noise: _Noise, kind: int) -> Floats:
    """Return what each ramp of a kind explains of the replicas (replicas, m)."""
    drawn = [np.sqrt(planted.variance) * scores for scores in noise.scores[kind]]
    for scores, own in zip(drawn, planted.scores[kind], strict=True):
        scores += own
    return explained(drawn)
