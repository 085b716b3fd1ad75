-- summary: How the first direction of the updates turns from window to window, and how the updates lie to it.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param run: only this run (not set: all runs)
-- columns: run, scope, step, gamma, gamma_null, gamma_null_high, kappa, turning, turning_total, align_last, drift_speed,
--   drift_along, residual_speed, pc1_share, k95, status
-- source: Xu 2026 (arXiv:2603.15678), its scripts
-- note: gamma is the overlap of v_1 with that of the window before, kappa 1 - gamma, turning its angle in radians, and
--   turning_total the sum so far. Windows share all but one update, so that v_1 of random updates hardly turns either:
--   gamma_null is their median, gamma_null_high their 95 % quantile (NULL unless the window size was asked for).
--   drift_along and residual_speed are the mean update along v_1 and beside it.
SELECT
    windows.run,
    windows.scope,
    windows.step,
    windows.gamma,
    sigmas.overlap_null AS gamma_null,
    sigmas.overlap_null_high AS gamma_null_high,
    windows.kappa,
    windows.turning,
    windows.turning_total,
    windows.align_last,
    windows.drift_speed,
    windows.drift_along,
    windows.residual_speed,
    windows.pc1_share,
    windows.k95,
    windows.status
FROM windows
LEFT JOIN window_sigmas AS sigmas
    ON windows.run = sigmas.run
   AND windows.scope = sigmas.scope
   AND windows.window_size = sigmas.window_size
   AND windows.step = sigmas.step
   AND sigmas.k = 1
WHERE windows.window_size = coalesce(getvariable('window_size'), 10)
  AND windows.scope = coalesce(getvariable('scope'), 'all')
  AND windows.run = coalesce(getvariable('run'), windows.run)
ORDER BY windows.run, windows.scope, windows.step
