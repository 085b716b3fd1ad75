"""Layers against a loss: each alone, all together, and the weakest of them, beside surrogates."""

import numpy as np
import pytest
from series import autoregressive

from sedarchive.compute.couplings.edge_inputs import EdgeSeries
from sedarchive.compute.couplings.group_couplings import group_rows, is_group
from sedarchive.inference.coupling import RunMetric

T, SIZE, SPACING, LAYERS = 100, 10, 50, 8
STEPS = np.arange(T) * SPACING * 1.0


def joined(loss, draws=199):
    return RunMetric(**{**vars(RunMetric.joined(STEPS, STEPS, loss)), "draws": draws})


def layers(ratios, size=SIZE):
    return [EdgeSeries(f"layer:{at}", size, 2, ratio, {}, False) for at, ratio in enumerate(ratios)]


def of(rows, measure, detrend="linear"):
    return [row for row in rows if row["measure"] == measure and row["detrend"] == detrend]


@pytest.fixture(scope="module")
def coupled():
    """Eight layers, all of which follow the loss but the third, which is noise."""
    generator = np.random.default_rng(4)
    loss = 3 + autoregressive(generator, T, 0.4)[0]
    ratios = 1.5 + 0.3 * loss[SIZE:] + 0.1 * generator.standard_normal((LAYERS, T - SIZE))
    ratios[2] = 1.5 + generator.standard_normal(T - SIZE)
    return ratios, loss, group_rows(layers(ratios), {"val_loss": joined(loss)})


def less_line(values):
    time = np.arange(values.shape[-1])
    return values - np.array([np.polyval(np.polyfit(time, row, 1), time) for row in np.atleast_2d(values)])


def test_each_layer_has_its_own_correlation(coupled):
    ratios, loss, rows = coupled
    found = of(rows, "group")
    assert [row["feature"] for row in found] == [f"layer:{at} ratio_2" for at in range(LAYERS)]
    for ratio, row in zip(ratios, found, strict=True):
        expected = np.corrcoef(less_line(ratio)[0], less_line(loss[SIZE:])[0])[0, 1]
        assert row["r"] == pytest.approx(expected, rel=1e-9)
        assert (row["n"], row["status"]) == (T - SIZE, "ok")
        assert row["low"] < row["r"] < row["high"]
        assert row["p"] >= row["p_lags"]
    assert all((row["p"] < 0.01) == (at != 2) for at, row in enumerate(found))


def test_together_they_explain_what_least_squares_says(coupled):
    ratios, loss, rows = coupled
    [row] = of(rows, "groups", "none")
    design = np.column_stack([np.ones(T - SIZE), *ratios])
    target = loss[SIZE:]
    rest = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    assert row["statistic"] == pytest.approx(1 - rest @ rest / ((target - target.mean()) ** 2).sum(), rel=1e-9)
    assert row["p"] == 1 / 200
    assert row["null_high"] < 0.5 < row["statistic"]
    assert (row["feature"], row["scope"]) == ("8 layers", "layer:*")


def test_the_weakest_layer_is_named_by_its_size_and_is_no_news(coupled):
    _, _, rows = coupled
    [row] = of(rows, "groups_weakest")
    sizes = [abs(one["r"]) for one in of(rows, "group")]
    assert abs(row["r"]) == min(sizes) == sizes[2]
    assert row["p"] == max(one["p_lags"] for one in of(rows, "group")) > 0.05


def test_when_all_layers_follow_the_weakest_stands_out():
    generator = np.random.default_rng(1)
    loss = 3 + autoregressive(generator, T, 0.4)[0]
    ratios = 1.5 + 0.3 * loss[SIZE:] + 0.1 * generator.standard_normal((LAYERS, T - SIZE))
    [row] = of(group_rows(layers(ratios), {"val_loss": joined(loss)}), "groups_weakest")
    assert row["p"] == 1 / 200
    assert abs(row["r"]) > row["null_high"]


def test_many_layers_and_few_windows_say_nothing():
    generator = np.random.default_rng(2)
    ratios = generator.standard_normal((LAYERS, 20))
    rows = group_rows(layers(ratios, T - 20), {"val_loss": joined(generator.standard_normal(T))})
    [row] = of(rows, "groups")
    assert (row["status"], row.get("statistic"), row.get("p")) == ("gaps_or_too_few", None, None)


def test_too_few_effective_pairs_leave_no_p_value_of_all_layers():
    generator = np.random.default_rng(5)
    smooth = np.cumsum(np.cumsum(generator.standard_normal((3, T - SIZE)), axis=1), axis=1)
    rows = group_rows(layers(smooth), {"val_loss": joined(np.cumsum(np.cumsum(generator.standard_normal(T))))})
    for measure in ("groups", "groups_weakest"):
        [row] = of(rows, measure)
        assert (row["status"], row["p"]) == ("few_effective", None)
        assert row["n_eff"] < 10


def test_a_gap_in_one_layer_ends_what_all_say_but_not_what_the_others_do(coupled):
    ratios, loss, _ = coupled
    ratios = ratios.copy()
    ratios[0, 5] = np.nan
    rows = group_rows(layers(ratios), {"val_loss": joined(loss)})
    assert [row["n"] for row in of(rows, "group")] == [T - SIZE - 1] + [T - SIZE] * (LAYERS - 1)
    assert of(rows, "groups")[0]["status"] == "gaps_or_too_few"
    assert of(rows, "groups_weakest")[0]["status"] == "ok"


def test_a_layer_without_a_signal_rank_is_left_out():
    generator = np.random.default_rng(3)
    edges = layers(generator.standard_normal((2, T - SIZE)))
    none = EdgeSeries("layer:2", SIZE, None, np.full(T - SIZE, np.nan), {}, False)
    metric = {"val_loss": joined(generator.standard_normal(T))}
    assert [row["feature"] for row in of(group_rows([*edges, none], metric), "groups")] == ["2 layers"]
    assert group_rows([none], metric) == []
    assert of(group_rows(edges[:1], metric), "groups") == []


def test_the_size_of_the_tests_is_their_level():
    generator = np.random.default_rng(7)
    smallest, shares = [], []
    for _ in range(120):
        ratios = np.concatenate([autoregressive(generator, T - SIZE, 0.5) for _ in range(3)])
        rows = group_rows(layers(ratios), {"val_loss": joined(autoregressive(generator, T, 0.5)[0], draws=99)})
        smallest.append(min(row["p"] for row in of(rows, "group")))
        shares.append(of(rows, "groups")[0]["p"])
    assert np.mean(np.array(smallest) <= 0.05) <= 0.11
    assert np.mean(np.array(shares) <= 0.05) <= 0.11
    assert np.mean(np.array(shares) <= 0.5) >= 0.35


def test_only_single_layers_are_groups():
    assert [is_group(scope) for scope in ("layer:0", "layer:12", "layer:0-3", "layer:*", "all")] == [
        *(True, True),
        *(False, False, False),
    ]
