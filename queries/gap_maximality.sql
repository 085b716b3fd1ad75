-- summary: Which gap matters: the collapse of every ratio against the rise of the validation loss, over all k.
-- param against = 'loss' | 'stability': what the collapse is compared with: val_loss, or the overlap of v_k with that
--   of the window before
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param run: only this run (not set: all runs)
-- columns: run, scope, k, r, p, n, strongest, signal_rank, feedback_r, feedback_lag, feedback_p, status
-- source: Xu 2026 (arXiv:2603.28964), gap maximality and the feedback of stability; the tests are ours
-- note: r correlates the fall of sigma_k / sigma_(k+1) with the rise of val_loss from window to window, after a straight
--   line is taken out; p is that of the largest |r| over all k, against series of the same spectrum. strongest:
--   whether |r| is the largest; the claim is that it is at signal_rank, the run's most frequent one. feedback_r is the largest
--   correlation of changes of the gap at signal_rank with those of the overlap of its direction with that of the window
--   before, at feedback_lag (positive: the gap leads), feedback_p over all lags searched. Against
--   stability the fall of a ratio meets the fall of its own direction's overlap: a small gap turns v_k in random updates
--   too, so that a large r is no news, only one that is largest at signal_rank. No r has an
--   interval, on purpose: it would be one about the largest of a search (explain fits.low). status: ok, too_few,
--   unknown (a ratio that is not resolved in every window).
WITH
chosen AS (
    SELECT *
    FROM fits
    WHERE window_size = coalesce(getvariable('window_size'), 10)
      AND scope = coalesce(getvariable('scope'), 'all')
      AND run = coalesce(getvariable('run'), run)
),
feedback AS (
    SELECT
        run,
        scope,
        max(k) AS signal_rank,
        max(estimate) FILTER (WHERE parameter = 'peak_r') AS feedback_r,
        max(estimate) FILTER (WHERE parameter = 'peak_lag') AS feedback_lag,
        max(p) FILTER (WHERE parameter = 'peak_r') AS feedback_p
    FROM chosen
    WHERE fit = 'alpha_feedback'
    GROUP BY run, scope
)
SELECT
    chosen.run,
    chosen.scope,
    chosen.k,
    chosen.estimate AS r,
    chosen.p,
    chosen.n,
    abs(chosen.estimate) = max(abs(chosen.estimate)) OVER (PARTITION BY chosen.run, chosen.scope) AS strongest,
    feedback.signal_rank,
    feedback.feedback_r,
    feedback.feedback_lag,
    feedback.feedback_p,
    chosen.status
FROM chosen
LEFT JOIN feedback ON chosen.run = feedback.run AND chosen.scope = feedback.scope
WHERE chosen.fit = CASE coalesce(getvariable('against'), 'loss')
    WHEN 'loss' THEN 'gap_maximality' ELSE 'gap_maximality_stability' END
ORDER BY chosen.run, chosen.scope, chosen.k
