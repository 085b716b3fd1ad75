-- summary: Whether entropy mirrors alpha over the layers at the last step, by role and over all roles.
-- param scope: only this scope, trunk or role:R (not set: all)
-- param run: only this run (not set: all runs)
-- columns: run, scope, rho, low, high, null_low, null_high, p, n, status
-- source: Liu 2026 (arXiv:2604.22778): the entropy mirrors alpha, lower at early-middle layers
-- note: Spearman over layers; near -1: they mirror each other. p: all orders of the layers, above nine layers 9,999. Both
--   follow from the same singular values, so that they agree to some extent in any matrix.
SELECT
    run,
    scope,
    estimate AS rho,
    low,
    high,
    null_low,
    null_high,
    p,
    n,
    status
FROM fits
WHERE fit = 'entropy_alpha'
  AND run = coalesce(getvariable('run'), run)
  AND scope = coalesce(getvariable('scope'), scope)
ORDER BY run, scope
