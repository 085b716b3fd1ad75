"""The house's rules: imports point down, and importing the package costs little."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sedarchive"

# Each row may import from the rows above it, and a folder from itself.
LAYERS = [
    {
        "errors",
        "digests",
        "sizes",
        "untrusted",
        "words",
        "history",
        "result",
        "families",
        "parts",
        "modelconfig",
        "presets",
        "roles",
    },
    {"floats", "gram", "rolling", "nulls", "matrix", "lowrank", "leaves", "inference", "lifecycle"},
    {"plan"},
    {"readers", "logs", "archive", "tables", "recipes", "render"},
    {"executor", "cluster", "processes", "audit", "batches", "comparison", "freshness", "sources"},
    {"ingest", "restore", "sweeps", "status", "figure", "query", "export", "explain"},
    {"compute", "preview", "inspection"},
    {"demo", "derived"},
    {"cli"},
]
LEVEL = {name: row for row, names in enumerate(LAYERS) for name in names}
# Inside these rows a module may use a neighbour: vocabulary, and mathematics that builds on mathematics.
NEIGHBOURS = {
    ("history", "errors"),
    ("sizes", "errors"),
    ("families", "errors"),
    ("families", "words"),
    ("families", "history"),
    ("parts", "families"),
    ("modelconfig", "errors"),
    ("modelconfig", "families"),
    ("modelconfig", "parts"),
    ("roles", "modelconfig"),
    ("roles", "parts"),
    ("roles", "families"),
    ("roles", "history"),
    ("roles", "errors"),
    ("rolling", "gram"),
    ("nulls", "gram"),
    ("nulls", "rolling"),
    ("inference", "rolling"),
    ("lifecycle", "inference"),
    ("lowrank", "gram"),
    ("lowrank", "matrix"),
    ("leaves", "lowrank"),
    ("tables", "render"),
    ("preview", "inspection"),
    ("recipes", "tables"),
    ("cluster", "executor"),
    ("processes", "executor"),
    ("comparison", "audit"),
    ("sources", "audit"),
}


def top(name):
    return name.split(".")[1] if "." in name else "__init__"


def imports(package=PACKAGE):
    for path in sorted(package.rglob("*.py")):
        part = path.relative_to(package).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sedarchive"):
                names = [node.module] if node.module != "sedarchive" else [f"sedarchive.{a.name}" for a in node.names]
                yield from ((path, part, top(name)) for name in names)
            elif isinstance(node, ast.Import):
                yield from ((path, part, top(a.name)) for a in node.names if a.name.startswith("sedarchive."))


def test_every_module_has_a_layer():
    modules = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert modules - {"__init__", "__main__"} == set(LEVEL)


def upward(package=PACKAGE):
    return [
        f"{path.relative_to(package)} imports {target}"
        for path, part, target in imports(package)
        if part not in ("__init__", "__main__") and target != "__version__" and target != part
        if (part, target) not in NEIGHBOURS and LEVEL[target] >= LEVEL[part]
    ]


def test_imports_point_down():
    assert upward() == []


def test_an_import_that_points_up_or_sideways_is_seen(tmp_path):
    (tmp_path / "gram.py").write_text("from sedarchive.archive import Archive\n")
    (tmp_path / "readers").mkdir()
    (tmp_path / "readers" / "one.py").write_text("from sedarchive.tables import Database\nimport sedarchive.errors\n")
    assert upward(tmp_path) == ["gram.py imports archive", "readers/one.py imports tables"]


WINGS = ("rolling", "matrix", "couplings", "inference", "lifecycle")
"""Wings of ``compute``: each may import from those before it, and from modules that belong to none and use none."""


def test_the_wings_of_compute_stand_in_one_order():
    seen = {}
    for path in (PACKAGE / "compute").rglob("*.py"):
        part = path.relative_to(PACKAGE / "compute").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sedarchive.compute."):
                seen.setdefault(part, set()).add(node.module.split(".")[2])
    shared = {part for part in seen if part not in WINGS and seen[part] & set(WINGS)}
    for at, wing in enumerate(WINGS):
        assert not seen[wing] & ({*WINGS[at + 1 :]} | shared), wing


@pytest.mark.parametrize(
    ("libraries", "expected"),
    [({"dask", "distributed"}, {"executor.py", "cluster.py"}), ({"loky"}, {"processes.py"})],
    ids=["dask", "loky"],
)
def test_only_the_executors_use(libraries, expected):
    users = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if libraries
        & {
            name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
        }
    }
    assert users == expected


@pytest.mark.parametrize("statement", ["import sedarchive", "import sedarchive.cli.app"])
def test_import_loads_nothing_heavy(statement):
    assert not {"torch", "dask", "matplotlib", "zarr", "duckdb", "numpy", "pandas", "rich"} & loaded_by(statement)


@pytest.mark.parametrize("module", ["sedarchive.query", "sedarchive.status", "sedarchive.archive"])
def test_what_reads_records_and_tables_needs_no_zarr_and_no_scipy(module):
    assert not {"torch", "dask", "matplotlib", "zarr", "scipy", "pandas"} & loaded_by(f"import {module}")


def test_compute_loads_what_few_spectra_need_only_where_they_are_made():
    unwanted = {"torch", "dask.threaded", "distributed", "matplotlib", "scipy.integrate", "scipy.optimize"}
    assert not unwanted & loaded_by("import sedarchive.compute.refresh")


def loaded_by(statement):
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())
