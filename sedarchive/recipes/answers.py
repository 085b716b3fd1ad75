"""Answers of recipes: their parameters bound, their rows, and why there are none."""

import math
import re
from collections.abc import Mapping, Sequence

import duckdb

from sedarchive.errors import RecipeError
from sedarchive.recipes.header import Param, Recipe, Value, check_select, line_of
from sedarchive.result import Result
from sedarchive.words import did_you_mean, few_of


def check_columns(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> None:
    """Run a recipe with its defaults, and compare its columns with its header.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        A database with the tables, which may be empty.
    recipe : Recipe
        The recipe.

    Raises
    ------
    RecipeError
        If the statement fails, or its columns are not those of the header.
    """
    found = run_recipe(connection, recipe, {}).columns
    if tuple(found) != recipe.columns:
        line = line_of(recipe.sql, "columns")
        raise RecipeError(
            f"{recipe.name}.sql:{line}: the header says columns {', '.join(recipe.columns)}; "
            f"the statement gives {', '.join(found)}"
        )


def run_recipe(connection: duckdb.DuckDBPyConnection, recipe: Recipe, values: Mapping[str, str]) -> Result:
    """Rows of a recipe.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        The database. Parameters are set on a cursor of it and leave it untouched.
    recipe : Recipe
        The recipe.
    values : mapping
        Parameter to value, as text; it is read as a number where the parameter is one.

    Raises
    ------
    RecipeError
        If a parameter is unknown or its value not of its kind, or if the query fails.
    """
    known = {param.name: param for param in recipe.params}
    unknown = sorted(set(values) - set(known))
    if unknown:
        valid = ", ".join(known) or "none at all"
        named = ", ".join(name + did_you_mean(name, known) for name in unknown)
        raise RecipeError(f"recipe {recipe.name} has no parameter {named}; it has {valid}")
    usual = usual_values(connection, recipe, values)
    typed = {name: _typed(recipe.name, known[name], text) for name, text in usual.items()}
    return _run(connection, recipe.sql, recipe.name, typed)


def asked_window(connection: duckdb.DuckDBPyConnection, usual: int) -> int:
    """Size of window for who names none: the usual one, or else the smallest asked for, since only those have a null.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        The database.
    usual : int
        The default.
    """
    asked = "SELECT CAST(value AS BIGINT) FROM requests WHERE kind = 'window'"
    found = connection.execute(f"SELECT DISTINCT window_size FROM windows WHERE window_size IN ({asked})").fetchall()
    sizes = [size for (size,) in found]
    return usual if usual in sizes else min(sizes, default=usual)


def usual_values(connection: duckdb.DuckDBPyConnection, recipe: Recipe, values: Mapping[str, str]) -> Mapping[str, str]:
    """Values of parameters as given, and the window asked for where none is named and the default was not asked for."""
    default = next((param.default for param in recipe.params if param.name == "window_size"), None)
    if not isinstance(default, int) or "window_size" in values:
        return values
    size = asked_window(connection, default)
    return values if size == default else {**values, "window_size": str(size)}


def windows_without_null(
    connection: duckdb.DuckDBPyConnection, recipe: Recipe, values: Mapping[str, str]
) -> int | None:
    """Size of the windows that a recipe shows, if their null was not asked for; None if it was."""
    default = next((param.default for param in recipe.params if param.name == "window_size"), None)
    size = usual_values(connection, recipe, values).get("window_size", default)
    asked = {value for (value,) in connection.execute("SELECT value FROM requests WHERE kind = 'window'").fetchall()}
    known = size is not None and asked and str(size) in known_values(connection, "window_size")
    return int(str(size)) if known and str(size) not in asked else None


_KNOWN = {
    "run": "SELECT DISTINCT run FROM runs",
    "scope": "SELECT DISTINCT scope FROM windows",
    "window_size": "SELECT DISTINCT window_size FROM windows",
    "role": "SELECT DISTINCT role FROM matrix_stats WHERE role IS NOT NULL",
    "target": "SELECT DISTINCT name FROM metrics",
}
_SHOWN = 20
SHORTEST_DERIVED = 5
"""Updates of the shortest windows that ``compute`` derives for every run, asked or not."""
NO_TARGET = "no_target"
"""Status of a row of a recipe for whose run the metric asked for is not logged."""


def known_values(connection: duckdb.DuckDBPyConnection, param: str) -> list[str]:
    """Values of a parameter that name something in the tables: runs, scopes, window sizes, roles, metrics.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        The database.
    param : str
        One of run, scope, window_size, role and target, which mean the same in every recipe.
    """
    return [str(value) for (value,) in connection.execute(f"{_KNOWN[param]} ORDER BY 1").fetchall()]


def shortened(names: Sequence[str]) -> str:
    """Names for people, the first twenty at most."""
    return few_of(names, _SHOWN) or "none"


def absent_values(connection: duckdb.DuckDBPyConnection, recipe: Recipe, values: Mapping[str, str]) -> dict[str, str]:
    """Why a recipe may say nothing: for each parameter, set or not, that names what the tables lack, a sentence."""
    found = {}
    values = usual_values(connection, recipe, values)
    for param in recipe.params:
        value = _typed(recipe.name, param, values[param.name]) if param.name in values else param.default
        known = known_values(connection, param.name) if param.name in _KNOWN else []
        if param.name in _KNOWN and value is not None and str(value) not in known:
            near = did_you_mean(str(value), known)
            found[param.name] = f"{param.name} {value!r} is not in the database{near}; what it has: {shortened(known)}"
    return found | _empty_tables(connection, recipe)


_MADE_BY = {
    "matrix_spectra": "`sedarchive compute` without --no-spectra fills it",
    "matrix_stats": "`sedarchive compute` without --no-spectra fills it",
    "projections": "`sedarchive compute --projection 100` fills it",
    "windows": "`sedarchive compute` fills it",
}


def _empty_tables(connection: duckdb.DuckDBPyConnection, recipe: Recipe) -> dict[str, str]:
    """What fills the tables that a recipe reads and that hold no row."""
    words = set(re.findall(r"\w+", recipe.sql))
    words |= {"windows"} if any(param.name == "window_size" for param in recipe.params) else set()
    empty = [
        table
        for table in _MADE_BY
        if table in words and not connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchall()
    ]
    made_by = {**_MADE_BY, **_too_short_for_windows(connection)}
    return {f"table {table}": f"the table {table} is empty: {made_by[table]}" for table in empty}


def _too_short_for_windows(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Way out where runs were computed and all are too short for a window; nothing where computing helps."""
    ((longest,),) = connection.execute("SELECT max(n_checkpoints) FROM runs").fetchall()
    if longest is None or longest > SHORTEST_DERIVED:
        return {}
    held = f"a window of W updates needs W + 1 checkpoints, and no run has more than {longest}"
    shorter = f", or ask for shorter windows: `sedarchive compute --window {longest - 1}`" if longest > 2 else ""
    return {"windows": f"{held}; ingest more of them and compute again{shorter}"}


def has_usable_rows(result: Result) -> bool:
    """Whether a result has a row that says more than that the target is missing."""
    if "status" not in result.columns:
        return bool(result.rows)
    return any(status != NO_TARGET for status in result.column("status"))


def run_sql(connection: duckdb.DuckDBPyConnection, text: str) -> Result:
    """Rows of a user's own query: one SELECT.

    Raises
    ------
    RecipeError
        If it is anything else, or fails.
    """
    check_select(text, "query")
    return _run(connection, text, "query", {})


def _run(connection: duckdb.DuckDBPyConnection, sql: str, where: str, variables: Mapping[str, Value]) -> Result:
    try:
        with connection.cursor() as cursor:  # variables live and die with it
            for name, value in variables.items():
                cursor.execute(f'SET VARIABLE "{name}" = ?', [value])
            return Result.fetch(cursor.execute(sql))
    except duckdb.Error as error:
        raise RecipeError(f"{where}: {error}") from error


def _typed(recipe: str, param: Param, text: str) -> Value:
    if param.choices and text not in param.choices:
        raise RecipeError(f"recipe {recipe}: {param.name} is one of {', '.join(param.choices)}, not {text!r}")
    if param.kind == "text":
        return text
    try:
        value = int(text) if param.kind == "integer" else float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63:  # what a BIGINT holds
        return value
    wanted = "a whole number" if param.kind == "integer" else "a number"
    default = "" if param.default is None else f" (default {param.default})"
    raise RecipeError(f"recipe {recipe}: {param.name} is {wanted}{default}, not {text!r}")
