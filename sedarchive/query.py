"""Questions to the tables: recipes, files and SQL text."""

import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from sedarchive.errors import RecipeError, UnknownRecipeError
from sedarchive.freshness import stale_words
from sedarchive.recipes import (
    Param,
    Recipe,
    absent_values,
    find_recipes,
    known_values,
    read_recipe,
    recipe_files,
    run_recipe,
    run_sql,
    usual_values,
    windows_without_null,
)
from sedarchive.render import write_result
from sedarchive.result import Result
from sedarchive.tables import Database, write_parquet
from sedarchive.words import did_you_mean


def answer(database: Path, what: str, params: Mapping[str, str]) -> Result:
    """Rows of a recipe, of a ``.sql`` file (with or without a recipe's header), or of SQL text.

    Raises
    ------
    UnknownRecipeError
        If ``what`` is none of these; the message lists the recipes.
    RecipeError
        If a parameter or the SQL is wrong.
    DatabaseError
        If there is no database to read.
    """
    with Database.read(database) as tables:
        asked = _recipe_or_sql(what)
        if isinstance(asked, Recipe):
            return run_recipe(tables.connection, asked, params)
        if params and what.endswith(".sql"):
            raise RecipeError(f"{what} has no recipe header (`-- summary: ...`), so it takes no --param")
        if params:
            raise RecipeError("--param sets the parameters of recipes; write the values into the SQL text itself")
        return run_sql(tables.connection, asked)


def why_no_rows(database: Path, what: str, params: Mapping[str, str]) -> dict[str, str]:
    """Sentences on the parameters of a question, set or left at their defaults, that name what the tables lack."""
    asked = _recipe_or_sql(what)
    if not isinstance(asked, Recipe):
        return {}
    with Database.read(database) as tables:
        return absent_values(tables.connection, asked, params) | _left_out(tables, asked)


_INFERRED = re.compile(r"\b(phases|events|couplings|gap_flow|gap_maximality|alpha_feedback)\b")
"""What of the tables that recipes select from ``--no-inference`` leaves out."""


def _left_out(tables: Database, recipe: Recipe) -> dict[str, str]:
    """Why a recipe may say nothing: what it selects from was left out, or never asked for."""
    if "xu2026" in recipe.name and not tables.rows("SELECT preset FROM presets LIMIT 1").rows:
        return {"preset": "no preset was followed: `sedarchive compute --preset xu2026` makes these rows"}
    made = tables.rows("SELECT run FROM computations WHERE table_name = 'phases' LIMIT 1").rows
    if made or not _INFERRED.search(recipe.sql):
        return {}
    return {"inference": "nothing was inferred from the windows: `sedarchive compute` without --no-inference does it"}


def hints(database: Path, archive: Path, what: str, params: Mapping[str, str]) -> list[str]:
    """Sentences on what an answer rests on: another window than the default, tables that are behind the archive."""
    asked = _recipe_or_sql(what)
    found = stale_words(archive, database)
    if isinstance(asked, Recipe):
        with Database.read(database) as tables:
            window = usual_values(tables.connection, asked, params).get("window_size")
            default = next((str(param.default) for param in asked.params if param.name == "window_size"), "")
            derived = default in known_values(tables.connection, "window_size")
            bare = windows_without_null(tables.connection, asked, params)
        if bare is not None:
            samples = f"`sedarchive compute --window {bare}` samples it"
            found.append(f"no null was asked for windows of {bare}, so it is NULL: {samples}")
        if window is not None and "window_size" not in params:
            found.append(f"window_size {window}, the smallest asked for: {_why_not(default, derived)}")
    return found


def _why_not(default: str, derived: bool) -> str:
    """Why windows of the default size are not shown, and what shows them."""
    if not derived:
        return f"there are no windows of the default, {default}, which need {int(default) + 1} checkpoints"
    return (
        f"of the default no null was asked for; `sedarchive compute --window {default}` samples it, and "
        f"-p window_size={default} shows the windows as they are"
    )


def _recipe_or_sql(what: str) -> Recipe | str:
    recipes = recipe_files()
    if what in recipes:
        return read_recipe(recipes[what])
    if what.endswith(".sql"):
        text = _read_text(Path(what))
        return read_recipe(Path(what)) if text.lstrip().startswith("-- summary:") else text
    if " " not in what.strip():
        raise UnknownRecipeError(f"{_no_recipe(what, recipes)}; SQL goes in quotes")
    return what


def _no_recipe(name: str, recipes: Collection[str]) -> str:
    near = did_you_mean(name, recipes)
    return f"there is no recipe {name!r}{near}; the recipes are {', '.join(sorted(recipes))}"


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnknownRecipeError(f"{path}: the query cannot be read ({error.strerror}); check the path") from error
    except UnicodeDecodeError as error:
        raise UnknownRecipeError(f"{path}: the query is not text in UTF-8; save it as such") from error


FORMATS = {
    "table": (".txt",),
    "csv": (".csv",),
    "json": (".json",),
    "jsonl": (".jsonl", ".ndjson"),
    "markdown": (".md", ".markdown"),
    "parquet": (".parquet",),
}
"""Formats of an answer, and the suffixes of files that mean them."""


def choose_format(asked: str | None, output: Path | None) -> str:
    """Format of an answer: the one asked for, or the one that the file's suffix means.

    Raises
    ------
    RecipeError
        If there is no such format, the suffix means none or another one, or Parquet is asked for without a file.
    """
    if asked is not None and asked not in FORMATS:
        raise RecipeError(f"there is no format {asked!r}; use one of {', '.join(FORMATS)}")
    if output is None:
        if asked == "parquet":
            raise RecipeError("parquet needs a file: add --output FILE.parquet")
        return asked or "table"
    meant = next((format for format, suffixes in FORMATS.items() if output.suffix.lower() in suffixes), None)
    if asked is None and meant is None:
        known = ", ".join(suffix for suffixes in FORMATS.values() for suffix in suffixes)
        raise RecipeError(f"{output}: no format has the suffix {output.suffix!r}; use one of {known}, or add --format")
    if asked is not None and meant is not None and asked != meant:
        raise RecipeError(f"{output}: the suffix means {meant}, but {asked} is asked for; change one of the two")
    return asked or str(meant)


def write_answer(result: Result, format: str | None, output: Path | None) -> None:
    """Write rows to a file or to stdout, in the format asked for or in that of the file's suffix.

    Raises
    ------
    RecipeError
        As :func:`choose_format`.
    """
    format = choose_format(format, output)
    if output is None:
        write_result(result, format, sys.stdout)  # type: ignore[arg-type]  # checked there
    elif format == "parquet":
        write_parquet(result, output)
    else:
        with output.open("w", newline="", encoding="utf-8") as stream:
            write_result(result, format, stream)  # type: ignore[arg-type]


def recipe_list() -> Result:
    """Name, summary and parameters of every recipe."""
    rows: list[tuple[Any, ...]] = [
        (recipe.name, recipe.summary, ", ".join(_param_text(param) for param in recipe.params))
        for _, recipe in sorted(find_recipes().items())
    ]
    return Result(["recipe", "summary", "params"], ["VARCHAR"] * 3, rows)


def _param_text(param: Param) -> str:
    return param.name if param.default is None else f"{param.name}={param.default}"


def recipe_details(name: str) -> dict[str, Any]:
    """One recipe whole: header and SQL.

    Raises
    ------
    UnknownRecipeError
        If there is none of that name.
    """
    recipes = recipe_files()
    if name not in recipes:
        raise UnknownRecipeError(_no_recipe(name, recipes))
    recipe = read_recipe(recipes[name])
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "params": [{"name": p.name, "type": p.kind, "default": p.default, "meaning": p.meaning} for p in recipe.params],
        "columns": list(recipe.columns),
        "source": recipe.source,
        "note": recipe.note,
        "text": recipe.sql,
    }
