r"""Families of architectures: declarative tables of tensor names, one TOML file each.

To add a family, put a file beside this one, or give it as ``--arch FILE``::

    name = "gpt2"                    # shown as the architecture of a run
    model_types = ["gpt2"]           # the config's ``model_type`` that means this family
    tied_by_default = true           # head tied to the embedding if the config is silent (may be left out)
    needs_model_type = false         # true: names alone do not tell it from a sibling (may be left out)
    evidence = "..."                 # what its layout rests on, where transformers has no such model (may be left out)
    yields_to_model_type = false     # true: a config that names another model type rules it out (may be left out)
    block = '(?:.*?\.)?h\.(?P<layer>\d+)\.'   # what precedes the tensors of a layer

    [[tensor]]
    pattern = '{block}attn\.c_attn\.weight'     # matches the whole name; {block} is the line above
    role = "other"                   # one of ROLES
    shape = "wide"                   # one of SHAPES (may be left out)
    required = true                  # a run without such a tensor is of another family (may be left out)
    if_present = 'experts\.'         # the entry counts only if some name holds this (may be left out)
    view = "experts"                 # one of VIEWS: how more than two axes are looked at (may be left out)
    reason = "..."                   # a remark for the reader of the tables (may be left out)
    split = {rule = "thirds", axis = 1, parts = ["query", "key", "value"]}   # a fused tensor (may be left out)

The first entry that matches a name wins. ``plain.toml`` serves every name that
the chosen family does not know; ``buffers.toml`` comes before all families.
Wrapper components (``_orig_mod``, ``_fsdp_wrapped_module``, ...) are gone before
names are matched.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from sedarchive.errors import SedarchiveError, UnknownNameError
from sedarchive.words import did_you_mean

ROLES = (
    "query", "key", "value", "output", "gate", "up", "down",
    "embedding", "position", "unembedding", "norm", "bias", "router", "other",
)  # fmt: skip
"""What a tensor does in a transformer; ``other`` is everything else."""

SPLITS = ("thirds", "halves", "quarters", "alternate", "sizes", "per_head", "grouped", "lengths", "shared", "unknown")
"""Layouts of a fused tensor along one axis, for h query heads, k key-value heads and g = h / k:
``thirds``, ``halves``: equal blocks, one a part; ``quarters``: four times equal blocks, one a part; ``alternate``:
index by index; ``sizes``: blocks of h, k and k heads;
``per_head``: the parts alternate head by head; ``grouped``: k groups of g query heads, a key and a value head;
``lengths``: head by head, parts of unequal lengths, which the config tells; ``shared``: what all parts are made from,
kept whole; ``unknown``: the shape does not tell, the tensor is kept whole."""

LENGTHS = ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")
"""Entries of a config that a split by ``lengths`` may name."""

SHAPES = ("vector", "matrix", "tall", "wide", "mask", "stack", "kernel")
"""``vector``: 0-D or 1-D; ``matrix``: 2-D; ``tall``, ``wide``: 2-D with rows = 3 columns, columns = 3 rows;
``mask``: 2-D or more, the last two axes equal; ``stack``: 3-D; ``kernel``: 4-D or 5-D; ``""``: any."""

VIEWS = ("experts", "beside", "below", "flat", "vector")
"""Matrices in a tensor of other than two axes. ``experts``: (experts, m, n), a matrix each; ``beside``: (h, m, n), the
h matrices side by side in one (m, h n); ``below``: (h, m, n), one below the other in one (h m, n); ``flat``: a
convolution (out, in, ...), one matrix (out, in ...); ``vector``: no matrix, whatever the axes; ``""``: 2-D is one."""


_LONGEST_FILE = 2**20


@dataclass(frozen=True)
class Split:
    """How the parts of a fused tensor lie along one axis."""

    rule: str
    """One of :data:`SPLITS`."""
    axis: int
    """Axis of the matrix: 0 rows, 1 columns. A fused bias has axis 0."""
    parts: tuple[str, ...]
    """Roles of the parts, in the order in which they lie."""
    lengths: tuple[str, ...] = ()
    """Of :data:`LENGTHS` one a part, for the rule ``lengths``."""


@dataclass(frozen=True)
class Rule:
    """One entry of a family: the names it stands for and what they are."""

    pattern: re.Pattern[str]
    role: str
    shape: str = ""
    required: bool = False
    if_present: re.Pattern[str] | None = None
    reason: str | None = None
    split: Split | None = None
    view: str = ""
    """One of :data:`VIEWS`, or ``""``."""

    def matches(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the entry stands for a tensor of this name and shape."""
        return has_shape(shape, self.shape) and self.pattern.fullmatch(name) is not None


@dataclass(frozen=True)
class Family:
    """A family of architectures as its file declares it."""

    name: str
    block: re.Pattern[str]
    rules: tuple[Rule, ...]
    model_types: tuple[str, ...] = ()
    tied_by_default: bool | None = None
    needs_model_type: bool = False
    yields_to_model_type: bool = False
    evidence: str = ""
    """What its layout rests on, where it is not the forward pass of a model of transformers."""


def has_shape(shape: tuple[int, ...], kind: str) -> bool:
    """Whether a tensor's shape is of one of the kinds of :data:`SHAPES` (or ``""``)."""
    match kind:
        case "vector":
            return len(shape) <= 1
        case "matrix":
            return len(shape) == 2
        case "tall":
            return len(shape) == 2 and shape[0] == 3 * shape[1]
        case "wide":
            return len(shape) == 2 and shape[1] == 3 * shape[0]
        case "mask":
            return len(shape) >= 2 and shape[-1] == shape[-2]
        case "stack":
            return len(shape) == 3
        case "kernel":
            return len(shape) in (4, 5)
    return True


@cache
def load_families() -> Mapping[str, Family]:
    """Read all families shipped with the package, by name, in alphabetical order.

    Raises
    ------
    SedarchiveError
        If a file is not valid TOML or declares something that does not exist.
    """
    files = sorted(resources.files(__name__).iterdir(), key=lambda file: file.name)
    families = [parse_family(file.read_text("utf-8"), file.name) for file in files if file.name.endswith(".toml")]
    return {family.name: family for family in families}


def shipped_text(name: str) -> str:
    """Text of the file of a shipped family.

    Raises
    ------
    UnknownNameError
        If there is no such family.
    """
    if name not in load_families():
        near = did_you_mean(name, load_families())
        raise UnknownNameError(f"there is no family {name!r}{near}; there are {', '.join(load_families())}")
    return (resources.files(__name__) / f"{name}.toml").read_text("utf-8")


def family_text(path: Path) -> str:
    """Text of a family file of the user's own, for :func:`parse_family`.

    Raises
    ------
    SedarchiveError
        If it cannot be read as text, or is longer than a family file ever is.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST_FILE + 1)
        if len(content) > _LONGEST_FILE:
            raise ValueError(f"it is longer than {_LONGEST_FILE} bytes")
        return content.decode()
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else error
        raise SedarchiveError(
            f"the family file {path} cannot be read: {cause}; see `sedarchive arch show NAME` for an example"
        ) from error


def parse_family(text: str, source: str) -> Family:
    """Read one family from the text of its file.

    Parameters
    ----------
    text
        TOML as described at the top of this module.
    source
        Name of the file, for messages.

    Raises
    ------
    SedarchiveError
        If the text is not valid TOML or declares something that does not exist.
    """
    try:
        return _family(tomllib.loads(text))
    except (re.error, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        cause = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
        raise SedarchiveError(
            f"the family file {source} cannot be used: {cause}; `sedarchive arch show NAME` prints one as an example"
        ) from error


def _family(declared: dict[str, Any]) -> Family:
    block = declared.pop("block", "")
    rules = tuple(_rule(entry, block) for entry in declared.pop("tensor"))
    model_types = tuple(declared.pop("model_types", ()))
    family = Family(block=re.compile(block or r"(?!)"), rules=rules, model_types=model_types, **declared)
    if not isinstance(family.name, str) or not family.name.isprintable():
        raise ValueError(f"the name {family.name!r} is no text of one line")
    if block and "layer" not in family.block.groupindex:
        raise ValueError(f"block = {block!r} has no group (?P<layer>...)")
    return family


def _rule(entry: dict[str, Any], block: str) -> Rule:
    unnamed = block.replace("?P<layer>", "")  # a pattern may hold the block twice, a name only once
    pattern = re.compile(entry.pop("pattern").replace("{block}", unnamed))
    role, shape = entry.pop("role"), entry.pop("shape", "")
    _check(role, ROLES, "role")
    _check(shape, ("", *SHAPES), "shape")
    _check(entry.get("view", ""), ("", *VIEWS), "view")
    present = entry.pop("if_present", None)
    split = entry.pop("split", None)
    return Rule(
        pattern,
        role,
        shape,
        if_present=None if present is None else re.compile(present),
        split=None if split is None else _split(**split),
        **entry,
    )


def _split(rule: str, parts: list[str], axis: int = 0, lengths: Sequence[str] = ()) -> Split:
    _check(rule, SPLITS, "split rule")
    for length in lengths:
        _check(length, LENGTHS, "length in a config")
    for part in parts:
        _check(part, ROLES, "role")
    if axis not in (0, 1):
        raise ValueError(f"axis {axis} is neither 0 (rows) nor 1 (columns)")
    if len(set(parts)) < max(len(parts), 2):
        raise ValueError(f"a split needs two or more different parts, not {parts}")
    if len(parts) != {"thirds": 3, "halves": 2}.get(rule, len(parts)):
        raise ValueError(f"the rule {rule} does not split into {len(parts)} parts: {parts}")
    if len(lengths) != (len(parts) if rule == "lengths" else 0):
        raise ValueError(f"the rule {rule} with parts {parts} does not go with the lengths {list(lengths)}")
    if rule in ("sizes", "grouped") and sorted(parts) != ["key", "query", "value"]:
        raise ValueError(f"the rule {rule} splits into query, key and value, not {parts}")
    return Split(rule, axis, tuple(parts), tuple(lengths))


def _check(word: str, allowed: tuple[str, ...], what: str) -> None:
    if word not in allowed:
        known = list(filter(None, allowed))
        raise ValueError(f"{word!r} is not a {what}{did_you_mean(word, known)}; there are {', '.join(known)}")
