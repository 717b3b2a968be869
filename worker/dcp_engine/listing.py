"""The committed checkpoints of a run, which stand side by side as `<prefix>/step-<n>`. Needs no torch."""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from os import PathLike, fspath
from typing import Any, Final

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.prefixes import STEP_FOLDER
from dcp_engine import pending
from dcp_engine.commit import protocol, snapshot, stock
from dcp_engine.errors import CheckpointCorrupted, CheckpointNotFound
from dcp_engine.format import layout
from dcp_engine.format.manifest import Manifest
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import Store
from dcp_engine.translate import translate

LOG: Final = logging.getLogger("dcp_engine")


def list_checkpoints(
    prefix: str | PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> list[CheckpointInfo]:
    """List what is committed under a prefix as `step-<n>`, as it is now. Not collective: one process calls it.

    It takes one listing of the folders' names, a thousand at a time, and one small read for each of them; no data file
    is listed. A save that is on its way, or was killed, is not among them, nor is one whose `.metadata` is damaged, of
    which a warning tells. A background save of this process ends first.

    Args:
        prefix: where the checkpoints of the run stand: an fsspec URL or a path.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.

    Returns:
        Each with its `url`, its `step`, its `save_id` (empty where stock DCP saved) and its `created_time`, the
        store's time of the commit; the highest step first. Nothing else of them is known without a read of each
        manifest. Empty where there is no such folder.

    Raises:
        EngineError: the prefix can't be opened, or its store can't be asked.
    """
    try:
        pending.wait_before(prefix)
        store = open_store(fspath(prefix), storage_options)
        names = [name for name in store.folders() if STEP_FOLDER.fullmatch(name)]
        with ThreadPoolExecutor(max(1, min(store.readers, len(names))), thread_name_prefix="dcp-list") as pool:
            found = list(pool.map(lambda name: _committed(store, name), names))
    except Exception as error:
        raise translate(error) from error
    return sorted(filter(None, found), key=lambda info: (info.step, info.url), reverse=True)


def latest(prefix: str | PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> CheckpointInfo | None:
    """Return the whole checkpoint of the highest step under a prefix. Not collective: one process calls it.

    Whole means that its manifest is as it was written, and that every data file has its size; bytes are compared by
    the load, or by `verify`. One that is not is passed over, with a warning.

    Args:
        prefix: where the checkpoints of the run stand, as `step-<n>`: an fsspec URL or a path.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.

    Returns:
        Its summary, with the step of its folder's name; None where there is none.

    Raises:
        EngineError: the prefix can't be opened, or its store can't be asked.
    """
    for found in list_checkpoints(prefix, storage_options=storage_options):
        try:
            return _whole(open_store(found.url, storage_options)).model_copy(update={"step": found.step})
        except CheckpointNotFound:
            continue  # it was removed since
        except CheckpointCorrupted as error:
            LOG.warning("%s is passed over: %s", found.url, error)
        except Exception as error:
            raise translate(error) from error
    return None


def whole(url: str | PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> CheckpointInfo:
    """Return what is committed at the URL, if it is whole, as `latest` has it. Not collective: one process calls it.

    Args:
        url: where the checkpoint stands: an fsspec URL or a path.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.

    Returns:
        Its summary.

    Raises:
        CheckpointNotFound: nothing is committed at the URL.
        CheckpointCorrupted: its manifest is not as it was written, or a data file is missing or has another size.
        EngineError: the URL can't be opened, or its store can't be asked.
    """
    try:
        pending.wait_before(url)
        return _whole(open_store(fspath(url), storage_options))
    except Exception as error:
        raise translate(error) from error


def _committed(store: Store, name: str) -> CheckpointInfo | None:
    url = f"{store.url.rstrip('/')}/{name}"
    try:
        found = protocol.committed(store, f"{name}/{layout.METADATA}")
    except CheckpointCorrupted as error:  # a link, or a folder
        LOG.warning("%s is passed over: %s", url, error)
        return None
    if found is None or found.damage:
        if found:
            LOG.warning("%s is passed over: %s", url, found.damage)
        return None
    return CheckpointInfo(url=url, save_id=found.save_id, step=int(name[5:]), created_time=found.modified)


def _whole(store: Store) -> CheckpointInfo:
    """Return what is committed there, if every file is there in full; one that is replaced meanwhile is read anew."""
    while True:
        found = snapshot.read(store)
        manifest = found.manifest(store.url)
        manifest.check()
        fault = _fault(store, manifest)
        if fault is None:
            return manifest.info(found.digest)
        if snapshot.read(store) == found:
            raise fault


def _fault(store: Store, manifest: Manifest) -> CheckpointCorrupted | None:
    if not manifest.save_id:
        lacking = [file.path for file in stock.sized(store, manifest).files if file.size < 0]
        return CheckpointCorrupted(lacking[0], "is missing") if lacking else None
    there = {entry.path: entry.size for entry in store.list(layout.data_folder(manifest.save_id))}
    for file in manifest.files:
        if (size := there.get(file.path)) != file.size:
            what = "is missing" if size is None else f"has {size} bytes, not {file.size}"
            return CheckpointCorrupted(file.path, what)
    return None
