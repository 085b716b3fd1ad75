"""What a run is made of: its tensors with their roles, their ties, and the leaves they give."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any

from sedarchive.archive import RunArchive
from sedarchive.archive.run import AnalysisTensor
from sedarchive.errors import HistoryError
from sedarchive.families import Family
from sedarchive.gram import RoundingUnit
from sedarchive.history import DTYPES, TensorSpec
from sedarchive.leaves import Leaf
from sedarchive.lowrank.products import Product, Products, find_products, product_roles
from sedarchive.lowrank.settings import adapter_of
from sedarchive.plan.grid import TensorLayout
from sedarchive.plan.products import ProductLayout
from sedarchive.roles import Architecture, Part, TensorRole, assign_roles, check_heads


@dataclass(frozen=True)
class Anatomy:
    """Tensors, roles, ties and leaves of one run; pickled, it is the run and how to work them out."""

    run: RunArchive
    architecture: Architecture
    tensors: Mapping[str, AnalysisTensor]
    roles: Mapping[str, TensorRole]
    """Role of every analysed tensor."""
    tied_to: Mapping[str, str]
    """Tensor -> the one it is counted with."""
    leaves: tuple[Leaf, ...]
    heads: int | None = None
    """Attention heads that were given, where no config says."""
    kv_heads: int | None = None
    families: tuple[Family, ...] = ()
    """Families of the user's own."""
    products: Products = field(default_factory=Products)
    """Products of the factors among the tensors."""
    product_roles: Mapping[str, TensorRole] = field(default_factory=dict)
    """Role of the weight that each product is added to, by the name of the product."""

    def __reduce__(self) -> tuple[Any, ...]:
        return anatomy, (self.run, self.heads, self.kv_heads, self.families)

    @property
    def n_parameters(self) -> int:
        """Parameters, ties once, of tensors present at the last checkpoint."""
        last = len(self.run.commits) - 1
        stored = [leaf for leaf in self.leaves if not leaf.product]
        return sum(leaf.n_elements for leaf in stored if last in self.tensors[leaf.tensor].positions)

    def leaves_of(self, tensor: str) -> Sequence[Leaf]:
        """Leaves of one tensor or product, in order."""
        return self._leaves_by_tensor.get(tensor, [])

    @cached_property
    def products_by_name(self) -> dict[str, Product]:
        """Products by their names."""
        return {product.name: product for product in self.products.formed}

    @cached_property
    def _said_of_factors(self) -> dict[str, str]:
        return self.products.reasons()

    @cached_property
    def _leaves_by_tensor(self) -> dict[str, list[Leaf]]:
        found: dict[str, list[Leaf]] = {}
        for leaf in self.leaves:
            found.setdefault(leaf.tensor, []).append(leaf)
        return found

    def layout(self, tensor: str) -> TensorLayout:
        """Return what planning needs of a tensor."""
        analysed = self.tensors[tensor]
        widest = max(analysed.arrays, key=lambda info: info.spec.row_bytes)
        leaves = self.leaves_of(tensor)
        return TensorLayout(
            tensor,
            widest.grid,
            widest.spec.row_bytes,
            widest.spec.columns,
            decoded_itemsize=8 if "float64" in analysed.dtypes else 4,
            n_leaves=len(leaves),
            part_elements=max((leaf.n_elements for leaf in leaves if leaf.part or leaf.blocks > 1), default=0),
            part_rows=1 if any(leaf.part and leaf.part.row is not None for leaf in leaves) else 0,
            converted=not self._read_in_place(analysed),
            compressed=any(self.run.is_compressed(info) for info in analysed.arrays),
        )

    def product_layout(self, product: Product, tensors: Collection[str] = ()) -> ProductLayout:
        """Return what planning needs of a product; its factors among ``tensors`` are wanted for themselves too."""
        left, right = (self.layout(factor) for factor in product.factors)
        beside = tuple(name for name in product.factors if name in tensors and self._is_whole(name))
        return ProductLayout(product.name, left, right, product.rank, len(self.leaves_of(product.name)), beside)

    def _is_whole(self, tensor: str) -> bool:
        """Whether a tensor is one leaf."""
        return [leaf.part for leaf in self.leaves_of(tensor)] == [None]

    def product(self, name: str) -> Product | None:
        """Product of that name; None if it is a tensor."""
        return self.products_by_name.get(name)

    def positions(self, leaf: Leaf) -> list[int]:
        """Indices of the checkpoints, in step order, that have all that a leaf is made of."""
        first, *others = (self.tensors[name].positions for name in leaf.sources)
        return sorted(set(first).intersection(*others))

    def rounding_unit(self, tensor: str) -> RoundingUnit:
        """Unit of the coarsest dtype that a tensor was stored in."""
        coarsest = min((DTYPES[name] for name in self.tensors[tensor].dtypes), key=lambda dtype: dtype.fraction_bits)
        return RoundingUnit(coarsest.fraction_bits, coarsest.min_exponent)

    def _read_in_place(self, analysed: AnalysisTensor) -> bool:
        """Whether the values of a tensor are computed with as they are stored, in the order in which they are."""
        slots = [commit.slot for commit in self.run.commits]
        whole = len(analysed.arrays) == 1 and len(analysed.positions) == len(slots) and slots == sorted(slots)
        return whole and analysed.arrays[0].spec.dtype in ("float32", "float64")

    def skipped_reason(self, tensor: str) -> str | None:
        """Why a tensor, or a part of its history, is left out of an analysis; None if it is not."""
        role = self.roles[tensor]
        missing = len(self.run.commits) - len(self.tensors[tensor].positions)
        if tensor in self.tied_to:
            return f"tied to {self.tied_to[tensor]}, counted once"
        if role.kind in ("buffer", "integer"):
            return role.reason or f"{role.kind}, no parameter"
        if missing:
            return f"absent at {missing} of {len(self.run.commits)} checkpoints: in its own scope only"
        return self._said_of_factors.get(tensor, role.reason)


def anatomy(
    run: RunArchive, heads: int | None = None, kv_heads: int | None = None, families: tuple[Family, ...] = ()
) -> Anatomy:
    """Work out roles, ties and leaves of a run from its names, shapes and config.

    Numbers of heads given win over those that were given to ``ingest``, and these over the config's; ``families`` of
    the user's own go before the shipped ones.
    """
    tensors = run.tensors

    def assign(some: list[AnalysisTensor]) -> Architecture:
        specs = {tensor.tensor: TensorSpec(tensor.tensor, tensor.spec.dtype, tensor.spec.shape) for tensor in some}
        return assign_roles(specs, run.config, heads, kv_heads, families)

    architecture = assign([tensor for tensor in tensors.values() if tensor.name == tensor.tensor])
    roles = dict(architecture.roles)
    for tensor in tensors.values():  # a tensor that changed its shape has a role for each shape
        if tensor.name != tensor.tensor:
            other = assign([tensor]).roles[tensor.tensor]
            roles[tensor.name] = replace(other, tensor=tensor.name)
    tied_to = _ties(run, architecture)
    products = find_products((tensor.spec for tensor in tensors.values()), adapter_of(run.config))
    own_roles = product_roles(products, run.config, heads, kv_heads, families)
    leaves = tuple(
        leaf
        for name, tensor in tensors.items()
        if name not in tied_to and roles[name].kind not in ("buffer", "integer")
        for leaf in _leaves(tensor, roles[name], len(run.commits))
    )
    plain = Anatomy(run, architecture, tensors, roles, tied_to, leaves, heads, kv_heads, families)
    return replace(plain, leaves=_with_products(plain, products, own_roles), products=products, product_roles=own_roles)


def _with_products(plain: Anatomy, products: Products, roles: Mapping[str, TensorRole]) -> tuple[Leaf, ...]:
    """Leaves of the tensors, which know the products that stand for them, and those of the products."""
    product_of = {factor: product.name for product in products.formed for factor in product.factors}
    leaves = [replace(leaf, factor_of=product_of.get(leaf.tensor)) for leaf in plain.leaves]
    for product in products.formed:
        complete = all(len(plain.tensors[name].positions) == len(plain.run.commits) for name in product.factors)
        leaves += _product_leaves(product, roles[product.name], complete)
    return tuple(leaves)


def _product_leaves(product: Product, role: TensorRole, complete: bool) -> list[Leaf]:
    spec = TensorSpec(product.name, "float32", product.shape)
    whole = Leaf(
        name=product.name,
        tensor=product.name,
        part=None,
        layer=role.layer,
        role=role.role,
        expert=role.expert,
        n_elements=product.n_elements,
        shape=product.shape,
        contains=role.contains or (role.role,),
        complete=complete,
        product=product,
    )
    return [_part_leaf(whole, spec, part) for part in role.parts] or [whole]


def check_some_have(anatomies: Sequence[Anatomy], heads: int | None, kv_heads: int | None) -> None:
    """Refuse numbers of heads that no run can have.

    Raises
    ------
    HistoryError
        If the model of every run contradicts them.
    """
    errors = []
    for one in anatomies:
        try:
            check_heads(one.architecture, heads, kv_heads)
        except HistoryError as error:
            errors.append(error)
    if errors and len(errors) == len(anatomies):
        raise errors[0]


def _ties(run: RunArchive, architecture: Architecture) -> dict[str, str]:
    """Ties that hold at every step: by storage, or by config and equal digests."""
    shared: dict[str, set[str | None]] = {}
    for commit in run.commits:
        for name, stored in commit.tensors.items():
            shared.setdefault(name, set()).add(stored.shared_with)
    tied = {name: owner for name, owners in shared.items() for owner in owners if owner and len(owners) == 1}
    if architecture.tied_by_config:
        for name, owner in architecture.tie_candidates:
            both = all(name in commit.tensors and owner in commit.tensors for commit in run.commits)
            if name not in tied and both and run.digests(name) == run.digests(owner):
                tied[name] = owner
    return tied


def _leaves(tensor: AnalysisTensor, role: TensorRole, n_checkpoints: int) -> list[Leaf]:
    spec = tensor.spec
    whole = Leaf(
        name=spec.name,
        tensor=spec.name,
        part=None,
        layer=role.layer,
        role=role.role,
        expert=role.expert,
        n_elements=spec.n_elements,
        shape=role.matrix.shape if role.matrix else None,
        contains=role.contains or (role.role,),
        complete=len(tensor.positions) == n_checkpoints,
        blocks=role.matrix.blocks if role.matrix else 1,
    )
    return [_part_leaf(whole, spec, part) for part in role.parts] or [whole]


def _part_leaf(whole: Leaf, spec: TensorSpec, part: Part) -> Leaf:
    shape = list(part.shape or spec.shape)
    if part.shape is None:
        shape[part.axis] = part.length(shape[part.axis])
    return replace(
        whole,
        name=f"{whole.name}:{part.name}",
        part=part,
        role=part.role,
        expert=whole.expert if part.row is None else part.row,
        n_elements=prod(shape),
        shape=(shape[0], shape[1]) if len(shape) == 2 else None,
        contains=whole.contains if part.role == whole.role else (part.role,),
        blocks=1,
    )
