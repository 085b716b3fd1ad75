-- Metrics of matrices at a fixed aspect ratio: on request.

CREATE TABLE aspect_stats (
    run VARCHAR,
    step BIGINT,
    matrix VARCHAR,
    layer BIGINT,
    role VARCHAR,
    aspect DOUBLE,
    part_rows BIGINT,
    part_cols BIGINT,
    n_parts BIGINT,
    n_resolved BIGINT,
    metric VARCHAR,
    value DOUBLE,
    se DOUBLE,
    n BIGINT,
    x_min DOUBLE,
    ks DOUBLE,
    digest VARCHAR,
    status VARCHAR
);
COMMENT ON TABLE aspect_stats IS 'Metrics of one logical matrix at one step from its sub-matrices of one aspect ratio';
COMMENT ON COLUMN aspect_stats.run IS 'Run name [text]';
COMMENT ON COLUMN aspect_stats.step IS 'Optimizer step of the checkpoint [steps]';
COMMENT ON COLUMN aspect_stats.matrix IS 'Logical matrix [text]';
COMMENT ON COLUMN aspect_stats.layer IS 'Layer, counted from 0; NULL outside the layers [index]';
COMMENT ON COLUMN aspect_stats.role IS 'query, key, value, output, gate, up, down, embedding, position, unembedding, norm, bias, router or other [text]';
COMMENT ON COLUMN aspect_stats.aspect IS 'Aspect ratio asked for, longer over shorter side [1]';
COMMENT ON COLUMN aspect_stats.part_rows IS 'Rows of a sub-matrix [count]';
COMMENT ON COLUMN aspect_stats.part_cols IS 'Columns of a sub-matrix [count]';
COMMENT ON COLUMN aspect_stats.n_parts IS 'Sub-matrices [count]';
COMMENT ON COLUMN aspect_stats.n_resolved IS 'Singular values of all of them above their resolution [count]';
COMMENT ON COLUMN aspect_stats.metric IS 'Name of the metric, as in matrix_stats [text]';
COMMENT ON COLUMN aspect_stats.value IS 'Exponent of all eigenvalues together, or mean over the sub-matrices [unit of the metric]';
COMMENT ON COLUMN aspect_stats.se IS 'Standard error of the value [unit of the metric]';
COMMENT ON COLUMN aspect_stats.n IS 'Singular values in the tail, or sub-matrices averaged over [count]';
COMMENT ON COLUMN aspect_stats.x_min IS 'Start of the tail of alpha_mle, a value of sigma^2 [weight^2]';
COMMENT ON COLUMN aspect_stats.ks IS 'Kolmogorov-Smirnov distance between the tail of alpha_mle and its fit [1]';
COMMENT ON COLUMN aspect_stats.digest IS 'Hash of the weights and options it was made from: equal means up to date [hex]';
COMMENT ON COLUMN aspect_stats.status IS 'ok, or why a value is NULL or doubtful [text]';

CREATE TABLE aspect_nulls (
    part_longer BIGINT,
    part_shorter BIGINT,
    n_parts BIGINT,
    metric VARCHAR,
    mean DOUBLE,
    sd DOUBLE,
    low DOUBLE,
    high DOUBLE,
    draws BIGINT,
    digest VARCHAR
);
COMMENT ON TABLE aspect_nulls IS 'What matrices of independent Gaussian entries show in aspect_stats';
COMMENT ON COLUMN aspect_nulls.part_longer IS 'Longer side of a sub-matrix [count]';
COMMENT ON COLUMN aspect_nulls.part_shorter IS 'Shorter side of a sub-matrix [count]';
COMMENT ON COLUMN aspect_nulls.n_parts IS 'Sub-matrices of a draw [count]';
COMMENT ON COLUMN aspect_nulls.metric IS 'Name of the metric [text]';
COMMENT ON COLUMN aspect_nulls.mean IS 'Mean over the draws [unit of the metric]';
COMMENT ON COLUMN aspect_nulls.sd IS 'Standard deviation over the draws [unit of the metric]';
COMMENT ON COLUMN aspect_nulls.low IS '2.5 % quantile of the draws [unit of the metric]';
COMMENT ON COLUMN aspect_nulls.high IS '97.5 % quantile of the draws [unit of the metric]';
COMMENT ON COLUMN aspect_nulls.draws IS 'Random matrices drawn that have the metric [count]';
COMMENT ON COLUMN aspect_nulls.digest IS 'Hash of the definitions it was made by: equal means up to date [hex]';

CREATE VIEW aspect_excess AS
SELECT
    stats.run,
    stats.step,
    stats.matrix,
    stats.layer,
    stats.role,
    stats.aspect,
    stats.metric,
    stats.value,
    nulls.mean AS null_mean,
    nulls.low AS null_low,
    nulls.high AS null_high,
    stats.value - nulls.mean AS excess,
    (stats.value - nulls.mean) / nullif(nulls.sd, 0) AS z
FROM aspect_stats AS stats
JOIN aspect_nulls AS nulls
    ON nulls.part_longer = greatest(stats.part_rows, stats.part_cols)
    AND nulls.part_shorter = least(stats.part_rows, stats.part_cols)
    AND nulls.n_parts = stats.n_parts
    AND nulls.metric = stats.metric
WHERE 2 * stats.n_resolved > stats.n_parts * least(stats.part_rows, stats.part_cols);
COMMENT ON VIEW aspect_excess IS 'aspect_stats beside Gaussian matrices cut in the same way';
COMMENT ON COLUMN aspect_excess.run IS 'Run name [text]';
COMMENT ON COLUMN aspect_excess.step IS 'Optimizer step of the checkpoint [steps]';
COMMENT ON COLUMN aspect_excess.matrix IS 'Logical matrix [text]';
COMMENT ON COLUMN aspect_excess.layer IS 'Layer, counted from 0; NULL outside the layers [index]';
COMMENT ON COLUMN aspect_excess.role IS 'query, key, value, output, gate, up, down, embedding, position, unembedding, norm, bias, router or other [text]';
COMMENT ON COLUMN aspect_excess.aspect IS 'Aspect ratio asked for, longer over shorter side [1]';
COMMENT ON COLUMN aspect_excess.metric IS 'Name of the metric [text]';
COMMENT ON COLUMN aspect_excess.value IS 'Value of the metric [unit of the metric]';
COMMENT ON COLUMN aspect_excess.null_mean IS 'Its mean over Gaussian matrices [unit of the metric]';
COMMENT ON COLUMN aspect_excess.null_low IS 'Its 2.5 % quantile there [unit of the metric]';
COMMENT ON COLUMN aspect_excess.null_high IS 'Its 97.5 % quantile there [unit of the metric]';
COMMENT ON COLUMN aspect_excess.excess IS 'value - null_mean [unit of the metric]';
COMMENT ON COLUMN aspect_excess.z IS 'excess / null_sd [1]';
