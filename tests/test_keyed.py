"""Rows that know what they were made from: what stands stays, what is stale goes, what belongs to others is left."""

from datetime import UTC, datetime

import numpy as np
import pytest

from sedarchive.compute.keyed import KeyedRows, Owned
from sedarchive.compute.rolling.window_tables import read_windows, window_keys
from sedarchive.errors import DatabaseError
from sedarchive.tables import Database

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEYED = KeyedRows("one", "phases", "test-1", (Owned("phases"), Owned("events", kind="event", kinds=("shift", "grok"))))


@pytest.fixture
def tables():
    with Database.in_memory() as tables:
        yield tables


def event(scope, size, name, run="one"):
    return {"run": run, "scope": [scope], "window_size": [size], "event": [name]}


def written(tables, wanted):
    work = KEYED.outstanding(tables, wanted)
    scopes, sizes = zip(*work.keys, strict=True) if work.keys else ((), ())
    columns = {"scope": list(scopes), "window_size": list(sizes), "phase": ["rise"] * len(scopes)} if scopes else {}
    KEYED.write(tables, work, {"phases": [columns]}, NOW)
    return work


def pairs(tables, table="phases"):
    return tables.rows(f"SELECT scope, window_size FROM {table} WHERE run = 'one' ORDER BY ALL").rows


def test_what_stands_is_kept_what_is_stale_replaced_and_what_is_unwanted_removed(tables):
    written(tables, {("all", 5): "a", ("all", 10): "b", (None, None): "c"})
    work = written(tables, {("all", 5): "a", ("all", 10): "changed", ("trunk", 5): "d"})
    assert work.keys == {("all", 10): "changed", ("trunk", 5): "d"}
    assert (work.stale, work.gone) == ({("all", 10)}, {(None, None)})
    assert pairs(tables) == [("all", 5), ("all", 10), ("trunk", 5)]
    assert pairs(tables, "computations") == pairs(tables)
    assert not KEYED.outstanding(tables, {("all", 5): "a", ("all", 10): "changed", ("trunk", 5): "d"})


def test_rows_of_others_in_the_same_table_and_of_other_runs_stay(tables):
    for row in (event("all", 5, "shift"), event("all", 5, "mine"), event("all", 5, "shift", run="two")):
        tables.insert("events", row)
    written(tables, {("all", 5): "a"})
    assert tables.rows("SELECT run, event FROM events ORDER BY ALL").rows == [("one", "mine"), ("two", "shift")]


def test_dropping_removes_what_is_stale_and_makes_nothing(tables):
    written(tables, {("all", 5): "a", ("all", 10): "b"})
    KEYED.drop(tables, KEYED.outstanding(tables, {("all", 5): "a", ("all", 10): "changed", ("trunk", 5): "d"}))
    assert pairs(tables) == [("all", 5)]
    assert pairs(tables, "computations") == [("all", 5)]


def test_null_is_a_name_like_any_other_when_rows_are_removed(tables):
    for scope, size in (("all", 5), ("all", None), (None, None)):
        tables.insert("events", event(scope, size, "shift"))
    tables.remove("events", {"run": "one"}, ("scope", "window_size"), [("all", None), (None, None)])
    assert pairs(tables, "events") == [("all", 5)]
    tables.remove("events", {"run": "one"}, ("scope",), [])
    assert pairs(tables, "events") == [("all", 5)]
    with pytest.raises(DatabaseError, match="no column"):
        tables.remove("events", {}, ("scoop",), [("all",)])


def test_numbers_are_read_as_arrays_with_nan_for_null(tables):
    tables.insert("windows", {"run": "one", "step": [10, 20], "gap": [1.5, None], "signal_rank": [None, 2]})
    found = tables.arrays("SELECT step, gap, signal_rank FROM windows ORDER BY step")
    assert found["step"].tolist() == [10, 20]
    np.testing.assert_array_equal(found["gap"], [1.5, np.nan])
    np.testing.assert_array_equal(found["signal_rank"], [np.nan, 2])
    with pytest.raises(DatabaseError):
        tables.arrays("SELECT nothing FROM windows")


def test_windows_of_several_scopes_and_sizes_come_back_each_in_order_of_time(tables):
    for scope, size, n in (("all", 2, 3), ("trunk", 2, 2), ("all", 3, 2)):
        steps = np.arange(n)[::-1]
        where = {"run": "one", "scope": scope, "window_size": size}
        tables.insert("windows", {**where, "step": steps, "gap": steps * 1.0 + size, "p_eff": 7.0})
        sigmas = {"step": np.repeat(steps, size), "k": np.tile(np.arange(1, size + 1), n)}
        tables.insert("window_sigmas", {**where, **sigmas, "sigma": sigmas["step"] * 10.0 + sigmas["k"]})
        tables.insert("computations", {**where, "table_name": "windows", "key": [f"{scope} {size}"]})
    for scope in ("all", "trunk"):
        tables.insert("updates", {"run": "one", "scope": scope, "step": [2, 1], "norm": [2.0, None]})
    keys = window_keys(tables, "one")
    assert keys == {("all", 2): "all 2", ("all", 3): "all 3", ("trunk", 2): "trunk 2"}
    found = {(one.scope, one.size): one for one in read_windows(tables, "one", keys, ("gap", "p_eff"), ("sigma",))}
    assert {pair: one.windows["gap"].tolist() for pair, one in found.items()} == {
        ("all", 2): [2, 3, 4],
        ("trunk", 2): [2, 3],
        ("all", 3): [3, 4],
    }
    np.testing.assert_array_equal(found["trunk", 2].sigmas["sigma"], [[1, 2], [11, 12]])
    np.testing.assert_array_equal(found["all", 3].sigmas["sigma"], [[1, 2, 3], [11, 12, 13]])
    np.testing.assert_array_equal(found["all", 3].norms, [np.nan, 2])
    assert found["all", 2].p_eff == 7
