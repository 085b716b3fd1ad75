-- summary: Lag of the strongest correlation of geometry and a logged loss, by window size; where its sign flips.
-- param scope = 'all': group of parameters
-- param feature = 'edge_ratio': edge_ratio, gap, drift_speed, pc1_share, or ratio_1 to ratio_4
-- param target = 'val_loss': metric in the logs
-- param stamp = 'end' | 'centre': step that stands for a window: that of its last update, or its middle
-- param detrend = 'linear' | 'none' | 'cubic': polynomial in step that is taken out of both series first
-- param kind = 'plain' | 'partial_lr' | 'difference': what is correlated; partial_lr takes out a straight line and the
--   learning rate, difference nothing but the step from one checkpoint to the next, whatever detrend says
-- param peak = 'abs' | 'negative': the peak is the largest |r|, or the most negative r
-- param run: only this run (not set: all runs)
-- columns: run, scope, window_size, feature, target, peak_lag, r, low, high, n, n_eff, p, p_lags, first_lag, last_lag,
--   status, flip, flip_p, flip_p_lags
-- source: Xu 2026 (arXiv:2603.15678), lag flip between window sizes, and its scripts
-- note: One row for each window size that was asked for with --window. A positive lag means that the geometry leads.
--   Under stamp end a window of W updates answers W / 2 checkpoints late, which alone can turn a positive lag into a
--   negative one as W grows: compare with stamp centre. flip: the sign differs from that at the next smaller window
--   size, and both are peaks. In pure noise it does so in 42 % of runs: flip_p is the share of surrogates that flip as
--   strongly (the weaker of the two peaks counts) in any feature between any two neighbouring sizes, flip_p_lags in this
--   feature between these two alone. p is corrected for everything searched, p_lags for the lags alone;
--   low and high are an interval of r, wider for each other lag that might have been the peak. status: no_target, too_few (fewer than
--   8 pairs at every lag), constant, border (the peak lies at first_lag or last_lag: no peak), wrong_sign (no negative
--   r, under peak negative), few_effective (n_eff below 10), irregular (checkpoints unequally spaced), ok.
WITH
chosen AS (
    SELECT *
    FROM couplings
    WHERE scope = coalesce(getvariable('scope'), 'all')
      AND feature = coalesce(getvariable('feature'), 'edge_ratio')
      AND target = coalesce(getvariable('target'), 'val_loss')
      AND stamp = coalesce(getvariable('stamp'), 'end')
      AND kind = coalesce(getvariable('kind'), 'plain')
      AND (kind <> 'plain' OR detrend = coalesce(getvariable('detrend'), 'linear'))
      AND coalesce(peak_rule, coalesce(getvariable('peak'), 'abs')) = coalesce(getvariable('peak'), 'abs')
      AND run = coalesce(getvariable('run'), run)
)
SELECT
    peaks.run,
    peaks.scope,
    peaks.window_size,
    peaks.feature,
    peaks.target,
    peaks.lag AS peak_lag,
    peaks.r,
    peaks.low,
    peaks.high,
    peaks.n,
    peaks.n_eff,
    peaks.p,
    peaks.p_lags,
    peaks.first_lag,
    peaks.last_lag,
    peaks.status,
    CASE WHEN flips.status IN ('ok', 'irregular', 'no_flip') THEN flips.status <> 'no_flip' END AS flip,
    flips.p AS flip_p,
    flips.p_lags AS flip_p_lags
FROM chosen AS peaks
LEFT JOIN chosen AS flips
    ON flips.measure = 'flip' AND peaks.run = flips.run AND peaks.window_size = flips.window_size
WHERE peaks.measure = 'peak'
ORDER BY peaks.run, peaks.window_size
