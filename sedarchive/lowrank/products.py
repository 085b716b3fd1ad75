"""Which tensors of an adapter are the factors of which product, and by what it is scaled.

LoRA learns ``scale * B @ A`` beside a weight that stands still: the factors mean nothing by themselves (any invertible
matrix may go from one to the other), their product is the update of the model. Names and shapes tell the factors, the
settings of the adapter the scale; where they do not, nothing is formed, with the reason.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sedarchive.families import Family
from sedarchive.history import TensorSpec
from sedarchive.roles import Part, TensorRole, assign_roles

_FACTOR = re.compile(
    r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(?:\.(?P<adapter>(?!(?:weight|bias)\Z)\w+))?"
    r"(?:\.weight)?"
)
_WRAPPER = "base_model.model."
_LITERAL = re.compile(r"\^?(?:[\w-]|\\?\.)+")
_MOST_PATTERNS = 4096
_VARIANTS = ("use_dora", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config")
ADAPTER = "adapter_config"
"""Key of the run's config under which they stand."""
SETTINGS = ("peft_type", "r", "lora_alpha", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", *_VARIANTS)
"""Settings of an adapter that say what its product is."""


def adapter_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Settings of the adapter that the config of a run holds; None if it holds none."""
    settings = config.get(ADAPTER)
    return settings if isinstance(settings, Mapping) else None


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
    general = _obstacle(settings, pairs)
    formed, unformed = [], {}
    for pair in pairs:
        made = general or _product(pair, settings or {}, taken)
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


def _obstacle(settings: Mapping[str, Any] | None, pairs: list[_Pair]) -> str | None:
    """Why no product at all is formed; None if nothing speaks against it."""
    if settings is None:
        return (
            "its scale is not known: no adapter_config.json with the checkpoints, or several that differ; ingest again"
        )
    if settings.get("peft_type") != "LORA":
        return f"peft_type {str(settings.get('peft_type'))[:40]!r} makes another update than scale x B A"
    variants = [name for name in _VARIANTS if settings.get(name)]
    if variants:
        return f"{variants[0]}: the update of the model is another than scale x B A"
    if len({pair.adapter for pair in pairs}) > 1:
        return "several adapters, and one adapter_config.json"
    return None


def _product(pair: _Pair, settings: Mapping[str, Any], taken: set[str]) -> Product | str:
    """Product of a pair, or why there is none."""
    shapes = _shapes(pair, taken)
    if isinstance(shapes, str):
        return shapes
    outputs, rank, inputs = shapes
    module = pair.module.removeprefix(_WRAPPER)
    expected = _setting("r", "rank_pattern", module, settings)
    alpha = _setting("lora_alpha", "alpha_pattern", module, settings)
    if isinstance(expected, str) or isinstance(alpha, str):
        return expected if isinstance(expected, str) else str(alpha)
    if expected != rank:
        return f"the factors are of rank {rank}, adapter_config.json says {expected:g}"
    scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
    return Product(
        name=pair.name,
        weight=f"{pair.module}.weight",
        left=pair.factors["B"].name,
        right=pair.factors["A"].name,
        rank=rank,
        outputs=outputs,
        inputs=inputs,
        alpha=alpha,
        scale=scale,
        transposed=pair.embedding or bool(settings.get("fan_in_fan_out")),
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


def _setting(name: str, patterns: str, module: str, settings: Mapping[str, Any]) -> float | str:
    """Rank or alpha of a module as peft finds it, by the first pattern that ends its name; or why it is unknown."""
    exceptions = settings.get(patterns) or {}
    if not isinstance(exceptions, Mapping) or len(exceptions) > _MOST_PATTERNS:
        return f"{patterns} of adapter_config.json is no table that can be read"
    value = settings.get(name)
    for pattern, own in exceptions.items():
        if not _LITERAL.fullmatch(pattern):
            return f"{patterns} of adapter_config.json holds the expression {pattern[:80]!r}; only plain names are read"
        if _ends_with(module, pattern):
            value = own
            break
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return f"{name} of adapter_config.json is no positive number"
    return float(value)


def _ends_with(module: str, pattern: str) -> bool:
    """Whether peft takes a pattern for a module: it stands for the name, or for its end from a dot on.

    Patterns come from files that nobody vouches for, so they are compared as text and never run as expressions.
    """
    plain = pattern.removeprefix("^").replace("\\.", ".")
    return module == plain or (not pattern.startswith("^") and module.endswith(f".{plain}"))
