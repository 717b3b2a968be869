"""Exports that tests make, kill and read: by Hugging Face's own library, never by ours."""

import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from safetensors.torch import load, load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import dcp_engine
import file_steps
from dcp_engine.format.safetensors import CODES, INDEX

LAYERS: Final = 6
VALUES: Final = 300
SHARD: Final = VALUES * 4 * 2
"""Bytes of values in a file: two layers."""
SHARDS: Final = 4
"""Files of an export: three of layers, one of the seed."""


def state(seed: int) -> dict[str, Any]:
    layers = {str(number): torch.full((VALUES,), float(seed)) for number in range(LAYERS)}
    return {"model": {"layers": layers, "seed": torch.tensor(seed)}, "optim": {"step": torch.tensor(3.0)}, "epoch": 2}


def save(seed: int, url: str | Path, options: dict[str, Any] | None = None) -> None:
    dcp_engine.save(state(seed), url, storage_options=options, no_dist=True, step=seed)


def saved_in(folder: Path) -> dict[int, str]:
    """Return checkpoints of two seeds."""
    for seed in (1, 2):
        save(seed, folder / str(seed))
    return {seed: str(folder / str(seed)) for seed in (1, 2)}


def export(source: str, url: str, options: dict[str, Any] | None = None, **more: Any) -> Any:
    return dcp_engine.export(
        source, url, source_options=options, storage_options=options, shard_bytes=SHARD, overwrite=True, **more
    )


def read(folder: Path) -> dict[str, torch.Tensor]:
    """Return all tensors that the index in a folder names; FileNotFoundError if a shard is gone."""
    index = json.loads((folder / INDEX).read_bytes())
    shards = {name: load_file(folder / name) for name in set(index["weight_map"].values())}
    return {name: shards[file][name] for name, file in index["weight_map"].items()}


def held(folder: Path) -> int:
    """Return which seed's model the folder holds, having compared every value; 0 if there is none."""
    return _seed(read(folder)) if (folder / INDEX).exists() else 0


def held_in(client: Any, bucket: str, prefix: str) -> int:
    """Return the same of a bucket, read object by object; KeyError if one is gone."""

    def got(name: str) -> bytes:
        try:
            body: bytes = client.get_object(Bucket=bucket, Key=f"{prefix}/{name}")["Body"].read()
        except client.exceptions.NoSuchKey:
            raise KeyError(name) from None
        return body

    try:
        index = json.loads(got(INDEX))
    except KeyError:
        return 0
    files = {file: load(got(file)) for file in set(index["weight_map"].values())}
    return _seed({name: files[file][name] for name, file in index["weight_map"].items()})


def _seed(found: dict[str, torch.Tensor]) -> int:
    seed = int(found.pop("seed"))
    assert sorted(found) == [f"layers.{number}" for number in range(LAYERS)]
    assert all(torch.equal(value, torch.full((VALUES,), float(seed))) for value in found.values())
    return seed


def export_file(source: str, path: Path) -> None:
    dcp_engine.export(source, path, format="torch", overwrite=True)


def held_in_file(path: Path) -> int:
    """Return which seed's state a torch file holds, having compared every value; 0 if there is none."""
    if not path.exists():
        return 0
    found = torch.load(path, weights_only=True)
    seed = int(found["model"]["seed"])
    assert (found["optim"]["step"], found["epoch"]) == (3, 2)
    layers = {str(number): torch.full((VALUES,), float(seed)) for number in range(LAYERS)}
    assert found["model"]["layers"].keys() == layers.keys()
    assert all(torch.equal(value, layers[name]) for name, value in found["model"]["layers"].items())
    return seed


def die_at_file(source: str, path: Path, number: int) -> None:
    """Export to a file, but be killed before the n-th step on its folder's files."""
    logging.disable()
    with file_steps.counted(path.parent, number, _die):
        export_file(source, path)


def die_at(source: str, url: Path, number: int) -> None:
    """Export, but be killed before the n-th step on the folder's files."""
    logging.disable()
    with file_steps.counted(url, number, _die):
        export(source, str(url))


def export_in(environment: dict[str, str], source: str, url: str, options: dict[str, Any]) -> None:
    """Export in a process of its own, which may have been forked of one that knows no credentials yet."""
    os.environ.update(environment)
    export(source, url, options)


def _die(_name: str, _step: Callable[[], Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# Every type, in pieces of a mesh.


def of_every_type() -> dict[str, torch.Tensor]:
    """A tensor of any bits for each type that safetensors have, of sizes that no mesh divides; and odd shapes."""
    random = torch.Generator().manual_seed(7)
    found = {}
    for name in CODES:
        dtype: torch.dtype = getattr(torch, name)
        bits = torch.randint(0, 2 if dtype == torch.bool else 256, (7, 5 * dtype.itemsize), generator=random)
        found[name] = bits.to(torch.uint8).view(dtype)
    return found | {
        "scalar": torch.tensor(-2.5),
        "empty": torch.empty(0, 4, dtype=torch.int16),
        "deep": torch.arange(3 * 5 * 7 * 2, dtype=torch.float16).view(3, 5, 7, 2),
        "odd bytes": torch.arange(3, dtype=torch.uint8),
    }


def save_on_a_mesh(rank: int, url: str) -> None:
    """Save all of them from a mesh of two by two: rows over one dimension, columns over the other."""
    del rank
    assert dist.get_world_size() == 4
    mesh = init_device_mesh("cpu", (2, 2))
    row, column = mesh.get_coordinate() or ()
    state: dict[str, Any] = {}
    for name, full in of_every_type().items():
        if full.dim() < 2 or not full.numel():
            state[name] = full
            continue
        local = full.chunk(2, 0)[row].chunk(2, 1)[column].contiguous()
        state[name] = DTensor.from_local(
            local, mesh, [Shard(0), Shard(1)], run_check=False, shape=full.shape, stride=full.stride()
        )
    dcp_engine.save({"model": state}, url)
