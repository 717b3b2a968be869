"""Removing what is committed at a URL: the opposite of a commit. No torch here.

1. A tombstone is written that keeps the save for no time. Whatever a kill leaves from now on is known to be due:
   `clean` removes it, and so does the next removal, or save with `overwrite`, at this URL.
2. `.metadata` is removed, if it still is the one that was read. From here on nothing is committed at the URL.
3. The data of the save are removed, and those of replaced saves that were still kept; then the tombstones.

A load that has begun finds files missing, and then no `.metadata`: it raises. What it has read was right.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine import failpoints
from dcp_engine.commit import protocol, snapshot, stock
from dcp_engine.commit import replaced as grace
from dcp_engine.errors import CheckpointCorrupted, ReplacedTooOften, SaveMismatch, StaleVersion, StorageFull
from dcp_engine.format import layout
from dcp_engine.stores.protocol import Store
from dcp_engine.translate import translate

LOG: Final = logging.getLogger("dcp_engine")
_TRIES: Final = 20


def remove(store: Store, save_id: str | None, saved_by: str = "") -> CheckpointInfo | None:
    """Remove the committed checkpoint, if it is that save, or whichever it is; return what it was.

    With `saved_by`, only if a Checkpoint object of that uid has saved it.

    Where nothing is committed, what an earlier removal left is removed, and None is returned.

    Raises:
        SaveMismatch: Another save stands there, or came there meanwhile; nothing is removed.
        CheckpointCorrupted: Nobody can tell what the damaged `.metadata` needs; nothing is removed.
    """
    by = layout.new_save_id()
    info: CheckpointInfo | None = None
    for _ in range(_TRIES):
        # Before the look at what is committed: what is replaced after it is kept for its readers.
        stones = _tombstones(store)
        found = protocol.committed(store)
        if found is None:
            _remove_data(store, save_id or "", stones)
            return info
        if found.damage:
            raise found.damage
        # A stock checkpoint names no save: one that has changed since the first look may be another.
        other = save_id is not None and (found.save_id != save_id or not save_id)
        if other or (saved_by and _saver(store, found) != saved_by):
            if info:
                grace.unmark(store, by)
            raise SaveMismatch(store.url, save_id or "", protocol.holder(store, found), saved_by)
        save_id = found.save_id
        info = protocol.describe(store, found).model_copy(update={"conflict_guard": store.guard("remove")})
        _mark(store, found, by)
        stones = _tombstones(store)
        failpoints.reach("before removal")
        with suppress(StaleVersion):
            store.remove(layout.METADATA, found.version)
            failpoints.reach("unlisted")
            _remove_data(store, save_id, stones)
            return info
    raise ReplacedTooOften(store.url, _TRIES)


def _saver(store: Store, found: protocol.Committed) -> str:
    """Return the uid of the Checkpoint object that made a save; empty where none did.

    Raises:
        EngineError: The manifest that would say so can't be read.
    """
    if not found.trailer:
        return ""
    try:
        origin = snapshot.read_manifest(store, found.trailer).info(found.trailer.sha256).origin
    except FileNotFoundError as error:
        raise CheckpointCorrupted(found.trailer.manifest, "is missing, so that nobody can tell who saved it") from error
    return origin.uid if origin is not None else ""


def _tombstones(store: Store) -> list[grace.Tombstone]:
    return grace.tombstones(store, store.list(layout.REPLACED))


def _mark(store: Store, found: protocol.Committed, by: str) -> None:
    files = [] if found.trailer else stock.data_files(snapshot.read(store).manifest(store.url))
    try:
        grace.mark(store, found.save_id, by=by, keep=timedelta(0), files=files)
    except Exception as error:
        # Without a tombstone nobody could tell the files of a stock checkpoint from somebody else's. What a killed
        # removal leaves of a save of ours is then an orphan, as of any killed save.
        if found.trailer is None or not isinstance(translate(error), StorageFull):
            raise
        LOG.info("%s: no room for a tombstone: %s", store.url, translate(error))


def _remove_data(store: Store, save_id: str, stones: Sequence[grace.Tombstone]) -> None:
    try:
        if save_id:
            protocol.remove_save(store, save_id)
        grace.remove_all(store, stones)
        # On a full disk a tombstone may have come no further than its folder.
        store.delete([each.path for each in store.empty_folders() if each.path == f"{layout.REPLACED}/"])
        store.remove_root()
    except Exception as error:
        known = translate(error, url=store.url)
        known.message += " (nothing is committed there any more; delete it again to remove the rest of its data)"
        raise known from error
