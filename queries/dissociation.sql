-- summary: Whether compression becomes even over depth again while alpha stays uneven, with each part of the test.
-- param scope: only this scope, trunk or role:R (not set: all)
-- param run: only this run (not set: all runs)
-- columns: run, scope, dissociated, p, spread_compression, spread_alpha, spread_ratio, spread_low, spread_high, spread_p,
--   reversal_step, gradient_before, gradient_after, gradient_null, alpha_slope, alpha_tau, alpha_p, n, status
-- source: Liu 2026 (arXiv:2604.22778): the compression gradient reverses, that of alpha strengthens; the test is ours
-- note: Three parts. spread_: what each keeps at the last step of its largest standard deviation over layers; its null
--   swaps the two in random layers. reversal_step: compression of the last layer less the first was beyond gradient_null
--   with one sign and then the other. alpha_: the slope of alpha over depth moves away from 0. p is the larger of the
--   two; dissociated: all parts hold (NULL: one is unknown and none fails).
SELECT
    run,
    scope,
    dissociated,
    p,
    spread_compression,
    spread_alpha,
    spread_ratio,
    spread_low,
    spread_high,
    spread_p,
    reversal_step,
    gradient_before,
    gradient_after,
    gradient_null,
    alpha_slope,
    alpha_tau,
    alpha_p,
    n,
    status
FROM dissociations
WHERE run = coalesce(getvariable('run'), run)
  AND scope = coalesce(getvariable('scope'), scope)
ORDER BY run, scope
