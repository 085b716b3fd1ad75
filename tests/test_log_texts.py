"""Logs of other trainers: what they print, wandb's and MLflow's files, JSON documents."""

import json
import random
import time

import pytest

from sedarchive.logs import read_metrics
from sedarchive.readers.logfiles import find_logs


def written(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def table(metrics):
    return {(metric.name, metric.step): metric.value for metric in metrics}


def read(path, root=None):
    metrics, findings = read_metrics([path], root or path.parent)
    return table(metrics), findings


NANOGPT = """\
tokens per iteration will be: 491,520
number of parameters: 123.59M
step 0: train loss 10.9897, val loss 10.9891
iter 0: loss 10.9886, time 46204.18ms, mfu -100.00%
iter 10: loss 10.0123, time 321.00ms, mfu 35.92%
step 500: train loss 5.8301, val loss 5.8400
saving checkpoint to out
"""


def test_nanogpt(tmp_path):
    found, findings = read(written(tmp_path / "train.log", NANOGPT))
    assert found == {
        ("train_loss", 0): 10.9897, ("val_loss", 0): 10.9891, ("loss", 0): 10.9886, ("loss", 10): 10.0123,
        ("train_loss", 500): 5.8301, ("val_loss", 500): 5.84,
    }  # fmt: skip
    assert findings == ()


def test_llm_c(tmp_path):
    text = "s:0 tel:11.0155\ns:0 eval:0.2463\ns:250 tel:6.4710\ns:250 trl:6.4801 lr:0.000214 norm:1.9521\n"
    found, findings = read(written(tmp_path / "main.log", text))
    assert found == {
        ("val_loss", 0): 11.0155, ("hellaswag_acc", 0): 0.2463, ("val_loss", 250): 6.471, ("train_loss", 250): 6.4801,
        ("lr", 250): 0.000214, ("grad_norm", 250): 1.9521,
    }  # fmt: skip
    assert findings == ()


def test_llm_c_and_build_nanogpt_on_the_screen(tmp_path):
    text = (
        "step    5/18865 | loss 9.123456 (+1.20z)| norm 2.5000 (-0.31z)| lr 6.00e-05 | 321.10 ms | 45.1% bf16 MFU\n"
        "step     6 | loss: 9.000000 | lr 1.0e-04 | norm: 2.2500 | dt: 300.10ms | tok/sec: 170000.00\n"
    )
    found, _ = read(written(tmp_path / "stdout.txt", text))
    assert found == {
        ("train_loss", 5): 9.123456, ("grad_norm", 5): 2.5, ("lr", 5): 6e-5, ("train_loss", 6): 9.0, ("lr", 6): 1e-4,
        ("grad_norm", 6): 2.25, ("tok/sec", 6): 170000.0,
    }  # fmt: skip


def test_build_nanogpt_s_own_file(tmp_path):
    text = "0 val 10.9506\n0 hella 0.2463\n0 train 10.955029\n1 train 10.6\n12 monkeys 3\n"
    found, _ = read(written(tmp_path / "log.txt", text))
    assert found == {
        ("val_loss", 0): 10.9506, ("hellaswag_acc", 0): 0.2463, ("train_loss", 0): 10.955029, ("train_loss", 1): 10.6,
    }  # fmt: skip


MEGATRON = """\
 [2024-05-01 10:00:00] iteration      100/    1000 | consumed samples:        25600 | elapsed time per iteration (ms): \
1234.5 | learning rate: 1.500000E-04 | global batch size:   256 | lm loss: 6.543210E+00 | loss scale: 1.0 | \
grad norm: 0.812 | number of skipped iterations:   0 | number of nan iterations:   0 |
-----------------------------------------------------------------------------------------------
 validation loss at iteration 100 | lm loss value: 6.600000E+00 | lm loss PPL: 7.350952E+02 |
 validation loss at iteration 100 on test set | lm loss value: 6.700000E+00 | lm loss PPL: 8.124058E+02 |
 validation loss at iteration 200 on validation set | lm loss value: 6.500000E+00 | lm loss PPL: 6.651416E+02 |
"""


def test_megatron(tmp_path):
    found, findings = read(written(tmp_path / "slurm-123.out", MEGATRON))
    assert found["train_loss", 100] == 6.54321
    assert found["lr", 100] == 1.5e-4
    assert found["grad_norm", 100] == 0.812
    assert found["consumed samples", 100] == 25600
    assert found["val_loss", 100] == 6.6
    assert found["test_loss", 100] == 6.7
    assert found["val_loss", 200] == 6.5
    assert found["val_ppl", 200] == 665.1416
    assert findings == ()


def test_torchtitan_in_colour(tmp_path):
    text = (
        "[titan] 2025-01-02 10:00:00,123 - root - INFO - \x1b[31mstep: 10  \x1b[32mloss:  7.1234  \x1b[38;2;180;60;0m"
        "grad_norm:  1.5000  \x1b[34mmemory: 12.30GiB(50.00%)  tps: 1,234\x1b[39m\n"
    )
    found, _ = read(written(tmp_path / "train.log", text))
    assert found == {("train_loss", 10): 7.1234, ("grad_norm", 10): 1.5}


def test_a_progress_bar_hides_no_line(tmp_path):
    found, _ = read(written(tmp_path / "a.log", " 1%|x|\r 2%|x|\rstep 5: train loss 1.0, val loss 2.0\n"))
    assert found == {("train_loss", 5): 1.0, ("val_loss", 5): 2.0}


def test_a_last_line_that_was_cut_says_nothing(tmp_path):
    found, _ = read(
        written(tmp_path / "a.log", "step 5: train loss 1.5, val loss 2.5\nstep 6: train loss 1.5, val loss 2")
    )
    assert found == {("train_loss", 5): 1.5, ("val_loss", 5): 2.5}


def test_a_text_that_is_no_log_is_an_info(tmp_path):
    found, (finding,) = read(written(tmp_path / "debug.log", "starting\nall is well at step 7\n"))
    assert found == {}
    assert (finding.check_name, finding.severity) == ("no_log_values", "info")
    assert "Megatron" in finding.detail


@pytest.mark.parametrize(
    "line",
    [
        "step 5: " + "a" * 10_000_000,
        "step 5: " + " " * 10_000_000 + "x",
        "iteration 5/ 10 |" + " lm loss: 1 |" * 1_000_000,
        "s:5 " + "tel:" * 3_000_000,
        "step:" + " " * 10_000_000 + "5 loss: 1",
        "9" * 10_000_000,
    ],
)
def test_a_line_of_ten_megabytes_costs_little_and_gives_nothing(tmp_path, line):
    path = written(tmp_path / "a.log", line + "\nstep 7: train loss 1.0, val loss 2.0\n")
    start = time.monotonic()
    found, _ = read(path)
    assert found == {("train_loss", 7): 1.0, ("val_loss", 7): 2.0}
    assert time.monotonic() - start < 3


@pytest.mark.parametrize(
    "line",
    [
        "step 5: " + "a" * 16_000,
        "step 5: " + "a" + " " * 16_000 + "x",
        "step 5: " + "a b:" * 4_000,
        "step 5 |" + "a " * 8_000,
        "s:5 " + "a: " * 5_000,
        "s:5 " + "a:1" * 5_000,
        "step: 5 " + "a:" + " " * 16_000,
        "iteration " * 1_600,
        "validation loss at iteration " * 500,
        "step 5: a " + "9" * 16_000,
    ],
)
def test_a_line_made_to_backtrack_takes_no_time(tmp_path, line):
    path = written(tmp_path / "a.log", (line + "\n") * 20)
    start = time.monotonic()
    read(path)
    assert time.monotonic() - start < 2


def test_binary_noise_is_an_info(tmp_path):
    for name in ("a.log", "nohup.out", "log.txt"):
        (tmp_path / name).write_bytes(random.Random(0).randbytes(200_000))
        found, (finding,) = read(tmp_path / name)
        assert (found, finding.severity) == ({}, "info")


def test_numbers_that_overflow_are_counted(tmp_path):
    found, (finding,) = read(written(tmp_path / "a.log", "step 5: train loss nan, val loss 1e999\n"))
    assert found == {}
    assert "2 values not finite" in finding.detail


def test_printed_digits_are_no_contradiction(tmp_path):
    exact = written(tmp_path / "log.jsonl", '{"step": 500, "val_loss": 5.84003, "train_loss": 5.9}\n')
    printed = written(tmp_path / "train.log", NANOGPT)
    metrics, (finding,) = read_metrics([exact, printed], tmp_path)
    assert table(metrics)["val_loss", 500] == 5.84003
    assert "1 value unlike" in finding.detail  # 5.9 is not 5.8301


# wandb


def test_an_export_of_wandb_with_run_names_and_bounds(tmp_path):
    text = '"Step","mine - val_loss","mine - val_loss__MIN","mine - val_loss__MAX"\n10,2.5,2.0,3.0\n20,2.25,2.0,3.0\n'
    found, findings = read(written(tmp_path / "wandb_export_2024.csv", text))
    assert (found, findings) == ({("val_loss", 10): 2.5, ("val_loss", 20): 2.25}, ())


def test_an_export_over_the_optimizer_s_steps(tmp_path):
    text = '"trainer/global_step","a - 1 - train/loss","a - 1 - _step","a - 1 - _step__MIN"\n10,2.5,3,3\n'
    found, _ = read(written(tmp_path / "wandb.csv", text))
    assert found == {("train_loss", 10): 2.5}


def test_of_several_runs_in_an_export_the_one_of_that_name_is_read(tmp_path):
    text = '"Step","a - val_loss","b - val_loss"\n10,2.5,3.5\n'
    found, _ = read(written(tmp_path / "b" / "wandb_export.csv", text))
    assert found == {("val_loss", 10): 3.5}
    found, (finding, *_) = read(written(tmp_path / "c" / "wandb_export.csv", text))
    assert (found, finding.severity) == ({}, "warning")
    assert "2 runs (a, b)" in finding.detail
    assert "none is called c" in finding.detail


def test_a_history_of_wandb_as_csv_and_json(tmp_path):
    rows = [{"_step": 3, "_runtime": 1.0, "_timestamp": 2.0, "train/global_step": 30, "val/loss": 1.5}]
    text = ",_step,_runtime,_timestamp,train/global_step,val/loss\n0,3,1.0,2.0,30,1.5\n"
    wanted = ({("val_loss", 30): 1.5}, ())
    assert read(written(tmp_path / "history.csv", text)) == wanted
    assert read(written(tmp_path / "history.json", json.dumps(rows))) == wanted
    assert read(written(tmp_path / "history.jsonl", json.dumps(rows[0]) + "\n")) == wanted
    assert read(written(tmp_path / "lines.json", (json.dumps(rows[0]) + "\n") * 2)) == wanted


def test_the_summary_of_wandb_does_not_pass_for_the_last_step(tmp_path):
    summary = {"_step": 9, "_wandb": {"runtime": 3}, "_runtime": 5, "val_loss": 1.5, "trainer/global_step": 90}
    found, findings = read(written(tmp_path / "wandb-summary.json", json.dumps(summary)))
    assert (found, findings) == ({("summary/val_loss", 90): 1.5, ("summary/trainer/global_step", 90): 90.0}, ())


@pytest.mark.parametrize(
    ("older", "newer", "line"),
    [
        ("wandb/run-1-a/files/output.log", "wandb/run-2-b/files/output.log", "s:{} tel:{}"),
        ("lightning_logs/version_9/log.jsonl", "lightning_logs/version_10/log.jsonl", '{{"step": {}, "val_loss": {}}}'),
        ("mlruns/0/a/metrics/val_loss", "mlruns/0/b/metrics/val_loss", "170 {1} {0}"),
    ],
)
def test_what_a_later_session_logs_again_replaces_the_older_values(tmp_path, older, newer, line):
    for name, steps, value in ((older, (0, 10, 20, 30), 1.0), (newer, (20, 25), 2.0)):
        written(tmp_path / name, "".join(line.format(step, value) + "\n" for step in steps))
    logs, _ = find_logs(tmp_path, [])
    assert [path.relative_to(tmp_path).as_posix() for path in logs] == [newer, older]
    metrics, (finding,) = read_metrics(logs, tmp_path)
    assert {metric.step: metric.value for metric in metrics} == {0: 1.0, 10: 1.0, 20: 2.0, 25: 2.0}
    assert "2 values of steps that a later session logs again" in finding.detail


# MLflow


def test_mlflow_s_files_are_named_by_their_paths(tmp_path):
    run = tmp_path / "mlruns" / "0" / "abc" / "metrics"
    loss = written(run / "val" / "loss", "1700000000000 2.5 10\n1700000001000 2.25 20\n")
    rate = written(run / "lr", "1700000000000 1e-3 10\nnonsense\n1700000000000 nan 20\n1700000000000 1e-3 1.5\n")
    metrics, (finding,) = read_metrics([loss, rate], tmp_path)
    assert table(metrics) == {("val_loss", 10): 2.5, ("val_loss", 20): 2.25, ("lr", 10): 1e-3}
    assert "2 malformed rows, 1 value not finite" in finding.detail


def test_a_metric_of_mlflow_that_is_noise_is_a_finding(tmp_path):
    path = tmp_path / "mlruns" / "0" / "abc" / "metrics" / "loss"
    path.parent.mkdir(parents=True)
    path.write_bytes(random.Random(0).randbytes(100_000))
    found, (finding,) = read(path, tmp_path)
    assert (found, finding.severity) == ({}, "info")


# JSON documents


ROWS = [{"step": 200, "val_loss": 2.5, "probe_in_acc": 0.5}, {"step": 400, "val_loss": 2.0, "probe_in_acc": 1.0}]
WANTED = {
    ("val_loss", 200): 2.5, ("probe_in_acc", 200): 0.5, ("val_loss", 400): 2.0, ("probe_in_acc", 400): 1.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        ROWS,
        {"history": ROWS, "seed": 3},
        {"step": [200, 400], "val_loss": [2.5, 2.0], "probe_in_acc": [0.5, 1.0], "other": [1]},
        {"200": {"val_loss": 2.5, "probe_in_acc": 0.5}, "400": {"val_loss": 2.0, "probe_in_acc": 1.0}},
        {"val": [{"step": 200, "loss": 2.5}, {"step": 400, "loss": 2.0}], "rows": [
            {"step": 200, "probe_in_acc": 0.5}, {"step": 400, "probe_in_acc": 1.0}]},
    ],
)  # fmt: skip
def test_json_documents_of_rows_columns_and_steps(tmp_path, content):
    assert read(written(tmp_path / "pilot_metrics.json", json.dumps(content))) == (WANTED, ())


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "3", "null", "{}", "[]", '{"a": [1, 2]}', '{"a": {"b": 1}}', "[1, []]"]
)
def test_json_documents_without_rows_are_findings(tmp_path, text):
    found, findings = read(written(tmp_path / "metrics.json", text))
    assert found == {}
    assert len(findings) == 1


# Bounds of all formats


def test_names_that_no_database_could_hold_are_made_writable(tmp_path):
    path = written(tmp_path / "log.jsonl", '{"step": 1, "a\\ud800b": 1.0, "zero\\u0000": 2.0}\n')
    assert read(path)[0] == {("a?b", 1): 1.0, ("zero?", 1): 2.0}


def test_a_log_of_too_many_names_keeps_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("sedarchive.logs.metrics._NAME_LIMIT", 3)
    row = {"step": 1} | {f"x{at}": 1.0 for at in range(9)} | {"eval_loss": 2.0}
    found, (finding,) = read(written(tmp_path / "log.jsonl", json.dumps(row)))
    assert set(found) == {("val_loss", 1), ("x0", 1), ("x1", 1)}
    assert "10 different metrics" in finding.detail


def test_names_without_end_are_read_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("sedarchive.logs.metrics._DISTINCT_LIMIT", 3)
    rows = [{"step": at, f"x{at}": 1.0, "y" * 10_001: 1.0} for at in range(9)]
    path = written(tmp_path / "log.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    found, findings = read(path)
    assert set(found) == {("x0", 0), ("x1", 1), ("x2", 2)}
    assert "more than 3 different names" in findings[0].detail
    assert "3 values under names of absurd length" in findings[1].detail


def test_logs_of_too_many_values_are_read_up_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr("sedarchive.logs.metrics._VALUE_LIMIT", 5)
    path = written(tmp_path / "log.jsonl", "".join(json.dumps({"step": at, "loss": 1.0}) + "\n" for at in range(99)))
    found, (finding,) = read(path)
    assert len(found) == 6
    assert "more than 5 values" in finding.detail


WHOLE = {
    "a.log": NANOGPT + MEGATRON + "s:250 trl:6.4801 lr:0.000214 norm:1.9521\n",
    "wandb.csv": '"Step","mine - val_loss","mine - val_loss__MIN"\n10,2.5,2.0\n20,2.25,2.0\n',
    "wandb-summary.json": '{"_step": 9, "_wandb": {"runtime": 3}, "val_loss": 1.5}',
    "pilot_metrics.json": json.dumps(ROWS),
    "history.json": json.dumps({"step": [1, 2], "loss": [3.0, 2.0]}),
    "log.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "trainer_state.json": json.dumps({"log_history": ROWS}),
    "mlruns/0/a/metrics/loss": "1 2.5 10\n2 2.25 20\n",
}


@pytest.mark.parametrize("name", WHOLE)
def test_any_mutation_gives_finite_numbers_or_findings(tmp_path, name):
    path = written(tmp_path / name, "")
    whole, draw = WHOLE[name].encode(), random.Random(name)
    for _ in range(250):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(data))
            data[at : at + draw.choice([0, 1, 1, 9])] = draw.choice(
                [b"", b"9", b"{", b"\0", b"\xff", b"\n", b'"', b"1e9"]
            )
        path.write_bytes(data)
        metrics, findings = read_metrics([path], tmp_path)
        assert all(metric.value - metric.value == 0 and 0 <= metric.step < 2**63 for metric in metrics)
        assert metrics or findings
