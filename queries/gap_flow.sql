-- summary: Does the gap return to a value of its own: damping and viable gap beside their null, opening and collapse.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param run: only this run (not set: all runs)
-- columns: run, scope, k, fit, parameter, estimate, low, high, null_low, null_high, p, n, r2, r2_out_of_sample, status
-- source: Xu 2026 (arXiv:2603.28964), theorem 14.2, dg/dt = a g + b
-- note: The gap is sigma_k - sigma_(k+1) at the run's most frequent signal rank; of a long run 128 windows at most are
--   fitted, evenly spaced. damping (per step) is -a with dg/dt the forward difference, which damps "significantly" in
--   nearly every series of noise; null_low .. null_high is the same fit to random updates of the same norms, and p the
--   share of those whose gap and rate correlate at least as negatively. gap_flow_xu takes the authors' centred
--   difference, which errors of the gap bias towards 0. viable_gap is -b / a, its interval NULL unless the
--   gap returns beyond doubt. gap_times (steps): when the gap first reaches half its peak and first falls below it again, and what the
--   flow fitted to the other part of the run predicts. status: ok, no_damping, no_null (ask for the window size by
--   --window; single layers, roles and tensors have none), too_few, none.
SELECT
    run,
    scope,
    k,
    fit,
    parameter,
    estimate,
    low,
    high,
    null_low,
    null_high,
    p,
    n,
    r2,
    r2_out_of_sample,
    status
FROM fits
WHERE fit IN ('gap_flow', 'gap_flow_xu', 'gap_times')
  AND window_size = coalesce(getvariable('window_size'), 10)
  AND scope = coalesce(getvariable('scope'), 'all')
  AND run = coalesce(getvariable('run'), run)
ORDER BY run, scope, fit, parameter
