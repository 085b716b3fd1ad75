"""Tiny histories written with torch and safetensors: random walks, nothing is trained."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from sedarchive.cli.app import app
from sedarchive.compute.rolling import null_rows as null_tables
from sedarchive.nulls.bands import null_bands

torch.set_num_threads(1)

SMALL_MODEL = {
    "wte.weight": (11, 6),
    "h.0.attn.c_attn.weight": (6, 18),
    "h.0.attn.c_proj.weight": (6, 6),
    "h.0.mlp.c_fc.weight": (6, 12),
    "h.0.mlp.c_proj.weight": (12, 6),
    "h.0.ln_1.weight": (6,),
    "h.0.ln_1.bias": (6,),
}


def walk(n, *, shapes=None, seed=0, dtype=torch.float32):
    """List of ``n`` state dicts: a random walk in every tensor."""
    generator = torch.Generator().manual_seed(seed)
    shapes = SMALL_MODEL if shapes is None else shapes
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    states = []
    for _ in range(n):
        states.append({name: value.to(dtype).clone() for name, value in state.items()})
        state = {name: v + 0.1 * torch.randn(v.shape, generator=generator) for name, v in state.items()}
    return states


def write_safetensors(folder, states, steps=None):
    """One ``step_N.safetensors`` a state; the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    steps = [10 * at for at in range(len(states))] if steps is None else steps
    paths = [folder / f"step_{step}.safetensors" for step in steps]
    for path, state in zip(paths, states, strict=True):
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    return paths


def write_torch(folder, states, steps=None, legacy=False):
    """One ``ckpt_N.pt`` a state; the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    steps = [10 * at for at in range(len(states))] if steps is None else steps
    paths = [folder / f"ckpt_{step}.pt" for step in steps]
    for path, state in zip(paths, states, strict=True):
        torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return paths


def write_trainer(folder, states, steps=None):
    """``checkpoint-N/`` folders as the HF Trainer leaves them, optimizer state, log and config beside the weights."""
    folder = Path(folder)
    steps = [10 * (at + 1) for at in range(len(states))] if steps is None else steps
    for step, state in zip(steps, states, strict=True):
        inner = folder / f"checkpoint-{step}"
        inner.mkdir(parents=True)
        save_file(state, inner / "model.safetensors", metadata={"format": "pt"})
        torch.save({"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []}, inner / "optimizer.pt")
        history = [{"step": past, "loss": 3.0 - past / 1000, "learning_rate": 1e-3} for past in steps if past <= step]
        (inner / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": history}))
        config = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 6}
        (inner / "config.json").write_text(json.dumps(config))
    return folder


def write_log(folder, steps, name="metrics.jsonl"):
    """Losses as JSON lines."""
    lines = [json.dumps({"step": step, "train_loss": 2.0 - step / 1000}) for step in steps]
    (Path(folder) / name).write_text("\n".join(lines) + "\n")


def numpy_bits(tensor):
    """Bytes of a tensor in C order."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def command(*args):
    """The real command line, as a list for ``subprocess``."""
    return [sys.executable, "-m", "sedarchive", *map(str, args)]


def environment(**more):
    """Environment for the subprocesses: one BLAS thread, nothing of ours from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEDARCHIVE_")}
    root = str(Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, kept.get("PYTHONPATH")]))
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": path} | more


def run_cli(*args, cwd=None, timeout=120, **env):
    """The command line in a process of its own."""
    return subprocess.run(
        command(*args), cwd=cwd, env=environment(**env), capture_output=True, text=True, timeout=timeout
    )


def few_draws():
    """A null of few draws in ``compute`` of this process: it costs the most, and its worth is shown elsewhere."""
    return mock.patch.object(null_tables, "null_bands", partial(null_bands, draws=19))


def run_here(*args, code=0, **env):
    """The command line in this process; its exit code is checked, and that it ended without a traceback."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    return result


def data_of(result):
    """What stdout holds, as JSON; there may be nothing else on it."""
    return json.loads(result.stdout)
