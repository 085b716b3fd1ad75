"""The demo's training: what it leaves on disk, that nothing leaks, that it repeats."""

import json
import multiprocessing
import os
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from sedarchive.demo.train import PAIR_NAMES, TrainSettings, _run_all, split_pairs, train_pair, train_run
from sedarchive.errors import HistoryError, MissingExtraError, SedarchiveError

SMALL = TrainSettings(modulus=7, width=8, heads=2, mlp_width=12, steps=6, checkpoint_every=2, seed=3)
NAMES = {
    "embedding.weight": (8, 8),
    "position_embedding.weight": (3, 8),
    "blocks.0.attn.q_proj.weight": (8, 8),
    "blocks.0.attn.k_proj.weight": (8, 8),
    "blocks.0.attn.v_proj.weight": (8, 8),
    "blocks.0.attn.o_proj.weight": (8, 8),
    "blocks.0.mlp.up_proj.weight": (12, 8),
    "blocks.0.mlp.down_proj.weight": (8, 12),
    "unembedding.weight": (7, 8),
}


def load(folder, step):
    torch = pytest.importorskip("torch")
    return torch.load(folder / f"step_{step:06d}.pt", weights_only=True)


def weights_at(folder, step):
    return {name: tensor.numpy() for name, tensor in load(folder, step)["model"].items()}


def log_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("demo") / "run"
    train_run(folder, SMALL)
    return folder


def naive_logits(weights, a, b, heads):
    """The transformer on one input, position by position and head by head, in float64."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    tokens = [a, b, len(w["embedding.weight"]) - 1]
    stream = [
        w["embedding.weight"][token] + w["position_embedding.weight"][place] for place, token in enumerate(tokens)
    ]
    q, k, v, o = (w[f"blocks.0.attn.{name}_proj.weight"] for name in "qkvo")
    length = len(q) // heads
    mixed = []
    for head in range(heads):
        part = slice(head * length, (head + 1) * length)
        query = (q @ stream[2])[part]
        scores = np.array([query @ (k @ x)[part] / np.sqrt(length) for x in stream])
        shares = np.exp(scores) / np.exp(scores).sum()
        mixed.append(sum(share * (v @ x)[part] for share, x in zip(shares, stream, strict=True)))
    residual = stream[2] + o @ np.concatenate(mixed)
    hidden = np.maximum(w["blocks.0.mlp.up_proj.weight"] @ residual, 0)
    return w["unembedding.weight"] @ (residual + w["blocks.0.mlp.down_proj.weight"] @ hidden)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("modulus", "fraction"), [(5, 0.5), (12, 0.7), (47, 0.7)])
def test_training_and_test_set_share_no_unordered_pair_and_cover_all(modulus, fraction, seed):
    train, test = split_pairs(TrainSettings(modulus=modulus, train_fraction=fraction, seed=seed))
    in_train, in_test = ({frozenset(pair) for pair in part.tolist()} for part in (train, test))
    assert not in_train & in_test
    assert abs(len(in_train) - fraction * modulus * (modulus + 1) / 2) <= 0.5
    everything = sorted((a, b) for a in range(modulus) for b in range(modulus))
    assert sorted(map(tuple, np.concatenate([train, test]).tolist())) == everything


def test_another_seed_splits_otherwise():
    one, other = (split_pairs(TrainSettings(seed=seed))[0] for seed in (0, 1))
    assert set(map(tuple, one.tolist())) != set(map(tuple, other.tolist()))


def test_a_run_leaves_checkpoints_log_and_config(run):
    assert sorted(path.name for path in run.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        *(f"step_{step:06d}.pt" for step in (0, 2, 4, 6)),
    ]
    config = json.loads((run / "config.json").read_text())
    assert (config["optimizer"], config["lr"], config["weight_decay"]) == ("AdamW", 5e-3, 1.0)
    assert (config["beta1"], config["beta2"], config["seed"]) == (0.9, 0.98, 3)
    for step in (0, 2, 4, 6):
        checkpoint = load(run, step)
        assert checkpoint["step"] == step
        assert checkpoint["config"] == config
        assert {name: tuple(tensor.shape) for name, tensor in checkpoint["model"].items()} == NAMES
        assert {str(tensor.dtype) for tensor in checkpoint["model"].values()} == {"torch.float32"}


def test_every_tensor_moves_between_checkpoints(run):
    for earlier, later in ((0, 2), (2, 4), (4, 6)):
        before, after = weights_at(run, earlier), weights_at(run, later)
        assert [name for name in NAMES if np.array_equal(before[name], after[name])] == []


def test_logged_metrics_are_those_of_a_transformer_written_out_naively(run):
    keys = {"step", "train_loss", "val_loss", "train_acc", "val_acc", "lr", "weight_decay"}
    rows = log_of(run)
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    for row in rows:
        assert set(row) == keys
        weights = weights_at(run, row["step"])
        for part, pairs in zip(("train", "val"), split_pairs(SMALL), strict=True):
            logits = np.array([naive_logits(weights, a, b, SMALL.heads) for a, b in pairs])
            answers = np.array([(a + b) % SMALL.modulus for a, b in pairs])
            losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(pairs)), answers]
            assert row[f"{part}_loss"] == pytest.approx(losses.mean(), rel=1e-5)
            assert row[f"{part}_acc"] == pytest.approx((logits.argmax(axis=1) == answers).mean())
        assert (row["lr"], row["weight_decay"]) == (5e-3, 1.0)


def test_equal_settings_give_equal_weights_and_another_seed_others(run, tmp_path):
    train_run(tmp_path / "again", SMALL)
    train_run(tmp_path / "other", replace(SMALL, seed=4))
    first, again, other = (weights_at(folder, 6) for folder in (run, tmp_path / "again", tmp_path / "other"))
    assert log_of(run) == log_of(tmp_path / "again")
    for name in NAMES:
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


def test_training_memorises(tmp_path):
    settings = TrainSettings(modulus=7, width=16, heads=2, mlp_width=32, steps=100, checkpoint_every=100)
    train_run(tmp_path, settings)
    before, after = log_of(tmp_path)
    assert before["train_acc"] < 0.5
    assert after["train_acc"] == 1


def test_steps_that_end_between_two_checkpoints_end_the_run_at_the_earlier(tmp_path):
    train_run(tmp_path, replace(SMALL, steps=5))
    assert sorted(path.stem for path in tmp_path.glob("*.pt")) == ["step_000000", "step_000002", "step_000004"]
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 4


def test_a_pair_starts_alike_and_differs_in_weight_decay_alone(tmp_path):
    pytest.importorskip("torch")
    seen = []
    folders = train_pair(tmp_path, SMALL, lambda run, step: seen.append((run, step)))
    assert folders == tuple(tmp_path / name for name in PAIR_NAMES)
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert [config.pop("weight_decay") for config in configs] == [1.0, 0.0]
    assert configs[0] == configs[1]
    for name in NAMES:
        starts, ends = ([weights_at(folder, step)[name] for folder in folders] for step in (0, 6))
        np.testing.assert_array_equal(*starts)
        assert not np.array_equal(*ends)
    for name in PAIR_NAMES:
        steps = [step for run, step in seen if run == name]
        assert steps == sorted(set(steps))
        assert steps[-1] == 6


def test_a_training_process_that_dies_is_an_error_naming_the_run_and_ends_the_other(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    doomed = spawn.Process(target=os._exit, args=(3,), name="doomed")
    other = spawn.Process(target=time.sleep, args=(600,), name="other")
    with pytest.raises(SedarchiveError, match=r"doomed ended early with exit code 3"):
        _run_all([doomed, other], tmp_path, None)
    assert not other.is_alive()


def test_a_folder_with_checkpoints_is_not_trained_into_again(run, tmp_path):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(HistoryError, match="already holds checkpoints"):
        train_run(run, SMALL)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_without_torch_the_extra_is_named_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    for call in (train_run, train_pair):
        with pytest.raises(MissingExtraError, match=r"pip install 'sedarchive\[demo\]'"):
            call(tmp_path / "run", SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"train_fraction": 1.0}, "train_fraction 1.0"),
        ({"train_fraction": 0.0}, "train_fraction 0.0"),
        ({"modulus": 1}, "modulus 1"),
        ({"heads": 3}, "heads 3"),
        ({"heads": 0}, "heads 0"),
        ({"steps": 0}, "steps 0"),
        ({"checkpoint_every": 9, "steps": 8}, "steps 8"),
    ],
)
def test_settings_that_describe_no_run_are_refused(change, named):
    with pytest.raises(ValueError, match=named):
        TrainSettings(**change)


def test_a_pair_without_weight_decay_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be positive"):
        train_pair(tmp_path, TrainSettings(weight_decay=0.0))
