-- summary: Error of windows after a random projection of the updates, by dimension and seed, beside the errors that simulation gives.
-- param scope = 'all': group of parameters
-- param window_size = 10: updates in the window
-- param quantity = 'ratio_1' | 'ratio_2' | 'ratio_signal' | 'gap_1' | 'gap_2' | 'gap_signal': what is compared
-- param run: only this run (not set: all runs)
-- columns: run, scope, window_size, quantity, dimension, seed, error, error_low, error_high, error_simulated, error_separated, inside, n, status
-- source: Xu 2026 (arXiv:2603.15678), random projection of updates
-- note: Made by `sedarchive compute --projection 100`. error: mean over windows of |projected / exact - 1|. error_low to
--   error_high hold 95 % of the errors of projections drawn at this Gram matrix; inside says whether error lies there,
--   as it does for 19 of 20 seeds. error_separated: sqrt(2 / (pi d)), the error of a ratio of well separated modes; a
--   gap between close modes errs several times as much. The 1 / sqrt(2 d) of norms is no bound for either.
SELECT
    run,
    scope,
    window_size,
    quantity,
    dimension,
    seed,
    error,
    error_low,
    error_high,
    error_simulated,
    CASE WHEN starts_with(quantity, 'ratio') THEN sqrt(2 / (pi() * dimension)) END AS error_separated,
    error BETWEEN error_low AND error_high AS inside,
    n,
    status
FROM projections
WHERE scope = coalesce(getvariable('scope'), 'all')
    AND window_size = coalesce(getvariable('window_size'), 10)
    AND quantity = coalesce(getvariable('quantity'), 'ratio_1')
    AND run = coalesce(getvariable('run'), run)
ORDER BY run, scope, window_size, quantity, dimension, seed
