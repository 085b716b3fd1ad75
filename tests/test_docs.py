"""The README and the docstrings say what is true: commands run, lists are complete, trees match."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small import environment, walk, write_log, write_torch
from typer.main import get_command

import sedarchive.errors
from sedarchive.cli.app import app
from sedarchive.query import recipe_list
from sedarchive.tables import Database

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(get_command(app).commands)


def code_blocks(language=""):
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the README supposes it: runs/ with checkpoints and a log."""
    place = tmp_path_factory.mktemp("readme")
    shapes = {"blocks.0.attn.q_proj.weight": (8, 8), "blocks.0.mlp.up_proj.weight": (16, 8)}
    run = place / "runs" / "weight_decay"
    write_torch(run, walk(14, shapes=shapes))
    write_log(run, [10 * at for at in range(14)])
    return place


@pytest.fixture(scope="module")
def after_first_commands(folder):
    """The folder in which the first commands of the README have run."""
    first = code_blocks()[0]
    assert first.count("\nsedarchive ") == 3
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    for line in first.splitlines():
        done = subprocess.run(line, shell=True, cwd=folder, env=environment(PATH=path), capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)
    return folder


def test_the_first_commands_of_the_readme_run(after_first_commands):
    assert (after_first_commands / "paper" / "windows.csv").exists()


def test_the_python_of_the_readme_runs(after_first_commands, monkeypatch):
    folder = after_first_commands
    monkeypatch.chdir(folder)
    names = {}
    exec(code_blocks("python")[0], names)
    assert names["rows"].shape == (2, 4, 8)
    assert len(names["windows"]) > 0


def test_the_readme_names_every_recipe_with_its_summary():
    missing = [f"| `{name}` | {summary} |" for name, summary, _ in recipe_list().rows]
    assert [line for line in missing if line not in README] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_names_every_command(command):
    assert f"`{command}`" in README


def test_the_readme_names_every_table():
    with Database.in_memory() as tables:
        names = set(tables.describe().column("table")) - {"schema_meta"}
    assert {name for name in names if f"`{name}`" not in README} == set()


def test_the_tree_of_errors_in_the_docstring_is_the_tree_of_classes():
    tree = ast.parse((ROOT / "sedarchive" / "errors.py").read_text())
    parents = {node.name: [base.id for base in node.bases] for node in tree.body if isinstance(node, ast.ClassDef)}
    drawn, above = {}, []
    for indent, name, also in re.findall(r"^( {4,})(\w+Error)(?:\((\w+)\))?", sedarchive.errors.__doc__, re.MULTILINE):
        depth = (len(indent) - 4) // 2
        above[depth:] = [name]
        drawn[name] = ([above[depth - 1]] if depth else []) + ([also] if also else [])
    assert drawn == parents


def test_every_column_has_a_comment_with_a_unit():
    with Database.in_memory() as tables:
        rows = tables.describe().rows
    bare = [f"{row[0]}.{row[1]}" for row in rows if not (row[3] or "").rstrip().endswith("]")]
    assert bare == []
