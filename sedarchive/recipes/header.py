"""Recipes: one SELECT in a plain ``.sql`` file each, with a header that says what it answers.

::

    -- summary: One sentence.
    -- param window_size = 10: updates per window
    -- param stamp = 'end' | 'centre': a choice, the default first
    -- param run: no default: not set means all
    -- param max_lag integer: no default either, but a whole number; ``number`` takes any
    -- columns: run, step, edge_ratio
    -- source: paper and section
    -- note: anything to know; a line that starts with `--` and
    --   two blanks or more goes on with the line above
    SELECT ... WHERE window_size = coalesce(getvariable('window_size'), 10)

DuckDB's own shell runs such a file as it stands, and takes parameters by
``SET VARIABLE``, as :func:`sedarchive.recipes.run_recipe` does.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import duckdb

from sedarchive.errors import RecipeError

Value = int | float | str

_FIELD = re.compile(r"-- ?(\w+)(?: +([^:]+?))?: *(.*)")
_PARAM = re.compile(r"(\w+)(?: *= *(?P<default>.+)| +(?P<kind>integer|number))?")
_LITERAL = r"'(?:[^']|'')*'|[-+]?[0-9][0-9.eE+-]*"
_TOKEN = re.compile(  # comments and texts are matched so that what stands inside them is passed over
    rf"""--[^\n]* | /\*.*?\*/
    | (?:coalesce\s*\(\s*)? getvariable\s*\(\s*'(?P<name>[^']*)'\s*\) (?:\s*,\s*(?P<default>{_LITERAL})\s*\))?
    | '(?:[^']|'')*' | "(?:[^"]|"")*" """,
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True)
class Param:
    """A parameter of a recipe."""

    name: str
    default: Value | None
    """None: not set, which the recipe's text gives a meaning."""
    meaning: str
    choices: tuple[str, ...] = ()
    """The values allowed, the default first; empty if any will do."""
    kind: str = "text"
    """``text``, ``integer`` or ``number``: that of the default where there is one."""


@dataclass(frozen=True)
class Recipe:
    """A recipe as its file gives it."""

    name: str
    summary: str
    params: tuple[Param, ...]
    columns: tuple[str, ...]
    source: str
    note: str
    sql: str
    """The whole file, header included."""


@dataclass(frozen=True)
class _Field:
    line: int
    key: str
    argument: str
    text: str


def find_recipes() -> dict[str, Recipe]:
    """All recipes that come with the package, by name.

    Raises
    ------
    RecipeError
        If one is malformed, or the installation has none.
    """
    return {name: read_recipe(path) for name, path in recipe_files().items()}


def recipe_files() -> dict[str, Path]:
    """Files of the recipes that come with the package, by name: to read one of them, not all.

    They are in the package once it is installed, and beside it in a checkout.

    Raises
    ------
    RecipeError
        If the installation has none.
    """
    package = Path(__file__).parents[1]
    folder = next((place for place in (package / "queries", package.parent / "queries") if place.is_dir()), None)
    if folder is None:
        raise RecipeError(f"no recipes beside {package}: the installation is incomplete; install sedarchive again")
    return {path.stem: path for path in sorted(folder.glob("*.sql"))}


def read_recipe(path: Path) -> Recipe:
    """Read a file with a recipe's header.

    Raises
    ------
    RecipeError
        If the file cannot be read or is malformed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from error
    return parse_recipe(path.stem, text)


def parse_recipe(name: str, text: str) -> Recipe:
    """Read a recipe and check all that needs no database.

    Parameters
    ----------
    name : str
        Name of the recipe; messages call its file ``<name>.sql``.
    text : str
        Contents of the file.

    Raises
    ------
    RecipeError
        With file and line, if the header lacks summary or columns or holds anything unknown, if a declared parameter
        is not used (or the reverse) or has another default in the statement, or if there is not exactly one SELECT.
    """
    fields = _fields(name, text)
    params = tuple(_param(name, field) for field in fields if field.key == "param")
    _check_unique(name, params)
    columns = tuple(column.strip() for column in _only(name, fields, "columns").split(","))
    notes = " ".join(field.text for field in fields if field.key == "note")
    source = " ".join(field.text for field in fields if field.key == "source")
    recipe = Recipe(name, _only(name, fields, "summary"), params, columns, source, notes, text)
    _check_uses(recipe)
    check_select(text, f"{name}.sql")
    return recipe


def check_select(text: str, where: str) -> None:
    """Refuse all but exactly one SELECT (WITH ... SELECT, FROM, VALUES and DESCRIBE are).

    Raises
    ------
    RecipeError
        Naming ``where``, and what was found instead.
    """
    try:
        kinds = [statement.type for statement in duckdb.extract_statements(text)]
    except duckdb.Error as error:
        raise RecipeError(f"{where}: {error}") from error
    if kinds != [duckdb.StatementType.SELECT]:
        found = ", ".join(kind.name for kind in kinds) or "none"
        raise RecipeError(f"{where}: exactly one SELECT statement is needed, found {found}")


def _fields(name: str, text: str) -> list[_Field]:
    fields: list[_Field] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("--"):
            break
        match = _FIELD.fullmatch(line.rstrip())
        if fields and (line.startswith("--  ") or not line.strip("- ")):
            last = fields.pop()
            fields.append(_Field(last.line, last.key, last.argument, f"{last.text} {line.strip('- ')}".strip()))
        elif match is None or match[1] not in ("summary", "param", "columns", "source", "note"):
            raise RecipeError(
                f"{name}.sql:{number}: a header line is `-- FIELD: text` with FIELD one of "
                f"summary, param NAME, columns, source, note; found {line!r}"
            )
        else:
            fields.append(_Field(number, match[1], match[2] or "", match[3]))
    return fields


def _only(name: str, fields: list[_Field], key: str) -> str:
    texts = [field.text for field in fields if field.key == key]
    if len(texts) != 1 or not texts[0]:
        raise RecipeError(f"{name}.sql:1: the header needs one line `-- {key}: ...`, found {len(texts)}")
    return texts[0]


def _param(name: str, field: _Field) -> Param:
    match = _PARAM.fullmatch(field.argument)
    if match is None or not field.text:
        raise RecipeError(
            f"{name}.sql:{field.line}: a parameter is declared as `-- param NAME = DEFAULT: meaning`, and without a "
            "default as `-- param NAME: meaning` or `-- param NAME integer: meaning` (or number)"
        )
    if match["default"] is None:
        return Param(match[1], None, field.text, kind=match["kind"] or "text")
    literals = [literal.strip() for literal in match["default"].split("|")]
    if not all(re.fullmatch(_LITERAL, literal) for literal in literals):
        raise RecipeError(
            f"{name}.sql:{field.line}: the default of {match[1]} must be a number or a 'text' "
            f"(choices are separated by |), found {match['default']}"
        )
    defaults = [_value(literal) for literal in literals]
    choices = tuple(str(value) for value in defaults) if defaults[1:] else ()
    return Param(match[1], defaults[0], field.text, choices, _KINDS[type(defaults[0])])


def _check_unique(name: str, params: tuple[Param, ...]) -> None:
    names = [param.name for param in params]
    doubled = sorted({each for each in names if names.count(each) > 1})
    if doubled:
        raise RecipeError(f"{name}.sql:1: parameter {', '.join(doubled)} is declared more than once")


def _check_uses(recipe: Recipe) -> None:
    declared = {param.name: param for param in recipe.params}
    used = set()
    for match in _TOKEN.finditer(recipe.sql):
        if match["name"] is None:
            continue
        used.add(match["name"])
        line = recipe.sql.count("\n", 0, match.start()) + 1
        param = declared.get(match["name"])
        if param is None:
            raise RecipeError(
                f"{recipe.name}.sql:{line}: {match['name']} is used but not declared; "
                f"add `-- param {match['name']} = DEFAULT: meaning` to the header"
            )
        default = None if match["default"] is None else _value(match["default"])
        if default != param.default:
            raise RecipeError(
                f"{recipe.name}.sql:{line}: {param.name} has default {default!r} here, {param.default!r} in the header"
            )
    unused = [name for name in declared if name not in used]
    if unused:
        line = line_of(recipe.sql, "param", unused[0])
        raise RecipeError(f"{recipe.name}.sql:{line}: {', '.join(unused)} is declared but not used")


def line_of(text: str, key: str, argument: str = "") -> int:
    """Line of a header's field; 1 where it is not found."""
    start = re.compile(rf"-- ?{key} *{argument}\b")
    return next((number for number, line in enumerate(text.splitlines(), start=1) if start.match(line)), 1)


def _value(literal: str) -> Value:
    if literal.startswith("'"):
        return literal[1:-1].replace("''", "'")
    return float(literal) if any(sign in literal for sign in ".eE") else int(literal)


_KINDS: dict[type, str] = {str: "text", int: "integer", float: "number"}
