"""What a model's config says, and what the user says instead: heads, width, model type.

A config is the JSON beside the checkpoints, plain values that stand in a checkpoint, or both. Its sections are
searched from the outside in. What the user gave to ``ingest`` stands in it under ``given``.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sedarchive.errors import HistoryError
from sedarchive.families import LENGTHS
from sedarchive.parts import Heads

_GIVEN, _HELD = "given", "in_checkpoint"
"""Sections for what the user gives to ``ingest``, and for what stands in a checkpoint itself."""
CONFIG_SECTIONS = (
    *("text_config", "model_args", "model_config", "model", "hyper_parameters", "hparams", "args", "config", "cfg"),
    *("attn_config", _HELD),
)
_IN_CHECKPOINTS = ("model_args", "model_config", "hyper_parameters", "hparams", "args", "config", "cfg")
HEAD_KEYS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KV_HEAD_KEYS = (
    *("num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads", "n_kv_head", "kv_n_heads"),
    *("multi_query_group_num", "n_query_groups", "num_query_groups"),
)
_WIDTH = ("hidden_size", "n_embd", "d_model")
_COUNTS = (*HEAD_KEYS, *KV_HEAD_KEYS, *_WIDTH, "head_dim", *LENGTHS)
_FLAGS = ("multi_query", "new_decoder_architecture", "tie_word_embeddings")
_DEEPEST = 4
"""Sections inside each other that are looked at; a config is a file that nobody vouches for."""


def read_heads(config: Mapping[str, Any], heads: int | None, kv_heads: int | None) -> Heads:
    """Numbers of heads that are given, or that the config has.

    Parameters
    ----------
    config
        Of the model; {} if there is none.
    heads, kv_heads
        Given numbers of query heads and of key-value heads; they win over those given to ``ingest``, and these over
        all else in the config.

    Raises
    ------
    HistoryError
        If a number given is not positive.
    """
    for option, value in (("--heads", heads), ("--kv-heads", kv_heads)):
        if value is not None and value < 1:
            raise HistoryError(f"{option} is {value}; a model has at least one head, pass a positive number")
    given = heads_given(config)
    h = heads or given[0] or first_count(config, HEAD_KEYS)
    # A config that counts heads and no key-value heads means equally many; a bare --heads does not say that.
    k = kv_heads or given[1] or _read_kv_heads(config) or first_count(config, HEAD_KEYS)
    width = first_count(config, _WIDTH)
    d_head = first_count(config, ("head_dim",)) or (width // h if width and h and width % h == 0 else None)
    lengths = {name: length for name in LENGTHS if (length := first_count(config, (name,))) is not None}
    return Heads(h, k, d_head, lengths)


def heads_given(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Numbers of query heads and of key-value heads that the user gave to ``ingest``."""
    told = config.get(_GIVEN)
    given = told if isinstance(told, Mapping) else {}
    return _count(given, "heads"), _count(given, "kv_heads")


def with_given(config: Mapping[str, Any], heads: int | None, kv_heads: int | None) -> dict[str, Any]:
    """Config with the numbers of heads that the user gives; one left out stays as it was given before."""
    before = heads_given(config)
    given = {"heads": heads or before[0], "kv_heads": kv_heads or before[1]}
    return {**config, _GIVEN: given} if any(given.values()) else dict(config)


def with_checkpoint(config: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Config with what a checkpoint itself says of its model, in ``model_args`` or ``hyper_parameters`` for instance.

    Parameters
    ----------
    config
        The config beside the checkpoint, whose own values win.
    meta
        Plain values beside the weights of the checkpoint.
    """
    held = {name: meta[name] for name in _IN_CHECKPOINTS if isinstance(meta.get(name), Mapping)}
    counts = {key: count for key in _COUNTS if (count := first_count(held, (key,))) is not None}
    flags = {key: flag for key in _FLAGS if (flag := first_value(held, key, bool)) is not None}
    return {**config, _HELD: counts | flags} if counts or flags else dict(config)


def config_to_keep(config: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Config beside the checkpoints, or the one kept so far where there is none now, with what was added to that."""
    return {name: stored[name] for name in (_HELD, _GIVEN) if name in stored} | dict(config or stored)


def _read_kv_heads(config: Mapping[str, Any]) -> int | None:
    """Count the key-value heads; Falcon's ``multi_query`` means one, unless its new decoder gives a number."""
    if first_value(config, "multi_query", bool) and not first_value(config, "new_decoder_architecture", bool):
        return 1
    return first_count(config, KV_HEAD_KEYS)


def model_type(config: Mapping[str, Any]) -> str | None:
    """Return the config's ``model_type``; None if it has none."""
    found = first_value(config, "model_type", str)
    return found if isinstance(found, str) else None


def first_count(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    """First positive integer under one of the keys, the outer section before the inner ones."""
    counts = (_count(section, key) for section in _sections(config) for key in keys)
    return next((count for count in counts if count is not None), None)


def first_value(config: Mapping[str, Any], key: str, kind: type) -> object:
    """First value of this type under the key, the outer section before the inner ones; None if there is none."""
    return next((section[key] for section in _sections(config) if isinstance(section.get(key), kind)), None)


def _count(section: Mapping[str, Any], key: str) -> int | None:
    value = section.get(key)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
    return value if is_count else None


def _sections(config: Mapping[str, Any], depth: int = 0) -> Iterator[Mapping[str, Any]]:
    yield config
    for name in CONFIG_SECTIONS if depth < _DEEPEST else ():
        section = config.get(name)
        if isinstance(section, Mapping):
            yield from _sections(section, depth + 1)
