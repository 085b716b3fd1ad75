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
``SET VARIABLE``, as :func:`run_recipe` does.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from sedarchive.errors import RecipeError
from sedarchive.result import Result
from sedarchive.words import did_you_mean, few_of

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

    They are in the package once it is installed, and beside it in a checkout.

    Raises
    ------
    RecipeError
        If one is malformed, or the installation has none.
    """
    package = Path(__file__).parent
    folder = next((place for place in (package / "queries", package.parent / "queries") if place.is_dir()), None)
    if folder is None:
        raise RecipeError(f"no recipes beside {package}: the installation is incomplete; install sedarchive again")
    return {path.stem: read_recipe(path) for path in sorted(folder.glob("*.sql"))}


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
        line = _line_of(recipe.sql, "columns")
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
    typed = {name: _typed(recipe.name, known[name], text) for name, text in values.items()}
    return _run(connection, recipe.sql, recipe.name, typed)


_KNOWN = {
    "run": "SELECT DISTINCT run FROM runs",
    "scope": "SELECT DISTINCT scope FROM windows",
    "window_size": "SELECT DISTINCT window_size FROM windows",
    "role": "SELECT DISTINCT role FROM matrix_stats WHERE role IS NOT NULL",
    "target": "SELECT DISTINCT name FROM metrics",
}
_SHOWN = 20
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
    for param in recipe.params:
        value = _typed(recipe.name, param, values[param.name]) if param.name in values else param.default
        known = known_values(connection, param.name) if param.name in _KNOWN else []
        if param.name in _KNOWN and value is not None and str(value) not in known:
            near = did_you_mean(str(value), known)
            found[param.name] = f"{param.name} {value!r} is not in the database{near}; what it has: {shortened(known)}"
    return found


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
        line = _line_of(recipe.sql, "param", unused[0])
        raise RecipeError(f"{recipe.name}.sql:{line}: {', '.join(unused)} is declared but not used")


def _line_of(text: str, key: str, argument: str = "") -> int:
    start = re.compile(rf"-- ?{key} *{argument}\b")
    return next((number for number, line in enumerate(text.splitlines(), start=1) if start.match(line)), 1)


def _value(literal: str) -> Value:
    if literal.startswith("'"):
        return literal[1:-1].replace("''", "'")
    return float(literal) if any(sign in literal for sign in ".eE") else int(literal)


_KINDS: dict[type, str] = {str: "text", int: "integer", float: "number"}


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
