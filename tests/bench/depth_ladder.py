"""Small GPTs of four depths and three seeds, and what the lifecycle of their spectra says beside the paper's claims.

Run: ``python tests/bench/depth_ladder.py``; training takes ten minutes of one core. The paper
is "The Spectral Lifecycle of Transformer Training" (arXiv 2604.22778), whose models have 8 to 36 layers of width 512 or
more. Here the width is 64 and the text that of the standard library's own sources, so that a claim that does not hold
says where it ends, not that it is wrong. Each run is held against its own null, whose 5 % some of many runs exceed by
chance: a claim stands only where more runs do than that. Histories stay in the folder for the next time.
"""

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measure import Settings, settings
from numpy.typing import NDArray
from scipy.stats import binom, ttest_1samp
from scipy.stats import t as student
from small_gpt import SmallGPT, standard_library, train

from sedarchive.compute.options import ComputeOptions
from sedarchive.compute.refresh import compute
from sedarchive.ingest import IngestOptions, ingest
from sedarchive.lifecycle.gradients import hump_of
from sedarchive.lifecycle.timescales import Decay, fit_decay
from sedarchive.recipes import find_recipes, run_recipe
from sedarchive.tables import Database

DEPTHS, QUICK_DEPTHS = (2, 4, 6, 8), (2, 4)
SEEDS, QUICK_SEEDS = (0, 1, 2), (0,)
STEPS, QUICK_STEPS = 800, 100
LR, WARMUP = 3e-4, 100
"""So slow that compression takes some 20 checkpoints; at 3e-3 after 20 steps it is over before the second."""
EVERY = SmallGPT.checkpoint_every
PEAK = 0.36
"""Relative depth at which the paper's model of 12 layers has its largest alpha."""
ORDERS = DRAWS = 1999
"""Random orders of layers; random spreads."""
_LOSSES = """
    SELECT run, min_by(value, step), max_by(value, step) FROM metrics WHERE name = 'val_loss' GROUP BY run ORDER BY run
"""
_TURNS = f"""
    SELECT
        run,
        max(first_last) FILTER (WHERE step = {WARMUP}),
        max(first_last),
        min(first_last),
        max_by(first_last, step),
        (SELECT max(compression_null) FROM layer_waves AS w WHERE w.run = g.run AND scope = 'trunk')
            * (SELECT avg(stable_rank) FROM matrix_stats AS s WHERE s.run = g.run AND step = 0 AND layer IS NOT NULL)
    FROM depth_gradients AS g
    WHERE scope = 'trunk' AND metric = 'stable_rank'
    GROUP BY run
    ORDER BY run
"""
_PROFILES = """
    WITH layers AS (
        SELECT run, layer, avg(alpha) AS alpha
        FROM matrix_stats
        WHERE layer IS NOT NULL AND step = (SELECT max(step) FROM matrix_stats)
        GROUP BY run, layer
    )
    SELECT run, list(alpha ORDER BY layer) FROM layers GROUP BY run ORDER BY run
"""
_FROM_ARRIVAL = """
    SELECT w.run, list(s.step ORDER BY s.step), list(s.alpha ORDER BY s.step), list(s.stable_rank ORDER BY s.step)
    FROM layer_waves AS w
    JOIN (
        SELECT run, layer, step, avg(alpha) AS alpha, avg(stable_rank) AS stable_rank
        FROM matrix_stats
        WHERE layer IS NOT NULL
        GROUP BY run, layer, step
    ) AS s ON s.run = w.run AND s.layer = w.layer AND s.step >= w.arrival_step
    WHERE w.scope = 'trunk'
    GROUP BY w.run, w.layer
    ORDER BY w.run, w.layer
"""
_SIZE = 0.05
"""Share of runs that a test rejects where there is nothing."""
_LOOKS = 8
"""Means over runs on the page; each is held to this part of the 5 %."""
Row = dict[str, Any]
Floats = NDArray[np.float64]
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


def page(tables: Database, ask: Ask) -> Iterator[str]:
    """Lines of the page: each claim, what was found, whether it holds."""
    yield from _losses(tables)
    yield from _turns(tables)
    yield from _waves(ask)
    yield from _humps(tables, ask)
    yield from _asymmetries(ask)
    yield from _timescales(ask)
    yield from _same_start(tables)
    yield from _laws(ask)


def _losses(tables: Database) -> Iterator[str]:
    """How far each model has learnt."""
    yield "validation loss [nats/byte] at the first and last checkpoint"
    for run, first, last in tables.rows(_LOSSES).rows:
        yield f"  {run}: {_number(first)} -> {_number(last)}"


def _turns(tables: Database) -> Iterator[str]:
    """Whether the first layer's stable rank was below the last's by more than noise, and above it in the end."""
    yield "claim: the gradient of the stable rank (first layer less last) turns from negative to positive"
    rows = tables.rows(_TURNS).rows
    for run, early, highest, lowest, last, noise in rows:
        ends = f"highest {_number(highest)}, lowest {_number(lowest)}, last {_number(last)}, noise +-{_number(noise)}"
        yield f"  {run}: step {WARMUP} {_number(early)}, {ends}"
    judged = [lowest < -noise and last > noise for _, _, _, lowest, last, noise in rows]
    yield _verdict(judged, "below -noise first, above it at last; noise: 3 sd of the difference of two fresh layers")
    yield _over_runs([row[1] for row in rows], f"gradient at step {WARMUP}")
    yield _over_runs([row[4] for row in rows], "gradient at the end")


def _waves(ask: Ask) -> Iterator[str]:
    yield "claim: a wave of compression travels through the layers at a velocity of its own"
    rows = ask("compression_wave", scope="trunk")
    for row in rows:
        slowness = _interval(row, "slowness")
        span = f"steps {_number(row['first_arrival'])} to {_number(row['last_arrival'])}"
        yield f"  {row['run']}: {row['n']} layers arrive at {span}, {slowness} steps/layer, {row['status']}"
    told = [row for row in rows if row["status"] != "too_few"]
    for words, sign in (("from the first layer to the last", 1), ("from the last layer to the first", -1)):
        judged = [_travels(row, sign) for row in told]
        yield _verdict(
            judged, f"{words}: 0 outside the interval of the slowness, arrivals over more than {EVERY} steps"
        )
    delays = [row["slowness"] * (row["n"] - 1) for row in told]
    yield _over_runs(delays, "arrival of the last layer less that of the first, by the line [steps]")


def _travels(wave: Row, sign: int) -> bool:
    """Whether a wave has a velocity, and arrivals over more than what is interpolated between two checkpoints."""
    is_resolved = wave["last_arrival"] - wave["first_arrival"] > EVERY
    return bool(wave["velocity"] is not None and wave["velocity"] * sign > 0 and is_resolved)


def _humps(tables: Database, ask: Ask) -> Iterator[str]:
    yield "claim: alpha over depth is an inverted U (its peak at 0.36 of the depth for 12 layers)"
    profiles = {run: np.array(alphas) for run, alphas in tables.rows(_PROFILES).rows}
    judged = []
    for row in ask("depth_gradients", scope="trunk", metric="alpha"):
        profile = profiles[row["run"]]
        if row["shape"] == "too_few":
            continue
        p = _p_of_order(profile)
        judged.append(row["shape"] == "inverted_u" and p <= _SIZE)
        by_layer = " ".join(f"{one:.3f}" for one in profile)
        yield f"  {row['run']}: {row['shape']}, p {_number(p)}, peak {_interval(row, 'peak')}; by layer {by_layer}"
    yield _verdict(judged, "an inverted U, and in few other orders of the layers so clear a one; five layers at least")
    told = [profile for profile in profiles.values() if len(profile) > 4]
    for end, words in ((0, "first"), (-1, "last")):
        rises = [_at(profile, PEAK) - profile[end] for profile in told]
        yield _over_runs(rises, f"alpha at {PEAK} of the depth less that of the {words} layer")


def _at(profile: Floats, depth: float) -> float:
    """Value at a relative depth, between layers by a line."""
    return float(np.interp(depth * (len(profile) - 1), np.arange(len(profile)), profile))


def _p_of_order(profile: Floats) -> float:
    """Share of the orders of the layers in which an inverted U is as clear, 1 where there is none."""
    found = _clearness(profile)
    rng = np.random.default_rng(0)
    others = [_clearness(rng.permutation(profile)) for _ in range(ORDERS)]
    return (1 + sum(one >= found for one in others)) / (1 + ORDERS) if found > -np.inf else 1.0


def _clearness(profile: Floats) -> float:
    hump = hump_of(profile)
    return hump.aicc_gain if hump.shape == "inverted_u" else -np.inf


def _asymmetries(ask: Ask) -> Iterator[str]:
    yield "claim: query and key differ more over depth than value and output"
    rows = ask("qk_vo_asymmetry")
    for quantity in ("alpha", "compression"):
        told = [row for row in rows if row["quantity"] == quantity and row["p"] is not None]
        for row in told:
            yield f"  {row['run']}, {quantity}: {_interval(row, 'ratio', 'low', 'high')}, p {_number(row['p'])}"
        yield _verdict([row["p"] < _SIZE and row["ratio"] > 1 for row in told], f"{quantity}: above 1 with p < 0.05")
        yield _over_runs([math.log(row["ratio"]) for row in told], f"logarithm of the ratio, {quantity}")


def _timescales(ask: Ask) -> Iterator[str]:
    yield "claim: the stable rank rests at one value for all layers, fast; alpha at one of each layer, slowly"
    rows = ask("two_timescales")
    whole = [row for row in rows if row["scope"] == "trunk"]
    for row in whole:
        layers = [one for one in rows if one["run"] == row["run"] and one["scope"] != "trunk"]
        for metric in ("stable_rank", "alpha"):
            said = Counter(one[f"status_{metric}"] for one in layers)
            counted = ", ".join(f"{name} {count}" for name, count in sorted(said.items()))
            yield f"  {row['run']}, {metric}: tau {_interval(row, f'tau_{metric}')} steps; layers: {counted}"
        gain = _number(row["shared_equilibrium_aicc_gain"])
        yield f"  {row['run']}: ratio {_interval(row, 'tau_ratio')}; AICc gain of one rest for all {gain}"
    judged = [row["tau_ratio_high"] < 1 for row in _with(whole, "tau_ratio_high")]
    yield _verdict(judged, f"a ratio of tau below 1, of the {len(whole)} runs those whose interval has an end")
    gains = [row["shared_equilibrium_aicc_gain"] for row in _with(whole, "shared_equilibrium_aicc_gain")]
    apart = sum(gain < -2 for gain in gains)
    yield f"  one rest of the stable rank for all layers will do in {sum(gain > 2 for gain in gains)}, not in {apart}"


def _same_start(tables: Database) -> Iterator[str]:
    """Ratio of the time constants where alpha is followed from the arrival on too, as the stable rank is."""
    decays: dict[str, list[tuple[Decay, Decay]]] = {}
    for run, steps, alphas, ranks in tables.rows(_FROM_ARRIVAL).rows:
        times = np.array(steps, dtype=np.float64)
        both = fit_decay(times, np.array(ranks)), fit_decay(times, np.array(alphas))
        decays.setdefault(run, []).append(both)
    means = []
    for run, layers in decays.items():
        known = [(rank.tau, alpha.tau) for rank, alpha in layers if rank.status == alpha.status == "ok"]
        if known:
            means.append(float(np.mean([math.log(rank / alpha) for rank, alpha in known])))
            yield f"  {run}, both from the arrival on: {_number(math.exp(means[-1]))}, {len(known)} layers"
    yield _over_runs(means, "logarithm of that ratio")


def _with(rows: Sequence[Row], name: str) -> list[Row]:
    return [row for row in rows if row[name] is not None]


def _laws(ask: Ask) -> Iterator[str]:
    yield "claim: the spread of alpha grows as depth^0.26, R2 0.99, over three depths"
    rows = [row for row in ask("scaling_fits") if row["law"].endswith("by_n_layers")]
    for row in rows:
        found = _interval(row, "exponent", "low", "high")
        gain = f"AICc gain over constant and logarithm {_number(row['aicc_gain'])}"
        yield f"  {row['law']}: exponent {found}, n {row['n']} runs, R2 {_number(row['r2'])}, {gain}"
    for spread in [row for row in _with(rows, "low") if row["law"] == "alpha_spread_by_n_layers"]:
        for exponent in (0.26, 0.0):
            yield f"  {exponent} is in its interval: {'yes' if spread['low'] <= exponent <= spread['high'] else 'no'}"
        yield from _spread_by_chance(spread)


def _spread_by_chance(law: Row) -> Iterator[str]:
    """Exponents of the spread of layers that have nothing to do with each other: more of them lie further apart."""
    here = _exponents(np.repeat(DEPTHS, len(SEEDS)))
    low, middle, high = np.quantile(here, (0.025, 0.5, 0.975))
    p = (1 + float((here >= law["exponent"]).sum())) / (1 + DRAWS)
    yield f"  null, layers as independent normal numbers: {middle:.3g} [{low:.3g}, {high:.3g}], p {_number(p)}"
    there = np.quantile(_exponents(np.array([8, 12, 16])), (0.025, 0.5, 0.975))
    yield f"  the same for one run each of 8, 12 and 16 layers: {there[1]:.3g} [{there[0]:.3g}, {there[2]:.3g}]"


def _exponents(depths: Floats) -> Floats:
    """Slopes of the logarithm of the spread on that of the depth, for normal numbers (draws,)."""
    rng = np.random.default_rng(0)
    spreads = [np.ptp(rng.standard_normal((DRAWS, depth)), axis=1) for depth in depths]
    return np.asarray(np.polyfit(np.log(depths), np.log(spreads), 1)[0])


def _verdict(judged: Sequence[bool], what: str) -> str:
    """In how many runs a claim holds, and whether that is more than tests at 5 % would give where there is nothing."""
    if not judged:
        return f"  cannot be told ({what})"
    held, n = sum(judged), len(judged)
    p = float(binom.sf(held - 1, n, _SIZE))
    said = "no" if p > _SIZE else "yes" if 2 * held > n else "in some runs"
    return f"  holds ({what}): {held} of {n}, p {_number(p)}: {said}"


def _over_runs(values: Sequence[float], what: str) -> str:
    """Mean over runs with Student's t interval, runs of one seed counted as independent."""
    found = np.array(values)
    if len(found) < 3:
        return f"  over runs, {what}: too few"
    reach = float(student.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found)))
    mean = float(found.mean())
    p = float(ttest_1samp(found, 0.0).pvalue)
    stands = "yes" if p < _SIZE / _LOOKS else "no"
    ends = f"[{_number(mean - reach)}, {_number(mean + reach)}]"
    return f"  over {len(found)} runs, {what}: {_number(mean)} {ends}, p {_number(p)}, other than 0: {stands}"


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

        print("\n".join(page(tables, ask)))


if __name__ == "__main__":
    main()
