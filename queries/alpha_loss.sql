-- summary: Whether alpha, or its spread over depth, goes with a logged loss: levels, and changes with a p-value.
-- param target = 'val_loss': metric in the logs
-- param scope = 'trunk': trunk, or role:R
-- param run: only this run (not set: all runs)
-- columns: run, scope, feature, target, rho_level, rho, low, high, p, p_feature, n, n_eff, status
-- source: Liu 2026 (arXiv:2604.22778), alpha and loss; the test is our reading
-- note: Spearman over the steps of a run. rho_level is of the values themselves: two series with trends correlate always,
--   so it has no p. rho is of the changes from one checkpoint to the next, less a cubic in step and in the logarithm of
--   step, and the learning rate where it is logged; p is by the larger of both features, against surrogates of the loss.
--   NULL below 10 effective pairs.
SELECT
    changes.run,
    changes.scope,
    changes.feature,
    changes.target,
    levels.rho AS rho_level,
    changes.rho,
    changes.low,
    changes.high,
    changes.p,
    changes.p_feature,
    changes.n,
    changes.n_eff,
    changes.status
FROM loss_correlations AS changes
JOIN loss_correlations AS levels
    ON levels.kind = 'level' AND levels.run = changes.run AND levels.scope = changes.scope
    AND levels.feature = changes.feature AND levels.target = changes.target
WHERE changes.kind = 'difference'
  AND changes.target = coalesce(getvariable('target'), 'val_loss')
  AND changes.scope = coalesce(getvariable('scope'), 'trunk')
  AND changes.run = coalesce(getvariable('run'), changes.run)
ORDER BY changes.run, changes.feature
