"""The training step in the name of a checkpoint, and the names that are not weights."""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from sedarchive.errors import HistoryError

WEIGHT_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".bin", ".ckpt"})
FOREIGN_SUFFIXES = {
    ".npz": "an archive of numpy", ".npy": "an array of numpy", ".h5": "an HDF5 file", ".hdf5": "an HDF5 file",
    ".keras": "a file of Keras", ".msgpack": "a file of Flax", ".gguf": "a GGUF file", ".onnx": "an ONNX file",
    ".nemo": "an archive of NeMo", ".tar": "an archive", ".zip": "an archive", ".pkl": "a plain pickle",
}  # fmt: skip
_CHECKPOINT = re.compile(r"(?<![a-z])(?:steps?|iter(?:ation)?s?|checkpoints?|ckpts?)[=_-]?\d", re.IGNORECASE)
_NUMBER = r"[=_-]?(?P<step>\d{1,18})(?![\da-z])"  # never 10k or 7b: the unit is not ours to guess
_STEP_PATTERNS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"(?<![a-z])(?:global[_-]?)?steps?{_NUMBER}",
        rf"(?<![a-z])iter(?:ation)?s?{_NUMBER}",
        rf"(?<![a-z])(?:checkpoint|ckpt|model|update|batch)s?{_NUMBER}(?!\.\d)(?!-of-)",
        r"^(?P<step>\d{1,18})$",
    )
)
_EPOCH = re.compile(rf"(?<![a-z])epochs?{_NUMBER}", re.IGNORECASE)
# not behind 1e-4 and 2024-01-15, but behind ema_0.999_001000
_TRAILING = re.compile(r"(?:(?<![a-z0-9])([a-z]*)-|(?<![a-z])([a-z]*)_)(?P<step>\d{1,18})$", re.IGNORECASE)
_NOT_STEPS = frozenset([
    "seed", "run", "version", "ver", "v", "rank", "trial", "fold", "exp", "experiment", "layer", "part", "shard", "of",
    "gpu", "stage", "size", "width", "depth", "head", "heads", "lr", "wd", "arm", "dose", "gpt", "bert", "llama", "dim",
    "fsdp", "optim", "optimizer", "scheduler", "sampler",
])  # fmt: skip
_NOT_WEIGHTS = re.compile(
    r"optim|^scheduler|^lr_scheduler|^rng_state|^random_states|^(?:grad_)?scaler|^training_args|^trainer_state|[_-]model_states$|-of-\d+",
    re.IGNORECASE,
)
_TOKENS = re.compile(r"(?<![a-z])tokens?[=_-]?(\d{1,15}(?:\.\d{1,6})?)([KMBT])?(?![\da-z.])", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_STAGE = re.compile(r"(?<![a-z])(stage[=_-]?\d+(?:[_-]ingredient[=_-]?\d+)?)(?!\d)", re.IGNORECASE)
_LAST = re.compile(r"last(-v\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class StepName:
    """A step read from a name, and whether it counts epochs."""

    step: int
    unit: Literal["step", "epoch"] = "step"


def compile_step_pattern(text: str | None) -> re.Pattern[str] | None:
    """Compile the user's own pattern for steps: a regular expression with one group, that of the digits.

    Raises
    ------
    HistoryError
        If it is no such expression.
    """
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise HistoryError(f"the step pattern {text!r} is no regular expression ({error}); try r'step(\\d+)'") from None
    if pattern.groups != 1:
        raise HistoryError(f"the step pattern {text!r} has {pattern.groups} groups; put one around the digits")
    return pattern


def step_in_name(name: str, pattern: re.Pattern[str] | None = None) -> StepName | None:
    """Step that a file's stem or a folder's name holds; None if it holds none.

    ``step``, ``global_step``, ``iter``, ``checkpoint``, ``ckpt`` and ``model`` before a number, a number
    alone, or a trailing number (not a seed, version or rank) are steps; an epoch only where nothing else is.
    """
    if pattern is not None:
        match = pattern.search(name)
        digits = match[1] if match else None
        return StepName(int(digits)) if digits and re.fullmatch(r"[0-9]{1,18}", digits) else None
    for known in _STEP_PATTERNS:
        if match := known.search(name):
            return StepName(int(match["step"]))
    if match := _EPOCH.search(name):
        return StepName(int(match["step"]), "epoch")
    match = _TRAILING.search(name)
    if match and (match[1] or match[2] or "").lower() not in _NOT_STEPS:
        return StepName(int(match["step"]))
    return None


def tokens_in_name(name: str) -> int | None:
    """Training tokens that a name tells (``step1000-tokens4B``: 4e9, rounded as it is); None if none."""
    match = _TOKENS.search(name)
    if match is None:
        return None
    return int(Decimal(match[1]) * _UNITS[(match[2] or "").upper()])


def names_checkpoint(name: str) -> bool:
    """Whether a name says that it is a checkpoint's: ``step``, ``iter``, ``checkpoint`` or ``ckpt`` and a number."""
    return _CHECKPOINT.search(name) is not None


def stage_in_name(name: str) -> str | None:
    """Stage of training that a name tells (``stage2-ingredient1-step1000``), where steps count anew; None if none."""
    match = _STAGE.search(name)
    return match[1] if match else None


def is_weights_name(name: str) -> bool:
    """Whether a file of this name can be a whole checkpoint: not optimizer state, not one shard of several."""
    stem, dot, suffix = name.rpartition(".")
    return bool(stem) and f"{dot}{suffix.lower()}" in WEIGHT_SUFFIXES and not _NOT_WEIGHTS.search(stem)


def is_last_copy(name: str) -> bool:
    """Whether this is Lightning's copy of the latest checkpoint (``last.ckpt``)."""
    return _LAST.fullmatch(name.rpartition(".")[0]) is not None
