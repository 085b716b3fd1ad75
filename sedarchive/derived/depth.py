"""The config of a model with fewer layers."""

from collections.abc import Mapping, Sequence
from typing import Any

from sedarchive.errors import HistoryError

_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks", "n_blocks")
"""Keys that count the layers."""
_BY_LAYER = ("layer_types", "attention_layers", "mlp_layer_types", "no_rope_layers", "layers_block_type")
"""Keys with a list of one entry for each layer."""
_INDICES = ("mlp_only_layers", "moe_layers")
"""Keys with a list of layers."""
_FIRST = ("first_k_dense_replace", "max_window_layers")
"""Keys that count layers from the first on."""
_PERIODS = ("decoder_sparse_step", "full_attention_interval", "interleave_moe_layer_step", "sliding_window_pattern")
"""Keys that say which kind every n-th layer is: what a number cannot say once some are gone."""
_SECTIONS = ("text_config", "model_args", "model_config", "model", "config")


def shallower(config: Mapping[str, Any], n_layers: int, kept: Sequence[int]) -> dict[str, Any]:
    """Config of the model in which only some layers are left.

    Parameters
    ----------
    config
        Of the whole model.
    n_layers
        Layers of it.
    kept
        Those that stay, ascending.

    Raises
    ------
    HistoryError
        If it counts other layers than there are, or tells kinds of layers by a period.
    """
    found = dict(config)
    for key, value in config.items():
        if key in _DEPTHS and isinstance(value, int):
            found[key] = _depth(key, value, n_layers, len(kept))
        elif key in _SECTIONS and isinstance(value, Mapping):
            found[key] = shallower(value, n_layers, kept)
        elif key == "attention_types":
            found[key] = _attention_types(value, n_layers, kept)
        elif key in (*_BY_LAYER, *_INDICES) and isinstance(value, list):
            found[key] = _listed(key, value, n_layers, kept)
        elif key in _FIRST and isinstance(value, int):
            found[key] = sum(layer < value for layer in kept)
        elif key in _PERIODS and isinstance(value, int) and value > 1 and "layer_types" not in config:
            raise HistoryError(f"the config tells kinds of layers by {key} = {value}, which fits no model with gaps")
    return found


def counts_layers(config: Mapping[str, Any]) -> bool:
    """Whether a config says how many layers there are."""
    inner = (config[name] for name in _SECTIONS if isinstance(config.get(name), Mapping))
    return any(key in config for key in _DEPTHS) or any(map(counts_layers, inner))


def _depth(key: str, value: int, n_layers: int, n_kept: int) -> int:
    if value != n_layers:
        raise HistoryError(
            f"the config says {key} = {value}, but the checkpoint has {n_layers} layers; put the right config.json "
            "beside the checkpoints and ingest them again"
        )
    return n_kept


def _listed(key: str, value: list[Any], n_layers: int, kept: Sequence[int]) -> list[Any]:
    """List of layers, or with an entry for each of them."""
    if key in _INDICES:
        return [at for at, layer in enumerate(kept) if layer in value]
    return [value[layer] for layer in kept] if len(value) == n_layers else value


def _attention_types(value: Any, n_layers: int, kept: Sequence[int]) -> Any:
    """GPT-Neo's [[[kinds, ...], repeats], ...], which stand one after the other for the layers."""
    try:
        kinds = [kind for names, repeats in value for kind in list(names) * min(int(repeats), n_layers)]
        return [[[kinds[layer] for layer in kept], 1]]
    except (TypeError, ValueError, IndexError) as error:
        raise HistoryError(
            f"the config's attention_types = {str(value)[:80]} does not tell {n_layers} layers"
        ) from error
