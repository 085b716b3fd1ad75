-- summary: How far the collapse of the edge comes before the loss settles and before the run groks.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param tau = 1.2: ratio below which the edge has collapsed; 1.15, 1.2, 1.25 or 1.3
-- param causal = 'yes' | 'no': whether the collapse is dated by what is known at its step, or by the peak of the run
-- param k integer: ratio sigma_k / sigma_(k+1) that is followed (not set: that at the run's modal signal rank)
-- param run: only this run (not set: all runs)
-- columns: run, k, collapse, settled_after, lead, settled_any_time, lead_any_time, grok, grok_lead, status
-- source: Xu 2026 (arXiv:2603.15678), event study; Xu 2026 (arXiv:2602.16967), leads before grokking
-- note: In steps. lead = settled_after - collapse is positive by construction, since the loss is looked at only after
--   the collapse; lead_any_time is not. grok: first of three logged validation accuracies of at least 0.98. The law of
--   grok_lead over runs stands in the table fits (fit lead_time) beside its null: onsets shuffled over runs fit with
--   r2 above 0.95, too. status: ok, or why lead is NULL: that of the collapse, or else that of the loss (no_target: none
--   is logged there).
WITH
collapses AS (
    SELECT run, scope, window_size, k, method, causal, step, status
    FROM events
    WHERE event = 'collapse'
      AND window_size = coalesce(getvariable('window_size'), 10)
      AND scope = coalesce(getvariable('scope'), 'all')
      AND method = printf('tau=%.2f', CAST(coalesce(getvariable('tau'), 1.2) AS DOUBLE))
      AND causal = (coalesce(getvariable('causal'), 'yes') = 'yes')
      AND run = coalesce(getvariable('run'), run)
),
modal AS (
    SELECT DISTINCT run, scope, window_size, k
    FROM phases
    WHERE is_modal
),
groks AS (
    SELECT run, step
    FROM events
    WHERE event = 'grok' AND method = '3 x >= 0.98'
)
SELECT
    collapses.run,
    collapses.k,
    collapses.step AS collapse,
    after.step AS settled_after,
    after.step - collapses.step AS lead,
    any_time.step AS settled_any_time,
    any_time.step - collapses.step AS lead_any_time,
    groks.step AS grok,
    groks.step - collapses.step AS grok_lead,
    CASE
        WHEN collapses.status <> 'ok' THEN collapses.status
        WHEN after.step IS NOT NULL THEN 'ok'
        ELSE coalesce(nullif(after.status, 'ok'), 'no_target')
    END AS status
FROM collapses
LEFT JOIN modal USING (run, scope, window_size)
LEFT JOIN events AS after
    ON after.event = 'stabilisation'
    AND after.run = collapses.run
    AND after.scope = collapses.scope
    AND after.window_size = collapses.window_size
    AND after.k = collapses.k
    AND after.method = collapses.method
    AND after.causal = collapses.causal
LEFT JOIN events AS any_time
    ON any_time.event = 'stabilisation'
    AND any_time.run = collapses.run
    AND any_time.scope = collapses.scope
    AND any_time.window_size = collapses.window_size
    AND any_time.method = 'any time'
    AND any_time.causal = collapses.causal
LEFT JOIN groks ON groks.run = collapses.run
WHERE collapses.k = coalesce(CAST(getvariable('k') AS BIGINT), modal.k)
ORDER BY collapses.run
