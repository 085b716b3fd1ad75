-- summary: The adiabatic parameter of each window and its regime: plateau, transition or forgetting.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param eta = 'interval' | 'step': learning rate summed over the interval between checkpoints, or that of one step
-- param low = 0.1: below it the window is on a plateau
-- param high = 10.0: above it the window forgets
-- param run: only this run (not set: all runs)
-- columns: run, scope, step, gram_change_operator, gap, lr, lr_sum, adiabatic_free, adiabatic, regime, status
-- source: Xu 2026 (arXiv:2603.28964), adiabatic parameter ||dG|| / (eta g^2); the conventions for eta are ours
-- note: adiabatic_free leaves the learning rate out; adiabatic has it as eta says, and is NULL where nothing says the
--   rate. With the rate of one step nearly every window "forgets". gap is that at signal_rank, so adiabatic is NULL
--   where no k qualifies.
WITH
choice AS (
    SELECT
        coalesce(getvariable('eta'), 'interval') AS eta,
        CAST(coalesce(getvariable('low'), 0.1) AS DOUBLE) AS low,
        CAST(coalesce(getvariable('high'), 10.0) AS DOUBLE) AS high
),
rated AS (
    SELECT
        windows.*,
        CASE choice.eta WHEN 'step' THEN adiabatic_step ELSE adiabatic_interval END AS adiabatic,
        choice.low,
        choice.high
    FROM windows, choice
    WHERE window_size = coalesce(getvariable('window_size'), 10)
      AND scope = coalesce(getvariable('scope'), 'all')
      AND run = coalesce(getvariable('run'), run)
)
SELECT
    run,
    scope,
    step,
    gram_change_operator,
    gap,
    lr,
    lr_sum,
    adiabatic_free,
    adiabatic,
    CASE
        WHEN adiabatic IS NULL THEN NULL
        WHEN adiabatic < low THEN 'plateau'
        WHEN adiabatic > high THEN 'forgetting'
        ELSE 'transition'
    END AS regime,
    status
FROM rated
ORDER BY run, scope, step
