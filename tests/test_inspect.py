"""inspect and arch: what headers tell, by the command line; no weight is read and torch is not loaded."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from small import SMALL_MODEL, data_of, environment, run_here, walk, write_safetensors, write_torch, write_trainer

from sedarchive.families import load_families
from sedarchive.readers.byteranges import ByteView

NEOX = {
    "gpt_neox.layers.0.attention.query_key_value.weight": (36, 12),
    "gpt_neox.layers.0.attention.query_key_value.bias": (36,),
    "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": (48, 12),
    "gpt_neox.layers.0.attention.bias": (1, 1, 4, 4),
}
MINE = r"""
name = "mine"
block = 'b(?P<layer>\d+)\.'

[[tensor]]
pattern = '{block}mixed'
role = "other"
split = {rule = "halves", parts = ["key", "value"]}
"""


@pytest.fixture
def runs(tmp_path):
    write_trainer(tmp_path / "runs/trainer", walk(3))
    write_torch(tmp_path / "runs/torch", walk(2, shapes=NEOX))
    return tmp_path / "runs"


def tensors_of(one):
    return {tensor["name"]: tensor for tensor in one["tensors"]}


def test_of_a_folder_the_newest_checkpoint_of_each_run_is_shown(runs):
    found = {one["run"]: one for one in data_of(run_here("inspect", runs, "--json"))}
    assert {name: (one["step"], one["steps"]) for name, one in found.items()} == {
        "trainer": (30, [10, 20, 30]),
        "torch": (10, [0, 10]),
    }
    assert {name: (one["architecture"], one["model_type"]) for name, one in found.items()} == {
        "trainer": ("gpt2", "gpt2"),
        "torch": ("gpt_neox", None),
    }
    assert (found["trainer"]["format"], found["trainer"]["n_files"]) == ("Trainer, safetensors", 1)
    assert (found["torch"]["format"], found["torch"]["n_files"]) == ("PyTorch zip", 1)


def test_the_numbers_are_those_of_the_tensors(runs):
    (found,) = data_of(run_here("inspect", runs / "trainer", "--json"))
    sizes = {name: int(torch.tensor(shape).prod()) for name, shape in SMALL_MODEL.items()}
    assert found["n_parameters"] == sum(sizes.values())
    assert found["n_bytes"] == 4 * sum(sizes.values())
    tensors = tensors_of(found)
    assert {name: tuple(tensor["shape"]) for name, tensor in tensors.items()} == SMALL_MODEL
    fused = tensors["h.0.attn.c_attn.weight"]
    assert fused["layout"] == "thirds of the columns"
    assert (found["heads"], found["kv_heads"]) == (2, 2)
    assert [(part["role"], part["shape"]) for part in fused["parts"]] == [
        (role, [6, 6]) for role in ("query", "key", "value")
    ]
    assert (tensors["wte.weight"]["role"], tensors["wte.weight"]["matrix"]) == ("embedding", [11, 6])


def test_a_fused_tensor_of_unknown_heads_says_how_to_pass_them_and_passing_them_helps(runs):
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    (found,) = data_of(run_here("inspect", runs / "torch", "--json"))
    assert "--heads" in tensors_of(found)[name]["reason"]
    (found,) = data_of(run_here("inspect", runs / "torch", "--heads", 3, "--json"))
    assert [part["name"] for part in tensors_of(found)[name]["parts"]] == ["query", "key", "value"]
    buffer = tensors_of(found)["gpt_neox.layers.0.attention.bias"]
    assert (buffer["kind"], buffer["family"]) == ("buffer", "buffers")
    assert found["n_parameters"] == 36 * 12 + 36 + 48 * 12


def test_ties_by_storage_and_by_config_count_once(tmp_path):
    weight = torch.randn(9, 4)
    shared = {"transformer.wte.weight": weight, "lm_head.weight": weight}
    torch.save(shared, tmp_path / "step_1.pt")
    (found,) = data_of(run_here("inspect", tmp_path / "step_1.pt", "--json"))
    assert (found["n_parameters"], found["n_bytes"]) == (36, 144)
    assert tensors_of(found)["lm_head.weight"]["tied_by"] == "storage"
    folder = tmp_path / "run" / "checkpoint-1"
    folder.mkdir(parents=True)
    save_file({name: tensor.clone() for name, tensor in shared.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (found,) = data_of(run_here("inspect", tmp_path / "run", "--json"))
    assert (found["n_parameters"], found["n_bytes"]) == (36, 288)
    assert tensors_of(found)["lm_head.weight"]["tied_by"] == "config"
    assert "tied: lm_head.weight" in run_here("inspect", tmp_path / "run").stdout


def test_the_table_holds_a_line_for_tensors_that_differ_in_layer_alone(tmp_path):
    shapes = {f"model.layers.{layer}.self_attn.{one}_proj.weight": (4, 4) for layer in range(9) for one in "qkvo"}
    write_safetensors(tmp_path, walk(1, shapes=shapes))
    shown = run_here("inspect", tmp_path).stdout
    (line,) = [line for line in shown.splitlines() if "q_proj" in line]
    assert line.split() == ["model.layers.*.self_attn.q_proj.weight", "9", "4x4", "float32", "query", "4x4", "576", "B"]
    assert "architecture: llama, no config" in shown
    assert len(run_here("inspect", tmp_path, "--all").stdout.splitlines()) > 36


def test_no_weight_is_read(runs, monkeypatch):
    def refuse(*args):
        raise AssertionError("weights were read")

    monkeypatch.setattr(ByteView, "read_rows", refuse)
    run_here("inspect", runs)
    run_here("arch", "test", runs / "trainer")


def test_torch_is_not_loaded(runs):
    code = f"from typer.testing import CliRunner; from sedarchive.cli.app import app; import sys; \
CliRunner().invoke(app, ['inspect', {str(runs)!r}]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert "sedarchive.inspection" in done.stdout.split()
    assert not {"torch", "dask", "zarr", "duckdb", "pandas"} & set(done.stdout.split())


def test_one_unreadable_run_does_not_hide_the_others(runs):
    (runs / "bad").mkdir()
    (runs / "bad" / "step_1.safetensors").write_bytes(b"\xff" * 64)
    result = run_here("inspect", runs, "--json", code=1)
    found = {one["run"]: one for one in data_of(result)}
    assert "step_1.safetensors" in found["bad"]["error"]
    assert found["trainer"]["error"] is None
    assert "error: " in result.stderr
    run_here("inspect", runs / "nothing", code=1)


def test_names_cannot_write_to_the_terminal(tmp_path):
    write_safetensors(tmp_path, [{"\x1b[2Jevil.weight": torch.zeros(2, 2)}])
    for command in (["inspect"], ["arch", "test"]):
        result = run_here(*command, tmp_path, code=3 if "arch" in command else 0)
        assert "\x1b" not in result.stdout + result.stderr


# Families.


def test_arch_list_shows_every_family_and_show_prints_its_file():
    listed = data_of(run_here("arch", "list", "--json"))
    assert [one["name"] for one in listed] == list(load_families())
    shown = run_here("arch", "list").stdout
    for name in load_families():
        assert name in shown
        assert f'name = "{name}"' in run_here("arch", "show", name).stdout
    assert "there are" in run_here("arch", "show", "nothing", code=4).stderr


def test_arch_test_names_the_entry_behind_every_tensor_and_what_none_knows(tmp_path):
    state = {"b0.mixed": torch.zeros(8, 4), "b0.strange": torch.zeros(4, 4), "b0.norm.weight": torch.zeros(4)}
    write_safetensors(tmp_path / "run", [state])
    result = run_here("arch", "test", tmp_path / "run", code=3)
    assert "b0.mixed, b0.strange" in result.stderr
    (tmp_path / "mine.toml").write_text(MINE)
    result = run_here("arch", "test", tmp_path / "run", "--arch", tmp_path / "mine.toml", code=3)
    assert "no entry knows b0.strange" in result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("b0.mixed"))
    assert line.split()[:6] == ["b0.mixed", "8x4", "mine", "other", "key", "4x4,"]
    (found,) = data_of(run_here("arch", "test", tmp_path / "run", "--arch", tmp_path / "mine.toml", "--json", code=3))
    assert {name: one["family"] for name, one in tensors_of(found).items()} == {
        "b0.mixed": "mine",
        "b0.norm.weight": "plain",
        "b0.strange": None,
    }


def test_a_family_of_the_users_own_is_used_by_inspect_the_dry_run_and_compute_and_remembered(analysis, tmp_path):
    states = walk(4, shapes={"b0.mixed": (8, 4)})
    write_safetensors(tmp_path / "runs/one", states)
    mine = tmp_path / "mine.toml"
    mine.write_text(MINE)
    (found,) = data_of(run_here("inspect", tmp_path / "runs", "--arch", mine, "--json"))
    assert found["architecture"] == "mine"
    archive = ["--archive", analysis.archive]
    plan = data_of(run_here("ingest", tmp_path / "runs", *archive, "--dry-run", "--arch", mine, "--json"))
    model = plan["runs"][0]["model"]
    assert (model["architecture"], model["told_by"]) == ("mine", "by --arch")
    assert model["roles"] == {role: {"tensors": 1, "parameters": 16} for role in ("key", "value")}
    assert "dry-run" in run_here("ingest", tmp_path / "runs", *archive, "--arch", mine, code=2).stderr
    run_here("ingest", tmp_path / "runs", *archive)
    both = [*archive, "--db", analysis.database]
    run_here("compute", "--no-inference", *both, "--arch", mine)
    mine.unlink()
    for _ in range(2):
        assert analysis.rows("SELECT matrix FROM matrices ORDER BY 1") == [("b0.mixed:key",), ("b0.mixed:value",)]
        assert analysis.rows("SELECT architecture FROM runs") == [("mine",)]
        run_here("compute", "--no-inference", *both)


@pytest.mark.parametrize("text", ["name = ", MINE.replace("halves", "fifths"), "\xff"])
@pytest.mark.parametrize("command", [["inspect"], ["arch", "test"], ["ingest", "--dry-run"]])
def test_a_family_file_with_a_mistake_is_one_line_that_names_it(command, text, runs, tmp_path):
    (tmp_path / "mine.toml").write_bytes(text.encode("latin-1"))
    result = run_here(*command, runs, "--arch", tmp_path / "mine.toml", code=1)
    assert "mine.toml" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_family_file_that_is_none_is_refused(runs, tmp_path):
    run_here("inspect", runs, "--arch", tmp_path / "none.toml", code=1)
    (tmp_path / "large.toml").write_bytes(b"#" * 2**21)
    assert "longer than" in run_here("inspect", runs, "--arch", tmp_path / "large.toml", code=1).stderr
