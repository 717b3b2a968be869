"""`verify`: reads a whole checkpoint and compares it with its digests. One process, no GPU, no model."""

import hashlib
import zlib
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from os import PathLike, fspath
from typing import Any, Final

import numpy as np

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine import pending
from dcp_engine.call_options import ProgressCallback
from dcp_engine.commit import snapshot, stored_sizes
from dcp_engine.commit.stock import sized
from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format import layout, torch_zip_read
from dcp_engine.format.digest import BLOCK
from dcp_engine.format.manifest import DataFile, Manifest
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import Store
from dcp_engine.transfer import ranges
from dcp_engine.transfer.block_digests import Digests
from dcp_engine.transfer.fetch import Fetcher
from dcp_engine.transfer.meter import Meter
from dcp_engine.translate import translate

BY_DIGESTS: Final = "every byte, by its crc32c"
BY_ZIP: Final = "file sizes and zip CRC-32: a stock checkpoint has no digests"
BY_SIZE: Final = "file sizes only: a stock checkpoint without CRC-32 has no digests"
_FILES_AT_ONCE: Final = 4


def verify(
    url: str | PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    on_progress: ProgressCallback | None = None,
) -> CheckpointInfo:
    """Read the whole checkpoint at the URL and compare it with its digests. Not collective: one process calls it.

    A checkpoint that stock DCP saved has no digests: file sizes and the CRC-32 of its zip members are checked, where
    there are any. No accelerator and no model is needed. A background save of this process ends first; the error of one
    to this very URL is raised, if nobody has seen it yet.

    Args:
        url: where the checkpoint stands: an fsspec URL or a path.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        on_progress: called with (bytes done, bytes in all) of the whole checkpoint: from any thread, one call at a
            time, until `verify` returns. It must be cheap, since reading waits for it.

    Returns:
        What is committed at the URL; its `verified` says in words what was compared.

    Raises:
        CheckpointNotFound: nothing is committed at the URL.
        CheckpointCorrupted: names every bad file in its message and what it holds in `tensors`.
        EngineError: another subclass per cause, as of `load`.
    """
    try:
        pending.wait_before(url, raises=True)
        store = open_store(fspath(url), storage_options)
        found = snapshot.read(store)
        try:
            return _verified(store, found, on_progress)
        except (CheckpointCorrupted, FileNotFoundError):
            # Replaced meanwhile, it lost its files to that: then the new one is what there is to verify.
            now = snapshot.read(store)
            if now == found:
                raise
            return _verified(store, now, on_progress)
    except Exception as error:
        raise translate(error) from error


def _verified(store: Store, found: snapshot.Snapshot, on_progress: ProgressCallback | None) -> CheckpointInfo:
    manifest = found.manifest(store.url)
    if found.trailer:
        _check_pickle(store, found.trailer, manifest)
        _check_digests(store, manifest, on_progress)
        return manifest.info(found.digest).model_copy(update={"verified": BY_DIGESTS})
    manifest = sized(store, manifest)
    return manifest.info().model_copy(update={"verified": _check_stock(store, manifest, on_progress)})


def _check_pickle(store: Store, trailer: layout.Trailer, manifest: Manifest) -> None:
    """Make sure that the pickle in `.metadata`, which only stock readers look at, is the one that was written."""
    size = store.read(layout.METADATA, tail=1).size - len(trailer.encode())
    snapshot.need_pickle_size(size, manifest)
    seen = hashlib.sha256()
    for start in range(0, size, ranges.WINDOW):
        piece = memoryview(bytearray(min(ranges.WINDOW, size - start)))
        try:
            for part in store.fill(layout.METADATA, start, [piece]):
                seen.update(part)
        except EOFError:
            break
    if seen.hexdigest() != manifest.metadata_sha256:
        raise CheckpointCorrupted(layout.METADATA, "does not have the sha256 that its manifest names")


def _check_digests(store: Store, manifest: Manifest, on_progress: ProgressCallback | None) -> None:
    names = manifest.tensors_by_file()
    paths = {file.path for file in manifest.files}
    digests = Digests.read(store, manifest, layout.blocks_path(manifest.save_id), paths)
    at_once = max(1, min(_FILES_AT_ONCE, len(manifest.files)))
    fetcher = Fetcher(store, threads=max(1, store.readers // at_once), digests=digests, names=manifest.tensors_in)
    meter = Meter(sum(file.size for file in manifest.files), on_progress)
    there = {entry.path: entry.size for entry in store.list(layout.data_folder(manifest.save_id))}

    def check(file: DataFile) -> CheckpointCorrupted | None:
        if (size := there.get(file.path)) != file.size:
            found = "is missing" if size is None else f"has {size} bytes, not {file.size}"
            return CheckpointCorrupted(file.path, found, names.get(file.path, []))
        reads = [ranges.ByteRange(file.path, start, stop, None) for start, stop in ranges.windows(0, file.size)]
        try:
            fetcher.run(ranges.requests(reads, block=BLOCK, sizes={file.path: file.size}), meter.add)
        except CheckpointCorrupted as error:
            return error
        return None

    with ThreadPoolExecutor(at_once, thread_name_prefix="dcp-verify") as pool:
        _raise([error for error in pool.map(check, manifest.files) if error])


def _check_stock(store: Store, manifest: Manifest, on_progress: ProgressCallback | None) -> str:
    """Check what a stock checkpoint allows and return in words what that was."""
    bad: list[CheckpointCorrupted] = []
    wrong: list[CheckpointCorrupted] = []
    right = 0
    meter = Meter(sum(max(0, file.size) for file in manifest.files), on_progress)
    names = manifest.tensors_by_file()
    items_of: dict[int, list[tuple[int, int, str]]] = defaultdict(list)
    for name, tensor in manifest.tensors.items():
        for chunk in tensor.chunks:
            items_of[chunk.file].append((chunk.offset, chunk.length, name))
    for number, file in enumerate(manifest.files):
        items = items_of[number]
        end = max((offset + length for offset, length, _ in items), default=0)
        if file.size < end:
            found = "is missing" if file.size < 0 else f"has {file.size} bytes, not the {end} that .metadata names"
            bad.append(CheckpointCorrupted(file.path, found, names.get(file.path, [])))
            continue
        if sum(length for _, length, _ in items) > file.size:
            bad.append(CheckpointCorrupted(file.path, "its entries share bytes", names.get(file.path, [])))
            continue
        stored_sizes.need(store, {file.path: [(offset, offset + length) for offset, length, _ in items]})
        for offset, length, name in sorted(items):
            good, detail = _zip_state(_item(store, file.path, offset, length))
            right += good
            if detail:
                wrong.append(CheckpointCorrupted(file.path, f"{name} {detail}", [name]))
            meter.add(length)
    # torch can write zip files without CRCs. If no CRC of the whole checkpoint is right, they were switched off, and a
    # wrong CRC says nothing of the bytes.
    _raise(bad + (wrong if right else [error for error in wrong if "CRC" not in str(error)]))
    return BY_ZIP if right else BY_SIZE


def _item(store: Store, path: str, offset: int, length: int) -> memoryview:
    target = np.empty(length, dtype=np.uint8)
    reads = list(ranges.cut(path, offset, offset + length, target))
    Fetcher(store, threads=store.readers).run(ranges.requests(reads, block=0, sizes={}), lambda _: None)
    return target.data


def _zip_state(data: memoryview) -> tuple[int, str]:
    """Return how many members have a right CRC-32, and what is wrong with the item, if anything."""
    try:
        found = torch_zip_read.members(data)
    except ValueError as error:
        return 0, f"is no archive: {error}"
    # The CRC of nothing is 0, switched on or off.
    right = [member for member in found if zlib.crc32(member.data) == member.crc]
    return sum(len(member.data) > 0 for member in right), "" if len(right) == len(found) else "has a wrong or no CRC-32"


def _raise(bad: list[CheckpointCorrupted]) -> None:
    if not bad:
        return
    if len(bad) == 1:
        raise bad[0]
    names = [name for error in bad for name in error.tensors]
    files = sorted({error.file for error in bad})
    raise CheckpointCorrupted(", ".join(files), f"{len(files)} files are damaged; the first: {bad[0].message}", names)
