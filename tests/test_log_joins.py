"""Logged metrics at checkpoints: by which rule, under which names, and what is missing."""

import bisect
import json

import pytest
from small import data_of, run_here, walk, write_torch

from sedarchive.errors import HistoryError
from sedarchive.history import Metric
from sedarchive.logs import coverage_findings, read_aliases, read_metrics
from sedarchive.tables import Database

CHECKPOINTS = [0, 10, 20, 40, 100]
LOGGED = {5: 3.0, 10: 2.5, 30: 2.0, 60: 1.0}


def join(rule, checkpoints=CHECKPOINTS, logged=LOGGED):
    with Database.in_memory() as db:
        db.replace("checkpoints", {"run": "a"}, {"step": checkpoints})
        db.replace("metrics", {"run": "a"}, {"step": list(logged), "value": list(logged.values()), "name": "val_loss"})
        rows = db.rows("SELECT step, value, distance FROM checkpoint_metrics WHERE join_rule = ? ORDER BY step", [rule])
        return {step: (value, distance) for step, value, distance in rows.rows}


def test_the_exact_rule_takes_equal_steps_only():
    assert join("exact") == {10: (2.5, 0)}


def test_the_nearest_rule_takes_the_earlier_of_two_and_says_how_far():
    assert join("nearest") == {0: (3.0, 5), 10: (2.5, 0), 20: (2.5, 10), 40: (2.0, 10), 100: (1.0, 40)}


def test_the_interpolating_rule_never_goes_beyond_what_is_logged():
    assert join("interpolate") == {10: (2.5, 0), 20: (2.25, 10), 40: (pytest.approx(5 / 3, rel=1e-15), 10)}


@pytest.mark.parametrize("seed", range(5))
def test_the_rules_agree_with_a_plain_search(seed):
    import random

    draw = random.Random(seed)
    checkpoints = sorted(draw.sample(range(200), 30))
    logged = {step: draw.uniform(1, 9) for step in sorted(draw.sample(range(200), 20))}
    steps = list(logged)
    nearest = {at: min(steps, key=lambda step: (abs(step - at), step)) for at in checkpoints}
    assert join("nearest", checkpoints, logged) == {at: (logged[s], abs(s - at)) for at, s in nearest.items()}
    assert join("exact", checkpoints, logged) == {at: (logged[at], 0) for at in checkpoints if at in logged}
    found = join("interpolate", checkpoints, logged)
    assert set(found) == {at for at in checkpoints if steps[0] <= at <= steps[-1]}
    for at, (value, distance) in found.items():
        low, high = steps[bisect.bisect_right(steps, at) - 1], steps[bisect.bisect_left(steps, at)]
        share = (at - low) / (high - low) if high > low else 0
        assert value == pytest.approx((1 - share) * logged[low] + share * logged[high], rel=1e-12)
        assert distance == min(at - low, high - at)


def test_every_metric_of_every_run_is_joined_by_itself():
    with Database.in_memory() as db:
        for run, steps in (("a", [1, 2]), ("b", [2])):
            db.replace("checkpoints", {"run": run}, {"step": steps})
        db.replace("metrics", {"run": "a"}, {"step": [1, 2], "value": [1.0, 2.0], "name": ["x", "y"]})
        rows = db.rows(
            "SELECT run, step, name, value FROM checkpoint_metrics WHERE join_rule = 'exact' ORDER BY ALL"
        ).rows
    assert rows == [("a", 1, "x", 1.0), ("a", 2, "y", 2.0)]


# What is missing


def metrics(name, steps):
    return [Metric(name, step, 1.0, "log") for step in steps]


def test_a_validation_loss_at_most_checkpoints_is_no_finding():
    assert coverage_findings([0, 10, 20, 30], metrics("val_loss", [10, 20, 25])) == []
    assert coverage_findings([], []) == []


def test_a_run_without_a_log_is_told_where_to_put_it():
    (finding,) = coverage_findings([0, 10], [])
    assert (finding.check_name, finding.severity) == ("no_val_loss", "warning")
    assert "metrics.jsonl" in finding.detail


def test_a_run_without_a_validation_loss_is_told_the_names_that_there_are():
    (finding,) = coverage_findings([0, 10], metrics("dev/nll", [0, 10]) + metrics("lr", [0]))
    assert finding.check_name == "no_val_loss"
    assert "dev/nll, lr" in finding.detail
    assert "--aliases" in finding.detail


def test_a_validation_loss_beside_the_checkpoints_is_told_with_its_distance():
    (finding,) = coverage_findings([5, 10, 15, 20], metrics("val_loss", [4, 9, 14, 19]))
    assert (finding.check_name, finding.severity) == ("val_loss_elsewhere", "warning")
    assert "0 of 4 checkpoints" in finding.detail
    assert "1 steps away" in finding.detail
    (finding,) = coverage_findings([10, 20, 30, 40], metrics("val_loss", [10, 26]))
    assert "1 of 4 checkpoints" in finding.detail
    assert "6 steps away" in finding.detail


# The user's own names


def aliases(folder, text):
    (folder / "aliases.toml").write_text(text)
    return read_aliases(folder / "aliases.toml")


def test_aliases_of_the_user_go_before_the_built_in_ones(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "dev/nll": 2.0, "eval_loss": 3.0, "Acc": 0.5, "kept": 1.0}\n')
    names = aliases(tmp_path, '[aliases]\nval_loss = ["other", "dev/nll"]\nprobe_acc = ["Acc"]\n')
    found, _ = read_metrics([log], tmp_path, names)
    assert {metric.name: metric.value for metric in found} == {
        "val_loss": 2.0, "eval_loss": 3.0, "probe_acc": 0.5, "kept": 1.0,
    }  # fmt: skip


def test_a_name_that_is_the_metric_s_own_is_not_taken_by_an_alias(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1, "dev/nll": 2.0, "val_loss": 3.0}\n')
    found, _ = read_metrics([log], tmp_path, aliases(tmp_path, '[aliases]\nval_loss = ["dev/nll"]\n'))
    assert {metric.name: metric.value for metric in found} == {"val_loss": 3.0, "dev/nll": 2.0}


@pytest.mark.parametrize(
    "text",
    [
        "", "[aliases]", "nonsense", "[aliases]\nval_loss = 3", '[aliases]\nval_loss = "a"',
        "[aliases]\nval_loss = [1]", '[aliases]\na = ["x"]\nb = ["x"]', "aliases = 3", "\x00",
    ],
)  # fmt: skip
def test_a_file_of_aliases_that_says_anything_else_is_refused(tmp_path, text):
    with pytest.raises(HistoryError, match=r"aliases\.toml.*\[aliases\]"):
        aliases(tmp_path, text)


def test_a_missing_file_of_aliases_is_refused(tmp_path):
    with pytest.raises(HistoryError, match="absent"):
        read_aliases(tmp_path / "absent.toml")


# From the folder to the tables


def test_the_way_from_logs_to_the_joined_view(tmp_path):
    write_torch(tmp_path / "run", walk(4))
    (tmp_path / "run" / "train.log").write_text(
        "".join(f"step {step}: train loss 3.0, val loss {2 + step}.5\n" for step in (1, 11, 21, 31))
    )
    where = ("--archive", str(tmp_path / "a.zarr"))
    told = run_here("ingest", str(tmp_path / "run"), *where).stderr
    assert "val_loss is logged at 0 of 4 checkpoints" in " ".join(told.split())
    run_here("compute", "--no-spectra", *where, "--db", str(tmp_path / "a.duckdb"))
    asked = "join_rule = 'nearest' AND name = 'val_loss'"
    sql = f"SELECT step, value, distance FROM checkpoint_metrics WHERE {asked} ORDER BY step"
    rows = data_of(run_here("query", sql, "--json", "--db", str(tmp_path / "a.duckdb")))
    assert [(row["step"], row["value"], row["distance"]) for row in rows] == [
        (0, 3.5, 1), (10, 13.5, 1), (20, 23.5, 1), (30, 33.5, 1),
    ]  # fmt: skip
    sql = "SELECT check_name FROM audit WHERE severity = 'warning'"
    assert data_of(run_here("query", sql, "--json", "--db", str(tmp_path / "a.duckdb"))) == [
        {"check_name": "val_loss_elsewhere"}
    ]


def test_what_was_missing_and_has_come_is_not_told_again(tmp_path):
    write_torch(tmp_path / "run", walk(4))
    where = ("--archive", str(tmp_path / "a.zarr"))
    assert "no_val_loss" in run_here("ingest", str(tmp_path / "run"), *where).stderr
    rows = [{"step": step, "dev": 1.0} for step in (0, 10, 20, 30)]
    (tmp_path / "run" / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    names = tmp_path / "names.toml"
    names.write_text('[aliases]\nval_loss = ["dev"]\n')
    assert "no_val_loss" not in run_here("ingest", str(tmp_path / "run"), "--aliases", str(names), *where).stderr
    run_here("compute", "--no-spectra", *where, "--db", str(tmp_path / "a.duckdb"))
    sql = "SELECT count(*) AS n FROM audit WHERE check_name = 'no_val_loss'"
    assert data_of(run_here("query", sql, "--json", "--db", str(tmp_path / "a.duckdb"))) == [{"n": 0}]


def test_a_wrong_file_of_aliases_is_one_line(tmp_path):
    write_torch(tmp_path / "run", walk(2))
    names = tmp_path / "names.toml"
    names.write_text("nonsense")
    told = run_here("ingest", str(tmp_path / "run"), "--aliases", str(names), "--archive", str(tmp_path / "a"), code=1)
    assert "names.toml" in told.stderr
    assert "Traceback" not in told.stderr
