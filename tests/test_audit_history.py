"""The audit on real files: published failures planted in trained runs are found, and clean trainings are silent."""

import copy
import json
import math
import re
import shutil

import pytest
import torch
from conftest import Analysis
from histories import SPACING, GPT2Config, GPT2LMHeadModel, Training, adamw, made, write_states
from small import data_of, run_here, walk, write_safetensors
from torch import nn
from torch.nn import functional

from sedarchive.archive import Archive
from sedarchive.compute.audits import Audit, audit_archive
from sedarchive.executor import Executor
from sedarchive.sizes import MIB
from sedarchive.sweeps.anatomy import anatomy
from sedarchive.sweeps.gram_sweep import sweep_gram
from sedarchive.sweeps.stored_grams import GramOptions

N_UPDATES = 19
STEPS = [SPACING * at for at in range(N_UPDATES + 1)]


# A published failure, planted in a copy of a sharded run


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    """A trained GPT-2 saved by transformers in shards: ``checkpoint-N/model-0000i-of-0000n.safetensors``."""
    torch.manual_seed(0)
    off = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=12, vocab_size=31, **off))
    folder = made(tmp_path_factory.mktemp("sharded") / "run")
    training = Training(model, adamw(model), folder / "metrics.jsonl")
    training.run(lambda step: model.save_pretrained(folder / f"checkpoint-{step}", max_shard_size="16KB"), N_UPDATES)
    assert len(shards(folder, 0)) > 1
    return folder


def shards(folder, step):
    return sorted((folder / f"checkpoint-{step}").glob("*.safetensors"))


def planted(sharded, folder, plant):
    """A copy of the run in which shards are those of other steps: (shard, step) -> step that it is taken from."""
    shutil.copytree(sharded, folder)
    for (shard, step), source in plant.items():
        shutil.copyfile(shards(sharded, source)[shard], shards(folder, step)[shard])
    return folder


def all_shards(sharded, pairs):
    return {(at, step): source for step, source in pairs.items() for at in range(len(shards(sharded, 0)))}


OF_LOGS = ("no_val_loss", "val_loss_elsewhere")


def grave(findings):
    """Findings of the audit above info, of planted runs: the logs, which these lack, have their own."""
    return [finding for finding in findings if finding.severity != "info" and finding.check_name not in OF_LOGS]


def audit_rows(analysis, severities=("warning", "error")):
    sql = "SELECT check_name, severity, step, tensor, detail FROM audit ORDER BY ALL"
    return [row for row in analysis.rows(sql) if row[1] in severities and row[0] not in OF_LOGS]


def statuses(analysis, scope, size=5):
    """Window's first and last step -> status."""
    sql = "SELECT step_first, step, status FROM windows WHERE scope = ? AND window_size = ? ORDER BY step"
    return {(first, last): status for first, last, status in analysis.rows(sql, [scope, size])}


def window_has(span, steps):
    """Whether one of the checkpoints lies in a window, whose first update begins one checkpoint before its first."""
    return any(span[0] <= step <= span[1] for step in steps)


def test_later_weights_under_earlier_names_are_found_at_ingest_and_in_the_tables(sharded, analysis, tmp_path):
    planted(sharded, tmp_path / "run", all_shards(sharded, {30: 130, 40: 140, 50: 150}))
    (report,) = analysis.ingest(tmp_path / "run")
    (found,) = grave(report.findings)
    assert (found.check_name, found.severity, found.step) == ("identical_checkpoints", "error", 30)
    assert "steps 30 and 130; steps 40 and 140; steps 50 and 150 hold the same weights each" in found.detail
    (computed,) = analysis.compute(spectra=False, inference=False)
    assert computed.error is None
    assert audit_rows(analysis) == [("identical_checkpoints", "error", 30, None, found.detail)]
    (wrong,) = [row for row in audit_rows(analysis, ("info",)) if row[0] == "distance_out_of_line"]
    assert "steps 30, 40 and 50 out of line" in wrong[4]
    for span, status in statuses(analysis, "all").items():
        assert status == ("duplicate" if window_has(span, (30, 40, 50, 130, 140, 150)) else "ok"), span


def test_one_shard_of_another_step_spoils_the_scopes_that_hold_its_tensors(sharded, analysis, tmp_path):
    folder = planted(sharded, tmp_path / "run", {(0, 60): 170})
    (report,) = analysis.ingest(folder)
    (found,) = grave(report.findings)
    assert (found.check_name, found.severity, found.step) == ("identical_tensors", "error", 60)
    assert "steps 60 and 170 hold the same weights" in found.detail
    analysis.compute(
        spectra=False, inference=False, scopes=("tensor:transformer.ln_f.weight", "tensor:transformer.wte.weight")
    )
    assert len(audit_rows(analysis)) == 1
    held = {"duplicate": set(), "ok": set()}
    for scope in ("all", "tensor:transformer.ln_f.weight", "tensor:transformer.wte.weight"):
        for span, status in statuses(analysis, scope).items():
            held[status].add(scope)
            assert status in ("duplicate" if window_has(span, (60, 170)) else "ok", "ok")
    assert "all" in held["duplicate"]
    assert held["duplicate"] != {"all", "tensor:transformer.ln_f.weight", "tensor:transformer.wte.weight"}


def test_a_shard_whose_own_step_is_not_archived_is_found_by_its_motion(sharded, analysis, tmp_path):
    folder = planted(sharded, tmp_path / "run", {(0, 60): 170})
    for step in (160, 170, 180, 190):
        shutil.rmtree(folder / f"checkpoint-{step}")
    (report,) = analysis.ingest(folder)
    assert grave(report.findings) == []
    (computed,) = analysis.compute(spectra=False, inference=False)
    assert {(one.step, one.severity) for one in grave(computed.findings)} == {(60, "warning")}
    assert statuses(analysis, "all")[30, 80] == "suspect"
    assert statuses(analysis, "all")[70, 120] == "ok"
    again = analysis.compute(spectra=False, inference=False)[0]
    assert again.findings == computed.findings
    assert again.window_sets == 0


def test_branches_with_the_same_bytes_are_found_by_ingest_and_compute(analysis, tmp_path):
    for name in ("seed1", "seed2"):
        write_safetensors(tmp_path / "suite" / name, walk(6))
    reports = analysis.ingest(tmp_path / "suite")
    assert [[one.check_name for one in grave(report.findings)] for report in reports] == [["identical_runs"]] * 2
    analysis.compute(spectra=False, inference=False)
    assert [row[0] for row in audit_rows(analysis)] == ["identical_runs"] * 2


def test_a_checkpoint_from_elsewhere_is_found_by_compute(analysis, tmp_path):
    states, other = walk(20), walk(1, seed=5)[0]
    states[8] = other
    write_safetensors(tmp_path / "run", states)
    assert grave(analysis.ingest(tmp_path / "run")[0].findings) == []
    (computed,) = analysis.compute(spectra=False, inference=False)
    assert [(one.check_name, one.step) for one in computed.findings] == [("jump_and_return", 80)]
    for span, status in statuses(analysis, "all").items():
        assert status == ("suspect" if window_has(span, (80,)) else "ok"), span


def test_new_windows_carry_what_was_found_without_reading_the_numbers_again(analysis, tmp_path, monkeypatch):
    states, other = walk(20), walk(1, seed=5)[0]
    states[8] = other
    write_safetensors(tmp_path / "run", states)
    analysis.ingest(tmp_path / "run")
    (first,) = analysis.compute(spectra=False, inference=False)
    monkeypatch.setattr(Audit, "_found", property(lambda _: pytest.fail("the Gram matrices were audited again")))
    (computed,) = analysis.compute(spectra=False, inference=False, windows=(7,))
    assert computed.findings == first.findings
    for span, status in statuses(analysis, "all", 7).items():
        assert status == ("suspect" if window_has(span, (80,)) else "ok"), span


def test_weights_that_leap_and_stay_are_found_by_compute(analysis, tmp_path):
    states, other = walk(20), walk(20, seed=5)
    write_safetensors(tmp_path / "run", states[:10] + other[10:])
    analysis.ingest(tmp_path / "run")
    (computed,) = analysis.compute(spectra=False, inference=False)
    assert [(one.check_name, one.step) for one in computed.findings] == [("norm_leap", 100)]
    assert "against" in computed.findings[0].detail


@pytest.mark.parametrize(("dtype", "scale"), [(torch.bfloat16, 2e-4), (torch.float16, 2e-5)])
def test_narrow_weights_of_small_updates_are_mostly_rounding(analysis, tmp_path, dtype, scale):
    weight = torch.randn(64, 64)
    states = [{"w.weight": (weight + scale * at * torch.randn(64, 64)).to(dtype)} for at in range(12)]
    analysis.ingest(write_states(tmp_path / "run", states))
    (computed,) = analysis.compute(spectra=False, inference=False)
    (found,) = grave(computed.findings)
    assert (found.check_name, found.severity) == ("quantization", "warning")
    assert str(dtype).removeprefix("torch.") in found.detail


# What is derived is not stored


def test_what_the_digests_show_is_derived_and_never_stored_or_doubled(analysis, tmp_path):
    states = walk(8)
    states[5] = states[1]
    write_safetensors(tmp_path / "run", states)
    (report,) = analysis.ingest(tmp_path / "run")
    (again,) = analysis.ingest(tmp_path / "run")
    assert grave(report.findings) == grave(again.findings) != []
    assert Archive(analysis.archive).run("run").findings == []
    for _ in range(2):
        analysis.compute(spectra=False, inference=False)
        assert [row[0] for row in audit_rows(analysis)] == ["identical_checkpoints"]


# The command


def command(analysis, *more, code=0):
    return run_here("audit", "--archive", analysis.archive, "--db", analysis.database, *more, code=code)


def test_the_command_groups_findings_by_run_and_severity(sharded, analysis, tmp_path):
    planted(sharded, tmp_path / "suite/bad", all_shards(sharded, {30: 130}))
    write_states(tmp_path / "suite/good", walk(8))
    for run in ("bad", "good"):
        evaluated(tmp_path / "suite" / run)
    analysis.ingest(tmp_path / "suite")
    shown = command(analysis)
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("bad: 1 error")
    assert lines[1].startswith("  error: identical_checkpoints (step 30): steps 30 and 130 hold the same weights")
    assert lines[-1] == "good: nothing found"
    assert "bad: norms, distances and rounding were not checked: `sedarchive compute` has not been run" in shown.stderr
    command(analysis, "--strict", code=3)
    assert command(analysis, "--strict", "--run", "good").stdout == "good: nothing found\n"
    analysis.compute(spectra=False, inference=False)
    audits = data_of(command(analysis, "--json"))
    assert [(one["run"], one["unchecked"]) for one in audits] == [("bad", None), ("good", None)]
    checks = [finding["check_name"] for finding in audits[0]["findings"]]
    assert {"identical_checkpoints", "distance_out_of_line"} <= set(checks)


def test_the_command_says_what_compute_says(analysis, tmp_path):
    states = walk(20)
    states[8], states[3] = walk(1, seed=5)[0], states[16]
    write_safetensors(tmp_path / "run", states)
    analysis.ingest(tmp_path / "run")
    analysis.compute(spectra=False, inference=False, band=8)
    (audited,) = data_of(command(analysis, "--json"))
    told = sorted((one["check_name"], one["severity"], one["step"], one["detail"]) for one in audited["findings"])
    sql = "SELECT check_name, severity, step, detail FROM audit ORDER BY ALL"
    assert told == analysis.rows(sql)
    assert len(told) > 2


def test_a_run_that_does_not_exist_and_an_archive_that_does_not_are_plain_errors(analysis, tmp_path):
    write_safetensors(tmp_path / "run", walk(2))
    analysis.ingest(tmp_path / "run")
    command(analysis, "--run", "nobody", code=4)
    run_here("audit", "--archive", tmp_path / "nothing.zarr", code=1)


def test_a_damaged_run_is_a_finding_and_the_others_are_audited(analysis, tmp_path):
    for name in ("broken", "whole"):
        write_safetensors(tmp_path / "suite" / name, walk(4, seed=len(name)))
    analysis.ingest(tmp_path / "suite")
    commit = next((analysis.archive / "broken/commits").glob("*.json"))
    commit.write_text(commit.read_text().replace('"step"', '"stop"'))
    audits = data_of(command(analysis, "--json"))
    assert [[one["check_name"] for one in audit["findings"]] for audit in audits] == [["unreadable"], ["no_val_loss"]]


# Silence on clean trainings


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Linear(12, 24)
        self.hidden = nn.Linear(24, 24)
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        return self.head(self.norm(functional.gelu(self.hidden(functional.gelu(self.embedding(x))))))


def trained_states(optimizer_of, n_updates, *, seed=0, saved=None, schedule=None, gradient=None, dtype=torch.float32):
    """States of a small regression at the updates ``saved``, by a real optimizer and scheduler."""
    torch.manual_seed(seed)
    net, generator = Net(), torch.Generator().manual_seed(seed)
    optimizer = optimizer_of(net.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule or (lambda update: 1.0))
    target = torch.randn(12, 5, generator=generator)
    saved = range(n_updates + 1) if saved is None else saved
    states = []
    for update in range(n_updates + 1):
        if update in saved:
            states.append({name: value.to(dtype).clone() for name, value in copy.deepcopy(net.state_dict()).items()})
        inputs = torch.randn(32, 12, generator=generator)
        optimizer.zero_grad()
        functional.mse_loss(net(inputs), torch.sin(inputs @ target)).backward()
        if gradient is not None:
            for parameter in net.parameters():
                parameter.grad *= gradient(update)
        optimizer.step()
        scheduler.step()
    return states


def adamw_of(**options):
    return lambda parameters: torch.optim.AdamW(parameters, **{"lr": 3e-3, "weight_decay": 0.1, **options})


def sgd_of(**options):
    return lambda parameters: torch.optim.SGD(parameters, **options)


def warm_up_and_cosine(update, warm=10, total=60):
    return update / warm if update < warm else 0.5 + 0.5 * math.cos(math.pi * (update - warm) / (total - warm))


LOG_SPACED = [0, *(2**power for power in range(7)), *range(100, 501, 50)]
CLEAN = {
    "warm_up_and_cosine": lambda: trained_states(adamw_of(), 60, seed=1, schedule=warm_up_and_cosine),
    "sgd": lambda: trained_states(sgd_of(lr=0.1), 40, seed=2),
    "sgd_hot": lambda: trained_states(sgd_of(lr=0.4), 40, seed=3),
    "momentum_with_decays": lambda: trained_states(
        sgd_of(lr=0.05, momentum=0.9), 60, seed=4, schedule=lambda update: 0.1 ** (update // 20)
    ),
    "bfloat16_of_large_updates": lambda: trained_states(adamw_of(lr=2e-2), 40, seed=5, dtype=torch.bfloat16),
    "decay_only_at_times": lambda: trained_states(
        adamw_of(), 60, seed=6, gradient=lambda update: 0.0 if update // 12 % 2 else 1.0
    ),
    "restarts": lambda: trained_states(
        adamw_of(), 60, seed=7, schedule=lambda update: 0.5 + 0.5 * math.cos(math.pi * (update % 15) / 15)
    ),
    "every_fifth": lambda: trained_states(adamw_of(), 200, seed=8, saved=range(0, 201, 5)),
}
TRAINED = ("gpt2_float32", "neox", "nanogpt", "collinear", "adapter")


def swept(archive):
    """Gram matrices of every run, without tables: no window is needed for an audit."""
    opened = Archive(archive)
    with opened.writing("compute") as store:
        for run in opened.runs():
            sweep_gram(anatomy(run), store, GramOptions(64 * MIB), Executor(1))


def evaluated(run):
    """Log a validation loss at every checkpoint of a run beside what it logs, as a complete history does."""
    steps = sorted({int(number) for path in run.iterdir() for number in re.findall(r"\d+", path.stem)[-1:]})
    with (run / "metrics.jsonl").open("a") as log:
        log.writelines(json.dumps({"step": step, "val_loss": 1 / (1 + step)}) + "\n" for step in steps)


@pytest.fixture(scope="module")
def clean(trained, tmp_path_factory):
    """Audits of trainings in which nothing is wrong, by run."""
    folder = tmp_path_factory.mktemp("clean")
    for name, states in CLEAN.items():
        write_states(folder / "runs" / name, states())
    write_states(
        folder / "runs/log_spaced", trained_states(adamw_of(), 500, seed=9, saved=LOG_SPACED), steps=LOG_SPACED
    )
    for name in (*TRAINED, "encoder"):
        shutil.copytree(trained / name, folder / "runs" / name)
    for run in (folder / "runs").iterdir():
        evaluated(run)
    made = Analysis(folder / "archive.zarr", folder / "archive.duckdb")
    made.ingest(folder / "runs")
    swept(made.archive)
    return {one.run: one for one in audit_archive(made.archive, made.database)}


@pytest.mark.parametrize("name", [*CLEAN, "log_spaced", *TRAINED])
def test_a_clean_training_has_no_finding_above_info(clean, name):
    assert clean[name].unchecked is None
    assert [finding for finding in clean[name].findings if finding.severity != "info"] == []


def test_a_training_saved_in_bfloat16_has_its_rounding_told_and_nothing_else(clean):
    assert [one.check_name for one in clean["encoder"].findings if one.severity != "info"] == ["quantization"]
