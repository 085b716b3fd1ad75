-- summary: How fast stable rank and alpha of each layer come to rest, where, and whether at one stable rank for all.
-- param run: only this run (not set: all runs)
-- columns: run, scope, tau_stable_rank, tau_stable_rank_low, tau_stable_rank_high, tau_alpha, tau_alpha_low,
--   tau_alpha_high, tau_ratio, tau_ratio_low, tau_ratio_high, equilibrium_stable_rank, equilibrium_alpha, psi,
--   shared_equilibrium_aicc_gain, n_stable_rank, n_alpha, status_stable_rank, status_alpha
-- source: Liu 2026 (arXiv:2604.22778), two-timescale model; the fit is our reading
-- note: y(t) = rest + (start - rest) exp(-t / tau) of each layer, mean over its matrices: the stable rank from its
--   arrival on, alpha from the first checkpoint; intervals allow for errors that are correlated between checkpoints.
--   tau in steps; tau_ratio: of stable rank to alpha (the paper: far below 1). psi: rest of alpha less the mean over
--   layers, over their range. Scope trunk: geometric means over the n layers that have a tau, with Student's t interval; a
--   layer that is too_short or too_fast counts as a tau above half its series, or below the distance of its checkpoints
--   (fewer than 3 with a tau: no mean, but an end of the median by the sign test, if there are six such layers);
--   the one stable rank that all come to rest at, and shared_equilibrium_aicc_gain, AICc of one each less that of one
--   for all: above 2, one will do; below -2, it will not. status: no_decay (a constant does as well), too_short (tau
--   above half of the series: only its lower end), too_fast (tau below the distance of checkpoints: only its upper end),
--   not_exponential, too_few, no_start and no_wave (no arrival).
WITH
named AS (
    SELECT
        run,
        scope,
        CASE scope WHEN 'trunk' THEN -1 ELSE CAST(replace(scope, 'layer:', '') AS BIGINT) END AS place,
        replace(parameter, 'shared_equilibrium', 'equilibrium_stable_rank') AS parameter,
        estimate,
        low,
        high,
        n,
        status
    FROM fits
    WHERE fit = 'two_timescales' AND run = coalesce(getvariable('run'), run)
)
SELECT
    run,
    scope,
    max(estimate) FILTER (WHERE parameter = 'tau_stable_rank') AS tau_stable_rank,
    max(low) FILTER (WHERE parameter = 'tau_stable_rank') AS tau_stable_rank_low,
    max(high) FILTER (WHERE parameter = 'tau_stable_rank') AS tau_stable_rank_high,
    max(estimate) FILTER (WHERE parameter = 'tau_alpha') AS tau_alpha,
    max(low) FILTER (WHERE parameter = 'tau_alpha') AS tau_alpha_low,
    max(high) FILTER (WHERE parameter = 'tau_alpha') AS tau_alpha_high,
    max(estimate) FILTER (WHERE parameter = 'tau_ratio') AS tau_ratio,
    max(low) FILTER (WHERE parameter = 'tau_ratio') AS tau_ratio_low,
    max(high) FILTER (WHERE parameter = 'tau_ratio') AS tau_ratio_high,
    max(estimate) FILTER (WHERE parameter = 'equilibrium_stable_rank') AS equilibrium_stable_rank,
    max(estimate) FILTER (WHERE parameter = 'equilibrium_alpha') AS equilibrium_alpha,
    max(estimate) FILTER (WHERE parameter = 'psi') AS psi,
    max(estimate) FILTER (WHERE parameter = 'equilibrium_stable_rank_aicc_gain') AS shared_equilibrium_aicc_gain,
    max(n) FILTER (WHERE parameter = 'tau_stable_rank') AS n_stable_rank,
    max(n) FILTER (WHERE parameter = 'tau_alpha') AS n_alpha,
    max(status) FILTER (WHERE parameter = 'tau_stable_rank') AS status_stable_rank,
    max(status) FILTER (WHERE parameter = 'tau_alpha') AS status_alpha
FROM named
GROUP BY run, scope, place
ORDER BY run, place
