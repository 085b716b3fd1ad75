"""Text of others: JSON that stays small once it is parsed, and words that a database can hold."""

import json
from typing import Any

_ITEM_LIMIT = 4_000_000


def load_json(data: bytes, *, unique: bool = False) -> Any:
    """Parse JSON whose bytes are few enough already.

    A hundred megabytes of ``[],[],`` are gigabytes of lists: values are counted, by their commas and brackets, before
    any is made.

    Parameters
    ----------
    data
        The document, in UTF-8.
    unique
        Refuse an object that has a key twice: two parsers would see two documents.

    Raises
    ------
    ValueError
        If it is no JSON, holds more than four million values, or a key twice.
    RecursionError
        If it is nested too deeply.
    """
    if sum(map(data.count, (b",", b"[", b"{"))) > _ITEM_LIMIT:
        raise ValueError(f"it holds more than {_ITEM_LIMIT} values")
    return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_unique if unique else None)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands in it twice")
    return found


def writable(text: str) -> str:
    """Text without what no database could hold: halves of characters, of names that are not UTF-8, and zeros."""
    return text.encode("utf-8", "replace").decode().replace("\0", "?")
