-- summary: Whether a gradient over depth grows in more runs than falls: a sign test over the runs of a family.
-- param metric = 'alpha': as in depth_gradients
-- param gradient = 'slope' | 'spread': of a metric over depth
-- param scope = 'trunk': trunk, or role:R
-- param family: only this family of runs (not set: each by itself)
-- columns: family, scope, metric, gradient, n, n_growing, n_falling, n_strengthening, tau_median, p
-- source: Liu 2026 (arXiv:2604.22778): the gradient of alpha strengthens monotonically; the test is our reading
-- note: One smooth run cannot tell a trend from slow noise; several seeds can. p: exact two-sided sign test of tau, as
--   often up as down in noise; it needs six runs to reach 0.05, and runs that do not share their seed. n_strengthening:
--   away from 0 at the end, in noise more often than not, so that it has no p. A spread grows also where the layers do no
--   more than wander apart from a common start: of it a small p says little.
WITH
signs AS (
    SELECT runs.family, trends.scope, trends.metric, trends.gradient, trends.tau, trends.last
    FROM depth_trends AS trends
    LEFT JOIN runs ON trends.run = runs.run
    WHERE trends.tau <> 0
      AND trends.metric = coalesce(getvariable('metric'), 'alpha')
      AND trends.gradient = coalesce(getvariable('gradient'), 'slope')
      AND trends.scope = coalesce(getvariable('scope'), 'trunk')
      AND runs.family IS NOT DISTINCT FROM coalesce(getvariable('family'), runs.family)
),
counts AS (
    SELECT
        family,
        scope,
        metric,
        gradient,
        count(*) AS n,
        count(*) FILTER (WHERE tau > 0) AS n_growing,
        count(*) FILTER (WHERE tau < 0) AS n_falling,
        count(*) FILTER (WHERE sign(tau) = sign(last)) AS n_strengthening,
        median(tau) AS tau_median
    FROM signs
    GROUP BY family, scope, metric, gradient
),
tails AS (
    SELECT *, unnest(range(greatest(n_growing, n_falling), n + 1)) AS of_one_sign
    FROM counts
)
SELECT
    family,
    scope,
    metric,
    gradient,
    n,
    n_growing,
    n_falling,
    n_strengthening,
    tau_median,
    least(1, 2 * sum(exp(lgamma(n + 1) - lgamma(of_one_sign + 1) - lgamma(n - of_one_sign + 1) - n * ln(2)))) AS p
FROM tails
GROUP BY ALL
ORDER BY family NULLS LAST
