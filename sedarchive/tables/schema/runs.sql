-- The runs and what was found in them.

CREATE TABLE runs (
    run VARCHAR,
    source VARCHAR,
    architecture VARCHAR,
    n_checkpoints BIGINT,
    n_parameters BIGINT,
    n_layers BIGINT,
    run_group VARCHAR,
    family VARCHAR,
    task VARCHAR,
    seed BIGINT,
    optimizer VARCHAR,
    beta1 DOUBLE,
    beta2 DOUBLE,
    lr DOUBLE,
    weight_decay DOUBLE,
    decay_rule VARCHAR,
    arm VARCHAR,
    dose DOUBLE,
    parent_run VARCHAR,
    parent_step BIGINT
);
COMMENT ON TABLE runs IS 'One row for each training run';
COMMENT ON COLUMN runs.run IS 'Run name [text]';
COMMENT ON COLUMN runs.source IS 'Folder that the run was read from [path]';
COMMENT ON COLUMN runs.architecture IS 'Family of the model, by its tensor names and config [text]';
COMMENT ON COLUMN runs.n_checkpoints IS 'Archived checkpoints [count]';
COMMENT ON COLUMN runs.n_parameters IS 'Parameters, ties once, without buffers [count]';
COMMENT ON COLUMN runs.n_layers IS 'Layers of the model [count]';
COMMENT ON COLUMN runs.run_group IS 'Name shared by runs to be compared [text]';
COMMENT ON COLUMN runs.family IS 'Model family for comparisons across sizes [text]';
COMMENT ON COLUMN runs.task IS 'Task or data set [text]';
COMMENT ON COLUMN runs.seed IS 'Random seed [1]';
COMMENT ON COLUMN runs.optimizer IS 'Optimizer [text]';
COMMENT ON COLUMN runs.beta1 IS 'First momentum coefficient [1]';
COMMENT ON COLUMN runs.beta2 IS 'Second momentum coefficient [1]';
COMMENT ON COLUMN runs.lr IS 'Peak learning rate [1/step]';
COMMENT ON COLUMN runs.weight_decay IS 'Weight decay coefficient [1]';
COMMENT ON COLUMN runs.decay_rule IS 'Why tensors.decays is as it is: names or counts of the optimizer''s parameter groups, or assumed (matrices decay, vectors do not) [text]';
COMMENT ON COLUMN runs.arm IS 'Arm of an experiment, such as treatment or control [text]';
COMMENT ON COLUMN runs.dose IS 'Dose of the arm [unit of the experiment]';
COMMENT ON COLUMN runs.parent_run IS 'Run that this one was branched from [text]';
COMMENT ON COLUMN runs.parent_step IS 'Step of the parent at which it was branched [steps]';

CREATE TABLE checkpoints (
    run VARCHAR,
    step BIGINT,
    checkpoint_index BIGINT,
    tokens BIGINT,
    source VARCHAR,
    digest VARCHAR,
    lr DOUBLE,
    weight_decay DOUBLE
);
COMMENT ON TABLE checkpoints IS 'One row for each archived checkpoint';
COMMENT ON COLUMN checkpoints.run IS 'Run name [text]';
COMMENT ON COLUMN checkpoints.step IS 'Optimizer step of the checkpoint [steps]';
COMMENT ON COLUMN checkpoints.checkpoint_index IS 'Place in the run, counted from 0 in order of step [index]';
COMMENT ON COLUMN checkpoints.tokens IS 'Tokens seen in training until here [tokens]';
COMMENT ON COLUMN checkpoints.source IS 'File or folder of the checkpoint [path]';
COMMENT ON COLUMN checkpoints.digest IS 'SHA-256 over the names and digests of all tensors [hex]';
COMMENT ON COLUMN checkpoints.lr IS 'Learning rate at this step: logged, else that of the optimizer in the checkpoint [1/step]';
COMMENT ON COLUMN checkpoints.weight_decay IS 'Weight decay coefficient at this step: logged, else that of the optimizer in the checkpoint [1]';

CREATE TABLE tensors (
    run VARCHAR,
    tensor VARCHAR,
    shape VARCHAR,
    dtype VARCHAR,
    n_elements BIGINT,
    layer BIGINT,
    role VARCHAR,
    kind VARCHAR,
    tied_to VARCHAR,
    decays BOOLEAN,
    skipped_reason VARCHAR
);
COMMENT ON TABLE tensors IS 'One row for each tensor of a run, and for each product of two factors of an adapter';
COMMENT ON COLUMN tensors.run IS 'Run name [text]';
COMMENT ON COLUMN tensors.tensor IS 'True name of the tensor; of a product its module''s and .lora [text]';
COMMENT ON COLUMN tensors.shape IS 'Lengths of the axes, joined by x [elements]';
COMMENT ON COLUMN tensors.dtype IS 'Element type as in the checkpoint; NULL of a product, which is in none [text]';
COMMENT ON COLUMN tensors.n_elements IS 'Elements [count]';
COMMENT ON COLUMN tensors.layer IS 'Layer, counted from 0; NULL outside the layers [index]';
COMMENT ON COLUMN tensors.role IS 'query, key, value, output, gate, up, down, embedding, position, unembedding, norm, bias, router or other [text]';
COMMENT ON COLUMN tensors.kind IS 'matrix, vector, array, buffer or integer [text]';
COMMENT ON COLUMN tensors.tied_to IS 'Tensor that this one is the same as, at every step [text]';
COMMENT ON COLUMN tensors.decays IS 'Whether weight decay acts on it, see runs.decay_rule [flag]';
COMMENT ON COLUMN tensors.skipped_reason IS 'Why it is left out of the grouped scopes or kept whole, or what it is the product of; NULL if it is not [text]';

CREATE TABLE matrices (
    run VARCHAR,
    matrix VARCHAR,
    tensor VARCHAR,
    layer BIGINT,
    role VARCHAR,
    expert BIGINT,
    n_rows BIGINT,
    n_cols BIGINT
);
COMMENT ON TABLE matrices IS 'One row for each logical matrix: a whole 2-D tensor, one part of a fused one, or the product of two factors';
COMMENT ON COLUMN matrices.run IS 'Run name [text]';
COMMENT ON COLUMN matrices.matrix IS 'Name of the matrix: its tensor''s, and its part''s if the tensor is fused [text]';
COMMENT ON COLUMN matrices.tensor IS 'Tensor that holds it, or product that it is [text]';
COMMENT ON COLUMN matrices.layer IS 'Layer, counted from 0; NULL outside the layers [index]';
COMMENT ON COLUMN matrices.role IS 'query, key, value, output, gate, up, down, embedding, position, unembedding, norm, bias, router or other [text]';
COMMENT ON COLUMN matrices.expert IS 'Expert of a mixture, counted from 0 [index]';
COMMENT ON COLUMN matrices.n_rows IS 'Rows [count]';
COMMENT ON COLUMN matrices.n_cols IS 'Columns [count]';

CREATE TABLE metrics (
    run VARCHAR,
    step BIGINT,
    name VARCHAR,
    value DOUBLE,
    source VARCHAR
);
COMMENT ON TABLE metrics IS 'The training logs, one row for each number';
COMMENT ON COLUMN metrics.run IS 'Run name [text]';
COMMENT ON COLUMN metrics.step IS 'Optimizer step of the log entry [steps]';
COMMENT ON COLUMN metrics.name IS 'train_loss, val_loss, val_loss/NAME, train_acc, val_acc, lr, grad_norm, weight_decay, tokens, or the log''s own name [text]';
COMMENT ON COLUMN metrics.value IS 'The number [unit of the metric]';
COMMENT ON COLUMN metrics.source IS 'Log file, relative to the run''s folder [path]';

-- Each logged metric at each checkpoint, by each rule: a query names the rule that it joins by.
CREATE VIEW checkpoint_metrics AS
WITH
logged AS (
    SELECT run, name, step, min_by(value, coalesce(source, '')) AS value
    FROM metrics
    WHERE isfinite(value)
    GROUP BY run, name, step
),
wanted AS (
    SELECT checkpoints.run, checkpoints.step, names.name
    FROM checkpoints
    JOIN (SELECT DISTINCT run, name FROM logged) AS names USING (run)
),
around AS (
    SELECT
        wanted.run,
        wanted.step,
        wanted.name,
        earlier.value AS earlier_value,
        later.value AS later_value,
        wanted.step - earlier.step AS since,
        later.step - wanted.step AS until
    FROM wanted
    ASOF LEFT JOIN logged AS earlier
        ON wanted.run = earlier.run AND wanted.name = earlier.name AND wanted.step >= earlier.step
    ASOF LEFT JOIN logged AS later
        ON wanted.run = later.run AND wanted.name = later.name AND wanted.step <= later.step
)
SELECT run, step, name, earlier_value AS value, 'exact' AS join_rule, since AS distance
FROM around
WHERE since = 0
UNION ALL
SELECT
    run,
    step,
    name,
    CASE WHEN until IS NULL OR since <= until THEN earlier_value ELSE later_value END,
    'nearest',
    least(since, until)
FROM around
UNION ALL
SELECT
    run,
    step,
    name,
    CASE
        WHEN since = 0 THEN earlier_value
        ELSE earlier_value + (later_value - earlier_value) * (since / (since + until))
    END,
    'interpolate',
    least(since, until)
FROM around
WHERE since IS NOT NULL AND until IS NOT NULL;
COMMENT ON VIEW checkpoint_metrics IS 'Logged metrics at the checkpoints, by three rules: always say WHERE join_rule = ...';
COMMENT ON COLUMN checkpoint_metrics.run IS 'Run name [text]';
COMMENT ON COLUMN checkpoint_metrics.step IS 'Optimizer step of the checkpoint [steps]';
COMMENT ON COLUMN checkpoint_metrics.name IS 'Metric, as in metrics [text]';
COMMENT ON COLUMN checkpoint_metrics.value IS 'The number by this rule [unit of the metric]';
COMMENT ON COLUMN checkpoint_metrics.join_rule IS 'exact: logged at this step; nearest: at the nearest logged step, the earlier of two; interpolate: on the line between the logged steps before and after, never beyond them [text]';
COMMENT ON COLUMN checkpoint_metrics.distance IS 'From the checkpoint to the nearest logged step [steps]';

CREATE TABLE audit (
    run VARCHAR,
    step BIGINT,
    tensor VARCHAR,
    check_name VARCHAR,
    severity VARCHAR,
    detail VARCHAR
);
COMMENT ON TABLE audit IS 'What is remarkable or wrong in a history';
COMMENT ON COLUMN audit.run IS 'Run name [text]';
COMMENT ON COLUMN audit.step IS 'Step concerned; NULL if not one step [steps]';
COMMENT ON COLUMN audit.tensor IS 'Tensor concerned; NULL if not one tensor [text]';
COMMENT ON COLUMN audit.check_name IS 'Check that found it [text]';
COMMENT ON COLUMN audit.severity IS 'info, warning or error [text]';
COMMENT ON COLUMN audit.detail IS 'What, where, consequence and way out [text]';

CREATE TABLE requests (
    kind VARCHAR,
    value VARCHAR
);
COMMENT ON TABLE requests IS 'What compute was asked to keep up to date';
COMMENT ON COLUMN requests.kind IS 'window, scope, preset, projection, projection_seeds, heads, kv_heads, band, arch or runs_info [text]';
COMMENT ON COLUMN requests.value IS 'A window size, a scope, a number, or facts about runs in JSON [text]';

CREATE TABLE presets (
    preset VARCHAR,
    choice VARCHAR,
    value VARCHAR,
    evidence VARCHAR,
    source VARCHAR
);
COMMENT ON TABLE presets IS 'What the presets that compute was asked to follow choose, and where each choice was found';
COMMENT ON COLUMN presets.preset IS 'Name of the preset, as in compute --preset [text]';
COMMENT ON COLUMN presets.choice IS 'What is chosen [text]';
COMMENT ON COLUMN presets.value IS 'The choice [text]';
COMMENT ON COLUMN presets.evidence IS 'code (the authors'' scripts), text (their paper) or ours (found in neither: the most defensible one) [text]';
COMMENT ON COLUMN presets.source IS 'Paper or script [text]';

CREATE TABLE computations (
    run VARCHAR,
    table_name VARCHAR,
    scope VARCHAR,
    window_size BIGINT,
    key VARCHAR,
    options VARCHAR,
    versions VARCHAR,
    digests VARCHAR,
    started TIMESTAMP,
    finished TIMESTAMP
);
COMMENT ON TABLE computations IS 'What the derived tables were made from, by which version';
COMMENT ON COLUMN computations.run IS 'Run name [text]';
COMMENT ON COLUMN computations.table_name IS 'Derived table, or the name of a kind of its rows [text]';
COMMENT ON COLUMN computations.scope IS 'Scope, where the table has one [text]';
COMMENT ON COLUMN computations.window_size IS 'Updates per window; 1: single updates [updates]';
COMMENT ON COLUMN computations.key IS 'Hash of all inputs: equal means up to date [hex]';
COMMENT ON COLUMN computations.options IS 'Options [JSON]';
COMMENT ON COLUMN computations.versions IS 'Versions of sedarchive, of numpy and of the algorithm [text]';
COMMENT ON COLUMN computations.digests IS 'Hash of the ordered steps, digests and leaves that went in [hex]';
COMMENT ON COLUMN computations.started IS 'Start of the computation [UTC]';
COMMENT ON COLUMN computations.finished IS 'End of the computation [UTC]';

CREATE TABLE schema_meta (
    key VARCHAR,
    value VARCHAR
);
COMMENT ON TABLE schema_meta IS 'Identity of this database';
COMMENT ON COLUMN schema_meta.key IS 'schema_version or archive_id [text]';
COMMENT ON COLUMN schema_meta.value IS 'Its value [text]';
