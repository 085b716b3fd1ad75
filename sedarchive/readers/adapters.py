"""Adapters of PEFT: small tensors beside a base model that is not in the checkpoint."""

from pathlib import Path
from typing import Any

from sedarchive.history import Finding
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
    config = _config((checkpoint if checkpoint.is_dir() else checkpoint.parent) / _CONFIG)
    kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    rank = f" of rank {config['r']}" if isinstance(config.get("r"), int) else ""
    detail = (
        f"adapters{f' ({kind})' if isinstance(kind, str) else ''}{rank} of PEFT: only their own tensors are read "
        f"(lora_A and lora_B as they stand). Not in it: the weights of the base model"
        f"{f' {base[:200]}' if isinstance(base, str) and base else ''}, so every number is one of the adapters alone; "
        "merge them (merge_and_unload) and save the model where the whole is wanted"
    )
    return [Finding("adapter", "warning", detail)]


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
