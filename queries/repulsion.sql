-- summary: Change of each eigenvalue from window to window: observed, driven by the updates, and by repulsion (Dyson).
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param k_max = 4: directions shown
-- param run: only this run (not set: all runs)
-- columns: run, scope, step, k, energy, energy_change, energy_drive, energy_repulsion, status
-- source: Xu 2026 (arXiv:2603.28964), Dyson term; perturbation theory of second order
-- note: energy is sigma_k squared. energy_drive is the first order of its change since the window before (new update in,
--   old one out), energy_repulsion the second, by which neighbours push each other apart. Where the change is not small
--   against the distance of neighbours the series does not converge: the two are tendencies, no prediction.
SELECT
    run,
    scope,
    step,
    k,
    sigma ** 2 AS energy,
    sigma ** 2 - lag(sigma) OVER (PARTITION BY run, scope, k ORDER BY step) ** 2 AS energy_change,
    energy_drive,
    energy_repulsion,
    status
FROM window_sigmas
WHERE window_size = coalesce(getvariable('window_size'), 10)
  AND scope = coalesce(getvariable('scope'), 'all')
  AND run = coalesce(getvariable('run'), run)
  AND k <= coalesce(getvariable('k_max'), 4)
ORDER BY run, scope, step, k
