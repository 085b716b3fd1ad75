-- summary: Whether spectra tell which layers a model can do without: rank correlation with a table of importance.
-- param run: only this run (not set: all runs)
-- columns: run, metric, feature, layers, rho, low, high, null_low, null_high, p, n, status
-- source: Liu 2026 (arXiv:2604.22778), importance; published: Spearman 0.69 to 0.84 over core layers
-- note: compute --importance FILE brings the table. layers: core (without one layer at each end, two in models of more
--   than 16), all, and boundary, whose rho is mean importance at the ends less that of the core. p: exact up to nine
--   layers, else of permutations; three features are tried on one table, so a p of 0.02 is less than it seems.
SELECT
    run,
    regexp_extract(parameter, '^(.*):', 1) AS metric,
    regexp_extract(parameter, '([^:]*)$', 1) AS feature,
    scope AS layers,
    estimate AS rho,
    low,
    high,
    null_low,
    null_high,
    p,
    n,
    status
FROM fits
WHERE fit = 'importance' AND run = coalesce(getvariable('run'), run)
ORDER BY run, metric, feature, layers
