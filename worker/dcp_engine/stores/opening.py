"""Which store serves a URL."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from dcp_contract.storage_options import STORAGE_OPTIONS
from dcp_engine.errors import InvalidOption
from dcp_engine.stores import options
from dcp_engine.stores.protocol import Store
from dcp_engine.translate import translate


def open_store(url: str, storage_options: Mapping[str, Any] | None = None) -> Store:
    """Return the store that serves `url`: local files, an object store through obstore, else fsspec."""
    given = dict(storage_options or {})
    protocol = options.protocol_of(url)
    options.check(protocol, given)
    keep = options.kept(given) if protocol in STORAGE_OPTIONS else None
    store = _opened(url, protocol, given)
    if keep is not None:
        store.keep_replaced = keep
    return store


def _opened(url: str, protocol: str, given: Mapping[str, Any]) -> Store:
    try:
        if protocol == "file":
            from dcp_engine.stores.local_store import LocalStore  # noqa: PLC0415 - each store loads what it needs

            return LocalStore(url)
        if protocol in options.OBJECT_PROTOCOLS:
            from dcp_engine.stores.object_store import ObjectStore  # noqa: PLC0415

            return ObjectStore(url, options.for_obstore(protocol, given))
        return _through_fsspec(url, protocol, given)
    except InvalidOption:
        raise
    except (ImportError, ValueError) as error:
        raise InvalidOption(f"{url}: {error}") from error
    except Exception as error:
        raise translate(error) from error


def only_one(url: str | PathLike[str] | None, path: str | PathLike[str] | None) -> str:
    """Return the URL that a reader or a writer is given by one of two names."""
    given = [fspath(each) for each in (url, path) if each is not None]
    if len(given) != 1:
        raise InvalidOption("write one of url and path, which is the same by stock DCP's name")
    return given[0]


def _through_fsspec(url: str, protocol: str, given: Mapping[str, Any]) -> Store:
    try:
        from dcp_engine.stores.fsspec_store import FsspecStore  # noqa: PLC0415
    except ImportError as error:
        raise InvalidOption.not_installed(f"{protocol}://", "fsspec") from error
    return FsspecStore(url, given)


def can_open(url: str) -> bool:
    """Tell whether there is a store for such a URL: DCP's `validate_checkpoint_id`."""
    try:
        open_store(url)
    except InvalidOption:
        return False
    return True
