"""A small GPT-2 as each library saves it: the files behind the table of formats in the README.

Every writer makes one run in a folder of its own and returns what it saved: step -> name -> tensor, as the file names
it; a head tied to the embedding is left out, since some formats write it and some do not.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import lightning
import peft
import torch
import torch.distributed.checkpoint as dcp
from accelerate import Accelerator
from histories import CONTEXT, VOCABULARY, NanoGPT, adamw, made, progressions
from huggingface_hub import save_torch_state_dict
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_model
from test_hub_cache import add_revision
from test_readers_deepspeed import write_universal, write_zero2, write_zero3
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

HEAD = "lm_head.weight"
STEPS = (1, 2, 3)
BATCH = 4


@dataclass
class Written:
    """What one writer saved."""

    states: dict[int, dict[str, torch.Tensor]] = field(default_factory=dict)
    logged: dict[tuple[str, int], float] = field(default_factory=dict)
    """(Canonical name, step) -> value, as the library itself tells it."""

    def keep(self, step, tensors):
        self.states[step] = {name: v.detach().clone() for name, v in tensors.items() if not name.endswith(HEAD)}


def gpt2(seed=0):
    torch.manual_seed(seed)
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": CONTEXT + 1, "vocab_size": VOCABULARY}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def saving(save):
    """Writer that saves a model of random weights at each step by ``save(model, folder, step)``."""

    def write(folder):
        made(folder)
        written = Written()
        for step in STEPS:
            model = gpt2(step)
            save(model, folder, step)
            written.keep(step, model.state_dict())
        return written

    return write


@saving
def safetensors_whole(model, folder, step):
    model.save_pretrained(folder / f"checkpoint-{step}")


@saving
def safetensors_shards(model, folder, step):
    model.save_pretrained(folder / f"checkpoint-{step}", max_shard_size="2KB")
    assert len(list(folder.glob(f"checkpoint-{step}/*.safetensors"))) > 2


@saving
def bin_whole(model, folder, step):
    place = made(folder / f"checkpoint-{step}")
    save_torch_state_dict(model.state_dict(), place, safe_serialization=False)
    assert (place / "pytorch_model.bin").exists()


@saving
def bin_shards(model, folder, step):
    place = made(folder / f"checkpoint-{step}")
    save_torch_state_dict(model.state_dict(), place, safe_serialization=False, max_shard_size=2000)
    assert len(list(place.glob("*.bin"))) > 2


@saving
def safetensors_files(model, folder, step):
    save_model(model, folder / f"step_{step}.safetensors")


@saving
def state_dicts(model, folder, step):
    torch.save(model.state_dict(), folder / f"model_{step}.pt")


@saving
def state_dicts_legacy(model, folder, step):
    torch.save(model.state_dict(), folder / f"model_{step}.pt", _use_new_zipfile_serialization=False)


@saving
def dcp_folders(model, folder, step):
    dcp.save({"model": model.state_dict()}, checkpoint_id=folder / f"step-{step}")


TITAN = {
    "tok_embeddings.weight": (11, 8), "layers.0.attention.wq.weight": (8, 8), "layers.0.attention.wk.weight": (4, 8),
    "layers.0.attention.wv.weight": (4, 8), "layers.0.attention.wo.weight": (8, 8),
    "layers.0.feed_forward.w1.weight": (12, 8), "layers.0.feed_forward.w2.weight": (8, 12),
    "layers.0.feed_forward.w3.weight": (12, 8), "layers.0.attention_norm.weight": (8,), "output.weight": (11, 8),
}  # fmt: skip
"""Names and shapes of torchtitan's Llama."""


def torchtitan(folder):
    """Write the state that torchtitan saves: the model's names at the top, the optimizer and the step beside them."""
    written, generator = Written(), torch.Generator().manual_seed(1)
    for step in STEPS:
        model = {name: torch.randn(shape, generator=generator) for name, shape in TITAN.items()}
        beside = {"optimizer": {"state.output.weight.exp_avg": torch.zeros(11, 8)}, "train_state": {"step": step}}
        dcp.save({**model, **beside}, checkpoint_id=folder / "checkpoint" / f"step-{step}")
        written.keep(step, model)
    return written


def untied(model):
    return {name: value for name, value in model.state_dict().items() if name != HEAD}


@saving
def zero_2(model, folder, step):
    write_zero2(folder / f"global_step{step}", model.state_dict())


@saving
def zero_3(model, folder, step):
    write_zero3(folder / f"global_step{step}", untied(model), shared={HEAD: "transformer.wte.weight"})


@saving
def zero_universal(model, folder, step):
    write_universal(folder / f"global_step{step}_universal", untied(model))


@saving
def hub_cache(model, folder, step):
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        files = {path.name: path.read_bytes() for path in Path(place).iterdir()}
    add_revision(folder / "models--Org--name", f"step{step}", files)


def nanogpt(wrap):
    """Writer of nanoGPT's own dict, ``ckpt_N.pt``, after real updates."""

    def write(folder):
        made(folder)
        torch.manual_seed(0)
        model, written, generator = NanoGPT(), Written(), torch.Generator().manual_seed(1)
        wrapped, optimizer = wrap(model), adamw(model)
        for step in STEPS:
            tokens = progressions(generator, BATCH)
            torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
            optimizer.step()
            content = {"model": wrapped.state_dict(), "optimizer": optimizer.state_dict(), "iter_num": step}
            torch.save({**content, "model_args": {"n_head": 2}}, folder / f"ckpt_{step}.pt")
            written.keep(step, model.state_dict())
        return written

    return write


def accelerate_states(is_safe):
    """Writer of accelerate's ``save_state``, after real updates."""

    def write(folder):
        accelerator = Accelerator(cpu=True)
        model = gpt2()
        model, optimizer = accelerator.prepare(model, adamw(model))
        written, generator = Written(), torch.Generator().manual_seed(1)
        for step in STEPS:
            tokens = progressions(generator, BATCH)
            accelerator.backward(model(tokens, labels=tokens).loss)
            optimizer.step()
            accelerator.save_state(folder / f"checkpoint_{step}", safe_serialization=is_safe)
            written.keep(step, accelerator.unwrap_model(model).state_dict())
        return written

    return write


class Keep(TrainerCallback):
    """Keeps the weights when transformers' Trainer saves."""

    def __init__(self, written, weights_of):
        self.written, self.weights_of = written, weights_of

    def on_save(self, args, state, control, model=None, **more):
        self.written.keep(state.global_step, self.weights_of(model))


def trained(model, folder, weights_of):
    """What the Trainer of transformers writes of a model."""
    tokens = progressions(torch.Generator().manual_seed(1), 16)
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = TrainingArguments(
        output_dir=str(folder), max_steps=3, save_steps=1, logging_steps=1, eval_steps=1, eval_strategy="steps",
        per_device_train_batch_size=BATCH, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    written = Written()
    training = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[Keep(written, weights_of)])
    training.train()
    names = {"loss": "train_loss", "eval_loss": "val_loss", "learning_rate": "lr", "grad_norm": "grad_norm"}
    for row in training.state.log_history:
        written.logged |= {(names[name], row["step"]): value for name, value in row.items() if name in names}
    return written


def trainer(folder):
    return trained(gpt2(), folder, lambda model: model.state_dict())


def adapters(folder):
    config = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, base_model_name_or_path="org/base")
    return trained(peft.get_peft_model(gpt2(), config), folder, peft.get_peft_model_state_dict)


class Module(lightning.LightningModule):
    """A GPT-2 under Lightning; what it logs is kept."""

    def __init__(self, written):
        super().__init__()
        self.model, self.written = gpt2(), written

    def training_step(self, batch, index):
        loss = self.model(batch, labels=batch).loss
        self.log("train_loss", loss)
        self.written.logged["train_loss", self.global_step] = loss.item()
        return loss

    def configure_optimizers(self):
        return adamw(self)

    def on_save_checkpoint(self, checkpoint):
        self.written.keep(checkpoint["global_step"], self.state_dict())


def lightning_run(folder):
    """Write what Lightning's Trainer and its CSVLogger do."""
    written = Written()
    data = torch.utils.data.DataLoader(progressions(torch.Generator().manual_seed(1), 12), batch_size=BATCH)
    training = lightning.Trainer(
        max_steps=3, accelerator="cpu", default_root_dir=folder, log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, logger=CSVLogger(folder, name="lightning_logs"),
        callbacks=[ModelCheckpoint(save_top_k=-1, every_n_train_steps=1)],
    )  # fmt: skip
    training.fit(Module(written), data)
    return written


UNFUSED = ("adapters", "torchtitan")
"""Writers of formats whose weights are not fused."""
WRITERS = {
    "trainer": trainer,
    "accelerate": accelerate_states(True),
    "accelerate_bin": accelerate_states(False),
    "safetensors_whole": safetensors_whole,
    "safetensors_shards": safetensors_shards,
    "bin_whole": bin_whole,
    "bin_shards": bin_shards,
    "hub_cache": hub_cache,
    "adapters": adapters,
    "lightning": lightning_run,
    "nanogpt": nanogpt(lambda model: model),
    "compiled": nanogpt(torch.compile),
    "state_dicts": state_dicts,
    "state_dicts_legacy": state_dicts_legacy,
    "safetensors_files": safetensors_files,
    "dcp": dcp_folders,
    "torchtitan": torchtitan,
    "zero_2": zero_2,
    "zero_3": zero_3,
    "zero_universal": zero_universal,
}
