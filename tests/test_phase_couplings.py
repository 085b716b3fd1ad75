"""Correlations inside phases: against explicit pairs, with a null that knows the trend, and p over all of them."""

import numpy as np
import pytest
from series import autoregressive

from sedarchive.compute.couplings.edge_inputs import EdgeSeries
from sedarchive.compute.couplings.phase_couplings import phase_coupling_rows
from sedarchive.inference.coupling import RunMetric

T, SIZE, SPACING = 120, 10, 50
STEPS = np.arange(T) * SPACING * 1.0
SPANS = {
    ("derivative", "rise"): (0, 30),
    ("derivative", "plateau"): (30, 70),
    ("derivative", "collapse"): (70, 109),
    ("peak", "plateau"): (20, 24),
    ("threshold", "plateau"): (0, 109),
}


def edge(ratio, size=SIZE, irregular=False):
    return EdgeSeries("all", size, 2, ratio, SPANS, irregular)


def joined(loss, draws=199):
    return RunMetric(**{**vars(RunMetric.joined(STEPS, STEPS, loss)), "draws": draws})


def by_phase(rows, detrend="none"):
    return {(row["phase_method"], row["phase"]): row for row in rows if row["detrend"] == detrend}


@pytest.fixture(scope="module")
def coupled():
    """A ratio that follows the loss in its second phase alone."""
    generator = np.random.default_rng(3)
    loss = 3 + autoregressive(generator, T, 0.3)[0]
    ratio = 1.5 + autoregressive(generator, T - SIZE, 0.3)[0]
    ratio[30:71] = 1.5 + 0.5 * loss[SIZE + 30 : SIZE + 71] + 0.02 * generator.standard_normal(41)
    return ratio, loss, phase_coupling_rows([edge(ratio)], {"val_loss": joined(loss)})


def test_every_phase_of_both_methods_has_a_row(coupled):
    rows = coupled[2]
    assert len(rows) == 8
    assert set(by_phase(rows)) == set(SPANS) - {("threshold", "plateau")}
    assert {(row["feature"], row["target"], row["measure"]) for row in rows} == {("ratio_2", "val_loss", "phase")}


@pytest.mark.parametrize("detrend", ["none", "linear"])
def test_r_is_that_of_the_windows_of_the_phase(coupled, detrend):
    ratio, loss, rows = coupled
    for (method, phase), row in by_phase(rows, detrend).items():
        first, last = SPANS[method, phase]
        x, y = ratio[first : last + 1], loss[SIZE + first : SIZE + last + 1]
        if detrend == "linear":
            time = np.arange(len(x))
            x, y = (values - np.polyval(np.polyfit(time, values, 1), time) for values in (x, y))
        if len(x) < 8:
            assert (row["status"], row["n"]) == ("too_few", len(x))
            assert np.isnan(row["r"])
            assert row.get("p") is None
        else:
            assert row["r"] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-9)
            assert row["n"] == len(x)


def test_the_coupled_phase_stands_out_and_the_others_do_not(coupled):
    rows = by_phase(coupled[2])
    found = rows["derivative", "plateau"]
    assert found["r"] > 0.9
    assert found["p"] == found["p_lags"] == 1 / 200
    assert found["low"] < found["r"] < found["high"]
    for phase in ("rise", "collapse"):
        assert rows["derivative", phase]["p"] > 0.05
        assert rows["derivative", phase]["p"] >= rows["derivative", phase]["p_lags"]


def test_a_shared_trend_alone_is_no_coupling():
    generator = np.random.default_rng(5)
    slope = np.linspace(0, 20, T)
    loss = 3 - slope + autoregressive(generator, T, 0.3)[0]
    ratio = 1.5 - slope[SIZE:] + autoregressive(generator, T - SIZE, 0.3)[0]
    rows = by_phase(phase_coupling_rows([edge(ratio)], {"val_loss": joined(loss)}))
    assert all(rows["derivative", phase]["r"] > 0.5 for phase in ("rise", "plateau", "collapse"))
    assert min(rows["derivative", phase].get("p") or 1.0 for phase in ("rise", "plateau", "collapse")) > 0.05


def test_the_size_of_the_test_is_its_level():
    """Unrelated series, 200 runs: the smallest p of a run is below 0.05 in about 5 % of them."""
    generator = np.random.default_rng(11)
    hits = 0
    for _ in range(200):
        loss = 3 + autoregressive(generator, T, 0.5)[0] - 0.01 * np.arange(T)
        ratio = 1.5 + autoregressive(generator, T - SIZE, 0.5)[0]
        rows = phase_coupling_rows([edge(ratio)], {"val_loss": joined(loss, draws=99)})
        smallest = [row["p"] for row in rows if row["detrend"] == "none" and row.get("p") is not None]
        hits += min(smallest) <= 0.05
    assert 0.01 <= hits / 200 <= 0.10


def test_a_metric_that_begins_late_is_compared_where_it_is_known():
    generator = np.random.default_rng(2)
    loss, ratio = autoregressive(generator, T, 0.3)[0], autoregressive(generator, T - SIZE, 0.3)[0]
    metric = RunMetric.joined(STEPS, STEPS[30:], loss[30:])
    rows = by_phase(phase_coupling_rows([edge(ratio, irregular=True)], {"val_loss": metric}))
    first = rows["derivative", "rise"]
    assert first["n"] == 11
    assert first["r"] == pytest.approx(np.corrcoef(ratio[20:31], loss[30:41])[0, 1], rel=1e-9)
    assert rows["derivative", "plateau"]["status"] == "irregular"
    assert rows["peak", "plateau"]["n"] == 5


def test_a_series_without_phases_has_no_rows():
    series = EdgeSeries("all", SIZE, None, np.full(T - SIZE, np.nan), {}, False)
    assert phase_coupling_rows([series], {"val_loss": joined(np.arange(T) * 1.0)}) == []
