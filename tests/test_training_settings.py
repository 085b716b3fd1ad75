"""How a run was trained: settings from files beside the checkpoints and from inside them."""

import json
import os
import random

import pytest
import torch
from safetensors.torch import save_file
from small import data_of, run_here, walk, write_torch

from sedarchive.history import CheckpointSource, Metric
from sedarchive.readers import open_checkpoint
from sedarchive.readers.discover import find_runs
from sedarchive.readers.settings import read_settings
from sedarchive.readers.training import checkpoint_settings, training_facts


def run_in(folder):
    (folder / "step_1").mkdir(parents=True, exist_ok=True)
    save_file({"w": torch.zeros(2, 2)}, folder / "step_1" / "model.safetensors")
    (run,) = find_runs(folder)
    return run


def meta_of(path):
    with open_checkpoint(CheckpointSource(1, path.name, path)) as reader:
        return dict(reader.meta)


def stepped(kind, **options):
    """A torch optimizer with two groups, as nanoGPT makes them, after one update."""
    model = torch.nn.Linear(3, 2)
    groups = [
        {"params": [model.weight], "weight_decay": options.pop("weight_decay", 0.1)},
        {"params": [model.bias], "weight_decay": 0.0},
    ]
    optimizer = kind(groups, **options)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_the_optimizer_in_a_checkpoint_of_nanogpt(tmp_path):
    model, optimizer = stepped(torch.optim.AdamW, lr=6e-4, betas=(0.9, 0.95))
    saved = {
        "model": model.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": 1, "model_args": {"n_head": 2},
        "config": {"learning_rate": 6e-4, "beta1": 0.9, "beta2": 0.95, "weight_decay": 0.1},
    }  # fmt: skip
    torch.save(saved, tmp_path / "ckpt_1.pt")
    meta = meta_of(tmp_path / "ckpt_1.pt")
    assert meta["optimizer"] == {"lr": 6e-4, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95, "optimizer": "AdamW"}
    (run,) = find_runs(tmp_path)
    facts, findings = training_facts(run, meta)
    assert facts.pop("parameter_groups") == [{"weight_decay": 0.1, "count": 1}, {"weight_decay": 0.0, "count": 1}]
    assert facts == {"optimizer": "AdamW", "lr": 6e-4, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95}
    assert findings == []


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_other_optimizers_say_what_they_have(tmp_path, kind):
    model, optimizer = stepped(kind, lr=0.5, weight_decay=0.25)
    torch.save(
        {"model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}, tmp_path / "a.pt"
    )
    found = meta_of(tmp_path / "a.pt")["optimizer"]
    assert (found["lr"], found["weight_decay"]) == (0.5, 0.25)
    assert found.get("optimizer") == ("Adam" if kind is torch.optim.Adam else None)
    assert ("beta1" in found) == (kind is torch.optim.Adam)


def test_the_rate_of_one_checkpoint_is_not_the_peak(tmp_path):
    model, optimizer = stepped(torch.optim.AdamW, lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    optimizer.step()
    scheduler.step()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "ckpt_1.pt")
    meta = meta_of(tmp_path / "ckpt_1.pt")
    assert meta["optimizer"]["lr"] == pytest.approx(1e-4)
    (run,) = find_runs(tmp_path)
    assert training_facts(run, meta)[0]["lr"] == 1e-3


@pytest.mark.parametrize(
    "optimizer",
    [3, [], {}, {"param_groups": 3}, {"param_groups": [3]},
     {"param_groups": [{"lr": "x", "betas": [1], "weight_decay": -1}]},
     [{"param_groups": [{"lr": float("nan"), "betas": ("a", "b")}]}], {"param_groups": [{"lr": True}]}],
)  # fmt: skip
def test_an_optimizer_that_is_none_says_nothing(tmp_path, optimizer):
    torch.save({"model": {"w": torch.zeros(2)}, "optimizer": optimizer}, tmp_path / "ckpt_1.pt")
    assert not {"optimizer", "parameter_groups"} & meta_of(tmp_path / "ckpt_1.pt").keys()


@pytest.mark.filterwarnings("ignore")
def test_the_arguments_of_transformers_trainer(tmp_path):
    from transformers import TrainingArguments

    arguments = TrainingArguments(
        output_dir=str(tmp_path / "out"), learning_rate=2e-4, weight_decay=0.05, adam_beta2=0.95, seed=7, use_cpu=True
    )
    run_in(tmp_path)
    torch.save(arguments, tmp_path / "step_1" / "training_args.bin")
    facts, findings = training_facts(find_runs(tmp_path)[0], {})
    assert findings == []
    assert facts.pop("optimizer").startswith("adamw_torch")
    assert facts == {"lr": 2e-4, "weight_decay": 0.05, "beta1": 0.9, "beta2": 0.95, "seed": 7}


@pytest.mark.filterwarnings("ignore")
def test_the_hyperparameters_of_lightning(tmp_path):
    import lightning
    from lightning.pytorch.loggers import CSVLogger

    class Model(lightning.LightningModule):
        def __init__(self, learning_rate, weight_decay, betas, optimizer):
            super().__init__()
            self.save_hyperparameters()
            self.layer = torch.nn.Linear(3, 2)

        def training_step(self, batch, index):
            loss = self.layer(batch).pow(2).mean()
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self):
            h = self.hparams
            return torch.optim.AdamW(self.parameters(), lr=h.learning_rate, weight_decay=h.weight_decay, betas=h.betas)

    trainer = lightning.Trainer(
        max_steps=2, accelerator="cpu", default_root_dir=tmp_path, log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, logger=CSVLogger(tmp_path, name="lightning_logs"),
    )  # fmt: skip
    trainer.fit(Model(3e-3, 0.2, (0.9, 0.98), "adamw"), torch.utils.data.DataLoader(torch.ones(4, 3), batch_size=2))
    (run,) = find_runs(tmp_path)
    wanted = {"optimizer": "adamw", "lr": 3e-3, "weight_decay": 0.2, "beta1": 0.9, "beta2": 0.98}
    assert training_facts(run, {}) == (wanted, [])
    meta = meta_of(run.checkpoints[-1].path)
    assert meta["optimizer"]["lr"] == 3e-3
    (run.folder / "hparams.yaml").unlink()
    groups = [{"weight_decay": 0.2, "count": 2}]
    assert training_facts(run, meta) == ({**wanted, "parameter_groups": groups}, [])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hparams.yaml", "lr: 0.001\nweight_decay: 1e-2\nbetas:\n- 0.9\n- 0.95\noptimizer: AdamW\nseed: 3\n"),
        ("hparams.yaml", "lr: 1.0e-3  # peak\nweight_decay: .01\nbetas: [0.9, 0.95]\noptimizer: 'AdamW'\nseed: 3\n"),
        ("hparams.yaml",
         "betas: !!python/tuple\n- 0.9\n- 0.95\nlr: 0.001\nwd: 0.01\noptim: AdamW\nseed: 3\nx:\n  lr: 9\n"),
        ("args.json", json.dumps(
            {"max_lr": 1e-3, "wd": 0.01, "opt": {"betas": [0.9, 0.95], "optimizer": "AdamW"}, "seed": 3})),
        ("wandb/run-1-a/files/config.yaml",
         "_wandb:\n    value:\n        x: 1\nlr:\n    desc: null\n    value: 0.001\nweight_decay:\n    value: 0.01\n"
         "beta1:\n    value: 0.9\nbeta2:\n    value: 0.95\noptimizer:\n    value: AdamW\nseed:\n    value: 3\n"),
    ],
)  # fmt: skip
def test_settings_files(tmp_path, name, text):
    run_in(tmp_path)
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if "wandb" in name:
        path.with_name("output.log").write_text("")
    facts, findings = training_facts(find_runs(tmp_path)[0], {})
    assert facts == {"optimizer": "AdamW", "lr": 1e-3, "weight_decay": 0.01, "beta1": 0.9, "beta2": 0.95, "seed": 3}
    assert findings == []


def test_parameters_of_mlflow(tmp_path):
    run_in(tmp_path)
    run = tmp_path / "mlruns" / "0" / "abc"
    for name, text in {"params/lr": "0.001", "params/betas": "(0.9, 0.95)", "metrics/loss": "1 2.0 3\n"}.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    facts, _ = training_facts(find_runs(tmp_path)[0], {})
    assert facts["lr"] == 1e-3


def test_sources_that_disagree_are_told_and_the_first_stays(tmp_path):
    run = run_in(tmp_path)
    (tmp_path / "args.json").write_text('{"lr": 0.1, "optimizer": "adamw_torch_fused"}')
    facts, (finding,) = training_facts(run, {"config": {"learning_rate": 0.2}, "hyper_parameters": {"optim": "AdamW"}})
    assert facts == {"lr": 0.1, "optimizer": "adamw_torch_fused"}
    assert (finding.check_name, finding.severity) == ("settings_disagree", "info")
    assert "lr is 0.1 in args.json and 0.2 in config in the checkpoint" in finding.detail


def test_logs_win_over_the_optimizer_in_the_checkpoint():
    logged = [Metric("lr", 10, 0.5, "log"), Metric("lr", 20, 0.25, "log"), Metric("other", 30, 1.0, "log")]
    optimizers = {10: {"lr": 0.5, "weight_decay": 0.1}, 20: {"lr": 0.2}, 30: {"lr": 0.1}}
    added, (finding,) = checkpoint_settings(optimizers, {10: "a", 20: "b", 30: "c"}, logged)
    assert added == (Metric("lr", 30, 0.1, "c"), Metric("weight_decay", 10, 0.1, "a"))
    assert (finding.check_name, finding.step) == ("settings_disagree", 20)
    assert "1 of 3 checkpoints" in finding.detail
    assert "0.25 against 0.2" in finding.detail


class Runs:
    def __reduce__(self):
        return os.system, ("touch executed",)


@pytest.mark.parametrize("name", ["training_args.bin", "hparams.yaml", "args.json"])
def test_hostile_settings_are_findings_and_nothing_runs(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_in(tmp_path / "run")
    path = run.folder / name
    noise = random.Random(0).randbytes(3000)
    for data in (
        noise,
        b"",
        b"\0" * 100,
        b"[" * 100_000,
        b"lr: " + b"9" * 1_000_000,
        b"a: [" * 50_000,
        b"x" * 5_000_000,
    ):
        path.write_bytes(data)
        facts, findings = training_facts(run, {})
        assert facts == {}
        assert {finding.severity for finding in findings} <= {"info"}
    torch.save({"x": Runs()}, path)
    facts, findings = training_facts(run, {})
    assert facts == {}
    assert not (tmp_path / "executed").exists()


def test_a_link_to_settings_elsewhere_is_not_followed(tmp_path):
    run = run_in(tmp_path / "run")
    (tmp_path / "args.json").write_text('{"lr": 1}')
    (run.folder / "args.json").symlink_to(tmp_path / "args.json")
    assert training_facts(run, {}) == ({}, [])


def test_flat_yaml_says_what_pyyaml_says(tmp_path):
    yaml = pytest.importorskip("yaml")
    content = {"lr": 0.001, "n": 3, "name": "a b", "none": None, "betas": [0.9, 0.95], "neg": -1.5, "quoted": "1e"}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(content))
    assert read_settings(tmp_path / "a.yaml") == content


def test_the_tables_hold_what_is_known(tmp_path):
    torch.manual_seed(0)
    folder = tmp_path / "run"
    folder.mkdir()
    model, optimizer = stepped(torch.optim.AdamW, lr=1e-3, betas=(0.9, 0.95))
    for step in (0, 10, 20):
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, folder / f"ckpt_{step}.pt")
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 1e-3 / (step + 2)
        optimizer.step()
    (folder / "hparams.yaml").write_text("learning_rate: 0.002\nseed: 5\n")
    (folder / "log.jsonl").write_text('{"step": 10, "lr": 0.5, "val_loss": 1.0}\n{"step": 0, "val_loss": 1.0}\n')
    where = ("--archive", str(tmp_path / "a.zarr"))
    for _ in range(2):  # the second time no checkpoint is opened, and what is known stays
        run_here("ingest", str(folder), *where)
    run_here("compute", "--no-spectra", *where, "--db", str(tmp_path / "a.duckdb"))

    def rows(sql):
        return data_of(run_here("query", sql, "--json", "--db", str(tmp_path / "a.duckdb")))

    (found,) = rows("SELECT optimizer, beta1, beta2, lr, weight_decay, seed FROM runs")
    assert found == {"optimizer": "AdamW", "beta1": 0.9, "beta2": 0.95, "lr": 0.002, "weight_decay": 0.1, "seed": 5}
    found = rows("SELECT step, lr, weight_decay FROM checkpoints ORDER BY step")
    assert [(row["step"], row["lr"], row["weight_decay"]) for row in found] == [
        (0, 1e-3, 0.1), (10, 0.5, 0.1), (20, pytest.approx(1e-3 / 12), 0.1),
    ]  # fmt: skip
    assert rows("SELECT count(*) AS n FROM audit WHERE check_name = 'settings_disagree' AND step = 10") == [{"n": 1}]


def test_a_run_without_any_settings_has_none(tmp_path):
    write_torch(tmp_path / "run", walk(2))
    (run,) = find_runs(tmp_path / "run")
    assert training_facts(run, {}) == ({}, [])
