"""What one rank does with a store in one load: ranged, coalesced, parallel reads, checked, straight into the tensors.

`dcp_engine.load` drives it through `loading.LoadCall`, and stock `dcp.load` through `CheckpointReader`.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine.call_options import LoadOptions
from dcp_engine.commit import protocol, snapshot, stored_sizes
from dcp_engine.errors import CheckpointCorrupted, CheckpointReplaced, InvalidOption
from dcp_engine.format import layout
from dcp_engine.format import metadata as dcp_metadata
from dcp_engine.format.digest import BLOCK
from dcp_engine.format.manifest import UNKNOWN, Chunk, DataFile, Manifest, need_apart
from dcp_engine.stores.protocol import Store, of_any_host
from dcp_engine.transfer import decode, destinations, devices, ranges
from dcp_engine.transfer.block_digests import Digests, ends_of
from dcp_engine.transfer.fetch import Fetcher
from dcp_engine.transfer.file_plan import split
from dcp_engine.transfer.meter import Meter
from dcp_engine.translate import translate

_ItemChunk = tuple[ReadItem, Chunk]
"""What is to be read, and the manifest's entry for it."""


class LoadTransfer:
    """One load of one rank, from one save at one URL; of one that stock DCP saved, too."""

    def __init__(
        self,
        store: Store,
        options: LoadOptions,
        found: snapshot.Snapshot,
        name: str = layout.METADATA,
        *,
        seen: Mapping[str, Any] | None = None,
    ) -> None:
        self.store = store
        self.options = options
        self.manifest = found.manifest(store.url)
        """What is read; that of a stock checkpoint knows no sizes and no digests."""
        self._digest = found.digest
        self._versions: dict[str, Any] = {} if found.trailer else {name: found.version}
        """Of the files of a stock checkpoint that are read, before they are."""
        self._anchor = name
        self._seen = seen or {}
        """Of files of which rank 0 has looked into some before: what it saw has to be what is read."""
        self._digests = Digests({})
        """Those of the files that were read so far."""

    def metadata(self, load_id: str, *, of_one_rank: bool = False) -> Metadata:
        """Return DCP's Metadata, made from the manifest; nothing is unpickled for it."""
        metadata = dcp_metadata.of(self.manifest, of_one_rank=of_one_rank)
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = load_id
        return metadata

    def info(self) -> CheckpointInfo:
        """Return the summary of what is read."""
        if self.manifest.save_id:
            return self.manifest.info(self._digest)
        return CheckpointInfo(url=self.store.url)

    def read(self, plan: LoadPlan, planner: LoadPlanner) -> None:
        """Fill this rank's part of the state dict. After an error its content is undefined."""
        try:
            self._read(plan, planner)
        except FileNotFoundError as error:
            raise self._gone(str(error)) from error
        except Exception as error:
            raise translate(error) from error

    def _read(self, plan: LoadPlan, planner: LoadPlanner) -> None:
        places = [(item, _chunk_of(item, self.manifest)) for item in plan.items]
        paths = {self.manifest.files[chunk.file].path for _, chunk in places}
        self._need_apart([(item.storage_index.fqn, chunk) for item, chunk in places], self._sized(paths))
        raw = [(item, chunk, planner.resolve_tensor(item)) for item, chunk in places if _is_raw(item, chunk)]
        pickled = [(item, chunk) for item, chunk in places if not _is_raw(item, chunk)]
        reads = [read for item, chunk, target in raw for read in self._reads(item, chunk, target)]
        self._need_stored(pickled)
        total = sum(read.stop - read.start for read in reads) + sum(chunk.length for _, chunk in pickled)
        meter = Meter(total, self.options.on_progress)
        fetcher = self._fetcher(paths)
        # Their last use may still be queued; and what is converted on a device is queued by threads of the fetcher.
        used = devices.of(target for _, _, target in raw)
        devices.synchronize(used)
        fetcher.run(self._requests(reads), meter.add)
        devices.synchronize(used)
        for item, _, target in raw:
            planner.commit_tensor(item, target)
        self._decode(pickled, planner, fetcher, meter)
        self._need_unchanged()

    def _need_apart(self, places: Sequence[tuple[str, Chunk]], files: Sequence[DataFile]) -> None:
        """Refuse entries that share bytes, where no writer lets them."""
        need_apart(places, files)

    def _reads(self, item: ReadItem, chunk: Chunk, target: torch.Tensor) -> Iterator[ranges.ByteRange]:
        """Give the reads of values that lie in row-major order."""
        return reads_of(item, chunk, target, self.manifest)

    def _decode(self, pickled: Sequence[_ItemChunk], planner: LoadPlanner, fetcher: Fetcher, meter: Meter) -> None:
        """Read what only `torch.load` can decode, as much at once as memory allows, and hand it to the planner."""
        harmless = decode.Harmless()
        for batch in split(((place, place[1].length) for place in pickled), self.options.memory_limit // 2):
            items = [decode.Item(item, self.manifest.files[chunk.file].path, chunk) for item, chunk in batch]
            fetcher.run(self._requests([read for item in items for read in item.reads()]), meter.add)
            harmless.need(items)
            decode.place_all(items, planner, self.options.allow)

    def _need_stored(self, pickled: Sequence[_ItemChunk]) -> None:
        """Take memory for an item only if so much is really stored."""
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for _, chunk in pickled:
            spans[self.manifest.files[chunk.file].path].append((chunk.offset, chunk.offset + chunk.length))
        stored_sizes.need(self.store, spans)

    def _sized(self, paths: Collection[str]) -> Sequence[DataFile]:
        """Return the files with their sizes; those of a stock checkpoint, which no manifest knows, the store says."""
        files = self.manifest.files
        if all(file.size != UNKNOWN for file in files):
            return files
        ends = ends_of(self.store, [file.path for file in files if file.path in paths])
        for path, end in ends.items():
            self._versions.setdefault(path, self._seen.get(path, end.version))  # of several reads the first one's
        return [dataclasses.replace(file, size=ends[file.path].size) if file.path in ends else file for file in files]

    def _need_unchanged(self) -> None:
        """Make sure that stock replaced no file under this load: it writes each again under the name that it had."""
        now = ends_of(self.store, list(self._versions))
        if not all(self._is_as_noted(path, now[path].version) for path in self._versions):
            raise CheckpointReplaced(self.store.url, "")

    def _is_as_noted(self, path: str, version: Any) -> bool:  # noqa: ANN401 - see Store
        """Tell whether a file is the version that was noted: here, or by rank 0 on a host that may be another."""
        noted = self._versions[path]
        told = path == self._anchor or path in self._seen
        return bool(version == noted or (told and of_any_host(version) == of_any_host(noted)))

    def _requests(self, reads: Sequence[ranges.ByteRange]) -> list[ranges.RangeRequest]:
        if not self.manifest.save_id:
            return ranges.requests(reads, block=0, sizes={})
        sizes = {file.path: file.size for file in self.manifest.files}
        return ranges.requests(reads, block=BLOCK if self.options.check else 0, sizes=sizes)

    def _fetcher(self, paths: set[str]) -> Fetcher:
        manifest = self.manifest
        threads = max(1, min(self.store.readers, self.options.memory_limit // ranges.WINDOW))
        if not manifest.save_id:
            return Fetcher(self.store, threads=threads)
        digests = self._digests_of(paths) if self.options.check else None
        return Fetcher(self.store, threads=threads, digests=digests, names=manifest.tensors_in)

    def _digests_of(self, paths: set[str]) -> Digests:
        if lacking := {path for path in paths if self._digests.of(path) is None}:
            sidecar = layout.blocks_path(self.manifest.save_id)
            self._digests.add(Digests.read(self.store, self.manifest, sidecar, lacking))
        return self._digests

    def _gone(self, path: str) -> CheckpointReplaced | CheckpointCorrupted:
        """Tell a checkpoint that was replaced under the load from one that lost a file."""
        save_id = self.manifest.save_id
        now = protocol.committed(self.store)
        stock = self._versions.get(layout.METADATA)  # which names no save
        if now is None or now.save_id != save_id:
            return CheckpointReplaced(self.store.url, save_id)
        if stock is not None and not self._is_as_noted(layout.METADATA, now.version):
            return CheckpointReplaced(self.store.url, save_id)
        return CheckpointCorrupted(path, "a data file is missing")


def _chunk_of(item: ReadItem, manifest: Manifest) -> Chunk:
    """Return the manifest's entry for what is to be read."""
    name = item.storage_index.fqn
    if manifest.tensors[name].transformed:
        raise InvalidOption(f"{name} was saved through stream extensions, which are not known here")
    return manifest.chunk(name, tuple(item.storage_index.offset or ()))


def _is_raw(item: ReadItem, chunk: Chunk) -> bool:
    """Tell whether the values lie in row-major order; else only `torch.load` can decode them."""
    return chunk.payload is not None and item.type == LoadItemType.TENSOR


def reads_of(item: ReadItem, chunk: Chunk, target: torch.Tensor, manifest: Manifest) -> Iterator[ranges.ByteRange]:
    """Give the reads of values that lie in row-major order."""
    name = item.storage_index.fqn
    dtype = getattr(torch, manifest.tensors[name].dtype or "")
    start = chunk.payload or 0
    if start + prod(chunk.sizes) * dtype.itemsize > chunk.length:
        raise CheckpointCorrupted(manifest.source, f"{name} has more values than bytes", [name])
    box = ranges.Box(tuple(item.storage_offsets), tuple(item.lengths), chunk.sizes, dtype.itemsize)
    return destinations.reads(item, manifest.files[chunk.file].path, chunk.offset + start, box, dtype, target)
