-- Results with their uncertainty: phases, events, couplings, fits.

CREATE TABLE phases (
    run VARCHAR,
    scope VARCHAR,
    window_size BIGINT,
    k BIGINT,
    method VARCHAR,
    phase VARCHAR,
    step_from BIGINT,
    step_to BIGINT,
    threshold DOUBLE,
    is_modal BOOLEAN,
    peak_ratio DOUBLE,
    null_peak_ratio DOUBLE,
    null_share DOUBLE,
    null_walks BIGINT,
    status VARCHAR
);
COMMENT ON TABLE phases IS 'Rise, plateau and collapse of sigma_k / sigma_(k+1) at one k for the whole run, by three methods, each beside how often it finds all three phases in random walks';
COMMENT ON COLUMN phases.run IS 'Run name [text]';
COMMENT ON COLUMN phases.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN phases.window_size IS 'Updates in the window [updates]';
COMMENT ON COLUMN phases.k IS 'Ratio sigma_k / sigma_(k+1) that is followed [index]';
COMMENT ON COLUMN phases.method IS 'peak: the plateau is where the ratio is at least threshold x its maximum, around the maximum; derivative: from the maximum until the slope of the mean of 5 windows is below threshold per window; threshold: from the first to the last window with a ratio of at least threshold [text]';
COMMENT ON COLUMN phases.phase IS 'rise, plateau or collapse [text]';
COMMENT ON COLUMN phases.step_from IS 'Last update of the first window of the phase; NULL: there is no such phase [steps]';
COMMENT ON COLUMN phases.step_to IS 'Last update of the last window of the phase; a window of W updates smears a boundary over W checkpoints [steps]';
COMMENT ON COLUMN phases.threshold IS 'Threshold of the method [unit of the method]';
COMMENT ON COLUMN phases.is_modal IS 'Whether k is the most frequent signal_rank of the run [flag]';
COMMENT ON COLUMN phases.peak_ratio IS 'Largest ratio of the run at this k [1]';
COMMENT ON COLUMN phases.null_peak_ratio IS 'Median over random walks with the norms of the updates of their largest ratio at this k [1]';
COMMENT ON COLUMN phases.null_share IS 'Share of random walks with the norms of the updates in which the method finds all three phases: its rate of false positives [1]';
COMMENT ON COLUMN phases.null_walks IS 'Random walks that null_share counts [count]';
COMMENT ON COLUMN phases.status IS 'ok (all three phases), plateau_at_border (rise or collapse is missing), no_pattern (both are), too_few (windows) [text]';

CREATE TABLE events (
    run VARCHAR,
    scope VARCHAR,
    window_size BIGINT,
    event VARCHAR,
    method VARCHAR,
    step BIGINT,
    low DOUBLE,
    high DOUBLE,
    p DOUBLE,
    causal BOOLEAN,
    feature VARCHAR,
    k BIGINT,
    change DOUBLE,
    status VARCHAR
);
COMMENT ON TABLE events IS 'Dated events of a run';
COMMENT ON COLUMN events.run IS 'Run name [text]';
COMMENT ON COLUMN events.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN events.window_size IS 'Updates in the window [updates]';
COMMENT ON COLUMN events.event IS 'What happened, such as grok, gap_open, collapse, stabilisation (of a loss) or shift [text]';
COMMENT ON COLUMN events.method IS 'Rule that dates it [text]';
COMMENT ON COLUMN events.step IS 'Step of the event: for collapse the last update of the window, for a shift the first checkpoint after it [steps]';
COMMENT ON COLUMN events.low IS 'Lower end of the interval of the step: for collapse the first checkpoint of the window, for a shift that of its 95 % interval [steps]';
COMMENT ON COLUMN events.high IS 'Upper end of the interval of the step [steps]';
COMMENT ON COLUMN events.p IS 'p-value against the method''s null; for a shift the maximum statistic over all its places, one series at a time [1]';
COMMENT ON COLUMN events.causal IS 'Whether only the past was used [flag]';
COMMENT ON COLUMN events.feature IS 'Series that the event is dated by [text]';
COMMENT ON COLUMN events.k IS 'Ratio sigma_k / sigma_(k+1) that is followed, where the event has one [index]';
COMMENT ON COLUMN events.change IS 'Logarithm of the level after a shift over the level before [1]';
COMMENT ON COLUMN events.status IS 'ok, or why a value is NULL or doubtful [text]';

CREATE TABLE couplings (
    run VARCHAR,
    scope VARCHAR,
    window_size BIGINT,
    feature VARCHAR,
    target VARCHAR,
    stamp VARCHAR,
    detrend VARCHAR,
    phase VARCHAR,
    measure VARCHAR,
    kind VARCHAR,
    peak_rule VARCHAR,
    preset VARCHAR,
    phase_method VARCHAR,
    width BIGINT,
    lag DOUBLE,
    r DOUBLE,
    n BIGINT,
    n_eff DOUBLE,
    n_eff_xu DOUBLE,
    p DOUBLE,
    p_lags DOUBLE,
    p_xu DOUBLE,
    low DOUBLE,
    high DOUBLE,
    null_low DOUBLE,
    null_high DOUBLE,
    first_lag DOUBLE,
    last_lag DOUBLE,
    other_window_size BIGINT,
    other_lag DOUBLE,
    statistic DOUBLE,
    lag_order BIGINT,
    status VARCHAR
);
COMMENT ON TABLE couplings IS 'How a feature of the updates goes with a logged metric: one row for each lag, peak, flip, sliding extreme and test; always say WHERE measure = ...';
COMMENT ON COLUMN couplings.run IS 'Run name [text]';
COMMENT ON COLUMN couplings.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN couplings.window_size IS 'Updates in the window [updates]';
COMMENT ON COLUMN couplings.feature IS 'Column of windows, or ratio_k for sigma_k / sigma_(k+1) [text]';
COMMENT ON COLUMN couplings.target IS 'Metric, interpolated between the logged steps [text]';
COMMENT ON COLUMN couplings.stamp IS 'Step that stands for a window: end (of its last update, W / 2 checkpoints late) or centre [text]';
COMMENT ON COLUMN couplings.detrend IS 'Polynomial in step that was taken out of both first: none, linear or cubic [text]';
COMMENT ON COLUMN couplings.phase IS 'Part of the run; all for the whole [text]';
COMMENT ON COLUMN couplings.measure IS 'lag (one lag of a scan), peak (of a scan), flip (sign of the peak lag against that of the next smaller window), sliding (extreme of sliding correlations), granger or multiple_r2; peak_xu, lag_xu, flip_xu: the same by a preset, see preset; phase: one phase at lag 0; group: one layer at lag 0, groups: all layers together, groups_weakest: the layer of smallest |r| [text]';
COMMENT ON COLUMN couplings.kind IS 'What is correlated: plain (the series), partial_lr (less the linear effect of the learning rate), difference (from one checkpoint to the next) [text]';
COMMENT ON COLUMN couplings.peak_rule IS 'Which r is the peak: abs (largest |r|) or negative (most negative, the authors'' rule, a choice of direction); of a sliding extreme lowest or highest [text]';
COMMENT ON COLUMN couplings.preset IS 'Preset and its lag search, such as xu2026/gpt2, see the table presets; NULL: an analysis of our own [text]';
COMMENT ON COLUMN couplings.phase_method IS 'Rule that divides the run into phases, as in phases.method; NULL: the whole run [text]';
COMMENT ON COLUMN couplings.width IS 'Points of a sliding correlation [checkpoints]';
COMMENT ON COLUMN couplings.lag IS 'Positive: the feature leads [checkpoints]';
COMMENT ON COLUMN couplings.r IS 'Pearson correlation [1]';
COMMENT ON COLUMN couplings.n IS 'Pairs; of a sliding extreme the positions, of a test the points [count]';
COMMENT ON COLUMN couplings.n_eff IS 'Effective pairs n (1 - a b) / (1 + a b), a and b the lag-1 autocorrelations; below 10 neither p nor interval [1]';
COMMENT ON COLUMN couplings.n_eff_xu IS 'The authors'' effective pairs n (1 - a) / (1 + a), a the larger autocorrelation; at least 4 [1]';
COMMENT ON COLUMN couplings.p IS 'p-value by the maximum over all lags, features and window sizes of this scope, target, stamp, detrend and kind, against surrogates of the metric; of a flip, a sliding extreme or a test: of itself alone; of a group: over all layers and window sizes, of a phase: over all phases and window sizes [1]';
COMMENT ON COLUMN couplings.p_lags IS 'p-value by the maximum over the lags of this scan alone: for a feature, scope and window size fixed beforehand; of a phase: of this phase alone [1]';
COMMENT ON COLUMN couplings.p_xu IS 'The authors'' p-value, by Student''s t with n_eff_xu (of granger: by the F distribution); ignores the search, so for a peak far too small [1]';
COMMENT ON COLUMN couplings.low IS 'Lower end of the 95 % interval of r at this lag, by Fisher''s z with n_eff; of a peak wider for each other lag that might have been it [1]';
COMMENT ON COLUMN couplings.high IS 'Upper end of the same interval [1]';
COMMENT ON COLUMN couplings.null_low IS '2.5 % quantile of the smallest sliding r of a run under surrogates [1]';
COMMENT ON COLUMN couplings.null_high IS '97.5 % quantile of the largest sliding r of a run under surrogates; of multiple_r2 and groups the 95 % quantile of R2, of groups_weakest of |r| of that layer [1]';
COMMENT ON COLUMN couplings.first_lag IS 'First lag searched that has 8 pairs [checkpoints]';
COMMENT ON COLUMN couplings.last_lag IS 'Last lag searched that has 8 pairs [checkpoints]';
COMMENT ON COLUMN couplings.other_window_size IS 'Window size that a flip compares with [updates]';
COMMENT ON COLUMN couplings.other_lag IS 'Peak lag at that window size [checkpoints]';
COMMENT ON COLUMN couplings.statistic IS 'F of granger, R2 of multiple_r2 and of groups [1]';
COMMENT ON COLUMN couplings.lag_order IS 'Lags of metric and feature in granger, by AIC [checkpoints]';
COMMENT ON COLUMN couplings.status IS 'ok; irregular (unequally spaced checkpoints); or why a value is NULL: no_target, too_few, constant, few_effective, border (peak at the end of the search: none), wrong_sign, no_flip, gaps_or_too_few, no_signal_rank [text]';

CREATE TABLE fits (
    fit VARCHAR,
    run VARCHAR,
    scope VARCHAR,
    window_size BIGINT,
    k BIGINT,
    parameter VARCHAR,
    estimate DOUBLE,
    low DOUBLE,
    high DOUBLE,
    null_low DOUBLE,
    null_high DOUBLE,
    p DOUBLE,
    n BIGINT,
    r2 DOUBLE,
    r2_out_of_sample DOUBLE,
    status VARCHAR
);
COMMENT ON TABLE fits IS 'Fitted parameters with their intervals';
COMMENT ON COLUMN fits.fit IS 'Name of the fit [text]';
COMMENT ON COLUMN fits.run IS 'Run; NULL for a fit over several [text]';
COMMENT ON COLUMN fits.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN fits.window_size IS 'Updates in the windows that were fitted; NULL for a fit of no windows [updates]';
COMMENT ON COLUMN fits.k IS 'Singular value or gap that was followed; NULL if none [index]';
COMMENT ON COLUMN fits.parameter IS 'Name of the parameter [text]';
COMMENT ON COLUMN fits.estimate IS 'Estimate [unit of the parameter]';
COMMENT ON COLUMN fits.low IS 'Lower end of the interval [unit of the parameter]';
COMMENT ON COLUMN fits.high IS 'Upper end of the interval [unit of the parameter]';
COMMENT ON COLUMN fits.null_low IS '2.5 % quantile of the estimate under the fit''s null [unit of the parameter]';
COMMENT ON COLUMN fits.null_high IS '97.5 % quantile of the estimate under the fit''s null [unit of the parameter]';
COMMENT ON COLUMN fits.p IS 'p-value against the fit''s null [1]';
COMMENT ON COLUMN fits.n IS 'Points [count]';
COMMENT ON COLUMN fits.r2 IS 'Share of variance explained [1]';
COMMENT ON COLUMN fits.r2_out_of_sample IS 'Share of variance explained on points left out of the fit [1]';
COMMENT ON COLUMN fits.status IS 'ok, or why a value is NULL or doubtful [text]';

CREATE TABLE projections (
    run VARCHAR,
    scope VARCHAR,
    window_size BIGINT,
    dimension BIGINT,
    seed BIGINT,
    quantity VARCHAR,
    error DOUBLE,
    error_max DOUBLE,
    error_simulated DOUBLE,
    error_low DOUBLE,
    error_high DOUBLE,
    n BIGINT,
    status VARCHAR
);
COMMENT ON TABLE projections IS 'Errors of windows after a random projection of the updates, beside the errors that simulation gives';
COMMENT ON COLUMN projections.run IS 'Run name [text]';
COMMENT ON COLUMN projections.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN projections.window_size IS 'Updates in the window [updates]';
COMMENT ON COLUMN projections.dimension IS 'Dimension d that updates are projected to, by entries N(0, 1) / sqrt(d) [1]';
COMMENT ON COLUMN projections.seed IS 'Seed of the projection; its entries are keyed by seed, tensor and element [index]';
COMMENT ON COLUMN projections.quantity IS 'ratio_1 (sigma_1 / sigma_2), ratio_2 (sigma_2 / sigma_3), ratio_signal (at the signal rank), or gap_1, gap_2, gap_signal: the differences there [text]';
COMMENT ON COLUMN projections.error IS 'Mean over windows of |projected / exact - 1|; about sqrt(2 / (pi d)) for a ratio of well separated modes, more where modes lie close [1]';
COMMENT ON COLUMN projections.error_max IS 'The largest over windows [1]';
COMMENT ON COLUMN projections.error_simulated IS 'Mean error of 200 seeded draws from the exact distribution of projections, given the Gram matrix [1]';
COMMENT ON COLUMN projections.error_low IS '2.5 % quantile of the mean errors of those draws [1]';
COMMENT ON COLUMN projections.error_high IS '97.5 % quantile of the mean errors of those draws [1]';
COMMENT ON COLUMN projections.n IS 'Windows in which the quantity exists [count]';
COMMENT ON COLUMN projections.status IS 'ok, unresolved (the quantity exists in no window), nonfinite, or banded (the Gram matrix is stored as a band) [text]';
