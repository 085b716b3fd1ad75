"""The demo's training: what it leaves on disk, that nothing leaks, that it repeats."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from small import command, environment

from sedarchive.archive import Archive
from sedarchive.demo.pair import PAIR_NAMES, _run_all, runs_to_train, train_pair
from sedarchive.demo.tour import check_way
from sedarchive.demo.train import TrainSettings, split_pairs, train_run
from sedarchive.errors import HistoryError, MissingExtraError, SedarchiveError
from sedarchive.ingest import IngestOptions, ingest

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


@pytest.fixture(scope="module")
def trained_pair(tmp_path_factory):
    """A demo's folder of which only the training is done, and the progress that was reported; to be copied."""
    pytest.importorskip("torch")
    folder, seen = tmp_path_factory.mktemp("pair"), []
    folders = train_pair(folder / "runs", SMALL, lambda run, step: seen.append((run, step)))
    assert folders == tuple(folder / "runs" / name for name in PAIR_NAMES)
    return folder, seen


def test_a_pair_starts_alike_and_differs_in_weight_decay_alone(trained_pair):
    folder, seen = trained_pair
    folders = [folder / "runs" / name for name in PAIR_NAMES]
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


@pytest.fixture
def demo_folder(trained_pair, tmp_path):
    return shutil.copytree(trained_pair[0], tmp_path / "demo")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_runs_that_are_complete_are_not_trained_again(demo_folder):
    files = [path for path in demo_folder.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert check_way(demo_folder, SMALL) == ()
    train_pair(demo_folder / "runs", SMALL)
    assert {path: path.stat().st_mtime_ns for path in files} == before


def cut_short(run, what):
    """Leave a run as an interruption does."""
    if what == "half a line":
        log = run / "metrics.jsonl"
        log.write_bytes(log.read_bytes()[:-30])
    elif what == "half a history":
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(lines[:2]))
        for step in (4, 6):
            (run / f"step_{step:06d}.pt").unlink()
    elif what == "a missing checkpoint":
        (run / "step_000002.pt").unlink()
    else:
        shutil.rmtree(run)


@pytest.mark.parametrize("what", ["half a line", "half a history", "a missing checkpoint", "nothing"])
def test_a_run_that_was_interrupted_is_to_be_trained_anew(demo_folder, what):
    cut_short(demo_folder / "runs" / PAIR_NAMES[1], what)
    assert check_way(demo_folder, SMALL) == PAIR_NAMES[1:]


def test_what_is_trained_anew_is_equal_and_the_other_run_is_kept(demo_folder):
    runs, (other, interrupted) = demo_folder / "runs", PAIR_NAMES
    before, kept = contents(runs), (runs / other / "step_000000.pt").stat().st_mtime_ns
    cut_short(runs / interrupted, "half a history")
    train_pair(runs, SMALL)
    assert runs_to_train(runs, SMALL) == ()
    assert contents(runs) == before
    assert (runs / other / "step_000000.pt").stat().st_mtime_ns == kept


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (replace(SMALL, seed=4), "seed 3, not 4"),
        (replace(SMALL, steps=8), "steps 6, not 8"),
        (replace(SMALL, checkpoint_every=3), "checkpoint_every 2, not 3"),
    ],
)
def test_runs_of_other_settings_are_never_touched(demo_folder, settings, message):
    before = contents(demo_folder)
    for call in (check_way, lambda folder, of_run: train_pair(folder / "runs", of_run)):
        with pytest.raises(HistoryError, match=rf"weight_decay holds .*\({message}\); choose another folder"):
            call(demo_folder, settings)
    assert contents(demo_folder) == before


def test_checkpoints_that_are_not_the_demos_are_never_touched(demo_folder):
    (demo_folder / "runs/weight_decay/config.json").unlink()
    before = contents(demo_folder)
    with pytest.raises(HistoryError, match=r"config\.json is missing"):
        check_way(demo_folder, SMALL)
    assert contents(demo_folder) == before


def test_half_of_a_demo_is_refused_before_anything_is_trained(demo_folder):
    ingest([demo_folder / "runs"], demo_folder / "archive.zarr", IngestOptions())
    assert Archive(demo_folder / "archive.zarr").run_names == tuple(sorted(PAIR_NAMES))
    assert check_way(demo_folder, SMALL) == ()
    cut_short(demo_folder / "runs" / PAIR_NAMES[0], "nothing")
    with pytest.raises(HistoryError, match=r"archive\.zarr holds weight_decay already, .* choose another folder"):
        check_way(demo_folder, SMALL)
    shutil.rmtree(demo_folder / "archive.zarr")
    assert check_way(demo_folder, SMALL) == PAIR_NAMES[:1]
    (demo_folder / "archive.duckdb").touch()
    with pytest.raises(HistoryError, match=r"archive\.duckdb holds the tables of an archive that is gone"):
        check_way(demo_folder, SMALL)


def test_a_training_process_leaves_interrupts_to_its_parent_from_its_birth(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    spawn = multiprocessing.get_context("spawn")
    child = spawn.Process(target=signal.raise_signal, args=(signal.SIGINT,), name="child")
    _run_all([child], tmp_path, None)
    assert child.exitcode == 0
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_an_interrupted_demo_goes_on_with_the_same_command(tmp_path):
    args = command("demo", "out", "--steps", 300)
    process = subprocess.Popen(
        args, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "out/runs/weight_decay/step_000025.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # to all its processes, as a terminal does
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "the same command goes on" in err
    assert not (tmp_path / "out/archive.zarr").exists()
    done = subprocess.run(args, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    again = subprocess.run(args, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert "used again" in again.stderr
    assert again.stdout == done.stdout


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
