"""Small GPTs of four depths, and what the lifecycle of their spectra says beside the claims of the paper.

Run: ``python tests/bench/depth_ladder.py``. The paper is "The Spectral Lifecycle of Transformer Training" (arXiv
2604.22778), whose models have 8 to 36 layers of width 512 or more. Here the width is 64 and the text that of the
standard library's own sources, so that a claim that does not hold says where it ends, not that it is wrong. Histories
stay in the folder for the next time.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from measure import Settings, settings
from small_gpt import SmallGPT, standard_library, train

from sedarchive.compute.options import ComputeOptions
from sedarchive.compute.refresh import compute
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.recipes import find_recipes, run_recipe
from sedarchive.tables import Database

DEPTHS, QUICK_DEPTHS = (2, 4, 6, 8), (2, 4)
SEEDS, QUICK_SEEDS = (0, 1, 2), (0,)
STEPS, QUICK_STEPS = 800, 100
LR, WARMUP = 3e-4, 100
"""So slow that compression takes some 20 checkpoints; at 3e-3 after 20 steps it is over before the second."""
EVERY = SmallGPT.checkpoint_every
_LOSSES = """
    SELECT run, min_by(value, step), max_by(value, step) FROM metrics WHERE name = 'val_loss' GROUP BY run ORDER BY run
"""
_TURNS = """
    SELECT
        run,
        min(first_last),
        max_by(first_last, step),
        (SELECT max(compression_null) FROM layer_waves AS w WHERE w.run = g.run AND scope = 'trunk')
            * (SELECT avg(stable_rank) FROM matrix_stats AS s WHERE s.run = g.run AND step = 0 AND layer IS NOT NULL),
        (SELECT any_value(estimate) FROM fits AS f
            WHERE f.run = g.run AND scope = 'trunk' AND parameter = 'reversal_stable_rank')
    FROM depth_gradients AS g
    WHERE scope = 'trunk' AND metric = 'stable_rank'
    GROUP BY run
    ORDER BY run
"""
Row = dict[str, Any]
Ask = Callable[..., list[Row]]


def runs_of(given: Settings) -> dict[str, SmallGPT]:
    """What is trained, by the name of its run."""
    depths, seeds = (QUICK_DEPTHS, QUICK_SEEDS) if given.quick else (DEPTHS, SEEDS)
    steps = QUICK_STEPS if given.quick else STEPS
    return {
        f"d{depth}-s{seed}": SmallGPT(depth, steps, lr=LR, warmup=WARMUP, seed=seed)
        for depth in depths
        for seed in seeds
    }


def trained(given: Settings) -> Path:
    """Folder with the histories; those that are there already are not made again."""
    root = given.folder / f"depth-ladder-{QUICK_STEPS if given.quick else STEPS}-steps-lr-{LR}"
    text = standard_library()
    for name, model in runs_of(given).items():
        done = root / f"{name}.trained"
        if done.exists():
            continue
        shutil.rmtree(root / "runs" / name, ignore_errors=True)
        start = time.process_time()
        train(root / "runs" / name, model, text)
        print(f"{name} trained in {time.process_time() - start:.0f} s of processor time", flush=True)
        done.touch()
    return root


def tables_of(root: Path) -> Path:
    """The database of the histories, as a user's commands leave it."""
    ingest([root / "runs"], root / "archive.zarr", IngestOptions(workers=1))
    database = root / "archive.duckdb"
    compute(root / "archive.zarr", database, ComputeOptions(inference=False, workers=1))
    return database


def page(ask: Ask) -> Iterator[str]:
    """Lines of the page: each claim, what was found, whether it holds."""
    yield from _waves(ask)
    yield from _humps(ask)
    yield from _asymmetries(ask)
    yield from _timescales(ask)
    yield from _laws(ask)


def losses(tables: Database) -> Iterator[str]:
    """How far each model has learnt."""
    yield "validation loss [nats/byte] at the first and last checkpoint"
    for run, first, last in tables.rows(_LOSSES).rows:
        yield f"  {run}: {_number(first)} -> {_number(last)}"


def _waves(ask: Ask) -> Iterator[str]:
    yield "claim: a wave of compression travels through the layers at a velocity of its own"
    rows = ask("compression_wave", scope="trunk")
    for row in rows:
        slowness = _interval(row, "slowness")
        span = f"steps {_number(row['first_arrival'])} to {_number(row['last_arrival'])}"
        yield f"  {row['run']}: {row['n']} layers arrive at {span}, {slowness} steps/layer, {row['status']}"
    judged = [row["velocity"] is not None and _resolved(row) for row in rows if row["status"] != "too_few"]
    yield _verdict(judged, "a velocity that is not 0, arrivals further apart than checkpoints")


def _resolved(wave: Row) -> bool:
    """Whether the arrivals of a wave span more than what is interpolated between two checkpoints."""
    return bool(wave["last_arrival"] - wave["first_arrival"] > EVERY)


def _humps(ask: Ask) -> Iterator[str]:
    yield "claim: alpha over depth is an inverted U (its peak at 0.36 of the depth for 12 layers)"
    rows = ask("depth_gradients", scope="trunk", metric="alpha")
    for row in rows:
        spread = f"spread {_number(row['spread'])}"
        yield f"  {row['run']}: {row['shape']}, peak {_interval(row, 'peak')}, {spread}"
    judged = [row["shape"] == "inverted_u" for row in rows if row["shape"] != "too_few"]
    yield _verdict(judged, "an inverted U (five layers at least are needed)")


def turns(tables: Database) -> Iterator[str]:
    """Whether the first layer's stable rank was below the last's by more than noise, and above it in the end."""
    yield "claim: the gradient of the stable rank (first layer less last) turns from negative to positive"
    judged = []
    for run, lowest, last, noise, turned in tables.rows(_TURNS).rows:
        ends = f"lowest {_number(lowest)}, last {_number(last)}, noise +-{_number(noise)}"
        yield f"  {run}: {ends}, sign kept since step {_number(turned)}"
        judged.append(lowest < -noise and last > noise)
    yield _verdict(judged, "below -noise first, above it at last; noise: 3 sd of the difference of two fresh layers")


def _asymmetries(ask: Ask) -> Iterator[str]:
    yield "claim: query and key differ more over depth than value and output"
    rows = ask("qk_vo_asymmetry")
    for row in rows:
        ratio = _interval(row, "ratio", "low", "high")
        yield f"  {row['run']}, {row['quantity']}: {ratio}, p {_number(row['p'])}, {row['status']}"
    judged = [row["p"] < 0.05 and row["ratio"] > 1 for row in rows if row["p"] is not None]
    yield _verdict(judged, "a ratio above 1 with p < 0.05")


def _timescales(ask: Ask) -> Iterator[str]:
    yield "claim: the stable rank rests at one value for all layers, fast; alpha at one of each layer, slowly"
    rows = ask("two_timescales")
    for row in rows:
        if row["scope"] == "trunk":
            ratio = _interval(row, "tau_ratio")
            fitted = f"tau of {row['n_stable_rank']} layers (stable rank) and {row['n_alpha']} (alpha)"
            gain = _number(row["shared_equilibrium_aicc_gain"])
            yield f"  {row['run']}: {fitted}; ratio {ratio}; AICc gain of one rest for all {gain}"
        else:
            ranks, alphas = row["status_stable_rank"], row["status_alpha"]
            taus = f"{_number(row['tau_stable_rank'])} ({ranks}), {_number(row['tau_alpha'])} ({alphas})"
            yield f"    {row['scope']}: tau [steps] of stable rank and alpha {taus}"
    judged = [
        row["tau_ratio_high"] < 1 for row in rows if row["scope"] == "trunk" and row["tau_ratio_high"] is not None
    ]
    yield _verdict(judged, "a ratio below 1")


def _laws(ask: Ask) -> Iterator[str]:
    yield "claim: the spread of alpha grows as depth^0.26, R2 0.99, over three depths"
    rows = [row for row in ask("scaling_fits") if row["law"].endswith("by_n_layers")]
    for row in rows:
        exponent = _interval(row, "exponent", "low", "high")
        yield f"  {row['law']}: exponent {exponent}, n {row['n']}, R2 {_number(row['r2'])}, {row['status']}"
    [spread] = [row for row in rows if row["law"] == "alpha_spread_by_n_layers"]
    for exponent in (0.26, 0.0):
        yield f"  {exponent} is in its interval: {'yes' if spread['low'] <= exponent <= spread['high'] else 'no'}"


def _verdict(judged: Sequence[bool], what: str) -> str:
    return f"  holds ({what}): {sum(judged)} of {len(judged)}" if judged else f"  cannot be told ({what})"


def _interval(row: Row, name: str, low: str | None = None, high: str | None = None) -> str:
    ends = [row.get(low or f"{name}_low"), row.get(high or f"{name}_high")]
    return f"{_number(row[name])} [{_number(ends[0])}, {_number(ends[1])}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def main() -> None:
    given = settings(__doc__)
    database = tables_of(trained(given))
    with Database.read(database) as tables:

        def ask(recipe: str, **values: str) -> list[Row]:
            return run_recipe(tables.connection, find_recipes()[recipe], values).dicts()

        print("\n".join([*losses(tables), *turns(tables), *page(ask)]))


if __name__ == "__main__":
    main()
