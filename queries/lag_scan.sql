-- summary: Correlation of the geometry of the updates with a logged loss, at every lag, beside its p-value.
-- param window_size = 10: updates per window; one that was asked for with --window
-- param scope = 'all': group of parameters
-- param feature = 'edge_ratio': edge_ratio, gap, drift_speed, pc1_share, or ratio_1 to ratio_4
-- param target = 'val_loss': metric in the logs
-- param stamp = 'end' | 'centre': step that stands for a window: that of its last update, or its middle
-- param detrend = 'linear' | 'none' | 'cubic': polynomial in step that is taken out of both series first
-- param max_lag integer: largest lag shown, in checkpoints (not set: all that were searched)
-- param run: only this run (not set: all runs)
-- columns: run, scope, window_size, feature, target, lag, r, low, high, n, n_eff, p, p_lags, status
-- source: Xu 2026 (arXiv:2603.15678), cross-correlation of gap and validation loss, and its scripts
-- note: A positive lag means that the geometry leads: the feature at a checkpoint against the target lag checkpoints
--   later. Under stamp end a window of W updates answers W / 2 checkpoints late, which alone moves the peak by -W / 2;
--   centre does not (there the target is interpolated between logged steps). p is corrected for everything that was
--   searched (lags, features, window sizes), p_lags for the lags alone; low and high are an interval of r at
--   this lag, not of the largest of many. Both need 10 effective pairs (n_eff): status few_effective. Other statuses:
--   no_target (no loss is logged), too_few (fewer than 8 pairs), constant, irregular (checkpoints unequally spaced), ok.
SELECT
    run,
    scope,
    window_size,
    feature,
    target,
    lag,
    r,
    low,
    high,
    n,
    n_eff,
    p,
    p_lags,
    status
FROM couplings
WHERE (measure = 'lag' OR status = 'no_target')
  AND window_size = coalesce(getvariable('window_size'), 10)
  AND scope = coalesce(getvariable('scope'), 'all')
  AND feature = coalesce(getvariable('feature'), 'edge_ratio')
  AND target = coalesce(getvariable('target'), 'val_loss')
  AND stamp = coalesce(getvariable('stamp'), 'end')
  AND detrend = coalesce(getvariable('detrend'), 'linear')
  AND (CAST(getvariable('max_lag') AS BIGINT) IS NULL OR abs(lag) <= CAST(getvariable('max_lag') AS BIGINT))
  AND run = coalesce(getvariable('run'), run)
ORDER BY run, lag
