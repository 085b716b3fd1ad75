"""The published lead-time fits, their null, and lines through few points."""

import math

import numpy as np
import pytest

from sedarchive.inference.leads import fit_line, lead_law

# (grokking step, onset of the commutator defect) of each run, arXiv 2602.16967
SCAN = [
    *((115000, 3000), (14500, 1000), (27000, 2000), (14000, 2000), (6500, 700), (7000, 1700), (7200, 1000)),
    *((1800, 1000), (16000, 1500), (4000, 1500), (1700, 800)),
]
DYCK = [
    *((68000, 3000), (29000, 13500), (44000, 1000), (32000, 9000), (5800, 600), (6800, 400), (10800, 1000)),
    *((2900, 200), (4400, 200), (7500, 200), (2100, 500), (1200, 1000), (11900, 900), (2900, 300), (3700, 200)),
]


@pytest.mark.parametrize(
    ("runs", "exponent", "prefactor", "r2", "error", "n", "r2_null"),
    [(SCAN, 1.180, 0.149, 0.990, 0.040, 11, 0.962), (DYCK, 1.132, 0.239, 0.908, 0.100, 15, 0.958)],
)
def test_the_published_fits_stand_beside_their_null(runs, exponent, prefactor, r2, error, n, r2_null):
    law = lead_law(*np.array(runs, dtype=float).T)
    assert (law.lead.n, law.n_without_lead) == (n, 0)
    assert law.lead.slope == pytest.approx(exponent, abs=5e-4)
    assert math.exp(law.lead.intercept) == pytest.approx(prefactor, abs=5e-4)
    assert law.lead.r2 == pytest.approx(r2, abs=5e-4)
    assert law.lead.slope_error == pytest.approx(error, abs=5e-4)
    assert law.r2_null[1] == pytest.approx(r2_null, abs=0.004)
    assert law.r2_null[0] < law.r2_null[1] < law.r2_null[2]
    assert law.p > 0.1
    assert law.onset.r2 < 0.6


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (9, 2.2622), (30, 2.0423)]
)
def test_the_interval_of_a_slope_reaches_as_far_as_the_tables_of_t_say(degrees, quantile):
    x = np.arange(degrees + 2.0)
    line = fit_line(x, x + np.random.default_rng(degrees).standard_normal(len(x)))
    assert (line.slope_high - line.slope) / line.slope_error == pytest.approx(quantile, rel=1e-4)
    assert (line.slope - line.slope_low) / line.slope_error == pytest.approx(quantile, rel=1e-4)


def test_a_line_is_that_of_least_squares_and_its_prediction_leaves_each_point_out():
    generator = np.random.default_rng(0)
    x = generator.standard_normal(12)
    y = 2 - 3 * x + 0.3 * generator.standard_normal(12)
    line = fit_line(x, y)
    slope, intercept = np.polyfit(x, y, 1)
    assert (line.slope, line.intercept) == (pytest.approx(slope), pytest.approx(intercept))
    assert line.r2 == pytest.approx(np.corrcoef(x, y)[0, 1] ** 2)
    others = [np.delete(np.arange(12), i) for i in range(12)]
    missed = [y[i] - np.polyval(np.polyfit(x[rest], y[rest], 1), x[i]) for i, rest in enumerate(others)]
    around = [y[i] - y[rest].mean() for i, rest in enumerate(others)]
    assert line.r2_out_of_sample == pytest.approx(1 - np.sum(np.square(missed)) / np.sum(np.square(around)))
    covariance = (
        np.linalg.inv(np.array([[12, x.sum()], [x.sum(), x @ x]])) * np.sum((y - slope * x - intercept) ** 2) / 10
    )
    assert line.slope_error == pytest.approx(math.sqrt(covariance[1, 1]))
    assert line.slope_high - line.slope == pytest.approx(2.2281 * math.sqrt(covariance[1, 1]), rel=1e-4)
    assert line.intercept_high - line.intercept == pytest.approx(2.2281 * math.sqrt(covariance[0, 0]), rel=1e-4)


@pytest.mark.parametrize("n", [3, 5, 15])
def test_t_intervals_hold_the_slope_in_19_of_20_cases(n):
    generator = np.random.default_rng(n)
    x = np.arange(n, dtype=float)
    lines = [fit_line(x, 1 + 0.5 * x + generator.standard_normal(n)) for _ in range(800)]
    assert 0.93 <= np.mean([line.slope_low <= 0.5 <= line.slope_high for line in lines]) <= 0.97
    assert 0.93 <= np.mean([line.intercept_low <= 1 <= line.intercept_high for line in lines]) <= 0.97


def test_few_points_say_so():
    assert fit_line(np.arange(2.0), np.arange(2.0)).status == "too_few"
    assert fit_line(np.array([1.0, 1.0, 2.0, 2.0]), np.arange(4.0)).status == "too_few"
    assert fit_line(np.arange(3.0), np.array([0.0, 1.0, 3.0])).status == "three_points"
    assert fit_line(np.arange(5.0), np.array([0.0, 1, 3, 3, 4])).status == "few"
    assert fit_line(np.arange(10.0), np.arange(10.0) ** 2).status == "ok"
    constant = fit_line(np.arange(5.0), np.full(5, 3.0))
    assert (constant.status, constant.slope) == ("constant", 0)
    assert math.isnan(constant.r2)
    assert math.isnan(fit_line(np.array([0.0, 0, 0, 1, 2]), np.arange(5.0)).r2_out_of_sample) is False


def test_onsets_that_follow_the_law_are_told_from_shuffled_ones():
    grok = np.geomspace(1000, 100_000, 12)
    law = lead_law(grok, grok - 0.02 * grok**1.3)
    assert law.lead.slope == pytest.approx(1.3)
    assert law.lead.r2 == pytest.approx(1)
    assert law.p == 1 / 2000
    assert law.r2_null[1] < 0.98


def test_onsets_that_have_nothing_to_do_with_grokking_fit_as_well_as_shuffled_ones():
    generator = np.random.default_rng(7)
    rejected, explained = 0, []
    for trial in range(200):
        grok, onset = np.exp(generator.uniform(8, 11, 11)), np.exp(generator.uniform(5, 7, 11))
        law = lead_law(grok, onset, draws=199, seed=trial)
        rejected += law.p <= 0.05
        explained.append(law.lead.r2)
    assert np.median(explained) > 0.95
    assert rejected <= 20


def test_runs_without_a_lead_are_counted_and_left_out():
    law = lead_law(np.array([100.0, 200, 300, 400]), np.array([50.0, 250, 60, 50]))
    assert (law.n_without_lead, law.lead.n, law.lead.status) == (1, 3, "three_points")
    nothing = lead_law(np.array([]), np.array([]))
    assert (nothing.lead.status, nothing.onset.status) == ("too_few", "too_few")
    assert math.isnan(nothing.p)
    with pytest.raises(ValueError, match="positive"):
        lead_law(np.array([0.0, 1.0]), np.array([1.0, 1.0]))
