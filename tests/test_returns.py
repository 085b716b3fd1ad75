"""Intervals of a return to a level: their ends, and when there are none. How often they hold: test_calibration.py."""

import numpy as np
import pytest

from sedarchive.inference.returns import MIN_POINTS, FittedLine, return_intervals


def line_through(level, change):
    """Least squares with the covariance of independent errors."""
    design = np.column_stack([level, np.ones(len(level))])
    solution, left, *_ = np.linalg.lstsq(design, change, rcond=None)
    errors = np.linalg.inv(design.T @ design) * left[0] / (len(level) - 2)
    return FittedLine(level, change, float(solution[0]), float(solution[1]), errors)


def wandering(phi, n, seed=0, start=0.0):
    rng = np.random.default_rng(seed)
    values = [start]
    for _ in range(n):
        values.append(phi * values[-1] + rng.standard_normal())
    return np.array(values)


def fitted(values):
    return line_through(values[:-1], np.diff(values))


def test_a_series_that_forgets_at_once_has_about_students_interval():
    line = fitted(wandering(0.0, 120))
    found, error = return_intervals(line), np.sqrt(line.errors[0, 0])
    assert found.slope_low == pytest.approx(line.slope - 2 * error, abs=0.4 * error)
    assert found.slope_high == pytest.approx(line.slope + 2 * error, abs=0.4 * error)
    assert found.root_low < -line.drive / line.slope < found.root_high


def test_a_walk_that_never_returns_is_not_held_to_return():
    found = [return_intervals(fitted(wandering(1.0, 80, seed))) for seed in range(40)]
    assert sum(one.slope_low <= 0 <= one.slope_high for one in found) >= 34
    assert sum(np.isfinite(one.root_low) for one in found) <= 4


def test_larger_errors_widen_the_interval():
    line = fitted(wandering(0.5, 60))
    wide = FittedLine(line.level, line.change, line.slope, line.drive, 4 * line.errors)
    one, other = return_intervals(line), return_intervals(wide)
    assert other.slope_low < one.slope_low < one.slope_high < other.slope_high


def test_few_points_and_a_perfect_line_have_no_level():
    few = return_intervals(fitted(wandering(0.1, MIN_POINTS - 2, start=30.0)))
    assert np.isfinite([few.slope_low, few.slope_high]).all()
    assert np.isnan([few.root_low, few.root_high]).all()
    level = np.linspace(3, 1, 30)
    perfect = FittedLine(level, -0.1 * level, -0.1, 0.0, np.zeros((2, 2)))
    assert np.isnan(list(vars(return_intervals(perfect)).values())).all()
