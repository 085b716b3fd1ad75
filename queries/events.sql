-- summary: Dated events of a run: collapse of the edge, settling of the loss, shifts of the edge, grokking.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param event: only collapse, stabilisation, shift or grok (not set: all events)
-- param run: only this run (not set: all runs)
-- columns: run, event, feature, k, method, causal, step, low, high, p, change, status
-- source: Xu 2026 (arXiv:2603.15678), event study and shift detection; Shao and Zhang 2010 (the statistic of a shift)
-- note: A shift is one change of level. Its p-value is that of the largest statistic over all places, against noise
--   averaged over W updates; it is for one series, not for all scopes together. step is the first checkpoint after the
--   change, the delay of the window taken out; low and high are its 95 % interval. status smooth: the change takes
--   longer than a jump would, low and high are its beginning and end; persistent: the updates seem autocorrelated, so that
--   the test would reject too often: no p. feature edge_ratio / edge_ratio_null: what the
--   norms of the updates alone explain, such as the learning rate, is taken out. The stabilisation of a loss after a
--   collapse comes later by construction; method any time does not ask for a collapse. causal: nothing later than the
--   event was used to date it.
SELECT
    run,
    event,
    feature,
    k,
    method,
    causal,
    step,
    low,
    high,
    p,
    change,
    status
FROM events
WHERE (window_size = coalesce(getvariable('window_size'), 10) OR window_size IS NULL)
  AND (scope = coalesce(getvariable('scope'), 'all') OR scope IS NULL)
  AND event = coalesce(getvariable('event'), event)
  AND run = coalesce(getvariable('run'), run)
ORDER BY run, event, feature, k NULLS FIRST, method, causal
