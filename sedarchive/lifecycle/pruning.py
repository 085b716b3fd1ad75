"""Which layers to remove: by the decay exponents of their spectra, and by the rules that this stands beside.

"The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778) removes layers of low alpha, spread over zones of
the depth. The text of its algorithm is not published; this is our reading of it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RULES = ("spectral", "last", "first", "random", "worst")
BY_ALPHA = ("spectral", "worst")
"""Rules that need the exponents."""
DRAWS = 5
"""Random choices to compare with."""
_ZONES = 3
_DEEP = 16
"""Models of more layers have two protected layers at each end."""


@dataclass(frozen=True)
class Removal:
    """One choice of layers."""

    rule: str
    """One of :data:`RULES`."""
    draw: int | None
    """Number of the draw of a random choice; None for the other rules."""
    removed: tuple[int, ...]
    """Layers, ascending."""


@dataclass(frozen=True)
class Core:
    """Layers that may be removed, and how many of them."""

    n_layers: int
    protect: int
    """Layers at each end that stay."""
    k: int
    """Layers to remove."""

    @property
    def layers(self) -> range:
        """Layers between the protected ends."""
        return range(self.protect, self.n_layers - self.protect)

    @property
    def zones(self) -> tuple[tuple[int, ...], ...]:
        """The core's early, middle and late third."""
        return tuple(tuple(map(int, zone)) for zone in np.array_split(np.array(self.layers), _ZONES))

    @property
    def most_a_zone(self) -> int:
        """Layers that one zone may lose: ceil(k / 3) + 1."""
        return math.ceil(self.k / _ZONES) + 1


def protected_ends(n_layers: int) -> int:
    """Layers at each end that stay unless the user says otherwise."""
    return 2 if n_layers > _DEEP else 1


def by_exponent(alpha: Floats, core: Core, highest: bool = False) -> tuple[int, ...]:
    """Layers of the core with the lowest (highest) exponents (L,), at most so many a zone; of equal ones the first."""
    zone_of = {layer: at for at, zone in enumerate(core.zones) for layer in zone}
    taken: list[int] = []
    for layer in sorted(core.layers, key=lambda layer: -alpha[layer] if highest else alpha[layer]):
        in_zone = sum(zone_of[other] == zone_of[layer] for other in taken)
        if len(taken) < core.k and in_zone < core.most_a_zone:
            taken.append(layer)
    return tuple(sorted(taken))


def removals(core: Core, alpha: Floats | None, seed: int = 0) -> list[Removal]:
    """What each rule removes from the same core.

    Parameters
    ----------
    core
        Layers that may go; at least ``k`` of them.
    alpha : ndarray of float64, shape (L,), or None
        Exponent of each layer; None where it is not known, and then the rules that need it are left out.
    seed
        Of the random choices.
    """
    found = []
    if alpha is not None:
        found.append(Removal("spectral", None, by_exponent(alpha, core)))
    layers = tuple(core.layers)
    found.append(Removal("last", None, layers[len(layers) - core.k :]))
    found.append(Removal("first", None, layers[: core.k]))
    found += [Removal("random", draw, _drawn(layers, core.k, seed, draw)) for draw in range(DRAWS)]
    if alpha is not None:
        found.append(Removal("worst", None, by_exponent(alpha, core, highest=True)))
    return found


def lost_with(importance: Floats, removal: Removal) -> float:
    """Summed importance (L,) of the layers removed: what a model loses as far as layers act apart."""
    return float(importance[list(removal.removed)].sum())


def wins_over_last(core: Core, alpha: Floats, importance: Floats) -> list[int]:
    """Every k at which the layers of lowest exponent lose less importance than the last layers of the core."""
    found = []
    for k in range(1, len(core.layers) + 1):
        by_rule = {one.rule: lost_with(importance, one) for one in removals(replace(core, k=k), alpha)}
        if by_rule["spectral"] < by_rule["last"]:
            found.append(k)
    return found


def _drawn(layers: Sequence[int], k: int, seed: int, draw: int) -> tuple[int, ...]:
    chosen = np.random.default_rng((seed, draw)).choice(len(layers), size=k, replace=False)
    return tuple(sorted(layers[at] for at in chosen))
