"""Settings files that trainers leave beside checkpoints: JSON, flat YAML, transformers' training_args.bin, MLflow."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sedarchive.readers.torchzip import read_object
from sedarchive.readers.unpickle import Opaque
from sedarchive.sizes import MIB

_FILE_LIMIT = 4 * MIB
_PARAM_LIMIT = 1024
_YAML_LINE = re.compile(r"(?P<indent> {0,64})(?P<key>[A-Za-z_][\w./-]{0,200}):(?:\s+(?P<value>\S.*))?")
_YAML_ITEM = re.compile(r" {0,64}-\s+(?P<value>\S.*)")
_YAML_TAG = re.compile(r"!\S*")


def read_settings(path: Path) -> dict[str, Any]:
    """Settings of one file, or of MLflow's folder ``params``, by their names there.

    Raises
    ------
    OSError, ValueError, RecursionError, HistoryError
        If it cannot be read; nothing in it was executed.
    """
    if path.is_dir():
        return _mlflow_params(path)
    if path.stat().st_size > _FILE_LIMIT:
        raise ValueError("larger than 4 MiB")
    return _READERS[path.suffix.lower()](path)


def _json(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    return content


def _training_args(path: Path) -> dict[str, Any]:
    """Attributes of transformers' TrainingArguments; of enumerations, their values."""
    content = read_object(path)
    state = content.state if isinstance(content, Opaque) else None
    if not isinstance(state, dict):
        raise ValueError("it holds no object with attributes")
    return {name: _enumerated(value) for name, value in state.items() if isinstance(name, str)}


def _enumerated(value: Any) -> Any:
    if isinstance(value, Opaque) and isinstance(value.args, tuple) and len(value.args) == 1:
        return value.args[0]
    return value


def _yaml(path: Path) -> dict[str, Any]:
    """Lines ``key: value`` of YAML that is flat, lists of numbers below a key, and wandb's ``value:`` below a key.

    Everything else of YAML is passed over: it is data of others, and a whole parser is no safer for knowing more.
    """
    found: dict[str, Any] = {}
    key = ""
    for line in path.read_text("utf-8", "replace").splitlines():
        if match := _YAML_LINE.fullmatch(line.rstrip()):
            text = _YAML_TAG.sub("", match["value"] or "").strip()
            if not match["indent"]:
                key = match["key"]
                found |= {key: _yaml_value(text)} if text else {}
            elif match["key"] == "value" and key and key not in found and text:
                found[key] = _yaml_value(text)
        elif (match := _YAML_ITEM.fullmatch(line.rstrip())) and key and isinstance(found.setdefault(key, []), list):
            found[key].append(_yaml_value(match["value"]))
    return found


def _yaml_value(text: str) -> Any:
    text = re.sub(r"\s#.*$", "", text).strip()
    if text.startswith("[") and text.endswith("]"):
        return [_scalar(part.strip()) for part in text[1:-1].split(",")]
    return _scalar(text)


def _scalar(text: str) -> Any:
    """Make a number of a text where it is one; ``null`` and the like are None."""
    if text in ("null", "~", "None", ""):
        return None
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if not re.fullmatch(r"[-+]?[0-9.]{1,40}(e[-+]?[0-9]{1,4})?", text, re.IGNORECASE):
        return text[:_PARAM_LIMIT]
    try:
        return float(text) if re.search(r"[.eE]", text) else int(text)
    except ValueError:
        return text


def _mlflow_params(folder: Path) -> dict[str, Any]:
    """Parameters of an MLflow run: a file each, whose text is the value."""
    return {path.name: _param(path) for path in _few(folder.iterdir()) if path.is_file() and not path.is_symlink()}


def _param(path: Path) -> Any:
    with path.open(encoding="utf-8", errors="replace") as file:
        return _yaml_value(file.read(_PARAM_LIMIT).strip())


def _few(paths: Iterable[Path]) -> list[Path]:
    return sorted(path for path, _ in zip(paths, range(10_000), strict=False))


_READERS: Mapping[str, Callable[[Path], dict[str, Any]]] = {
    ".json": _json,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".bin": _training_args,
}
