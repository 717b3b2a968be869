"""Checkpoints that stock DCP saved: no manifest, no digests; what can be known of them all the same."""

from torch.distributed.checkpoint.filesystem import _StorageInfo

from dcp_worker.engine import metadata as dcp_metadata
from dcp_worker.engine import record
from dcp_worker.engine.manifest import Chunk, DataFile, Manifest
from dcp_worker.engine.store import Store


def manifest_of_stock(store: Store, content: bytes) -> Manifest:
    """Return a manifest without digests, from a stock `.metadata` and a listing of the files it names."""
    metadata = dcp_metadata.load(dcp_metadata.take_apart(content).pickled)
    storage = metadata.storage_data or {}
    infos = {index: info for index, info in storage.items() if isinstance(info, _StorageInfo)}
    names = sorted({info.relative_path for info in infos.values()})
    there = {entry.path: entry.size for entry in store.list("")}
    numbers = {name: number for number, name in enumerate(names)}
    chunks: dict[str, list[Chunk]] = {name: [] for name in metadata.state_dict_metadata}
    for index, info in infos.items():
        place = Chunk(tuple(index.offset or ()), (), numbers[info.relative_path], info.offset, info.length, None)
        chunks[index.fqn].append(place)
    tensors = {name: record.entry(metadata, name, tuple(chunks[name])) for name in chunks}
    files = tuple(DataFile(name, there.get(name, -1)) for name in names)
    return Manifest(url=store.url, files=files, tensors=tensors)
