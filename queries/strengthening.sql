-- summary: Whether the gradient of a spectral metric over depth strengthens in the course of a run.
-- param metric: only this metric, as in depth_gradients (not set: all)
-- param gradient = 'slope' | 'spread': of a metric over depth
-- param scope = 'trunk': trunk, or role:R
-- param run: only this run (not set: all runs)
-- columns: run, scope, metric, gradient, last, rate, rate_low, rate_high, tau, p, n, n_eff, strengthens, status
-- source: Liu 2026 (arXiv:2604.22778): the gradient of alpha strengthens monotonically; the test is our reading
-- note: rate: median slope of all pairs of steps, per step, with its interval. tau and p: Mann-Kendall, for noise that is
--   correlated between checkpoints; NULL and few_effective where a trend cannot be told from slow noise. strengthens: p
--   at most 0.05 and away from 0. A few of all metrics and scopes do so by chance.
SELECT
    run,
    scope,
    metric,
    gradient,
    last,
    rate,
    rate_low,
    rate_high,
    tau,
    p,
    n,
    n_eff,
    CASE WHEN p IS NOT NULL THEN p <= 0.05 AND sign(tau) = sign(last) END AS strengthens,
    status
FROM depth_trends
WHERE gradient = coalesce(getvariable('gradient'), 'slope')
  AND scope = coalesce(getvariable('scope'), 'trunk')
  AND metric = coalesce(getvariable('metric'), metric)
  AND run = coalesce(getvariable('run'), run)
ORDER BY run, scope, metric
