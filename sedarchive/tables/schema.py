"""The tables' definition: SQL files beside this module, each column with a comment that ends in its unit."""

from importlib.resources import files

SCHEMA_VERSION = 5
"""Raised whenever a table or column changes; a database of another version is rebuilt, not migrated."""

_THEMES = ("runs", "windows", "spectra", "aspects", "lifecycle", "trends", "inference")


def schema_sql() -> str:
    """Statements that create all tables, views and comments in an empty database."""
    folder = files("sedarchive.tables") / "schema"
    return "\n".join((folder / f"{theme}.sql").read_text(encoding="utf-8") for theme in _THEMES)
