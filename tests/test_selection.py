"""The user's word on steps, on which checkpoints are taken, and on where the weights stand."""

import pytest
import torch
from safetensors.torch import save_file
from small import data_of, run_here, walk, write_safetensors

from sedarchive.errors import HistoryError, NoCheckpointsError, UnreadableCheckpointError
from sedarchive.history import CheckpointSource
from sedarchive.readers import find_runs, open_checkpoint
from sedarchive.readers.selection import MappedStep, Selection, read_steps_map

torch.set_num_threads(1)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def found(root, **options):
    return [c.step for c in find_runs(root, selection=Selection(**options))[0].checkpoints]


def mapped(tmp_path, text):
    path = tmp_path / "map.csv"
    path.write_text(text)
    return read_steps_map(path)


def test_a_map_gives_steps_and_tokens_by_label_file_name_or_stem(tmp_path):
    steps = mapped(tmp_path, "Label, step ,tokens\nalpha,10,100\nbeta.pt,20,\n\nfolder,30\n")
    assert steps == {"alpha": MappedStep(10, 100), "beta.pt": MappedStep(20), "folder": MappedStep(30)}
    root = touch(tmp_path / "run", "alpha.pt", "beta.pt", "folder/model.safetensors", "step_7.pt")
    (run,) = find_runs(root, selection=Selection(steps))
    assert [(c.step, c.tokens) for c in run.checkpoints] == [(10, 100), (20, None), (30, None)]
    assert [f.detail for f in run.findings] == ["step_7.pt: --steps-map does not name it; passed over"]


def test_a_map_names_a_single_checkpoint_too(tmp_path):
    root = touch(tmp_path / "run", "alpha.pt", "beta/model.safetensors")
    selection = Selection(mapped(tmp_path, "label,step\nalpha,4\n"))
    assert [(c.step, r.findings) for r in find_runs(root / "alpha.pt", selection=selection) for c in r.checkpoints] == [
        (4, ())
    ]


def test_labels_of_the_map_that_name_nothing_are_a_warning(tmp_path):
    root = touch(tmp_path / "run", "alpha.pt")
    (run,) = find_runs(root, selection=Selection(mapped(tmp_path, "label,step\nalpha,1\nalpah,2\n")))
    (finding,) = run.findings
    assert (finding.check_name, finding.severity) == ("steps_map", "warning")
    assert "alpah" in finding.detail


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "first line"), ("a,b\n1,2\n", "first line"), ("label,step\n", "empty"), ("label,step\na,ten\n", "line 2"),
        ("label,step\na,1\na,2\n", "line 3.*twice"), ("label,step\n,1\n", "line 2.*no label"),
        ("label,step\na,-1\n", "whole number"), ("label,step,tokens\na,1,4B\n", "tokens '4B'"),
        ("label,step\na," + "9" * 30 + "\n", "18 digits"), ('label,step\n"a\n', "line 2|no CSV"),
    ],
)  # fmt: skip
def test_a_malformed_map_is_refused_with_its_line(tmp_path, text, words):
    with pytest.raises(HistoryError, match=words):
        mapped(tmp_path, text)


def test_a_map_that_is_missing_or_no_text_is_refused(tmp_path):
    with pytest.raises(HistoryError, match="cannot be read"):
        read_steps_map(tmp_path / "absent.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HistoryError, match="UTF-8"):
        read_steps_map(tmp_path / "binary.csv")


def test_every_takes_the_first_and_each_one_of_that_number_on(tmp_path):
    root = touch(tmp_path, *(f"step_{step}.pt" for step in (0, 1, 2, 4, 8, 16, 32)))
    assert found(root, every=1) == [0, 1, 2, 4, 8, 16, 32]
    assert found(root, every=2) == [0, 2, 8, 32]
    assert found(root, every=3) == [0, 4, 32]
    assert found(root, every=100) == [0]
    touch(root, "step_64.pt")  # a run that grows keeps the ones that were taken
    assert found(root, every=2) == [0, 2, 8, 32]
    (run,) = find_runs(root, selection=Selection(every=3))
    assert [finding.check_name for finding in run.findings] == ["not_selected"]
    with pytest.raises(HistoryError, match="--every 0"):
        Selection(every=0)


def test_globs_choose_by_label_and_by_path(tmp_path):
    touch(tmp_path, *(f"{run}/step_{step}.pt" for run in ("seed_1", "seed_2") for step in (1, 10, 100)))
    names = [run.name for run in find_runs(tmp_path, selection=Selection(include=("seed_1/*",)))]
    assert names == ["seed_1"]
    runs = find_runs(tmp_path, selection=Selection(include=("step_1*",), exclude=("*_100.pt",)))
    assert [[c.step for c in run.checkpoints] for run in runs] == [[1, 10], [1, 10]]
    assert [[f.check_name for f in run.findings] for run in runs] == [["not_selected"]] * 2
    with pytest.raises(NoCheckpointsError, match="none of the checkpoints found passes"):
        find_runs(tmp_path, selection=Selection(exclude=("*",)))


def test_every_counts_after_the_globs(tmp_path):
    root = touch(tmp_path, *(f"step_{step}.pt" for step in range(6)))
    assert found(root, every=2, exclude=("step_0.pt",)) == [1, 3, 5]


def test_the_options_work_together_on_the_command_line(tmp_path):
    write_safetensors(tmp_path / "run", walk(6))
    options = ["--every", "2", "--exclude", "step_0.*", "--archive", tmp_path / "a.zarr", "--json"]
    (report,) = data_of(run_here("ingest", tmp_path / "run", *options))
    assert (report["found"], report["added"]) == (3, 3)
    (plan,) = data_of(run_here("ingest", tmp_path / "run", "--dry-run", *options))["runs"]
    assert (plan["steps"], plan["archived"]) == ([10, 30, 50], 3)
    run_here("ingest", tmp_path / "run", "--steps-map", tmp_path / "absent", code=1)


# --key


def opened(path, key):
    return open_checkpoint(CheckpointSource(1, path.name, path, key=key))


def tensor_of(path, key):
    with opened(path, key) as reader:
        ((name, spec),) = reader.specs.items()
        return name, reader.read_rows(name, 0, spec.rows).tolist()


MODEL, AVERAGE = torch.zeros(2), torch.ones(2)


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"model": {"w": MODEL}, "ema": {"w": AVERAGE}}, "ema"),
        ({"state_dict": {"w": MODEL}, "model_ema": {"module": {"w": AVERAGE}, "decay": 0.9}}, "model_ema"),
        ({"model": {"w": MODEL}, "extra": {"ema": {"w": AVERAGE}}}, "extra.ema"),
        ({"state_dict": {"net.w": MODEL, "ema.w": AVERAGE}, "epoch": 1}, "ema"),
        ({"net.w": MODEL, "ema.w": AVERAGE}, "ema"),
        ({"model": {"w": MODEL}, "optimizer": {"w": AVERAGE}}, "optimizer"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_the_weights_under_a_key_are_read(tmp_path, content, key, zipped):
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert tensor_of(tmp_path / "a.pt", key) == ("w", [[1], [1]])


def test_a_key_chooses_by_prefix_in_safetensors_and_in_shards(tmp_path):
    import json

    save_file({"ema.w": AVERAGE, "net.w": MODEL}, tmp_path / "a.safetensors")
    assert tensor_of(tmp_path / "a.safetensors", "ema") == ("w", [[1], [1]])
    folder = tmp_path / "step_1"
    folder.mkdir()
    save_file({"net.w": MODEL}, folder / "model-00001-of-00002.safetensors")
    save_file({"ema.w": AVERAGE}, folder / "model-00002-of-00002.safetensors")
    names = {"net.w": "model-00001-of-00002.safetensors", "ema.w": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert tensor_of(folder, "ema") == ("w", [[1], [1]])


@pytest.mark.parametrize("key", ["nope", "ema.w.x", "", "."])
def test_a_key_that_is_not_there_is_refused_with_the_keys_that_are(tmp_path, key):
    torch.save({"model": {"w": MODEL}, "ema": {"w": AVERAGE}}, tmp_path / "a.pt")
    with pytest.raises(UnreadableCheckpointError, match="its keys are model, ema"):
        opened(tmp_path / "a.pt", key)
    save_file({"w": MODEL}, tmp_path / "a.safetensors")
    with pytest.raises(UnreadableCheckpointError, match="--key"):
        opened(tmp_path / "a.safetensors", key)


def test_another_key_of_an_archived_run_is_another_source(tmp_path):
    for step in (1, 2):
        (tmp_path / "run").mkdir(exist_ok=True)
        torch.save({"model": {"w": MODEL - step}, "ema": {"w": AVERAGE * step}}, tmp_path / "run" / f"step_{step}.pt")
    archive = ["--archive", tmp_path / "a.zarr"]
    run_here("ingest", tmp_path / "run", "--key", "ema", *archive)
    run_here("ingest", tmp_path / "run", "--key", "ema", *archive)
    result = run_here("ingest", tmp_path / "run", *archive, code=1)
    assert "other content" in result.output
