"""JSON of others stays small once it is parsed, and text of others fits a database."""

import json

import pytest

from sedarchive import untrusted
from sedarchive.untrusted import load_json, writable


@pytest.mark.parametrize("content", [{}, [], {"a": [1, 2.5, None, True, "ü🙂"], "b": {"c": "\\"}}, "x", 3, None])
def test_what_json_writes_is_read(content):
    for text in (json.dumps(content), json.dumps(content, ensure_ascii=False)):
        assert load_json(text.encode()) == content
        assert load_json(b"\xef\xbb\xbf" + text.encode()) == content  # as Windows writes it


def test_values_are_counted_before_they_are_made(monkeypatch):
    monkeypatch.setattr(untrusted, "_ITEM_LIMIT", 10)
    assert load_json(b"[0,1,2,3,4,5,6,7,8,9]") == list(range(10))
    for text in (b"[0,1,2,3,4,5,6,7,8,9,10]", b"[[],[],[],[],[],[]]", b'{"a":{},"b":{},"c":{},"d":{},"e":{},"f":{}}'):
        with pytest.raises(ValueError, match="more than 10 values"):
            load_json(text)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"\x00", b"nul", b"1 2", b"9" * 5000])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError):  # noqa: PT011 - each parser has words of its own
        load_json(text)


def test_endless_nesting_is_a_recursion_error():
    with pytest.raises(RecursionError):
        load_json(b"[" * 100_000)


def test_a_key_that_stands_twice_is_refused_where_it_matters():
    assert load_json(b'{"a":1,"a":2}') == {"a": 2}
    for text in (b'{"a":1,"a":2}', b'[{"b":{"a":1,"a":1}}]'):
        with pytest.raises(ValueError, match="twice"):
            load_json(text, unique=True)
    assert load_json(b'{"a":{"a":1}}', unique=True) == {"a": {"a": 1}}


def test_halves_of_characters_and_zeros_become_question_marks():
    assert writable("a\ud800b\0c\udcff") == "a?b?c?"
    assert writable("größe 重み 🙂\n") == "größe 重み 🙂\n"
