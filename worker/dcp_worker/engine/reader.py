"""DCP's StorageReader: ranged, coalesced, parallel reads, checked, straight into the destination tensors.

`engine.load` drives it and adds what DCP has no hook for: one read of `.metadata` for all ranks, and one restart if the
checkpoint is replaced under the load. Under bare `dcp.load` every rank reads `.metadata` itself; if they saw different
saves, or the data went away, CheckpointReplaced is raised on all ranks.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import numpy as np
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from dcp_worker.contract import CheckpointInfo
from dcp_worker.engine import commit, devices, layout, objects, pending, placement, ranges
from dcp_worker.engine import metadata as dcp_metadata
from dcp_worker.engine.digest import BLOCK
from dcp_worker.engine.errors import CheckpointCorrupted, CheckpointReplaced, InvalidOption, translate
from dcp_worker.engine.fetch import Digests, Fetcher
from dcp_worker.engine.manifest import Chunk, Manifest
from dcp_worker.engine.meter import Meter, Progress
from dcp_worker.engine.store import MEMORY_LIMIT, Store
from dcp_worker.engine.stores import can_open, open_store


class CheckpointReader(StorageReader):
    """Reads the checkpoint that is committed at `url`; one that stock DCP saved, too.

    Args:
        url: where the checkpoint stands: an fsspec URL or a path.
        storage_options: non-secret options by their neutral names (`dcp_worker.contract.STORAGE_OPTIONS`).
        check: compare every byte with its digest before it reaches a tensor.
        allow: classes, beyond torch's own safe ones, that non-tensor entries may hold.
        memory_limit: bytes that this rank may hold for transfers.
        on_progress: called with (bytes done, bytes in all) of this rank, from any thread; must be cheap.
    """

    def __init__(
        self,
        url: str | PathLike[str],
        *,
        storage_options: Mapping[str, Any] | None = None,
        check: bool = True,
        allow: Sequence[type] = (),
        memory_limit: int = MEMORY_LIMIT,
        on_progress: Progress | None = None,
    ) -> None:
        super().__init__()
        self.store: Store = open_store(fspath(url), storage_options)
        self.manifest: Manifest | None = None
        self._options = storage_options
        self._check = check
        self._allow = tuple(allow)
        self._memory_limit = memory_limit
        self._on_progress = on_progress
        self._snapshot: commit.Snapshot | None = None
        self._digest = ""
        self._infos: Mapping[Any, _StorageInfo] = {}
        self._chunks: dict[str, dict[tuple[int, ...], Chunk]] = {}
        self._dtypes: dict[str, str] = {}

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """Forget what was read, and go to another URL if one is given; the storage options stay."""
        if checkpoint_id is not None and fspath(checkpoint_id) != self.store.url:
            self.store = open_store(fspath(checkpoint_id), self._options)
        self._snapshot = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the store out, which is opened anew where this goes."""
        return self.__dict__ | {"store": self.store.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.store = open_store(state["store"], self._options)

    def use(self, snapshot: commit.Snapshot) -> None:
        """Read the checkpoint that rank 0 found, instead of looking again."""
        self._snapshot = snapshot

    def read_metadata(self, *args: Any) -> Metadata:  # noqa: ANN401
        """Return DCP's Metadata, from a pickle that named nothing but DCP's own classes."""
        del args
        if self._snapshot is None:
            pending.wait_before(self.store.url, raises=True)
        snapshot = self._snapshot or commit.read_snapshot(self.store)
        parts = dcp_metadata.take_apart(snapshot.metadata)
        self.manifest = None
        self._digest = ""
        if parts.trailer and snapshot.manifest is not None:
            self.manifest = commit.decode_manifest(snapshot.manifest, parts.trailer, self.store.url)
            self._digest = parts.trailer.sha256
            commit.check_pickle(parts.sha256, self.manifest)
        found = dcp_metadata.load(parts.pickled)
        if found.storage_meta is None:
            found.storage_meta = StorageMeta()
        found.storage_meta.load_id = layout.new_save_id()
        return found

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, FBT001
        """Learn where everything lies; every rank calls it."""
        del is_coordinator, args, kwargs
        self._infos = metadata.storage_data or {}
        tensors = self.manifest.tensors if self.manifest else {}
        self._dtypes = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype is not None}
        self._chunks = {}

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
        if self.manifest:
            return self.manifest.info(self._digest)
        return CheckpointInfo(url=self.store.url)

    def _read(self, plan: LoadPlan, planner: LoadPlanner) -> None:
        places = [(item, self._info_of(item)) for item in plan.items]
        direct: list[ranges.Read] = []
        targets: list[tuple[ReadItem, torch.Tensor]] = []
        whole: list[tuple[tuple[ReadItem, _StorageInfo], int]] = []
        for item, info in places:
            chunk = self._chunk_of(item)
            if chunk and item.type == LoadItemType.TENSOR:
                target = planner.resolve_tensor(item)
                targets.append((item, target))
                direct += self._reads(item, info, chunk, target)
            else:
                whole.append(((item, info), info.length))
        total = sum(read.stop - read.start for read in direct) + sum(length for _, length in whole)
        meter = Meter(total, self._on_progress)
        fetcher = self._fetcher({info.relative_path for _, info in places})
        # Their last use may still be queued; and what is converted on a device is queued by threads of the fetcher.
        used = devices.of(target for _, target in targets)
        devices.synchronize(used)
        fetcher.run(self._requests(direct), meter.add)
        devices.synchronize(used)
        for item, target in targets:
            planner.commit_tensor(item, target)
        for batch in layout.split(whole, self._memory_limit // 2):
            self._read_whole(batch, planner, fetcher, meter)

    def _chunk_of(self, item: ReadItem) -> Chunk | None:
        """Return the manifest's entry for a chunk that can be read without `torch.load`."""
        name = item.storage_index.fqn
        if name not in self._chunks:
            chunks = self.manifest.tensors[name].chunks if self.manifest and name in self._dtypes else ()
            self._chunks[name] = {chunk.offsets: chunk for chunk in chunks if chunk.payload is not None}
        return self._chunks[name].get(tuple(item.storage_index.offset or ()))

    def _info_of(self, item: ReadItem) -> _StorageInfo:
        info = self._infos[item.storage_index]
        if info.transform_descriptors:
            raise InvalidOption.transformed(item.storage_index.fqn)
        return info

    def _reads(self, item: ReadItem, info: _StorageInfo, chunk: Chunk, target: torch.Tensor) -> Iterator[ranges.Read]:
        dtype = getattr(torch, self._dtypes[item.storage_index.fqn])
        box = ranges.Box(tuple(item.storage_offsets), tuple(item.lengths), chunk.sizes, dtype.itemsize)
        start = info.offset + (chunk.payload or 0)
        return placement.reads(item, info.relative_path, start, box, dtype, target)

    def _read_whole(
        self,
        batch: list[tuple[ReadItem, _StorageInfo]],
        planner: LoadPlanner,
        fetcher: Fetcher,
        meter: Meter,
    ) -> None:
        """Fetch items into host memory and decode them one by one."""
        buffers = [np.empty(info.length, dtype=np.uint8) for _, info in batch]
        reads: list[ranges.Read] = []
        for (_, info), buffer in zip(batch, buffers, strict=True):
            reads += ranges.cut(info.relative_path, info.offset, info.offset + info.length, buffer)
        fetcher.run(self._requests(reads), meter.add)
        for (item, info), buffer in zip(batch, buffers, strict=True):
            objects.place(item, info.relative_path, buffer, planner, self._allow)

    def _requests(self, reads: list[ranges.Read]) -> list[ranges.Request]:
        sizes = {file.path: file.size for file in self.manifest.files} if self.manifest else {}
        return ranges.requests(reads, block=BLOCK if sizes and self._check else 0, sizes=sizes)

    def _fetcher(self, paths: set[str]) -> Fetcher:
        threads = max(1, min(self.store.readers, self._memory_limit // ranges.WINDOW))
        if self.manifest is None:
            return Fetcher(self.store, threads=threads)
        digests = None
        if self._check:
            sidecar = layout.blocks_path(self.manifest.save_id)
            digests = Digests.read(self.store, self.manifest, sidecar, paths)
        return Fetcher(self.store, threads=threads, digests=digests, names=self.manifest.tensors_in)

    def _gone(self, path: str) -> CheckpointReplaced | CheckpointCorrupted:
        """Tell a checkpoint that was replaced under the load from one that lost a file."""
        save_id = self.manifest.save_id if self.manifest else ""
        now = commit.committed(self.store)
        # Of two stock checkpoints nobody can tell one from the other.
        if now is None or now.save_id != save_id:
            return CheckpointReplaced(self.store.url, save_id)
        return CheckpointCorrupted(path, "a data file is missing")
