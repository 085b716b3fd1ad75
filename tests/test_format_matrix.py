"""The table of formats in the README: all of them side by side in one folder, from the files to spectra and logs."""

import importlib
import re
import shutil
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from format_table import LOGS, ROWS, families, named_tests, table
from formats_written import HEAD, UNFUSED, WRITERS
from histories import made
from huggingface_hub import save_torch_state_dict
from models import KINDS, build
from safetensors.torch import load_file
from small import numpy_bits
from transformers.utils import logging

from sedarchive.archive import Archive
from sedarchive.executor import Executor
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.inspection import starred
from sedarchive.preview import IngestPlan, plan_ingest
from sedarchive.readers import find_runs, open_checkpoint
from sedarchive.restore import restore
from sedarchive.roles import assign_roles
from sedarchive.sizes import MIB
from sedarchive.sweeps.anatomy import anatomy
from sedarchive.sweeps.spectra_sweep import SpectraOptions, matrix_leaves, sweep_spectra

torch.set_num_threads(1)
pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that write the files

TESTS = Path(__file__).parent
README = (TESTS.parent / "README.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Place:
    """All formats below one folder: what was saved, what a dry run said of it, and the archived run of each."""

    saved: dict
    plan: IngestPlan
    reports: dict
    runs: dict

    def planned(self, key):
        """What the dry run said of the run of one format."""
        (found,) = (run for run in self.plan.runs if run.run.partition("/")[0] == key)
        return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    root = tmp_path_factory.mktemp("formats")
    logging.disable_progress_bar()
    saved = {key: write(root / "runs" / key) for key, write in WRITERS.items()}
    made(root / "runs/papers").joinpath("one.pdf").write_bytes(b"")
    (root / "runs/trainer/notes.txt").write_text("good run")
    plan = plan_ingest([root / "runs"], root / "archive.zarr", IngestOptions())
    assert not (root / "archive.zarr").exists()
    reports = ingest([root / "runs"], root / "archive.zarr", IngestOptions())
    assert [report.error for report in reports] == [None] * len(WRITERS)
    runs = {run.name.partition("/")[0]: run for run in Archive(root / "archive.zarr").runs()}
    return Place(saved, plan, {report.run.partition("/")[0]: report for report in reports}, runs)


@pytest.mark.parametrize("key", WRITERS)
def test_what_was_saved_comes_back_to_the_bit(place, key, tmp_path):
    run, states = place.runs[key], place.saved[key].states
    assert list(run.steps) == sorted(states) == [1, 2, 3]
    for step, state in states.items():
        restore(run, step, tmp_path / "out.safetensors")
        found = {name: v for name, v in load_file(tmp_path / "out.safetensors").items() if not name.endswith(HEAD)}
        assert {name: numpy_bits(value) for name, value in found.items()} == {
            name: numpy_bits(value) for name, value in state.items()
        }


def parts_of(key, name, weight):
    """Query, key and value of a fused weight: of GPT-2 in its columns, of nanoGPT in its rows."""
    axis = 0 if key in ("nanogpt", "compiled") else 1
    thirds = np.split(weight.double().numpy(), 3, axis)
    return {f"{name}:{part}": third for part, third in zip(("query", "key", "value"), thirds, strict=True)}


def spectra_of(anatomy):
    """Singular values of every matrix: (step, matrix) -> values."""
    tensors = {leaf.tensor: range(3) for leaf in matrix_leaves(anatomy)}
    portions = sweep_spectra(anatomy, tensors, SpectraOptions(256 * MIB), Executor(1))
    found = [one for portion in portions for one in portion]
    return {(anatomy.run.steps[one.position], one.leaf.name): one.spectrum.sigma for one in found}


@pytest.mark.parametrize("key", [key for key in WRITERS if key not in UNFUSED])
def test_the_parts_of_fused_weights_have_spectra_of_their_own(place, key):
    found = anatomy(place.runs[key])
    roles = sorted(leaf.role for leaf in matrix_leaves(found) if leaf.layer == 0)
    assert " ".join(roles) == "down key output query up value"
    wanted = {
        (step, part): np.linalg.svd(matrix, compute_uv=False)
        for step, state in place.saved[key].states.items()
        for name, weight in state.items()
        if name.endswith("attn.c_attn.weight")
        for part, matrix in parts_of(key, name, weight).items()
    }
    spectra = spectra_of(found)
    assert {at for at in spectra if ":" in at[1]} == wanted.keys()
    assert len(wanted) == 3 * 2 * 3
    for at, sigma in wanted.items():
        np.testing.assert_allclose(spectra[at], sigma, rtol=0, atol=1e-9 * sigma[0])


def roles_with_parameters(found):
    """Role -> (tensors or parts of tensors, parameters) of what is analysed."""
    counts, parameters = Counter(), Counter()
    for leaf in found.leaves:
        counts[leaf.role] += 1
        parameters[leaf.role] += leaf.n_elements
    return {role: (counts[role], parameters[role]) for role in counts}


@pytest.mark.parametrize("key", WRITERS)
def test_a_dry_run_plans_the_steps_and_tensors_that_ingest_then_archives(place, key):
    planned, run = place.planned(key), place.runs[key]
    found, model = anatomy(run), planned.model
    assert (planned.run, planned.steps, planned.unreadable, planned.archived) == (run.name, run.steps, 0, 0)
    assert (model.architecture, model.n_layers) == (found.architecture.family, found.architecture.n_layers)
    assert (model.n_tensors, model.n_parameters) == (len(run.commits[-1].tensors), found.n_parameters)
    assert (model.heads, model.kv_heads) == (found.architecture.heads.query, found.architecture.heads.key_value)
    roles = {role: (count.tensors, count.parameters) for role, count in model.roles.items()}
    assert roles == roles_with_parameters(found)
    skipped = {starred(name) for name in found.tied_to}
    skipped |= {starred(name) for name, role in found.roles.items() if role.kind in ("buffer", "integer")}
    assert {name for group in model.not_analysed for name in group.names} == skipped
    whole = {starred(leaf.name) for leaf in found.leaves if len(leaf.contains) > 1}
    assert whole <= {name for group in model.kept_whole for name in group.names}


@pytest.mark.parametrize("key", WRITERS)
def test_a_dry_run_finds_the_logs_and_the_faults_that_ingest_then_finds(place, key):
    planned, report = place.planned(key), place.reports[key]
    logged = {metric.name for metric in place.runs[key].metrics()}
    assert {name for log in planned.logs for name in log.metrics} <= logged
    assert {metric.step for metric in place.runs[key].metrics()} >= {
        log.last_step for log in planned.logs if log.values
    }
    assert [one for one in planned.findings if one not in report.findings] == []
    new = {one.check_name for one in report.findings if one not in planned.findings}
    assert new <= {"frozen_tensors", "identical_runs"}  # the weights show these


def test_a_dry_run_passes_over_what_is_of_no_format_and_nothing_else(place):
    passed = {name for group in place.plan.passed_over for name in group.paths}
    assert passed == {"papers/", "trainer/notes.txt"}
    assert place.plan.obstacles == ()


TITAN_ROLES = {
    "attention.wq": "query", "attention.wk": "key", "attention.wv": "value", "attention.wo": "output",
    "feed_forward.w1": "gate", "feed_forward.w2": "down", "feed_forward.w3": "up",
}  # fmt: skip


def test_the_matrices_of_torchtitan_have_their_roles(place):
    leaves = matrix_leaves(anatomy(place.runs["torchtitan"]))
    assert {leaf.name: leaf.role for leaf in leaves if leaf.layer == 0} == {
        f"layers.0.{name}.weight": role for name, role in TITAN_ROLES.items()
    }


@pytest.mark.parametrize("key", ["trainer", "adapters", "lightning"])
def test_what_the_library_logged_is_archived_under_canonical_names(place, key):
    found = {(metric.name, metric.step): metric.value for metric in place.runs[key].metrics()}
    logged = place.saved[key].logged
    assert len(logged) >= 3
    assert {at: found.get(at) for at in logged} == pytest.approx(logged, rel=1e-6)


SAVED = ((1, "safetensors"), (2, "safetensors"), (3, "bin"), (4, "bin"))


@pytest.mark.parametrize("name", sorted(KINDS))
def test_a_model_is_one_checkpoint_whole_or_in_shards_as_safetensors_or_bin(name, tmp_path):
    model, folder = build(name), tmp_path / "run"
    model.save_pretrained(folder / "step_1")
    state = load_file(folder / "step_1" / "model.safetensors")
    model.save_pretrained(folder / "step_2", max_shard_size="1KB")
    save_torch_state_dict(state, made(folder / "step_3"), safe_serialization=False)
    save_torch_state_dict(state, made(folder / "step_4"), safe_serialization=False, max_shard_size=1000)
    assert [len(list(folder.glob(f"step_{step}/*.{kind}"))) > 1 for step, kind in SAVED] == [False, True, False, True]
    for step in (3, 4):
        shutil.copy(folder / "step_1" / "config.json", folder / f"step_{step}")
    (run,) = find_runs(folder)
    for checkpoint in run.checkpoints:
        with open_checkpoint(checkpoint) as reader:
            assert reader.specs.keys() == state.keys()
            assert {one: reader.read_rows(one, 0, spec.rows).tobytes() for one, spec in reader.specs.items()} == {
                one: numpy_bits(value) for one, value in state.items()
            }
            found = assign_roles(reader.specs, run.config)
        assert found.family == KINDS[name].family
        whole = [role.reason for role in found.roles.values() if role.contains and not role.parts]
        assert all("made from" in reason for reason in whole)


# The table itself


def cases(file, name):
    """Parameters that a test runs with, as they stand in brackets after its name; none if it has none."""
    function = getattr(importlib.import_module(file.removesuffix(".py")), name)
    marks = [mark for mark in getattr(function, "pytestmark", []) if mark.name == "parametrize"]
    return {"-".join(map(str, values)) for values in product(*(mark.args[1] for mark in reversed(marks)))} - {""}


@pytest.mark.parametrize("test", named_tests())
def test_every_tick_of_the_table_is_a_test_and_its_parameter_a_case_of_it(test):
    file, name, parameter = re.fullmatch(r"(\w+\.py)::(test_\w+)(?:\[(\w+)\])?", test).groups()
    found = cases(file, name)
    assert parameter is None or parameter in found


def test_a_tick_that_outlives_its_case_is_seen():
    file, name = re.fullmatch(r"(\w+\.py)::(test_\w+)", LOGS).groups()
    assert cases(file, name) == {"trainer", "adapters", "lightning"}
    assert cases("test_logs.py", "test_json_lines_become_metrics_under_canonical_names") == set()


def test_every_format_that_is_written_here_has_a_row():
    named = {re.search(r"\[(\w+)\]", test)[1] for test in named_tests() if "[" in test}
    assert named == set(WRITERS)
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_the_readme_has_the_table_and_the_families():
    assert table() in README
    assert families() in " ".join(README.split())
