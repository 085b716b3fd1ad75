"""What the format of a checkpoint is called: by the files around its weights, and by what was saved in them."""

from pathlib import Path
from typing import Any

from sedarchive.readers.adapters import is_adapter
from sedarchive.readers.hub import is_hub_repository
from sedarchive.readers.weights import as_mapping

_NANOGPT = frozenset({"model", "model_args", "iter_num"})
_LIGHTNING, _DEEPSPEED = "pytorch-lightning_version", "ds_version"


def format_name(path: Path, inner: str) -> str:
    """Name of a checkpoint's format, from the outside in.

    Parameters
    ----------
    path
        The checkpoint, file or folder.
    inner
        What its files are, such as ``sharded safetensors`` or ``DCP``.

    Returns
    -------
    str
        Such as ``Trainer, PEFT adapter, safetensors``: what laid the folder out (``hub cache``, ``Trainer``,
        ``Accelerate``), whether it holds adapters alone, and what the files are.
    """
    outer = _folder_words(path) if path.is_dir() else []
    adapter = ["PEFT adapter"] if is_adapter(path) else []
    return ", ".join(filter(None, [*outer, *adapter, inner]))


def _folder_words(folder: Path) -> list[str]:
    names = {path.name for path in folder.iterdir()}
    words = []
    if folder.parent.name == "snapshots" and is_hub_repository(folder.parent.parent):
        words.append("hub cache")
    if "trainer_state.json" in names:
        words.append("Trainer")
    elif any(name.startswith("random_states_") for name in names):
        words.append("Accelerate")
    return words


def saved_by(root: Any) -> str:
    """Which program saved a torch file, as the keys of its object tell; "" if they do not."""
    items = as_mapping(root)
    if _LIGHTNING in items:
        return "Lightning"
    if _DEEPSPEED in items:
        stage = as_mapping(as_mapping(items.get("ds_config")).get("zero_optimization")).get("stage")
        return f"DeepSpeed ZeRO-{stage}" if type(stage) is int and stage in (1, 2, 3) else "DeepSpeed"
    return "nanoGPT" if items.keys() >= _NANOGPT else ""
