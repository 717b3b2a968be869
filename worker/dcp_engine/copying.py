"""Copying a committed checkpoint to another URL, byte for byte, with the same commit. Needs no torch.

1. What is committed at the source is read, and the destination is asked whether it takes a checkpoint.
2. The digests and the data files are copied: what an earlier copy of this save has left whole stays.
3. The manifest is written. `.metadata` is committed as that of a save is: nothing copies it.

A copy keeps the id of its source: whatever names the save, or the digest of its manifest, names the copy as well.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import timedelta
from os import PathLike, fspath
from typing import Any, Final

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine import failpoints, pending
from dcp_engine.call_options import CopyOptions, ProgressCallback
from dcp_engine.commit import protocol, snapshot, stock, stored_sizes
from dcp_engine.commit import replaced as grace
from dcp_engine.commit.replacement import Replacement, examine
from dcp_engine.errors import (
    CheckpointCorrupted,
    CheckpointExists,
    CheckpointReplaced,
    InvalidOption,
    some,
)
from dcp_engine.format import layout
from dcp_engine.format.manifest import need_apart
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import MEMORY_LIMIT, PART_SIZE, Buffer, Entry, NotesDigests, Store
from dcp_engine.stores.server_copy import ServerCopy
from dcp_engine.transfer import block_digests
from dcp_engine.transfer.checked_source import READING, WRITING, naming
from dcp_engine.transfer.file_copies import FileCopies
from dcp_engine.translate import translate

LOG: Final = logging.getLogger("dcp_engine")
_TRIES: Final = 3
"""Checkpoints that replace one another at the source while it is copied, before the copy gives up."""


def copy(
    source: str | PathLike[str],
    destination: str | PathLike[str],
    *,
    overwrite: bool = False,
    verify: bool = True,
    source_options: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    memory_limit: int = MEMORY_LIMIT,
    bandwidth: int | None = None,
    keep_replaced: timedelta | None = None,
    on_progress: ProgressCallback | None = None,
) -> CheckpointInfo:
    """Copy the checkpoint at `source` to `destination`. Not collective: one process calls it.

    The copy is committed at the end, as a save is. It is the same save, with the id and the manifest of the source.
    Call it again where it was cut short: what it has left whole is not moved again, and `clean` removes it. A
    checkpoint by stock DCP is copied as one, by size alone, and always anew.

    Args:
        source: where the checkpoint stands: an fsspec URL or a path.
        destination: where the copy goes.
        overwrite: replace what is committed at the destination.
        verify: compare every block with its digest. False: sizes alone.
        source_options: options of the source's store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment, for both.
        storage_options: those of the destination's store.
        memory_limit: bytes that may be held for what is on its way.
        bandwidth: bytes per second that are read at most; of what passes through here.
        keep_replaced: how long the data of what the copy replaces are kept; None: as long as the store says.
        on_progress: called with (bytes done, bytes in all): from any thread, one call at a time. It must be cheap.

    Returns:
        What stands there now. `verified` says what was compared, `conflict_guard` how the commit was guarded.

    Raises:
        CheckpointExists: another save stands there, and `overwrite` is false; `.conflict` says whose.
        CheckpointNotFound: nothing is committed at the source.
        CheckpointCorrupted: the source is damaged, in the file and the block that are named. Nothing was committed.
        EngineError: another subclass per cause, as of `save`.
    """
    options = CopyOptions(
        overwrite=overwrite,
        verify=verify,
        memory_limit=memory_limit,
        bandwidth=bandwidth,
        keep_replaced=keep_replaced,
        on_progress=on_progress,
    )
    try:
        options.refuse_wrong()
        _await_saves(fspath(source), fspath(destination))
        given = dict(source_options or {}), dict(storage_options or {})
        stores = open_store(fspath(source), given[0]), open_store(fspath(destination), given[1])
        same = _without_age(given[0]) == _without_age(given[1])
        server = ServerCopy.between(*stores, given[1]) if same else None
        return _copied(*stores, options, server)
    except Exception as error:
        raise translate(error) from error


def _await_saves(source: str, destination: str) -> None:
    """Wait for a background save of this process; refuse two spellings of one place."""
    for url in (source, destination):
        pending.wait_before(url, raises=True)
    if pending.place(source) == pending.place(destination):
        raise InvalidOption(f"{destination} is the source itself; write another URL")


def _copied(source: Store, destination: Store, options: CopyOptions, server: ServerCopy | None) -> CheckpointInfo:
    """Copy what is committed at the source; begin anew with the one that replaces it meanwhile."""
    with naming(source, READING):
        found = snapshot.read(source)
    for _ in range(_TRIES):
        call = CopyCall(source, destination, found, options, server)
        try:
            with naming(destination, WRITING):
                return call.run()
        except (CheckpointCorrupted, FileNotFoundError):
            with naming(source, READING):
                now = snapshot.read(source)
            if now == found:
                call.remove_copied()
                raise
            found = now
    raise CheckpointReplaced(source.url, found.trailer.save_id if found.trailer else "")


class CopyCall:
    """The copy of one save."""

    def __init__(
        self,
        source: Store,
        destination: Store,
        found: snapshot.Snapshot,
        options: CopyOptions,
        server: ServerCopy | None,
    ) -> None:
        self._source = source
        self._to = destination
        self._found = found
        self._options = options
        self._server = server
        self._manifest = found.manifest(source.url)
        self._there_already = False
        """This very save stands at the destination."""

    def run(self) -> CheckpointInfo:
        """Copy the files and commit."""
        guard = self._examined()
        with naming(self._source, READING):
            metadata = snapshot.metadata_of(self._source, self._found)
        if self._found.trailer is None:
            verified = self._copy_stock()
            save_id = layout.new_save_id()  # no other has it: a stock checkpoint is not told by its own
        else:
            verified = self._copy_own()
            save_id = self._manifest.save_id
        if not self._there_already:
            self._commit(save_id, metadata)
        return self._manifest.info(self._found.digest).model_copy(
            update={"url": self._to.url, "verified": verified, "conflict_guard": guard}
        )

    def remove_copied(self) -> None:
        """Remove what was copied of a save that is damaged, or for which the destination has no place."""
        save_id = self._manifest.save_id
        if not save_id or self._there_already:
            return
        try:
            found = protocol.committed(self._to)
            if found is None or found.save_id != save_id:
                protocol.remove_failed(self._to, save_id)
        except Exception as error:  # noqa: BLE001 - the copy's own error is the one to report
            LOG.warning("%s: files of a failed copy remain: %s", self._to.url, translate(error))

    def _examined(self) -> str:
        """Refuse what the destination does not take; return how the commit is guarded."""
        found = protocol.committed(self._to)
        save_id = self._manifest.save_id
        if found and save_id and found.save_id == save_id:
            if found.trailer != self._found.trailer:  # whoever made it, it is no copy of this one
                raise protocol.conflict(self._to, found)
            self._there_already = True
            return protocol.describe(self._to, found).conflict_guard
        guard = examine(self._to, overwrite=self._options.overwrite)
        if found and not found.trailer and not found.damage and not save_id:
            self._need_other_files()
        return guard

    def _need_other_files(self) -> None:
        """Refuse to replace a stock checkpoint by one whose files have the same names: it would be half replaced."""
        there = {file.path for file in snapshot.read(self._to).manifest(self._to.url).files}
        if shared := there & {file.path for file in self._manifest.files}:
            raise InvalidOption(
                f"{self._to.url} holds a checkpoint by stock DCP with {some(shared, 3)}, which the copy has, too: they "
                "can't be replaced in one step. Delete what stands there first, or copy to another URL."
            )

    def _copy_own(self) -> str:
        """Copy the files of a save of ours but `.metadata`; return in words what was compared."""
        manifest = self._manifest
        folder = layout.data_folder(manifest.save_id)
        with naming(self._source, READING):
            self._need_sizes()
            blocks_of = block_digests.by_file(self._source, manifest)
        if not self._there_already:
            # It stood there before, and was replaced: nobody is to remove it as such any more.
            grace.forget(self._to, manifest.save_id)
        there = {entry.path: entry.size for entry in self._to.list(folder)}
        if not self._has_sidecar(there):
            sidecar = block_digests.sidecar(manifest, blocks_of)
            self._write(layout.blocks_path(manifest.save_id), sidecar, there)
        live = self._there_already
        copies = FileCopies(self._source, self._to, manifest, self._options, self._server, live=live)
        copies.run(manifest.files, there, blocks_of)
        failpoints.reach("before manifest")
        place = layout.manifest_path(manifest.save_id)
        if place not in there or self._to.read(place).data != self._found.encoded:
            self._write(place, [self._found.encoded], there)
        protocol.check_files(self._to, manifest.save_id, {file.path: file.size for file in manifest.files})
        return copies.tally.words()

    def _need_sizes(self) -> None:
        """Refuse a save that lacks a file, or has one of another size, before a byte moves."""
        folder, names = layout.data_folder(self._manifest.save_id), self._manifest.tensors_by_file
        there = {entry.path: entry.size for entry in self._source.list(folder)}
        for file in self._manifest.files:
            if (size := there.get(file.path)) != file.size:
                what = "is missing" if size is None else f"has {size} bytes, not {file.size}"
                raise CheckpointCorrupted(file.path, what, names().get(file.path, []))

    def _has_sidecar(self, there: Mapping[str, int]) -> bool:
        """Tell whether an earlier copy has left the digests whole."""
        if layout.blocks_path(self._manifest.save_id) not in there:
            return False
        try:
            for _ in block_digests.sidecar(self._manifest, block_digests.by_file(self._to, self._manifest)):
                pass
        except (CheckpointCorrupted, FileNotFoundError):
            return False
        return True

    def _write(self, path: str, chunks: Iterable[Buffer], there: Mapping[str, int]) -> None:
        """Write a small file, in place of what a copy that was cut short has left of it."""
        if path in there and not isinstance(self._to, NotesDigests):
            self._to.delete([path])
        self._to.write(path, chunks, part_size=PART_SIZE, parallel=1)

    def _copy_stock(self) -> str:
        """Copy the files of a stock checkpoint but `.metadata`, all of which lie beside it."""
        if others := [each.path for each in self._manifest.files if not layout.is_stock_file(each.path)]:
            # What a stranger's `.metadata` names might be a file of somebody else's at the destination.
            raise CheckpointCorrupted(layout.METADATA, f"names {some(others, 3)}, which stock DCP does not write")
        with naming(self._source, READING):
            manifest = stock.sized(self._source, self._manifest)
            need_apart(
                ((name, chunk) for name, each in manifest.tensors.items() for chunk in each.chunks), manifest.files
            )
            stored_sizes.need(self._source, {file.path: [(0, file.size)] for file in manifest.files})
            before = self._dated()
        self._manifest = manifest
        there = {entry.path: entry.size for entry in self._to.list("")}
        copies = FileCopies(self._source, self._to, manifest, self._options, self._server)
        copies.run(manifest.files, there, lambda _: None)
        with naming(self._source, READING):
            changed = [path for path, entry in self._dated().items() if before.get(path) != entry]
        if changed:  # stock DCP writes over what is there
            raise CheckpointCorrupted(changed[0], "was changed while it was copied")
        return f"{copies.tally.words()}: a checkpoint by stock DCP has no digests"

    def _dated(self) -> dict[str, Entry]:
        paths = {file.path for file in self._manifest.files}
        return {entry.path: entry for entry in self._source.list("") if entry.path in paths}

    def _commit(self, save_id: str, metadata: bytes) -> None:
        options = self._options
        replacement = Replacement(self._to, save_id, overwrite=options.overwrite, keep=options.keep_replaced)
        try:
            replacement.commit(metadata)
        except CheckpointExists:  # another save was first
            self.remove_copied()
            raise
        replacement.remove_replaced()


def _without_age(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options by which a store is reached."""
    return {name: value for name, value in given.items() if name != "keep_replaced"}
