-- summary: Laws over the runs of a family: exponent with interval, fit in and out of sample, and whether another law does better.
-- param family: only this family of runs (not set: all)
-- columns: family, law, exponent, low, high, null_low, null_high, p, n, r2, r2_out_of_sample, aicc_gain, status
-- source: Liu 2026 (arXiv:2604.22778): spread of alpha ~ depth^0.26 from three depths; the measures are our reading
-- note: Power laws by least squares in log-log over runs, Student's t interval. aicc_gain: AICc of the better of a
--   logarithm and a constant less that of the power law; below 2 the power law is not the better one (NULL: fewer than
--   five runs). status three_points: pure noise reaches r2 >= 0.99 in 6 % of such fits. scaling_law fits other pairs of
--   columns in SQL. null_low, null_high, p: exponents of the spread of alpha where layers have nothing to do with each
--   other: more layers lie further apart, as depth^0.34 in models of 8, 12 and 16 layers.
SELECT
    law.scope AS family,
    law.parameter AS law,
    law.estimate AS exponent,
    law.low,
    law.high,
    law.null_low,
    law.null_high,
    law.p,
    law.n,
    law.r2,
    law.r2_out_of_sample,
    gain.estimate AS aicc_gain,
    law.status
FROM fits AS law
JOIN fits AS gain
    ON gain.fit = 'scaling' AND gain.parameter = law.parameter || '_aicc_gain'
    AND gain.scope IS NOT DISTINCT FROM law.scope
WHERE law.fit = 'scaling'
  AND law.scope IS NOT DISTINCT FROM coalesce(getvariable('family'), law.scope)
ORDER BY family NULLS LAST, law.parameter
