"""Which tensors of an adapter are the factors of which product, and by what it is scaled.

LoRA learns ``scale * B @ A`` beside a weight that stands still: the factors mean nothing by themselves (any invertible
matrix may go from one to the other), their product is the update of the model. Names and shapes tell the factors, the
settings of the adapter the scale; where they do not, nothing is formed, with the reason.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sedarchive.families import Family
from sedarchive.history import TensorSpec
from sedarchive.lowrank.settings import Scales, obstacle
from sedarchive.roles import Part, TensorRole, assign_roles

_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(?:\.(?P<adapter>(?!(?:weight|bias)\Z)\w+))?"
    r"(?:\.weight)?"
)


@dataclass(frozen=True)
class Product:
    """The matrix ``scale * left @ right``, as it is added to a weight."""

    name: str
    """``<module>.lora``, with the adapter's name where the tensors have it."""
    weight: str
    """Name of the weight that it is added to."""
    left: str
    """Tensor of the left factor, B (outputs, rank)."""
    right: str
    """Tensor of the right factor, A (rank, inputs)."""
    rank: int
    outputs: int
    inputs: int
    alpha: float
    scale: float
    """alpha / rank, or alpha / sqrt(rank) of a rank-stabilised adapter."""
    transposed: bool
    """Whether the weight lies as inputs x outputs, so that the product is added transposed."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, as they lie in the weight."""
        return (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)

    @property
    def n_elements(self) -> int:
        return self.outputs * self.inputs

    @property
    def factors(self) -> tuple[str, str]:
        return self.left, self.right

    def is_of_left(self, part: Part) -> bool:
        """Whether a part of the weight is some rows of B; some columns of A otherwise."""
        return (part.axis == 0) is not self.transposed

    def describe(self) -> str:
        """What it is, in a few words."""
        turned = ", transposed" if self.transposed else ""
        return f"product {self.scale:g} x B A of rank {self.rank} (alpha {self.alpha:g}){turned}, never formed densely"


@dataclass(frozen=True)
class Products:
    """Products of one checkpoint."""

    formed: tuple[Product, ...] = ()
    """In the order of their names."""
    unformed: Mapping[str, str] = field(default_factory=dict)
    """Factor of no product -> why."""

    def reasons(self, shown: Callable[[str], str] = str) -> dict[str, str]:
        """What is said of each factor; ``shown`` is how the name of its product is written."""
        formed = {
            factor: f"factor of {shown(product.name)}, which stands for it in grouped scopes"
            for product in self.formed
            for factor in product.factors
        }
        why = {name: f"factor of a low-rank adapter, analysed by itself: {why}" for name, why in self.unformed.items()}
        return formed | why


@dataclass
class _Pair:
    """Factors that one module and adapter name have."""

    module: str
    adapter: str
    embedding: bool
    factors: dict[str, TensorSpec] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.module}.lora" + (f".{self.adapter}" if self.adapter else "")


def find_products(specs: Iterable[TensorSpec], settings: Mapping[str, Any] | None) -> Products:
    """Products of the factors among some tensors.

    Parameters
    ----------
    specs
        Tensors of a checkpoint, by the names that peft gives.
    settings
        Those of :data:`SETTINGS` that the adapter's config has; None if they are not known.
    """
    known = list(specs)
    pairs = _pairs(known)
    taken = {spec.name for spec in known}
    general, scales = _obstacle(settings, pairs), Scales.of(settings or {})
    formed, unformed = [], {}
    for pair in pairs:
        made = general or _product(pair, scales, taken)
        if isinstance(made, Product):
            formed.append(made)
        else:
            unformed.update(dict.fromkeys((spec.name for spec in pair.factors.values()), made))
    return Products(tuple(sorted(formed, key=lambda product: product.name)), unformed)


def product_roles(
    products: Products,
    config: Mapping[str, Any],
    heads: int | None = None,
    kv_heads: int | None = None,
    families: Sequence[Family] = (),
) -> dict[str, TensorRole]:
    """Roles of the products by name: those of the weights that they are added to.

    The other arguments are those of :func:`sedarchive.roles.assign_roles`.
    """
    specs = {one.weight: TensorSpec(one.weight, "float32", one.shape) for one in products.formed}
    roles = assign_roles(specs, config, heads, kv_heads, families).roles
    return {one.name: roles[one.weight] for one in products.formed}


def _pairs(specs: Iterable[TensorSpec]) -> list[_Pair]:
    pairs: dict[tuple[str, str, bool], _Pair] = {}
    for spec in specs:
        match = _FACTOR.fullmatch(spec.name)
        if match:
            key = match["module"], match["adapter"] or "", bool(match["embedding"])
            pairs.setdefault(key, _Pair(*key)).factors[match["factor"]] = spec
    return list(pairs.values())


def _obstacle(settings: Mapping[str, Any] | None, pairs: Sequence[_Pair]) -> str | None:
    """Why no product at all is formed; None if nothing speaks against it."""
    several = len({pair.adapter for pair in pairs}) > 1
    return obstacle(settings) or ("several adapters, and one adapter_config.json" if several else None)


def _product(pair: _Pair, scales: Scales, taken: set[str]) -> Product | str:
    """Product of a pair, or why there is none."""
    shapes = _shapes(pair, taken)
    if isinstance(shapes, str):
        return shapes
    outputs, rank, inputs = shapes
    scale = scales.of_module(pair.module, rank)
    if isinstance(scale, str):
        return scale
    return Product(
        name=pair.name,
        weight=f"{pair.module}.weight",
        left=pair.factors["B"].name,
        right=pair.factors["A"].name,
        rank=rank,
        outputs=outputs,
        inputs=inputs,
        alpha=scale.alpha,
        scale=scale.factor,
        transposed=pair.embedding or scales.transposed,
    )


def _shapes(pair: _Pair, taken: set[str]) -> tuple[int, int, int] | str:
    """Outputs, rank and inputs of a pair, or why it has no product."""
    left, right = pair.factors.get("B"), pair.factors.get("A")
    if left is None or right is None:
        return "its other factor is not in the checkpoints"
    if pair.name in taken:
        return f"a tensor of its own has the name {pair.name}"
    if not left.is_float or not right.is_float:
        return "its elements are no floating-point numbers"
    if len(left.shape) != 2 or len(right.shape) != 2:
        return f"factors of {len(right.shape)} and {len(left.shape)} axes, as of a convolution, are kept by themselves"
    if left.shape[1] != right.shape[0] or not left.n_elements or not right.n_elements:
        return f"factors of shapes {left.shape} and {right.shape} have no product"
    return left.shape[0], left.shape[1], right.shape[1]
