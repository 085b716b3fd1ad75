"""Bytes read and things counted: every chunk once a sweep, every parameter once a run."""

import shutil
from collections import Counter

import numpy as np
import pytest
import torch
from histories import LAYERS, N_UPDATES, WIDTH, read_run, write_states

from sedarchive.archive import Archive
from sedarchive.executor import Executor
from sedarchive.plan import grid
from sedarchive.sizes import KIB, MIB
from sedarchive.sweeps.anatomy import anatomy
from sedarchive.sweeps.gram_sweep import plan_gram_sweep, sweep_gram
from sedarchive.sweeps.spectra_sweep import SpectraOptions, matrix_leaves, plan_spectra_sweep, sweep_spectra
from sedarchive.sweeps.stored_grams import GramOptions

PLENTY = 1024 * MIB


def weight_chunks(analysis, run):
    """Stored chunks of the weights of a run, as keys of the store, with their sizes."""
    folder = analysis.archive / run / "theta"
    files = [path for path in folder.glob("*/c/**/*") if path.is_file() and path.relative_to(folder).parts[0] != "step"]
    return {path.relative_to(analysis.archive).as_posix(): path.stat().st_size for path in files}


def fetched_by_gram_sweep(analysis, run, max_mem, workers=1):
    archive = Archive(analysis.archive)
    parts = anatomy(archive.run(run))
    before = dict(archive.store.counts.fetches)
    planned = plan_gram_sweep(parts, list(parts.tensors), GramOptions(max_mem), workers)
    with archive.writing("test") as store:
        outcome = sweep_gram(parts, store, GramOptions(max_mem), Executor(workers))
    assert not outcome.failed
    return Counter(archive.store.counts.fetches) - Counter(before), planned


def fetched_by_spectra_sweep(analysis, run, max_mem, workers=1):
    archive = Archive(analysis.archive)
    parts = anatomy(archive.run(run))
    wanted = {leaf.tensor: range(len(parts.run.commits)) for leaf in matrix_leaves(parts)}
    planned = plan_spectra_sweep(parts, wanted, max_mem, workers)
    found = list(sweep_spectra(parts, wanted, SpectraOptions(max_mem), Executor(workers)))
    assert all(one.spectrum is not None for portion in found for one in portion)
    return archive.store.counts.fetches, planned


@pytest.fixture
def small_slabs(monkeypatch):
    """Chunks of at most 2 KiB a step, so that small tensors are cut too."""
    monkeypatch.setattr(grid, "SLAB_BYTES", 2 * KIB)
    monkeypatch.setattr(grid, "SMALL_TENSOR_BYTES", 1 * KIB)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("run", ["gpt2_float16", "neox"])
def test_a_sweep_with_memory_enough_fetches_every_chunk_once(trained, analysis, small_slabs, run, workers):
    analysis.ingest(trained / run)
    chunks = weight_chunks(analysis, run)
    fetched, planned = fetched_by_gram_sweep(analysis, run, PLENTY, workers)
    assert planned.decodes_per_chunk == 1
    assert fetched == dict.fromkeys(chunks, 1)
    fetched, planned = fetched_by_spectra_sweep(analysis, run, PLENTY, workers)
    assert planned.decodes_per_chunk == 1
    matrices = {key for key in chunks if chunks_axes(key) == 3}
    assert fetched == dict.fromkeys(matrices, 1)
    assert len(matrices) > LAYERS * 4


def chunks_axes(key):
    """Axes of the array that a chunk belongs to, steps included."""
    return len(key.rpartition("/c/")[2].split("/"))


@pytest.mark.parametrize("max_mem", [20 * MIB, 30 * MIB])
def test_a_gram_sweep_in_bands_fetches_every_chunk_as_often_as_the_plan_says(wide, analysis, max_mem):
    analysis.ingest(wide)
    fetched, planned = fetched_by_gram_sweep(analysis, "wide", max_mem)
    assert planned.decodes_per_chunk > 1
    assert fetched == dict.fromkeys(weight_chunks(analysis, "wide"), planned.decodes_per_chunk)
    stored = sum(fetched.values()) / planned.decodes_per_chunk
    assert planned.read_bytes == planned.decodes_per_chunk * (N_UPDATES + 1) * 320 * 512 * 4
    assert stored == 2 * 4  # two slabs of four groups of steps


def test_a_spectra_sweep_in_parts_fetches_every_full_chunk_as_often_as_the_plan_says(wide, analysis):
    analysis.ingest(wide)
    fetched, planned = fetched_by_spectra_sweep(analysis, "wide", 16 * MIB)
    assert planned.decodes_per_chunk > 1
    full = {key: count for key, count in fetched.items() if "/c/3/" not in key}  # the last group has two steps
    assert set(full.values()) == {planned.decodes_per_chunk}
    assert set(fetched) == set(weight_chunks(analysis, "wide"))


def test_as_many_tasks_run_as_the_plans_say(wide, analysis):
    analysis.ingest(wide)
    archive = Archive(analysis.archive)
    parts = anatomy(archive.run("wide"))
    wanted = {leaf.tensor: range(len(parts.run.commits)) for leaf in matrix_leaves(parts)}
    gram = plan_gram_sweep(parts, list(parts.tensors), GramOptions(30 * MIB), 2)
    spectra = plan_spectra_sweep(parts, wanted, 30 * MIB, 2)
    ran = []

    def note(stage, done, total):
        ran.append((stage.split()[0], done, total))

    with archive.writing("test") as store:
        sweep_gram(parts, store, GramOptions(30 * MIB), Executor(2), note)
    list(sweep_spectra(parts, wanted, SpectraOptions(30 * MIB), Executor(2), note))
    n_gram, n_spectra = len(gram.tasks), len(spectra.tasks)
    assert min(n_gram, n_spectra) > 2
    assert [done for stage, done, _ in ran if stage == "gram"] == list(range(1, n_gram + 1))
    assert ran[-1] == ("spectra", n_spectra, n_spectra)


def reads(reports):
    ((gram, spectra),) = [(report.gram.reads, report.spectra.reads) for report in reports]
    return gram, spectra


def test_compute_reports_the_chunks_and_bytes_that_it_read(trained, analysis):
    analysis.ingest(trained / "encoder")
    chunks = weight_chunks(analysis, "encoder")
    gram, spectra = reads(analysis.compute(inference=False))
    assert (gram.chunks, gram.n_bytes) == (len(chunks), sum(chunks.values()))
    matrices = [size for key, size in chunks.items() if chunks_axes(key) == 3]
    assert (spectra.chunks, spectra.n_bytes) == (len(matrices), sum(matrices))


def test_new_windows_and_scopes_fetch_no_weight(trained, analysis):
    analysis.ingest(trained / "encoder")
    analysis.compute(inference=False)
    (report,) = analysis.compute(
        inference=False, windows=(3, 7), scopes=("role:*", "layer:0-1", "mine=*linear1.weight")
    )
    assert report.window_sets > 20
    assert (report.gram.reads.chunks, report.spectra.reads.chunks) == (0, 0)
    assert (report.gram.reads.n_bytes, report.spectra.reads.n_bytes) == (0, 0)


def test_a_history_that_grew_is_read_again_for_its_grams_and_only_its_end_for_spectra(wide, analysis, tmp_path):
    names = sorted(wide.iterdir(), key=lambda path: int(path.stem.split("_")[1]))
    folder = tmp_path / "wide"
    folder.mkdir()
    for path in names[:16]:
        shutil.copy(path, folder)
    analysis.ingest(folder)
    gram, spectra = reads(analysis.compute(inference=False))
    assert (gram.chunks, spectra.chunks) == (2 * 2, 2 * 2)
    for path in names[16:20]:
        shutil.copy(path, folder)
    analysis.ingest(folder)
    gram, spectra = reads(analysis.compute(inference=False))
    assert (gram.chunks, spectra.chunks) == (2 * 3, 2)
    gram, spectra = reads(analysis.compute(inference=False))
    assert (gram.chunks, spectra.chunks) == (0, 0)


def test_an_interrupted_sweep_goes_on_where_it_stopped(trained, analysis):
    analysis.ingest(trained / "encoder")
    analysis.compute(inference=False, spectra=False)
    chunks = weight_chunks(analysis, "encoder")
    done = sorted((analysis.archive / "encoder" / "gram").glob("*/updates/c/*/0/0"), key=str)
    done[0].unlink()  # the leaf numbered 0 is the first tensor's
    (report,) = analysis.compute(inference=False, spectra=False)
    assert report.gram.computed == 1
    assert 0 < report.gram.reads.chunks < len(chunks) / 10


def test_tied_embeddings_are_counted_once(computed, trained):
    state = read_run(trained / "nanogpt")[0][1]
    parameters = {name: tensor for name, tensor in state.items() if not name.endswith((".attn.bias", "lm_head.weight"))}
    wanted = sum(tensor.numel() for tensor in parameters.values())
    assert computed.rows("SELECT n_parameters FROM runs WHERE run = 'nanogpt'") == [(wanted,)]
    tied = computed.rows("SELECT tensor, tied_to FROM tensors WHERE run = 'nanogpt' AND tied_to IS NOT NULL")
    assert tied == [("lm_head.weight", "transformer.wte.weight")]
    sql = "SELECT count(*) FROM matrices WHERE run = 'nanogpt' AND n_rows = 31"
    assert computed.rows(sql) == [(1,)]


def test_tied_embeddings_are_stored_once_and_both_are_named(computed):
    archive = Archive(computed.archive)
    commit = archive.run("nanogpt").commits[0]
    assert commit.tensors["lm_head.weight"].shared_with == "transformer.wte.weight"
    arrays = [info.spec.name for info in archive.run("nanogpt").arrays.values()]
    assert "lm_head.weight" not in arrays
    assert "transformer.wte.weight" in arrays


def test_buffers_are_left_out_and_said_to_be(computed):
    sql = "SELECT tensor, kind, skipped_reason FROM tensors WHERE run = 'nanogpt' AND tensor LIKE '%.attn.bias'"
    rows = computed.rows(sql)
    assert len(rows) == LAYERS
    assert {kind for _, kind, _ in rows} == {"buffer"}
    assert all("mask" in reason for *_, reason in rows)
    assert computed.rows("SELECT count(*) FROM matrix_spectra WHERE matrix LIKE '%.attn.bias'") == [(0,)]


def test_every_parameter_of_every_run_is_in_one_matrix_or_vector(computed, trained):
    for run in ("gpt2_float32", "neox", "encoder"):
        state = read_run(trained / run)[0][1]
        wanted = sum(tensor.numel() for tensor in state.values())
        assert computed.rows("SELECT n_parameters, n_layers FROM runs WHERE run = ?", [run]) == [(wanted, LAYERS)]
        rows = computed.rows("SELECT sum(n_rows * n_cols) FROM matrices WHERE run = ?", [run])
        assert rows == [(sum(tensor.numel() for tensor in state.values() if tensor.ndim == 2),)]


def test_heads_are_counted_by_the_config_alone(computed):
    rows = computed.rows("SELECT role, n_rows, n_cols FROM matrices WHERE run = 'neox' AND matrix LIKE '%:%'")
    assert Counter(rows) == {(role, WIDTH, WIDTH): LAYERS for role in ("query", "key", "value")}


def test_a_change_of_dtype_fetches_no_chunk_more_often_than_planned(analysis, tmp_path):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(400, 512, generator=generator) for _ in range(12)]
    states = [{"w": weight if index < 6 else weight.bfloat16()} for index, weight in enumerate(weights)]
    write_states(tmp_path / "changed", states)
    analysis.ingest(tmp_path / "changed")
    fetched, planned = fetched_by_gram_sweep(analysis, "changed", PLENTY)
    assert set(fetched) == set(weight_chunks(analysis, "changed"))
    assert max(fetched.values()) == planned.decodes_per_chunk


def test_every_element_of_a_tensor_in_slabs_is_counted(wide, analysis):
    analysis.ingest(wide)
    analysis.compute(inference=False, spectra=False)
    weights = np.stack([state["wide.weight"].numpy() for _, state in read_run(wide)])
    wanted = (weights[1:] == weights[:-1]).reshape(N_UPDATES, -1).mean(axis=1)
    found = analysis.rows("SELECT zero_fraction FROM updates WHERE scope = 'all' ORDER BY step")
    assert [value for (value,) in found] == wanted.tolist()
