"""Logs: what trainers write, under canonical names, and what must not bring the reader down."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedarchive.history import Metric
from sedarchive.logs import read_metrics
from sedarchive.logs.names import canonical_names


def written(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def table(metrics):
    return {(metric.name, metric.step): metric.value for metric in metrics}


def test_json_lines_become_metrics_under_canonical_names(tmp_path):
    path = written(
        tmp_path / "log.jsonl",
        {"step": 100, "loss": 3.5, "learning_rate": 1e-3, "grad_norm": 2, "my/thing": 7},
        {"step": 100, "eval_loss": 3.25, "eval_accuracy": 0.5},
    )
    metrics, findings = read_metrics([path], tmp_path)
    assert table(metrics) == {
        ("train_loss", 100): 3.5, ("lr", 100): 1e-3, ("grad_norm", 100): 2.0, ("my/thing", 100): 7.0,
        ("val_loss", 100): 3.25, ("val_acc", 100): 0.5,
    }  # fmt: skip
    assert findings == ()
    assert metrics == tuple(sorted(metrics, key=lambda m: (m.name, m.step)))
    assert metrics[0] == Metric("grad_norm", 100, 2.0, "log.jsonl")


@pytest.mark.parametrize("name", ["step", "global_step", "iter", "iter_num", "iteration", "_step"])
def test_the_step_is_known_by_its_usual_names(tmp_path, name):
    metrics, _ = read_metrics([written(tmp_path / "log.jsonl", {name: 5, "loss": 1.0})], tmp_path)
    assert table(metrics) == {("train_loss", 5): 1.0}


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        ("loss", "train_loss"), ("train/loss", "train_loss"), ("Train Loss", "train_loss"),
        ("train.loss", "train_loss"),
        ("eval_loss", "val_loss"), ("val/loss", "val_loss"), ("validation_loss", "val_loss"), ("eval/loss", "val_loss"),
        ("eval_accuracy", "val_acc"), ("test_acc", "val_acc"), ("train_accuracy", "train_acc"),
        ("learning_rate", "lr"), ("lr-AdamW", "lr"), ("lr-AdamW/pg1", "lr"), ("lr-AdamW/pg2", "lr-AdamW/pg2"),
        ("wd", "weight_decay"), ("weight_decay", "weight_decay"), ("lr-AdamW-weight_decay", "weight_decay"),
        ("num_input_tokens_seen", "tokens"), ("eval_wiki_loss", "val_loss/wiki"), ("val_loss/c4", "val_loss/c4"),
        ("val/c4/loss", "val_loss/c4"), ("epoch", "epoch"), ("eval_runtime", "eval_runtime"),
    ],
)  # fmt: skip
def test_aliases_lead_to_canonical_names(raw, canonical):
    assert canonical_names([raw]) == {raw: canonical}


def test_of_two_names_with_one_meaning_the_plainest_wins_and_the_other_stays():
    assert canonical_names(["test_loss", "val_loss"]) == {"test_loss": "test_loss", "val_loss": "val_loss"}
    assert canonical_names(["loss", "train_loss"]) == {"loss": "loss", "train_loss": "train_loss"}
    assert canonical_names(["test_acc", "val/acc"]) == {"test_acc": "test_acc", "val/acc": "val_acc"}


@given(
    st.lists(st.sampled_from(["loss", "train_loss", "test_loss", "val_loss", "Val/Loss", "lr", "lr-Adam", "x", "wd"]))
)
@settings(max_examples=50, deadline=None)
def test_no_two_names_of_one_log_become_one(names):
    found = canonical_names(names)
    assert len(set(found.values())) == len(set(names))


def test_rows_that_name_their_split_are_not_mixed(tmp_path):
    rows = [{"step": 1, "split": "train", "loss": 3.0}, {"step": 1, "split": "val", "loss": 4.0}]
    metrics, findings = read_metrics([written(tmp_path / "log.jsonl", *rows)], tmp_path)
    assert table(metrics) == {("train_loss", 1): 3.0, ("val_loss", 1): 4.0}
    assert findings == ()


def test_lightning_s_csv_with_blank_cells(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,lr-AdamW,step,train_loss,val_loss\n0,,4,2.5,\n0,,4,,2.75\n,0.001,4,,\n1,,9.0,1.5,\n")
    metrics, findings = read_metrics([path], tmp_path)
    found = table(metrics)
    assert found[("train_loss", 4)] == 2.5
    assert found[("val_loss", 4)] == 2.75
    assert found[("lr", 4)] == 0.001
    assert found[("train_loss", 9)] == 1.5
    assert ("val_loss", 9) not in found
    assert findings == ()


def test_the_newest_trainer_state_wins_and_older_ones_fill_in(tmp_path):
    newest = written(tmp_path / "checkpoint-20" / "trainer_state.json", {"log_history": [{"step": 20, "loss": 1.0}]})
    rows = [{"step": 10, "loss": 2.0}, {"step": 20, "loss": 9.0}]
    older = written(tmp_path / "checkpoint-10" / "trainer_state.json", {"log_history": rows})
    metrics, findings = read_metrics([newest, older], tmp_path)
    assert metrics == (
        Metric("train_loss", 10, 2.0, "checkpoint-10/trainer_state.json"),
        Metric("train_loss", 20, 1.0, "checkpoint-20/trainer_state.json"),
    )
    (finding,) = findings
    assert finding.check_name == "conflicting_log_values"


def test_identical_values_are_no_findings(tmp_path):
    path = written(tmp_path / "log.jsonl", {"step": 1, "loss": 2.0}, {"step": 1, "loss": 2.0})
    metrics, findings = read_metrics([path, path], tmp_path)
    assert (len(metrics), findings) == (1, ())


def test_the_mean_over_the_run_is_not_the_loss_of_the_last_step(tmp_path):
    rows = [{"step": 4, "loss": 1.0}, {"step": 5, "train_loss": 8.0, "train_runtime": 3.0}]
    metrics, _ = read_metrics([written(tmp_path / "trainer_state.json", {"log_history": rows})], tmp_path)
    assert table(metrics) == {("train_loss", 4): 1.0, ("train_loss_mean", 5): 8.0, ("train_runtime", 5): 3.0}


def test_what_is_skipped_is_counted_in_one_finding(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text(
        '{"step": 1, "loss": NaN, "grad_norm": Infinity, "ok": true, "text": "x", "none": null, "list": [1]}\n'
        "not json\n[1, 2]\n" + "[" * 100_000 + "\n"
        '{"loss": 1.0}\n{"step": true, "loss": 1}\n{"step": -1, "loss": 1}\n{"step": 1.5, "loss": 1}\n'
        '{"step": "7", "loss": 1}\n{"step": 1e300, "loss": 1}\n{"step": null, "loss": 1}\n'
        '{"step": 3, "loss": ' + "9" * 4000 + "}\n" + '{"step": 2, "loss": 5}\n\n'
    )
    metrics, findings = read_metrics([path], tmp_path)
    assert table(metrics) == {("train_loss", 2): 5.0}
    (finding,) = findings
    assert finding.check_name == "skipped_log_values"
    assert finding.severity == "info"
    for words in (
        "3 malformed rows",
        "7 rows without a step",
        "4 values other than numbers",
        "3 values not finite",
    ):
        assert words in finding.detail


def test_a_line_without_end_is_one_malformed_row(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"x" * 3_000_000 + b'\n{"step": 1, "loss": 2}\n')
    metrics, findings = read_metrics([path], tmp_path)
    assert table(metrics) == {("train_loss", 1): 2.0}
    assert "1 malformed row" in findings[0].detail


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe\x00", b"[" * 100_000, b"null", b"3", b'{"log_history": 3}', b'{"log_history": [3, null]}', b"{"],
)
@pytest.mark.parametrize("name", ["log.jsonl", "metrics.csv", "trainer_state.json"])
def test_nonsense_gives_no_metrics_and_no_exception(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    metrics, findings = read_metrics([tmp_path / name], tmp_path)
    assert metrics == ()
    assert len(findings) <= 1


def test_csv_cells_and_lines_of_absurd_length_are_findings(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,loss\n1,2.0\n2," + "9" * 200_000 + "\n3,4.0\n" + "x" * 2_000_000 + "\n")
    metrics, findings = read_metrics([path], tmp_path)
    assert table(metrics) == {("train_loss", 1): 2.0, ("train_loss", 3): 4.0}
    assert [finding.check_name for finding in findings] == ["unreadable_log", "skipped_log_values"]
    path.write_text("x" * 200_000 + "\n1,2\n")
    assert read_metrics([path], tmp_path)[0] == ()


def test_a_missing_log_is_a_finding(tmp_path):
    metrics, (finding,) = read_metrics([tmp_path / "log.jsonl"], tmp_path)
    assert (metrics, finding.check_name) == ((), "unreadable_log")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["step", "loss", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(rows=st.lists(json_values, max_size=5), name=st.sampled_from(["log.jsonl", "metrics.csv", "trainer_state.json"]))
@settings(max_examples=60, deadline=None)
def test_any_json_gives_finite_numbers_or_findings(tmp_path_factory, rows, name):
    folder = tmp_path_factory.mktemp("log")
    text = json.dumps({"log_history": rows}) if name.startswith("trainer") else "\n".join(map(json.dumps, rows))
    (folder / name).write_text(text)
    metrics, _ = read_metrics([folder / name], folder)
    assert all(metric.value - metric.value == 0 and metric.step >= 0 for metric in metrics)
