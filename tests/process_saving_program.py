"""A rank that saves by stock's `dcp.async_save` in a process of its own, through our writer: URL, options, value."""

import json
import sys

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import dcp_engine


def main(url: str, options: str, value: str) -> None:
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    state = {"w": distribute_tensor(torch.full((8, 4), float(value)), mesh, [Shard(0)]), "text": "same"}
    for name in ("first", "second"):  # the process stays for the next save
        writer = dcp_engine.CheckpointWriter(f"{url}/{name}", storage_options=json.loads(options))
        done = async_save(state, storage_writer=writer, async_checkpointer_type=AsyncCheckpointerType.PROCESS)
        assert not isinstance(done, dict)
        done.result()  # type: ignore[union-attr]
    values = torch.zeros(8, 4)
    found = {"w": values, "text": ""}
    dcp_engine.load(found, f"{url}/second", storage_options=json.loads(options))
    print(float(values.mean()), found["text"], flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
