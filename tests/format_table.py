"""The table of formats in the README: every tick is a test, by its name."""

from dataclasses import dataclass

from models import KINDS

MATRIX = "test_format_matrix.py"
READS = MATRIX + "::test_what_was_saved_comes_back_to_the_bit"
SPLITS = MATRIX + "::test_the_parts_of_fused_weights_have_spectra_of_their_own"
LOGS = MATRIX + "::test_what_the_library_logged_is_archived_under_canonical_names"
FAMILIES = MATRIX + "::test_a_model_is_one_checkpoint_whole_or_in_shards_as_safetensors_or_bin"


@dataclass(frozen=True)
class Tick:
    """A test that shows it, ``file::function`` or ``file::function[parameter]``."""

    test: str
    is_real: bool = True
    """Whether the files are written by the library itself, not by the test in its layout."""
    note: str = ""

    @property
    def mark(self):
        return f"{'✓' if self.is_real else '○'} {self.note}".rstrip()


def layout(test, note=""):
    """Tick of a test that writes the format's layout itself."""
    return Tick(test, False, note)


@dataclass(frozen=True)
class Row:
    """One format."""

    name: str
    reads: Tick | None = None
    splits: Tick | None = None
    logs: Tick | None = None


def written(name, key, is_real=True, logs=None):
    """Row of a format that a writer of ``formats_written`` writes."""
    return Row(name, Tick(f"{READS}[{key}]", is_real), Tick(f"{SPLITS}[{key}]", is_real), logs)


ROWS = (
    written("Hugging Face Trainer", "trainer", logs=Tick(f"{LOGS}[trainer]", note="`trainer_state.json`")),
    written("accelerate `save_state`, safetensors", "accelerate"),
    written("accelerate `save_state`, `.bin`", "accelerate_bin"),
    written("transformers, one safetensors file", "safetensors_whole"),
    written("transformers, safetensors shards", "safetensors_shards"),
    written("`pytorch_model.bin`", "bin_whole"),
    written("`.bin` shards with their index", "bin_shards"),
    written("Hugging Face hub cache, `step1000`", "hub_cache", False),
    Row("PEFT adapters", Tick(f"{READS}[adapters]"), None, Tick(f"{LOGS}[adapters]", note="`trainer_state.json`")),
    written("Lightning `.ckpt`", "lightning", logs=Tick(f"{LOGS}[lightning]", note="`metrics.csv`")),
    written("nanoGPT `ckpt_N.pt`", "nanogpt", False, logs=layout("test_log_texts.py::test_nanogpt", "printed")),
    written("saved under `torch.compile`", "compiled"),
    written("bare state dicts, `.pt`", "state_dicts"),
    written("bare state dicts before torch 1.6", "state_dicts_legacy"),
    written("`step_N.safetensors` of `save_model`", "safetensors_files"),
    Row("averaged weights, nested keys (`--key`)", layout("test_selection.py::test_the_weights_under_a_key_are_read")),
    written("torch DCP", "dcp"),
    Row(
        "FSDP, two ranks",
        Tick("test_readers_dcp.py::test_a_model_of_fsdp_is_read_without_its_optimizer"),
        Tick("test_readers_dcp.py::test_the_parts_of_a_fused_weight_of_fsdp_are_rows_of_the_whole"),
    ),
    Row(
        "accelerate with FSDP",
        layout("test_readers_dcp.py::test_the_folder_that_accelerate_puts_into_a_checkpoint_is_read"),
    ),
    Row(
        "torchtitan",
        layout(f"{READS}[torchtitan]"),
        layout(f"{MATRIX}::test_the_matrices_of_torchtitan_have_their_roles"),
        layout("test_log_texts.py::test_torchtitan_in_colour", "printed"),
    ),
    written("DeepSpeed ZeRO 1, 2", "zero_2", False),
    written("DeepSpeed ZeRO 3", "zero_3", False),
    written("DeepSpeed universal", "zero_universal", False),
    Row(
        "DeepSpeed inside a Trainer's `checkpoint-N`",
        layout("test_readers_deepspeed.py::test_the_folder_inside_a_trainer_s_checkpoint_is_read"),
    ),
    Row(
        "Megatron torch_dist",
        layout("test_readers_dcp.py::test_a_megatron_folder_is_read_and_its_step_is_that_of_the_iteration"),
        None,
        layout("test_log_texts.py::test_megatron", "printed"),
    ),
    Row(
        "Megatron, one rank",
        layout("test_readers_deepspeed.py::test_megatron_s_own_format_is_read_where_one_rank_holds_it_all"),
    ),
    Row("TensorBoard event files", logs=Tick("test_log_events.py::test_what_tensorboard_itself_wrote_is_read")),
    Row("JSON lines", logs=layout("test_logs.py::test_json_lines_become_metrics_under_canonical_names")),
    Row("wandb exports", logs=layout("test_log_texts.py::test_an_export_of_wandb_with_run_names_and_bounds")),
    Row(
        "wandb offline folders",
        logs=layout(
            "test_log_texts.py::test_the_summary_of_wandb_does_not_pass_for_the_last_step", "summary, `output.log`"
        ),
    ),
    Row("MLflow `mlruns/`", logs=layout("test_log_texts.py::test_mlflow_s_files_are_named_by_their_paths")),
    Row("llm.c, build-nanogpt", logs=layout("test_log_texts.py::test_llm_c", "printed")),
)

FAMILY_PROOFS = (
    "test_role_layouts.py::test_the_parts_make_the_queries_keys_and_values_of_bloom",
    "test_role_models.py::test_what_is_zeroed_by_its_role_is_zero_in_attention_and_the_others_are_not",
    "test_role_models.py::test_an_expert_of_gpt_oss_has_gate_and_up_in_alternating_columns",
    "test_role_models.py::test_the_parts_of_a_stack_are_the_experts_of_the_file",
    "test_role_models.py::test_parts_hold_every_element_once_and_no_fused_tensor_is_left_whole",
    FAMILIES,
)


def named_tests():
    """Every test that the table names, without parameters."""
    ticks = [tick for row in ROWS for tick in (row.reads, row.splits, row.logs) if tick]
    return [tick.test for tick in ticks] + list(FAMILY_PROOFS)


def table():
    """The README's lines."""
    cells = [[row.name, *(tick.mark if tick else "" for tick in (row.reads, row.splits, row.logs))] for row in ROWS]
    lines = [["format", "reads", "splits", "logs"], ["---"] * 4, *cells]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def families():
    """The README's list of models, by the names of transformers."""
    return ", ".join(f"`{name}`" for name in sorted({kind.model_type for kind in KINDS.values()}))
