"""Tensor names without the wrappers that training puts around a model."""

from collections import Counter
from collections.abc import Iterable

_WRAPPERS = frozenset({"_orig_mod", "module", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})


def clean_name(name: str) -> str:
    """`name` without the parts that torch.compile, DDP, FSDP and activation checkpointing insert."""
    *prefix, last = name.split(".")
    return ".".join([part for part in prefix if part not in _WRAPPERS] + [last])


def clean_names(names: Iterable[str]) -> dict[str, str]:
    """Raw name to cleaned name; names that cleaning would make equal stay as they are."""
    cleaned = {name: clean_name(name) for name in names}
    count = Counter(cleaned.values())
    return {raw: clean if count[clean] == 1 else raw for raw, clean in cleaned.items()}
