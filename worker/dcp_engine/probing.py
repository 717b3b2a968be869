"""What a store does, found out by trying it: who may read and write there, and which changes it refuses by itself.

Everything is tried on objects in a folder of an unguessable name, which goes again. One that a killed probe has left is
removed by the next probe of the same URL, and by `clean`: its folder has the name of a probe's. Needs no torch.
"""

import logging
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import timedelta
from os import PathLike, fspath
from typing import Any, Final, TypeVar

from dcp_contract.checkpoint_info import StoreFacts
from dcp_engine.errors import EngineError, StorageDenied, StorageUnavailable
from dcp_engine.format import layout
from dcp_engine.stores import botocore_s3, options
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import Store
from dcp_engine.translate import is_missing_bucket, is_missing_file, translate

LOG: Final = logging.getLogger("dcp_engine")
LEFT_AGE: Final = timedelta(hours=1)
"""Age, by the store's clock, from which the objects of another probe were left behind."""
_FOLDER: Final = re.compile(r"data-probe-[0-9a-f]{32}")
_UNKNOWN_KEYS: Final = re.compile(
    r"InvalidAccessKeyId|SignatureDoesNotMatch|AuthenticationFailed|Invalid Access Key|401 Unauthorized|InvalidToken"
)
_UNTRUSTED: Final = re.compile(r"certificate", re.IGNORECASE)
_T = TypeVar("_T")


def probe(
    url: str | PathLike[str], *, storage_options: Mapping[str, Any] | None = None, read_only: bool = False
) -> StoreFacts:
    """Find out whether a store can hold checkpoints at a URL or below it. Not collective: one process calls it.

    Listing and reading are tried. Unless `read_only` is set, so are writing, reading back and removing, and which
    changes the store refuses where another writer was first. Nothing is left behind. A bucket that keeps versions
    keeps those of the objects that were tried out, of a few bytes each.

    Args:
        url: a prefix in a bucket, or a folder: an fsspec URL or a path.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        read_only: nothing is written. The guards are then unknown, and left empty.

    Returns:
        What the store does: `Atomic` or `BestEffort` of each guard; versioning and object lock where an S3 store tells.

    Raises:
        EngineError: StorageDenied for credentials that are wrong or may too little, StorageUnavailable for a store or
            a bucket that is not there or is not trusted, and so on. The message says what was tried, and what to do.
    """
    try:
        store = open_store(fspath(url), storage_options)
    except Exception as error:
        raise translate(error) from error
    folder = f"data-probe-{secrets.token_hex(16)}"
    _try_reading(store, folder)
    guards = ("", "") if read_only else _try_writing(store, folder)
    versioning, lock = _told(store.url, storage_options or {})
    return StoreFacts(create_guard=guards[0], replace_guard=guards[1], versioning=versioning, object_lock=lock)


def _try_reading(store: Store, folder: str) -> None:
    """List and read where nothing is: a store says so only to those who may."""
    _tried(store, "list", "Allow listing (s3:ListBucket).", lambda: list(store.list(folder)))
    _tried(store, "read", "Allow reading (s3:GetObject).", lambda: _read(store, f"{folder}/probe"))


def _try_writing(store: Store, folder: str) -> tuple[str, str]:
    """Write an object, read it back, list it, and remove it; return the guards of creating and of replacing."""
    path = f"{folder}/probe"
    try:
        created, replaced = _written(store, path)
    except BaseException:
        _forget(store, path)
        raise
    _tried(store, "remove", "Allow removing (s3:DeleteObject).", lambda: store.delete([path]))
    _expect(_read(store, path) is None, store, "what was removed is still read")
    _remove_left(store, folder)
    return created, replaced


def _written(store: Store, path: str) -> tuple[str, str]:
    data, folder = secrets.token_bytes(64), path.partition("/")[0]
    allow = "Allow writing (s3:PutObject), or set read_only where nothing is to be saved."
    _tried(store, "write", allow, lambda: store.write(path, [data], part_size=len(data), parallel=1))
    back = _tried(store, "read", "Allow reading (s3:GetObject).", lambda: _read(store, path))
    _expect(back == data, store, "what was written is not what is read back")
    listed = _tried(store, "list", "Allow listing (s3:ListBucket).", lambda: list(store.list(folder)))
    _expect(path in {entry.path for entry in listed}, store, "what was written is in no listing")
    # A store that is asked about replacing is asked about creating on the way.
    replaced = _tried(store, "write", allow, lambda: store.guard("replace"))
    return _tried(store, "write", allow, lambda: store.guard("create")), replaced


def _expect(holds: bool, store: Store, otherwise: str) -> None:  # noqa: FBT001 - reads as what is expected
    if not holds:
        raise StorageUnavailable(f"{store.url}: {otherwise}: nothing can be saved to such a store")


def _tried(store: Store, what: str, allow: str, step: Callable[[], _T]) -> _T:
    """Take a step; where it fails, raise what that says of the store."""
    try:
        return step()
    except Exception as error:
        known = translate(error)
        raise _said(known, store.url, what, allow) from error


def _said(error: EngineError, url: str, what: str, allow: str) -> EngineError:
    """Return an error that says, before the store's own words, what is wrong in those of whoever has to mend it."""
    text = error.message
    if isinstance(error, StorageDenied):
        if _UNKNOWN_KEYS.search(text):
            return StorageDenied(f"{url}: the store does not accept these credentials: mend the keys. It says: {text}")
        return StorageDenied(f"{url}: these credentials may not {what} there. {allow} The store says: {text}")
    if is_missing_bucket(text):
        bucket = "/".join(url.split("/", 3)[:3])
        return StorageUnavailable(
            f"{bucket}: there is no such bucket: make it, or mend the URL. The store says: {text}"
        )
    if isinstance(error, StorageUnavailable):
        if _UNTRUSTED.search(text):
            return StorageUnavailable(
                f"{url}: the store's certificate is not trusted: give the authority that signed it as ca.crt. {text}"
            )
        return StorageUnavailable(
            f"{url}: the store can't be reached or does not answer: look at endpoint_url and the network. {text}"
        )
    return error


def _read(store: Store, path: str) -> bytes | None:
    try:
        return store.read(path).data
    except FileNotFoundError as error:
        if is_missing_file(error):
            return None
        raise


def _forget(store: Store, path: str) -> None:
    try:
        store.delete([path])
    except Exception as error:  # noqa: BLE001 - what failed first says more
        LOG.warning("%s/%s could not be removed: %s", store.url, path, translate(error))


def _remove_left(store: Store, own: str) -> None:
    """Remove what probes before this one have left, and the folders that a file system keeps."""
    try:
        folders = [name for name in store.folders() if _FOLDER.fullmatch(name) and name != own]
        if folders:
            before = store.now() - LEFT_AGE
            left = (entry for folder in folders for entry in store.list(folder))
            store.delete([each.path for each in left if each.modified and each.modified <= before])
        emptied = [each.path for each in store.empty_folders() if _FOLDER.fullmatch(each.path.removesuffix("/"))]
        store.delete([each for each in emptied if layout.is_own_folder(each.removesuffix("/"))])
        store.remove_root()
    except Exception as error:  # noqa: BLE001 - the store can hold checkpoints all the same
        LOG.warning("%s: what earlier probes left there could not be removed: %s", store.url, translate(error))


def _told(url: str, given: Mapping[str, Any]) -> tuple[str, str]:
    """Return what an S3 store tells of versioning and object lock; empty where it tells nothing."""
    if options.protocol_of(url) != "s3":
        return "", ""
    try:
        bucket, _ = options.place_of(url)
        client = botocore_s3.client(given)  # obstore can't ask for it
    except Exception as error:  # noqa: BLE001 - nothing depends on it
        LOG.info("%s: nothing is asked of its versioning: %s", url, error)
        return "", ""
    return _versioning(client, bucket), _lock(client, bucket)


def _versioning(client: Any, bucket: str) -> str:  # noqa: ANN401 - botocore has no types
    try:
        return str(client.get_bucket_versioning(Bucket=bucket).get("Status") or "Disabled")
    except Exception as error:  # noqa: BLE001 - as above
        LOG.info("%s tells nothing of versioning: %s", bucket, error)
        return ""


def _lock(client: Any, bucket: str) -> str:  # noqa: ANN401 - botocore has no types
    try:
        found = client.get_object_lock_configuration(Bucket=bucket).get("ObjectLockConfiguration") or {}
    except Exception as error:  # noqa: BLE001 - as above
        LOG.info("%s tells nothing of object lock: %s", bucket, error)
        return "Disabled" if "ObjectLockConfigurationNotFound" in str(error) else ""
    return "Enabled" if found.get("ObjectLockEnabled") == "Enabled" else "Disabled"
