"""How a history moves: norms of updates, turns, and distance from the start, each against its neighbours in time.

Every threshold is relative to what the same run does around the step in question, on both sides of it: a warm-up, a
decay, a change of the learning rate or of the spacing moves one side along, and is silent. What stands out from both
sides is not what training does.
"""

from bisect import bisect
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sedarchive.gram import Gram

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_SIDE = 3
"""Updates (or checkpoints) looked at on each side."""
_LEAP, _LEAP_SPREADS = 5.0, 6.0
"""An update leaps if it is so many times longer than its neighbours, and so many robust standard deviations of log."""
_RETURN_COSINE, _RETURN, _STEADY_COSINE = -0.9, 3.0, -0.5
"""A return goes back along the jump, both far longer than their neighbours, which do not both go to and fro."""
_OUT_OF_LINE, _OUT_OF_LINE_SHARE = 4.0, 0.02
"""A distance is out of line by so many of the changes around it, and by this share of itself ..."""
_WAY_COSINE, _WAY = -0.5, 1.5
"""... where the way there and back, too, is a turn and longer than the updates around."""
_LIKELY = 1.0
"""Changes by which one of several copies is out of line: that one of them is wrong is known before."""


@dataclass(frozen=True)
class Motion:
    """Sums over the elements of some tensors; they add over disjoint sets."""

    energy: Floats
    """||delta_i||² (T - 1,)."""
    product: Floats
    """<delta_i, delta_{i-1}> (T - 1,); the first is NaN."""
    distance2: Floats
    """||theta_t - theta_0||² (T,); NaN from the first non-finite checkpoint on, and where the Gram matrix is a band."""

    def __add__(self, other: "Motion") -> "Motion":
        return Motion(self.energy + other.energy, self.product + other.product, self.distance2 + other.distance2)

    @property
    def norm(self) -> Floats:
        """||delta_i|| (T - 1,)."""
        return np.sqrt(self.energy)

    @property
    def cosine(self) -> Floats:
        """Cosine with the update before (T - 1,); NaN for the first, and beside a zero update."""
        cosine = np.full(len(self.energy), np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            cosine[1:] = self.product[1:] / np.sqrt(self.energy[1:] * self.energy[:-1])
        return np.where(np.isfinite(cosine), cosine, np.nan)

    @property
    def distance(self) -> Floats:
        """||theta_t - theta_0|| (T,)."""
        return np.sqrt(np.maximum(self.distance2, 0.0))


def motion_of(gram: Gram) -> Motion:
    """Motion from a Gram matrix; without distances if it is a band."""
    index = np.arange(gram.n_updates)
    energy = gram.products(index, index)
    product = np.full(len(index), np.nan)
    product[1:] = gram.products(index[1:], index[:-1])
    distance2 = np.full(len(index) + 1, np.nan)
    if gram.full is not None:
        # theta_t - theta_0 is the sum of the updates before it
        before = np.tril(gram.full[1:, 1:], -1).sum(axis=1)
        distance2 = np.concatenate([[0.0], np.cumsum(energy + 2.0 * before)])
    return Motion(energy, product, distance2)


def leaps(norm: Floats, interval: Floats) -> Flags:
    """Updates (T - 1,) far longer than those before and after them, by norm and by norm a step.

    Parameters
    ----------
    norm
        ||delta_i|| (T - 1,).
    interval
        Steps that each update spans (T - 1,); a longer one may be longer in proportion, a shorter one need not.
    """
    if len(norm) < 5:  # two updates on each side of one
        return np.zeros(len(norm), dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log(np.where(norm > 0, norm, np.nan))
        rate = level - np.log(interval)
    left, right = _beside(level)
    around = _median(np.concatenate([left, right], axis=1))
    spread = 1.4826 * _median(np.abs(level - around)[None])[0]
    excess = np.minimum(_above_both(level), _above_both(rate))
    return _true(excess > max(np.log(_LEAP), _LEAP_SPREADS * np.nan_to_num(spread)))


def returns(norm: Floats, cosine: Floats) -> Flags:
    """Checkpoints (T,) to which the weights jump, and from which they come back at once.

    Parameters
    ----------
    norm, cosine
        ||delta_i|| and the cosine with the update before (T - 1,).
    """
    return _there_and_back(norm, cosine, _RETURN, _RETURN_COSINE)


def misplaced(motion: Motion) -> Flags:
    """Checkpoints (T,) that lie where another step would, by their distance from the start and the way there and back.

    In few dimensions, and on a plateau, distances scatter by themselves: alone they prove nothing.
    """
    return out_of_line(motion.distance) & _there_and_back(motion.norm, motion.cosine, _WAY, _WAY_COSINE)


def _there_and_back(norm: Floats, cosine: Floats, times: float, turn: float) -> Flags:
    """Checkpoints (T,) between two updates so many times longer than those around, with at most this cosine."""
    flags = np.zeros(len(norm) + 1, dtype=bool)
    if len(norm) < 2:
        return flags
    left, right = _beside(np.where(norm > 0, norm, np.nan))
    around = np.fmax(_median(left)[:-1], _median(right)[1:])
    after = np.concatenate([cosine[2:], [np.nan]])
    # on a straight course one neighbour turns too, since the way on follows the way back; only where both do is
    # it the habit of the run
    steady = ~((cosine[:-1] < _STEADY_COSINE) & (after < _STEADY_COSINE))
    flags[1:-1] = (cosine[1:] < turn) & (np.minimum(norm[:-1], norm[1:]) > times * around) & steady
    return flags


def out_of_line(distance: Floats, changes: float = _OUT_OF_LINE) -> Flags:
    """Checkpoints (T,) whose distance from the start lies outside what the checkpoints before and after them show.

    Parameters
    ----------
    distance
        ||theta_t - theta_0|| (T,).
    changes
        By how many of the usual changes around it.
    """
    left, right = (_median(side, least=1) for side in _beside(distance))
    outside = np.maximum(distance - np.fmax(left, right), np.fmin(left, right) - distance)
    # changes that do not touch the checkpoint itself: those that end before it, those that begin after it
    before, after = (_median(side, least=1) for side in _beside(np.append(np.abs(np.diff(distance)), np.nan)))
    scale = np.fmax(np.append(np.nan, before[:-1]), after)
    two_sided = np.isfinite(left) & np.isfinite(right)
    return _true(two_sided & (outside > changes * scale) & (outside > _OUT_OF_LINE_SHARE * distance))


def copies_out_of_line(distance: Floats, copies: Collection[int]) -> list[int]:
    """Of checkpoints of which some are wrong, those out of line with the others, each looked at alone.

    Parameters
    ----------
    distance
        ||theta_t - theta_0|| (T,).
    copies
        The checkpoints in doubt.
    """
    sound = [at for at in range(len(distance)) if at not in copies]
    found = []
    for copy in sorted(copies):
        place = bisect(sound, copy)
        first = max(place - _SIDE - 1, 0)
        around = [*sound[first:place], copy, *sound[place : place + _SIDE + 1]]
        if out_of_line(distance[around], _LIKELY)[place - first]:
            found.append(copy)
    return found


def _beside(values: Floats) -> tuple[Floats, Floats]:
    """Values before and after each (n, _SIDE), NaN beyond the ends."""
    padded = np.concatenate([np.full(_SIDE, np.nan), values, np.full(_SIDE, np.nan)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, _SIDE)
    return windows[: len(values)], windows[_SIDE + 1 : _SIDE + 1 + len(values)]


def _median(rows: Floats, least: int = 2) -> Floats:
    """Median of the finite values of each row (n,); NaN where there are fewer than ``least``."""
    ordered = np.sort(np.where(np.isfinite(rows), rows, np.nan), axis=1)  # NaN last
    count = np.isfinite(ordered).sum(axis=1)
    at = np.arange(len(rows))
    low, high = ordered[at, np.maximum(count - 1, 0) // 2], ordered[at, np.minimum(count // 2, rows.shape[1] - 1)]
    return np.where(count >= least, (low + high) / 2, np.nan)


def _above_both(level: Floats) -> Floats:
    """How far each value lies above the medians of both sides (n,); NaN without two values on each."""
    left, right = (_median(side) for side in _beside(level))
    return level - np.maximum(left, right)


def _true(flags: Flags) -> Flags:
    return np.asarray(flags, dtype=bool)
