"""Planning and committing at scale, without the bytes: 1,024 ranks with a shard of each of 2,000 tensors.

Prints what rank 0 does for all, with stock DCP and with the engine: unpack and merge the plans, unpack and write down
the results; and what every rank reads before a load. Plans and results are pickled and unpickled rank by rank, as by
the collectives that carry them. Wall-clock seconds, and in brackets this process's own.
"""

import argparse
import gc
import pickle
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, Metadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from dcp_engine import CheckpointReader, CheckpointWriter, gc_pause
from dcp_engine.format import digest, layout, metadata

ROWS = 8
COLUMNS = 1024
SHARD_BYTES = ROWS * COLUMNS * 4
_T = TypeVar("_T")


def plan_of(rank: int, ranks: int, tensors: int) -> SavePlan:
    """Return what a rank would send to rank 0."""
    items = []
    for number in range(tensors):
        chunk = ChunkStorageMetadata(torch.Size([rank * ROWS, 0]), torch.Size([ROWS, COLUMNS]))
        size = torch.Size([ROWS * ranks, COLUMNS])
        data = TensorWriteData(chunk, TensorProperties(torch.float32), size)
        index = MetadataIndex(f"layer{number}.weight", chunk.offsets)
        items.append(WriteItem(index, WriteItemType.SHARD, tensor_data=data))
    return SavePlan(items, planner_data={})


def timed(what: str, step: Callable[[], _T]) -> _T:
    gc.collect()
    wall, own = time.monotonic(), time.process_time()
    result = step()
    print(f"  {what:44} {time.monotonic() - wall:8.1f} s  ({time.process_time() - own:.1f} s)", flush=True)
    return result


def timed_engine(what: str, step: Callable[[], _T]) -> _T:
    """Time a step as the engine's collectives take it."""

    def uncollected() -> _T:
        with gc_pause.uncollected():
            return step()

    return timed(what, uncollected)


def unpack(sent: list[bytes]) -> list[Any]:
    return [pickle.loads(each) for each in sent]


def plan(
    system: str, clock: Callable[[str, Callable[[], Any]], Any], sent: list[bytes]
) -> tuple[list[SavePlan], Metadata]:
    plans = clock(f"{system}: unpack the plans", lambda: unpack(sent))
    planned, dcp = clock(f"{system}: global plan", lambda: DefaultSavePlanner().create_global_plan(plans))
    return planned, dcp


def results_of(planned: list[SavePlan], place: Callable[[int, int], Any]) -> list[bytes]:
    """Return what the ranks send once all is written; `place` makes the storage data of a rank's n-th item."""
    return [
        pickle.dumps(
            [WriteResult(item.index, SHARD_BYTES, place(rank, number)) for number, item in enumerate(plan.items)]
        )
        for rank, plan in enumerate(planned)
    ]


def stock(sent: list[bytes], folder: Path) -> None:
    planned, dcp = plan("stock DCP", timed, sent)
    paths = [f"__{rank}_0.distcp" for rank in range(len(sent))]
    written = results_of(planned, lambda rank, number: _StorageInfo(paths[rank], number * SHARD_BYTES, SHARD_BYTES))
    del planned
    results = timed("stock DCP: unpack the results", lambda: unpack(written))
    writer = FileSystemWriter(folder)
    writer.reset()
    folder.mkdir()
    timed("stock DCP: finish", lambda: writer.finish(dcp, results))
    print(f"  {'stock DCP: .metadata':44} {(folder / '.metadata').stat().st_size / 1e6:8.1f} MB")
    timed("stock DCP: read on every rank", lambda: FileSystemReader(folder).read_metadata())


def engine(sent: list[bytes], folder: Path) -> None:
    planned, dcp = plan("engine", timed_engine, sent)
    writer = CheckpointWriter(folder)
    writer.prepare_global_plan(planned)
    size = len(planned[0].items) * SHARD_BYTES
    file = metadata.WrittenFile(size, 0, b"\0" * (4 * -(-size // digest.BLOCK)))
    paths = [layout.data_path(writer.save_id, rank, 0) for rank in range(len(sent))]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("wb") as data:
            data.truncate(size)  # a hole of the right size
    written = results_of(
        planned,
        lambda rank, number: metadata.Written(
            paths[rank], number * SHARD_BYTES, SHARD_BYTES, payload=512, file=None if number else file
        ),
    )
    del planned
    results = timed_engine("engine: unpack the results", lambda: unpack(written))
    timed_engine("engine: finish, with manifest and commit", lambda: writer.finish(dcp, results))
    manifest = layout.manifest_path(writer.save_id)
    for name in (".metadata", manifest):
        print(f"  {f'engine: {Path(name).name}':44} {(folder / name).stat().st_size / 1e6:8.1f} MB")
    timed("engine: read on every rank", lambda: CheckpointReader(folder).read_metadata())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, default=1024)
    parser.add_argument("--tensors", type=int, default=2000)
    chosen = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="bench-planning-", dir="/dev/shm"))
    print(f"{chosen.ranks} ranks x {chosen.tensors} tensors")
    try:
        sent = [pickle.dumps(plan_of(rank, chosen.ranks, chosen.tensors)) for rank in range(chosen.ranks)]
        stock(sent, folder / "stock")
        engine(sent, folder / "engine")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
