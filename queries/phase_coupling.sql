-- summary: How the edge goes with a logged loss in each phase of the run: correlation in rise, plateau and collapse.
-- param window_size = 10: updates per window; one that was asked for with --window
-- param scope = 'all': group of parameters; single layers, roles and tensors have none
-- param target = 'val_loss': metric in the logs
-- param method = 'derivative' | 'peak': rule that divides the run, see `sedarchive explain phases.method`
-- param detrend = 'none' | 'linear': polynomial in step that is taken out of both series inside the phase first
-- param run: only this run (not set: all runs)
-- columns: run, scope, feature, phase, step_from, step_to, r, low, high, n, n_eff, p, p_lags, p_xu, status
-- source: Xu 2026 (arXiv:2603.15678), correlation by phase, and its scripts
-- note: feature is the ratio at the run's most frequent signal rank, the series that the phases are found in. p compares
--   with surrogates of the loss that keep its trend, by the largest |r| over all phases, both methods and all window
--   sizes; p_lags with those of this phase alone; p_xu is the authors'. Inside a phase both series mostly go one way,
--   so that a large r without detrending says little: read p. status: ok, irregular (unequally spaced checkpoints),
--   too_few (fewer than 8 windows), few_effective (n_eff below 10: no p), constant.
SELECT
    couplings.run,
    couplings.scope,
    couplings.feature,
    couplings.phase,
    phases.step_from,
    phases.step_to,
    couplings.r,
    couplings.low,
    couplings.high,
    couplings.n,
    couplings.n_eff,
    couplings.p,
    couplings.p_lags,
    couplings.p_xu,
    couplings.status
FROM couplings
LEFT JOIN phases
    ON couplings.run = phases.run
        AND couplings.scope = phases.scope
        AND couplings.window_size = phases.window_size
        AND couplings.phase = phases.phase
        AND couplings.phase_method = phases.method
        AND phases.is_modal
WHERE couplings.measure = 'phase'
  AND couplings.window_size = coalesce(getvariable('window_size'), 10)
  AND couplings.scope = coalesce(getvariable('scope'), 'all')
  AND couplings.target = coalesce(getvariable('target'), 'val_loss')
  AND couplings.phase_method = coalesce(getvariable('method'), 'derivative')
  AND couplings.detrend = coalesce(getvariable('detrend'), 'none')
  AND couplings.run = coalesce(getvariable('run'), couplings.run)
ORDER BY couplings.run, list_position(['rise', 'plateau', 'collapse'], couplings.phase)
