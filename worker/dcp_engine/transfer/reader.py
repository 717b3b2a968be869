"""DCP's StorageReader: ranged, coalesced, parallel reads, checked, straight into the destination tensors.

`dcp_engine.load` drives it and adds what DCP has no hook for: one read of `.metadata` for all ranks, and one restart if
the checkpoint is replaced under the load. Under bare `dcp.load` every rank reads `.metadata` itself; if they saw
different saves, or the data went away, CheckpointReplaced is raised on all ranks.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from os import PathLike, fspath
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine.commit import pending, protocol, snapshot, stored_sizes
from dcp_engine.errors import CheckpointCorrupted, CheckpointReplaced, InvalidOption
from dcp_engine.format import layout
from dcp_engine.format import metadata as dcp_metadata
from dcp_engine.format.digest import BLOCK
from dcp_engine.format.manifest import UNKNOWN, Chunk, DataFile, Manifest, need_apart
from dcp_engine.stores.opening import can_open, only_one, open_store
from dcp_engine.stores.protocol import MEMORY_LIMIT, Store
from dcp_engine.transfer import decode, destinations, devices, ranges
from dcp_engine.transfer.fetch import Digests, Fetcher
from dcp_engine.transfer.meter import Meter, Progress
from dcp_engine.translate import translate


class CheckpointReader(StorageReader):
    """Reads the checkpoint that is committed at `url`; one that stock DCP saved, too.

    Args:
        url: where the checkpoint stands: an fsspec URL or a path.
        storage_options: non-secret options by their neutral names (`dcp_contract.storage_options.STORAGE_OPTIONS`).
        check: compare every byte with its digest before it reaches a tensor.
        allow: classes, beyond the common ones, that non-tensor entries may hold; each runs what it likes.
        memory_limit: bytes that this rank may hold for transfers.
        on_progress: called with (bytes done, bytes in all) of this rank, from any thread; must be cheap.
        path: the URL by stock DCP's name for it.
    """

    def __init__(
        self,
        url: str | PathLike[str] | None = None,
        *,
        storage_options: Mapping[str, Any] | None = None,
        check: bool = True,
        allow: Sequence[type] = (),
        memory_limit: int = MEMORY_LIMIT,
        on_progress: Progress | None = None,
        path: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self.store: Store = open_store(only_one(url, path), storage_options)
        self.manifest: Manifest | None = None
        """What is read; that of a stock checkpoint knows no sizes and no digests."""
        self._options = storage_options
        self._check = check
        self._allow = tuple(allow)
        self._memory_limit = memory_limit
        self._on_progress = on_progress
        self._snapshot: snapshot.Snapshot | None = None
        self._versions: dict[str, Any] = {}
        """Of the files of a stock checkpoint that are read, before they are."""
        self._digest = ""
        self.load_id = layout.new_save_id()
        """Of one load, as stock readers have it: DCP's Metadata carries it."""

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """Forget what was read, and go to another URL if one is given; the storage options stay."""
        if checkpoint_id is not None and fspath(checkpoint_id) != self.store.url:
            self.store = open_store(fspath(checkpoint_id), self._options)
        self._snapshot = None
        self.load_id = layout.new_save_id()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the store out, which is opened anew where this goes."""
        return self.__dict__ | {"store": self.store.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.store = open_store(state["store"], self._options)

    def use(self, found: snapshot.Snapshot) -> None:
        """Read the checkpoint that rank 0 found, instead of looking again."""
        self._snapshot = found

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ANN401
        """Return DCP's Metadata, made from the manifest; nothing is unpickled for it.

        With `rank`, that of the one rank's own `__<rank>.metadata`, as dcp.save(use_collectives=False) writes it.
        """
        del args
        if self._snapshot is None:
            pending.wait_before(self.store.url, raises=True)
        rank = kwargs.get("rank")
        name = layout.METADATA if rank is None else f"__{int(rank)}{layout.METADATA}"
        found = self._snapshot or snapshot.read(self.store, name)
        self.manifest = found.manifest(self.store.url)
        self._digest = found.digest
        self._versions = {} if found.trailer else {name: found.version}
        metadata = dcp_metadata.of(self.manifest, of_one_rank=rank is not None)
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = self.load_id
        return metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, FBT001
        """Nothing is left to learn; every rank calls it."""
        del metadata, is_coordinator, args, kwargs

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Note which save this rank looks at."""
        return dataclasses.replace(plan, storage_data=self.manifest.save_id if self.manifest else "")

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Make sure, on rank 0, that all ranks look at one save."""
        if len({plan.storage_data for plan in plans}) > 1:
            raise CheckpointReplaced(self.store.url, plans[0].storage_data)
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill this rank's part of the state dict. After an error its content is undefined."""
        try:
            self._read(plan, planner)
        except FileNotFoundError as error:
            raise self._gone(str(error)) from error
        except Exception as error:
            raise translate(error) from error
        future: Future[None] = Future()
        future.set_result(None)
        return future

    @property
    def checkpoint_id(self) -> str:
        """The URL."""
        return self.store.url

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """Tell whether the engine can open such a URL."""
        return can_open(fspath(checkpoint_id))

    def info(self) -> CheckpointInfo:
        """Return the summary of what was read."""
        if self.manifest and self.manifest.save_id:
            return self.manifest.info(self._digest)
        return CheckpointInfo(url=self.store.url)

    def _read(self, plan: LoadPlan, planner: LoadPlanner) -> None:
        assert self.manifest is not None  # noqa: S101 - read_metadata made it
        manifest = self.manifest
        places = [(item, _chunk_of(item, manifest)) for item in plan.items]
        paths = {manifest.files[chunk.file].path for _, chunk in places}
        need_apart(((item.storage_index.fqn, chunk) for item, chunk in places), self._sized(manifest.files, paths))
        direct: list[ranges.Read] = []
        targets: list[tuple[ReadItem, torch.Tensor]] = []
        whole: list[tuple[tuple[ReadItem, Chunk], int]] = []
        for item, chunk in places:
            if chunk.payload is not None and item.type == LoadItemType.TENSOR:
                target = planner.resolve_tensor(item)
                targets.append((item, target))
                direct += _reads(item, chunk, target, manifest)
            else:
                whole.append(((item, chunk), chunk.length))
        spans: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for (_, chunk), length in whole:
            spans[manifest.files[chunk.file].path].append((chunk.offset, chunk.offset + length))
        stored_sizes.need(self.store, spans)
        total = sum(read.stop - read.start for read in direct) + sum(length for _, length in whole)
        meter = Meter(total, self._on_progress)
        fetcher = self._fetcher(manifest, paths)
        # Their last use may still be queued; and what is converted on a device is queued by threads of the fetcher.
        used = devices.of(target for _, target in targets)
        devices.synchronize(used)
        fetcher.run(self._requests(direct, manifest), meter.add)
        devices.synchronize(used)
        for item, target in targets:
            planner.commit_tensor(item, target)
        harmless = decode.Harmless()
        for batch in layout.split(whole, self._memory_limit // 2):
            items = [decode.Item(item, manifest.files[chunk.file].path, chunk) for item, chunk in batch]
            reads = [read for item in items for read in item.reads()]
            fetcher.run(self._requests(reads, manifest), meter.add)
            harmless.need(items)
            decode.place_all(items, planner, self._allow)
        self._need_unchanged()

    def _need_unchanged(self) -> None:
        """Make sure that stock replaced no file under this load: it writes each again under the name that it had."""
        with ThreadPoolExecutor(self.store.readers, thread_name_prefix="dcp-read") as pool:
            now = pool.map(lambda path: self.store.read(path, tail=1).version, self._versions)
            if list(now) != list(self._versions.values()):
                raise CheckpointReplaced(self.store.url, "")

    def _sized(self, files: Sequence[DataFile], paths: set[str]) -> Sequence[DataFile]:
        """Return the files with their sizes; those of a stock checkpoint, which no manifest knows, the store says."""
        if all(file.size != UNKNOWN for file in files):
            return files

        def sized(file: DataFile) -> DataFile:
            if file.path not in paths:
                return file
            blob = self.store.read(file.path, tail=1)
            self._versions[file.path] = blob.version
            return dataclasses.replace(file, size=blob.size)

        with ThreadPoolExecutor(self.store.readers, thread_name_prefix="dcp-read") as pool:
            return list(pool.map(sized, files))

    def _requests(self, reads: Sequence[ranges.Read], manifest: Manifest) -> list[ranges.Request]:
        if not manifest.save_id:
            return ranges.requests(reads, block=0, sizes={})
        sizes = {file.path: file.size for file in manifest.files}
        return ranges.requests(reads, block=BLOCK if self._check else 0, sizes=sizes)

    def _fetcher(self, manifest: Manifest, paths: set[str]) -> Fetcher:
        threads = max(1, min(self.store.readers, self._memory_limit // ranges.WINDOW))
        if not manifest.save_id:
            return Fetcher(self.store, threads=threads)
        digests = None
        if self._check:
            digests = Digests.read(self.store, manifest, layout.blocks_path(manifest.save_id), paths)
        return Fetcher(self.store, threads=threads, digests=digests, names=manifest.tensors_in)

    def _gone(self, path: str) -> CheckpointReplaced | CheckpointCorrupted:
        """Tell a checkpoint that was replaced under the load from one that lost a file."""
        save_id = self.manifest.save_id if self.manifest else ""
        now = protocol.committed(self.store)
        stock = self._versions.get(layout.METADATA)  # which names no save
        if now is None or now.save_id != save_id or (stock is not None and now.version != stock):
            return CheckpointReplaced(self.store.url, save_id)
        return CheckpointCorrupted(path, "a data file is missing")


def _chunk_of(item: ReadItem, manifest: Manifest) -> Chunk:
    """Return the manifest's entry for what is to be read."""
    name = item.storage_index.fqn
    if manifest.tensors[name].transformed:
        raise InvalidOption(f"{name} was saved through stream extensions, which are not known here")
    return manifest.chunk(name, tuple(item.storage_index.offset or ()))


def _reads(item: ReadItem, chunk: Chunk, target: torch.Tensor, manifest: Manifest) -> Iterator[ranges.Read]:
    """Give the reads of values that lie in row-major order."""
    name = item.storage_index.fqn
    dtype = getattr(torch, manifest.tensors[name].dtype or "")
    start = chunk.payload or 0
    if start + prod(chunk.sizes) * dtype.itemsize > chunk.length:
        raise CheckpointCorrupted(manifest.source, f"{name} has more values than bytes", [name])
    box = ranges.Box(tuple(item.storage_offsets), tuple(item.lengths), chunk.sizes, dtype.itemsize)
    return destinations.reads(item, manifest.files[chunk.file].path, chunk.offset + start, box, dtype, target)
