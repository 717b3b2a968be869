"""The commit of an export: the index of safetensors, written last, in one step that the store refuses or carries out.

Shards have names that no other export has, so nobody sees them until the index names them. What an index names is never
changed or removed. What an earlier one named goes when it was replaced for long enough; the index itself says which
exports those are, since it is the one thing that is there or not there as a whole. No torch here.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict
from dcp_engine import failpoints
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
)
from dcp_engine.format import safetensors
from dcp_engine.format.safetensors import INDEX, ModelIndex
from dcp_engine.stores.protocol import Entry, Store
from dcp_engine.translate import is_missing_file, translate

LOG: Final = logging.getLogger("dcp_engine")
_TRIES: Final = 20
_LARGEST: Final = 64 << 20
"""Bytes of an index that are read: some 500,000 tensors."""
_REFUSALS: Final = (StorageDenied, StorageFull, InvalidOption)
"""Errors of a write that was certainly not carried out."""


@dataclass(frozen=True)
class Found:
    """The index that stands at a URL."""

    index: ModelIndex
    version: Any
    modified: datetime | None


def found(store: Store) -> Found | None:
    """Return the index that stands at the URL now, whoever wrote it; None if there is none.

    Raises:
        CheckpointCorrupted: What stands there is no index.
    """
    try:
        blob = store.read(INDEX, tail=_LARGEST)
    except FileNotFoundError as error:
        if is_missing_file(error):
            return None
        raise
    if blob.size > len(blob.data):
        raise CheckpointCorrupted(INDEX, f"has {blob.size} bytes, more than any index")
    try:
        return Found(ModelIndex.decode(blob.data), blob.version, blob.modified)
    except ValueError as error:
        raise CheckpointCorrupted(INDEX, str(error)) from error


def conflict(store: Store, there: Found) -> CheckpointExists:
    """Return the error that says which model stands at the URL."""
    index = there.index
    what = f"export {index.export_id} by {index.origin or 'an unknown exporter'}" if index.export_id else "a model"
    return CheckpointExists(
        store.url,
        Conflict(save_id=index.export_id, origin=index.origin, created_time=index.created_time, message=what),
    )


def refuse(store: Store, *, overwrite: bool) -> Found | None:
    """Return the index that an export would replace; refuse one that may not be replaced, before any byte moves.

    Raises:
        CheckpointExists: A model stands there, and `overwrite` is false.
        InvalidOption: A model in one file stands there, which no index would replace.
    """
    there = found(store)
    if there and not overwrite:
        raise conflict(store, there)
    with suppress(FileNotFoundError):
        store.read(safetensors.SINGLE, tail=1)
        raise InvalidOption(
            f"{store.url} holds {safetensors.SINGLE}, which readers take before an index; remove it, or export to "
            "another URL"
        )
    return there


def describe(store: Store, there: Found) -> CheckpointInfo:
    """Return what is known of the model at the URL by its index, and by the sizes of the files that it names."""
    index = there.index
    named = set(index.files.values())
    step = index.source.get("step")
    return CheckpointInfo(
        url=store.url,
        save_id=index.export_id,
        step=step if isinstance(step, int) else None,
        bytes=sum(entry.size for entry in store.list("") if entry.path in named),
        files=len(named),
        tensors=len(index.files),
        created_time=index.created_time,
        origin=index.origin,
    )


def publish(store: Store, index: ModelIndex, *, overwrite: bool, keep: timedelta) -> Found | None:
    """Make an export the model at the URL; return the index that it replaced.

    A write whose answer got lost is recognised by the export's id. Where it may still arrive, the error that is raised
    has `commit_unknown`, and nobody may remove the shards.

    Args:
        store: Where the shards are, and everything else that the index speaks of.
        index: What is written, but for `replaced`.
        overwrite: Another index may be replaced.
        keep: How long the shards of a replaced export stay.

    Raises:
        CheckpointExists: Another export was first, and `overwrite` is false.
        InvalidOption: The index is larger than any that is read.
    """
    if (length := len(index.encode())) > _LARGEST:
        raise InvalidOption(f"its index would have {length} bytes, and none has more than {_LARGEST}; select less")
    there = found(store) if overwrite else None
    for _ in range(_TRIES):
        gone = _due(store, there, keep)
        remove(store, gone)
        failpoints.reach("before commit")
        try:
            _put(store, _succeeding(index, there, gone), there)
        except (FileExistsError, StaleVersion):
            now = found(store)
            if now and now.index.export_id == index.export_id:
                return there
            if now and not overwrite:
                raise conflict(store, now) from None
            there = now
        except NotDurable as error:
            raise _unknown(translate(error, url=store.url)) from error
        except Exception as error:
            if not _happened(store, index, error):
                raise
            return there
        else:
            return there
    raise ReplacedTooOften(store.url, _TRIES)


def remove(store: Store, exports: Iterable[str]) -> None:
    """Remove the files of exports that no index names or ever will; a failure is a warning."""
    ids = set(exports)
    if not ids:
        return
    failpoints.reach("before removal")
    try:
        store.delete([each.path for each in store.list("") if safetensors.export_of(each.path) in ids])
    except Exception as error:  # noqa: BLE001 - what stands there is whole
        LOG.warning("%s: files of an export that is no more stay: %s", store.url, translate(error))


def orphans(
    store: Store, entries: Sequence[Entry], now: datetime, *, older_than: timedelta, keep: timedelta | None
) -> list[str]:
    """Return the files of exports that no index names: killed ones once they are old, replaced ones once they are due.

    Args:
        store: Where they lie.
        entries: What lies there. The index is read after it was listed: an export that commits in between is spared.
        now: The store's time.
        older_than: The age of a killed export's newest file.
        keep: How long the files of a replaced export stay; None: as long as the store keeps them.

    Raises:
        CheckpointCorrupted: Nobody can tell what the damaged index names.
    """
    of: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if export_id := safetensors.export_of(entry.path):
            of[export_id].append(entry)
    if not of:
        return []
    there = found(store)
    named = _named(there)
    replaced = there.index.replaced if there else ()
    is_due = (
        there is None
        or there.modified is None
        or now - there.modified >= (store.keep_replaced if keep is None else keep)
    )

    def goes(export_id: str) -> bool:
        if export_id in replaced:
            return is_due
        return all(entry.modified is not None and now - entry.modified >= older_than for entry in of[export_id])

    return [entry.path for export_id in of if export_id not in named and goes(export_id) for entry in of[export_id]]


def names(store: Store, export_id: str) -> bool:
    """Tell whether the index at the URL names files of an export now."""
    return export_id in _named(found(store))


def _named(there: Found | None) -> set[str]:
    return {safetensors.export_of(path) for path in there.index.files.values()} if there else set()


def _due(store: Store, there: Found | None, keep: timedelta) -> tuple[str, ...]:
    """Return the exports that the index at the URL replaced so long ago that their files may go."""
    if there is None or not there.index.replaced:
        return ()
    if keep and there.modified is not None and store.now() - there.modified < keep:  # no date is made
        return ()
    # A hand-made index may say so of what it names: that is removed by nobody.
    named = _named(there)
    return tuple(each for each in there.index.replaced if each not in named)


def _succeeding(index: ModelIndex, there: Found | None, gone: Iterable[str]) -> ModelIndex:
    """Return an index that remembers what it replaces, and what was replaced before and is still kept."""
    if there is None:
        return index
    earlier = [each for each in there.index.replaced if each not in gone]
    last = [there.index.export_id] if there.index.export_id else []
    return replace(index, replaced=(*earlier, *last))


def _put(store: Store, index: ModelIndex, there: Found | None) -> None:
    if there is None:
        store.create(INDEX, index.encode())
    else:
        store.replace(INDEX, index.encode(), there.version)


def _happened(store: Store, index: ModelIndex, error: Exception) -> bool:
    """Tell whether a write that ended in an error happened all the same; raise where nobody can tell."""
    known = translate(error, url=store.url)
    with suppress(Exception):  # the first error says more
        now = found(store)
        if now and now.index.export_id == index.export_id:
            return True
    if isinstance(known, _REFUSALS):
        return False
    raise _unknown(known) from error


def _unknown(error: EngineError) -> EngineError:
    error.message += " (it is not known whether the export was committed; its files stay)"
    error.commit_unknown = True
    return error
