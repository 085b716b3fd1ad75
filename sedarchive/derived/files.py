"""A folder with a model: its weights in one safetensors file, and its config."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedarchive.errors import SedarchiveError
from sedarchive.history import TensorSpec
from sedarchive.restore import replacing, safetensors_header

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Output:
    """One tensor to write."""

    spec: TensorSpec
    """Under the name that it has in the file."""
    data: Callable[[], Iterator[memoryview]]
    """Its elements, piece by piece; asked for when its turn comes."""


def check_free(paths: Sequence[Path], force: bool) -> None:
    """Refuse to write over files, unless the user says so.

    Raises
    ------
    SedarchiveError
        Naming the first that exists.
    """
    existing = [] if force else [path for path in paths if path.exists()]
    if existing:
        raise SedarchiveError(f"{existing[0]} exists; nothing was written; choose another -o, or add --force")


def write_weights(target: Path, outputs: Sequence[Output], origin: Mapping[str, Any]) -> None:
    """Write tensors to one safetensors file, one at a time; ``target`` is replaced when all are written.

    Parameters
    ----------
    target
        The file.
    outputs
        Tensors, in the order of the file.
    origin
        Where they come from, for the file's own metadata.
    """
    metadata = {"format": "pt", "sedarchive": json.dumps(dict(origin))}
    with replacing(target) as file:
        file.write(safetensors_header({output.spec.name: output.spec for output in outputs}, metadata))
        for output in outputs:
            for data in output.data():
                file.write(data)


def without_config(written: Sequence[Path]) -> str:
    """A line for people where no config was written; empty where one was."""
    if not written or any(path.name == CONFIG for path in written):
        return ""
    return f"the run was archived without a {CONFIG}, so none is written: transformers needs one beside the weights"


def write_config(target: Path, config: Mapping[str, Any]) -> None:
    """Write a model's config as JSON."""
    with replacing(target) as file:
        file.write(json.dumps(config, indent=2).encode() + b"\n")
