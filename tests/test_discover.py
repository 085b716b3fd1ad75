"""Runs found by names: constructed folders, and what real trainers leave on disk."""

import json

import pytest

from sedarchive.errors import HistoryError, NoCheckpointsError, UnreadableCheckpointError
from sedarchive.readers import find_runs, open_checkpoint
from sedarchive.readers.steps import StepName, is_weights_name, step_in_name


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return root


def steps(run):
    return [checkpoint.step for checkpoint in run.checkpoints]


def checks(run):
    return [finding.check_name for finding in run.findings]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("step5", 5), ("step_000200", 200), ("STEP-7", 7), ("checkpoint-500", 500), ("ckpt_001000", 1000),
        ("ckpt-3", 3), ("epoch=3-step=1200", 1200), ("epoch=0-step=5-v1", 5), ("iter_0001000", 1000), ("iter12", 12),
        ("global_step1000", 1000), ("00042", 42), ("model_00005000", 5000), ("step1000-tokens4B", 1000),
        ("stage1-step101000-tokens424B", 101000), ("step500-unsharded", 500), ("weights_12", 12),
        ("ema_0.9999_010000", 10000), ("pythia-step0", 0), ("model-step_3-loss_0.25", 3), ("iteration_9", 9),
        ("seed_1_step_30", 30), ("step=12-val_loss=2.31", 12),
    ],
)  # fmt: skip
def test_a_step_is_read_from_the_names_that_trainers_use(name, step):
    assert step_in_name(name) == StepName(step)


@pytest.mark.parametrize("name", ["epoch_5", "epoch=5-val_loss=2.31", "model-epoch5", "Epoch-5"])
def test_an_epoch_stands_in_where_there_is_no_step(name):
    assert step_in_name(name) == StepName(5, "epoch")


@pytest.mark.parametrize(
    "name",
    [
        "best", "last", "final", "seed_1", "run-3", "version_0", "lr_1e-4", "wd_0.1", "gpt2", "gpt-2", "2024-01-15",
        "step_10k", "model-7b", "timestep", "model-00001-of-00002", "step_" + "9" * 30, "rank_0", "v2",
    ],
)  # fmt: skip
def test_what_is_not_a_step_is_not_guessed(name):
    assert step_in_name(name) is None


@pytest.mark.parametrize(
    "name",
    [
        "optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "scaler.pt", "training_args.bin",
        "optim.safetensors", "zero_pp_rank_0_mp_rank_00_optim_states.pt", "trainer_state.json",
        "model-00001-of-00002.safetensors", "step_5.txt", ".pt", "random_states_0.pkl",
    ],
)  # fmt: skip
def test_files_beside_the_weights_are_not_weights(name):
    assert not is_weights_name(name)


def test_checkpoints_are_sorted_by_number_and_named_by_their_folder(tmp_path):
    root = touch(tmp_path / "mine", "step_10.pt", "step_9.pt", "step_100.pt", "optimizer.pt", "notes.txt")
    (run,) = find_runs(root)
    assert steps(run) == [9, 10, 100]
    assert [c.label for c in run.checkpoints] == ["step_9.pt", "step_10.pt", "step_100.pt"]
    assert [c.path for c in run.checkpoints] == [root / "step_9.pt", root / "step_10.pt", root / "step_100.pt"]
    assert (run.name, run.folder, run.findings) == ("mine", root, ())


def test_several_runs_below_a_path_are_named_by_their_relative_path(tmp_path):
    touch(tmp_path, "b/seed_1/step_1.pt", "b/seed_2/step_1.pt", "a/checkpoint-5/model.safetensors")
    assert [run.name for run in find_runs(tmp_path)] == ["a", "b/seed_1", "b/seed_2"]


def test_a_name_can_be_given_to_one_run_but_not_to_several(tmp_path):
    touch(tmp_path, "a/step_1.pt", "b/step_1.pt")
    assert find_runs(tmp_path / "a", run="other/name")[0].name == "other/name"
    with pytest.raises(HistoryError, match="2 runs are found"):
        find_runs(tmp_path, run="x")


@pytest.mark.parametrize(
    "content",
    [
        ["model.safetensors", "config.json", "optimizer.pt"],
        ["pytorch_model.bin", "training_args.bin"],
        ["model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"],
        ["pytorch_model.bin.index.json"],
        ["model-00001-of-00002.safetensors"],
        ["weights.pt", "optimizer.pt"],
        ["adapter_model.safetensors"],
    ],
)
def test_a_folder_with_a_step_and_weights_is_one_checkpoint(tmp_path, content):
    touch(tmp_path / "run", *(f"checkpoint-{step}/{name}" for step in (20, 3) for name in content))
    (run,) = find_runs(tmp_path / "run")
    assert steps(run) == [3, 20]
    assert run.checkpoints[0].path == tmp_path / "run" / "checkpoint-3"


def test_the_final_model_beside_the_checkpoints_is_passed_over(tmp_path):
    touch(tmp_path / "out-3", "model.safetensors", "checkpoint-5/model.safetensors", "best.pt", "end/model.safetensors")
    (run,) = find_runs(tmp_path / "out-3")
    assert (run.name, steps(run)) == ("out-3", [5])
    assert checks(run) == ["no_step"] * 3


def test_deepspeed_state_inside_a_checkpoint_is_not_a_second_run(tmp_path):
    touch(tmp_path, "checkpoint-5/model.safetensors", "checkpoint-5/global_step5/mp_rank_00_model_states.pt")
    (run,) = find_runs(tmp_path)
    assert steps(run) == [5]


def test_a_numbered_folder_of_step_files_is_a_run(tmp_path):
    touch(tmp_path, "model_1/step_5.pt", "model_2/step_5.pt")
    assert [run.name for run in find_runs(tmp_path)] == ["model_1", "model_2"]


def test_lightning_checkpoints_belong_to_the_folder_above(tmp_path):
    folder = "lightning_logs/version_0"
    touch(
        tmp_path,
        f"{folder}/checkpoints/epoch=0-step=5.ckpt",
        f"{folder}/checkpoints/last.ckpt",
        f"{folder}/metrics.csv",
    )
    (run,) = find_runs(tmp_path)
    assert (run.name, run.folder) == (folder, tmp_path / folder)
    assert run.logs == (tmp_path / folder / "metrics.csv",)
    assert checks(run) == ["last_copy"]
    (same,) = find_runs(tmp_path / folder / "checkpoints")
    assert (same.name, same.folder) == ("version_0", tmp_path / folder)


def test_doubled_steps_keep_the_plainest_label(tmp_path):
    touch(tmp_path, "epoch=0-step=5.ckpt", "epoch=0-step=5-v1.ckpt", "step_9.pt")
    (run,) = find_runs(tmp_path)
    assert [c.label for c in run.checkpoints] == ["epoch=0-step=5.ckpt", "step_9.pt"]
    (finding,) = run.findings
    assert (finding.check_name, finding.severity, finding.step) == ("doubled_step", "warning", 5)


def test_epochs_stand_as_steps_only_alone(tmp_path):
    touch(tmp_path, "a/epoch_1.pt", "a/epoch_2.pt", "b/epoch_1.pt", "b/step_50.pt")
    alone, mixed = find_runs(tmp_path)
    assert (steps(alone), checks(alone)) == ([1, 2], ["epoch_as_step"])
    assert (steps(mixed), checks(mixed)) == ([50], ["no_step"])


def test_a_single_checkpoint_is_a_run_of_one(tmp_path):
    touch(tmp_path / "mine", "step_4.pt", "step_5.pt", "model.pt")
    (run,) = find_runs(tmp_path / "mine" / "step_4.pt")
    assert (run.name, steps(run), run.findings) == ("mine", [4], ())
    (run,) = find_runs(tmp_path / "mine" / "model.pt")
    assert (run.name, steps(run), checks(run)) == ("mine", [0], ["no_step"])


def test_a_single_checkpoint_folder_is_a_run_of_one(tmp_path):
    touch(tmp_path / "mine", "checkpoint-4/model.safetensors", "checkpoint-9/model.safetensors", "mine.txt")
    (run,) = find_runs(tmp_path / "mine" / "checkpoint-4")
    assert (run.name, run.folder, steps(run)) == ("mine", tmp_path / "mine", [4])
    (run,) = find_runs(touch(tmp_path / "gpt2", "model.safetensors"))
    assert (run.name, run.folder, steps(run), checks(run)) == ("gpt2", tmp_path / "gpt2", [0], ["no_step"])
    assert run.checkpoints[0].path == tmp_path / "gpt2"


def test_nothing_found_names_the_path_and_what_is_looked_for(tmp_path):
    with pytest.raises(NoCheckpointsError, match=r"\.safetensors \.pt.*step"):
        find_runs(tmp_path)
    with pytest.raises(NoCheckpointsError, match="no such file"):
        find_runs(tmp_path / "absent")
    touch(tmp_path, "readme.txt")
    with pytest.raises(NoCheckpointsError, match="not a checkpoint"):
        find_runs(tmp_path / "readme.txt")


def test_a_pattern_of_the_user_reads_other_names(tmp_path):
    touch(tmp_path, "t10_a.pt", "t9_a.pt", "step_3.pt")
    (run,) = find_runs(tmp_path, step_pattern=r"^t(\d+)_")
    assert (steps(run), checks(run)) == ([9, 10], ["no_step"])
    for bad in ("(", "step", "(a)(b)"):
        with pytest.raises(HistoryError, match="pattern"):
            find_runs(tmp_path, step_pattern=bad)


def test_links_to_folders_are_not_entered(tmp_path):
    touch(tmp_path / "outside", "step_1.pt")
    root = touch(tmp_path / "root", "run/step_2.pt")
    (root / "away").symlink_to(tmp_path / "outside")
    (root / "run" / "round").symlink_to(root)
    (run,) = find_runs(root)
    assert (run.name, steps(run)) == ("run", [2])
    (root / "run" / "step_2.pt").unlink()
    with pytest.raises(NoCheckpointsError, match="not entered: 2 links to folders"):
        find_runs(root)


def test_a_link_to_itself_does_no_harm(tmp_path):
    touch(tmp_path, "step_1.pt")
    (tmp_path / "step_2.pt").symlink_to(tmp_path / "step_2.pt")
    (tmp_path / "step_3.pt").symlink_to(tmp_path / "gone")
    (run,) = find_runs(tmp_path)
    assert steps(run) == [1]


def test_a_path_that_is_a_link_and_files_behind_links_are_found(tmp_path):
    touch(tmp_path / "blobs", "abc")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "step_1.pt").symlink_to(tmp_path / "blobs" / "abc")
    (tmp_path / "alias").symlink_to(tmp_path / "run")
    (run,) = find_runs(tmp_path / "alias")
    assert (run.name, steps(run)) == ("alias", [1])
    assert run.checkpoints[0].home == tmp_path / "alias"  # which its links may not leave when it is opened
    (run,) = find_runs(tmp_path / "run" / "step_1.pt")
    assert run.checkpoints[0].home is None  # the user's own word


def test_hidden_folders_and_archives_are_not_searched(tmp_path):
    touch(tmp_path, ".cache/step_1.pt", "old.zarr/step_1.pt", "run/step_1.pt")
    assert [run.name for run in find_runs(tmp_path)] == ["run"]


def test_a_very_deep_tree_is_searched(tmp_path):
    touch(tmp_path, "/".join(["d"] * 900) + "/step_1.pt")
    assert len(find_runs(tmp_path)) == 1


def test_logs_and_config_are_those_of_the_run_and_its_last_checkpoint(tmp_path):
    names = ("model.safetensors", "trainer_state.json", "config.json")
    root = touch(tmp_path / "r", *(f"checkpoint-{step}/{name}" for step in (9, 10) for name in names), "log.jsonl")
    for step in (9, 10):
        (root / f"checkpoint-{step}" / "config.json").write_text(json.dumps({"from": step}))
    (run,) = find_runs(root)
    inside = [root / f"checkpoint-{step}" / "trainer_state.json" for step in (10, 9)]
    assert run.logs == (root / "log.jsonl", *inside)
    assert run.config == {"from": 10}


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, '{"a": ' + "9" * 10_000 + "}", "\xff"])
def test_a_malformed_config_is_a_finding(tmp_path, text):
    touch(tmp_path, "step_1.pt")
    (tmp_path / "config.json").write_bytes(text.encode("latin1"))
    (run,) = find_runs(tmp_path)
    assert (run.config, checks(run)) == ({}, ["config"])


@pytest.mark.filterwarnings("ignore")
def test_a_real_lightning_run_is_found_and_read(tmp_path):
    import lightning
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    from sedarchive.logs import read_metrics

    class Model(lightning.LightningModule):
        def __init__(self, width):
            super().__init__()
            self.save_hyperparameters()
            self.model = torch.nn.Linear(width, 1)

        def training_step(self, batch, index):
            loss = self.model(batch[0]).pow(2).mean()
            self.log("train_loss", loss)
            return loss

        def validation_step(self, batch, index):
            self.log("val_loss", self.model(batch[0]).pow(2).mean())

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

    torch.set_num_threads(1)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(6, 3)), batch_size=2)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, logger=CSVLogger(tmp_path, name="lightning_logs"),
        callbacks=[ModelCheckpoint(save_top_k=-1, every_n_train_steps=1, save_last=True)],
    )  # fmt: skip
    model = Model(3)
    trainer.fit(model, data, data)
    (run,) = find_runs(tmp_path)
    assert run.name == "lightning_logs/version_0"
    assert steps(run) == [1, 2, 3, 4, 5, 6]
    with open_checkpoint(run.checkpoints[-1]) as reader:
        assert set(reader.specs) == {"model.weight", "model.bias"}
        assert reader.read_rows("model.weight", 0, 1).tolist() == model.model.weight.tolist()
        assert reader.meta["hyper_parameters"] == {"width": 3}
        assert reader.meta["global_step"] == 6
    metrics, findings = read_metrics(run.logs, run.folder)
    assert {metric.name for metric in metrics} >= {"train_loss", "val_loss"}
    assert findings == ()


@pytest.mark.filterwarnings("ignore")
def test_a_real_transformers_run_is_found_and_read(tmp_path, monkeypatch):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

    from sedarchive.logs import read_metrics

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    torch.set_num_threads(1)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2))
    rows = [{"input_ids": torch.arange(8), "labels": torch.arange(8)}] * 8
    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"), max_steps=4, save_steps=2, logging_steps=1, eval_steps=2,
        eval_strategy="steps",
        per_device_train_batch_size=2, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    trainer.save_model()
    (run,) = find_runs(tmp_path)
    assert (run.name, steps(run)) == ("out", [2, 4])
    assert run.config["model_type"] == "gpt2"
    state = model.state_dict()
    with open_checkpoint(run.checkpoints[-1]) as reader:
        assert set(state) - set(reader.specs) <= {"lm_head.weight"}
        for name, spec in reader.specs.items():
            assert reader.read_rows(name, 0, spec.rows).tobytes() == state[name].numpy().tobytes()
    metrics, _ = read_metrics(run.logs, run.folder)
    found = {(metric.name, metric.step): metric.value for metric in metrics}
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert [found["train_loss", row["step"]] for row in logged] == [row["loss"] for row in logged]
    assert {("val_loss", 2), ("val_loss", 4), ("lr", 1), ("grad_norm", 3)} <= set(found)

    model.save_pretrained(tmp_path / "sharded" / "step_1", max_shard_size="2KB")
    assert len(list((tmp_path / "sharded" / "step_1").glob("*.safetensors"))) > 1
    (run,) = find_runs(tmp_path / "sharded")
    with open_checkpoint(run.checkpoints[0]) as reader:
        for name, spec in reader.specs.items():
            assert reader.read_rows(name, 0, spec.rows).tobytes() == state[name].numpy().tobytes()
    min((tmp_path / "sharded" / "step_1").glob("*.safetensors")).unlink()
    with pytest.raises(UnreadableCheckpointError, match="missing"):
        open_checkpoint(run.checkpoints[0])


def test_the_file_in_a_checkpoints_folder_is_that_checkpoint_of_that_run(tmp_path):
    touch(tmp_path, "a/checkpoint-500/model.safetensors", "a/checkpoint-600/model.safetensors")
    (run,) = find_runs(tmp_path / "a/checkpoint-500/model.safetensors")
    assert (run.name, run.folder, steps(run)) == ("a", tmp_path / "a", [500])
