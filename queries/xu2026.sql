-- summary: Spectral Edge Dynamics as its authors do it (compute --preset xu2026): k*, phases, peak lags, flip, both p.
-- param search = 'tinystories' | 'gpt2' | 'thesis': the authors' lag search, see `sedarchive explain couplings.preset`
-- param scope: only this group of parameters (not set: all that the preset looks at)
-- param target = 'val_loss': metric in the logs
-- param run: only this run (not set: all runs)
-- columns: run, scope, window_size, feature, k, peak_ratio, plateau_from, plateau_to, phases, null_share, peak_lag, r,
--   n, p_xu, p_lags, p, status, flip_xu, flip, flip_p, default_lag, default_p, default_status
-- source: Xu 2026 (arXiv:2603.15678) and its scripts; every choice with its source is in the table presets
-- note: One row for each window size that was asked for; k is the run's modal signal rank at that size, the ratio
--   sigma_k / sigma_(k+1) is what is followed. Each window size is detrended and scanned by itself. p_xu is the
--   authors' p-value of the peak, which ignores the search (noise is rejected in 36 % of cases); p_lags is by the
--   largest of the same search in surrogates of the loss, p by the largest over the window sizes too. flip_xu: the sign
--   of the peak lag differs from that at the smallest window size, as the authors count; flip: and both peaks lie
--   inside the search and have the right sign; flip_p is the share of surrogates that flip as strongly
--   between the smallest size and any other. A window answers W / 2
--   checkpoints late, which alone shifts the peak lag as W grows. default_lag, default_p: what sedarchive's own search
--   says of the same ratio (largest |r|, straight lines taken out, wider lags; k up to 4), see lag_flip. phases is the
--   status of the peak method, null_share how often random walks show all three phases.
WITH
peaks AS (
    SELECT *
    FROM couplings
    WHERE preset = 'xu2026/' || coalesce(getvariable('search'), 'tinystories')
      AND measure = 'peak_xu'
      AND scope = coalesce(getvariable('scope'), scope)
      AND target = coalesce(getvariable('target'), 'val_loss')
      AND run = coalesce(getvariable('run'), run)
),
flips AS (
    SELECT *
    FROM couplings
    WHERE measure = 'flip_xu'
),
ours AS (
    SELECT *
    FROM couplings
    WHERE measure = 'peak' AND stamp = 'end' AND detrend = 'linear' AND kind = 'plain' AND peak_rule = 'abs'
)
SELECT
    peaks.run,
    peaks.scope,
    peaks.window_size,
    peaks.feature,
    phases.k,
    phases.peak_ratio,
    phases.step_from AS plateau_from,
    phases.step_to AS plateau_to,
    phases.status AS phases,
    phases.null_share,
    peaks.lag AS peak_lag,
    peaks.r,
    peaks.n,
    peaks.p_xu,
    peaks.p_lags,
    peaks.p,
    peaks.status,
    flips.lag * flips.other_lag < 0 AS flip_xu,
    CASE WHEN flips.status IN ('ok', 'irregular', 'no_flip') THEN flips.status <> 'no_flip' END AS flip,
    flips.p AS flip_p,
    ours.lag AS default_lag,
    ours.p AS default_p,
    ours.status AS default_status
FROM peaks
LEFT JOIN phases
    ON peaks.run = phases.run AND peaks.scope = phases.scope AND peaks.window_size = phases.window_size
        AND phases.is_modal AND phases.method = 'peak' AND phases.phase = 'plateau'
LEFT JOIN flips
    ON peaks.run = flips.run AND peaks.scope = flips.scope AND peaks.window_size = flips.window_size
        AND peaks.target = flips.target AND peaks.preset = flips.preset
LEFT JOIN ours
    ON peaks.run = ours.run AND peaks.scope = ours.scope AND peaks.window_size = ours.window_size
        AND peaks.target = ours.target AND peaks.feature = ours.feature
ORDER BY peaks.run, list_position(['all', 'trunk', 'attention'], peaks.scope), peaks.scope, peaks.window_size
