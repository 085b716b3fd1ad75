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
    frobenius_norm DOUBLE,
    spectral_norm DOUBLE,
    stable_rank DOUBLE,
    entropy DOUBLE,
    effective_rank DOUBLE,
    sigma_ratio DOUBLE,
    alpha DOUBLE,
    alpha_status VARCHAR,
    alpha_top_half DOUBLE,
    alpha_top_half_status VARCHAR,
    alpha_sigma_weighted DOUBLE,
    alpha_sigma_weighted_status VARCHAR,
    alpha_inverse_k DOUBLE,
    alpha_inverse_k_status VARCHAR,
    alpha_ols DOUBLE,
    alpha_ols_status VARCHAR,
    alpha_hill DOUBLE,
    alpha_hill_status VARCHAR,
    alpha_mle DOUBLE,
    alpha_mle_status VARCHAR,
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
COMMENT ON COLUMN matrix_stats.frobenius_norm IS 'Root of the sum of sigma_k^2 [weight]';
COMMENT ON COLUMN matrix_stats.spectral_norm IS 'sigma_1 [weight]';
COMMENT ON COLUMN matrix_stats.stable_rank IS 'Sum of sigma_k^2 over sigma_1^2 [1]';
COMMENT ON COLUMN matrix_stats.entropy IS '-sum of p_k ln p_k, p_k = sigma_k^2 / sum of sigma^2 [nats]';
COMMENT ON COLUMN matrix_stats.effective_rank IS 'exp(entropy) [1]';
COMMENT ON COLUMN matrix_stats.sigma_ratio IS 'sigma_1 / sigma_2 [1]';
COMMENT ON COLUMN matrix_stats.alpha IS 'Exponent of sigma_k ~ k^-alpha: least squares in log-log, weights sigma_k^2, over sigma_k > 1e-6 sigma_1 [1]';
COMMENT ON COLUMN matrix_stats.alpha_status IS 'ok, or why alpha is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_top_half IS 'Exponent of sigma_k ~ k^-alpha: least squares over the largest half of the singular values [1]';
COMMENT ON COLUMN matrix_stats.alpha_top_half_status IS 'ok, or why alpha_top_half is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_sigma_weighted IS 'Exponent of sigma_k ~ k^-alpha: least squares, weights sigma_k [1]';
COMMENT ON COLUMN matrix_stats.alpha_sigma_weighted_status IS 'ok, or why alpha_sigma_weighted is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_inverse_k IS 'Exponent of sigma_k ~ k^-alpha: least squares, weights 1/k [1]';
COMMENT ON COLUMN matrix_stats.alpha_inverse_k_status IS 'ok, or why alpha_inverse_k is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_ols IS 'Exponent of sigma_k ~ k^-alpha: least squares over all resolved singular values [1]';
COMMENT ON COLUMN matrix_stats.alpha_ols_status IS 'ok, or why alpha_ols is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_hill IS 'Hill estimate of the tail exponent of the density of sigma^2 [1]';
COMMENT ON COLUMN matrix_stats.alpha_hill_status IS 'ok, or why alpha_hill is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.alpha_mle IS 'Maximum likelihood estimate of the tail exponent of the density of sigma^2, tail start by Kolmogorov-Smirnov distance [1]';
COMMENT ON COLUMN matrix_stats.alpha_mle_status IS 'ok, or why alpha_mle is NULL or doubtful [text]';
COMMENT ON COLUMN matrix_stats.status IS 'ok, or why a value is NULL or doubtful [text]';
