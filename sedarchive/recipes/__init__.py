"""Recipes: one SELECT in a plain ``.sql`` file each. ``header`` reads the files, ``answers`` asks them."""

from sedarchive.recipes.answers import (
    absent_values,
    asked_window,
    check_columns,
    has_usable_rows,
    known_values,
    run_recipe,
    run_sql,
    shortened,
    usual_values,
    windows_without_null,
)
from sedarchive.recipes.header import Param, Recipe, check_select, find_recipes, parse_recipe, read_recipe, recipe_files

__all__ = [
    "Param",
    "Recipe",
    "absent_values",
    "asked_window",
    "check_columns",
    "check_select",
    "find_recipes",
    "has_usable_rows",
    "known_values",
    "parse_recipe",
    "read_recipe",
    "recipe_files",
    "run_recipe",
    "run_sql",
    "shortened",
    "usual_values",
    "windows_without_null",
]
