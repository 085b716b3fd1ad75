-- summary: The gap of every window at a fixed k, how fast it changes, and how fast its fitted flow says it should.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param run: only this run (not set: all runs)
-- columns: run, scope, step, k, gap, gap_rate, gap_rate_flow, status
-- source: Xu 2026 (arXiv:2603.28964), theorem 14.2, dg/dt = a g + b
-- note: k is the run's most frequent signal rank, the one of gap_flow: at a k that moves with the window, changes of k
--   would be taken for changes of the gap. gap_rate (weight per step) is the forward difference to the next window, NULL
--   at the last one and where a singular value is not resolved. gap_rate_flow = damping (viable_gap - gap), of the fit
--   to the whole run: read it beside the null of gap_flow, since noise returns to its mean too. status is that of the
--   fit; gap_rate_flow is NULL where it finds no damping.
WITH flow AS (
    SELECT
        run,
        scope,
        window_size,
        any_value(k) AS k,
        any_value(estimate) FILTER (parameter = 'damping') AS damping,
        any_value(estimate) FILTER (parameter = 'viable_gap') AS viable_gap,
        any_value(status) AS status
    FROM fits
    WHERE fit = 'gap_flow'
      AND window_size = coalesce(getvariable('window_size'), 10)
      AND scope = coalesce(getvariable('scope'), 'all')
      AND run = coalesce(getvariable('run'), run)
    GROUP BY run, scope, window_size
),
gaps AS (
    SELECT
        run,
        scope,
        step,
        any_value(flow.k) AS k,
        any_value(sigma) FILTER (window_sigmas.k = flow.k) - any_value(sigma) FILTER (window_sigmas.k = flow.k + 1) AS gap,
        any_value(damping) AS damping,
        any_value(viable_gap) AS viable_gap,
        any_value(flow.status) AS status
    FROM window_sigmas
    JOIN flow USING (run, scope, window_size)
    GROUP BY run, scope, step
)
SELECT
    run,
    scope,
    step,
    k,
    gap,
    (lead(gap) OVER of_run - gap) / (lead(step) OVER of_run - step) AS gap_rate,
    damping * (viable_gap - gap) AS gap_rate_flow,
    status
FROM gaps
WINDOW of_run AS (PARTITION BY run, scope ORDER BY step)
ORDER BY run, scope, step
