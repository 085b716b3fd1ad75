-- summary: Displacement from the first checkpoint over time, along the backbone and beside it.
-- param kind = 'row_normalised' | 'raw': what the backbone is fitted to: displacements over their lengths, or as they are
-- param scope = 'all': group of parameters
-- param run: only this run (not set: all runs)
-- columns: run, scope, step, displacement, backbone_coordinate, residual, backbone_share, reference_step, status
-- source: Xu 2026 (arXiv:2602.23696): a(t), the norm of r(t), and their share
-- note: displacement^2 = backbone_coordinate^2 + residual^2. The backbone is fitted to the whole run, so that early
--   values know the end, and the residual of a random walk rises and falls too: the recipe backbone tells how much of
--   the share a random walk has.
SELECT
    run,
    scope,
    step,
    displacement,
    backbone_coordinate,
    residual,
    backbone_share,
    reference_step,
    status
FROM drift
WHERE kind = coalesce(getvariable('kind'), 'row_normalised')
  AND scope = coalesce(getvariable('scope'), 'all')
  AND run = coalesce(getvariable('run'), run)
ORDER BY run, scope, step
