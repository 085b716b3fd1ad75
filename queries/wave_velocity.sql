-- summary: When each layer is half compressed, and how fast that travels through the layers.
-- param threshold = 0.5: share of a layer's largest compression at which it has arrived
-- param min_compression = 0.05: a layer whose compression never gets this large has no arrival
-- param reference_step = 0: step from which compression is counted; its spectra must exist
-- param role: only matrices of this role (not set: all roles)
-- param run: only this run (not set: all runs)
-- columns: run, layer, arrival_step, largest_compression, n, slowness, velocity, r2, status
-- source: Liu 2026 (arXiv:2604.22778), compression waves; arrival, threshold and fit are our reading
-- note: compression = 1 - stable rank / stable rank at reference_step, mean over the layer's matrices; the arrival is
--   interpolated linearly between steps. slowness (steps per layer) is the least-squares slope of arrival against
--   layer, velocity (layers per step) is 1 / slowness, n the number of arrivals; the fit is the same in all rows of a
--   run. There is no interval yet, so a slope of either sign may be chance. status: no_start (no spectra at
--   reference_step), no_wave (no arrival), too_few (fewer than three), simultaneous (all at once: no velocity),
--   three_points (any three points fit well), ok.
WITH
choice AS (
    SELECT
        CAST(coalesce(getvariable('threshold'), 0.5) AS DOUBLE) AS threshold,
        CAST(coalesce(getvariable('min_compression'), 0.05) AS DOUBLE) AS min_compression,
        CAST(coalesce(getvariable('reference_step'), 0) AS BIGINT) AS reference_step
),
stats AS (
    SELECT run, layer, matrix, step, stable_rank
    FROM matrix_stats
    WHERE layer IS NOT NULL
      AND isfinite(stable_rank)
      AND stable_rank > 0
      AND role = coalesce(getvariable('role'), role)
      AND run = coalesce(getvariable('run'), run)
),
reference AS (
    SELECT stats.run, stats.matrix, stats.stable_rank
    FROM stats
    JOIN choice ON stats.step = choice.reference_step
),
compression AS (
    SELECT stats.run, stats.layer, stats.step, avg(1 - stats.stable_rank / reference.stable_rank) AS compression
    FROM stats
    JOIN reference ON stats.run = reference.run AND stats.matrix = reference.matrix
    JOIN choice ON stats.step >= choice.reference_step
    GROUP BY stats.run, stats.layer, stats.step
),
steps AS (
    SELECT
        run,
        layer,
        step,
        compression,
        lag(step) OVER layer_steps AS previous_step,
        lag(compression) OVER layer_steps AS previous_compression,
        max(compression) OVER (PARTITION BY run, layer) AS largest
    FROM compression
    WINDOW layer_steps AS (PARTITION BY run, layer ORDER BY step)
),
reached AS (
    SELECT
        steps.run,
        steps.layer,
        steps.step,
        previous_step + (threshold * largest - previous_compression) / (compression - previous_compression)
            * (steps.step - previous_step) AS arrival_step,
        row_number() OVER (PARTITION BY steps.run, steps.layer ORDER BY steps.step) AS place
    FROM steps, choice
    WHERE largest >= min_compression AND compression >= threshold * largest AND previous_step IS NOT NULL
),
arrivals AS (
    SELECT layers.run, layers.layer, reached.arrival_step, largest.largest_compression
    FROM (SELECT DISTINCT run, layer FROM stats) AS layers
    LEFT JOIN (
        SELECT run, layer, max(compression) AS largest_compression FROM compression GROUP BY run, layer
    ) AS largest ON layers.run = largest.run AND layers.layer = largest.layer
    LEFT JOIN reached ON layers.run = reached.run AND layers.layer = reached.layer AND reached.place = 1
),
spread AS (
    SELECT
        run,
        count(arrival_step) AS n,
        count(largest_compression) AS n_compared,
        max(arrival_step) - min(arrival_step) > 1e-9 * max(abs(arrival_step)) AS varies
    FROM arrivals
    GROUP BY run
),
fits AS (
    SELECT
        arrivals.run,
        regr_slope(arrival_step, layer) AS slowness,
        regr_r2(arrival_step, layer) AS r2
    FROM arrivals
    JOIN spread ON arrivals.run = spread.run
    WHERE spread.n >= 3 AND spread.varies AND arrival_step IS NOT NULL
    GROUP BY arrivals.run
)
SELECT
    arrivals.run,
    arrivals.layer,
    arrivals.arrival_step,
    arrivals.largest_compression,
    spread.n,
    fits.slowness,
    CASE WHEN fits.slowness <> 0 THEN 1 / fits.slowness END AS velocity,
    fits.r2,
    CASE
        WHEN spread.n_compared = 0 THEN 'no_start'
        WHEN spread.n = 0 THEN 'no_wave'
        WHEN spread.n < 3 THEN 'too_few'
        WHEN NOT spread.varies THEN 'simultaneous'
        WHEN spread.n = 3 THEN 'three_points'
        ELSE 'ok'
    END AS status
FROM arrivals
JOIN spread ON arrivals.run = spread.run
LEFT JOIN fits ON arrivals.run = fits.run
ORDER BY arrivals.run, arrivals.layer
