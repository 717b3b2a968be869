"""Removing what killed saves left behind. Never done by a save: only whoever calls it knows that nobody is saving.

An orphan is a `data-<save id>` folder that `.metadata` does not name, or a small file that a probe or a commit left
behind. A folder goes once the newest file in it is old enough; a save that still writes is younger than that, and one
that was robbed all the same notices before its commit.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from os import PathLike, fspath
from typing import Any, Final

from dcp_worker.engine import layout, options, pending
from dcp_worker.engine.errors import InvalidOption, is_missing_file, translate
from dcp_worker.engine.store import Entry, Store
from dcp_worker.engine.stores import open_store

MINIMUM_AGE: Final = timedelta(days=1)
_DRAFT: Final = re.compile(r"(\.metadata|probe)\.[0-9a-f]{32}\.(tmp|link)")


def clean(
    url: str | PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    older_than: timedelta = MINIMUM_AGE,
    dry_run: bool = False,
) -> list[str]:
    """Remove orphans below a checkpoint's URL and abort its stale uploads; return their paths. One process calls it.

    Uploads are found on S3 only. Azure forgets the parts of one after a week; a Google bucket needs a lifecycle rule.
    With `dry_run`, only say what would go.
    """
    try:
        pending.wait_before(url)
        store = open_store(fspath(url), storage_options)
        before = datetime.now(UTC) - older_than
        # What stands there now comes after the listing: a save that commits in between is spared.
        entries = list(store.list(""))
        paths = _orphans(entries, _committed(store), before)
        if not dry_run:
            store.delete(paths)
        uploads = []
        if options.protocol_of(store.url) == "s3":
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


def _orphans(entries: list[Entry], metadata: bytes, before: datetime) -> list[str]:
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
        if all(entry.modified is not None and entry.modified < before for entry in of_folder)
        # Whatever `.metadata` says of a folder, it needs it.
        and folder.encode() not in metadata
        for entry in of_folder
        # What no save writes stays: whoever put it there may still want it.
        if layout.is_own_file(entry.path) or _DRAFT.fullmatch(entry.path)
    ]


def _stale_uploads(url: str, given: Mapping[str, Any], before: datetime, *, dry_run: bool) -> list[str]:
    """Abort multipart uploads that a killed save began: their parts are stored and paid for, but in no listing."""
    try:
        import botocore.session  # noqa: PLC0415 - obstore can't list uploads
    except ImportError as error:
        raise InvalidOption.not_installed("the listing of stale uploads on S3", "fsspec") from error

    bucket, path = options.place_of(url)
    prefix = f"{path}/" if path else ""
    client = botocore.session.get_session().create_client("s3", **options.for_botocore(given))
    found = []
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=f"{prefix}data-")
    for upload in (upload for page in pages for upload in page.get("Uploads", [])):
        if upload["Initiated"] < before:
            found.append(upload["Key"].removeprefix(prefix))
            if not dry_run:
                client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return found
