"""Naive versions of the mathematics, written from the definitions; none of them calls the package."""

import math

import numpy as np


def exact_dot(a, b):
    return math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def update_rows(theta):
    """[theta_0, delta_0, ...] of (T, m) values, in float64."""
    values = np.asarray(theta, dtype=np.float64)
    return [values[0]] + [values[t + 1] - values[t] for t in range(len(values) - 1)]


def gram_matrix(theta):
    rows = update_rows(theta)
    return np.array([[exact_dot(a, b) for b in rows] for a in rows])


def ulp(value, fraction_bits, min_exponent):
    """Spacing of a format at a finite value, from the definition of its binades."""
    exponent = math.frexp(value)[1] - 1 if value else min_exponent
    return 2.0 ** (max(exponent, min_exponent) - fraction_bits)


def rounding_energy(values, fraction_bits, min_exponent):
    return math.fsum(ulp(float(v), fraction_bits, min_exponent) ** 2 / 12 for v in values if math.isfinite(v))


def part_elements(row, n_columns, first_row, axis, period, start, stop):
    """Elements of one slab (rows, columns), one checkpoint, element by element."""
    picked = []
    for r, c in np.ndindex(len(row), n_columns):
        index = first_row + r if axis == 0 else c
        if start <= index % period < stop:
            picked.append(row[r][c])
    return picked


def dense_windows(deltas, size):
    """X of every window (W, p), oldest update first."""
    return [np.asarray(deltas[i : i + size], dtype=np.float64) for i in range(len(deltas) - size + 1)]


def best_rank(ratios, allowed):
    """1-based position of the largest allowed ratio, 0 if there is none."""
    best, where = -math.inf, 0
    for k, ratio in enumerate(ratios, start=1):
        if allowed(k) and ratio > best:
            best, where = ratio, k
    return where


def edge_numbers(sigma, p):
    """Definitions 3 to 5 and the Marchenko-Pastur and BBP levels, in plain loops."""
    size = len(sigma)
    ratios = [sigma[k] / sigma[k + 1] for k in range(size - 1)]
    bottom = [s * s for s in sigma[size // 2 :]]
    nu = math.sqrt(sum(bottom) / len(bottom) / p)
    edge = math.sqrt(nu * nu * p) * (1 + math.sqrt(size / p))
    rank = best_rank(ratios, lambda k: sigma[k] >= edge)
    energy, running, k95 = sum(s * s for s in sigma), 0.0, 0
    while running < 0.95 * energy:
        running += sigma[k95] ** 2
        k95 += 1
    return {
        "edge_ratio": max(ratios),
        "edge_k": best_rank(ratios, lambda k: True),
        "signal_rank": rank,
        "signal_rank_mp": best_rank(ratios, lambda k: sigma[k - 1] >= edge),
        "signal_rank_argmax": best_rank(ratios, lambda k: True),
        "signal_rank_weighted": best_rank([s * r for s, r in zip(sigma, ratios, strict=False)], lambda k: True),
        "gap": sigma[rank - 1] - sigma[rank] if rank else math.nan,
        "noise": nu,
        "mp_edge": edge,
        "bbp_ratio": sigma[-1] / (nu * (p * (size - 1)) ** 0.25),
        "pc1_share": sigma[0] ** 2 / energy,
        "k95": k95,
    }


def gaussian_null(norms, dimension, draws, seed):
    """Singular values (draws, W) of explicit random vectors of given norms."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(draws):
        rows = [generator.standard_normal(dimension) for _ in norms]
        rows = [norm * row / math.sqrt(row @ row) for norm, row in zip(norms, rows, strict=True)]
        found.append(np.linalg.svd(np.array(rows), compute_uv=False)[: min(len(norms), dimension)])
    return np.array(found)


def weighted_slope(x, y, weights):
    """Slope of the weighted least-squares line, from the normal equations."""
    design = np.column_stack([np.ones(len(x)), x])
    return float(np.linalg.solve(design.T @ (weights[:, None] * design), design.T @ (weights * y))[1])
