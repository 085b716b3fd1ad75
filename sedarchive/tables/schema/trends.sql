-- What gradients over depth do in the course of a run, and how alpha goes with the loss.

CREATE TABLE depth_trends (
    run VARCHAR,
    scope VARCHAR,
    metric VARCHAR,
    gradient VARCHAR,
    last DOUBLE,
    tau DOUBLE,
    p DOUBLE,
    rate DOUBLE,
    rate_low DOUBLE,
    rate_high DOUBLE,
    lag_one DOUBLE,
    n BIGINT,
    n_eff DOUBLE,
    status VARCHAR
);
COMMENT ON TABLE depth_trends IS 'Whether the gradient of a metric over depth grows or falls in the course of a run';
COMMENT ON COLUMN depth_trends.run IS 'Run name [text]';
COMMENT ON COLUMN depth_trends.scope IS 'role:R, or trunk for the mean over the roles of a layer [text]';
COMMENT ON COLUMN depth_trends.metric IS 'As depth_gradients.metric [text]';
COMMENT ON COLUMN depth_trends.gradient IS 'Column of depth_gradients that is followed: slope or spread [text]';
COMMENT ON COLUMN depth_trends.last IS 'Its last value [unit of the metric]';
COMMENT ON COLUMN depth_trends.tau IS 'Mann-Kendall: pairs of steps between which it grew less those where it fell, over all pairs [1]';
COMMENT ON COLUMN depth_trends.p IS 'Two-sided p-value of tau against autocorrelated noise without a trend [1]';
COMMENT ON COLUMN depth_trends.rate IS 'Median slope of all pairs of steps (Sen) [unit of the metric/step]';
COMMENT ON COLUMN depth_trends.rate_low IS 'Lower end of its 95 % interval [unit of the metric/step]';
COMMENT ON COLUMN depth_trends.rate_high IS 'Upper end of its 95 % interval [unit of the metric/step]';
COMMENT ON COLUMN depth_trends.lag_one IS 'Correlation of the noise of neighbouring checkpoints, with one standard error added [1]';
COMMENT ON COLUMN depth_trends.n IS 'Steps compared [count]';
COMMENT ON COLUMN depth_trends.n_eff IS 'Effective steps n (1 - a) / (1 + a), a = lag_one; below 10 neither p nor interval [1]';
COMMENT ON COLUMN depth_trends.status IS 'ok, or why a value is NULL [text]';

CREATE TABLE dissociations (
    run VARCHAR,
    scope VARCHAR,
    dissociated BOOLEAN,
    p DOUBLE,
    spread_compression DOUBLE,
    spread_alpha DOUBLE,
    spread_ratio DOUBLE,
    spread_low DOUBLE,
    spread_high DOUBLE,
    spread_p DOUBLE,
    reversal_step DOUBLE,
    gradient_before DOUBLE,
    gradient_after DOUBLE,
    gradient_null DOUBLE,
    alpha_slope DOUBLE,
    alpha_tau DOUBLE,
    alpha_p DOUBLE,
    n BIGINT,
    status VARCHAR
);
COMMENT ON TABLE dissociations IS 'Whether compression becomes even over depth again while alpha stays uneven, one row for each role';
COMMENT ON COLUMN dissociations.run IS 'Run name [text]';
COMMENT ON COLUMN dissociations.scope IS 'role:R, or trunk for the mean over the roles of a layer [text]';
COMMENT ON COLUMN dissociations.dissociated IS 'Whether compression reverses, alpha strengthens and keeps more of its spread, with p at most 0.05 [flag]';
COMMENT ON COLUMN dissociations.p IS 'The larger of spread_p and alpha_p [1]';
COMMENT ON COLUMN dissociations.spread_compression IS 'Standard deviation of compression over layers at the last step, over the largest of all steps [1]';
COMMENT ON COLUMN dissociations.spread_alpha IS 'The same of alpha [1]';
COMMENT ON COLUMN dissociations.spread_ratio IS 'spread_alpha / spread_compression [1]';
COMMENT ON COLUMN dissociations.spread_low IS 'Lower end of its 95 % interval [1]';
COMMENT ON COLUMN dissociations.spread_high IS 'Upper end of its 95 % interval [1]';
COMMENT ON COLUMN dissociations.spread_p IS 'Two-sided p-value of spread_ratio, compression and alpha of random layers swapped [1]';
COMMENT ON COLUMN dissociations.reversal_step IS 'Step, interpolated, at which the compression gradient changes its sign for good; NULL if it never does [steps]';
COMMENT ON COLUMN dissociations.gradient_before IS 'Compression of the last layer less that of the first, farthest from 0 before it [1]';
COMMENT ON COLUMN dissociations.gradient_after IS 'The same after it [1]';
COMMENT ON COLUMN dissociations.gradient_null IS 'How far from 0 that gradient must be on both sides of a reversal [1]';
COMMENT ON COLUMN dissociations.alpha_slope IS 'Slope of alpha over relative depth at the last step [1]';
COMMENT ON COLUMN dissociations.alpha_tau IS 'Mann-Kendall tau of that slope over the steps [1]';
COMMENT ON COLUMN dissociations.alpha_p IS 'Its p-value, as in depth_trends [1]';
COMMENT ON COLUMN dissociations.n IS 'Layers [count]';
COMMENT ON COLUMN dissociations.status IS 'ok, or why a value is NULL or doubtful [text]';

CREATE TABLE loss_correlations (
    run VARCHAR,
    scope VARCHAR,
    feature VARCHAR,
    target VARCHAR,
    kind VARCHAR,
    rho DOUBLE,
    low DOUBLE,
    high DOUBLE,
    p DOUBLE,
    p_feature DOUBLE,
    n BIGINT,
    n_eff DOUBLE,
    status VARCHAR
);
COMMENT ON TABLE loss_correlations IS 'Rank correlation of alpha with a logged loss over the steps of a run; always say WHERE kind = ...';
COMMENT ON COLUMN loss_correlations.run IS 'Run name [text]';
COMMENT ON COLUMN loss_correlations.scope IS 'role:R, or trunk for the mean over the roles of a layer [text]';
COMMENT ON COLUMN loss_correlations.feature IS 'mean_alpha (over layers) or spread_alpha (largest less smallest layer) [text]';
COMMENT ON COLUMN loss_correlations.target IS 'Logged loss, interpolated between the logged steps [text]';
COMMENT ON COLUMN loss_correlations.kind IS 'level (the series, no p) or difference (changes from one checkpoint to the next, less their trend) [text]';
COMMENT ON COLUMN loss_correlations.rho IS 'Spearman correlation [1]';
COMMENT ON COLUMN loss_correlations.low IS 'Lower end of its 95 % interval [1]';
COMMENT ON COLUMN loss_correlations.high IS 'Upper end of its 95 % interval [1]';
COMMENT ON COLUMN loss_correlations.p IS 'p-value by the largest |rho| of both features of this scope, against surrogates of the loss [1]';
COMMENT ON COLUMN loss_correlations.p_feature IS 'p-value of this feature alone [1]';
COMMENT ON COLUMN loss_correlations.n IS 'Pairs [count]';
COMMENT ON COLUMN loss_correlations.n_eff IS 'Effective pairs n (1 - a b) / (1 + a b), a and b the lag-1 autocorrelations of the ranks; below 10 neither p nor interval [1]';
COMMENT ON COLUMN loss_correlations.status IS 'ok, or why a value is NULL [text]';
