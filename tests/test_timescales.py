"""Two timescales: planted time constants and rests inside their intervals, and statuses where there are none."""

from collections import Counter
from functools import cache

import numpy as np
import planted
import pytest
from scipy.optimize import curve_fit
from scipy.stats import CensoredData, norm
from series import autoregressive

from sedarchive.compute.lifecycle.lifecycle_rows import LayerMetrics
from sedarchive.compute.lifecycle.timescale_rows import timescale_rows
from sedarchive.lifecycle.timescales import Decay, fit_decay, ratio_of, shape_over_depth, shared_rest, tau_ranges
from sedarchive.lifecycle.typical import Sample, typical
from sedarchive.recipes import find_recipes, run_recipe
from sedarchive.tables import Database

SPACING, REST, HEIGHT = 25.0, 3.0, 2.0
DRAWS = 80


def curve(n, tau, height=HEIGHT):
    """Times, and an exponential that falls by ``height``; tau in points."""
    return SPACING * np.arange(n), REST + height * np.exp(-np.arange(n) / tau)


@cache
def trials(n, tau, spread, correlation):
    rng = np.random.default_rng(n)
    times, values = curve(n, tau)
    noise = HEIGHT * spread * autoregressive(rng, n, correlation, DRAWS)
    return [fit_decay(times, values + one) for one in noise]


CASES = [(20, 5, 0.03, 0.0), (40, 8, 0.05, 0.5), (60, 10, 0.05, 0.8)]


@pytest.mark.parametrize(("n", "tau", "spread", "correlation"), CASES)
def test_the_intervals_of_tau_and_rest_cover_them(n, tau, spread, correlation):
    found = [one for one in trials(n, tau, spread, correlation) if one.status == "ok"]
    assert len(found) >= 0.85 * DRAWS
    for name, truth in (("tau", SPACING * tau), ("rest", REST)):
        ends = np.array([[getattr(one, f"{name}_low"), getattr(one, f"{name}_high")] for one in found])
        known = np.isfinite(ends).all(axis=1)
        assert known.mean() > 0.9
        covered = np.mean((ends[known, 0] <= truth) & (truth <= ends[known, 1]))
        assert covered >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / DRAWS)
        assert np.median(ends[known, 1] - ends[known, 0]) < 2 * truth


def test_a_fit_without_noise_is_that_of_scipy():
    times, values = curve(40, 8)
    values = values + 0.01 * np.sin(np.arange(40.0) ** 2)
    (rest, _, tau), _ = curve_fit(lambda t, a, b, c: a + b * np.exp(-t / c), times, values, p0=(3, 2, 150))
    found = fit_decay(times, values)
    assert found.correlation == 0.0
    assert (found.tau, found.rest) == (pytest.approx(tau, rel=1e-3), pytest.approx(rest, rel=1e-3))


def test_tau_does_not_know_the_units_or_the_direction():
    times, values = curve(40, 8)
    values = values + 0.02 * np.sin(np.arange(40.0) ** 2)
    found, turned = fit_decay(times, values), fit_decay(times / 1000, -5 * values)
    assert turned.tau == pytest.approx(found.tau / 1000)
    assert turned.rest == pytest.approx(-5 * found.rest)


def test_noise_and_wandering_have_no_decay():
    rng = np.random.default_rng(5)
    times = SPACING * np.arange(60)
    for correlation in (0.0, 0.8):
        said = Counter(fit_decay(times, 7 + one).status for one in autoregressive(rng, 60, correlation, 40))
        assert said["ok"] <= 4
        assert said["no_decay"] >= 30


def test_a_line_and_the_beginning_of_a_decay_are_too_short():
    rng = np.random.default_rng(6)
    for values in (-0.1 * np.arange(40.0), curve(40, 60)[1]):
        found = fit_decay(SPACING * np.arange(40), values + 0.005 * rng.standard_normal(40))
        assert found.status == "too_short"
        assert np.isnan(found.tau)
        assert found.tau_low > SPACING * 10


def test_a_decay_between_two_checkpoints_is_too_fast():
    noise = 0.01 * autoregressive(np.random.default_rng(8), 40, 0.0)[0]
    found = fit_decay(SPACING * np.arange(40), curve(40, 0.4)[1] + noise)
    assert (found.status, np.isnan(found.tau)) == ("too_fast", True)
    assert SPACING * 0.4 < found.tau_high < SPACING


def test_a_curve_that_turns_is_not_exponential():
    rng = np.random.default_rng(7)
    at = np.linspace(0, 1, 60)
    for values in ((at - 0.4) ** 2, np.exp(-at / 0.05) + 0.8 * at):
        assert fit_decay(SPACING * np.arange(60), values + 0.003 * rng.standard_normal(60)).status == "not_exponential"


def test_few_checkpoints_and_a_constant_say_so():
    assert fit_decay(np.arange(7.0), np.arange(7.0)).status == "too_few"
    assert fit_decay(np.arange(20.0), np.full(20, 4.0)).status == "no_decay"


def test_an_exact_exponential_is_found():
    found = fit_decay(*curve(40, 8))
    assert found.status == "ok"
    assert (found.tau, found.rest) == (pytest.approx(SPACING * 8, rel=1e-2), pytest.approx(REST, rel=1e-3))


def test_the_interval_of_a_ratio_covers_it():
    first, second = trials(*CASES[1]), trials(*CASES[2])
    found = [ratio_of(a, b) for a, b in zip(first, second, strict=True) if a.status == b.status == "ok"]
    inside = [one.low <= CASES[1][1] / CASES[2][1] <= one.high for one in found if np.isfinite(one.low + one.high)]
    assert len(inside) > 50
    assert np.mean(inside) >= 0.95 - 4 * np.sqrt(0.95 * 0.05 / len(inside))


def rest_gains(rests, seeds):
    """Comparisons of a rest of each with one for all, of draws whose fits are all ok."""
    times, falling = SPACING * np.arange(50), np.exp(-np.arange(50) / 8)
    for seed in seeds:
        noise = 0.1 * autoregressive(np.random.default_rng(seed), 50, 0.5, len(rests))
        series = [(times, rest + (9 - rest) * falling + one) for rest, one in zip(rests, noise, strict=True)]
        decays = [fit_decay(*one) for one in series]
        if {decay.status for decay in decays} == {"ok"}:
            yield shared_rest(series, decays)


def test_one_rest_is_told_from_several():
    shared = list(rest_gains(np.full(5, 3.0), range(10)))
    assert len(shared) >= 6
    assert np.mean([one.aicc_gain > 0 for one in shared]) >= 0.7
    assert np.mean([one.rest for one in shared]) == pytest.approx(3.0, abs=0.05)
    free = list(rest_gains(np.linspace(2.5, 3.5, 5), range(4)))
    assert free
    assert all(one.aicc_gain < -2 for one in free)


NONE = np.empty(0)


def test_the_typical_tau_is_a_geometric_mean():
    found = typical(Sample(np.array([100.0, 200.0, 400.0]), NONE, NONE))
    assert found.best == pytest.approx(200)
    assert found.low * found.high == pytest.approx(200**2)
    assert np.isnan(typical(Sample(np.array([100.0, 200.0]), np.full(9, 400.0), NONE)).best)


def test_a_bound_far_from_the_values_says_nothing_but_that_there_is_one_more():
    known = np.exp(np.random.default_rng(1).standard_normal(12))
    plain = typical(Sample(known, NONE, NONE))
    found = typical(Sample(known, np.array([1e-9]), np.array([1e9])))
    assert found.best == pytest.approx(plain.best, rel=0.02)
    assert found.high / found.low == pytest.approx(plain.high / plain.low, rel=0.1)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_most_likely_mean_of_values_and_bounds_is_that_of_scipy(sign):
    x = sign * np.random.default_rng(2).standard_normal(20)
    known, beyond = x[sign * x < 0.5], np.full(np.sum(sign * x >= 0.5), sign * 0.5)
    empty = NONE if sign > 0 else np.exp(beyond)
    found = typical(Sample(np.exp(known), np.exp(beyond) if sign > 0 else NONE, empty))
    data = CensoredData(uncensored=known, **{"right" if sign > 0 else "left": beyond})
    assert np.log(found.best) == pytest.approx(norm.fit(data)[0], abs=0.01)
    assert len(beyond) > 3


def test_means_over_layers_hold_the_truth_where_the_larger_half_is_only_bounded():
    rng = np.random.default_rng(3)
    held, dropped = [], []
    for _ in range(150):
        x = rng.standard_normal(12)
        known, beyond = np.exp(x[x < 0.5]), np.ones(np.sum(x >= 0.5)) * np.exp(0.5)
        found = typical(Sample(known, beyond, NONE))
        naive = typical(Sample(known, NONE, NONE))
        held.append(found.low <= 1 <= found.high)
        dropped.append(naive.low <= 1 <= naive.high)
    assert 0.90 <= np.mean(held) <= 0.99
    assert np.mean(dropped) < 0.8


def test_bounds_alone_give_an_end_by_the_sign_test():
    below = np.array([0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    found = typical(Sample(NONE, NONE, below))
    assert np.isnan([found.best, found.low]).all()
    assert found.high == 0.7  # of six, all: 1 in 64
    assert typical(Sample(NONE, NONE, np.append(below, [0.8, 0.9, 1.0]))).high == 0.9  # of nine, eight: 1 in 51
    assert typical(Sample(np.full(2, 0.1), np.full(1, 0.5), below)).high == 0.7
    assert np.isnan(typical(Sample(NONE, NONE, below[1:])).high)
    assert np.isnan([typical(Sample(NONE, below, NONE)).high, typical(Sample(NONE, NONE, NONE)).high]).all()
    assert typical(Sample(NONE, below, NONE)).low == 0.2


def test_what_is_known_of_a_ratio_follows_from_what_is_known_of_both():
    ok, long, fast = Decay(9, "ok", 60.0), Decay(9, "too_short", bound=100.0), Decay(9, "too_fast", bound=10.0)
    ranges = tau_ranges([ok, long, fast, Decay(9, "no_decay")])
    assert ranges[:3].tolist() == [[60, 60], [100, np.inf], [0, 10]]
    assert np.isnan(ranges[3]).all()
    sample = Sample.of(ranges)
    assert (sample.known.tolist(), sample.above.tolist(), sample.below.tolist()) == ([60], [100], [10])


def planted_run(taus):
    """A run of layers whose alpha rests after ``taus`` points (L,) and whose stable rank after 4."""
    n, rng = 40, np.random.default_rng(4)
    alphas, ranks = (
        np.stack([curve(n, tau)[1] for tau in each]) + 0.02 * autoregressive(rng, n, 0.3, len(taus))
        for each in (taus, np.full(len(taus), 4.0))
    )
    values = {"stable_rank": ranks, "alpha": alphas, "entropy": alphas}
    metrics = LayerMetrics("trunk", curve(n, 1)[0].astype(np.int64), np.arange(len(taus)), values, np.zeros(len(taus)))
    rows = timescale_rows(metrics, [{"arrival_step": 0.0, "status": "ok"}] * len(taus))
    return {row["parameter"]: row for row in rows if row["scope"] == "trunk"}, rows


def test_layers_that_are_too_slow_for_the_run_raise_the_mean_of_all():
    found, rows = planted_run(np.array([12.0, 13.0, 14.0, 15.0, 40.0, 45.0]))
    slow = [row for row in rows if row["parameter"] == "tau_alpha" and row["status"] == "too_short"]
    assert len(slow) == 2
    assert found["tau_alpha"]["n"] == found["tau_ratio"]["n"] == 4
    assert found["tau_alpha"]["estimate"] > SPACING * 15
    assert found["tau_ratio"]["estimate"] < 4 / 14
    assert found["tau_stable_rank"]["estimate"] == pytest.approx(SPACING * 4, rel=0.1)


def test_the_shape_is_the_deviation_over_the_range():
    assert shape_over_depth(np.array([1.0, 4.0, 1.0])) == pytest.approx([-1 / 3, 2 / 3, -1 / 3])
    assert np.isnan(shape_over_depth(np.ones(3))).all()


# rows


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    path = tmp_path_factory.mktemp("timescales") / "archive.duckdb"
    with Database.create_or_open(path, "planted") as db:
        planted.plant_timescales(db, "rest_shared", np.full(6, 30.0))
        planted.plant_timescales(db, "rest_free", 20.0 + 4.0 * np.arange(6))
        planted.plant_wave(db, "wave_none", 300 + planted.WAVE_SLOWNESS * np.arange(6), depth=0.01)
        planted.plant_wave(db, "wave_without_start", np.full(6, 500.0), steps=range(50, 2001, 50))
        planted.plant_laws(db)
    with Database.read(path) as db:
        yield db


def ask(db, run):
    return run_recipe(db.connection, find_recipes()["two_timescales"], {"run": run}).dicts()


@pytest.mark.parametrize("run", ["rest_shared", "rest_free"])
def test_planted_time_constants_come_back_through_the_recipe(tables, run):
    trunk, *layers = ask(tables, run)
    assert [row["scope"] for row in layers] == [f"layer:{at}" for at in range(6)]
    for name, truth in (("stable_rank", planted.TAU_RANK), ("alpha", planted.TAU_ALPHA)):
        inside = [row[f"tau_{name}_low"] <= truth <= row[f"tau_{name}_high"] for row in layers]
        assert sum(inside) >= 5
        assert {row[f"status_{name}"] for row in layers} == {"ok"}
        assert trunk[f"tau_{name}"] == pytest.approx(truth, rel=0.1)
    assert trunk["tau_ratio"] == pytest.approx(planted.TAU_RANK / planted.TAU_ALPHA, rel=0.1)
    assert trunk["tau_ratio_low"] < trunk["tau_ratio"] < trunk["tau_ratio_high"] < 0.4
    found = np.array([row["psi"] for row in layers])
    assert found == pytest.approx(shape_over_depth(planted.REST_ALPHA), abs=0.1)
    assert (trunk["n_stable_rank"], trunk["status_alpha"]) == (6, "few")


def test_the_recipe_tells_one_rest_from_one_each(tables):
    shared, free = ask(tables, "rest_shared")[0], ask(tables, "rest_free")[0]
    assert shared["shared_equilibrium_aicc_gain"] > 2
    assert shared["equilibrium_stable_rank"] == pytest.approx(30, abs=0.3)
    assert free["shared_equilibrium_aicc_gain"] < -20


@pytest.mark.parametrize(("run", "status"), [("wave_none", "no_wave"), ("wave_without_start", "no_start")])
def test_a_layer_without_arrival_has_no_timescale(tables, run, status):
    trunk, *layers = ask(tables, run)
    assert {(row["status_stable_rank"], row["tau_stable_rank"], row["tau_ratio"]) for row in layers} == {
        (status, None, None)
    }
    assert trunk["status_stable_rank"] == "too_few"


def test_a_missing_value_is_left_out():
    times, values = curve(40, 8)
    values[[3, 17]] = np.nan
    alone = {"stable_rank": np.full((1, 40), np.nan), "alpha": values[None], "entropy": values[None]}
    metrics = LayerMetrics("trunk", times.astype(np.int64), np.array([0]), alone, np.zeros(1))
    rows = timescale_rows(metrics, [{"arrival_step": np.nan, "status": "no_start"}])
    [tau] = [row for row in rows if (row["scope"], row["parameter"]) == ("layer:0", "tau_alpha")]
    assert (tau["n"], tau["status"]) == (38, "ok")
    assert tau["estimate"] == pytest.approx(200, rel=0.01)
