"""What the ranks of the engine's tests run."""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor, init_device_mesh

from dcp_worker import engine


def full_state(seed: int = 0) -> dict[str, torch.Tensor]:
    """The unsharded truth: uneven shapes, an empty tensor, bf16, a scalar, an integer, columns."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.randn(37, 11, generator=generator),
        "layer.bias": torch.randn(37, generator=generator).bfloat16(),
        "wide": torch.randn(3, 700, generator=generator),
        "columns": torch.randn(5, 9, generator=generator),
        "empty": torch.zeros(0, 4),
        "ids": torch.randint(0, 1 << 40, (13,), generator=generator),
        "large": torch.randn(1 << 18, 3, generator=generator),
    }


def sharded_state(seed: int = 0, *, zero: bool = False) -> dict[str, Any]:
    """The same as DTensors over all ranks, beside replicated and plain values."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    state: dict[str, Any] = {}
    for name, tensor in full_state(seed).items():
        placement = Shard(1) if name == "columns" else Shard(0)
        state[name] = distribute_tensor(torch.zeros_like(tensor) if zero else tensor, mesh, [placement])
    replica = torch.full((6, 6), float(seed))
    state["replica"] = distribute_tensor(torch.zeros_like(replica) if zero else replica, mesh, [Replicate()])
    state["plain"] = torch.tensor(0.0 if zero else seed + 0.5)
    state["extra"] = {"step": 0 if zero else seed, "names": [] if zero else ["a", "b"]}
    return state


def differences(state: dict[str, Any], seed: int = 0) -> list[str]:
    """Names of what is not bitwise what `sharded_state(seed)` holds. Collective."""
    wrong = []
    for name, expected in full_state(seed).items():
        if not torch.equal(state[name].full_tensor(), expected):
            wrong.append(name)
    if not torch.equal(state["replica"].full_tensor(), torch.full((6, 6), float(seed))):
        wrong.append("replica")
    if state["plain"].item() != seed + 0.5:
        wrong.append("plain")
    if state["extra"] != {"step": seed, "names": ["a", "b"]}:
        wrong.append("extra")
    return wrong


def save(rank: int, url: str, options: dict[str, Any] | None = None, seed: int = 0, **kwargs: Any) -> Any:
    del rank
    return engine.save(sharded_state(seed), url, storage_options=options, **kwargs)


def save_args(rank: int, url: str, options: dict[str, Any] | None, seed: int, kwargs: dict[str, Any]) -> Any:
    return save(rank, url, options, seed, **kwargs)


def load(rank: int, url: str, options: dict[str, Any] | None = None, seed: int = 0) -> list[str]:
    del rank
    state = sharded_state(seed, zero=True)
    engine.load(state, url, storage_options=options)
    return differences(state, seed)


def stock_save(rank: int, url: str, options: dict[str, Any] | None = None, seed: int = 0) -> None:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

    del rank
    warnings.simplefilter("ignore")
    dcp.save(sharded_state(seed), storage_writer=FsspecWriter(url, **(options or {})))


def stock_load(rank: int, url: str, options: dict[str, Any] | None = None, seed: int = 0) -> list[str]:
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

    del rank
    warnings.simplefilter("ignore")
    state = sharded_state(seed, zero=True)
    dcp.load(state, storage_reader=FsspecReader(url, **(options or {})))
    return differences(state, seed)


def bare_round_trip(rank: int, url: str, options: dict[str, Any] | None = None) -> list[str]:
    import torch.distributed.checkpoint as dcp

    del rank
    dcp.save(sharded_state(3), storage_writer=engine.CheckpointWriter(url, storage_options=options))
    state = sharded_state(3, zero=True)
    dcp.load(state, storage_reader=engine.CheckpointReader(url, storage_options=options))
    return differences(state, 3)


class Failing(nn.Module):
    """A Stateful whose state can't be had on one rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.failing_rank = rank

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        if dist.get_rank() == self.failing_rank:
            raise ValueError("this rank has no state")
        return {"x": torch.zeros(3)}


def save_failing(rank: int, url: str, failing_rank: int) -> None:
    del rank
    engine.save({"model": Failing(failing_rank)}, url)


def is_dtensor(value: object) -> bool:
    return isinstance(value, DTensor)
