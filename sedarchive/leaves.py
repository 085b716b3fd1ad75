"""Leaves and scopes: the logical matrices of a run, and the groups of them that users name.

A *leaf* is one logical matrix (a part of a fused tensor, a whole tensor, or the product of the two factors of an
adapter). A
*scope* is a set of leaves; since Gram matrices add, a scope costs a sum.
Tied tensors are counted once; buffers and integers are no leaves.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from sedarchive.errors import UnknownNameError
from sedarchive.lowrank.products import Product
from sedarchive.roles import ATTENTION, MLP, ROLES, Part
from sedarchive.words import did_you_mean

DEFAULT_SCOPES = ("all", "trunk", "attention", "mlp", "layer:*")


@dataclass(frozen=True)
class Leaf:
    """One logical matrix, or one unsplit tensor of any number of axes."""

    name: str
    """``tensor`` or ``tensor:part``."""
    tensor: str
    """Name of its tensor, or of the product that it is."""
    part: Part | None
    layer: int | None
    role: str
    expert: int | None
    n_elements: int
    shape: tuple[int, int] | None
    """Rows and columns if it is a matrix."""
    contains: tuple[str, ...]
    """Roles in it: its own, or those of a fused tensor that is kept whole."""
    complete: bool
    """Whether every checkpoint of the run has it; grouped scopes hold only such leaves."""
    blocks: int = 1
    """Matrices of equal size that its elements are, one after the other, and that stand side by side in it."""
    product: Product | None = None
    """Two factors whose product it is; None if it is stored as it is."""
    factor_of: str | None = None
    """Product that stands for it in grouped scopes."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Tensors that it is made of."""
        return self.product.factors if self.product else (self.tensor,)


@dataclass(frozen=True)
class Scope:
    """A named set of leaves."""

    name: str
    leaves: tuple[Leaf, ...]
    incomplete: bool = False
    """Whether leaves that belong to it were left out, since they cannot be read."""

    def without(self, unreadable: Collection[str]) -> "Scope":
        """Return the scope without the leaves of some tensors."""
        kept = tuple(leaf for leaf in self.leaves if leaf.tensor not in unreadable)
        return Scope(self.name, kept, self.incomplete or len(kept) < len(self.leaves))

    def only(self, tensors: Collection[str]) -> "Scope":
        """Return the scope's leaves of some tensors."""
        return Scope(self.name, tuple(leaf for leaf in self.leaves if leaf.tensor in tensors), self.incomplete)

    @property
    def has_products(self) -> bool:
        """Whether a leaf of it is a product."""
        return any(leaf.product for leaf in self.leaves)

    @property
    def n_elements(self) -> int:
        """Parameters in the scope (p of the papers)."""
        return sum(leaf.n_elements for leaf in self.leaves)


def resolve_scopes(request: str, leaves: Sequence[Leaf]) -> list[Scope]:
    """Scopes that one ``--scope`` value names; those without a leaf are left out.

    Raises
    ------
    UnknownNameError
        If the value is not a scope; the message lists the forms.
    """
    name, _, globs = request.partition("=")
    if globs:
        _check_own_name(name, request)
        return _nonempty([Scope(name, _pick_named(leaves, globs.split(",")))])
    kind, _, value = request.partition(":")
    resolver = _RESOLVERS.get(kind)
    if resolver is None or (kind in _FIXED) == bool(value):
        raise UnknownNameError(_unknown(request))
    return _nonempty(resolver(request, value, leaves))


def scope_names(leaves: Sequence[Leaf]) -> list[str]:
    """Names of the scopes that some leaves fill, those of single tensors last."""
    requests = (*_FIXED, "layer:*", "role:*")
    grouped = [scope.name for request in requests for scope in resolve_scopes(request, leaves)]
    return [*grouped, *dict.fromkeys(f"tensor:{name}" for leaf in leaves for name in (leaf.tensor, leaf.name))]


def _check_own_name(name: str, request: str) -> None:
    """Refuse a name that means, or looks like, another scope: the tables tell scopes apart by name alone."""
    if name in _FIXED or not re.fullmatch(r"\w[\w.-]*", name):
        raise UnknownNameError(
            f"{request!r}: {name!r} cannot name a scope of your own; use letters, digits, _ . - and none of "
            f"{', '.join(_FIXED)}"
        )


def _unknown(request: str) -> str:
    return (
        f"{request!r} is not a scope{did_you_mean(request, _FORMS)}; use all, trunk, attention, mlp, layer:N, "
        "layer:A-B, layer:*, role:ROLE, role:*, tensor:NAME or NAME=glob,glob"
    )


def _nonempty(scopes: Iterable[Scope]) -> list[Scope]:
    return [scope for scope in scopes if scope.leaves]


def _pick(leaves: Sequence[Leaf], keep: Callable[[Leaf], bool]) -> tuple[Leaf, ...]:
    """Complete leaves that qualify, products for their factors: a tensor absent at some step would end every group."""
    return tuple(leaf for leaf in leaves if leaf.complete and leaf.factor_of is None and keep(leaf))


def _pick_named(leaves: Sequence[Leaf], patterns: Sequence[str]) -> tuple[Leaf, ...]:
    """Complete leaves that globs name: factors too, unless their product is named with them."""
    named = [leaf for leaf in leaves if leaf.complete and _matches(leaf, patterns)]
    products = {leaf.tensor for leaf in named if leaf.product}
    return tuple(leaf for leaf in named if leaf.factor_of not in products)


def _matches(leaf: Leaf, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in (leaf.name, leaf.tensor) for pattern in patterns)


def _is_matrix_of(leaf: Leaf, roles: Sequence[str]) -> bool:
    """Whether a leaf is a matrix that holds nothing but these roles."""
    return leaf.shape is not None and all(role in roles for role in leaf.contains)


_FIXED: dict[str, Callable[[Leaf], bool]] = {
    "all": lambda leaf: True,
    "trunk": lambda leaf: _is_matrix_of(leaf, ATTENTION + MLP),
    "attention": lambda leaf: _is_matrix_of(leaf, ATTENTION),
    "mlp": lambda leaf: _is_matrix_of(leaf, MLP),
}


def _fixed(request: str, value: str, leaves: Sequence[Leaf]) -> list[Scope]:
    return [Scope(request, _pick(leaves, _FIXED[request]))]


def _layers(request: str, value: str, leaves: Sequence[Leaf]) -> list[Scope]:
    if value == "*":
        layers = sorted({leaf.layer for leaf in leaves if leaf.layer is not None})
        return [scope for layer in layers for scope in _layers(f"layer:{layer}", str(layer), leaves)]
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", value)
    if match is None:
        raise UnknownNameError(_unknown(request))
    first, last = int(match[1]), int(match[2] or match[1])
    return [Scope(request, _pick(leaves, lambda leaf: leaf.layer is not None and first <= leaf.layer <= last))]


def _roles(request: str, value: str, leaves: Sequence[Leaf]) -> list[Scope]:
    if value == "*":
        return [scope for role in ROLES for scope in _roles(f"role:{role}", role, leaves)]
    if value not in ROLES:
        raise UnknownNameError(f"{value!r} is not a role{did_you_mean(value, ROLES)}; the roles are {', '.join(ROLES)}")
    return [Scope(request, _pick(leaves, lambda leaf: leaf.shape is not None and leaf.role == value))]


def _tensors(request: str, value: str, leaves: Sequence[Leaf]) -> list[Scope]:
    """A tensor's own scope, also when it is absent at some steps."""
    return [Scope(request, tuple(leaf for leaf in leaves if value in (leaf.name, leaf.tensor)))]


_RESOLVERS: dict[str, Callable[[str, str, Sequence[Leaf]], list[Scope]]] = {
    **dict.fromkeys(_FIXED, _fixed),
    "layer": _layers,
    "role": _roles,
    "tensor": _tensors,
}
_FORMS = (*_FIXED, "layer:*", "role:*", *(f"role:{role}" for role in ROLES), "tensor:")
"""What a mistaken scope is compared with."""
