-- summary: How fast compression travels through the layers, with its interval: by role and over all roles.
-- param scope: only this scope, trunk or role:R (not set: all)
-- param run: only this run (not set: all runs)
-- columns: run, scope, n, slowness, slowness_low, slowness_high, slowness_ranks, velocity, velocity_low,
--   velocity_high, r2, r2_out_of_sample, first_arrival, last_arrival, status
-- source: Liu 2026 (arXiv:2604.22778), compression waves; arrival and fit are our reading
-- note: slowness (steps per layer) is the least-squares slope of arrival on layer with Student's t interval,
--   slowness_ranks the median slope of all pairs of layers, velocity (layers per step) 1 / slowness; negative: from the
--   last layer to the first. status simultaneous: the interval of the slope holds 0, so that there is no velocity.
--   wave_velocity computes the same point estimates in SQL, for other thresholds.
WITH
fit AS (
    SELECT
        run,
        scope,
        any_value(n) AS n,
        max(estimate) FILTER (WHERE parameter = 'slowness') AS slowness,
        max(low) FILTER (WHERE parameter = 'slowness') AS slowness_low,
        max(high) FILTER (WHERE parameter = 'slowness') AS slowness_high,
        max(estimate) FILTER (WHERE parameter = 'slowness_ranks') AS slowness_ranks,
        max(estimate) FILTER (WHERE parameter = 'velocity') AS velocity,
        max(low) FILTER (WHERE parameter = 'velocity') AS velocity_low,
        max(high) FILTER (WHERE parameter = 'velocity') AS velocity_high,
        max(r2) AS r2,
        max(r2_out_of_sample) AS r2_out_of_sample,
        any_value(status) AS status
    FROM fits
    WHERE fit = 'compression_wave'
    GROUP BY run, scope
),
layers AS (
    SELECT
        run,
        scope,
        min(arrival_step) AS first_arrival,
        max(arrival_step) AS last_arrival,
        min(status) FILTER (WHERE status <> 'ok') AS status
    FROM layer_waves
    GROUP BY run, scope
)
SELECT
    layers.run,
    layers.scope,
    fit.n,
    fit.slowness,
    fit.slowness_low,
    fit.slowness_high,
    fit.slowness_ranks,
    fit.velocity,
    fit.velocity_low,
    fit.velocity_high,
    fit.r2,
    fit.r2_out_of_sample,
    layers.first_arrival,
    layers.last_arrival,
    coalesce(fit.status, layers.status) AS status
FROM layers
LEFT JOIN fit ON layers.run = fit.run AND layers.scope = fit.scope
WHERE layers.run = coalesce(getvariable('run'), layers.run)
  AND layers.scope = coalesce(getvariable('scope'), layers.scope)
ORDER BY layers.run, layers.scope
