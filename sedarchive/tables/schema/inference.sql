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
    status VARCHAR
);
COMMENT ON TABLE phases IS 'Rise, plateau and collapse of a ratio of singular values';
COMMENT ON COLUMN phases.run IS 'Run name [text]';
COMMENT ON COLUMN phases.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN phases.window_size IS 'Updates in the window [updates]';
COMMENT ON COLUMN phases.k IS 'Ratio sigma_k / sigma_(k+1) that is followed [index]';
COMMENT ON COLUMN phases.method IS 'peak, derivative or threshold [text]';
COMMENT ON COLUMN phases.phase IS 'rise, plateau or collapse [text]';
COMMENT ON COLUMN phases.step_from IS 'First step of the phase [steps]';
COMMENT ON COLUMN phases.step_to IS 'Last step of the phase [steps]';
COMMENT ON COLUMN phases.threshold IS 'Threshold of the method [unit of the method]';
COMMENT ON COLUMN phases.status IS 'ok, or why a value is NULL or doubtful [text]';

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
    status VARCHAR
);
COMMENT ON TABLE events IS 'Dated events of a run';
COMMENT ON COLUMN events.run IS 'Run name [text]';
COMMENT ON COLUMN events.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN events.window_size IS 'Updates in the window [updates]';
COMMENT ON COLUMN events.event IS 'What happened, such as grok, gap_open or collapse [text]';
COMMENT ON COLUMN events.method IS 'Rule that dates it [text]';
COMMENT ON COLUMN events.step IS 'Step of the event [steps]';
COMMENT ON COLUMN events.low IS 'Lower end of the interval of the step [steps]';
COMMENT ON COLUMN events.high IS 'Upper end of the interval of the step [steps]';
COMMENT ON COLUMN events.p IS 'p-value against the method''s null [1]';
COMMENT ON COLUMN events.causal IS 'Whether only the past was used [flag]';
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
    lag DOUBLE,
    r DOUBLE,
    n BIGINT,
    n_eff DOUBLE,
    p DOUBLE,
    low DOUBLE,
    high DOUBLE,
    status VARCHAR
);
COMMENT ON TABLE couplings IS 'Correlation of a feature of the updates with a logged metric, by lag';
COMMENT ON COLUMN couplings.run IS 'Run name [text]';
COMMENT ON COLUMN couplings.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN couplings.window_size IS 'Updates in the window [updates]';
COMMENT ON COLUMN couplings.feature IS 'Column of windows [text]';
COMMENT ON COLUMN couplings.target IS 'Metric [text]';
COMMENT ON COLUMN couplings.stamp IS 'Step that stands for a window: end or centre [text]';
COMMENT ON COLUMN couplings.detrend IS 'What was taken out first: none, linear or cubic [text]';
COMMENT ON COLUMN couplings.phase IS 'Part of the run; all for the whole [text]';
COMMENT ON COLUMN couplings.lag IS 'Positive: the feature leads [checkpoints]';
COMMENT ON COLUMN couplings.r IS 'Pearson correlation [1]';
COMMENT ON COLUMN couplings.n IS 'Pairs [count]';
COMMENT ON COLUMN couplings.n_eff IS 'Effective number of pairs, given autocorrelation [1]';
COMMENT ON COLUMN couplings.p IS 'p-value, maximum statistic over everything searched [1]';
COMMENT ON COLUMN couplings.low IS 'Lower end of the interval of r [1]';
COMMENT ON COLUMN couplings.high IS 'Upper end of the interval of r [1]';
COMMENT ON COLUMN couplings.status IS 'ok, or why a value is NULL or doubtful [text]';

CREATE TABLE fits (
    fit VARCHAR,
    run VARCHAR,
    scope VARCHAR,
    parameter VARCHAR,
    estimate DOUBLE,
    low DOUBLE,
    high DOUBLE,
    n BIGINT,
    r2 DOUBLE,
    r2_out_of_sample DOUBLE,
    status VARCHAR
);
COMMENT ON TABLE fits IS 'Fitted parameters with their intervals';
COMMENT ON COLUMN fits.fit IS 'Name of the fit [text]';
COMMENT ON COLUMN fits.run IS 'Run; NULL for a fit over several [text]';
COMMENT ON COLUMN fits.scope IS 'Group of parameters: all, trunk, attention, mlp, layer:N, role:R, tensor:NAME or a user''s NAME [text]';
COMMENT ON COLUMN fits.parameter IS 'Name of the parameter [text]';
COMMENT ON COLUMN fits.estimate IS 'Estimate [unit of the parameter]';
COMMENT ON COLUMN fits.low IS 'Lower end of the interval [unit of the parameter]';
COMMENT ON COLUMN fits.high IS 'Upper end of the interval [unit of the parameter]';
COMMENT ON COLUMN fits.n IS 'Points [count]';
COMMENT ON COLUMN fits.r2 IS 'Share of variance explained [1]';
COMMENT ON COLUMN fits.r2_out_of_sample IS 'Share of variance explained on points left out of the fit [1]';
COMMENT ON COLUMN fits.status IS 'ok, or why a value is NULL or doubtful [text]';
