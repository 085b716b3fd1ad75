-- summary: Ratios of consecutive singular values by k, over all windows of a run, beside their null bands.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param run: only this run (not set: all runs)
-- columns: run, scope, k, ratio_mean, ratio_median, null_low, null_high, share_above_null, overlap_mean, n
-- source: Xu 2026 (arXiv:2603.15678), definition 3
-- note: null_low and null_high are the means over windows of the 2.5 % and 97.5 % quantiles under random updates of the
--   same norms; share_above_null is the share of windows above their own upper quantile, 0.025 if nothing is there.
--   Windows overlap, so n windows are far fewer than n independent ones.
SELECT
    run,
    scope,
    k,
    avg(ratio) AS ratio_mean,
    median(ratio) AS ratio_median,
    avg(ratio_null_low) FILTER (WHERE isfinite(ratio_null_low)) AS null_low,
    avg(ratio_null_high) FILTER (WHERE isfinite(ratio_null_high)) AS null_high,
    avg(CASE WHEN ratio > ratio_null_high THEN 1.0::DOUBLE ELSE 0.0::DOUBLE END)
        FILTER (WHERE isfinite(ratio_null_high)) AS share_above_null,
    avg(overlap_previous) FILTER (WHERE isfinite(overlap_previous)) AS overlap_mean,
    count(*) AS n
FROM window_sigmas
WHERE window_size = coalesce(getvariable('window_size'), 10)
  AND scope = coalesce(getvariable('scope'), 'all')
  AND run = coalesce(getvariable('run'), run)
  AND isfinite(ratio)
GROUP BY run, scope, k
ORDER BY run, scope, k
