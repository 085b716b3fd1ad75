"""Results as text."""

import csv
import datetime
import decimal
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sedarchive.errors import RecipeError
from sedarchive.render import write_result
from sedarchive.result import Result
from sedarchive.words import counted

RESULT = Result(
    ["run", "step", "ratio", "flip", "sigma"],
    ["VARCHAR", "BIGINT", "DOUBLE", "BOOLEAN", "DOUBLE[]"],
    [("a|b", 1000000, 1 / 3, True, [4.0, 3.0, 2.0, 1.0]), ('c,"d"\n', None, None, None, None)],
)


def text(result, form):
    stream = io.StringIO(newline="")
    write_result(result, form, stream)
    return stream.getvalue()


def test_a_table_is_aligned_and_rounded_and_shows_null_as_a_dash():
    lines = text(RESULT, "table").splitlines()
    assert [line.split() for line in lines] == [
        ["run", "step", "ratio", "flip", "sigma"],
        ["a|b", "1000000", "0.333333", "true", "[4,", "3,", "2,", "...", "(4)]"],
        ['c,"d"\\n', "-", "-", "-", "-"],
    ]
    assert lines[0].index("ratio") + len("ratio") == lines[1].index("0.333333") + len("0.333333")


def test_a_table_in_a_file_cuts_nothing():
    wide = Result(["name"] * 3, ["VARCHAR"] * 3, [("x" * 200, "[bold]y" * 30, "z" * 200)])
    assert text(wide, "table").splitlines()[1].split() == ["x" * 200, "[bold]y" * 30, "z" * 200]


def test_no_line_of_a_table_ends_in_blanks_that_a_narrow_terminal_would_wrap():
    uneven = Result(["a", "meaning"], ["VARCHAR"] * 2, [("x", "long " * 40 + "end"), ("y", "short"), ("z", "")])
    lines = text(uneven, "table").splitlines()
    assert [len(line) for line in lines] == [10, 3 + 203, 8, 1]
    assert not any(line.endswith(" ") for line in lines)


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_no_escape_sequence_of_a_name_reaches_the_terminal(form):
    shown = text(Result(["\x1b[2Jname"], ["VARCHAR"], [("\x1b[31mred\u202e",)]), form)
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "\\x1b[31mred\\u202e" in shown


def test_csv_holds_nulls_as_nothing_and_lists_as_json():
    rows = list(csv.reader(io.StringIO(text(RESULT, "csv"), newline="")))
    assert rows == [
        RESULT.columns,
        ["a|b", "1000000", repr(1 / 3), "true", "[4.0, 3.0, 2.0, 1.0]"],
        ['c,"d"\n', "", "", "", ""],
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_csv_and_json_keep_every_digit(numbers):
    result = Result(["x"], ["DOUBLE"], [(number,) for number in numbers])
    assert [float(line) for line in text(result, "csv").splitlines()[1:]] == numbers
    assert [row["x"] for row in json.loads(text(result, "json"))] == numbers
    assert [json.loads(line)["x"] for line in text(result, "jsonl").splitlines()] == numbers


def test_json_is_valid_whatever_the_values():
    nan, inf = float("nan"), float("inf")
    day = datetime.date(2026, 1, 2)
    values = (nan, -inf, [nan, 1.0], decimal.Decimal("1.5"), day, {"k": inf}, None, "é")
    result = Result([f"c{index}" for index in range(len(values))], ["DOUBLE"] * len(values), [values])
    [row] = json.loads(text(result, "json"), parse_constant=pytest.fail)
    assert list(row.values()) == [None, None, [None, 1.0], 1.5, "2026-01-02", {"k": None}, None, "é"]


def test_an_empty_result_still_has_its_header():
    empty = Result(["run", "step"], ["VARCHAR", "BIGINT"], [])
    assert text(empty, "csv") == "run,step\n"
    assert text(empty, "table").split() == ["run", "step"]
    assert text(empty, "markdown") == "| run | step |\n| --- | ---: |\n"
    assert text(empty, "json") == "[]\n"
    assert text(empty, "jsonl") == ""


def test_one_thing_is_not_many():
    assert [counted(n, "file") for n in (0, 1, 2)] == ["0 files", "1 file", "2 files"]


def test_markdown_escapes_its_own_bars():
    assert text(RESULT, "markdown").splitlines()[2] == "| a\\|b | 1000000 | 0.333333 | true | [4, 3, 2, ... (4)] |"


def test_an_unknown_format_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match="table, csv, json, jsonl, markdown"):
        text(RESULT, "xml")
