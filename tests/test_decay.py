"""The gradient's and the weight decay's share: against plain loops on dense histories, and against a real AdamW."""

import numpy as np
import oracles
import pytest
import torch

from sedarchive.gram import Gram
from sedarchive.rolling.decay import decay_products
from sedarchive.rolling.windows import window_series

T, P = 16, 40


def gram_of(theta):
    rows = np.array(oracles.update_rows(theta))
    full = rows @ rows.T
    return Gram(full, None, full[0])


def naive_shares(theta, decays, size, part):
    """Shares (n, W) from explicit vectors; ``part`` (T - 1, p) is the decay's part of each update."""
    deltas = np.diff(theta, axis=0)
    shares, alignments = [], []
    for start, x in enumerate(oracles.dense_windows(deltas, size)):
        _, _, v = np.linalg.svd(x, full_matrices=False)
        share, alignment = [], []
        for k in range(size):
            own = [part[start + i] @ v[k] for i in range(size)]
            rest = [x[i] @ v[k] - own[i] for i in range(size)]
            e_own, e_rest = np.mean(np.square(own)), np.mean(np.square(rest))
            share.append(e_rest / (e_rest + e_own))
            alignment.append(np.mean(np.multiply(own, rest)) / np.sqrt(e_own * e_rest))
        shares.append(share)
        alignments.append(alignment)
    return np.array(shares), np.array(alignments)


@pytest.mark.parametrize("size", [3, 6])
def test_shares_follow_the_definition_on_a_dense_history(size):
    rng = np.random.default_rng(0)
    theta = 5 + np.cumsum(rng.standard_normal((T, P)), axis=0)
    decays = np.arange(P) < 25
    rate = rng.uniform(0.01, 0.2, T - 1)
    part = -rate[:, None] * 0.5 * (theta[1:] + theta[:-1]) * decays
    wanted, alignment = naive_shares(theta, decays, size, part)
    products = decay_products(gram_of(theta * decays), rate)
    np.testing.assert_allclose(products, part @ np.diff(theta, axis=0).T, rtol=1e-9, atol=1e-9)
    series = window_series(gram_of(theta), size, P, products)
    np.testing.assert_allclose(series.gradient_share, wanted, rtol=1e-8)
    np.testing.assert_allclose(series.decay_alignment, alignment, atol=1e-8)


def test_a_history_that_only_decays_has_no_gradient_share_along_its_direction():
    theta = np.outer(0.9 ** np.arange(8), np.arange(1.0, 6.0))
    rate = np.full(7, 2 * (1 - 0.9) / (1 + 0.9))  # the exact rate of a line between checkpoints
    series = window_series(gram_of(theta), 4, 5, decay_products(gram_of(theta), rate))
    np.testing.assert_allclose(series.gradient_share[:, 0], 0, atol=1e-12)
    assert np.isnan(series.gradient_share[:, 1:]).all()


def test_without_decay_the_gradient_does_it_all_and_an_unknown_rate_is_unknown():
    theta = np.cumsum(np.random.default_rng(1).standard_normal((T, P)), axis=0)
    gram = gram_of(theta)
    none = window_series(gram, 4, P, decay_products(gram, np.zeros(T - 1)))
    assert (none.gradient_share == 1).all()
    assert np.isnan(none.decay_alignment).all()
    rate = np.full(T - 1, 0.1)
    rate[6] = np.nan
    some = window_series(gram, 4, P, decay_products(gram, rate))
    assert np.isnan(some.gradient_share).all(axis=1).tolist() == [3 <= t <= 6 for t in range(12)]
    assert np.isnan(window_series(gram, 4, P).gradient_share).all()


def test_a_banded_gram_matrix_knows_no_products_with_the_weights():
    band = np.ones((T, 4))
    assert decay_products(Gram(None, band, np.ones(T)), np.ones(T - 1)) is None


def train(every=5, n=12, lr=1e-2, decay=0.3):
    """Checkpoints (n + 1, p) of a regression with AdamW, and what decay truly took between them (n, p)."""
    torch.manual_seed(0)
    weight = torch.randn(8, 12, dtype=torch.float64, requires_grad=True)
    inputs = torch.randn(64, 12, dtype=torch.float64)
    wanted = inputs @ torch.randn(12, 8, dtype=torch.float64)
    optimizer = torch.optim.AdamW([weight], lr=lr, weight_decay=decay)
    theta, part = [weight.detach().clone().ravel().numpy()], []
    for _ in range(n):
        taken = np.zeros(96)
        for _ in range(every):
            taken -= lr * decay * weight.detach().ravel().numpy()
            optimizer.zero_grad()
            (inputs @ weight.T - wanted).square().mean().backward()
            optimizer.step()
        theta.append(weight.detach().clone().ravel().numpy())
        part.append(taken)
    return np.array(theta), np.array(part), lr * decay * every


def test_the_shares_of_a_real_adamw_are_those_of_the_decay_it_did():
    theta, part, rate = train()
    gram = gram_of(theta)
    series = window_series(gram, 5, 96, decay_products(gram, np.full(len(part), rate)))
    wanted, alignment = naive_shares(theta, np.ones(96), 5, part)
    assert 1 - wanted[:, 0].min() > 0.02
    np.testing.assert_allclose(series.gradient_share, wanted, atol=0.01)
    assert np.abs(series.decay_alignment - alignment).mean() < 0.02


def test_without_the_starting_point_the_decay_comes_out_wrong():
    theta, part, rate = train()
    gram, full = gram_of(theta), gram_of(theta).full.copy()
    full[0], full[:, 0] = 0, 0
    lost = Gram(full, None, full[0])
    right, wrong = (
        window_series(gram, 5, 96, decay_products(one, np.full(len(part), rate))).gradient_share for one in (gram, lost)
    )
    assert np.abs(wrong - right).max() > 0.02
