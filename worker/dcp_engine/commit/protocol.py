"""The commit protocol: which save is committed at a URL, how a save is committed, and what is removed then.

A save is committed by one conditional write of `.metadata`, which the store refuses if another save was first. Rank 0
alone calls `commit`. No torch here.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict
from dcp_engine import failpoints
from dcp_engine.commit import replaced as grace
from dcp_engine.commit import snapshot
from dcp_engine.errors import (
    CheckpointCorrupted,
    CheckpointExists,
    EngineError,
    InvalidOption,
    NotDurable,
    ReplacedTooOften,
    StaleVersion,
    StorageDenied,
    StorageFull,
    some,
)
from dcp_engine.format import layout
from dcp_engine.stores.protocol import ATOMIC, Store
from dcp_engine.translate import is_missing_file, translate

LOG = logging.getLogger("dcp_engine")
_REPLACE_TRIES: Final = 20
_REFUSALS: Final = (StorageDenied, StorageFull, InvalidOption)
"""Errors of a write that was certainly not carried out: the store gives them as the answer to its only try."""


@dataclass(frozen=True)
class Committed:
    """The end of the `.metadata` that stands at a URL."""

    trailer: layout.Trailer | None
    """None where stock DCP saved: its `.metadata` has no trailer."""
    version: Any
    modified: datetime | None = None
    damage: CheckpointCorrupted | None = None
    """What is wrong with the end of `.metadata`. The URL counts as taken all the same."""

    @property
    def save_id(self) -> str:
        """Whose it is; empty for a stock checkpoint."""
        return self.trailer.save_id if self.trailer else ""


def committed(store: Store, path: str = layout.METADATA) -> Committed | None:
    """Return what is committed at the URL, by one read of a few KiB that no cache answers; any process may call it."""
    try:
        blob = store.read(path, tail=layout.TAIL_BYTES)
    except FileNotFoundError as error:
        if is_missing_file(error):
            return None
        raise
    try:
        trailer, _ = layout.parse_trailer(blob.data)
    except CheckpointCorrupted as error:
        return Committed(None, blob.version, blob.modified, error)
    return Committed(trailer, blob.version, blob.modified)


def describe(store: Store, found: Committed) -> CheckpointInfo:
    """Return what the manifest of a committed checkpoint says; what is known without one where it has none."""
    if found.trailer:
        with suppress(FileNotFoundError, EngineError):
            return snapshot.read_manifest(store, found.trailer).info(found.trailer.sha256)
    return CheckpointInfo(url=store.url, save_id=found.save_id, created_time=found.modified)


def refuse_if_committed(store: Store) -> None:
    """Raise CheckpointExists if anything is committed: the cheap check, before any byte moves."""
    if found := committed(store):
        raise conflict(store, found)
    # Beside it a reader would find one or the other, by its options.
    with suppress(FileNotFoundError):
        store.read(layout.RANK_LOCAL_METADATA, tail=1)
        what = f"each rank committed a part of its own there ({layout.RANK_LOCAL_METADATA} and others)"
        raise CheckpointExists(store.url, Conflict(message=what))


def conflict(store: Store, found: Committed) -> CheckpointExists:
    """Return the error that says who holds the URL."""
    return CheckpointExists(store.url, holder(store, found))


def holder(store: Store, found: Committed) -> Conflict:
    """Return who holds the URL."""
    info = describe(store, found)
    return Conflict(save_id=info.save_id, origin=info.origin, created_time=info.created_time)


def check_files(store: Store, save_id: str, sizes: dict[str, int]) -> None:
    """Make sure, just before a commit, that every file is there in full: somebody may have cleaned up too eagerly."""
    there = {entry.path: entry.size for entry in store.list(layout.data_folder(save_id))}
    for path, size in sizes.items():
        if path not in there:
            raise CheckpointCorrupted(path, "was written, but is gone before the commit")
        if there[path] != size:
            raise CheckpointCorrupted(path, f"has {there[path]} bytes before the commit, not the {size} written")


def commit(
    store: Store,
    save_id: str,
    metadata: bytes,
    *,
    overwrite: bool,
    before: Callable[[Committed], None] = lambda _: None,
) -> Committed | None:
    """Make this save the one at the URL and return what it replaced; `before` is called with that, maybe repeatedly.

    Raises CheckpointExists, naming the winner, if another save holds the URL and `overwrite` is false. With `overwrite`
    savers that race replace one another in some order; each replaced save is returned to exactly one of them.
    A write whose answer got lost is recognised by its own save id. Where it may still arrive, the error that is raised
    has `commit_unknown`.
    """
    # A look comes before the first try: a store that refuses after a lost answer leaves open what was there before.
    replaced = committed(store) if overwrite else None
    for _ in range(_REPLACE_TRIES):
        if replaced is not None:
            before(replaced)  # what fails here comes before any write that could still arrive
        try:
            _put(store, metadata, replaced)
        except (FileExistsError, StaleVersion):
            found = committed(store)
            if found and found.save_id == save_id:
                return replaced
            if found and not overwrite:
                raise conflict(store, found) from None
            replaced = found
        except NotDurable as error:
            raise _unknown(translate(error)) from error
        except Exception as error:
            if _happened(store, save_id, error, replaced, overwrite=overwrite):
                return replaced
            raise
        else:
            return replaced
    raise ReplacedTooOften(store.url, _REPLACE_TRIES)


def _put(store: Store, metadata: bytes, replaced: Committed | None) -> None:
    if replaced is None:
        store.create(layout.METADATA, metadata)
    else:
        store.replace(layout.METADATA, metadata, replaced.version)


def _happened(store: Store, save_id: str, error: Exception, expected: Committed | None, *, overwrite: bool) -> bool:
    """Find out whether a commit that ended in an error happened all the same.

    Raises CheckpointExists as `commit` does, and an error with `commit_unknown` where nobody can tell: a request that
    was not refused may still succeed when it arrives, unless something else stands there by then and the store itself
    compares.
    """
    known = translate(error, url=store.url)
    found, decided = None, isinstance(known, _REFUSALS)
    with suppress(Exception):  # the first error says more
        found = committed(store)
        if found and found.save_id == save_id:
            return True
        # The guard of this very write: one that was never tried out decides nothing.
        guard = store.guard("create" if expected is None else "replace")
        decided = decided or (_version(found) != _version(expected) and guard == ATOMIC)
    if not decided:
        raise _unknown(known)
    if found and not overwrite:
        raise conflict(store, found) from error
    return False


def _unknown(error: EngineError) -> EngineError:
    error.message += " (it is not known whether the save was committed; its data stay)"
    error.commit_unknown = True
    return error


def _version(found: Committed | None) -> Any:  # noqa: ANN401 - see Store
    return found and found.version


def remove_replaced(store: Store, save_id: str) -> None:
    """Remove the data of the save that ours replaced, unless it is empty, and whatever was kept for long enough.

    A stock checkpoint is always of the latter, be it kept for no time. A failure is a warning: the commit stands.
    """
    failpoints.reach("before removal")
    try:
        if save_id:
            remove_save(store, save_id)
        now = committed(store)
        if now and not now.damage:
            time = now.modified or datetime.now(UTC)
            grace.remove_due(store, grace.Live(now.save_id), time)
    except Exception as error:  # noqa: BLE001 - whatever it is, the save is committed
        LOG.warning("%s: the data of a replaced checkpoint could not be removed: %s", store.url, translate(error))


def remove_failed(store: Store, save_id: str) -> None:
    """Remove what a save wrote that is not, and will not be, committed.

    One that was committed, did not hear of it, and was replaced since is left to whoever replaced it.
    """
    if not grace.was_replaced(store, save_id):
        remove_save(store, save_id)
        grace.unmark(store, save_id)


def remove_save(store: Store, save_id: str) -> None:
    """Remove what a save wrote under its own folder. Only for a save that is not, and will not be, committed.

    What no save writes stays: whoever put it there may still want it.
    """
    paths = [entry.path for entry in store.list(layout.data_folder(save_id))]
    own = [path for path in paths if layout.is_own_file(path)]
    # The manifest goes last, so that a removal cut short can still be told from a save that never came that far.
    own.sort(key=lambda path: path.endswith("manifest.json"))
    store.delete(own)
    if len(own) < len(paths):
        LOG.warning("%s: %s stays: no save writes it", store.url, some(set(paths) - set(own)))
