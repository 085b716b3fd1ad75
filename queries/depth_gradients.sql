-- summary: How a spectral metric changes over depth at one step: slope, ends, inverted U and its peak.
-- param metric = 'alpha' | 'stable_rank' | 'entropy' | 'alpha_sigma_weighted' | 'alpha_inverse_k' | 'alpha_ols' | 'alpha_top_half' | 'alpha_top_50' | 'alpha_hill' | 'alpha_mle': column of matrix_stats
-- param step integer: optimizer step of a checkpoint with spectra (not set: the last of each run)
-- param scope: only this scope, trunk or role:R (not set: all)
-- param run: only this run (not set: all runs)
-- columns: run, scope, metric, step, n, slope, slope_low, slope_high, first_last, spread, shape, peak, peak_low,
--   peak_high, aicc_gain, reversal_step, status
-- source: Liu 2026 (arXiv:2604.22778), gradients and inverted U; measures and tests are our reading
-- note: Slopes are over relative depth (0: first layer, 1: last). shape is inverted_u or u only where a parabola has an
--   AICc at least 2 below that of a line and its vertex lies inside. reversal_step: after it, first_last keeps its last
--   sign (NULL: it never turned; only of the first three metrics).
WITH
wanted AS (
    SELECT *
    FROM depth_gradients
    WHERE metric = coalesce(getvariable('metric'), 'alpha')
      AND run = coalesce(getvariable('run'), run)
      AND scope = coalesce(getvariable('scope'), scope)
),
last_step AS (
    SELECT run, coalesce(CAST(getvariable('step') AS BIGINT), max(step)) AS step
    FROM wanted
    GROUP BY run
)
SELECT
    wanted.run,
    wanted.scope,
    wanted.metric,
    wanted.step,
    wanted.n,
    wanted.slope,
    wanted.slope_low,
    wanted.slope_high,
    wanted.first_last,
    wanted.spread,
    wanted.shape,
    wanted.peak,
    wanted.peak_low,
    wanted.peak_high,
    wanted.aicc_gain,
    fits.estimate AS reversal_step,
    wanted.status
FROM wanted
JOIN last_step ON wanted.run = last_step.run AND wanted.step = last_step.step
LEFT JOIN fits
    ON fits.fit = 'depth_gradient' AND fits.parameter = 'reversal_' || wanted.metric
    AND fits.run = wanted.run AND fits.scope = wanted.scope
ORDER BY wanted.run, wanted.scope
