"""Rows, as the mathematics gives them one by one, as the columns of a table."""

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def columns_of(rows: Sequence[Row], names: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Rows as columns; what a row lacks is None.

    Parameters
    ----------
    rows
        Column to value, for each row; without any there are no columns.
    names
        Of the columns; None for all that some row has, in the order of their first place.
    """
    if names is None:
        names = list(dict.fromkeys(name for row in rows for name in row))
    return {name: [row.get(name) for row in rows] for name in names} if rows else {}
