"""Planning and committing at scale, without the bytes: 1,024 ranks with a shard of each of 2,000 tensors.

Prints what the planner takes (DCP's own, the same for all), and what stock DCP and the engine add on rank 0: seconds of
`finish`, and the bytes that every rank reads before a load.
"""

import argparse
import gc
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from dcp_worker.engine import CheckpointWriter, commit, layout, metadata, record
from dcp_worker.engine.store import open_store

ROWS = 8
COLUMNS = 1024
SHARD_BYTES = ROWS * COLUMNS * 4


def plans(ranks: int, tensors: int) -> list[SavePlan]:
    """Return what every rank would send to rank 0."""
    properties = TensorProperties(torch.float32)
    size = torch.Size([ROWS * ranks, COLUMNS])
    found = []
    for rank in range(ranks):
        chunk = ChunkStorageMetadata(torch.Size([rank * ROWS, 0]), torch.Size([ROWS, COLUMNS]))
        data = TensorWriteData(chunk, properties, size)
        items = [
            WriteItem(MetadataIndex(f"layer{number}.weight", chunk.offsets), WriteItemType.SHARD, tensor_data=data)
            for number in range(tensors)
        ]
        found.append(SavePlan(items, planner_data={}))
    return found


def timed(what: str, step: Callable[[], Any]) -> Any:
    gc.collect()
    started = time.monotonic()
    result = step()
    print(f"  {what:44} {time.monotonic() - started:8.1f} s", flush=True)
    return result


def stock(dcp: Metadata, planned: list[SavePlan], folder: Path) -> None:
    results = [
        [
            WriteResult(item.index, SHARD_BYTES, _StorageInfo(f"__{rank}_0.distcp", number * SHARD_BYTES, SHARD_BYTES))
            for number, item in enumerate(plan.items)
        ]
        for rank, plan in enumerate(planned)
    ]
    writer = FileSystemWriter(folder)
    writer.reset()
    folder.mkdir()
    timed("stock DCP: finish", lambda: writer.finish(dcp, results))
    print(f"  {'stock DCP: .metadata':44} {(folder / '.metadata').stat().st_size / 1e6:8.1f} MB")
    timed("stock DCP: read on every rank", lambda: metadata.load((folder / ".metadata").read_bytes()))


def engine(dcp: Metadata, planned: list[SavePlan], folder: Path) -> None:
    writer = CheckpointWriter(folder)
    size = len(planned[0].items) * SHARD_BYTES
    blocks = b"\0" * (4 * -(-size // (64 << 10)))
    results = []
    for rank, plan in enumerate(planned):
        path = layout.data_path(writer.save_id, rank, 0)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("wb") as file:
            file.truncate(size)  # a hole of the right size
        written = record.WrittenFile(size, 0, blocks)
        results.append(
            [
                WriteResult(
                    item.index,
                    SHARD_BYTES,
                    record.Written(path, number * SHARD_BYTES, 512, None if number else written),
                )
                for number, item in enumerate(plan.items)
            ]
        )
    timed("engine: finish, with manifest and commit", lambda: writer.finish(dcp, results))
    manifest = layout.manifest_path(writer.save_id)
    for name in (".metadata", manifest):
        print(f"  {f'engine: {Path(name).name}':44} {(folder / name).stat().st_size / 1e6:8.1f} MB")
    timed("engine: read on every rank", lambda: _read(folder))


def _read(folder: Path) -> None:
    snapshot = commit.read_snapshot(open_store(str(folder)))
    parts = metadata.take_apart(snapshot.metadata)
    metadata.load(parts.pickled)
    assert snapshot.manifest is not None
    assert parts.trailer is not None
    commit.decode_manifest(snapshot.manifest, parts.trailer, "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--tensors", type=int, default=2000)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-planning-", dir="/dev/shm"))
    print(f"{chosen.ranks} ranks x {chosen.tensors} tensors")
    try:
        local = plans(chosen.ranks, chosen.tensors)
        planned, dcp = timed("DCP: global plan", lambda: DefaultSavePlanner().create_global_plan(local))
        stock(dcp, planned, folder / "stock")
        engine(dcp, planned, folder / "engine")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
