"""DCP's StorageWriter over the commit protocol.

`dcp_engine.save` drives it and adds what DCP has no hook for: clean-up on every rank after a failure. Under bare
`dcp.save` a rank that fails removes its own files; those of the other ranks stay behind as orphans, which are
no checkpoint.
"""

import dataclasses
import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future as ThreadFuture
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from os import PathLike, fspath
from typing import Any, Final, get_args

import torch
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_engine import failpoints
from dcp_engine.commit import pending, protocol, snapshot
from dcp_engine.commit import replaced as grace
from dcp_engine.errors import CheckpointCorrupted, CheckpointNotFound, InvalidOption, UnsavableState
from dcp_engine.format import digest, layout, metadata_build
from dcp_engine.format import metadata as dcp_metadata
from dcp_engine.format.manifest import Manifest
from dcp_engine.stores.opening import can_open, only_one, open_store
from dcp_engine.stores.protocol import MEMORY_LIMIT, PART_SIZE, Buffer, Store, weaker
from dcp_engine.transfer import devices, loadable, payload
from dcp_engine.transfer.lookup import Lookup
from dcp_engine.transfer.meter import Meter, Progress
from dcp_engine.translate import translate

_PARALLEL: Final = 12
_MAX_PARTS: Final = 9_000
_LEAST_SHARE: Final = 3 * PART_SIZE
"""Memory that a file in parts takes at least: a part that travels, one that fills, and the next pieces."""
_ONE_REQUEST: Final = 80 << 20
"""A file up to this size goes in one request if that takes no memory: what breaks off is sent again as a whole."""


@dataclass
class _Assignment:
    """What rank 0 tells each rank with its plan. A planner that keeps plans would bring the last save's again."""

    save_id: str
    rank: int
    used: bool = False

    @property
    def prefix(self) -> str:
        """What stock's writer looks for, where a planner that keeps plans gives it one of ours."""
        return f"__{self.rank}_"


class CheckpointWriter(StorageWriter):
    """Writes one checkpoint at a time to `url`, atomically.

    Args:
        url: where the checkpoint goes: an fsspec URL or a path.
        overwrite: False refuses a committed checkpoint, True replaces it.
        storage_options: non-secret options by their neutral names (`dcp_contract.storage_options.STORAGE_OPTIONS`).
        origin: who saves; goes into the manifest.
        step: the training step; goes into the manifest.
        memory_limit: bytes that this rank may hold for parts in flight.
        on_progress: called with (bytes done, bytes in all) of this rank, from any thread; must be cheap.
        keep_replaced: how long the data of what this save replaces are kept for those who read them, two replaced saves
            at most; a later save, or `clean`, removes them. By default an hour on object stores, no time on file
            systems.
        allow: classes, beyond the common ones, that every load of this checkpoint will name in its `allow`.
        unloadable: whether to warn of objects that no load would take otherwise, or to refuse them: UnsavableState.
        path: the URL by stock DCP's name for it.
    """

    def __init__(  # noqa: PLR0913 - keyword-only, each with its default
        self,
        url: str | PathLike[str] | None = None,
        *,
        overwrite: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        origin: Origin | None = None,
        step: int | None = None,
        memory_limit: int = MEMORY_LIMIT,
        on_progress: Progress | None = None,
        keep_replaced: timedelta | None = None,
        allow: Sequence[type] = (),
        unloadable: loadable.Unloadable = "warn",
        path: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        if keep_replaced is not None and keep_replaced < timedelta(0):
            raise InvalidOption(f"keep_replaced: {keep_replaced} is less than nothing")
        if unloadable not in get_args(loadable.Unloadable):
            raise InvalidOption.none_of("unloadable", unloadable, loadable.Unloadable)
        self.overwrite = overwrite
        self.info: CheckpointInfo | None = None
        """Rank 0, after the commit: what was saved."""
        self.began = False
        """Rank 0: ranks were told where to write, and may have written."""
        self._allow = tuple(allow)
        self._unloadable = unloadable
        self._keep = keep_replaced
        self._replaced = ""
        """Rank 0, after the commit: which of our own saves was replaced."""
        self._options = storage_options
        self._origin = origin
        self.step = step
        self._memory_limit = memory_limit
        self._on_progress = on_progress
        self._coordinates = False
        self._looked: ThreadFuture[str] | None = None
        self._guard = ""
        self._world_size = 1
        self.save_id = layout.new_save_id()
        self.store: Store = open_store(only_one(url, path), storage_options)

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """Begin a save of its own, at another URL if one is given; the storage options stay."""
        if checkpoint_id is not None and fspath(checkpoint_id) != self.store.url:
            self.store = open_store(fspath(checkpoint_id), self._options)
        self.save_id = layout.new_save_id()
        self.info = None
        self.began = False
        self._replaced = ""

    def __getstate__(self) -> dict[str, Any]:
        """Leave the store out, which is opened anew where this goes: a spawned process has connections of its own."""
        return self.__dict__ | {"store": self.store.url, "_looked": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.store = open_store(state["store"], self._options)

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401, FBT001
        """Take this rank's part; every rank calls it."""
        del args
        if not kwargs.get("use_collectives", True):
            raise InvalidOption("use_collectives=False would commit each rank by itself; a checkpoint has one commit")
        pending.settle()
        # With a plan that was kept a rank is told where to write by its last save, and by none of this one.
        for kept in vars(SavePlanner):
            if kept.startswith("_cached_"):
                getattr(SavePlanner, kept).clear()
        self.begin(coordinates=is_coordinator)

    def begin(self, *, coordinates: bool) -> None:
        """Take this rank's part where plans that were kept are told of each save; every rank calls it."""
        self._coordinates = coordinates

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """On rank 0, begin to look at the store, which takes as long as the planning that goes on meanwhile."""
        failpoints.reach("planning")
        if self._coordinates:
            pool = ThreadPoolExecutor(1, thread_name_prefix="dcp-look")
            self._looked = pool.submit(self._look)
            pool.shutdown(wait=False)
        return plan

    def await_look(self) -> None:
        """On rank 0, wait for the look at the store, and raise what it found."""
        if self._looked:
            self._guard = self._looked.result()

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """On rank 0, refuse if there is a checkpoint, before a byte moves; give every rank the save id and its number.

        Raises:
            CheckpointExists: there is one, and `overwrite` is false.
        """
        self.await_look()
        self._world_size = len(plans)
        self.began = True
        return [
            dataclasses.replace(plan, storage_data=_Assignment(self.save_id, rank)) for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's files; on an error remove them and raise an EngineError."""
        future: Future[list[WriteResult]] = Future()
        future.set_result(self.write(plan, Lookup(planner)))
        return future

    def write(self, plan: SavePlan, lookup: Lookup) -> list[WriteResult]:
        """Write this rank's files, as `write_data` does."""
        assignment = plan.storage_data
        if not isinstance(assignment, _Assignment) or assignment.used:
            raise InvalidOption(
                "this planner keeps the plans of earlier saves, which tell no rank where to write; use dcp_engine.save"
            )
        assignment.used = True
        self.save_id = assignment.save_id
        examined = loadable.Examined(plan.items, lookup)
        devices.synchronize(devices.of(examined.tensors()))
        self._need_loadable(examined.faults(self._allow))
        files = list(self._files(plan.items))
        meter = Meter(sum(size for items in files for _, size in items), self._on_progress)
        paths = [layout.data_path(self.save_id, assignment.rank, number) for number in range(len(files))]
        failed = threading.Event()
        at_once = max(1, min(self.store.writers, len(files), self._memory_limit // _LEAST_SHARE))
        share = self._memory_limit // at_once

        def write(path: str, items: list[tuple[WriteItem, int]]) -> list[WriteResult]:
            try:
                return self._write_file(path, items, share, examined, meter, failed)
            except BaseException:
                failed.set()
                raise

        try:
            with ThreadPoolExecutor(at_once, "dcp-write", initializer=devices.own_device()) as pool:
                running = [pool.submit(write, path, items) for path, items in zip(paths, files, strict=True)]
                try:
                    wait(running)
                except BaseException:  # Ctrl-C: no file goes on to its end
                    failed.set()
                    raise
        except BaseException:
            self._remove_own(paths)
            raise
        errors = [error for step in running if (error := step.exception())]
        if errors:
            self._remove_own(paths)
            first = next((error for error in errors if not isinstance(error, _OtherFileFailed)), errors[0])
            raise translate(first) from first
        return [result for step in running for result in step.result()]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On rank 0, after every rank said yes: manifest, commit, removal of what was replaced."""
        self.publish(metadata, results)
        self.remove_replaced()

    def publish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """On rank 0, after every rank said yes: manifest and commit."""
        places = metadata_build.complete(metadata, results, self.storage_meta())
        pickled = dcp_metadata.dump(metadata)
        files = metadata_build.data_files(places)
        blocks = b"".join(digests for _, digests in files.values())
        manifest = Manifest(
            save_id=self.save_id,
            url=self.store.url,
            origin=self._origin,
            step=self.step,
            world_size=self._world_size,
            torch_version=torch.__version__,
            created_time=datetime.now(UTC).replace(microsecond=0),
            conflict_guard=self._guard,
            metadata_sha256=dcp_metadata.digest_of(pickled),
            block_size=digest.BLOCK,
            files=tuple(file for file, _ in files.values()),
            tensors=metadata_build.tensors(metadata, places, {path: number for number, path in enumerate(files)}),
        )
        trailer = self._write_manifest(manifest, blocks)
        self._commit(pickled + trailer.encode())
        self.info = manifest.info(trailer.sha256)

    def remove_replaced(self) -> None:
        """On rank 0, best when all ranks know of the commit: remove what was replaced and need not be kept."""
        if self.overwrite:
            protocol.remove_replaced(self.store, "" if self._keeping > timedelta(0) else self._replaced)

    def storage_meta(self) -> StorageMeta:
        """Return what DCP notes about where the checkpoint lies; holds no secret."""
        return StorageMeta(checkpoint_id=self.store.url, save_id=self.save_id)

    @property
    def checkpoint_id(self) -> str:
        """The URL."""
        return self.store.url

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """Tell whether the engine can open such a URL."""
        return can_open(fspath(checkpoint_id))

    def _look(self) -> str:
        """Refuse if there is a checkpoint; return whether the store itself would."""
        if not self.overwrite:
            protocol.refuse_if_committed(self.store)
            return self.store.guard("create")
        protocol.committed(self.store)  # what can't be replaced is refused before a byte moves
        # Which of the two it will be the commit finds out.
        return weaker(self.store.guard("replace"), self.store.guard("create"))

    def _files(self, items: list[WriteItem]) -> Iterator[list[tuple[WriteItem, int]]]:
        """Decide which items go into one file together: objects first, tensors in the planner's order."""
        sizes = [(item, payload.size_of(item)) for item in items]
        sizes.sort(key=lambda entry: entry[0].type != WriteItemType.BYTE_IO)
        count = layout.file_count([size for _, size in sizes], at_once=self.store.writers, best=self.store.file_size)
        for group in layout.spread(sizes, count):
            yield from layout.split((entry, entry[1]) for entry in group)

    def _need_loadable(self, faults: Mapping[str, str]) -> None:
        """Warn of what no load would take, or refuse it before anything is written."""
        if faults and self._unloadable == "refuse":
            raise UnsavableState.not_loadable(faults)
        if faults:
            protocol.LOG.warning("%s: saved, but %s", self.store.url, UnsavableState.not_loadable(faults))

    def _write_file(
        self,
        path: str,
        items: list[tuple[WriteItem, int]],
        share: int,
        examined: loadable.Examined,
        meter: Meter,
        failed: threading.Event,
    ) -> list[WriteResult]:
        """Stream items into one file, in `share` bytes of memory; their places are known as they pass."""
        size = sum(size for _, size in items)
        payloads: Iterable[payload.Payload] = (examined.payload(item) for item, _ in items)
        whole = size <= _ONE_REQUEST
        if whole:
            payloads = list(payloads)
            whole = sum(one.size for one in payloads if not one.in_place) <= share
        digests: list[int] = []
        blocks = digest.BlockDigest()
        places: list[tuple[WriteItem, int, payload.Payload]] = []

        def stream() -> Iterator[Buffer]:
            for (item, _), prepared in zip(items, payloads, strict=True):
                start = blocks.size
                for piece in prepared.pieces():
                    if failed.is_set():
                        raise _OtherFileFailed
                    digests.extend(blocks.update(piece))
                    yield piece.data
                    if not whole:
                        meter.add(len(piece))
                    failpoints.reach("mid-part")
                if blocks.size - start != prepared.size:
                    raise CheckpointCorrupted(path, f"{item.index.fqn} changed its size while it was saved")
                places.append((item, start, prepared))

        part_size, parallel = (_ONE_REQUEST, 1) if whole else _parts(size, share)
        self.store.write(path, stream(), part_size=part_size, parallel=parallel)
        if whole:
            meter.add(blocks.size)
        digests += blocks.rest()
        file = metadata_build.WrittenFile(blocks.size, digest.fold(digests, blocks.size), digest.pack(digests))
        return [
            WriteResult(
                item.index,
                prepared.size,
                metadata_build.Written(
                    path, start, prepared.size, payload=prepared.offset, file=None if number else file
                ),
            )
            for number, (item, start, prepared) in enumerate(places)
        ]

    def _remove_own(self, paths: list[str]) -> None:
        try:
            self.store.delete(paths)
        except Exception as error:  # noqa: BLE001 - the first error is the one to report
            protocol.LOG.warning(
                "%s: files of a failed save could not be removed: %s", self.store.url, translate(error)
            )

    def _write_manifest(self, manifest: Manifest, blocks: bytes) -> layout.Trailer:
        """Write the sidecar and the manifest, and make sure, at the same time, that all data files are there."""
        failpoints.reach("before manifest")
        encoded = manifest.encode()
        place = layout.manifest_path(self.save_id)

        def write(path: str, data: bytes) -> None:
            self.store.write(path, [data], part_size=_ONE_REQUEST, parallel=1)

        with ThreadPoolExecutor(3) as pool:
            steps = [
                pool.submit(write, layout.blocks_path(self.save_id), blocks),
                pool.submit(write, place, encoded),
                pool.submit(
                    protocol.check_files, self.store, self.save_id, {file.path: file.size for file in manifest.files}
                ),
            ]
        for step in steps:
            step.result()
        return layout.Trailer(self.save_id, place, hashlib.sha256(encoded).hexdigest())

    def _commit(self, content: bytes) -> None:
        failpoints.reach("before commit")
        stock_files = self._stock_files() if self.overwrite else []

        def mark(replaced: protocol.Committed) -> None:
            files = [] if replaced.save_id else stock_files
            # Without a tombstone nobody could tell the files of a stock checkpoint from somebody else's.
            if (self._keeping > timedelta(0) or files) and not replaced.damage:
                grace.mark(self.store, replaced.save_id, by=self.save_id, keep=self._keeping, files=files)

        replaced = protocol.commit(self.store, self.save_id, content, overwrite=self.overwrite, before=mark)
        failpoints.reach("after commit")
        self._replaced = replaced.save_id if replaced else ""

    @property
    def _keeping(self) -> timedelta:
        return self.store.keep_replaced if self._keep is None else self._keep

    def _stock_files(self) -> list[str]:
        """Return the data files of a stock checkpoint that is about to be replaced."""
        try:
            found = protocol.committed(self.store)
            if found is None or found.trailer:
                return []
            return metadata_build.stock_files(snapshot.read(self.store).manifest(self.store.url))
        except (CheckpointNotFound, CheckpointCorrupted, FileNotFoundError):
            return []


class _OtherFileFailed(Exception):
    """Another file of this rank failed: there is no point in going on."""


def _parts(size: int, memory_limit: int) -> tuple[int, int]:
    """Return the size of a part and how many may be in flight, within the limit and S3's 10,000 parts.

    Beyond those one part fills, and pieces for the next are being copied.
    """
    part_size = max(PART_SIZE, -(-size // _MAX_PARTS))
    return part_size, max(1, min(_PARALLEL, memory_limit // part_size - 2))
