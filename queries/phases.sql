-- summary: Rise, plateau and collapse of a ratio of singular values, beside how often noise shows all three.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param method = 'peak' | 'derivative' | 'threshold': rule that divides the run, see `sedarchive explain phases.method`
-- param k integer: ratio sigma_k / sigma_(k+1) that is followed (not set: that at the run's modal signal rank)
-- param run: only this run (not set: all runs)
-- columns: run, scope, k, phase, step_from, step_to, peak_ratio, null_peak_ratio, threshold, null_share, null_walks,
--   status
-- source: Xu 2026 (arXiv:2603.15678), three phases of the edge, and its scripts
-- note: A peak can be found in any series: null_share is the share of random walks, with the norms of this run's
--   updates, in which the same rule finds all three phases. A pattern that noise shows as often is none. A window of W
--   updates smears every boundary over W checkpoints. status: ok (all three phases), plateau_at_border (rise or
--   collapse is missing), no_pattern (both are), too_few (fewer than 8 windows). A run without a signal rank has a row
--   only where k is set.
SELECT
    run,
    scope,
    k,
    phase,
    step_from,
    step_to,
    peak_ratio,
    null_peak_ratio,
    threshold,
    null_share,
    null_walks,
    status
FROM phases
WHERE window_size = coalesce(getvariable('window_size'), 10)
  AND scope = coalesce(getvariable('scope'), 'all')
  AND method = coalesce(getvariable('method'), 'peak')
  AND coalesce(k = CAST(getvariable('k') AS BIGINT), is_modal)
  AND run = coalesce(getvariable('run'), run)
ORDER BY run, scope, k, list_position(['rise', 'plateau', 'collapse'], phase)
