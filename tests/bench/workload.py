"""A real-shaped history: 40 float32 checkpoints of a GPT-2 of 20 million parameters, made once.

A random walk with decaying steps, weight decay and a few slowly turning directions, so that windows of updates have an
edge and no two are alike. Names, shapes and orientation are those of transformers' GPT-2 (Conv1D: inputs x outputs).
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from measure import require_space, settings
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

N_CHECKPOINTS = 40
SPACING = 100
_N_DIRECTIONS = 3
State = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Shape:
    """Sizes of a GPT-2."""

    name: str
    width: int
    layers: int
    heads: int
    vocabulary: int
    positions: int

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the parameters, the tied head left out, as transformers saves them."""
        d = self.width
        shapes: dict[str, tuple[int, ...]] = {
            "transformer.wte.weight": (self.vocabulary, d),
            "transformer.wpe.weight": (self.positions, d),
        }
        for layer in range(self.layers):
            block = f"transformer.h.{layer}"
            linear = {
                "attn.c_attn": (d, 3 * d),
                "attn.c_proj": (d, d),
                "mlp.c_fc": (d, 4 * d),
                "mlp.c_proj": (4 * d, d),
            }
            for name, (rows, columns) in linear.items():
                shapes[f"{block}.{name}.weight"] = (rows, columns)
                shapes[f"{block}.{name}.bias"] = (columns,)
            for norm in ("ln_1", "ln_2"):
                shapes |= {f"{block}.{norm}.weight": (d,), f"{block}.{norm}.bias": (d,)}
        return shapes | {"transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,)}

    @property
    def n_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.tensors().values())

    @property
    def config(self) -> dict[str, Any]:
        sizes = {"n_embd": self.width, "n_layer": self.layers, "n_head": self.heads, "n_positions": self.positions}
        return {"model_type": "gpt2", "vocab_size": self.vocabulary, "tie_word_embeddings": True, **sizes}


# the small one has matrices of the same shapes, so that chunks and products are alike
FULL = Shape("gpt2-20M", 384, 8, 6, 14_592, 512)
QUICK = Shape("gpt2-2M", 384, 1, 6, 512, 64)
LONG = Shape("gpt2-1M", 256, 1, 4, 512, 64)
"""For long histories, whose slabs at all steps do not fit a small budget."""
GPT2 = Shape("gpt2-124M", 768, 12, 12, 50_257, 1024)
GPT2_QUICK = Shape("gpt2-124M-two-layers", 768, 2, 12, 5_000, 1024)


def history(folder: Path, shape: Shape, n_checkpoints: int = N_CHECKPOINTS) -> Path:
    """Folder of the history; it is made unless it is complete."""
    run = folder / "histories" / f"{shape.name}-x{n_checkpoints}"
    paths = checkpoint_paths(run, n_checkpoints)
    if not all(path.exists() for path in paths):
        require_space(folder, 5 * shape.n_parameters * n_checkpoints * 4)
        print(
            f"  making {run.name}: {n_checkpoints} checkpoints x {shape.n_parameters / 1e6:.1f} M parameters",
            flush=True,
        )
        _write_files(run, shape.config, zip(paths, walk(shape, n_checkpoints), strict=True), save_file)
    return run


def checkpoint_paths(run: Path, n_checkpoints: int = N_CHECKPOINTS, suffix: str = "safetensors") -> list[Path]:
    """Files of a history, in step order."""
    return [run / f"step_{SPACING * index:06d}.{suffix}" for index in range(n_checkpoints)]


def walk(shape: Shape, n_checkpoints: int) -> Iterator[State]:
    """States of the random walk, one after the other in the same arrays."""
    generator = np.random.default_rng(0)
    state = {name: _start(generator, name, size) for name, size in shape.tensors().items()}
    turning = {name: generator.standard_normal((_N_DIRECTIONS, *v.shape), dtype="f4") for name, v in state.items()}
    for index in range(n_checkpoints):
        yield state
        rate = np.float32(1e-3 * (0.1 + 0.45 * (1 + math.cos(math.pi * index / n_checkpoints))))
        along = [np.float32(0.5 * math.cos(index / (4 * (k + 1)) + k) / (k + 1)) for k in range(_N_DIRECTIONS)]
        for name, value in state.items():
            step = generator.standard_normal(value.shape, dtype="f4")
            for weight, direction in zip(along, turning[name], strict=True):
                step += weight * direction
            value += rate * step - np.float32(0.1) * rate * value


def _start(generator: np.random.Generator, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if "ln_" in name and name.endswith("weight"):
        return np.ones(shape, dtype="f4")
    return np.float32(0.02) * generator.standard_normal(shape, dtype="f4")


def bfloat16_copy(folder: Path, run: Path) -> Path:
    """The same history in bfloat16."""
    return _converted(folder, run, f"{run.name}-bf16", "safetensors", _save_bfloat16, len(list(run.glob("step_*"))))


def _save_bfloat16(state: State, path: Path) -> None:
    save_file({name: value.astype(ml_dtypes.bfloat16) for name, value in state.items()}, path)


def torch_copy(folder: Path, run: Path, n_checkpoints: int, legacy: bool) -> Path:
    """The first checkpoints as ``.pt`` files: zip, or what torch wrote before 1.6."""
    import torch

    def save(state: State, path: Path) -> None:
        tensors = {name: torch.from_numpy(value) for name, value in state.items()}
        torch.save(tensors, path, _use_new_zipfile_serialization=not legacy)

    return _converted(folder, run, f"{run.name}-{'legacy' if legacy else 'zip'}", "pt", save, n_checkpoints)


def _converted(folder: Path, run: Path, name: str, suffix: str, save: Callable[[State, Path], Any], n: int) -> Path:
    target = folder / "histories" / name
    if not all(path.exists() for path in checkpoint_paths(target, n, suffix)):
        print(f"  making {name}", flush=True)
        config = json.loads((run / "config.json").read_text())
        states = (load_file(path) for path in checkpoint_paths(run, n))
        _write_files(target, config, zip(checkpoint_paths(target, n, suffix), states, strict=True), save)
    return target


def _write_files(
    run: Path, config: dict[str, Any], files: Iterator[tuple[Path, State]], save: Callable[[State, Path], Any]
) -> None:
    """Write each file under another name first: what stands is whole."""
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.json").write_text(json.dumps(config))
    for path, state in files:
        partial = path.with_suffix(".partial")
        save(state, partial)
        partial.rename(path)
    os.sync()


def main() -> None:
    given = settings(__doc__)
    print(history(given.folder, QUICK if given.quick else FULL))


if __name__ == "__main__":
    main()
