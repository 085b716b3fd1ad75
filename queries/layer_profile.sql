-- summary: Spectra of the weight matrices by layer and role at one step, and how far they are compressed.
-- param step integer: optimizer step of a checkpoint with spectra (not set: the last of each run)
-- param run: only this run (not set: all runs)
-- columns: run, step, layer, role, n_matrices, stable_rank, entropy, effective_rank, sigma_ratio, alpha, compression,
--   compared_step
-- source: Liu 2026 (arXiv:2604.22778): stable rank, entropy and alpha by layer; the fit of alpha is our reading
-- note: Means over the matrices of a layer and role. compression = 1 - stable rank / stable rank at compared_step,
--   the
--   first step of the run that has spectra: it starts from zero at initialization only if that is step 0.
WITH
wanted AS (
    SELECT *
    FROM matrix_stats
    WHERE run = coalesce(getvariable('run'), run)
),
range_of_run AS (
    SELECT run, min(step) AS compared_step, coalesce(CAST(getvariable('step') AS BIGINT), max(step)) AS step
    FROM wanted
    GROUP BY run
),
first_stats AS (
    SELECT run, matrix, stable_rank
    FROM wanted
    JOIN range_of_run USING (run)
    WHERE wanted.step = compared_step AND stable_rank > 0 AND isfinite(stable_rank)
)
SELECT
    stats.run,
    stats.step,
    stats.layer,
    stats.role,
    count(*) AS n_matrices,
    avg(stats.stable_rank) FILTER (WHERE isfinite(stats.stable_rank)) AS stable_rank,
    avg(stats.entropy) FILTER (WHERE isfinite(stats.entropy)) AS entropy,
    avg(stats.effective_rank) FILTER (WHERE isfinite(stats.effective_rank)) AS effective_rank,
    avg(stats.sigma_ratio) FILTER (WHERE isfinite(stats.sigma_ratio)) AS sigma_ratio,
    avg(stats.alpha) FILTER (WHERE isfinite(stats.alpha)) AS alpha,
    avg(1 - stats.stable_rank / first_stats.stable_rank) FILTER (WHERE isfinite(stats.stable_rank)) AS compression,
    any_value(range_of_run.compared_step) AS compared_step
FROM wanted AS stats
JOIN range_of_run ON stats.run = range_of_run.run AND stats.step = range_of_run.step
LEFT JOIN first_stats ON stats.run = first_stats.run AND stats.matrix = first_stats.matrix
GROUP BY stats.run, stats.step, stats.layer, stats.role
ORDER BY stats.run, stats.layer NULLS LAST, stats.role
