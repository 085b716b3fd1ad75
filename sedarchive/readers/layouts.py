"""Checkpoints that are folders of many files, told by the names in them; no file is opened here.

Names are those that torch 2.13, accelerate 1.15, DeepSpeed (``runtime/engine.py``, ``zero_to_fp32.py``,
``ds_to_universal.py``), Megatron-LM and Orbax write. A layout that is known and not read carries the way out.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sedarchive.readers.steps import step_in_name

Problem = tuple[str, str]
"""Cause and way out."""

_DCP_INSIDE = ("pytorch_model_fsdp_0", "model_and_optim")  # accelerate; OLMo-core
_TENSOR_RANK = re.compile(r"mp_rank_(\d+)_model_states\.pt")
_ZERO_MODEL = re.compile(r"zero_pp_rank_(\d+)_mp_rank_(\d+)_model_states\.pt")
_ZERO_OPTIMIZER = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_PIPELINE = re.compile(r"layer_\d+-model_\d+-model_states\.pt")
_EXPERT = re.compile(r"(?:layer_\d+_)?expert_\d+_mp_rank_\d+_model_states\.pt")
_MEGATRON_RANK = re.compile(r"mp_rank_\d+(?:_\d+)*")
_MEGATRON_FILE = "model_optim_rng.pt"
_ORBAX_MARKS = frozenset({"_CHECKPOINT_METADATA", "manifest.ocdbt", "_METADATA", "orbax.checkpoint"})
_ORBAX_INSIDE = ("default", "pytree", "state", "params", "items")
_UNIVERSAL_FILE = "fp32.pt"

_ORBAX: Problem = (
    "it is an Orbax checkpoint (JAX), which is not read",
    "restore it with orbax.checkpoint and save the parameters with safetensors.numpy.save_file, one file a step",
)
_TO_FP32 = "run DeepSpeed's zero_to_fp32.py or ds_to_universal.py on it and ingest what that writes"


@dataclass(frozen=True)
class Layout:
    """What the names in a folder say of a checkpoint of many files."""

    kind: Literal["plain", "dcp", "zero3", "universal"]
    folder: Path
    """Folder that directly holds the files."""
    files: tuple[Path, ...] = ()
    problem: Problem | None = None
    """Why it is not read, if it is not."""


def find_layout(folder: Path) -> Layout | None:
    """Layout of a checkpoint folder; None where no name in it tells one.

    Parameters
    ----------
    folder
        An existing folder.

    Raises
    ------
    OSError
        If the folder cannot be listed.
    """
    files, folders = _names(folder)
    return (
        _dcp(folder, files, folders)
        or _universal(folder, folders)
        or _deepspeed(folder, files)
        or _megatron(folder, folders)
        or _orbax(folder, files | folders)
        or _orbax_inside(folder, folders)
        or _nested_deepspeed(folder, folders)
    )


def _names(folder: Path) -> tuple[set[str], set[str]]:
    """Names of the files and of the folders in a folder; links to folders are not entered."""
    files, folders = set(), set()
    for path in folder.iterdir():
        if path.is_file():
            files.add(path.name)
        elif path.is_dir() and not path.is_symlink():
            folders.add(path.name)
    return files, folders


def _foreign(folder: Path, cause: str, way_out: str) -> Layout:
    return Layout("plain", folder, (), (cause, way_out))


def _dcp(folder: Path, files: set[str], folders: set[str]) -> Layout | None:
    """``torch.distributed.checkpoint``: here, or in the folder that accelerate and OLMo-core put it into."""
    inside = [folder / name for name in _DCP_INSIDE if name in folders and (folder / name / ".metadata").is_file()]
    place = folder if ".metadata" in files else next(iter(inside), None)
    if place is None:
        if any(name.endswith(".distcp") for name in files):
            way_out = "copy .metadata too; a run that was stopped while it saved has none: leave this checkpoint out"
            return _foreign(folder, "it holds chunks of torch.distributed.checkpoint but no .metadata", way_out)
        return None
    chunks = sorted(path for path in place.iterdir() if path.suffix == ".distcp")
    return Layout("dcp", place, (place / ".metadata", *chunks))


def _deepspeed(folder: Path, files: set[str]) -> Layout | None:
    if any(_PIPELINE.fullmatch(name) for name in files):
        return _foreign(folder, "it is a DeepSpeed checkpoint of pipeline stages, which is not read", _TO_FP32)
    if any(_EXPERT.fullmatch(name) for name in files):
        return _foreign(folder, "it is a DeepSpeed checkpoint with experts in files of their own, not read", _TO_FP32)
    tensor_ranks = sorted(name for name in files if _TENSOR_RANK.fullmatch(name))
    models = _by_rank(files, _ZERO_MODEL)
    optimizers = _by_rank(files, _ZERO_OPTIMIZER)
    if len(tensor_ranks) > 1 or any(tensor for _, tensor in (*models, *optimizers)):
        cause = "it is a DeepSpeed checkpoint split over several tensor-parallel ranks, which are not joined here"
        return _foreign(folder, cause, "join them with DeepSpeed's ds_to_universal.py and ingest what that writes")
    if tensor_ranks:
        return Layout("plain", folder, (folder / tensor_ranks[0],))
    if models:
        return _zero3(folder, models, optimizers)
    if optimizers:
        way_out = "copy the files *_model_states.pt too"
        return _foreign(folder, "it holds the optimizer states of DeepSpeed but no model states", way_out)
    return None


def _by_rank(files: Iterable[str], pattern: re.Pattern[str]) -> dict[tuple[int, int], str]:
    """File names by (data-parallel rank, tensor-parallel rank), in this order."""
    found = {(int(match[1]), int(match[2])): name for name in files if (match := pattern.fullmatch(name))}
    return dict(sorted(found.items()))


def _zero3(folder: Path, models: dict[tuple[int, int], str], optimizers: dict[tuple[int, int], str]) -> Layout:
    """Model states and optimizer states of ZeRO-3, one of each a data-parallel rank."""
    n = max(len(models), len(optimizers))
    ranks = [(rank, 0) for rank in range(n)]
    kinds = (("model", models), ("optimizer", optimizers))
    missing = [f"{kind} states of rank {rank[0]}" for rank in ranks for kind, found in kinds if rank not in found]
    if missing:
        return _foreign(folder, f"it is a ZeRO-3 checkpoint without the {missing[0]}", "copy the files of all ranks")
    names = [models[rank] for rank in ranks] + [optimizers[rank] for rank in ranks]
    return Layout("zero3", folder, tuple(folder / name for name in names))


def _universal(folder: Path, folders: set[str]) -> Layout | None:
    """DeepSpeed's universal checkpoint: one folder a parameter, below ``zero``."""
    if "zero" not in folders:
        return None
    parts = sorted(path for path in (folder / "zero").iterdir() if path.is_dir() and not path.is_symlink())
    files = tuple(path / _UNIVERSAL_FILE for path in parts if (path / _UNIVERSAL_FILE).is_file())
    return Layout("universal", folder / "zero", files) if files else None


def _megatron(folder: Path, folders: set[str]) -> Layout | None:
    """Megatron-LM's own format, one folder a model-parallel rank; its torch_dist format is found as DCP."""
    ranks = sorted(name for name in folders if _MEGATRON_RANK.fullmatch(name))
    files = [folder / name / _MEGATRON_FILE for name in ranks if (folder / name / _MEGATRON_FILE).is_file()]
    if not files:
        return None
    if len(ranks) > 1:
        cause = f"it is a Megatron checkpoint split over {len(ranks)} model-parallel ranks, which are not joined here"
        return _foreign(folder, cause, "save with --ckpt-format torch_dist, or convert it with Megatron's tools")
    return Layout("plain", files[0].parent, (files[0],))


def _orbax(folder: Path, names: set[str]) -> Layout | None:
    return Layout("plain", folder, (), _ORBAX) if names & _ORBAX_MARKS else None


def _orbax_inside(folder: Path, folders: set[str]) -> Layout | None:
    inside = (name for name in _ORBAX_INSIDE if name in folders)
    return next((Layout("plain", folder, (), _ORBAX) for name in inside if _orbax_marks(folder / name)), None)


def _orbax_marks(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in _ORBAX_MARKS)


def _nested_deepspeed(folder: Path, folders: set[str]) -> Layout | None:
    """``checkpoint-500/global_step500``: transformers' Trainer puts DeepSpeed's folder into its own."""
    step = step_in_name(folder.name)
    inside = [name for name in folders if name.startswith("global_step") and step_in_name(name) == step]
    if step is None or len(inside) != 1:
        return None
    place = folder / inside[0]
    return _deepspeed(place, _names(place)[0])
