"""Adapters with planted factors, as peft lays them out, and their stored Gram matrices."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

from sedarchive.archive import Archive
from sedarchive.executor import Executor
from sedarchive.sizes import MIB
from sedarchive.sweeps.anatomy import anatomy
from sedarchive.sweeps.gram_sweep import sweep_gram
from sedarchive.sweeps.stored_grams import GramOptions, StoredGrams, gram_key


def adapter_state(rng, shapes, rank):
    """Factors of some modules of (outputs, inputs), as numpy."""
    state = {}
    for module, (outputs, inputs) in shapes.items():
        state[f"{module}.lora_A.weight"] = rng.standard_normal((rank, inputs)).astype(np.float32)
        state[f"{module}.lora_B.weight"] = rng.standard_normal((outputs, rank)).astype(np.float32)
    return state


def write_adapters(folder, states, config=None):
    """Checkpoints of adapters with planted factors."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4} if config is None else config
    for at, state in enumerate(states):
        inner = folder / f"checkpoint-{10 * at}"
        inner.mkdir(parents=True)
        save_file({name: torch.from_numpy(value) for name, value in state.items()}, inner / "adapter_model.safetensors")
        (inner / "adapter_config.json").write_text(json.dumps(config))
    return folder


LAYER = "base_model.model.model.layers.{}.self_attn.{}"
SHAPES = {LAYER.format(layer, name): (48, 64) for layer in (0, 1) for name in ("q_proj", "v_proj")}


def walk(n_steps, rank=2, step=1e-2, shapes=SHAPES, collinear=False):
    """Factors that walk; with ``collinear`` all but a millionth of every update is the same one."""
    rng = np.random.default_rng(5)
    first, drift = adapter_state(rng, shapes, rank), adapter_state(rng, shapes, rank)
    states = [first]
    for _ in range(n_steps - 1):
        noise, small = adapter_state(rng, shapes, rank), 1e-6 if collinear else 1.0
        before = states[-1]
        moved = {name: drift[name] * collinear + small * noise[name] for name in before}
        states.append({name: (before[name] + step * moved[name]).astype(np.float32) for name in before})
    return states


def swept(archive, run, max_mem=256 * MIB, band=None, workers=1):
    """Anatomy of a run and its stored Gram matrices."""
    opened = Archive(archive)
    parts = anatomy(opened.run(run))
    options = GramOptions(max_mem, band)
    with opened.writing("test") as store:
        outcome = sweep_gram(parts, store, options, Executor(workers))
        assert not outcome.failed
    return parts, StoredGrams(parts, opened.store, gram_key(parts, options))
