-- Updates, and the spectra of rolling windows of updates.

CREATE TABLE updates (
    run VARCHAR,
    scope VARCHAR,
    step BIGINT,
    norm DOUBLE,
    cos_previous DOUBLE,
    zero_fraction DOUBLE,
    quantization_noise DOUBLE,
    status VARCHAR
);
COMMENT ON TABLE updates IS 'One row for each update: the difference of two consecutive checkpoints';
COMMENT ON COLUMN updates.run IS 'Run name [text]';
COMMENT ON COLUMN updates.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN updates.step IS 'Optimizer step of the later checkpoint [steps]';
COMMENT ON COLUMN updates.norm IS 'Euclidean norm of the update [weight]';
COMMENT ON COLUMN updates.cos_previous IS 'Cosine between this update and the one before [1]';
COMMENT ON COLUMN updates.zero_fraction IS 'Share of elements that did not change [1]';
COMMENT ON COLUMN updates.quantization_noise IS 'Rounding energy of the stored values over the energy of the update [1]';
COMMENT ON COLUMN updates.status IS 'ok, or why a value is NULL or doubtful [text]';

CREATE TABLE windows (
    run VARCHAR,
    scope VARCHAR,
    window_size BIGINT,
    step BIGINT,
    step_first BIGINT,
    step_centre DOUBLE,
    edge_ratio DOUBLE,
    edge_k BIGINT,
    edge_ratio_null DOUBLE,
    edge_ratio_null_high DOUBLE,
    edge_ratio_p DOUBLE,
    edge_ratio_ar1_null DOUBLE,
    edge_ratio_ar1_null_high DOUBLE,
    edge_ratio_ar1_p DOUBLE,
    p_eff DOUBLE,
    signal_rank BIGINT,
    signal_rank_mp BIGINT,
    signal_rank_argmax BIGINT,
    signal_rank_weighted BIGINT,
    gap DOUBLE,
    noise_level DOUBLE,
    mp_edge DOUBLE,
    mp_edge_noise DOUBLE,
    above_mp BIGINT,
    above_mp_noise DOUBLE,
    bbp_ratio DOUBLE,
    bbp_ratio_noise DOUBLE,
    unresolved_from BIGINT,
    edge_ratio_unit DOUBLE,
    edge_k_unit BIGINT,
    edge_ratio_unit_null DOUBLE,
    edge_ratio_unit_null_high DOUBLE,
    pc1_share DOUBLE,
    k95 BIGINT,
    drift_speed DOUBLE,
    drift_along DOUBLE,
    residual_speed DOUBLE,
    align_last DOUBLE,
    gamma DOUBLE,
    kappa DOUBLE,
    turning DOUBLE,
    turning_total DOUBLE,
    subspace_angle DOUBLE,
    subspace_angle_dk DOUBLE,
    lr DOUBLE,
    lr_sum DOUBLE,
    gram_change_operator DOUBLE,
    gram_change_positional DOUBLE,
    gram_change_proxy DOUBLE,
    adiabatic_free DOUBLE,
    adiabatic_step DOUBLE,
    adiabatic_interval DOUBLE,
    irregular BOOLEAN,
    status VARCHAR
);
COMMENT ON TABLE windows IS 'One row for each rolling window of updates; W is window_size, p the number of parameters, sigma_k the singular values of the W x p matrix of updates';
COMMENT ON COLUMN windows.run IS 'Run name [text]';
COMMENT ON COLUMN windows.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN windows.window_size IS 'Updates in the window [updates]';
COMMENT ON COLUMN windows.step IS 'Optimizer step of the window''s last update [steps]';
COMMENT ON COLUMN windows.step_first IS 'Optimizer step of the window''s first checkpoint [steps]';
COMMENT ON COLUMN windows.step_centre IS 'Midpoint of the window''s first and last checkpoint [steps]';
COMMENT ON COLUMN windows.edge_ratio IS 'Largest sigma_k / sigma_(k+1) over all k [1]';
COMMENT ON COLUMN windows.edge_k IS 'The k of edge_ratio, from 1 [index]';
COMMENT ON COLUMN windows.edge_ratio_null IS 'Median of edge_ratio under random updates of the same norms [1]';
COMMENT ON COLUMN windows.edge_ratio_null_high IS '95 % quantile of edge_ratio under random updates of the same norms [1]';
COMMENT ON COLUMN windows.edge_ratio_p IS 'Share of random windows with an edge_ratio at least as large [1]';
COMMENT ON COLUMN windows.edge_ratio_ar1_null IS 'Median edge_ratio of random updates that keep norms and lag-1 cosines; of at most 16 windows of a size that was asked for [1]';
COMMENT ON COLUMN windows.edge_ratio_ar1_null_high IS '95 % quantile of edge_ratio under the same updates [1]';
COMMENT ON COLUMN windows.edge_ratio_ar1_p IS 'Share of such random windows with an edge_ratio at least as large [1]';
COMMENT ON COLUMN windows.p_eff IS 'Effective dimension of the null, from the cosines of distant updates; at most p [1]';
COMMENT ON COLUMN windows.signal_rank IS 'The k of the largest sigma_k / sigma_(k+1) among those with sigma_(k+1) >= mp_edge; NULL if none [index]';
COMMENT ON COLUMN windows.signal_rank_mp IS 'The k of the largest sigma_k / sigma_(k+1) among those with sigma_k >= mp_edge; NULL if none [index]';
COMMENT ON COLUMN windows.signal_rank_argmax IS 'The k of the largest sigma_k / sigma_(k+1) over all k [index]';
COMMENT ON COLUMN windows.signal_rank_weighted IS 'The k of the largest (sigma_k / sum of sigma) (sigma_k / sigma_(k+1)) [index]';
COMMENT ON COLUMN windows.gap IS 'sigma_k - sigma_(k+1) at k = signal_rank [weight]';
COMMENT ON COLUMN windows.noise_level IS 'nu: root mean square of an entry of the noise; nu^2 p is the mean sigma^2 of the lower half of the window [weight]';
COMMENT ON COLUMN windows.mp_edge IS 'Upper Marchenko-Pastur edge nu (sqrt(p) + sqrt(W)), noise from the lower half of the window; no test, see mp_edge_noise [weight]';
COMMENT ON COLUMN windows.mp_edge_noise IS 'mp_edge of pure noise with the same sum of sigma^2: W updates of equal norms, random in p_eff dimensions [weight]';
COMMENT ON COLUMN windows.above_mp IS 'Number of sigma_k >= mp_edge [count]';
COMMENT ON COLUMN windows.above_mp_noise IS 'Expected above_mp of pure noise: 7.6 of 10 where p_eff is far below p [count]';
COMMENT ON COLUMN windows.bbp_ratio IS 'sigma_W over the BBP threshold nu (p (W - 1))^(1/4); no test, see bbp_ratio_noise [1]';
COMMENT ON COLUMN windows.bbp_ratio_noise IS 'bbp_ratio of pure noise, about (p / (W - 1))^(1/4): a signal lies below it [1]';
COMMENT ON COLUMN windows.unresolved_from IS 'Smallest k whose sigma_k is unresolved; NULL if all are resolved [index]';
COMMENT ON COLUMN windows.edge_ratio_unit IS 'Largest sigma_k / sigma_(k+1) of the updates scaled to length 1: a learning rate alone makes none [1]';
COMMENT ON COLUMN windows.edge_k_unit IS 'The k of edge_ratio_unit [index]';
COMMENT ON COLUMN windows.edge_ratio_unit_null IS 'Median of edge_ratio_unit under random updates in p_eff dimensions [1]';
COMMENT ON COLUMN windows.edge_ratio_unit_null_high IS '95 % quantile of edge_ratio_unit under random updates in p_eff dimensions [1]';
COMMENT ON COLUMN windows.pc1_share IS 'sigma_1^2 over the sum of sigma_k^2 [1]';
COMMENT ON COLUMN windows.k95 IS 'Smallest k that holds 95 % of the sum of sigma_k^2 [index]';
COMMENT ON COLUMN windows.drift_speed IS 'Norm of the mean update [weight/update]';
COMMENT ON COLUMN windows.drift_along IS 'Mean update along v_1, absolute (the authors'' a_speed) [weight/update]';
COMMENT ON COLUMN windows.residual_speed IS 'Norm of the mean update beside v_1 (the authors'' r_speed) [weight/update]';
COMMENT ON COLUMN windows.align_last IS 'Absolute cosine of the last update with v_1 [1]';
COMMENT ON COLUMN windows.gamma IS 'Absolute cosine of v_1 with v_1 of the previous window [1]';
COMMENT ON COLUMN windows.kappa IS '1 - gamma [1]';
COMMENT ON COLUMN windows.turning IS 'Angle between v_1 and v_1 of the previous window, arccos(gamma) [rad]';
COMMENT ON COLUMN windows.turning_total IS 'Sum of turning over the run up to this window, unknown angles left out [rad]';
COMMENT ON COLUMN windows.subspace_angle IS 'Largest principal angle of span(v_1 .. v_k), k = signal_rank, to that of the previous window [rad]';
COMMENT ON COLUMN windows.subspace_angle_dk IS 'Upper bound of subspace_angle: arcsin(2 gram_change_operator / (sigma_k^2 - sigma_(k+1)^2)), pi/2 where vacuous (Davis-Kahan, form of Yu, Wang and Samworth) [rad]';
COMMENT ON COLUMN windows.lr IS 'Learning rate at the step, from the log or the optimizer in the checkpoint [1/step]';
COMMENT ON COLUMN windows.lr_sum IS 'Sum of the learning rate over the steps since the previous checkpoint: mean rate x steps [1]';
COMMENT ON COLUMN windows.gram_change_operator IS 'Frobenius norm of the change of X^T X against the previous window (its operator form, which bounds v_k) [weight^2]';
COMMENT ON COLUMN windows.gram_change_positional IS 'Frobenius norm of the change of X X^T, position by position [weight^2]';
COMMENT ON COLUMN windows.gram_change_proxy IS 'Norm of the change of the eigenvalues sigma_k^2 [weight^2]';
COMMENT ON COLUMN windows.adiabatic_free IS 'gram_change_operator / gap^2 [1]';
COMMENT ON COLUMN windows.adiabatic_step IS 'gram_change_operator / (lr gap^2), the rate at the step; nearly always >> 1 [steps]';
COMMENT ON COLUMN windows.adiabatic_interval IS 'gram_change_operator / (lr_sum gap^2), the rate summed over the interval between checkpoints; the default convention [1]';
COMMENT ON COLUMN windows.irregular IS 'Whether the window''s checkpoints are unequally spaced [flag]';
COMMENT ON COLUMN windows.status IS 'ok, or why a value is NULL or doubtful [text]';

CREATE TABLE window_sigmas (
    run VARCHAR,
    scope VARCHAR,
    window_size BIGINT,
    step BIGINT,
    k BIGINT,
    sigma DOUBLE,
    ratio DOUBLE,
    sigma_null DOUBLE,
    ratio_null_low DOUBLE,
    ratio_null_high DOUBLE,
    overlap_previous DOUBLE,
    overlap_null DOUBLE,
    overlap_null_high DOUBLE,
    stability_dk DOUBLE,
    stability_split DOUBLE,
    stability_proxy DOUBLE,
    gradient_share DOUBLE,
    decay_alignment DOUBLE,
    energy_drive DOUBLE,
    energy_repulsion DOUBLE,
    status VARCHAR
);
COMMENT ON TABLE window_sigmas IS 'One row for each window and k';
COMMENT ON COLUMN window_sigmas.run IS 'Run name [text]';
COMMENT ON COLUMN window_sigmas.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN window_sigmas.window_size IS 'Updates in the window [updates]';
COMMENT ON COLUMN window_sigmas.step IS 'Optimizer step of the window''s last update [steps]';
COMMENT ON COLUMN window_sigmas.k IS 'Order of the singular value, from 1 [index]';
COMMENT ON COLUMN window_sigmas.sigma IS 'Singular value of the window; NULL if unresolved [weight]';
COMMENT ON COLUMN window_sigmas.ratio IS 'sigma_k / sigma_(k+1) [1]';
COMMENT ON COLUMN window_sigmas.sigma_null IS 'Median of sigma_k under random updates of the same norms [weight]';
COMMENT ON COLUMN window_sigmas.ratio_null_low IS '2.5 % quantile of ratio under random updates of the same norms [1]';
COMMENT ON COLUMN window_sigmas.ratio_null_high IS '97.5 % quantile of ratio under random updates of the same norms [1]';
COMMENT ON COLUMN window_sigmas.overlap_previous IS 'Absolute cosine of v_k with v_k of the previous window [1]';
COMMENT ON COLUMN window_sigmas.overlap_null IS 'Median of overlap_previous for random updates of equal norms in p_eff dimensions [1]';
COMMENT ON COLUMN window_sigmas.overlap_null_high IS '95 % quantile of overlap_previous for random updates of equal norms in p_eff dimensions [1]';
COMMENT ON COLUMN window_sigmas.stability_dk IS 'Lower bound on overlap_previous (Davis-Kahan, form of Yu, Wang and Samworth) [1]';
COMMENT ON COLUMN window_sigmas.stability_split IS 'Absolute cosine of v_k from the window''s two halves [1]';
COMMENT ON COLUMN window_sigmas.stability_proxy IS 'The authors'' alpha_k = max(0, 1 - gram_change_proxy^2 / gap_k^2), gap_k the distance of sigma_k^2 to the nearest other; no bound [1]';
COMMENT ON COLUMN window_sigmas.gradient_share IS 'Share of the gradient in the mean squared motion along v_k, the rest is decoupled weight decay of the scope''s matrices; NULL without learning rate or weight decay, or with a banded Gram matrix [1]';
COMMENT ON COLUMN window_sigmas.decay_alignment IS 'Cosine of the gradient''s and the weight decay''s motion along v_k over the window: below 0 they oppose each other [1]';
COMMENT ON COLUMN window_sigmas.energy_drive IS 'Change of sigma_k^2 since the previous window to first order: <new, v_k>^2 - <old, v_k>^2, v_k of the previous window [weight^2]';
COMMENT ON COLUMN window_sigmas.energy_repulsion IS 'Change of sigma_k^2 to second order: the repulsion of the other eigenvalues (Dyson term), 0 counted [weight^2]';
COMMENT ON COLUMN window_sigmas.status IS 'ok, or why a value is NULL or doubtful [text]';

CREATE TABLE drift (
    run VARCHAR,
    scope VARCHAR,
    kind VARCHAR,
    reference_step BIGINT,
    step BIGINT,
    displacement DOUBLE,
    backbone_coordinate DOUBLE,
    residual DOUBLE,
    backbone_share DOUBLE,
    status VARCHAR
);
COMMENT ON TABLE drift IS 'Displacement from a reference checkpoint, and its share along the backbone';
COMMENT ON COLUMN drift.run IS 'Run name [text]';
COMMENT ON COLUMN drift.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN drift.kind IS 'Which matrix of displacements was decomposed: raw or row_normalised [text]';
COMMENT ON COLUMN drift.reference_step IS 'Step from which the displacement is taken [steps]';
COMMENT ON COLUMN drift.step IS 'Optimizer step of the checkpoint [steps]';
COMMENT ON COLUMN drift.displacement IS 'Norm of theta(step) - theta(reference_step) [weight]';
COMMENT ON COLUMN drift.backbone_coordinate IS 'Displacement along the first principal direction [weight]';
COMMENT ON COLUMN drift.residual IS 'Norm of the displacement outside the first principal direction [weight]';
COMMENT ON COLUMN drift.backbone_share IS 'Share of the squared displacement along the first principal direction [1]';
COMMENT ON COLUMN drift.status IS 'ok, or why a value is NULL or doubtful [text]';

CREATE TABLE components (
    run VARCHAR,
    scope VARCHAR,
    kind VARCHAR,
    step_from BIGINT,
    step_to BIGINT,
    k BIGINT,
    share DOUBLE,
    share_null DOUBLE,
    null_low DOUBLE,
    null_high DOUBLE,
    p DOUBLE,
    status VARCHAR
);
COMMENT ON TABLE components IS 'Principal components of the drift of a whole range of steps';
COMMENT ON COLUMN components.run IS 'Run name [text]';
COMMENT ON COLUMN components.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN components.kind IS 'Which matrix of displacements was decomposed: raw, row_normalised or centred [text]';
COMMENT ON COLUMN components.step_from IS 'First step of the range [steps]';
COMMENT ON COLUMN components.step_to IS 'Last step of the range [steps]';
COMMENT ON COLUMN components.k IS 'Order of the component, from 1 [index]';
COMMENT ON COLUMN components.share IS 'Share of the squared displacement [1]';
COMMENT ON COLUMN components.share_null IS 'Median share under random updates of the same norms [1]';
COMMENT ON COLUMN components.null_low IS '2.5 % quantile of the share under the null [1]';
COMMENT ON COLUMN components.null_high IS '97.5 % quantile of the share under the null [1]';
COMMENT ON COLUMN components.p IS 'Share of random histories with a share at least as large [1]';
COMMENT ON COLUMN components.status IS 'ok, or why a value is NULL or doubtful [text]';
