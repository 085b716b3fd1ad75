-- summary: Sliding correlation of geometry and a logged loss, beside the band that a whole run of noise keeps to.
-- param window_size = 10: updates per window; one that was asked for with --window
-- param scope = 'all': group of parameters
-- param feature = 'edge_ratio' | 'gap' | 'drift_speed' | 'pc1_share': column of windows
-- param target = 'val_loss': metric in the logs
-- param width = 11 | 7: points of a sliding correlation
-- param run: only this run (not set: all runs)
-- columns: run, scope, window_size, feature, target, step, r, null_low, null_high, outside, p_low, p_high
-- source: Xu 2026 (arXiv:2603.15678), sliding correlation of ratio and validation loss, and its scripts
-- note: step is the middle point's, each window at its last update. The band is that of a run's extremes: 2.5 % of
--   surrogates fall below null_low anywhere, 2.5 % rise above null_high anywhere, so one point outside is evidence. Few
--   points correlate strongly by chance: a quarter of 7-point windows of noise have |r| of 0.75 and more. Surrogates
--   keep the trend of the loss, so what the trends share does not count. p_low and p_high: share of surrogates whose
--   smallest and largest r are as extreme as this run's.
WITH
choice AS (
    SELECT CAST(coalesce(getvariable('width'), 11) AS BIGINT) AS width
),
pairs AS (
    SELECT
        windows.run,
        windows.scope,
        windows.window_size,
        windows.step,
        metrics.name AS target,
        CASE coalesce(getvariable('feature'), 'edge_ratio')
            WHEN 'edge_ratio' THEN windows.edge_ratio
            WHEN 'gap' THEN windows.gap
            WHEN 'drift_speed' THEN windows.drift_speed
            WHEN 'pc1_share' THEN windows.pc1_share
        END AS feature_value,
        metrics.value AS target_value
    FROM windows
    JOIN checkpoint_metrics AS metrics ON windows.run = metrics.run AND windows.step = metrics.step
    WHERE metrics.join_rule = 'interpolate'
      AND metrics.name = coalesce(getvariable('target'), 'val_loss')
      AND windows.window_size = coalesce(getvariable('window_size'), 10)
      AND windows.scope = coalesce(getvariable('scope'), 'all')
      AND windows.run = coalesce(getvariable('run'), windows.run)
),
slid AS (
    SELECT
        pairs.*,
        choice.width,
        count(feature_value) OVER around AS n,
        corr(feature_value, target_value) OVER around AS r
    FROM pairs
    CROSS JOIN choice
    WINDOW around AS (
        PARTITION BY run
        ORDER BY step
        ROWS BETWEEN (choice.width - 1) // 2 PRECEDING AND (choice.width - 1) // 2 FOLLOWING
    )
),
bands AS (
    SELECT
        run,
        feature,
        any_value(null_low) AS null_low,
        any_value(null_high) AS null_high,
        max(p) FILTER (WHERE peak_rule = 'lowest') AS p_low,
        max(p) FILTER (WHERE peak_rule = 'highest') AS p_high
    FROM couplings
    CROSS JOIN choice
    WHERE measure = 'sliding'
      AND couplings.width = choice.width
      AND window_size = coalesce(getvariable('window_size'), 10)
      AND scope = coalesce(getvariable('scope'), 'all')
      AND feature = coalesce(getvariable('feature'), 'edge_ratio')
      AND target = coalesce(getvariable('target'), 'val_loss')
    GROUP BY run, feature
)
SELECT
    slid.run,
    slid.scope,
    slid.window_size,
    coalesce(getvariable('feature'), 'edge_ratio') AS feature,
    slid.target,
    slid.step,
    CASE WHEN isfinite(slid.r) THEN slid.r END AS r,
    bands.null_low,
    bands.null_high,
    CASE WHEN isfinite(slid.r) THEN slid.r < bands.null_low OR slid.r > bands.null_high END AS outside,
    bands.p_low,
    bands.p_high
FROM slid
LEFT JOIN bands USING (run)
WHERE slid.n = slid.width
ORDER BY slid.run, slid.step
