-- summary: What moves the weights along each direction: the gradient or weight decay, by window.
-- param window_size = 10: updates per window
-- param scope = 'all': group of parameters
-- param k_max = 4: directions shown
-- param run: only this run (not set: all runs)
-- columns: run, scope, step, k, sigma, gradient_share, decay_share, decay_alignment, relation, status
-- source: Xu 2026 (arXiv:2604.07380), gradient / weight-decay split
-- note: For decoupled weight decay (AdamW, plain SGD) of the tensors that it acts on, see tensors.decays: by the
--   optimizer's parameter groups where a checkpoint holds them, else the matrices (runs.decay_rule says which). The
--   decay's part of an update is -(sum of lr) x decay x the mean of both checkpoints. Shares are of the mean squared
--   motion along v_k; decay_alignment below 0 means that gradient and decay oppose each other. NULL without a logged
--   learning rate and a known weight decay.
SELECT
    run,
    scope,
    step,
    k,
    sigma,
    gradient_share,
    1 - gradient_share AS decay_share,
    decay_alignment,
    CASE WHEN decay_alignment < 0 THEN 'opposed' WHEN decay_alignment >= 0 THEN 'aligned' END AS relation,
    status
FROM window_sigmas
WHERE window_size = coalesce(getvariable('window_size'), 10)
  AND scope = coalesce(getvariable('scope'), 'all')
  AND run = coalesce(getvariable('run'), run)
  AND k <= coalesce(getvariable('k_max'), 4)
ORDER BY run, scope, step, k
