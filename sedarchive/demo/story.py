"""What the demonstration found, in words and numbers that all come from the tables."""

from typing import Any

from sedarchive.result import Result
from sedarchive.tables import Database

MEMORISED, GROKKED = 0.99, 0.98
WINDOW_SIZE = 10

_FOUND = """
WITH accuracy AS (
    SELECT run,
           min(step) FILTER (WHERE name = 'train_acc' AND value >= {memorised}) AS memorised_at,
           min(step) FILTER (WHERE name = 'val_acc' AND value >= {grokked}) AS grokked_at,
           max_by(value, step) FILTER (WHERE name = 'val_acc') AS last_val_acc
    FROM metrics GROUP BY run),
edges AS (
    SELECT run, count(edge_ratio_p) AS n_windows, max(edge_ratio) AS largest_edge_ratio,
           max_by(step, edge_ratio) AS at_step,
           count(*) FILTER (WHERE edge_ratio_p < 0.05) AS windows_above_null
    FROM windows WHERE scope = 'all' AND window_size = {window_size} GROUP BY run),
ranks AS (
    SELECT run, avg(stable_rank) FILTER (WHERE step = first_step) AS stable_rank_first,
           avg(stable_rank) FILTER (WHERE step = last_step) AS stable_rank_last
    FROM (SELECT *, min(step) OVER (PARTITION BY run) AS first_step, max(step) OVER (PARTITION BY run) AS last_step
          FROM matrix_stats WHERE layer IS NOT NULL)
    GROUP BY run)
SELECT run, weight_decay, memorised_at, grokked_at, last_val_acc, largest_edge_ratio, at_step,
       windows_above_null, n_windows, stable_rank_first, stable_rank_last
FROM runs LEFT JOIN accuracy USING (run) LEFT JOIN edges USING (run) LEFT JOIN ranks USING (run)
ORDER BY run DESC
"""


def found(database: Database) -> Result:
    """One row a run: when it memorised, when it grokked, its edge, its ranks."""
    sql = _FOUND.format(memorised=MEMORISED, grokked=GROKKED, window_size=WINDOW_SIZE)
    return database.rows(sql)


_NAMES = {
    "weight_decay": "weight decay",
    "memorised_at": f"training accuracy {MEMORISED} from step",
    "grokked_at": f"validation accuracy {GROKKED} from step",
    "last_val_acc": "validation accuracy at the end",
    "largest_edge_ratio": f"largest edge ratio (windows of {WINDOW_SIZE})",
    "at_step": "  at step",
    "windows_above_null": "windows above the 95 % bound of their null",
    "n_windows": "  of",
    "stable_rank_first": "mean stable rank at the start",
    "stable_rank_last": "mean stable rank at the end",
}


def short_table(rows: Result) -> Result:
    """Turn the rows around: a line each quantity, a column each run."""
    runs = [str(name) for name in rows.column("run")]
    lines = [(text, *map(_number, rows.column(name))) for name, text in _NAMES.items()]
    return Result(["quantity", *runs], ["VARCHAR"] + ["DOUBLE"] * len(runs), lines)


def sentences(rows: Result) -> list[str]:
    """One sentence a run on what its row says."""
    return [_sentence(row) for row in rows.dicts()]


def _sentence(row: dict[str, Any]) -> str:
    parts = [f"{row['run']} (weight decay {_number(row['weight_decay'])})"]
    parts.append(
        f"reached training accuracy {MEMORISED} at step {row['memorised_at']}"
        if row["memorised_at"] is not None
        else f"never reached training accuracy {MEMORISED}"
    )
    parts.append(
        f"and grokked (validation accuracy {GROKKED}) at step {row['grokked_at']}"
        if row["grokked_at"] is not None
        else f"and did not grok (validation accuracy {_number(row['last_val_acc'])} at the end)"
    )
    edge = (
        f"its largest edge ratio, {_number(row['largest_edge_ratio'])}, stands at step {row['at_step']}, and "
        f"{row['windows_above_null']} of {row['n_windows']} overlapping windows stand above the 95 % bound "
        "of their null"
        if row["largest_edge_ratio"] is not None
        else "it has no window of that size"
    )
    return f"{' '.join(parts)}; {edge}."


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
