"""New windows come from stored Gram matrices: seconds beyond start-up for 400 checkpoints of 12 layers.

Run: ``python tests/bench/windows_from_stored_grams.py``. Prints versions first,
then medians of three for a request that stands, and for a window size that is
new, with and without its sampled null.
"""

import math
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import duckdb
import numpy as np
import torch
import zarr
from safetensors.torch import save_file

from sedarchive.compute import windows as window_tables
from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.compute.window_rows import unknown_bands
from sedarchive.ingest import IngestOptions, ingest

N_CHECKPOINTS, N_LAYERS, WIDTH = 400, 12, 16


def write_history(folder: Path) -> None:
    """A random walk under a cosine learning rate with weight decay; the width does not matter here."""
    generator = torch.Generator().manual_seed(0)
    square, tall, wide = (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)
    matrices = {f"self_attn.{name}_proj": square for name in "qkvo"}
    matrices |= {"mlp.gate_proj": tall, "mlp.up_proj": tall, "mlp.down_proj": wide}
    state = {"model.embed_tokens.weight": torch.randn(97, WIDTH, generator=generator)}
    for layer in range(N_LAYERS):
        for name, shape in matrices.items():
            state[f"model.layers.{layer}.{name}.weight"] = torch.randn(shape, generator=generator) / WIDTH**0.5
        state[f"model.layers.{layer}.input_layernorm.weight"] = torch.ones(WIDTH)
    folder.mkdir(parents=True)
    for index in range(N_CHECKPOINTS):
        save_file(state, str(folder / f"step_{index * 100:06d}.safetensors"))
        lr = 0.02 * (0.1 + 0.45 * (1 + math.cos(math.pi * index / N_CHECKPOINTS)))
        state = {
            name: value + lr * (torch.randn(value.shape, generator=generator) - 0.2 * value)
            for name, value in state.items()
        }


def seconds(archive: Path, database: Path, window: int) -> float:
    """Time of one compute on a copy of the database, imports apart."""
    copy = database.with_name("copy.duckdb")
    shutil.copy(database, copy)
    options = ComputeOptions(windows=(window,), scopes=("layer:*",), spectra=False, workers=2)
    start = time.perf_counter()
    [report] = compute(archive, copy, options)
    taken = time.perf_counter() - start
    assert report.error is None
    assert report.gram.computed == 0
    return taken


def main() -> None:
    torch.set_num_threads(1)
    versions = f"numpy {np.__version__}, duckdb {duckdb.__version__}, zarr {zarr.__version__}"
    print(f"Python {platform.python_version()}, {versions}, {platform.machine()}")
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        archive, database = root / "archive.zarr", root / "archive.duckdb"
        write_history(root / "runs" / "model")
        ingest([root / "runs"], archive, IngestOptions(workers=2))
        compute(archive, database, ComputeOptions(windows=(15,), spectra=False, workers=2))
        print_median("window 15, layer:*, standing", archive, database, 15)
        print_median("window 16, all scopes, new, with null", archive, database, 16)
        window_tables.null_bands = lambda norms, *_, **__: unknown_bands(*norms.shape)
        print_median("window 16, all scopes, new, without null", archive, database, 16)


def print_median(what: str, archive: Path, database: Path, window: int) -> None:
    taken = [seconds(archive, database, window) for _ in range(3)]
    print(f"{what}: {statistics.median(taken):.2f} s (of {', '.join(f'{one:.2f}' for one in taken)})")


if __name__ == "__main__":
    sys.exit(main())
