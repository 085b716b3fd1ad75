"""Questions to the tables: recipes, files, SQL text, and what the columns mean."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sedarchive.errors import NothingMatchedError, RecipeError, UnknownRecipeError
from sedarchive.recipes import find_recipes, read_recipe, run_recipe, run_sql
from sedarchive.render import write_result
from sedarchive.result import Result
from sedarchive.tables import Database, write_parquet


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
        recipes = find_recipes()
        if what in recipes:
            return run_recipe(tables.connection, recipes[what], params)
        if what.endswith(".sql"):
            return _run_file(tables, Path(what), params)
        if " " not in what.strip():
            raise UnknownRecipeError(
                f"there is no recipe {what!r}; the recipes are {', '.join(sorted(recipes))}; SQL goes in quotes"
            )
        if params:
            raise RecipeError("--param sets the parameters of recipes; write the values into the SQL text itself")
        return run_sql(tables.connection, what)


def _run_file(tables: Database, path: Path, params: Mapping[str, str]) -> Result:
    text = _read_text(path)
    if text.lstrip().startswith("-- summary:"):
        return run_recipe(tables.connection, read_recipe(path), params)
    if params:
        raise RecipeError(f"{path} has no recipe header (`-- summary: ...`), so it takes no --param")
    return run_sql(tables.connection, text)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnknownRecipeError(f"{path}: cannot be read as a query ({error})") from error


def write_answer(result: Result, format: str, output: Path | None) -> None:
    """Write rows to a file or to stdout.

    Raises
    ------
    RecipeError
        If the format is unknown, or Parquet is asked for without a file.
    """
    if format == "parquet":
        if output is None:
            raise RecipeError("parquet needs a file: add --output FILE.parquet")
        write_parquet(result, output)
    elif output is None:
        write_result(result, format, sys.stdout)  # type: ignore[arg-type]  # checked there
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


def _param_text(param: Any) -> str:
    return param.name if param.default is None else f"{param.name}={param.default}"


def recipe_details(name: str) -> dict[str, Any]:
    """One recipe whole: header and SQL.

    Raises
    ------
    UnknownRecipeError
        If there is none of that name.
    """
    recipes = find_recipes()
    if name not in recipes:
        raise UnknownRecipeError(f"there is no recipe {name!r}; the recipes are {', '.join(sorted(recipes))}")
    recipe = recipes[name]
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "params": [{"name": p.name, "default": p.default, "meaning": p.meaning} for p in recipe.params],
        "columns": list(recipe.columns),
        "source": recipe.source,
        "note": recipe.note,
        "text": recipe.sql,
    }


def explain(name: str) -> Result:
    """Meaning and unit of a table's columns, or of a column in every table that has it.

    Raises
    ------
    NothingMatchedError
        If nothing has that name.
    """
    with Database.in_memory() as tables:
        dictionary = tables.describe()
    rows = [row for row in dictionary.rows if name in (row[0], row[1])]
    if not rows:
        tables_known = ", ".join(dict.fromkeys(dictionary.column("table")))
        raise NothingMatchedError(f"no table or column is named {name!r}; the tables are {tables_known}")
    return Result(dictionary.columns, dictionary.types, rows)
