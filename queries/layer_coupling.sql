-- summary: How the edge of each layer goes with a logged loss, and how much of it all layers explain together.
-- param window_size = 10: updates per window; one that was asked for with --window
-- param target = 'val_loss': metric in the logs
-- param detrend = 'linear' | 'none': polynomial in step that is taken out of all series first
-- param run: only this run (not set: all runs)
-- columns: run, feature, measure, r, low, high, n, n_eff, p, p_lags, p_xu, r2, null_high, status
-- source: Xu 2026 (arXiv:2603.15678), correlation of eight layers with the validation loss
-- note: measure group: one layer, its ratio at its own most frequent signal rank, at lag 0; p is by the largest |r| over
--   all layers and window sizes, p_lags of this layer alone, p_xu the authors'. groups: r2 of all layers together, beside
--   its 95 % quantile in surrogates of the loss; many layers and few windows explain any loss. groups_weakest: the layer
--   of smallest |r|, with the largest of the layers' own p; the authors' claim that all |r| exceed 0.82 is one about it,
--   and series with a trend (detrend none) reach that by the trend alone. status: ok, irregular (unequally spaced checkpoints), too_few, constant,
--   few_effective (n_eff below 10), gaps_or_too_few (fewer than 3 windows a layer, or a gap in a series).
SELECT
    run,
    feature,
    measure,
    r,
    low,
    high,
    n,
    n_eff,
    p,
    p_lags,
    p_xu,
    statistic AS r2,
    null_high,
    status
FROM couplings
WHERE measure IN ('group', 'groups', 'groups_weakest')
  AND scope = 'layer:*'
  AND window_size = coalesce(getvariable('window_size'), 10)
  AND target = coalesce(getvariable('target'), 'val_loss')
  AND detrend = coalesce(getvariable('detrend'), 'linear')
  AND run = coalesce(getvariable('run'), run)
ORDER BY run, list_position(['group', 'groups', 'groups_weakest'], measure), feature
