"""What it costs to read what describes a checkpoint: unpickled with DCP's classes, read by us, and our own manifest.

For each number of items, each in a process of its own: `pickle.loads` of a stock `.metadata`; the process that reads it
for us, with its start and the JSON that it prints; the manifest that is made of that; and the manifest of one of our
own saves of the same items, with every chunk checked. Processor seconds of the process and its child, the
smallest and the largest of the rounds, which take turns; the ratio to unpickling; and the most memory that the
process took beyond what it had. Its child, which has a limit of its own, is not counted there.
"""

import argparse
import json
import os
import pickle
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from dcp_engine.format import layout, sandbox
from dcp_engine.format.manifest import DataFile, Manifest

CHUNKS = 100
SAVE = "a" * 32


def metadata_of(items: int) -> Metadata:
    """Return what stock DCP writes of `items` parts, 100 of each tensor."""
    parts = min(CHUNKS, items)
    state, places = {}, {}
    for number in range(items // parts):
        name = f"model.layers.{number}.attention.weight"
        boxes = [ChunkStorageMetadata(torch.Size([8 * rank, 0]), torch.Size([8, 1024])) for rank in range(parts)]
        state[name] = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size([8 * parts, 1024]), boxes)
        for rank, box in enumerate(boxes):
            index = MetadataIndex(name, box.offsets, rank)
            places[index] = _StorageInfo(f"__{rank}_0.distcp", number * 32768, 32768)
    return Metadata(state, dict.fromkeys(state, ("model",)), places)  # type: ignore[arg-type]


def own(pickled: bytes) -> bytes:
    """Return the manifest of one of our own saves of the same."""
    document = json.loads(sandbox.manifest_of(pickled))
    numbered = Manifest.decode(json.dumps(document).encode())
    size = 1 << 40
    files = [
        DataFile(layout.data_path(SAVE, n, 0), size, 0, n * (size // layout.BLOCK)) for n in range(len(numbered.files))
    ]
    made = Manifest(save_id=SAVE, block_size=layout.BLOCK, files=tuple(files), tensors=numbered.tensors)
    return made.encode()


def unpickle(folder: Path) -> None:
    pickle.loads((folder / "stock").read_bytes())


def sandboxed(folder: Path) -> None:
    sandbox.manifest_of((folder / "stock").read_bytes())


def read_stock(folder: Path) -> None:
    Manifest.decode(sandbox.manifest_of((folder / "stock").read_bytes())).check()


def read_own(folder: Path) -> None:
    Manifest.decode((folder / "own").read_bytes(), save_id=SAVE).check()


WAYS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "unpickle": ("stock .metadata, pickle.loads", unpickle),
    "sandboxed": ("stock .metadata, our process", sandboxed),
    "stock": ("stock .metadata, ours, all of it checked", read_stock),
    "own": ("our own manifest, all of it checked", read_own),
}


def _peak() -> int:
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10


def measured(way: str, folder: Path) -> tuple[float, int]:
    """Return processor seconds and bytes of one way, in a child of this process."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before, started = _peak(), sum(os.times()[:4])
        WAYS[way][1](folder)
        seconds = sum(os.times()[:4]) - started
        os.write(write, json.dumps([seconds, _peak() - before]).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        seconds, taken = json.load(pipe)
    os.waitpid(child, 0)
    return seconds, taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    for items in chosen.items:
        with tempfile.TemporaryDirectory(prefix="bench-reading-") as name:
            folder = Path(name)
            pickled = pickle.dumps(metadata_of(items))
            (folder / "stock").write_bytes(pickled)
            (folder / "own").write_bytes(own(pickled))
            print(f"{items} items: .metadata {len(pickled) / 1e6:.1f} MB", flush=True)
            found: dict[str, list[tuple[float, int]]] = {way: [] for way in WAYS}
            for _ in range(chosen.rounds):
                for way in WAYS:
                    found[way].append(measured(way, folder))
            base = statistics.median(seconds for seconds, _ in found["unpickle"])
            for way, rounds in found.items():
                times = sorted(seconds for seconds, _ in rounds)
                middle = statistics.median(times)
                ratio = f"{middle / base:5.2f}x" if base else "    -"
                most = max(taken for _, taken in rounds) / (1 << 20)
                spread = f"({times[0]:.2f} to {times[-1]:.2f})"
                print(f"  {WAYS[way][0]:44} {middle:6.2f} s {spread:16} {ratio}  {most:6.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
