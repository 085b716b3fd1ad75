"""Alpha against a loss: what moves together is found, what only has a trend in common is not."""

import numpy as np
import pytest
from scipy import stats
from series import autoregressive, cosine_rate, rejections

from sedarchive.compute.lifecycle.lifecycle_rows import LayerMetrics
from sedarchive.compute.lifecycle.loss_rows import loss_rows
from sedarchive.lifecycle.lossrank import change_couplings, level_couplings
from sedarchive.tables import Database

DRAWS = 99


def pair(rng, n, rate=8.0, noise=0.03, rho=0.5, shared=0.0):
    """A rise and a fall that bend at the same rate, with noise of which a part is shared, of opposite sign."""
    time, hidden = np.arange(n) / n, autoregressive(rng, n, rho, 3)
    own = np.sqrt(1 - shared**2) * hidden[1:]
    rise = 1 - np.exp(-rate * time) + noise * (shared * hidden[0] + own[0])
    return 0.3 + 0.2 * rise, 2 + 3 * (np.exp(-rate * time) - noise * (shared * hidden[0] + own[1]))


def p_values(n, trials, **how):
    found = []
    for at in range(trials):
        alpha, loss = pair(np.random.default_rng([n, at]), n, **how)
        found += change_couplings(alpha[None], loss, np.arange(float(n)), draws=DRAWS, seed=at)
    return [one.p for one in found]


@pytest.mark.parametrize("n", [30, 100])
@pytest.mark.parametrize(
    "how",
    [{"rho": 0.0}, {"rho": 0.9}, {"rate": 20.0, "noise": 0.003}, {"rate": 60.0, "noise": 0.01}],
    ids=["white", "slow", "fast start, little noise", "very fast start"],
)
def test_unrelated_curves_with_trends_are_called_related_in_a_twentieth(n, how):
    assert rejections(p_values(n, 120, **how))[0] <= 0.1  # 0.05 and two and a half standard errors


def test_what_only_the_learning_rate_links_is_not_called_related():
    lr, steps, plain, partial = cosine_rate(100), np.arange(100.0), [], []
    for at in range(100):
        alpha, loss = (np.cumsum(lr + 0.03 * row) for row in np.random.default_rng([7, at]).standard_normal((2, 100)))
        plain += change_couplings(alpha[None], -loss, steps, draws=DRAWS)
        partial += change_couplings(alpha[None], -loss, steps, lr, draws=DRAWS)
    assert rejections([one.p for one in partial])[0] <= 0.1
    assert rejections([one.p for one in plain])[0] > 0.3  # a warm-up bends too sharply for a cubic


def test_their_plain_differences_are_called_related_by_the_naive_test():
    pairs = [pair(np.random.default_rng([6, at]), 100, rate=20.0, noise=0.003) for at in range(60)]
    p = [stats.spearmanr(np.diff(alpha), np.diff(loss)).pvalue for alpha, loss in pairs]
    assert rejections(p)[0] > 0.5


def test_their_levels_correlate_all_the_same_and_have_no_p():
    alpha, loss = pair(np.random.default_rng(0), 100)
    [level] = level_couplings(alpha[None], loss)
    assert level.rho == pytest.approx(stats.spearmanr(alpha, loss).statistic)
    assert level.rho < -0.4
    assert (level.status, np.isnan(level.p)) == ("level", True)


@pytest.mark.parametrize(("n", "rho", "least"), [(60, 0.5, 0.6), (200, 0.5, 0.95), (200, 0.9, 0.95)])
def test_what_moves_together_is_found(n, rho, least):
    assert rejections(p_values(n, 60, rho=rho, shared=0.75))[0] >= least


def test_the_interval_covers_the_correlation_of_the_changes():
    found = []
    for at in range(200):
        rng = np.random.default_rng([1, at])
        changes = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 121).T
        found += change_couplings(changes[:1].cumsum(axis=1), changes[1].cumsum(), np.arange(121.0), draws=9)
    truth = 6 / np.pi * np.arcsin(0.6 / 2)
    assert 0.9 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.99


def test_the_p_of_two_features_is_not_below_that_of_one():
    rng = np.random.default_rng(2)
    alpha, loss = pair(rng, 80, shared=0.8)
    both = change_couplings(np.stack([alpha, rng.standard_normal(80)]), loss, np.arange(80.0), draws=DRAWS)
    assert all(one.p >= one.p_feature for one in both)
    assert both[0].p_feature <= 0.02 < both[1].p_feature


def test_equal_values_share_their_rank():
    alpha = np.repeat(np.arange(10.0), 4)
    loss = np.round(10 - alpha + np.random.default_rng(3).standard_normal(40))
    [level] = level_couplings(alpha[None], loss)
    assert level.rho == pytest.approx(stats.spearmanr(alpha, loss).statistic)


def test_pairs_that_cannot_be_judged_say_why():
    steps, rng = np.arange(60.0), np.random.default_rng(4)
    loss = rng.standard_normal(60)
    [few] = change_couplings(loss[None, :20], loss[:20], steps[:20])
    assert (few.status, few.n) == ("too_few", 19)
    features = np.stack([np.full(60, 0.3), np.sin(steps / 4)])
    constant, smooth = change_couplings(features, np.cos(steps / 4), steps, draws=DRAWS)
    assert (constant.status, smooth.status) == ("constant", "few_effective")
    assert np.isnan([smooth.p, smooth.low]).all()
    assert {one.status for one in change_couplings(features[1:], np.full(60, 2.0), steps, draws=DRAWS)} == {"constant"}
    assert level_couplings(features, loss)[0].status == "constant"


def test_the_loss_is_read_at_the_steps_that_have_alpha():
    rng = np.random.default_rng(5)
    alpha, loss = pair(rng, 60)
    spread = np.linspace(-0.1, 0.1, 4)[:, None] * rng.random(60)
    metrics = LayerMetrics("trunk", 100 * np.arange(60), np.arange(4), {"alpha": alpha + spread}, np.zeros(4))
    with Database.in_memory() as db:
        log = {"step": 100 * np.arange(10, 60), "name": "val_loss", "value": loss[10:], "source": "log"}
        db.replace("metrics", {"run": "one"}, log)
        rows = {(row["kind"], row["feature"]): row for row in loss_rows(db, "one", metrics)}
    assert {row["target"] for row in rows.values()} == {"val_loss"}
    assert rows["level", "mean_alpha"]["n"] == 50
    assert rows["difference", "spread_alpha"]["n"] == 49
    expected = stats.spearmanr(np.ptp(alpha + spread, axis=0)[10:], loss[10:]).statistic
    assert rows["level", "spread_alpha"]["rho"] == pytest.approx(expected)
