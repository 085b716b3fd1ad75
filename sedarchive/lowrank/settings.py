"""What the settings of an adapter say of the scale of its products."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_WRAPPER = "base_model.model."
_LITERAL = re.compile(r"\^?(?:[\w-]|\\?\.)+")
_MOST_PATTERNS = 4096
_LARGEST = 1e30
_VARIANTS = ("use_dora", "use_qalora", "use_bdlora", "kasa_config", "monteclora_config")
ADAPTER = "adapter_config"
"""Key of the run's config under which they stand."""
SETTINGS = ("peft_type", "r", "lora_alpha", "use_rslora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", *_VARIANTS)
"""Settings of an adapter that say what its product is."""


def adapter_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Settings of the adapter that the config of a run holds; None if it holds none."""
    settings = config.get(ADAPTER)
    return settings if isinstance(settings, Mapping) else None


def obstacle(settings: Mapping[str, Any] | None) -> str | None:
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
    return None


@dataclass(frozen=True)
class Scale:
    """Scale of one product."""

    alpha: float
    factor: float
    """alpha / rank, or alpha / sqrt(rank) of a rank-stabilised adapter."""


@dataclass(frozen=True)
class _Setting:
    """Rank, or alpha, of all modules: one number, and the exceptions that patterns of names tell.

    Patterns come from files that nobody vouches for. They are compared as text, and never run as expressions.
    """

    name: str
    value: object
    exact: Mapping[str, tuple[int, object]]
    """Name of a module -> place of its pattern, own value."""
    ends: Mapping[str, tuple[int, object]]
    """The same for names, or their ends from a dot on."""
    problem: str | None = None
    """Why the exceptions cannot be read."""

    @classmethod
    def of(cls, settings: Mapping[str, Any], name: str, table: str) -> "_Setting":
        patterns = settings.get(table) or {}
        if not isinstance(patterns, Mapping) or len(patterns) > _MOST_PATTERNS:
            return cls(name, None, {}, {}, f"{table} of adapter_config.json is no table that can be read")
        exact: dict[str, tuple[int, object]] = {}
        ends: dict[str, tuple[int, object]] = {}
        for place, (pattern, own) in enumerate(patterns.items()):
            if not _LITERAL.fullmatch(pattern):
                why = f"{table} of adapter_config.json holds the expression {pattern[:80]!r}; only plain names are read"
                return cls(name, None, {}, {}, why)
            known = exact if pattern.startswith("^") else ends
            known.setdefault(pattern.removeprefix("^").replace("\\.", "."), (place, own))
        return cls(name, settings.get(name), exact, ends)

    def at(self, module: str) -> float | str:
        """Value of one module, as peft finds it: by the first pattern that stands for it; or why none is known."""
        if self.problem:
            return self.problem
        longest = max(map(len, self.ends), default=0)
        first = max(len(module) - longest - 1, 0)
        endings = [module, *(module[at + 1 :] for at in range(first, len(module)) if module[at] == ".")]
        found = [self.ends[end] for end in endings if end in self.ends]
        found += [self.exact[module]] if module in self.exact else []
        value = min(found, key=lambda one: one[0])[1] if found else self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _LARGEST:
            return f"{self.name} of adapter_config.json is no positive number"
        return float(value)


@dataclass(frozen=True)
class Scales:
    """What the settings say of the scale of each module."""

    rank: _Setting
    alpha: _Setting
    stabilised: bool
    transposed: bool

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "Scales":
        return cls(
            _Setting.of(settings, "r", "rank_pattern"),
            _Setting.of(settings, "lora_alpha", "alpha_pattern"),
            bool(settings.get("use_rslora")),
            bool(settings.get("fan_in_fan_out")),
        )

    def of_module(self, module: str, rank: int) -> Scale | str:
        """Scale of the product of factors of some rank, or why it is not known."""
        name = module.removeprefix(_WRAPPER)
        expected, alpha = self.rank.at(name), self.alpha.at(name)
        if isinstance(expected, str) or isinstance(alpha, str):
            return expected if isinstance(expected, str) else str(alpha)
        if expected != rank:
            return f"the factors are of rank {rank}, adapter_config.json says {expected:g}"
        return Scale(alpha, alpha / (math.sqrt(rank) if self.stabilised else rank))
