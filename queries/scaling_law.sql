-- summary: A power law over runs: how a spectral quantity at the end of training grows with the size of the model.
-- param x = 'n_layers' | 'n_parameters': size of the model
-- param y = 'alpha_spread' | 'alpha_max' | 'alpha_mean' | 'stable_rank_mean': quantity over the layers, at each run's
--   last step
-- param role: only matrices of this role (not set: all roles)
-- columns: family, x, y, exponent, prefactor, n, n_sizes, r2, status
-- source: Liu 2026 (arXiv:2604.22778): spread of alpha ~ depth^0.26, from three depths; the fit of alpha is our
--   reading
-- note: y = prefactor x^exponent, least squares in log-log, one fit for each family of runs. The value of a layer is
--   the mean over its matrices; alpha_spread is the largest minus the smallest. n counts runs, n_sizes different x.
--   There is no interval yet. status: too_few (fewer than three sizes: no fit), three_points (pure noise reaches
--   r2 >= 0.99 in 6 % of such fits), ok.
WITH
choice AS (
    SELECT
        coalesce(getvariable('x'), 'n_layers') AS x,
        coalesce(getvariable('y'), 'alpha_spread') AS y
),
last_step AS (
    SELECT run, max(step) AS step
    FROM matrix_stats
    GROUP BY run
),
layers AS (
    SELECT
        stats.run,
        stats.layer,
        avg(stats.alpha) FILTER (WHERE isfinite(stats.alpha)) AS alpha,
        avg(stats.stable_rank) FILTER (WHERE isfinite(stats.stable_rank)) AS stable_rank
    FROM matrix_stats AS stats
    JOIN last_step ON stats.run = last_step.run AND stats.step = last_step.step
    WHERE stats.layer IS NOT NULL AND stats.role = coalesce(getvariable('role'), stats.role)
    GROUP BY stats.run, stats.layer
),
ends AS (
    SELECT
        run,
        max(alpha) - min(alpha) AS alpha_spread,
        max(alpha) AS alpha_max,
        avg(alpha) AS alpha_mean,
        avg(stable_rank) AS stable_rank_mean
    FROM layers
    GROUP BY run
),
points AS (
    SELECT
        runs.family,
        CASE choice.x
            WHEN 'n_layers' THEN CAST(runs.n_layers AS DOUBLE)
            WHEN 'n_parameters' THEN CAST(runs.n_parameters AS DOUBLE)
        END AS x,
        CASE choice.y
            WHEN 'alpha_spread' THEN ends.alpha_spread
            WHEN 'alpha_max' THEN ends.alpha_max
            WHEN 'alpha_mean' THEN ends.alpha_mean
            WHEN 'stable_rank_mean' THEN ends.stable_rank_mean
        END AS y
    FROM runs
    JOIN ends ON runs.run = ends.run
    CROSS JOIN choice
),
logs AS (
    SELECT
        family,
        CASE WHEN x > 0 THEN ln(x) END AS log_x,
        CASE WHEN y > 0 THEN ln(y) END AS log_y
    FROM points
    WHERE x > 0 AND y > 0
),
sizes AS (
    SELECT
        family,
        count(*) AS n,
        count(DISTINCT log_x) AS n_sizes,
        CASE WHEN count(DISTINCT log_x) >= 3 THEN regr_slope(log_y, log_x) END AS exponent,
        CASE WHEN count(DISTINCT log_x) >= 3 THEN exp(regr_intercept(log_y, log_x)) END AS prefactor,
        CASE WHEN count(DISTINCT log_x) >= 3 AND max(log_y) > min(log_y) THEN regr_r2(log_y, log_x) END AS r2
    FROM logs
    GROUP BY family
)
SELECT
    sizes.family,
    choice.x,
    choice.y,
    sizes.exponent,
    sizes.prefactor,
    sizes.n,
    sizes.n_sizes,
    sizes.r2,
    CASE WHEN sizes.n_sizes < 3 THEN 'too_few' WHEN sizes.n_sizes = 3 THEN 'three_points' ELSE 'ok' END AS status
FROM sizes
CROSS JOIN choice
ORDER BY sizes.family NULLS LAST
