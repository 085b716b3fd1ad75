-- summary: Share of a logged loss that the edge ratio and k95 explain together, beside what surrogates of it give.
-- param window_size integer: only these windows (not set: all that were asked for with --window)
-- param scope = 'all': group of parameters
-- param target = 'val_loss': metric in the logs
-- param run: only this run (not set: all runs)
-- columns: run, scope, window_size, feature, target, r2, null_high, n, n_eff, p, status
-- source: Xu 2026 (arXiv:2603.15678), edge ratio and k95 against the validation loss (89.5 %)
-- note: r2 is beyond a straight line, which is taken out of all series first; null_high is its 95 % quantile in
--   surrogates of the loss, p the share of them that reach it, for this window size alone. status: ok, irregular
--   (unequally spaced checkpoints), gaps_or_too_few, few_effective (n_eff below 10: no p).
SELECT
    run,
    scope,
    window_size,
    feature,
    target,
    statistic AS r2,
    null_high,
    n,
    n_eff,
    p,
    status
FROM couplings
WHERE measure = 'multiple_r2'
  AND window_size = coalesce(CAST(getvariable('window_size') AS BIGINT), window_size)
  AND scope = coalesce(getvariable('scope'), 'all')
  AND target = coalesce(getvariable('target'), 'val_loss')
  AND run = coalesce(getvariable('run'), run)
ORDER BY run, window_size
