"""What the tables, their columns and the recipes mean, for people and as JSON."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

from sedarchive.errors import NothingMatchedError
from sedarchive.recipes import Param, Recipe, read_recipe, recipe_files
from sedarchive.result import Result
from sedarchive.tables import Database
from sedarchive.tables.entries import Entry, entry_of, read_entries
from sedarchive.words import did_you_mean

WIDTH = 80
_LABELS = tuple(one.name for one in fields(Entry))


@dataclass(frozen=True)
class Explanation:
    """What a name means."""

    content: Any
    """For JSON: a list with an object for each column, or an object for a recipe."""
    text: str
    """For people, wrapped."""


@dataclass(frozen=True)
class _Column:
    table: str
    column: str
    type: str
    comment: str
    """Meaning, and the unit in brackets at its end."""
    entry: Entry

    @property
    def name(self) -> str:
        return f"{self.table}.{self.column}"

    @property
    def content(self) -> dict[str, Any]:
        meaning, unit = _parted(self.comment)
        named = {"table": self.table, "column": self.column, "type": self.type, "comment": self.comment}
        return {**named, "meaning": meaning, "unit": unit, **asdict(self.entry)}


@dataclass(frozen=True)
class _Dictionary:
    tables: Mapping[str, str]
    """Table or view -> what it holds, in the order of their definition."""
    columns: tuple[_Column, ...]


def table_list() -> Result:
    """Tables and views, in the order of their definition, with what they hold."""
    rows: list[tuple[Any, ...]] = [
        (table, meaning.partition(";")[0]) for table, meaning in _dictionary().tables.items()
    ]
    return Result(["table", "meaning"], ["VARCHAR"] * 2, rows)


def explain(name: str, width: int = WIDTH) -> Explanation:
    """Meaning of a table's columns, of a column (``edge_ratio``, ``windows.edge_ratio``), or of a recipe.

    A table goes before a column or recipe of its name, and a column before a recipe. Lines are at most ``width``
    characters long, if no word is.

    Raises
    ------
    NothingMatchedError
        If nothing has that name.
    """
    columns, tables, recipes = _dictionary().columns, _dictionary().tables, recipe_files()
    if chosen := [column for column in columns if column.table == name]:
        found = _of_table(f"{name}: {tables[name]}", chosen, width)
    elif chosen := [column for column in columns if name in (column.column, column.name)]:
        found = Explanation([column.content for column in chosen], _columns_text(chosen, width))
    elif name in recipes:
        return _of_recipe(read_recipe(recipes[name]), width)
    else:
        names = [part for column in columns for part in (column.table, column.column, column.name)]
        raise NothingMatchedError(_unknown(name, [*names, *recipes], tables))
    also = f"\n\nA recipe has this name too: `sedarchive recipes {name}`" if name in recipes else ""
    return Explanation(found.content, found.text + also)


@lru_cache
def _dictionary() -> _Dictionary:
    entries = read_entries()
    with Database.in_memory() as database:
        described, tables = database.describe().dicts(), dict(database.rows(_TABLES).rows)
    columns = [_Column(**row, entry=entry_of(entries, row["table"], row["column"])) for row in described]
    return _Dictionary(tables, tuple(columns))


def _of_table(title: str, columns: Sequence[_Column], width: int) -> Explanation:
    types = max(len(column.type) for column in columns)
    rows = [(f"{column.column:{_longest(columns)}}  {column.type:{types}}", column.comment) for column in columns]
    more = f"`sedarchive explain {columns[0].table}.COLUMN` gives the formula, source, null and pitfalls of one"
    text = "\n".join([*_wrapped(title, width), *_listed(rows, width), "", *_wrapped(more, width)])
    return Explanation([column.content for column in columns], text)


def _longest(columns: Iterable[_Column]) -> int:
    return max(len(column.column) for column in columns)


def _columns_text(columns: Sequence[_Column], width: int) -> str:
    """Columns one after the other; those of several tables that mean the same stand together."""
    alike: dict[str, list[_Column]] = {}
    for column in columns:
        alike.setdefault(repr((column.type, column.comment, column.entry)), []).append(column)
    return "\n\n".join(_same_text(same, width) for same in alike.values())


def _same_text(columns: Sequence[_Column], width: int) -> str:
    first = columns[0]
    meaning, unit = _parted(first.comment)
    facts = [("type", first.type), ("unit", unit), ("meaning", meaning)]
    facts += [(label, getattr(first.entry, label)) for label in _LABELS if label != "values"]
    lines = _wrapped(", ".join(column.name for column in columns), width) + _listed([f for f in facts if f[1]], width)
    if first.entry.values:
        lines += ["  values", *_listed(first.entry.values.items(), width, indent=4)]
    return "\n".join(lines)


def _of_recipe(recipe: Recipe, width: int) -> Explanation:
    content = asdict(recipe)
    del content["sql"]
    facts = [("summary", recipe.summary), ("columns", ", ".join(recipe.columns)), ("source", recipe.source)]
    facts += [("note", recipe.note)] if recipe.note else []
    lines = [f"recipe {recipe.name}", *_listed(facts, width)]
    if recipe.params:
        lines += ["  params", *_listed(map(_param_row, recipe.params), width, indent=4)]
    return Explanation(content, "\n".join([*lines, "", f"`sedarchive query {recipe.name}` runs it"]))


def _param_row(param: Param) -> tuple[str, str]:
    label = param.name if param.default is None else f"{param.name} = {param.default}"
    return label, f"{param.meaning} ({' | '.join(param.choices)})" if param.choices else param.meaning


def _parted(comment: str) -> tuple[str, str]:
    """Meaning and unit of a comment."""
    meaning, _, unit = comment.removesuffix("]").rpartition(" [")
    return meaning, unit


def _listed(rows: Iterable[tuple[str, str]], width: int, indent: int = 2) -> list[str]:
    """Lines of labels and texts, the texts in one column."""
    rows = list(rows)
    label_width = max(len(label) for label, _ in rows)
    lines: list[str] = []
    for label, text in rows:
        head, hang = " " * indent + f"{label:{label_width}}  ", " " * (indent + label_width + 2)
        lines += _wrapped(text, width, head, hang)
    return lines


def _wrapped(text: str, width: int, head: str = "", hang: str = "") -> list[str]:
    return textwrap.wrap(
        text,
        max(width, len(hang) + 20),
        initial_indent=head,
        subsequent_indent=hang,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _unknown(name: str, names: Iterable[str], tables: Iterable[str]) -> str:
    way_out = did_you_mean(name, names) or f"; the tables are {', '.join(tables)}"
    return f"no table, column or recipe is named {name!r}{way_out}"


_TABLES = """
SELECT name AS "table", meaning
FROM (
    SELECT table_oid AS place, table_name AS name, comment AS meaning
    FROM duckdb_tables() WHERE NOT internal
    UNION ALL
    SELECT view_oid, view_name, comment
    FROM duckdb_views() WHERE NOT internal)
ORDER BY place
"""
