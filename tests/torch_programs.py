"""What the ranks of the tests across torch versions run; and, run as a program, `golden/torch-<version>/` anew.

With each torch: `python tests/torch_programs.py`. What one release wrote every other has to read.
"""

import shutil
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor

import dcp_engine
import stock_dcp as dcp
from rank_group import run_ranks, values

GOLDEN = Path(__file__).with_name("golden")
GROUPS = {"lr": 0.1, "betas": [0.9, 0.99], "fused": None, "params": ["rows", "columns"]}


def release() -> str:
    """Return the running torch's, as `2.15`."""
    return ".".join(torch.__version__.split(".")[:2])


def truth() -> dict[str, torch.Tensor]:
    """Return the unsharded values: one entry a line, made without a random number."""
    return {
        "rows": torch.arange(21.0).reshape(7, 3),
        "columns": torch.arange(10).reshape(2, 5).bfloat16(),
        "step": torch.tensor(7.0, dtype=torch.float64),
        "ids": torch.arange(5) << 40,
        "flags": torch.tensor([True, False, True]),
        "eighth": torch.arange(4.0).to(torch.float8_e4m3fn),
        "wave": torch.tensor([1 + 2j, 3j], dtype=torch.complex64),
        "empty": torch.zeros(0, 4),
    }


def state(*, zero: bool = False) -> dict[str, Any]:
    """Return `rows` and `columns` sharded over all ranks, the rest the same on each."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    found: dict[str, Any] = {name: torch.zeros_like(value) if zero else value for name, value in truth().items()}
    for dim, name in enumerate(("rows", "columns")):
        found[name] = distribute_tensor(found[name], mesh, [Shard(dim)])
    return found | {"groups": dict.fromkeys(GROUPS) if zero else GROUPS}


def differences(found: dict[str, Any]) -> list[str]:
    """Return the names of what is not bitwise what `state` holds. Collective."""
    wrong = [name for name, expected in truth().items() if not _same(found[name], expected)]
    return wrong + [f"groups.{name}" for name, value in GROUPS.items() if found["groups"][name] != value]


def _same(found: torch.Tensor, expected: torch.Tensor) -> bool:
    whole = found.full_tensor() if isinstance(found, DTensor) else found
    return whole.dtype == expected.dtype and whole.tolist() == expected.tolist()


def load(rank: int, url: str) -> list[str]:
    del rank
    found = state(zero=True)
    dcp_engine.load(found, url)
    return differences(found)


def stock_load(rank: int, url: str) -> list[str]:
    del rank
    warnings.simplefilter("ignore")
    found = state(zero=True)
    dcp.load(found, storage_reader=FileSystemReader(url))
    return differences(found)


def save_both(rank: int, folder: str) -> None:
    """Save with the engine and with stock DCP."""
    del rank
    warnings.simplefilter("ignore")
    dcp_engine.save(state(), f"{folder}/engine", step=7)
    dcp.save(state(), storage_writer=FileSystemWriter(Path(folder, "stock")))


def main() -> None:
    home = Path("/tmp", f"torch-{release()}")  # its name goes into the files
    values(run_ranks(2, save_both, str(home)))
    shutil.rmtree(GOLDEN / home.name, ignore_errors=True)
    shutil.move(home, GOLDEN / home.name)


if __name__ == "__main__":
    main()
