-- summary: How stable the leading directions are from window to window, in all variants, beside their bounds.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param k_max = 4: directions shown
-- param run: only this run (not set: all runs)
-- columns: run, scope, step, k, overlap_previous, overlap_null, overlap_null_high, stability_dk, stability_split, stability_proxy, signal_rank,
--   subspace_angle, subspace_angle_dk, status
-- source: Xu 2026 (arXiv:2603.28964), stability alpha; Yu, Wang and Samworth 2015, theorem 2, for the bounds
-- note: overlap_previous is |<v_k, v_k of the window before>| and stability_dk bounds it from below; stability_split
--   compares the window's halves; stability_proxy is the authors' formula from eigenvalues alone, which bounds
--   nothing. Windows share all but one update, so that random updates overlap too: overlap_null is their median and
--   overlap_null_high their 95 % quantile.
--   subspace_angle (radians) is the largest angle of the span of v_1 .. v_k at k = signal_rank to that of the window
--   before, at most subspace_angle_dk.
SELECT
    sigmas.run,
    sigmas.scope,
    sigmas.step,
    sigmas.k,
    sigmas.overlap_previous,
    sigmas.overlap_null,
    sigmas.overlap_null_high,
    sigmas.stability_dk,
    sigmas.stability_split,
    sigmas.stability_proxy,
    windows.signal_rank,
    windows.subspace_angle,
    windows.subspace_angle_dk,
    sigmas.status
FROM window_sigmas AS sigmas
JOIN windows
    ON sigmas.run = windows.run
   AND sigmas.scope = windows.scope
   AND sigmas.window_size = windows.window_size
   AND sigmas.step = windows.step
WHERE sigmas.window_size = coalesce(getvariable('window_size'), 10)
  AND sigmas.scope = coalesce(getvariable('scope'), 'all')
  AND sigmas.run = coalesce(getvariable('run'), sigmas.run)
  AND sigmas.k <= coalesce(getvariable('k_max'), 4)
ORDER BY sigmas.run, sigmas.scope, sigmas.step, sigmas.k
