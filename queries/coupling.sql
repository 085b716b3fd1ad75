-- summary: Which quantities of the updates go with a logged loss: strongest correlation and Granger test of each.
-- param window_size = 10: updates per window; one that was asked for with --window
-- param scope: group of parameters (not set: all groups)
-- param target = 'val_loss': metric in the logs
-- param stamp = 'end' | 'centre': step that stands for a window: that of its last update, or its middle
-- param detrend = 'linear' | 'none' | 'cubic': polynomial in step that is taken out of both series first
-- param kind = 'plain' | 'partial_lr' | 'difference': what is correlated; partial_lr takes out a straight line and the
--   learning rate, difference nothing but the step from one checkpoint to the next, whatever detrend says
-- param run: only this run (not set: all runs)
-- columns: run, scope, window_size, feature, target, lag, r, low, high, n_eff, p, p_lags, p_xu, status, granger_f,
--   granger_order, granger_p, granger_p_xu
-- source: Xu 2026 (arXiv:2603.15678), coupling with validation loss, and its scripts
-- note: The peak is where |r| is largest. A positive lag means that the feature leads. p is corrected for everything
--   searched in its group (lags, features, window sizes), p_lags for the lags alone. What only the trends of both share
--   (a cubic in step) counts in neither. p_xu is the authors' p-value, which knows of no search: of the peaks of noise
--   (60 points) 55 % pass at autocorrelation 0, 5.7 % at 0.5, where too few effective pairs make up for it, and 0.1 % at
--   0.9. Granger: whether one or two past values of the feature predict the loss beyond its own past and the learning
--   rate; granger_p compares with surrogates of the loss, granger_p_xu is that of the F distribution (noise passes in 6
--   to 13 %). What a learning rate drives in both correlates: compare with kind partial_lr.
WITH
chosen AS (
    SELECT *
    FROM couplings
    WHERE window_size = coalesce(getvariable('window_size'), 10)
      AND scope = coalesce(getvariable('scope'), scope)
      AND target = coalesce(getvariable('target'), 'val_loss')
      AND run = coalesce(getvariable('run'), run)
)
SELECT
    peaks.run,
    peaks.scope,
    peaks.window_size,
    peaks.feature,
    peaks.target,
    peaks.lag,
    peaks.r,
    peaks.low,
    peaks.high,
    peaks.n_eff,
    peaks.p,
    peaks.p_lags,
    peaks.p_xu,
    peaks.status,
    tests.statistic AS granger_f,
    tests.lag_order AS granger_order,
    tests.p AS granger_p,
    tests.p_xu AS granger_p_xu
FROM chosen AS peaks
LEFT JOIN chosen AS tests
    ON tests.measure = 'granger'
    AND peaks.run = tests.run
    AND peaks.scope = tests.scope
    AND peaks.feature = tests.feature
WHERE peaks.measure = 'peak'
  AND coalesce(peaks.peak_rule, 'abs') = 'abs'
  AND peaks.stamp = coalesce(getvariable('stamp'), 'end')
  AND peaks.kind = coalesce(getvariable('kind'), 'plain')
  AND (peaks.kind <> 'plain' OR peaks.detrend = coalesce(getvariable('detrend'), 'linear'))
ORDER BY peaks.run, peaks.p, peaks.p_lags, peaks.scope, peaks.feature
