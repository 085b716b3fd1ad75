-- summary: The spectral edge of rolling windows of updates, beside its null band.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param run: only this run (not set: all runs)
-- columns: run, scope, step, edge_ratio, edge_ratio_null, edge_ratio_null_high, edge_ratio_p, edge_ratio_ar1_p, edge_k,
--   signal_rank, signal_rank_mp, signal_rank_weighted, gap, mp_edge, p_eff, status
-- source: Xu 2026 (arXiv:2603.15678), definitions 3 to 5
-- note: step is that of the window's last update. The null has random updates of the same norms in p_eff dimensions:
--   changes of the learning rate alone make ratios, so a ratio inside its band shows nothing. Momentum alone
--   makes one too: edge_ratio_ar1_p is against updates that remember the one before as the real ones do, for at most 16
--   windows. mp_edge is the root mean square of the window's lower half, not a test: pure noise exceeds it too.
SELECT
    run,
    scope,
    step,
    edge_ratio,
    edge_ratio_null,
    edge_ratio_null_high,
    edge_ratio_p,
    edge_ratio_ar1_p,
    edge_k,
    signal_rank,
    signal_rank_mp,
    signal_rank_weighted,
    gap,
    mp_edge,
    p_eff,
    status
FROM windows
WHERE window_size = coalesce(getvariable('window_size'), 10)
  AND scope = coalesce(getvariable('scope'), 'all')
  AND run = coalesce(getvariable('run'), run)
ORDER BY run, scope, step
