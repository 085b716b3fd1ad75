-- summary: How much of a run's displacement lies along its first directions, beside random walks of the same updates.
-- param kind = 'row_normalised' | 'raw' | 'centred': displacements over their lengths, as they are, or less their mean
-- param scope: only this group of parameters (not set: all groups)
-- param run: only this run (not set: all runs)
-- columns: run, scope, k, share, share_null, null_low, null_high, above_null, p, step_from, step_to, status
-- source: Xu 2026 (arXiv:2602.23696): row_normalised and raw; Xu 2026 (arXiv:2602.16746): centred
-- note: k = 1 is the backbone. share_null is the median of 999 random walks whose updates have the same norms, null_low
--   and null_high their 2.5 % and 97.5 % quantiles, p the share of walks with a share at least as large: a walk has a
--   backbone too, with 0.6 to 0.8 of the displacement over a long run and more over a short one. Their dimension is
--   p_eff of the windows, which sets how wide the band is. Memory of any kind makes p small, momentum too; near 1 the
--   updates spread less far than a walk. above_null is share - share_null.
SELECT
    run,
    scope,
    k,
    share,
    share_null,
    null_low,
    null_high,
    share - share_null AS above_null,
    p,
    step_from,
    step_to,
    status
FROM components
WHERE kind = coalesce(getvariable('kind'), 'row_normalised')
  AND scope = coalesce(getvariable('scope'), scope)
  AND run = coalesce(getvariable('run'), run)
ORDER BY run, scope, k
