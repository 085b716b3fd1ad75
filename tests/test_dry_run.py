"""The plan that ``ingest --dry-run`` prints, of a folder that mixes everything."""

import json
import re
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from small import data_of, run_here, walk, write_log, write_safetensors, write_trainer
from test_other_formats import write_adapter

from sedarchive.archive.lock import writer_lock
from sedarchive.preview import disk

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # torch's, on one process


def write_nanogpt(folder):
    """``ckpt_N.pt`` with optimizer, tied head, a mask and positions; two logs, and files that are none of it."""
    folder.mkdir(parents=True)
    for at, state in enumerate(walk(4)):
        content = {f"transformer.{name}": value for name, value in state.items()}
        content["lm_head.weight"] = content["transformer.wte.weight"]
        content["transformer.h.0.attn.bias"] = torch.ones(1, 1, 4, 4)
        content["transformer.position_ids"] = torch.arange(4)
        content |= {"transformer.h.0.strange.weight": torch.ones(3, 3)}
        saved = {"model": content, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "model_args": {"n_head": 2}}
        torch.save({**saved, "iter_num": 100 * at}, folder / f"ckpt_{100 * at}.pt")
    torch.save(content, folder / "final.pt")
    write_log(folder, range(0, 400, 100))
    lines = [f"step {step}: train loss 2.{step}, val loss 3.{step}" for step in range(0, 400, 100)]
    (folder / "train.log").write_text("\n".join(lines) + "\n")
    (folder / "notes.txt").write_text("good run")


def write_broken(folder):
    """Five files, of which the second is cut and the fourth is empty."""
    paths = write_safetensors(folder, walk(5), [1, 2, 4, 8, 16])
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    paths[3].write_bytes(b"")


def write_strays(root):
    """What is no run: a folder of notes, an HDF5 file, weights without a step, a hidden folder, a link, an archive."""
    for name in (
        "papers/a.pdf",
        "papers/in/b.pdf",
        "old/model.h5",
        "old/history.csv",
        ".cache/step_1.pt",
        "x.zarr/a",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    torch.save({"w": torch.ones(2)}, root / "old/best.pt")
    (root / "linked").symlink_to(root / "old")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    root = tmp_path_factory.mktemp("mixed") / "runs"
    write_trainer(root / "trainer", walk(4))
    write_nanogpt(root / "nanogpt")
    for step in (0, 50):
        state = {"model": walk(1, seed=step)[0], "optimizer": {"state": {"m": torch.zeros(2)}}}
        dcp.save(state, checkpoint_id=root / "dcp" / f"step-{step}")
    for step in (10, 20):
        write_adapter(root / "lora", step)
    write_broken(root / "broken")
    write_strays(root)
    return root


def options(root, *more):
    return "ingest", root, "--dry-run", "--archive", root.parent / "a.zarr", *more


@pytest.fixture(scope="module")
def plan(mixed):
    return data_of(run_here(*options(mixed, "--json")))


@pytest.fixture(scope="module")
def runs(plan):
    return {run["run"]: run for run in plan["runs"]}


@pytest.fixture(scope="module")
def blocks(mixed):
    """What is printed on 120 columns, by the first word of each block."""
    shown = run_here(*options(mixed), COLUMNS="120").stdout
    return {re.split(r"[ :]", block, maxsplit=1)[0]: block for block in shown.split("\n\n")}


# What each run is


def test_every_run_has_its_steps_its_format_and_its_architecture(runs):
    assert {name: (run["steps"], run["formats"]) for name, run in runs.items()} == {
        "trainer": ([10, 20, 30, 40], ["Trainer, safetensors"]),
        "nanogpt": ([0, 100, 200, 300], ["nanoGPT, PyTorch zip"]),
        "dcp": ([0, 50], ["DCP"]),
        "lora": ([10, 20], ["PEFT adapter, safetensors"]),
        "broken": ([1, 4, 16], ["safetensors"]),
    }
    models = {name: (run["model"]["architecture"], run["model"]["told_by"]) for name, run in runs.items()}
    assert models["trainer"] == ("gpt2", "by model_type in config.json")
    assert models["nanogpt"] == ("gpt2", "by the names of its tensors")
    assert models["broken"] == models["dcp"] == models["nanogpt"]


def test_tensors_are_counted_by_role_with_their_parameters(runs):
    roles = {role: (n["tensors"], n["parameters"]) for role, n in runs["trainer"]["model"]["roles"].items()}
    assert roles == {
        "query": (1, 36),
        "key": (1, 36),
        "value": (1, 36),
        "output": (1, 36),
        "up": (1, 72),
        "down": (1, 72),
        "embedding": (1, 66),
        "norm": (1, 6),
        "bias": (1, 6),
    }
    assert sum(n for _, n in roles.values()) == runs["trainer"]["model"]["n_parameters"]


def test_tensors_that_are_not_analysed_or_kept_whole_are_named_with_the_reason(runs, blocks):
    model = runs["nanogpt"]["model"]
    left_out = {name: group["reason"] for group in model["not_analysed"] for name in group["names"]}
    assert left_out.keys() == {"lm_head.weight", "transformer.h.*.attn.bias", "transformer.position_ids"}
    assert left_out["lm_head.weight"] == "counted as transformer.wte.weight, stored in the same place"
    assert "not a parameter" in left_out["transformer.position_ids"]
    assert [group["names"] for group in model["kept_whole"]] == [["transformer.h.*.strange.weight"]]
    for name, reason in left_out.items():
        assert f"{name}: {reason}" in " ".join(blocks["nanogpt"].split())


def test_files_that_cannot_be_read_are_named_and_not_counted(runs, blocks):
    assert runs["broken"]["unreadable"] == 2
    found = [one for one in runs["broken"]["findings"] if one["check_name"] == "unreadable_checkpoint"]
    assert [one["step"] for one in found] == [2, 8]
    head = "broken: 3 checkpoints, steps 1 to 16, 3 to 12 apart, 2 more cannot be archived\n"
    assert blocks["broken"].startswith(head)
    assert "error        step_2.safetensors: " in blocks["broken"]
    assert "step_8.safetensors: it is empty" in blocks["broken"]


def test_logs_are_listed_with_kind_metrics_and_steps(runs, blocks):
    logs = {log["path"]: log for log in runs["nanogpt"]["logs"]}
    assert {path: (log["kind"], log["metrics"]) for path, log in logs.items()} == {
        "metrics.jsonl": ("JSON lines", ["train_loss"]),
        "train.log": ("printed", ["val_loss"]),
    }
    assert "  logs         metrics.jsonl (JSON lines): train_loss; steps 0 to 300\n" in blocks["nanogpt"]
    assert "train.log (printed): val_loss; steps 0 to 300\n" in blocks["nanogpt"]
    trainer = blocks["trainer"]
    assert "checkpoint-40/trainer_state.json (Trainer): lr, train_loss; steps 10 to 40" in trainer
    assert "3 more files: nothing that is not said above" in trainer
    assert "no validation loss among what is logged (lr, train_loss)" in trainer
    assert "  logs         none\n" in blocks["lora"]


# What belongs to no run


def test_what_belongs_to_no_run_is_told_with_its_reason(plan, blocks):
    reasons = {path: group["reason"] for group in plan["passed_over"] for path in group["paths"]}
    expected = {
        "papers/": "neither weights",
        "old/model.h5": "HDF5",
        "old/best.pt": "no step in the name",
        "old/history.csv": "a log, but",
        ".cache/": "hidden",
        "x.zarr/": "Zarr",
        "linked/": "a link to a folder",
        "nanogpt/notes.txt": "neither weights",
    }
    assert reasons.keys() == expected.keys()
    for path, words in expected.items():
        assert words in reasons[path]
        assert path in blocks["warning"]
    assert "final.pt: no step in the name; passed over" in blocks["nanogpt"]  # beside checkpoints: a finding of the run


def test_a_folder_that_is_one_run_has_no_strays_beside_its_own(tmp_path):
    write_trainer(tmp_path / "run", walk(2))
    plan = data_of(run_here("ingest", tmp_path / "run", "--dry-run", "--json", "--archive", tmp_path / "a.zarr"))
    assert plan["passed_over"] == []
    one = tmp_path / "run/checkpoint-10"
    assert (
        data_of(run_here("ingest", one, "--dry-run", "--json", "--archive", tmp_path / "a.zarr"))["passed_over"] == []
    )


def test_checkpoints_that_the_user_leaves_out_are_told_as_that(mixed):
    plan = data_of(run_here(*options(mixed, "--json", "--every", "2", "--exclude", "lora/*", "--exclude", "dcp/*")))
    assert {run["run"]: run["steps"] for run in plan["runs"]}["trainer"] == [10, 30]
    (group,) = (group for group in plan["passed_over"] if "--exclude" in group["reason"])
    assert {"trainer/checkpoint-20/", "nanogpt/ckpt_100.pt", "dcp/step-50/", "lora/checkpoint-10/"} < set(
        group["paths"]
    )


def test_of_several_paths_each_name_says_where_it_is(tmp_path, monkeypatch):
    for name in ("one", "two"):
        write_safetensors(tmp_path / name / name, walk(1))
        (tmp_path / name / "notes.txt").write_text("")
    monkeypatch.chdir(tmp_path)
    plan = data_of(run_here("ingest", "one", "two", "--dry-run", "--json"))
    assert [group["paths"] for group in plan["passed_over"]] == [["one/notes.txt"], ["two/notes.txt"]]
    assert [run["run"] for run in plan["runs"]] == ["one", "two"]


# What it costs


def weights_on_disk(run):
    """Bytes of an archived run without its logs, which the plan leaves apart."""
    files = {path for path in run.rglob("*") if path.is_file()} - set((run / "metrics").rglob("*"))
    return sum(path.stat().st_size for path in files)


def test_the_disk_that_is_needed_is_about_what_the_archive_then_takes(mixed, plan, tmp_path):
    run_here("ingest", mixed, "--archive", tmp_path / "a.zarr")
    taken = {name: weights_on_disk(tmp_path / "a.zarr" / name) for name in ("trainer", "dcp", "broken")}
    planned = {run["run"]: run["disk_bytes"] for run in plan["runs"]}
    assert planned == pytest.approx({**planned, **taken}, rel=0.3)
    assert plan["disk_bytes"] == sum(planned.values())
    assert plan["disk_free"] > 0


@pytest.mark.parametrize(("first", "more"), [(1, 8), (3, 2), (8, 8), (60, 10)])
def test_what_is_archived_already_costs_nothing_again(tmp_path, first, more):
    shapes = {"w": (300, 100), "b": (7,)}
    states = walk(first + more, shapes=shapes)
    write_safetensors(tmp_path / "run", states[:first])
    run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    before = sum(path.stat().st_size for path in (tmp_path / "a.zarr").rglob("*") if path.is_file())
    write_safetensors(tmp_path / "run", states)
    plan = data_of(run_here("ingest", tmp_path / "run", "--dry-run", "--json", "--archive", tmp_path / "a.zarr"))
    assert (plan["new_checkpoints"], plan["runs"][0]["archived"]) == (more, first)
    run_here("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    after = sum(path.stat().st_size for path in (tmp_path / "a.zarr").rglob("*") if path.is_file())
    assert plan["disk_bytes"] == pytest.approx(after - before, rel=0.05, abs=20_000)
    again = run_here("ingest", tmp_path / "run", "--dry-run", "--archive", tmp_path / "a.zarr").stdout
    assert " ".join(again.split()).startswith(
        f"1 run, 0 checkpoints to add ({first + more} are there already): about 0 B in "
    )


def test_a_plan_of_everything_writes_nothing(mixed):
    before = {path: path.lstat().st_mtime_ns for path in mixed.parent.rglob("*")}
    run_here(*options(mixed))
    assert {path: path.lstat().st_mtime_ns for path in mixed.parent.rglob("*")} == before


# What stops it


def stopped(*args):
    result = run_here(*args, "--json", code=1)
    shown = run_here(*args, code=1).stdout
    assert "\nstops it       " in shown
    return data_of(result)["obstacles"]


def test_a_disk_that_is_too_small_stops_it(mixed, monkeypatch):
    monkeypatch.setattr(disk, "free_bytes", lambda archive: 1000)
    (why,) = stopped(*options(mixed))
    assert re.search(r"kB are needed and 1\.0 kB are free at .*--every", why)


LEFT_OUT = ("unreadable_checkpoint", "beyond_max_mem")


def refused(*args, code=0):
    """Steps of a dry run and of the ingest itself that are refused, with the reason of each."""
    plan = data_of(run_here(*args, "--dry-run", "--json", code=code))
    done = data_of(run_here(*args, "--json", code=code))
    found = []
    for runs in (plan["runs"], done):
        findings = [(run["run"], one) for run in runs for one in run["findings"]]
        errors = [(name, one) for name, one in findings if one["check_name"] in LEFT_OUT]
        found.append({(name, one["step"]): one["detail"] for name, one in errors})
    assert found[0] == found[1]
    return found[0]


def test_memory_that_is_too_small_stops_it_and_what_is_asked_for_does(tmp_path):
    write_trainer(tmp_path / "run", walk(3))
    args = ("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr")
    why = refused(*args, "--max-mem", "100B", code=1)
    assert [step for _, step in why] == [10]  # what is said of all is said once
    assert why["run", 10].startswith("at 3 steps, 10, 20, 30: ")
    enough = re.search(r"--max-mem (\w+)", why["run", 10])[1]
    assert refused(*args, "--max-mem", enough) == {}


def test_a_checkpoint_that_needs_more_memory_or_is_cut_too_finely_is_left_out_as_ingest_leaves_it_out(tmp_path):
    small, large = {"w": torch.ones(2, 4)}, {"w": torch.ones(2, 2000)}
    write_safetensors(tmp_path / "run", [small, large, small])
    fine = {f"t{at}": torch.ones(1) for at in range(20_001)}
    write_safetensors(tmp_path / "run", [fine], [30])
    why = refused("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr", "--max-mem", "100kB")
    assert why.keys() == {("run", 10), ("run", 30)}
    assert "--max-mem" in why["run", 10]
    assert "20001 tensors of 4 bytes" in why["run", 30]


def test_a_run_whose_tensors_grow_is_archived_in_the_memory_that_each_checkpoint_fits(tmp_path):
    states = [{"w": torch.ones(2, 4)}] + [{"w": torch.full((40, 50_000), float(at))} for at in range(9)]
    write_safetensors(tmp_path / "run", states)
    args = ("ingest", tmp_path / "run", "--archive", tmp_path / "a.zarr", "--max-mem", "16MB")
    assert refused(*args) == {}
    (plan,) = data_of(run_here(*args, "--dry-run", "--json"))["runs"]
    assert (len(plan["steps"]), plan["archived"]) == (10, 10)


def test_a_history_of_which_nothing_can_be_read_stops_it(tmp_path):
    (tmp_path / "run").mkdir()
    for step in (1, 2):
        (tmp_path / f"run/step_{step}.pt").write_bytes(b"nothing")
    args = ("ingest", tmp_path / "run", "--dry-run", "--archive", tmp_path / "a.zarr")
    assert stopped(*args) == ["no checkpoint can be archived: the errors above say why"]
    assert "run: no checkpoint of 2 can be archived\n  logs " in run_here(*args, code=1).stdout


def test_something_else_in_the_archive_s_place_stops_it(tmp_path):
    write_safetensors(tmp_path / "run", walk(2))
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr/thesis.tex").write_text("")
    (why,) = stopped("ingest", tmp_path / "run", "--dry-run", "--archive", tmp_path / "a.zarr")
    assert "something else, not an archive" in why


def test_another_run_of_that_name_and_a_writer_at_work_stop_it(tmp_path):
    write_safetensors(tmp_path / "one/run", walk(2))
    write_safetensors(tmp_path / "two/run", walk(2), [100, 200])
    archive = ["--archive", tmp_path / "a.zarr"]
    run_here("ingest", tmp_path / "one/run", *archive)
    (why,) = stopped("ingest", tmp_path / "two/run", "--dry-run", *archive)
    assert re.search(r"run: the archive has a run of this name from .*one/run; .*--run NAME", why)
    with writer_lock(tmp_path / "a.zarr", "ingest"):
        (why,) = stopped("ingest", tmp_path / "one/run", "--dry-run", *archive)
    assert "is writing this archive" in why
    (why,) = stopped(
        "ingest", tmp_path / "one/run", tmp_path / "two/run", "--dry-run", "--archive", tmp_path / "b.zarr"
    )
    assert "--run NAME" in why


# How it looks


@pytest.mark.parametrize("columns", [80, 120])
def test_lines_fit_the_terminal_and_stand_in_columns(mixed, columns):
    shown = run_here(*options(mixed), COLUMNS=str(columns)).stdout
    long_words = max(len(word) for word in shown.split())
    for line in shown.splitlines():
        assert len(line) <= max(columns, 15 + long_words)
        assert line == line.rstrip()
    rows = [line for line in shown.splitlines() if line.startswith("  ")]
    assert all(row[14] == " " and row[15] != " " for row in rows)
    assert len(shown.splitlines()) < 95


def test_what_is_said_of_several_runs_is_said_once(blocks):
    (said,) = (line for line in blocks["warning"].splitlines() if "no log is known" in line)
    assert said.startswith("warning        broken, dcp, lora: no log is known")
    assert all("no log is known" not in blocks[name] for name in ("broken", "dcp", "lora"))


def test_equal_models_are_told_once(tmp_path):
    for seed in range(3):
        write_trainer(tmp_path / f"runs/seed{seed}", walk(2, seed=seed))
    shown = run_here("ingest", tmp_path / "runs", "--dry-run", "--archive", tmp_path / "a.zarr").stdout
    assert shown.count("by role") == 1
    assert shown.count("gpt2, 1 layer: all as in seed0\n") == 2


def test_names_cannot_write_to_the_terminal_or_forge_lines(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    save_file({"\x1b[2Jevil\n  error        forged": torch.ones(2, 2)}, folder / "step_1.safetensors")
    (folder / "step_2\nstops it       forged.pt").write_bytes(b"")
    shown = run_here("ingest", folder, "--dry-run", "--archive", tmp_path / "a.zarr").stdout
    assert "\x1b" not in shown
    assert not re.search(r"^ *(error|stops it) +forged", shown, re.MULTILINE)


def test_a_history_of_one_file_needs_no_words_on_spacing(tmp_path):
    write_safetensors(tmp_path / "run", walk(1), [7])
    (tmp_path / "run/aliases.json").write_text(json.dumps({}))
    shown = run_here("ingest", tmp_path / "run/step_7.safetensors", "--dry-run", "--archive", tmp_path / "a").stdout
    assert "\nrun: 1 checkpoint, step 7\n" in shown
    assert Path(tmp_path / "a").exists() is False
