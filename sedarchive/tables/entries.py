"""What there is to know of a column beyond its comment, from the TOML files in the folder ``entries`` beside this.

::

    [windows.edge_ratio]                  table and column; `shared` stands for every table
    formula = "..."
    source = "..."                        paper and definition, or whose idea it is
    null = "..."                          what pure noise gives, and which column holds it
    pitfalls = "..."
    authors = "..."                       what the authors of the source do, if that differs
    [windows.edge_ratio.values]           of a column of names: each name's meaning
    ok = "..."

    [matrix_stats.alpha_ols_status]
    same_as = "matrix_stats.alpha_status"
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

SHARED = "shared"
"""Stands for every table: the columns that say whose a row is."""


@dataclass(frozen=True)
class Entry:
    """What there is to know of a column; empty where there is nothing to say."""

    formula: str = ""
    source: str = ""
    null: str = ""
    """What pure noise gives, and which column holds it."""
    pitfalls: str = ""
    authors: str = ""
    """What the authors of the source do, if that differs."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Of a column of names: name -> meaning."""


Entries = Mapping[str, Mapping[str, Entry]]
"""Table -> column -> entry."""


def read_entries() -> Entries:
    """Entries of all files; that of a column wins over a shared one (see :func:`entry_of`)."""
    tables: dict[str, dict[str, Any]] = {}
    for path in (files("sedarchive.tables") / "entries").iterdir():
        if path.name.endswith(".toml"):
            for table, columns in tomllib.loads(path.read_text(encoding="utf-8")).items():
                tables.setdefault(table, {}).update(columns)
    return {
        table: {column: _entry(tables, fields) for column, fields in columns.items()}
        for table, columns in tables.items()
    }


def entry_of(entries: Entries, table: str, column: str) -> Entry:
    """Entry of a column, the shared one of its name, or an empty one."""
    return entries.get(table, {}).get(column) or entries[SHARED].get(column) or Entry()


def _entry(tables: Mapping[str, Mapping[str, Any]], fields: Mapping[str, Any]) -> Entry:
    if "same_as" in fields:
        table, _, column = fields["same_as"].partition(".")
        fields = tables[table][column]
    texts = {name: " ".join(text.split()) for name, text in fields.items() if name != "values"}
    return Entry(**texts, values=fields.get("values", {}))
