"""Adapters of PEFT: small tensors beside a base model that is not in the checkpoint."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sedarchive.history import Finding
from sedarchive.lowrank.settings import ADAPTER, SETTINGS
from sedarchive.readers.folder import has_standard_weights
from sedarchive.readers.links import leads_outside
from sedarchive.sizes import MIB
from sedarchive.untrusted import load_json

_CONFIG, _LIMIT = "adapter_config.json", 16 * MIB
_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def adapter_findings(checkpoint: Path) -> list[Finding]:
    """Tell what a checkpoint of adapters does not hold; nothing for one of a whole model.

    Parameters
    ----------
    checkpoint
        A checkpoint, file or folder.

    Raises
    ------
    OSError
        If the folder cannot be listed.
    """
    if not is_adapter(checkpoint):
        return []
    config = _config_of(checkpoint)
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    rank = f" of rank {config['r']}" if isinstance(config.get("r"), int) else ""
    detail = (
        f"adapters{f' ({kind})' if isinstance(kind, str) else ''}{rank} of PEFT: only their own tensors are read "
        f"(lora_A and lora_B as they stand, and the products that they make). Not in it: the weights of the base model"
        f"{f' {base[:200]}' if isinstance(base, str) and base else ''}, so every number is one of the adapters alone; "
        "merge them (merge_and_unload) and save the model where the whole is wanted"
    )
    return [Finding("adapter", "warning", detail)]


def adapter_settings(checkpoints: Iterable[Path]) -> tuple[dict[str, Any], list[Finding]]:
    """What the configs of a run's adapters say of the products that their factors make.

    Parameters
    ----------
    checkpoints
        The checkpoints of one run.

    Returns
    -------
    settings : dict
        ``{"adapter_config": ...}``: the settings that all of them share, None if there are none, or they differ; {}
        where there is no adapter.
    findings : list of Finding
        One if they differ.
    """
    found: dict[str, Any] | None = None
    for checkpoint in checkpoints:
        try:
            if not is_adapter(checkpoint):
                return {}, []
        except OSError:  # it will be told with the checkpoint itself
            continue
        config = _config_of(checkpoint)
        settings = {name: config[name] for name in SETTINGS if config.get(name) not in (None, {}, False)}
        if found not in (None, settings):
            return {ADAPTER: None}, [_differing(checkpoint)]
        found = settings
    return {ADAPTER: found or None}, []


def without_contradiction(config: Mapping[str, Any], stored: Mapping[str, Any]) -> dict[str, Any]:
    """Config of a run, with no settings of adapters where those stored with earlier checkpoints are others."""
    known, told = stored.get(ADAPTER), config.get(ADAPTER)
    return {**config, ADAPTER: None} if known and told and known != told else dict(config)


def _differing(checkpoint: Path) -> Finding:
    detail = (
        f"{checkpoint.name}: its {_CONFIG} has another rank, alpha or kind than those before it, so the scale of the "
        "products B A is not one; the factors are analysed by themselves. Ingest each part as a run of its own"
    )
    return Finding("adapter", "warning", detail)


def is_adapter(checkpoint: Path) -> bool:
    """Whether a checkpoint, file or folder, holds adapters and no whole model.

    Raises
    ------
    OSError
        If the folder cannot be listed.
    """
    if not checkpoint.is_dir():
        return checkpoint.name in _WEIGHTS
    names = frozenset(path.name for path in checkpoint.iterdir())
    return any(name in names for name in _WEIGHTS) and not has_standard_weights(names)


def _config_of(checkpoint: Path) -> dict[str, Any]:
    return _config((checkpoint if checkpoint.is_dir() else checkpoint.parent) / _CONFIG)


def _config(path: Path) -> dict[str, Any]:
    """What the adapter's config says; {} where it is missing or malformed."""
    if not path.is_file() or leads_outside(path, path.parent):
        return {}
    try:
        if path.stat().st_size > _LIMIT:
            return {}
        content = load_json(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
