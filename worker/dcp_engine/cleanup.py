"""Removing what killed saves left behind. Never done by a save: only whoever calls it knows that nobody is saving.

An orphan is a `data-<save id>` folder that `.metadata` does not name, or a small file that a probe or a commit left
behind. A folder goes once the newest file in it is old enough; a save that still writes is younger than that, and one
that was robbed all the same notices before its commit. What was replaced, and is kept for those who read it, goes when
its time is over, however old its files are. The same holds for the shards of exports. All of that is judged by the
clock that dates the files, the store's: this host's may be hours off.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from os import PathLike, fspath
from typing import Any, Final

from dcp_engine import pending
from dcp_engine.call_options import check_age
from dcp_engine.commit import export_index, replaced
from dcp_engine.errors import InvalidOption
from dcp_engine.format import layout, safetensors
from dcp_engine.stores import options
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import Entry, Store
from dcp_engine.translate import is_missing_file, translate

MINIMUM_AGE: Final = timedelta(days=1)
_DRAFT: Final = re.compile(
    rf"(\.metadata|probe|{re.escape(safetensors.INDEX)}|{replaced.PATH.pattern})\.[0-9a-f]{{32}}\.(tmp|link)"
)


def clean(
    url: str | PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    older_than: timedelta = MINIMUM_AGE,
    keep_replaced: timedelta | None = None,
    dry_run: bool = False,
) -> list[str]:
    """Remove orphans below a checkpoint's URL and abort its stale uploads. Not collective: one process calls it.

    Call it where nobody has been saving to the URL for `older_than`: a save that takes longer between two of its files
    loses them, and notices before its commit. A background save of this process ends first. The time is the store's: to
    learn it, an empty object is written and removed, and a local folder's time of change becomes now.

    Uploads are found on S3 only. Azure forgets the parts of one after a week; a Google bucket needs a lifecycle rule.

    Args:
        url: where saves went: an fsspec URL or a path.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        older_than: the age, by the store's clock, from which a file that belongs to no checkpoint goes.
        keep_replaced: how long the data of replaced saves are kept; None: as long as the save said that replaced them.
        dry_run: only say what would go.

    Returns:
        The paths below the URL of what went, or would go; that of an empty folder ends with `/`.

    Raises:
        CheckpointCorrupted: nobody can tell what the damaged `.metadata` needs; nothing was removed.
        InvalidOption: an age is none. EngineError: the URL can't be opened, or its store refuses.
    """
    try:
        check_age("older_than", older_than)
        check_age("keep_replaced", keep_replaced)
        pending.wait_before(url)
        store = open_store(fspath(url), storage_options)
        entries = list(store.list(""))
        emptied = list(store.empty_folders())
        # After the listing: a save that commits in between is spared.
        metadata = _committed(store)
        # Tombstones come after that: who replaced what stood there before had written one by then.
        stones = replaced.tombstones(store, store.list(layout.REPLACED))
        now = _now(store, [*entries, *emptied])
        before = now - older_than
        due = replaced.due(stones, _live(metadata), now, keep=keep_replaced)
        kept = {stone.save_id for stone in stones} - due.keys()
        paths = _orphans(entries, metadata, before, {layout.data_folder(save_id) for save_id in kept if save_id})
        for save_id, group in due.items():
            if not save_id or layout.data_folder(save_id).encode() not in metadata:
                paths += replaced.doomed(save_id, group, entries)
        paths += [folder.path for folder in emptied if _is_old(folder, before)]
        exports = export_index.orphans(store, entries, now, older_than=older_than, keep=keep_replaced)
        paths = list(dict.fromkeys([*paths, *exports]))
        if not dry_run:
            replaced.remove(store, paths)
        uploads = _stale_uploads(store.url, storage_options or {}, before, dry_run=dry_run)
    except Exception as error:
        raise translate(error, url=fspath(url)) from error
    return sorted([*paths, *uploads])


def _committed(store: Store) -> bytes:
    """Return `.metadata`, empty if there is none; CheckpointCorrupted if nobody can tell what it named."""
    try:
        metadata = store.read(layout.METADATA).data
    except FileNotFoundError as error:
        if is_missing_file(error):
            return b""
        raise
    layout.parse_trailer(metadata)
    return metadata


def _now(store: Store, entries: Iterable[Entry]) -> datetime:
    """Return the store's time, or that of its newest file where nothing may be written: it is no later than that."""
    try:
        return store.now()
    except Exception:  # noqa: BLE001 - the removal, if it comes to one, says what is wrong
        return max((entry.modified for entry in entries if entry.modified), default=datetime.now(UTC))


def _is_old(entry: Entry, before: datetime) -> bool:
    """Tell whether a file is of that time or earlier; object stores know seconds only."""
    return entry.modified is not None and entry.modified <= before


def _live(metadata: bytes) -> replaced.Live | None:
    if not metadata:
        return None
    trailer, _ = layout.parse_trailer(metadata)
    return replaced.Live(trailer.save_id if trailer else "")


def _orphans(entries: list[Entry], metadata: bytes, before: datetime, kept: set[str]) -> list[str]:
    folders: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        folder, _, rest = entry.path.partition("/")
        if rest and layout.is_own_folder(folder):
            folders[folder].append(entry)
        elif _DRAFT.fullmatch(entry.path):
            folders[entry.path].append(entry)
    return [
        entry.path
        for folder, of_folder in folders.items()
        if all(_is_old(entry, before) for entry in of_folder)
        # Whatever `.metadata` says of a folder, it needs it.
        and folder.encode() not in metadata
        and folder not in kept
        for entry in of_folder
        # What no save writes stays: whoever put it there may still want it.
        if layout.is_own_file(entry.path) or _DRAFT.fullmatch(entry.path)
    ]


def _stale_uploads(url: str, given: Mapping[str, Any], before: datetime, *, dry_run: bool) -> list[str]:
    """Abort multipart uploads that a killed save began: their parts are stored and paid for, but in no listing."""
    if options.protocol_of(url) != "s3":
        return []
    try:
        import botocore.session  # noqa: PLC0415 - obstore can't list uploads
    except ImportError as error:
        raise InvalidOption.not_installed("the listing of stale uploads on S3", "fsspec") from error

    bucket, path = options.place_of(url)
    prefix = f"{path}/" if path else ""
    client = botocore.session.get_session().create_client("s3", **options.for_botocore(given))
    found = []
    paginator = client.get_paginator("list_multipart_uploads")
    pages = (page for of in ("data-", "model-") for page in paginator.paginate(Bucket=bucket, Prefix=f"{prefix}{of}"))
    for upload in (upload for page in pages for upload in page.get("Uploads", [])):
        name = upload["Key"].removeprefix(prefix)
        if upload["Initiated"] <= before and (name.startswith("data-") or safetensors.export_of(name)):
            found.append(name)
            if not dry_run:
                client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return found
