-- summary: Correlation of the geometry of the updates with a logged metric, at every lag.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param feature = 'edge_ratio' | 'gap' | 'drift_speed' | 'pc1_share': column of windows that may lead
-- param target = 'val_loss': metric in the logs
-- param stamp = 'end' | 'centre': step that stands for a window: that of its last update, or its middle
-- param align = 'exact' | 'nearest' | 'interpolate': logged value that a checkpoint gets, as in checkpoint_metrics
-- param detrend = 'linear' | 'none': whether a straight line against step is taken out of both series first
-- param max_lag integer: largest lag searched, in checkpoints (not set: half the window and 5 more)
-- param run: only this run (not set: all runs)
-- columns: run, scope, window_size, feature, target, lag, r, n, status
-- source: Xu 2026 (arXiv:2603.15678), cross-correlation of gap and validation loss, and its scripts
-- note: A positive lag means that the geometry leads: the feature at a checkpoint against the target lag checkpoints
--   later. n counts the pairs, each line is fitted to the pairs of its own lag. Under stamp end a window of W updates
--   answers W / 2 checkpoints late, which alone moves the peak by -W / 2; centre does not (there the target is
--   interpolated between logged steps). Under stamp end and align exact the metric must be logged at the checkpoint;
--   how far nearest and interpolate reach is in the view checkpoint_metrics, column distance. No p-value yet:
--   neighbouring windows share updates, and the largest of many lags is large by chance. status: no_target (the metric
--   is not logged at any checkpoint), too_few (fewer than 8 pairs), constant (a straight line), irregular (checkpoints
--   unequally spaced), ok.
WITH
choice AS (
    SELECT
        CAST(coalesce(getvariable('window_size'), 10) AS BIGINT) AS window_size,
        coalesce(getvariable('scope'), 'all') AS scope,
        coalesce(getvariable('feature'), 'edge_ratio') AS feature,
        coalesce(getvariable('target'), 'val_loss') AS target,
        coalesce(getvariable('stamp'), 'end') AS stamp,
        coalesce(getvariable('align'), 'exact') AS align,
        coalesce(getvariable('detrend'), 'linear') AS detrend,
        CAST(getvariable('max_lag') AS BIGINT) AS max_lag
),
numbered AS (
    SELECT run, step, lead(step) OVER in_order AS next_step, row_number() OVER in_order AS place
    FROM checkpoints
    WINDOW in_order AS (PARTITION BY run ORDER BY step)
),
-- Places count half checkpoints, so that the middle of a window of an odd number of updates has one too.
places AS (
    SELECT run, 2 * place AS place, CAST(step AS DOUBLE) AS step
    FROM numbered
    UNION ALL
    SELECT run, 2 * place + 1, step + (next_step - step) / 2
    FROM numbered
    WHERE next_step IS NOT NULL
),
logged AS (
    SELECT run, CAST(step AS DOUBLE) AS step, min_by(value, coalesce(source, '')) AS value
    FROM metrics
    JOIN choice ON metrics.name = choice.target
    WHERE isfinite(value)
    GROUP BY run, step
),
targets AS (
    SELECT
        places.run,
        places.place,
        places.step,
        CASE
            WHEN later.step = earlier.step THEN earlier.value
            WHEN choice.align = 'nearest' AND (places.step - earlier.step <= later.step - places.step) IS NOT false
                THEN coalesce(earlier.value, later.value)
            WHEN choice.align = 'nearest' THEN later.value
            ELSE earlier.value
                + (later.value - earlier.value) * (places.step - earlier.step) / (later.step - earlier.step)
        END AS target_value
    FROM places
    ASOF LEFT JOIN logged AS earlier ON places.run = earlier.run AND places.step >= earlier.step
    ASOF LEFT JOIN logged AS later ON places.run = later.run AND places.step <= later.step
    CROSS JOIN choice
    WHERE CASE choice.align
        WHEN 'nearest' THEN coalesce(earlier.step, later.step) IS NOT NULL
        WHEN 'interpolate' THEN earlier.step <= later.step
        ELSE earlier.step <= later.step AND (places.step = earlier.step OR choice.stamp = 'centre')
    END
),
features AS (
    SELECT
        windows.run,
        windows.window_size,
        2 * numbered.place - CASE WHEN choice.stamp = 'centre' THEN windows.window_size ELSE 0 END AS place,
        CASE WHEN choice.stamp = 'centre' THEN windows.step_centre ELSE CAST(windows.step AS DOUBLE) END AS step,
        CASE choice.feature
            WHEN 'edge_ratio' THEN windows.edge_ratio
            WHEN 'gap' THEN windows.gap
            WHEN 'drift_speed' THEN windows.drift_speed
            WHEN 'pc1_share' THEN windows.pc1_share
        END AS feature_value,
        coalesce(windows.irregular, false) AS irregular
    FROM windows
    JOIN numbered ON windows.run = numbered.run AND windows.step = numbered.step
    JOIN choice ON windows.scope = choice.scope AND windows.window_size = choice.window_size
    WHERE windows.run = coalesce(getvariable('run'), windows.run)
),
series AS (
    SELECT
        run,
        window_size,
        bool_or(irregular) AS irregular,
        run IN (SELECT run FROM targets) AS has_target,
        ceil(window_size / 2) AS half_window
    FROM features
    GROUP BY run, window_size
),
lags AS (
    SELECT
        series.run,
        series.window_size,
        series.irregular,
        unnest(CASE WHEN has_target THEN range(-reach, reach + 1) ELSE [CAST(NULL AS BIGINT)] END) AS lag
    FROM (
        SELECT series.*, coalesce(choice.max_lag, CAST(half_window AS BIGINT) + 5) AS reach
        FROM series
        CROSS JOIN choice
    ) AS series
),
pairs AS (
    SELECT
        lags.run,
        lags.window_size,
        lags.lag,
        features.step AS feature_step,
        features.feature_value,
        targets.step AS target_step,
        targets.target_value
    FROM lags
    JOIN features ON lags.run = features.run AND lags.window_size = features.window_size
    JOIN targets ON features.run = targets.run AND features.place + 2 * lags.lag = targets.place
    WHERE isfinite(features.feature_value) AND isfinite(features.step)
),
trends AS (
    SELECT
        pairs.*,
        feature_value - avg(feature_value) OVER one_lag AS feature_centred,
        target_value - avg(target_value) OVER one_lag AS target_centred,
        feature_step - avg(feature_step) OVER one_lag AS feature_time,
        target_step - avg(target_step) OVER one_lag AS target_time,
        choice.detrend = 'linear' AND count(*) OVER one_lag >= 8 AS detrended,
        regr_slope(feature_value, feature_step) OVER one_lag AS feature_slope,
        regr_slope(target_value, target_step) OVER one_lag AS target_slope
    FROM pairs
    CROSS JOIN choice
    WINDOW one_lag AS (PARTITION BY pairs.run, pairs.window_size, pairs.lag)
),
residuals AS (
    SELECT
        run,
        window_size,
        lag,
        feature_value,
        target_value,
        feature_centred - CASE WHEN detrended THEN feature_slope * feature_time ELSE 0 END AS feature_left,
        target_centred - CASE WHEN detrended THEN target_slope * target_time ELSE 0 END AS target_left
    FROM trends
),
-- What is left of a straight line is rounding, and rounding correlates with anything: it counts as constant.
correlations AS (
    SELECT
        run,
        window_size,
        lag,
        count(*) AS n,
        CASE
            WHEN count(*) >= 8
                AND max(abs(feature_left)) > 1e-10 * max(abs(feature_value))
                AND max(abs(target_left)) > 1e-10 * max(abs(target_value))
            THEN corr(feature_left, target_left)
        END AS r
    FROM residuals
    GROUP BY run, window_size, lag
),
scanned AS (
    SELECT
        lags.run,
        lags.window_size,
        lags.lag,
        CASE WHEN isfinite(correlations.r) THEN correlations.r END AS r,
        coalesce(correlations.n, 0) AS n,
        CASE
            WHEN lags.lag IS NULL THEN 'no_target'
            WHEN coalesce(correlations.n, 0) < 8 THEN 'too_few'
            WHEN correlations.r IS NULL OR NOT isfinite(correlations.r) THEN 'constant'
            WHEN lags.irregular THEN 'irregular'
            ELSE 'ok'
        END AS status
    FROM lags
    LEFT JOIN correlations USING (run, window_size, lag)
)
SELECT
    scanned.run,
    choice.scope,
    scanned.window_size,
    choice.feature,
    choice.target,
    scanned.lag,
    scanned.r,
    scanned.n,
    scanned.status
FROM scanned
CROSS JOIN choice
ORDER BY scanned.run, scanned.lag
