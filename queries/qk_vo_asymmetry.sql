-- summary: Whether query and key matrices differ more over depth than value and output matrices.
-- param run: only this run (not set: all runs)
-- columns: run, quantity, ratio, low, high, null_low, null_high, p, n, status
-- source: Liu 2026 (arXiv:2604.22778), Q/K-V asymmetry; the measure is our reading
-- note: ratio of the standard deviations over layers, within roles, at the last step: of compression and of alpha.
--   low and high: 95 % interval as if layers were independent; null and p: the pairs of roles swapped in random layers.
SELECT
    run,
    replace(parameter, 'spread_', '') AS quantity,
    estimate AS ratio,
    low,
    high,
    null_low,
    null_high,
    p,
    n,
    status
FROM fits
WHERE fit = 'qk_vo_asymmetry' AND run = coalesce(getvariable('run'), run)
ORDER BY run, quantity
