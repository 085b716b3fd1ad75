-- Spectra of the weight matrices themselves.

CREATE TABLE matrix_spectra (
    run VARCHAR,
    step BIGINT,
    matrix VARCHAR,
    sigma DOUBLE[],
    resolution DOUBLE,
    n_resolved BIGINT,
    method VARCHAR,
    digest VARCHAR,
    status VARCHAR
);
COMMENT ON TABLE matrix_spectra IS 'Singular values of one logical matrix at one step';
COMMENT ON COLUMN matrix_spectra.run IS 'Run name [text]';
COMMENT ON COLUMN matrix_spectra.step IS 'Optimizer step of the checkpoint [steps]';
COMMENT ON COLUMN matrix_spectra.matrix IS 'Logical matrix [text]';
COMMENT ON COLUMN matrix_spectra.sigma IS 'Singular values, descending [weight]';
COMMENT ON COLUMN matrix_spectra.resolution IS 'Size below which a singular value is not resolved [weight]';
COMMENT ON COLUMN matrix_spectra.n_resolved IS 'Singular values above the resolution [count]';
COMMENT ON COLUMN matrix_spectra.method IS 'gram (float64) or lapack [text]';
COMMENT ON COLUMN matrix_spectra.digest IS 'Hash of the weights and options it was made from: equal means up to date [hex]';
COMMENT ON COLUMN matrix_spectra.status IS 'ok, or why a value is NULL or doubtful [text]';

CREATE VIEW matrix_sigmas AS
SELECT run, step, matrix, generate_subscripts(sigma, 1) AS k, unnest(sigma) AS sigma
FROM matrix_spectra;
COMMENT ON VIEW matrix_sigmas IS 'matrix_spectra with one row for each singular value';
COMMENT ON COLUMN matrix_sigmas.run IS 'Run name [text]';
COMMENT ON COLUMN matrix_sigmas.step IS 'Optimizer step of the checkpoint [steps]';
COMMENT ON COLUMN matrix_sigmas.matrix IS 'Logical matrix [text]';
COMMENT ON COLUMN matrix_sigmas.k IS 'Order of the singular value, from 1 [index]';
COMMENT ON COLUMN matrix_sigmas.sigma IS 'Singular value [weight]';

CREATE TABLE matrix_stats (
    run VARCHAR,
    step BIGINT,
    matrix VARCHAR,
    layer BIGINT,
    role VARCHAR,
    n_rows BIGINT,
    n_cols BIGINT,
    n_resolved BIGINT,
    frobenius_norm DOUBLE,
    spectral_norm DOUBLE,
    nuclear_norm DOUBLE,
    stable_rank DOUBLE,
    entropy DOUBLE,
    effective_rank DOUBLE,
    entropy_sigma DOUBLE,
    effective_rank_sigma DOUBLE,
    participation DOUBLE,
    numerical_rank BIGINT,
    sigma_ratio DOUBLE,
    condition_number DOUBLE,
    mp_scale DOUBLE,
    mp_edge DOUBLE,
    tw_edge DOUBLE,
    n_outliers BIGINT,
    outlier_share DOUBLE,
    alpha DOUBLE,
    alpha_se DOUBLE,
    alpha_n BIGINT,
    alpha_status VARCHAR,
    alpha_sigma_weighted DOUBLE,
    alpha_sigma_weighted_se DOUBLE,
    alpha_sigma_weighted_n BIGINT,
    alpha_sigma_weighted_status VARCHAR,
    alpha_inverse_k DOUBLE,
    alpha_inverse_k_se DOUBLE,
    alpha_inverse_k_n BIGINT,
    alpha_inverse_k_status VARCHAR,
    alpha_ols DOUBLE,
    alpha_ols_se DOUBLE,
    alpha_ols_n BIGINT,
    alpha_ols_status VARCHAR,
    alpha_top_half DOUBLE,
    alpha_top_half_se DOUBLE,
    alpha_top_half_n BIGINT,
    alpha_top_half_status VARCHAR,
    alpha_top_50 DOUBLE,
    alpha_top_50_se DOUBLE,
    alpha_top_50_n BIGINT,
    alpha_top_50_status VARCHAR,
    alpha_hill DOUBLE,
    alpha_hill_se DOUBLE,
    alpha_hill_n BIGINT,
    alpha_hill_status VARCHAR,
    alpha_mle DOUBLE,
    alpha_mle_se DOUBLE,
    alpha_mle_n BIGINT,
    alpha_mle_x_min DOUBLE,
    alpha_mle_ks DOUBLE,
    alpha_mle_status VARCHAR,
    alpha_weighted_unit DOUBLE,
    alpha_weighted_unit_se DOUBLE,
    alpha_weighted_unit_n BIGINT,
    alpha_weighted_unit_status VARCHAR,
    alpha_truncated DOUBLE,
    alpha_truncated_se DOUBLE,
    alpha_truncated_n BIGINT,
    alpha_truncated_rate DOUBLE,
    alpha_truncated_ks DOUBLE,
    alpha_truncated_p DOUBLE,
    alpha_truncated_status VARCHAR,
    status VARCHAR
);
COMMENT ON TABLE matrix_stats IS 'Summaries of the singular values of one logical matrix at one step';
COMMENT ON COLUMN matrix_stats.run IS 'Run name [text]';
COMMENT ON COLUMN matrix_stats.step IS 'Optimizer step of the checkpoint [steps]';
COMMENT ON COLUMN matrix_stats.matrix IS 'Logical matrix [text]';
COMMENT ON COLUMN matrix_stats.layer IS 'Layer, counted from 0; NULL outside the layers [index]';
COMMENT ON COLUMN matrix_stats.role IS 'query, key, value, output, gate, up, down, embedding, position, unembedding, norm, bias, router or other [text]';
COMMENT ON COLUMN matrix_stats.n_rows IS 'Rows [count]';
COMMENT ON COLUMN matrix_stats.n_cols IS 'Columns [count]';
COMMENT ON COLUMN matrix_stats.n_resolved IS 'Singular values above the resolution [count]';
COMMENT ON COLUMN matrix_stats.frobenius_norm IS 'Root of the sum of sigma_k^2 [weight]';
COMMENT ON COLUMN matrix_stats.spectral_norm IS 'sigma_1 [weight]';
COMMENT ON COLUMN matrix_stats.nuclear_norm IS 'Sum of sigma_k [weight]';
COMMENT ON COLUMN matrix_stats.stable_rank IS 'Sum of sigma_k^2 over sigma_1^2 [1]';
COMMENT ON COLUMN matrix_stats.entropy IS '-sum of p_k ln p_k, p_k = sigma_k^2 / sum of sigma^2 [nats]';
COMMENT ON COLUMN matrix_stats.effective_rank IS 'exp(entropy) [1]';
COMMENT ON COLUMN matrix_stats.entropy_sigma IS '-sum of p_k ln p_k, p_k = sigma_k / sum of sigma [nats]';
COMMENT ON COLUMN matrix_stats.effective_rank_sigma IS 'exp(entropy_sigma) [1]';
COMMENT ON COLUMN matrix_stats.participation IS '(Sum of sigma_k^2)^2 over sum of sigma_k^4 [1]';
COMMENT ON COLUMN matrix_stats.numerical_rank IS 'Singular values above the longer side x 1.2e-7 sigma_1 [count]';
COMMENT ON COLUMN matrix_stats.sigma_ratio IS 'sigma_1 / sigma_2 [1]';
COMMENT ON COLUMN matrix_stats.condition_number IS 'sigma_1 over the smallest singular value; NULL where that is not resolved [1]';
COMMENT ON COLUMN matrix_stats.mp_scale IS 'Standard deviation of random entries whose bulk has the same median sigma^2 [weight]';
COMMENT ON COLUMN matrix_stats.mp_edge IS 'Marchenko-Pastur edge of sigma at mp_scale [weight]';
COMMENT ON COLUMN matrix_stats.tw_edge IS '95 % quantile of the largest sigma of a random matrix at mp_scale [weight]';
COMMENT ON COLUMN matrix_stats.n_outliers IS 'Singular values above tw_edge [count]';
COMMENT ON COLUMN matrix_stats.outlier_share IS 'Their share of the sum of sigma^2 [1]';
COMMENT ON COLUMN matrix_stats.alpha IS 'Exponent of sigma_k ~ k^-alpha: least squares in log-log, weights sigma_k^2, over sigma_k > 1e-6 sigma_1 [1]';
COMMENT ON COLUMN matrix_stats.alpha_se IS 'Standard error of alpha from the residuals of the line [1]';
COMMENT ON COLUMN matrix_stats.alpha_n IS 'Singular values fitted for alpha [count]';
COMMENT ON COLUMN matrix_stats.alpha_status IS 'ok, or why alpha is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_sigma_weighted IS 'Exponent of sigma_k ~ k^-alpha: least squares in log-log, weights sigma_k [1]';
COMMENT ON COLUMN matrix_stats.alpha_sigma_weighted_se IS 'Standard error of alpha_sigma_weighted from the residuals of the line [1]';
COMMENT ON COLUMN matrix_stats.alpha_sigma_weighted_n IS 'Singular values fitted for alpha_sigma_weighted [count]';
COMMENT ON COLUMN matrix_stats.alpha_sigma_weighted_status IS 'ok, or why alpha_sigma_weighted is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_inverse_k IS 'Exponent of sigma_k ~ k^-alpha: least squares in log-log, weights 1/k [1]';
COMMENT ON COLUMN matrix_stats.alpha_inverse_k_se IS 'Standard error of alpha_inverse_k from the residuals of the line [1]';
COMMENT ON COLUMN matrix_stats.alpha_inverse_k_n IS 'Singular values fitted for alpha_inverse_k [count]';
COMMENT ON COLUMN matrix_stats.alpha_inverse_k_status IS 'ok, or why alpha_inverse_k is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_ols IS 'Exponent of sigma_k ~ k^-alpha: least squares in log-log, over all resolved singular values [1]';
COMMENT ON COLUMN matrix_stats.alpha_ols_se IS 'Standard error of alpha_ols from the residuals of the line [1]';
COMMENT ON COLUMN matrix_stats.alpha_ols_n IS 'Singular values fitted for alpha_ols [count]';
COMMENT ON COLUMN matrix_stats.alpha_ols_status IS 'ok, or why alpha_ols is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_top_half IS 'Exponent of sigma_k ~ k^-alpha: least squares in log-log, over the largest half of the singular values [1]';
COMMENT ON COLUMN matrix_stats.alpha_top_half_se IS 'Standard error of alpha_top_half from the residuals of the line [1]';
COMMENT ON COLUMN matrix_stats.alpha_top_half_n IS 'Singular values fitted for alpha_top_half [count]';
COMMENT ON COLUMN matrix_stats.alpha_top_half_status IS 'ok, or why alpha_top_half is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_top_50 IS 'Exponent of sigma_k ~ k^-alpha: least squares in log-log, over the 50 largest singular values [1]';
COMMENT ON COLUMN matrix_stats.alpha_top_50_se IS 'Standard error of alpha_top_50 from the residuals of the line [1]';
COMMENT ON COLUMN matrix_stats.alpha_top_50_n IS 'Singular values fitted for alpha_top_50 [count]';
COMMENT ON COLUMN matrix_stats.alpha_top_50_status IS 'ok, or why alpha_top_50 is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_hill IS 'Hill estimate of the tail exponent of the density of sigma^2, over the larger half [1]';
COMMENT ON COLUMN matrix_stats.alpha_hill_se IS '(alpha_hill - 1) / sqrt(alpha_hill_n) [1]';
COMMENT ON COLUMN matrix_stats.alpha_hill_n IS 'Singular values in its tail [count]';
COMMENT ON COLUMN matrix_stats.alpha_hill_status IS 'ok, or why alpha_hill is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_mle IS 'Maximum likelihood estimate of the tail exponent of the density of sigma^2, tail start by Kolmogorov-Smirnov distance [1]';
COMMENT ON COLUMN matrix_stats.alpha_mle_se IS '(alpha_mle - 1) / sqrt(alpha_mle_n) [1]';
COMMENT ON COLUMN matrix_stats.alpha_mle_n IS 'Singular values in its tail [count]';
COMMENT ON COLUMN matrix_stats.alpha_mle_x_min IS 'Start of its tail, a value of sigma^2 [weight^2]';
COMMENT ON COLUMN matrix_stats.alpha_mle_ks IS 'Kolmogorov-Smirnov distance between its tail and the fit [1]';
COMMENT ON COLUMN matrix_stats.alpha_mle_status IS 'ok, or why alpha_mle is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_weighted_unit IS 'alpha_mle x log10 of sigma_1^2 over the mean squared entry [1]';
COMMENT ON COLUMN matrix_stats.alpha_weighted_unit_se IS 'alpha_mle_se x the same logarithm [1]';
COMMENT ON COLUMN matrix_stats.alpha_weighted_unit_n IS 'Singular values in its tail, those of alpha_mle [count]';
COMMENT ON COLUMN matrix_stats.alpha_weighted_unit_status IS 'ok, or why alpha_weighted_unit is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_truncated IS 'Exponent of a power law with an exponential end, from alpha_mle_x_min on; NULL unless asked for [1]';
COMMENT ON COLUMN matrix_stats.alpha_truncated_se IS 'Standard error of alpha_truncated from the observed information [1]';
COMMENT ON COLUMN matrix_stats.alpha_truncated_n IS 'Singular values in its tail, those of alpha_mle [count]';
COMMENT ON COLUMN matrix_stats.alpha_truncated_rate IS 'Rate of its exponential end, over sigma^2; 0 where there is none [1/weight^2]';
COMMENT ON COLUMN matrix_stats.alpha_truncated_ks IS 'Kolmogorov-Smirnov distance between its tail and the fit [1]';
COMMENT ON COLUMN matrix_stats.alpha_truncated_p IS 'p of the likelihood ratio of its exponential end against none [1]';
COMMENT ON COLUMN matrix_stats.alpha_truncated_status IS 'ok, or why alpha_truncated is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.status IS 'ok, or why a value is NULL or doubtful [text]';

CREATE TABLE matrix_nulls (
    n_rows BIGINT,
    n_cols BIGINT,
    metric VARCHAR,
    mean DOUBLE,
    sd DOUBLE,
    low DOUBLE,
    high DOUBLE,
    draws BIGINT,
    digest VARCHAR
);
COMMENT ON TABLE matrix_nulls IS 'What matrices of independent Gaussian entries of one shape show in each metric that does not depend on their scale';
COMMENT ON COLUMN matrix_nulls.n_rows IS 'Rows [count]';
COMMENT ON COLUMN matrix_nulls.n_cols IS 'Columns [count]';
COMMENT ON COLUMN matrix_nulls.metric IS 'Column of matrix_stats [text]';
COMMENT ON COLUMN matrix_nulls.mean IS 'Mean over the draws [unit of the metric]';
COMMENT ON COLUMN matrix_nulls.sd IS 'Standard deviation over the draws [unit of the metric]';
COMMENT ON COLUMN matrix_nulls.low IS '2.5 % quantile of the draws [unit of the metric]';
COMMENT ON COLUMN matrix_nulls.high IS '97.5 % quantile of the draws [unit of the metric]';
COMMENT ON COLUMN matrix_nulls.draws IS 'Random matrices drawn that have the metric [count]';
COMMENT ON COLUMN matrix_nulls.digest IS 'Hash of the definitions it was made by: equal means up to date [hex]';

CREATE VIEW matrix_excess AS
WITH measured AS (
    UNPIVOT (
        SELECT
            run, step, matrix, layer, role, n_rows, n_cols,
            stable_rank, entropy, effective_rank, entropy_sigma,
            effective_rank_sigma, participation, sigma_ratio, condition_number,
            CAST(n_outliers AS DOUBLE) AS n_outliers, outlier_share, alpha, alpha_sigma_weighted,
            alpha_inverse_k, alpha_ols, alpha_top_half, alpha_top_50,
            alpha_hill, alpha_mle, alpha_weighted_unit, alpha_truncated
        FROM matrix_stats
        WHERE 2 * n_resolved > least(n_rows, n_cols)
    )
    ON
        stable_rank, entropy, effective_rank, entropy_sigma, effective_rank_sigma,
        participation, sigma_ratio, condition_number, n_outliers, outlier_share,
        alpha, alpha_sigma_weighted, alpha_inverse_k, alpha_ols, alpha_top_half,
        alpha_top_50, alpha_hill, alpha_mle, alpha_weighted_unit, alpha_truncated
    INTO NAME metric VALUE value
)
SELECT
    measured.run,
    measured.step,
    measured.matrix,
    measured.layer,
    measured.role,
    measured.metric,
    measured.value,
    nulls.mean AS null_mean,
    nulls.low AS null_low,
    nulls.high AS null_high,
    measured.value - nulls.mean AS excess,
    (measured.value - nulls.mean) / nullif(nulls.sd, 0) AS z
FROM measured
JOIN matrix_nulls AS nulls USING (n_rows, n_cols, metric);
COMMENT ON VIEW matrix_excess IS 'Each metric of each matrix beside that of Gaussian matrices of its shape';
COMMENT ON COLUMN matrix_excess.run IS 'Run name [text]';
COMMENT ON COLUMN matrix_excess.step IS 'Optimizer step of the checkpoint [steps]';
COMMENT ON COLUMN matrix_excess.matrix IS 'Logical matrix [text]';
COMMENT ON COLUMN matrix_excess.layer IS 'Layer, counted from 0; NULL outside the layers [index]';
COMMENT ON COLUMN matrix_excess.role IS 'query, key, value, output, gate, up, down, embedding, position, unembedding, norm, bias, router or other [text]';
COMMENT ON COLUMN matrix_excess.metric IS 'Column of matrix_stats [text]';
COMMENT ON COLUMN matrix_excess.value IS 'Value of the metric [unit of the metric]';
COMMENT ON COLUMN matrix_excess.null_mean IS 'Its mean over Gaussian matrices of the shape [unit of the metric]';
COMMENT ON COLUMN matrix_excess.null_low IS 'Its 2.5 % quantile there [unit of the metric]';
COMMENT ON COLUMN matrix_excess.null_high IS 'Its 97.5 % quantile there [unit of the metric]';
COMMENT ON COLUMN matrix_excess.excess IS 'value - null_mean [unit of the metric]';
COMMENT ON COLUMN matrix_excess.z IS 'excess / null_sd [1]';

CREATE VIEW weightwatcher AS
SELECT
    stats.run,
    stats.step,
    dense_rank() OVER (PARTITION BY stats.run ORDER BY stats.matrix) - 1 AS layer_id,
    stats.matrix AS longname,
    greatest(stats.n_rows, stats.n_cols) AS N,
    least(stats.n_rows, stats.n_cols) AS M,
    greatest(stats.n_rows, stats.n_cols) / least(stats.n_rows, stats.n_cols) AS Q,
    len(spectra.sigma) AS num_evals,
    stats.alpha_mle AS alpha,
    stats.alpha_mle_se AS sigma,
    stats.alpha_mle_ks AS D,
    stats.alpha_mle_x_min AS xmin,
    stats.spectral_norm ^ 2 AS xmax,
    stats.alpha_mle_n AS num_pl_spikes,
    stats.alpha_mle * log10(stats.spectral_norm ^ 2) AS alpha_weighted,
    log10(list_sum(list_transform(spectra.sigma, lambda s: s ^ (2 * stats.alpha_mle)))) AS log_alpha_norm,
    log10(stats.frobenius_norm ^ 2) AS log_norm,
    log10(stats.spectral_norm ^ 2) AS log_spectral_norm,
    stats.frobenius_norm ^ 2 AS norm,
    stats.spectral_norm ^ 2 AS spectral_norm,
    stats.stable_rank,
    stats.numerical_rank AS matrix_rank,
    len(spectra.sigma) - stats.numerical_rank AS rank_loss,
    stats.entropy / nullif(ln(stats.numerical_rank), 0) AS entropy,
    stats.spectral_norm AS sv_max,
    spectra.sigma[-1] AS sv_min,
    CASE
        WHEN stats.alpha_mle < 2 THEN 'over-trained'
        WHEN stats.alpha_mle > 6 THEN 'under-trained'
        ELSE ''
    END AS warning,
    CASE WHEN stats.alpha_mle IS NULL THEN 'failed' ELSE 'success' END AS status
FROM matrix_stats AS stats
JOIN matrix_spectra AS spectra USING (run, matrix, step);
COMMENT ON VIEW weightwatcher IS 'matrix_stats under the column names of WeightWatcher, where eigenvalue stands for sigma^2';
COMMENT ON COLUMN weightwatcher.run IS 'Run name [text]';
COMMENT ON COLUMN weightwatcher.step IS 'Optimizer step of the checkpoint [steps]';
COMMENT ON COLUMN weightwatcher.layer_id IS 'Number of the matrix in the order of names, from 0 [index]';
COMMENT ON COLUMN weightwatcher.longname IS 'Logical matrix [text]';
COMMENT ON COLUMN weightwatcher.N IS 'Longer side [count]';
COMMENT ON COLUMN weightwatcher.M IS 'Shorter side [count]';
COMMENT ON COLUMN weightwatcher.Q IS 'N / M [1]';
COMMENT ON COLUMN weightwatcher.num_evals IS 'Eigenvalues [count]';
COMMENT ON COLUMN weightwatcher.alpha IS 'alpha_mle [1]';
COMMENT ON COLUMN weightwatcher.sigma IS 'alpha_mle_se [1]';
COMMENT ON COLUMN weightwatcher.D IS 'alpha_mle_ks [1]';
COMMENT ON COLUMN weightwatcher.xmin IS 'alpha_mle_x_min [weight^2]';
COMMENT ON COLUMN weightwatcher.xmax IS 'Largest eigenvalue [weight^2]';
COMMENT ON COLUMN weightwatcher.num_pl_spikes IS 'alpha_mle_n [count]';
COMMENT ON COLUMN weightwatcher.alpha_weighted IS 'alpha x log10 of the largest eigenvalue [log10 of weight^2]';
COMMENT ON COLUMN weightwatcher.log_alpha_norm IS 'log10 of the sum of eigenvalue^alpha [log10 of weight^(2 alpha)]';
COMMENT ON COLUMN weightwatcher.log_norm IS 'log10 of the sum of the eigenvalues [log10 of weight^2]';
COMMENT ON COLUMN weightwatcher.log_spectral_norm IS 'log10 of the largest eigenvalue [log10 of weight^2]';
COMMENT ON COLUMN weightwatcher.norm IS 'Sum of the eigenvalues [weight^2]';
COMMENT ON COLUMN weightwatcher.spectral_norm IS 'Largest eigenvalue: the square of our spectral_norm [weight^2]';
COMMENT ON COLUMN weightwatcher.stable_rank IS 'norm / spectral_norm [1]';
COMMENT ON COLUMN weightwatcher.matrix_rank IS 'numerical_rank [count]';
COMMENT ON COLUMN weightwatcher.rank_loss IS 'num_evals - matrix_rank [count]';
COMMENT ON COLUMN weightwatcher.entropy IS 'Our entropy over ln matrix_rank [1]';
COMMENT ON COLUMN weightwatcher.sv_max IS 'sigma_1 [weight]';
COMMENT ON COLUMN weightwatcher.sv_min IS 'Smallest sigma [weight]';
COMMENT ON COLUMN weightwatcher.warning IS 'over-trained (alpha < 2), under-trained (alpha > 6) or nothing [text]';
COMMENT ON COLUMN weightwatcher.status IS 'success, or failed where there is no alpha [text]';
