"""Two processes that save sharded states with torch.distributed.checkpoint; run as a script: folder, rank."""

import sys
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


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 3, bias=False))


def save(folder, rank):
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=RANKS)
    mesh = init_device_mesh("cpu", (RANKS,))
    placed = {name: distribute_tensor(value, mesh, [PLACEMENTS[name]]) for name, value in whole_tensors().items()}
    dcp.save(placed, checkpoint_id=folder / "step-3")
    model = network()
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(torch.ones(2, 6)).sum().backward()
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
