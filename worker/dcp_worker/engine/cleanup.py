"""Removing what killed saves left behind. Never done by a save: only whoever calls it knows that nobody is saving.

An orphan is a `data-<save id>` folder that `.metadata` does not name. It goes once the newest file in it is old enough;
a save that still writes is younger than that, and one that was robbed all the same notices before its commit.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from os import PathLike, fspath
from typing import Any, Final
from urllib.parse import urlsplit

from dcp_worker.engine import commit, layout, options
from dcp_worker.engine.errors import translate
from dcp_worker.engine.store import Entry
from dcp_worker.engine.stores import open_store

MINIMUM_AGE: Final = timedelta(days=1)


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
        store = open_store(fspath(url), storage_options)
        committed = commit.committed(store)
        before = datetime.now(UTC) - older_than
        paths = _orphans(list(store.list("")), committed.save_id if committed else "", before)
        if not dry_run:
            store.delete(paths)
        uploads = []
        if options.protocol_of(store.url) == "s3":
            uploads = _stale_uploads(store.url, storage_options or {}, before, dry_run=dry_run)
    except Exception as error:
        raise translate(error, url=fspath(url)) from error
    return sorted([*paths, *uploads])


def _orphans(entries: list[Entry], committed: str, before: datetime) -> list[str]:
    folders: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        folder, _, rest = entry.path.partition("/")
        if rest and layout.save_id_of(folder) not in {None, committed}:
            folders[folder].append(entry)
    return [
        entry.path
        for of_folder in folders.values()
        if all(entry.modified is not None and entry.modified < before for entry in of_folder)
        for entry in of_folder
    ]


def _stale_uploads(url: str, given: Mapping[str, Any], before: datetime, *, dry_run: bool) -> list[str]:
    """Abort multipart uploads that a killed save began: their parts are stored and paid for, but in no listing."""
    import botocore.session  # noqa: PLC0415 - obstore can't list uploads

    bucket, prefix = urlsplit(url).netloc, urlsplit(url).path.strip("/")
    client = botocore.session.get_session().create_client("s3", **options.for_botocore(given))
    found = []
    pages = client.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=f"{prefix}/data-")
    for upload in (upload for page in pages for upload in page.get("Uploads", [])):
        if upload["Initiated"] < before:
            found.append(upload["Key"].removeprefix(f"{prefix}/"))
            if not dry_run:
                client.abort_multipart_upload(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
    return found
