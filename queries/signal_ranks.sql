-- summary: Signal ranks by optimizer: how often each rank occurs over the windows of all runs that used it.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param definition = 'signal_rank' | 'signal_rank_mp' | 'signal_rank_argmax' | 'signal_rank_weighted': which rank
-- param run: only this run (not set: all runs)
-- columns: optimizer, rank, n_windows, share, n_runs, n_runs_mode
-- source: Xu 2026 (arXiv:2603.28964), signal rank with Muon and AdamW
-- note: share is that of the optimizer's windows that have a rank; n_runs_mode counts the runs whose most frequent rank
--   it is (the smallest of several). Windows of a run overlap: compare runs, not windows. optimizer is NULL where no
--   settings say it.
WITH
ranked AS (
    SELECT
        windows.run,
        runs.optimizer,
        CASE coalesce(getvariable('definition'), 'signal_rank')
            WHEN 'signal_rank_mp' THEN signal_rank_mp
            WHEN 'signal_rank_argmax' THEN signal_rank_argmax
            WHEN 'signal_rank_weighted' THEN signal_rank_weighted
            ELSE signal_rank
        END AS rank
    FROM windows
    LEFT JOIN runs ON windows.run = runs.run
    WHERE window_size = coalesce(getvariable('window_size'), 10)
      AND scope = coalesce(getvariable('scope'), 'all')
      AND windows.run = coalesce(getvariable('run'), windows.run)
),
counted AS (
    SELECT run, optimizer, rank, count(*) AS n
    FROM ranked
    WHERE rank IS NOT NULL
    GROUP BY run, optimizer, rank
),
placed AS (
    SELECT *, row_number() OVER (PARTITION BY run ORDER BY n DESC, rank) AS place
    FROM counted
),
summed AS (
    SELECT
        optimizer,
        rank,
        CAST(sum(n) AS BIGINT) AS n_windows,
        count(*) AS n_runs,
        count(*) FILTER (WHERE place = 1) AS n_runs_mode
    FROM placed
    GROUP BY optimizer, rank
)
SELECT
    optimizer,
    rank,
    n_windows,
    n_windows / sum(n_windows) OVER (PARTITION BY optimizer) AS share,
    n_runs,
    n_runs_mode
FROM summed
ORDER BY optimizer NULLS LAST, rank
