-- summary: Marchenko-Pastur edge and BBP threshold of each window, beside what pure noise gives for both.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param run: only this run (not set: all runs)
-- columns: run, scope, step, noise_level, mp_edge, mp_edge_noise, above_mp, above_mp_noise, bbp_ratio, bbp_ratio_noise,
--   signal_rank, signal_rank_mp, p_eff, status
-- source: Xu 2026 (arXiv:2603.15678), definition 4 and figure 1A; Xu 2026 (arXiv:2603.28964), proposition 4.1
-- note: Neither is a test. The noise level is that of the window's own lower half, so that the edge is about its root
--   mean square: above_mp singular values lie at or above it, above_mp_noise of pure noise do. bbp_ratio is the smallest
--   singular value over the threshold, some tens in pure noise (bbp_ratio_noise). signal_rank asks for sigma_(k+1) at or
--   above the edge, signal_rank_mp for sigma_k: they often differ.
SELECT
    run,
    scope,
    step,
    noise_level,
    mp_edge,
    mp_edge_noise,
    above_mp,
    above_mp_noise,
    bbp_ratio,
    bbp_ratio_noise,
    signal_rank,
    signal_rank_mp,
    p_eff,
    status
FROM windows
WHERE window_size = coalesce(getvariable('window_size'), 10)
  AND scope = coalesce(getvariable('scope'), 'all')
  AND run = coalesce(getvariable('run'), run)
ORDER BY run, scope, step
