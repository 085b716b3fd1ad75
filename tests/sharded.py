"""Two processes that save sharded states with torch.distributed.checkpoint; run as a script: folder, rank."""

import sys
from collections import OrderedDict
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

RANKS = 2


def whole_tensors():
    """Tensors whose rows and columns two ranks cannot share evenly."""
    generator = torch.Generator().manual_seed(0)
    return {
        "rows": torch.randn(5, 3, generator=generator),
        "columns": torch.randn(4, 7, generator=generator).to(torch.bfloat16),
        "middle": torch.randn(3, 5, 2, generator=generator).to(torch.float64),
        "copied": torch.randn(6, generator=generator),
        "short": torch.randn(1, 4, generator=generator),
    }


PLACEMENTS = {"rows": Shard(0), "columns": Shard(1), "middle": Shard(1), "copied": Replicate(), "short": Shard(0)}


class Block(nn.Module):
    """A layer by the names of nanoGPT; its rows are not shared evenly either."""

    def __init__(self):
        super().__init__()
        self.ln_1 = nn.LayerNorm(5)
        self.attn = nn.ModuleDict({"c_attn": nn.Linear(5, 15), "c_proj": nn.Linear(5, 5, bias=False)})
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(5, 11), "c_proj": nn.Linear(11, 5)})

    def forward(self, x):
        query, key, value = self.attn["c_attn"](self.ln_1(x)).split(5, dim=-1)
        x = x + self.attn["c_proj"](query * key + value)
        return x + self.mlp["c_proj"](self.mlp["c_fc"](x).relu())


def network():
    torch.manual_seed(1)
    return nn.Sequential(OrderedDict(h=nn.Sequential(Block())))


def save(folder, rank):
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    placed = {name: distribute_tensor(value, mesh, [PLACEMENTS[name]]) for name, value in whole_tensors().items()}
    dcp.save(placed, checkpoint_id=folder / "step-3")
    model = network()
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(torch.ones(2, 5)).sum().backward()
    optimizer.step()
    weights, training = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": training, "step": 5}, checkpoint_id=folder / "run" / "step-5")
    dcp.save({"model": weights}, checkpoint_id=folder / "accelerate" / "checkpoint-5" / "pytorch_model_fsdp_0")
    whole = {name: value.full_tensor().detach() for name, value in weights.items()}
    if rank == 0:
        torch.save(whole, folder / "whole.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    save(Path(sys.argv[1]), int(sys.argv[2]))
