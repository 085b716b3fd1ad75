"""Drift, backbone and components of a displacement: naive forms from vectors, and the walks that they stand beside."""

import numpy as np
import pytest

from sedarchive.gram import Gram
from sedarchive.nulls.bands import effective_dimension
from sedarchive.nulls.drifts import limit_shares, share_nulls
from sedarchive.rolling.drift import BACKBONE_KINDS, KINDS, backbone, components, displacements, leading

PROFILES = {
    "equal": np.ones(60),
    "decay": np.exp(-np.arange(60) / 15) + 0.02,
    "growth": np.exp(np.arange(60) / 15),
    "spike": np.r_[np.ones(35), 12.0, np.ones(24)],
}


def matrices(updates):
    """The three matrices of displacements of explicit updates (n, p), a row a checkpoint."""
    path = np.cumsum(np.r_[np.zeros((1, updates.shape[1])), updates], axis=0)
    length = np.linalg.norm(path, axis=1, keepdims=True)
    scaled = np.divide(path, length, out=np.zeros_like(path), where=length > 0)
    return dict(zip(KINDS, (path, scaled, path - path.mean(axis=0)), strict=True))


def naive_shares(updates, count=5):
    found = {}
    for kind, rows in matrices(updates).items():
        energy = np.linalg.svd(rows, compute_uv=False) ** 2
        found[kind] = (energy / energy.sum())[: min(count, len(updates))]
    return found


def shares_of(updates, count=5):
    moved = displacements(updates @ updates.T)
    return {kind: components(moved, kind, count).shares for kind in KINDS}


def walk_updates(rng, norms, p):
    steps = rng.standard_normal((len(norms), p))
    return steps * (norms / np.linalg.norm(steps, axis=1))[:, None]


def gram_of(updates):
    rows = np.r_[np.zeros((1, updates.shape[1])), updates]
    return Gram(rows @ rows.T, None, rows @ rows[0])


# What is observed


@pytest.mark.parametrize("n_updates", [1, 2, 7, 200])
def test_shares_are_those_of_the_vectors(n_updates):
    updates = np.random.default_rng(1).standard_normal((n_updates, 300)) + 0.05
    found, wanted = shares_of(updates), naive_shares(updates)
    for kind in KINDS:
        np.testing.assert_allclose(found[kind], wanted[kind], rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("kind", BACKBONE_KINDS)
@pytest.mark.parametrize("n_updates", [9, 150])
def test_the_backbone_is_the_first_singular_vector(kind, n_updates):
    updates = np.random.default_rng(2).standard_normal((n_updates, 400)) + 0.1
    moved = displacements(updates @ updates.T)
    found = backbone(moved, kind, components(moved, kind).first)
    path = matrices(updates)["raw"]
    direction = np.linalg.svd(matrices(updates)[kind], full_matrices=False)[2][0]
    along = path @ direction
    along = along if along[-1] > 0 else -along
    beside = np.linalg.norm(path - np.outer(path @ direction, direction), axis=1)
    np.testing.assert_allclose(found.coordinate, along, atol=1e-9 * np.abs(along).max())
    np.testing.assert_allclose(found.residual, beside, atol=1e-6 * beside.max())
    np.testing.assert_allclose(found.share[1:], along[1:] ** 2 / (path[1:] ** 2).sum(axis=1), atol=1e-9)
    assert np.isnan(found.share[0])
    assert found.coordinate[0] == found.residual[0] == moved.length[0] == 0
    np.testing.assert_allclose(moved.length, np.linalg.norm(path, axis=1))


def test_all_shares_together_are_one():
    for shares in shares_of(np.random.default_rng(3).standard_normal((30, 100)), count=30).values():
        assert shares.sum() == pytest.approx(1)


def test_a_rotation_changes_nothing():
    rng = np.random.default_rng(4)
    updates = rng.standard_normal((90, 120))
    rotation = np.linalg.qr(rng.standard_normal((120, 120)))[0]
    for kind in KINDS:
        np.testing.assert_allclose(shares_of(updates)[kind], shares_of(updates @ rotation)[kind], rtol=1e-9)


def test_the_centred_shares_do_not_depend_on_the_reference():
    updates = np.random.default_rng(5).standard_normal((20, 50))
    path = np.cumsum(np.r_[np.zeros((1, 50)), updates], axis=0) - 3.0
    energy = np.linalg.svd(path - path.mean(axis=0), compute_uv=False) ** 2
    np.testing.assert_allclose(shares_of(updates)["centred"], (energy / energy.sum())[:5])


def test_what_cannot_be_decomposed_has_no_shares_and_no_backbone():
    for updates in (np.zeros((3, 3)), np.full((3, 3), np.nan)):
        moved = displacements(updates)
        for kind in KINDS:
            assert np.isnan(components(moved, kind).shares).all()
        found = backbone(moved, "raw", components(moved, "raw").first)
        assert np.isnan([found.coordinate, found.residual, found.share]).all()


def test_a_displacement_is_known_up_to_the_first_update_that_is_not():
    updates = np.eye(5)
    updates[3, :], updates[:, 3] = np.nan, np.nan
    np.testing.assert_allclose(displacements(updates).length, np.sqrt([0, 1, 2, 3, np.nan, np.nan]))


def test_a_return_to_the_start_is_a_displacement_of_nothing():
    steps = np.random.default_rng(6).standard_normal((5, 40))
    updates = np.r_[steps, -steps.sum(axis=0, keepdims=True), steps[:2]]
    moved = displacements(updates @ updates.T)
    assert moved.length[[0, 6]].tolist() == [0, 0]
    found = backbone(moved, "row_normalised", components(moved, "row_normalised").first)
    assert np.flatnonzero(np.isnan(found.share)).tolist() == [0, 6]


def test_a_residual_that_is_rounding_is_not_given():
    updates = np.outer(1.0 + np.arange(80), np.random.default_rng(7).standard_normal(50))
    moved = displacements(updates @ updates.T)
    found = backbone(moved, "raw", components(moved, "raw").first)
    assert np.isnan(found.residual[1:]).all()
    np.testing.assert_allclose(found.share[1:], 1)


@pytest.mark.parametrize("spectrum", ["flat", "steep", "rank one"])
def test_the_leading_eigenvectors_are_those_of_a_full_decomposition(spectrum):
    rng = np.random.default_rng(8)
    values = {"flat": np.ones(100), "steep": 0.5 ** np.arange(100), "rank one": np.r_[1.0, np.zeros(99)]}[spectrum]
    basis = np.linalg.qr(rng.standard_normal((100, 100)))[0]
    matrix = (basis * values) @ basis.T
    energy, vectors = leading(lambda rows: matrix @ rows, 100, 5)
    np.testing.assert_allclose(energy, values[:5], atol=1e-12)
    np.testing.assert_allclose(matrix @ vectors, vectors * energy, atol=1e-10)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(5), atol=1e-10)


# What a random walk gives


BESSEL = np.array([2.404825557695773, 5.520078110286311])
"""First zeros of the Bessel function J_0."""
LIMITS = {
    "raw": 8 / np.pi**2 / np.array([1, 9]),
    "row_normalised": 4 / BESSEL**2,
    "centred": 6 / np.pi**2 / np.array([1, 4]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_walk_of_equal_updates_has_the_limiting_shares(kind):
    np.testing.assert_allclose(limit_shares(np.ones(20_000), kind, 2), LIMITS[kind], rtol=1e-4)


def test_fifty_checkpoints_of_a_walk_have_the_row_normalised_shares_of_the_simulation():
    np.testing.assert_allclose(limit_shares(np.ones(50), "row_normalised", 2), [0.697, 0.134], atol=2e-3)


@pytest.mark.parametrize("norms", PROFILES.values(), ids=PROFILES)
def test_the_limit_of_many_dimensions_is_that_of_orthogonal_updates(norms):
    wanted = naive_shares(np.diag(norms))
    for kind in KINDS:
        np.testing.assert_allclose(limit_shares(norms**2, kind, 5), wanted[kind], rtol=1e-9)


@pytest.mark.parametrize("p", [6, 12, 20, 200])
@pytest.mark.parametrize("name", PROFILES)
def test_the_null_is_that_of_walks_drawn_update_by_update(name, p):
    rng, norms = np.random.default_rng(9), PROFILES[name]
    drawn = [naive_shares(walk_updates(rng, norms, p)) for _ in range(400)]
    nulls = share_nulls(norms, p, {kind: np.full(5, 0.1) for kind in KINDS}, draws=1999)
    for kind in KINDS:
        walks = np.stack([one[kind] for one in drawn])
        spread = walks.std(axis=0)
        off = np.abs(nulls[kind].median - np.median(walks, axis=0)) / (spread + 1e-4)
        assert (off < [0.3, 0.3, 0.7, 0.7, 0.7]).all(), off
        outside = np.array([(walks < nulls[kind].low).mean(axis=0), (walks > nulls[kind].high).mean(axis=0)])
        assert (outside[:, :2] < 0.065).all()
        assert (outside[:, :2].sum(axis=0) > 0.005).all()  # a band that holds everything tells nothing


@pytest.mark.parametrize("p", [8, 300])
def test_updates_that_move_nothing_take_no_direction(p):
    rng, norms = np.random.default_rng(14), np.zeros(40)
    norms[[5, 6, 20]] = 1.0, 2.0, 1.0
    walks = [naive_shares(walk_updates(rng, norms + 1e-300, p)) for _ in range(1000)]
    nulls = share_nulls(norms, p, {kind: np.full(5, 0.1) for kind in KINDS}, draws=2000)
    for kind in KINDS:
        quantiles = np.quantile(np.stack([one[kind] for one in walks]), [0.025, 0.5, 0.975], axis=0)[:, :3]
        found = np.stack([nulls[kind].low, nulls[kind].median, nulls[kind].high])
        np.testing.assert_allclose(found[:, :3], quantiles, atol=0.02)
        assert np.isnan(found[:, 3:]).all()


def test_a_residual_that_is_rounding_of_a_long_way_is_unknown():
    direction = np.random.default_rng(15).standard_normal(200)
    there_and_back = np.where(np.arange(401) % 2, -1.0, 1.0 + 1e-3)[:, None] * direction
    moved = displacements(there_and_back @ there_and_back.T)
    found = backbone(moved, "raw", components(moved, "raw").first)
    assert np.isnan(found.residual[1:]).all()


@pytest.mark.parametrize("p", [3, 40])
def test_short_histories_have_the_null_of_their_own_updates(p):
    rng, norms = np.random.default_rng(10), np.array([1.0, 5.0, 2.0, 0.5, 1.0, 1.0])
    walks = [naive_shares(walk_updates(rng, norms, p)) for _ in range(2000)]
    nulls = share_nulls(norms, p, {kind: np.full(5, 0.1) for kind in KINDS}, draws=2000)
    for kind in KINDS:
        quantiles = np.quantile(np.stack([one[kind] for one in walks]), [0.025, 0.5, 0.975], axis=0)[:, : min(p, 5)]
        found = np.stack([nulls[kind].low, nulls[kind].median, nulls[kind].high])
        np.testing.assert_allclose(found[:, : min(p, 5)], quantiles, atol=0.02)
        assert np.isnan(found[:, p:]).all()


@pytest.mark.parametrize("p", [15, 300])
def test_random_walks_are_called_large_as_often_as_p_says(p):
    """With one set of draws, whose own error is shared by all walks, and the dimension that is known."""
    rng, n_walks = np.random.default_rng(11), 300
    norms = 0.1 + np.cos(np.linspace(0, 1.4, 50))
    walks = [shares_of(walk_updates(rng, norms, p)) for _ in range(n_walks)]
    for kind in KINDS:
        edges = share_nulls(norms, p, {kind: np.full(2, 0.5)}, draws=1999)[kind].high
        above = (np.array([one[kind][:2] for one in walks]) > edges).mean(axis=0)
        assert (above < 0.025 + 4 * (0.025 * 0.975 / n_walks) ** 0.5).all()
        assert (above > 0.0).all()  # none of 300 has a chance of 0.0005


def test_p_is_the_share_of_walks_at_or_above():
    rng, norms = np.random.default_rng(13), np.ones(40)
    observed = {kind: share * 1.02 for kind, share in naive_shares(walk_updates(rng, norms, 60)).items()}
    walks = [naive_shares(walk_updates(rng, norms, 60)) for _ in range(400)]
    for kind, null in share_nulls(norms, 60, observed).items():
        wanted = (np.stack([one[kind] for one in walks]) >= observed[kind]).mean(axis=0)
        np.testing.assert_allclose(null.p, wanted, atol=0.1)


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.3])
def test_a_straight_drift_is_no_random_walk(noise):
    rng = np.random.default_rng(12)
    updates = rng.standard_normal(500) / 500**0.5 + noise * rng.standard_normal((100, 500)) / 500**0.5
    shares = shares_of(updates)
    p_eff = effective_dimension(gram_of(updates), 500)
    nulls = share_nulls(np.linalg.norm(updates, axis=1), p_eff, shares)
    assert shares["raw"][0] > 0.99
    assert nulls["raw"].p[0] < 0.05


def test_equal_seeds_give_equal_bits():
    first, second = (share_nulls(PROFILES["decay"], 77.5, {"raw": np.full(5, 0.1)}) for _ in range(2))
    assert np.array_equal(first["raw"].median, second["raw"].median)


def test_one_update_is_one_component_of_any_walk():
    null = share_nulls(np.ones(1), 100.0, {kind: np.ones(1) for kind in KINDS})
    assert all(one.median.tolist() == [1.0] and one.p.tolist() == [1.0] for one in null.values())


def test_a_space_of_two_dimensions_has_no_third_component():
    null = share_nulls(np.ones(30), 2.0, {"raw": np.full(5, 0.1)})["raw"]
    assert np.isfinite(null.p).tolist() == [True, True, False, False, False]
