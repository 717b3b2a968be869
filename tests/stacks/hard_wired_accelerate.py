"""Saves an FSDP2 model by accelerate's own functions: python hard_wired_accelerate.py FOLDER."""

import sys

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, load_fsdp_model, save_fsdp_model
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import dcp_engine


def model(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 4))
    fully_shard(made)
    return made


def shards(module: nn.Module) -> list[torch.Tensor]:
    return [each.to_local() for each in module.parameters() if isinstance(each, DTensor)]


def main(folder: str) -> None:
    accelerator = Accelerator(cpu=True)
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, state_dict_type="SHARDED_STATE_DICT")
    saved, loaded = model(1), model(2)
    with dcp_engine.patched_dcp():
        save_fsdp_model(plugin, accelerator, saved, folder)
        load_fsdp_model(plugin, accelerator, loaded, folder)
    assert shards(saved)
    assert all(torch.equal(*both) for both in zip(shards(saved), shards(loaded), strict=True))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
