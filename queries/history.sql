-- summary: What the archive holds: one row a run, with its size, its logs and what the audit found.
-- param run: only this run (not set: all runs)
-- columns: run, architecture, n_checkpoints, first_step, last_step, n_tensors, n_parameters, n_layers, metrics,
--   n_errors, n_warnings, n_infos
-- source: the tables runs, checkpoints, tensors, metrics and audit
-- note: metrics lists the names in the logs; the findings themselves are in the table audit.
WITH
checkpoint AS (
    SELECT run, count(*) AS n, min(step) AS first_step, max(step) AS last_step
    FROM checkpoints
    GROUP BY run
),
tensor AS (
    SELECT run, count(*) AS n
    FROM tensors
    GROUP BY run
),
metric AS (
    SELECT run, string_agg(DISTINCT name, ', ' ORDER BY name) AS names
    FROM metrics
    GROUP BY run
),
finding AS (
    SELECT
        run,
        count(*) FILTER (WHERE severity = 'error') AS n_errors,
        count(*) FILTER (WHERE severity = 'warning') AS n_warnings,
        count(*) FILTER (WHERE severity = 'info') AS n_infos
    FROM audit
    GROUP BY run
)
SELECT
    runs.run,
    runs.architecture,
    coalesce(checkpoint.n, 0) AS n_checkpoints,
    checkpoint.first_step,
    checkpoint.last_step,
    coalesce(tensor.n, 0) AS n_tensors,
    runs.n_parameters,
    runs.n_layers,
    metric.names AS metrics,
    coalesce(finding.n_errors, 0) AS n_errors,
    coalesce(finding.n_warnings, 0) AS n_warnings,
    coalesce(finding.n_infos, 0) AS n_infos
FROM runs
LEFT JOIN checkpoint USING (run)
LEFT JOIN tensor USING (run)
LEFT JOIN metric USING (run)
LEFT JOIN finding USING (run)
WHERE runs.run = coalesce(getvariable('run'), runs.run)
ORDER BY runs.run
