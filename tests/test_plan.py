"""Plans: every row and every slot is handled once, within the memory that was given."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedarchive.errors import MemoryBudgetError
from sedarchive.plan.grid import (
    HELD_BYTES,
    SLAB_BYTES,
    SMALL_TENSOR_STEPS,
    ChunkSteps,
    MatrixLayout,
    TensorLayout,
    chunk_grid,
)
from sedarchive.plan.tasks import plan_gram, plan_spectra
from sedarchive.sizes import MIB, parse_size

few = settings(max_examples=40, deadline=None)
shapes = st.tuples(st.integers(1, 3000), st.integers(1, 4000), st.sampled_from([1, 2, 4, 8]))
workers = st.integers(1, 4)


def layout_of(name, shape, steps=None):
    rows, columns, itemsize = shape
    grid = chunk_grid(rows, columns * itemsize, ChunkSteps(steps))
    return TensorLayout(name, grid, columns * itemsize, columns, max(4, itemsize))


def layouts_of(all_shapes):
    return [layout_of(f"t{at}", shape) for at, shape in enumerate(all_shapes)]


@few
@given(shape=shapes, steps=st.one_of(st.none(), st.integers(1, 64)), n_slots=st.integers(0, 200))
def test_slabs_hold_every_row_once_and_step_groups_every_slot_once(shape, steps, n_slots):
    rows, columns, itemsize = shape
    grid = chunk_grid(rows, columns * itemsize, ChunkSteps(steps))
    assert [row for start, stop in grid.slabs() for row in range(start, stop)] == list(range(rows))
    groups = [list(range(*group)) for group in grid.step_groups((n_slots // 3, n_slots))]
    assert [slot for group in groups for slot in group] == list(range(n_slots // 3, n_slots))
    assert all(len({slot // grid.steps for slot in group}) == 1 for group in groups)
    assert len(groups) == len({group[0] // grid.steps for group in groups})


@few
@given(shape=shapes)
def test_a_slab_is_at_most_half_a_mebibyte_a_step_unless_it_is_one_row(shape):
    rows, columns, itemsize = shape
    grid = chunk_grid(rows, columns * itemsize, ChunkSteps())
    # even slabs of whole rows may exceed the aim by less than one row
    assert grid.slab_rows == 1 or (grid.slab_rows - 1) * columns * itemsize < SLAB_BYTES


@pytest.mark.parametrize(("found", "small", "large"), [(1, 1, 1), (2, 8, 8), (8, 8, 8), (25, 32, 8), (33, 64, 8)])
def test_a_short_history_takes_little_more_than_its_length(found, small, large):
    steps = ChunkSteps(found=found)
    assert chunk_grid(1, 64 * 1024, steps).steps == small
    assert chunk_grid(100, 64 * 1024, steps).steps == large
    assert chunk_grid(100, 64 * 1024, ChunkSteps(4, found)).steps == 4


@few
@given(rows=st.integers(1, 10**6), row_bytes=st.integers(1, 10**6))
def test_steps_a_chunk_follow_the_size_of_the_tensor(rows, row_bytes):
    n_bytes = rows * row_bytes
    steps = chunk_grid(rows, row_bytes, ChunkSteps()).steps
    if n_bytes <= 64 * 1024:
        assert steps == SMALL_TENSOR_STEPS
    else:
        assert steps in (8, 4, 2, 1)
        assert steps == 1 or steps * n_bytes <= HELD_BYTES
        assert steps == 8 or 2 * steps * n_bytes > HELD_BYTES


def test_an_empty_tensor_has_no_slab():
    assert list(chunk_grid(0, 40, ChunkSteps()).slabs()) == []


@few
@given(
    all_shapes=st.lists(shapes, min_size=1, max_size=4),
    n_steps=st.integers(1, 200),
    mem=st.integers(64 * MIB, 2048 * MIB),
    n=workers,
)
def test_gram_blocks_hold_every_row_of_every_tensor_once_within_memory(all_shapes, n_steps, mem, n):
    layouts = layouts_of(all_shapes)
    try:
        plan = plan_gram(layouts, n_steps, mem, n)
    except MemoryBudgetError:
        return
    blocks = [block for task in plan.tasks for block in task]
    rows = Counter((block.tensor, row) for block in blocks for row in range(block.start, block.stop))
    expected = {(layout.tensor, row) for layout in layouts for row in range(layout.grid.rows)}
    assert rows.keys() == expected
    assert set(rows.values()) <= {1}
    assert plan.projected_mem <= mem
    assert plan.read_bytes >= sum(n_steps * layout.grid.rows * layout.row_bytes for layout in layouts)
    assert all(task for task in plan.tasks)


@few
@given(shape=shapes, n_steps=st.integers(1, 100), mem=st.integers(64 * MIB, 512 * MIB), n=workers)
def test_gram_reads_each_byte_once_exactly_where_no_slab_is_cut(shape, n_steps, mem, n):
    layout = layout_of("t", shape)
    try:
        plan = plan_gram([layout], n_steps, mem, n)
    except MemoryBudgetError:
        return
    cut = Counter((block.start // layout.grid.slab_rows) for task in plan.tasks for block in task)
    assert max(cut.values()) == plan.decodes_per_chunk
    assert plan.read_bytes == plan.decodes_per_chunk * n_steps * layout.grid.rows * layout.row_bytes


@few
@given(
    all_shapes=st.lists(shapes, min_size=1, max_size=3),
    slots=st.sets(st.integers(0, 300), min_size=1, max_size=60),
    mem=st.integers(64 * MIB, 2048 * MIB),
    n=workers,
)
def test_spectra_blocks_hold_every_slot_once_within_memory_and_never_span_chunks(all_shapes, slots, mem, n):
    layouts = layouts_of(all_shapes)
    matrices = [(MatrixLayout(one, ((one.grid.rows, one.row_elements),)), sorted(slots)) for one in layouts]
    try:
        plan = plan_spectra(matrices, mem, n)
    except MemoryBudgetError:
        return
    found = Counter((block.tensor, slot) for task in plan.tasks for block in task for slot in block.slots)
    assert found == Counter({(layout.tensor, slot): 1 for layout in layouts for slot in slots})
    assert plan.projected_mem <= mem
    steps = {layout.tensor: layout.grid.steps for layout in layouts}
    for block in (block for task in plan.tasks for block in task):
        assert len({slot // steps[block.tensor] for slot in block.slots}) == 1


def way_out(error):
    """Bytes and workers that the message of a MemoryBudgetError proposes."""
    text = str(error)
    return parse_size(re.search(r"--max-mem (\w+)", text)[1])


@few
@given(shape=shapes, n_steps=st.integers(1, 4000), n=workers)
def test_the_memory_that_a_refused_gram_plan_asks_for_is_enough(shape, n_steps, n):
    layout = layout_of("some.tensor", shape)
    with pytest.raises(MemoryBudgetError, match=r"some\.tensor.*--max-mem") as refused:
        plan_gram([layout], n_steps, 1000 * n, n)
    enough = way_out(refused.value)
    assert plan_gram([layout], n_steps, enough, n).projected_mem <= enough


@few
@given(shape=shapes, n=workers)
def test_the_memory_that_a_refused_spectra_plan_asks_for_is_enough(shape, n):
    layout = layout_of("some.tensor", shape)
    matrix = (MatrixLayout(layout, ((layout.grid.rows, layout.row_elements),)), [0, 1, 2])
    with pytest.raises(MemoryBudgetError, match=r"some\.tensor.*--max-mem") as refused:
        plan_spectra([matrix], 10 * n, n)
    enough = way_out(refused.value)
    assert plan_spectra([matrix], enough, n).projected_mem <= enough


def test_blocks_depend_on_memory_and_never_on_the_number_of_workers():
    layouts = [layout_of("a", (1000, 1000, 4)), layout_of("b", (50, 10, 4))]
    plan = plan_gram(layouts, 100, 512 * MIB, 2)
    assert plan_gram(layouts, 100, 512 * MIB, 1).tasks == plan.tasks
    assert plan_gram(layouts, 100, 512 * MIB, 64).tasks == plan.tasks
    assert plan_gram(layouts, 100, 512 * MIB, 2) == plan


def test_nothing_to_do_is_an_empty_plan():
    assert plan_gram([], 10, 64 * MIB, 1).tasks == ()
    assert plan_spectra([], 64 * MIB, 1).projected_mem == 0
