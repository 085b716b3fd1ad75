"""Presets: the choices of a paper's authors, each with its source, where the defaults differ or could.

A preset is followed beside the defaults and never instead of them: its rows say whose they are.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

T = TypeVar("T")

CODE, TEXT, OURS = "code", "text", "ours"
"""Where a choice was found: in the authors' scripts, in the text of the paper, or nowhere (the most defensible one)."""
_SED = "SED (arXiv 2603.15678)"
_SCRIPTS = f"{_SED}, the authors' scripts"


@dataclass(frozen=True)
class Choice(Generic[T]):
    """One choice, and where it was found."""

    value: T
    evidence: str
    source: str


@dataclass(frozen=True)
class LagSearch:
    """How two series are correlated over lags; a positive lag means that the geometry leads."""

    name: str
    detrend: str
    """Polynomial in step that is taken out of both series: none, linear or cubic."""
    peak_rule: str
    """abs: the peak is the largest |r|; negative: the most negative r."""
    first_lag: int
    last_lag: int
    fewest_pairs: int = 6

    def __str__(self) -> str:
        rule = {"abs": "largest |r|", "negative": "most negative r"}[self.peak_rule]
        span = f"lags {self.first_lag} to {self.last_lag}"
        return f"{self.name}: {self.detrend} detrending, {span}, {self.fewest_pairs} pairs or more, {rule}"


@dataclass(frozen=True)
class Preset:
    """Everything that one paper's analysis of the edge chooses."""

    name: str
    tensors: Choice[str]
    scopes: Choice[tuple[str, ...]]
    windows: Choice[tuple[int, ...]]
    matrix: Choice[str]
    noise: Choice[str]
    signal_rank: Choice[str]
    fixed_k: Choice[str]
    stamp: Choice[str]
    phases: Choice[str]
    series: Choice[str]
    searches: Choice[tuple[LagSearch, ...]]
    p_value: Choice[str]

    def label(self, search: LagSearch) -> str:
        """How rows of one lag search name the preset."""
        return f"{self.name}/{search.name}"

    def rows(self) -> list[dict[str, str]]:
        """Choices as rows of the table ``presets``."""
        chosen = ((one.name, getattr(self, one.name)) for one in fields(self) if one.name != "name")
        return [
            {
                "preset": self.name,
                "choice": name,
                "value": _words(choice.value),
                "evidence": choice.evidence,
                "source": choice.source,
            }
            for name, choice in chosen
        ]


def _words(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, tuple) else str(value)


XU2026 = Preset(
    name="xu2026",
    tensors=Choice(
        "every parameter, tied ones once, no buffers",
        CODE,
        f"{_SCRIPTS} for GPT-2; those for TinyStories also count masks, and the tied embedding twice",
    ),
    scopes=Choice(
        ("all", "trunk", "attention"),
        CODE,
        f"all: {_SCRIPTS}; trunk: arXiv 2602.23696; attention: arXiv 2602.16967 and 2602.16746",
    ),
    windows=Choice((10, 15, 20, 25, 30), CODE, f"{_SCRIPTS}: 10, 15, 20, 25 for TinyStories, 10, 20, 30 for GPT-2"),
    matrix=Choice("updates between consecutive checkpoints, neither centred nor normalised", CODE, _SCRIPTS),
    noise=Choice("mean sigma^2 of the bottom half of the window", CODE, _SCRIPTS),
    signal_rank=Choice("largest ratio over k with sigma_(k+1) at or above the MP edge", TEXT, f"{_SED}, figure 1"),
    fixed_k=Choice("the most frequent signal rank of the run's windows; of several the smallest", CODE, _SCRIPTS),
    stamp=Choice("end", CODE, f"{_SCRIPTS}: a window has the step of its last update"),
    phases=Choice("peak: at least 0.85 of the largest ratio, around it", CODE, f"{_SCRIPTS}, detect_phases"),
    series=Choice(
        "each window size by itself: ratio at the fixed k and loss at the windows' steps, both detrended over them",
        CODE,
        _SCRIPTS,
    ),
    searches=Choice(
        (
            LagSearch("tinystories", "cubic", "negative", -3, 5),
            LagSearch("gpt2", "cubic", "negative", -5, 7),
            LagSearch("thesis", "linear", "abs", -5, 5),
        ),
        CODE,
        f"{_SCRIPTS}; thesis: script beside arXiv 2603.28964",
    ),
    p_value=Choice(
        "Student's t of the peak with n (1 - a) / (1 + a) pairs, a the larger autocorrelation", CODE, _SCRIPTS
    ),
)
PRESETS = {preset.name: preset for preset in (XU2026,)}


def windows_asked(sizes: Iterable[int], presets: Iterable[str]) -> tuple[int, ...]:
    """Window sizes that were asked for, and those of presets."""
    return tuple(sorted({*sizes, *(size for name in presets for size in PRESETS[name].windows.value)}))
