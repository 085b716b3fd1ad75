-- Waves and gradients of the spectra over depth.

CREATE TABLE layer_waves (
    run VARCHAR,
    scope VARCHAR,
    layer BIGINT,
    arrival_step DOUBLE,
    largest_compression DOUBLE,
    compression_null DOUBLE,
    status VARCHAR
);
COMMENT ON TABLE layer_waves IS 'When each layer is compressed, one row for each layer and role';
COMMENT ON COLUMN layer_waves.run IS 'Run name [text]';
COMMENT ON COLUMN layer_waves.scope IS 'role:R, or trunk for the mean over the roles of a layer [text]';
COMMENT ON COLUMN layer_waves.layer IS 'Layer, counted from 0 [index]';
COMMENT ON COLUMN layer_waves.arrival_step IS 'Step, interpolated, of half of the largest compression [steps]';
COMMENT ON COLUMN layer_waves.largest_compression IS 'Largest 1 - stable rank / stable rank at step 0 [1]';
COMMENT ON COLUMN layer_waves.compression_null IS 'Compression that two draws of random matrices may differ by (3 standard errors) [1]';
COMMENT ON COLUMN layer_waves.status IS 'ok, or why the arrival is NULL [text]';

CREATE TABLE depth_gradients (
    run VARCHAR,
    scope VARCHAR,
    metric VARCHAR,
    step BIGINT,
    slope DOUBLE,
    slope_low DOUBLE,
    slope_high DOUBLE,
    first_last DOUBLE,
    halves DOUBLE,
    spread DOUBLE,
    shape VARCHAR,
    peak DOUBLE,
    peak_low DOUBLE,
    peak_high DOUBLE,
    curvature DOUBLE,
    aicc_gain DOUBLE,
    n BIGINT,
    status VARCHAR
);
COMMENT ON TABLE depth_gradients IS 'How a metric of the matrices changes from the first layer to the last, at each step';
COMMENT ON COLUMN depth_gradients.run IS 'Run name [text]';
COMMENT ON COLUMN depth_gradients.scope IS 'role:R, or trunk for the mean over the roles of a layer [text]';
COMMENT ON COLUMN depth_gradients.metric IS 'stable_rank, entropy, alpha or another alpha: column of matrix_stats [text]';
COMMENT ON COLUMN depth_gradients.step IS 'Optimizer step of the checkpoint [steps]';
COMMENT ON COLUMN depth_gradients.slope IS 'Least-squares slope over relative depth, 0 to 1 [unit of the metric]';
COMMENT ON COLUMN depth_gradients.slope_low IS 'Lower end of its 95 % interval [unit of the metric]';
COMMENT ON COLUMN depth_gradients.slope_high IS 'Upper end of its 95 % interval [unit of the metric]';
COMMENT ON COLUMN depth_gradients.first_last IS 'First layer less last layer [unit of the metric]';
COMMENT ON COLUMN depth_gradients.halves IS 'Mean of the first half of the layers less that of the last half [unit of the metric]';
COMMENT ON COLUMN depth_gradients.spread IS 'Largest less smallest layer [unit of the metric]';
COMMENT ON COLUMN depth_gradients.shape IS 'inverted_u, u, monotone or too_few [text]';
COMMENT ON COLUMN depth_gradients.peak IS 'Relative depth of the extreme inside; NULL for a monotone profile [1]';
COMMENT ON COLUMN depth_gradients.peak_low IS 'Lower end of its 95 % interval [1]';
COMMENT ON COLUMN depth_gradients.peak_high IS 'Upper end of its 95 % interval [1]';
COMMENT ON COLUMN depth_gradients.curvature IS 'Of the parabola over relative depth; negative for an inverted U [unit of the metric]';
COMMENT ON COLUMN depth_gradients.aicc_gain IS 'AICc of the line less that of the parabola [1]';
COMMENT ON COLUMN depth_gradients.n IS 'Layers [count]';
COMMENT ON COLUMN depth_gradients.status IS 'ok, or why the slope is NULL or doubtful [text]';

CREATE TABLE layer_importance (
    run VARCHAR,
    metric VARCHAR,
    layer BIGINT,
    importance DOUBLE
);
COMMENT ON TABLE layer_importance IS 'How much a model loses without a layer, as given by compute --importance';
COMMENT ON COLUMN layer_importance.run IS 'Run name [text]';
COMMENT ON COLUMN layer_importance.metric IS 'Name of the measure, as the file has it [text]';
COMMENT ON COLUMN layer_importance.layer IS 'Layer, counted from 0 [index]';
COMMENT ON COLUMN layer_importance.importance IS 'Importance, such as the rise of the loss without the layer [unit of the measure]';
