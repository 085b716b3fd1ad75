"""What weight decay acts on: by the parameter groups of real optimizers, and what follows for the split."""

import json

import numpy as np
import pytest
import torch
from small import few_draws, run_here
from test_decay import naive_shares
from torch import nn

from sedarchive.archive import Archive
from sedarchive.compute.rolling.decayed import decayed_tensors
from sedarchive.sweeps.anatomy import anatomy
from sedarchive.tables import Database

N, EVERY, LR, DECAY = 9, 4, 1e-2, 0.5
MATRICES = {"wte.weight", "h.0.attn.c_attn.weight", "h.0.attn.c_proj.weight", "h.0.mlp.c_fc.weight"}
VECTORS = {"h.0.ln_1.weight", "h.0.mlp.c_fc.bias"}


def model():
    torch.manual_seed(0)
    shapes = {"wte.weight": (11, 6), "h.0.ln_1.weight": (6,), "h.0.attn.c_attn.weight": (18, 6)}
    shapes |= {"h.0.attn.c_proj.weight": (6, 6), "h.0.mlp.c_fc.weight": (12, 6), "h.0.mlp.c_fc.bias": (12,)}
    return {name: nn.Parameter(torch.randn(shape)) for name, shape in shapes.items()}


def split(parameters, decayed, named=False):
    """Two parameter groups, of which the first decays."""
    parts = [{name: p for name, p in parameters.items() if (name in decayed) == first} for first in (True, False)]
    kept = [part for part in parts if part]
    decays = [DECAY if part is parts[0] else 0.0 for part in kept]
    given = [list(part.items()) if named else list(part.values()) for part in kept]
    return [{"params": params, "weight_decay": decay} for params, decay in zip(given, decays, strict=True)]


def train(folder, parameters, groups):
    """Checkpoints with their optimizer, as a trainer leaves them."""
    folder.mkdir()
    optimizer = torch.optim.AdamW(groups, lr=LR)
    with (folder / "metrics.jsonl").open("w") as log:
        for step in range(0, N * EVERY + 1, EVERY):
            held = {name: value.detach().clone() for name, value in parameters.items()}
            torch.save({"model": held, "optimizer": optimizer.state_dict()}, folder / f"ckpt_{step}.pt")
            log.write(json.dumps({"step": step, "lr": LR}) + "\n")
            for _ in range(EVERY):
                optimizer.zero_grad()
                sum((value.square() - value).sum() for value in parameters.values()).backward()
                optimizer.step()
    return folder


def ingested(tmp_path, groups, parameters):
    train(tmp_path / "run", parameters, groups)
    run_here("ingest", tmp_path / "run", "-q", "--archive", tmp_path / "a.zarr")
    return anatomy(Archive(tmp_path / "a.zarr").run("run"))


@pytest.mark.parametrize(
    ("decayed", "named", "rule"),
    [
        (MATRICES, False, "counts"),
        (MATRICES | VECTORS, False, "counts"),
        (MATRICES - {"wte.weight"}, False, "counts"),
        (MATRICES - {"h.0.attn.c_proj.weight"}, True, "names"),
        (MATRICES | VECTORS, True, "names"),
        ({"h.0.ln_1.weight"}, True, "names"),
    ],
)
def test_the_groups_of_the_optimizer_say_what_decays(tmp_path, decayed, named, rule):
    parameters = model()
    found = decayed_tensors(ingested(tmp_path, split(parameters, decayed, named), parameters))
    assert (found.rule, set(found.tensors)) == (rule, decayed)


def test_counts_that_fit_no_rule_and_decays_that_differ_leave_the_default(tmp_path):
    parameters = model()
    odd = split(parameters, {"h.0.ln_1.weight", "wte.weight"})
    found = decayed_tensors(ingested(tmp_path, odd, parameters))
    assert (found.rule, set(found.tensors)) == ("assumed", MATRICES)
    parameters = model()
    two = [{"params": [value], "weight_decay": 0.1 * (at + 1)} for at, value in enumerate(parameters.values())]
    (tmp_path / "other").mkdir()
    assert decayed_tensors(ingested(tmp_path / "other", two, parameters)).rule == "assumed"


@pytest.mark.parametrize("groups", [3, [3], [{}], [{"weight_decay": "x", "count": 1}], [{"weight_decay": 1.0}], [],
                                    [{"weight_decay": 1.0, "count": 6, "names": [3]}]])  # fmt: skip
def test_a_damaged_record_of_groups_says_nothing(tmp_path, groups, monkeypatch):
    parameters = model()
    parts = ingested(tmp_path, split(parameters, MATRICES), parameters)
    monkeypatch.setitem(parts.run.config["training"], "parameter_groups", groups)
    assert decayed_tensors(parts).rule == "assumed"


@pytest.mark.parametrize("decayed", [MATRICES | VECTORS, MATRICES - {"wte.weight"}], ids=["all", "no embeddings"])
def test_the_split_is_that_of_the_tensors_that_decay(tmp_path, decayed):
    parameters = model()
    ingested(tmp_path, split(parameters, decayed), parameters)
    with few_draws():
        run_here(
            "compute",
            "-q",
            "--no-spectra",
            "--no-inference",
            "--archive",
            tmp_path / "a.zarr",
            "--db",
            tmp_path / "a.duckdb",
        )
    steps = range(0, N * EVERY + 1, EVERY)
    held = [torch.load(tmp_path / "run" / f"ckpt_{step}.pt", weights_only=True)["model"] for step in steps]
    names = sorted(parameters)
    theta = np.array([np.concatenate([one[name].double().numpy().ravel() for name in names]) for one in held])
    mask = np.concatenate([np.full(parameters[name].numel(), name in decayed) for name in names])
    part = -LR * DECAY * EVERY * 0.5 * (theta[1:] + theta[:-1]) * mask
    wanted, _ = naive_shares(theta, mask, 5, part)
    with Database.read(tmp_path / "a.duckdb") as db:
        where = "WHERE scope = 'all' AND window_size = 5 AND k <= 2"
        sql = f"SELECT gradient_share FROM window_sigmas {where} ORDER BY step, k"
        shares = np.array(db.rows(sql).column("gradient_share")).reshape(-1, 2)
        told = {row["tensor"] for row in db.rows("SELECT tensor FROM tensors WHERE decays").dicts()}
        assert db.rows("SELECT decay_rule FROM runs").rows == [("counts",)]
    assert told == decayed
    np.testing.assert_allclose(shares, wanted[:, :2], rtol=1e-5)
