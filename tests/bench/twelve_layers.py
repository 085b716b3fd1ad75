"""New windows and scopes from stored Gram matrices, and recipes: 400 checkpoints of 12 layers.

Run: ``python tests/bench/twelve_layers.py``. Start-up is the time of a request to which nothing is new: opening
archive and database, roles, findings. The archive was computed with ``--window 10``, so that windows of 15 updates
stand without their null. Windows and scopes are those of ``--no-inference``; what inference adds stands beside them.
"""

import json
import math
import shutil
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import torch
from measure import Claim, Settings, explain_unmet, in_turn, report, seconds, settings
from safetensors.torch import save_file

from sedarchive.compute.refresh import ComputeOptions, compute
from sedarchive.compute.rolling import null_rows as null_tables
from sedarchive.errors import DatabaseError
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.nulls.bands import NullBands
from sedarchive.query import answer
from sedarchive.recipes import find_recipes

N_CHECKPOINTS, N_LAYERS, WIDTH = 400, 12, 16
WINDOWS = (5, 10, 15, 20, 25, 30)


def write_history(folder: Path, n_checkpoints: int) -> None:
    """A random walk under a cosine learning rate with weight decay, and its log; the width does not matter here."""
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
    with (folder / "metrics.jsonl").open("w") as log:
        for index in range(n_checkpoints):
            step = index * 100
            save_file(state, str(folder / f"step_{step:06d}.safetensors"))
            noise = 0.05 * float(torch.randn((), generator=generator))
            losses = {"train_loss": 4 / (1 + index / 50), "val_loss": 4 / (1 + index / 60) + noise}
            log.write(json.dumps({"step": step} | losses) + "\n")
            lr = 0.02 * (0.1 + 0.45 * (1 + math.cos(math.pi * index / n_checkpoints)))
            state = {
                name: value + lr * (torch.randn(value.shape, generator=generator) - 0.2 * value)
                for name, value in state.items()
            }


def history_of_twelve_layers(given: Settings) -> Path:
    """Folder with the archive, made once."""
    root = given.folder / f"twelve-layers-{'quick' if given.quick else 'full'}"
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        write_history(root / "runs" / "model", N_CHECKPOINTS // (5 if given.quick else 1))
        ingest([root / "runs"], root / "archive.zarr", IngestOptions(workers=2))
        (root / "complete").touch()
    return root


def prepare(given: Settings) -> Path:
    """Folder with the archive and the database, sigmas of every window and matrix in it, made once."""
    root = history_of_twelve_layers(given)
    database = root / "archive.duckdb"
    options = ComputeOptions(windows=(10,), workers=2)
    try:  # tables of an earlier version would be made anew in every round
        compute(root / "archive.zarr", database, options)
    except DatabaseError:  # of a schema that is no longer written
        database.unlink()
        compute(root / "archive.zarr", database, options)
    return root


def compute_seconds(root: Path, **changes: object) -> float:
    """Time of one compute on a copy of the database, imports apart."""
    copy = root / "copy.duckdb"
    root.joinpath("copy.duckdb.wal").unlink(missing_ok=True)  # of a benchmark that was cut
    shutil.copy(root / "archive.duckdb", copy)
    options = ComputeOptions(**{"spectra": False, "inference": False, "workers": 2} | changes)  # type: ignore[arg-type]

    def run() -> None:
        [done] = compute(root / "archive.zarr", copy, options)
        assert done.error is None
        assert done.gram.computed == 0

    taken = seconds(run)
    copy.unlink()
    return taken


def unknown_bands(n_windows: int, size: int) -> NullBands:
    """Bands of windows whose null nobody samples."""
    each, ratios = np.full((n_windows, size), np.nan), np.full((n_windows, size - 1), np.nan)
    return NullBands(each, ratios, ratios, each[:, 0], each[:, 0], each[:, 0])


def without_null(root: Path) -> float:
    """A new window size whose null is not sampled."""
    kept = null_tables.null_bands
    null_tables.null_bands = lambda norms, *_, **__: unknown_bands(*norms.shape)
    try:
        return compute_seconds(root, windows=(16,))
    finally:
        null_tables.null_bands = kept


def requests(root: Path) -> list[Claim]:
    """What new windows and scopes cost beyond a request to which nothing is new."""
    variants = {
        "window 10, layer:*, nothing new": partial(compute_seconds, root, windows=(10,), scopes=("layer:*",)),
        "window 15, layer:*, after window 10": partial(compute_seconds, root, windows=(15,), scopes=("layer:*",)),
        "window 16, 16 scopes, without null": partial(without_null, root),
        "window 16, 16 scopes, with null": partial(compute_seconds, root, windows=(16,)),
        "window 16, 16 scopes, with null and inference": partial(compute_seconds, root, windows=(16,), inference=True),
        "a new scope, 6 window sizes, one with null": partial(compute_seconds, root, scopes=("layer:0-5",)),
    }
    taken = in_turn(variants)
    start_up, *others = taken.values()
    claims = [Claim("nothing new (start-up, imports apart), s", start_up, 1.0)]
    claims += [
        Claim(f"{name}: s beyond start-up", one - start_up, None if "inference" in name else 1.0)
        for name, one in zip(list(taken)[1:], others, strict=True)
    ]
    explain_unmet(claims, {"a new window size with its null": partial(compute_seconds, root, windows=(16,))})
    return claims


def recipes(root: Path) -> list[Claim]:
    """Every recipe of the house, opening of the database included."""
    database = root / "archive.duckdb"
    variants = {name: partial(seconds, partial(answer, database, name, {})) for name in sorted(find_recipes())}
    return [Claim(f"recipe {name}, s", one, 0.5) for name, one in in_turn(variants).items()]


def size_of_tables(root: Path) -> list[Claim]:
    """Bytes of a database without spectra by row of windows, of 17.5 singular values on average."""
    database = root / "windows.duckdb"
    database.unlink(missing_ok=True)
    options = ComputeOptions(windows=WINDOWS, spectra=False, inference=False, workers=2)
    compute(root / "archive.zarr", database, options)
    with duckdb.connect(str(database), read_only=True) as tables:
        [(n_windows,)] = tables.execute("SELECT count(*) FROM windows").fetchall()
    return [Claim("bytes of the database for each (step, scope, window)", database.stat().st_size / n_windows)]


def main() -> None:
    given = settings(__doc__)
    root = prepare(given)
    report([*requests(root), *recipes(root), *size_of_tables(root)], given)


if __name__ == "__main__":
    main()
