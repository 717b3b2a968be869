"""Looking at a checkpoint without loading it: who is committed, may an operation start. Needs no torch."""

from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_engine import pending
from dcp_engine.commit import export_index, protocol, safetensors_folder, snapshot, torch_container
from dcp_engine.commit.stock import sized
from dcp_engine.errors import CheckpointCorrupted, EngineError, StorageDenied
from dcp_engine.format import layout
from dcp_engine.format.manifest import Manifest
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import Store
from dcp_engine.translate import is_missing_file, translate


def find(url: str | PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> CheckpointInfo | None:
    """Find out what is committed at the URL, by one or two small reads. Not collective: one process calls it.

    A background save of this process ends first.

    Args:
        url: where the checkpoint stands: an fsspec URL or a path.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.

    Returns:
        The checkpoint's summary, or None if nothing is committed.

    Raises:
        CheckpointCorrupted: something is committed, and its `.metadata` is damaged.
        EngineError: the URL can't be opened, or its store can't be asked.
    """
    try:
        pending.wait_before(url)
        store = open_store(fspath(url), storage_options)
        found = protocol.committed(store)
        return protocol.describe(store, _intact(found)) if found else None
    except Exception as error:
        raise _translated(error, url) from error


def inspect(url: str | PathLike[str], *, storage_options: Mapping[str, Any] | None = None) -> Manifest:
    """Return the manifest of the checkpoint at the URL: its files and tensors. Not collective: one process calls it.

    A stock checkpoint has none; one is put together from its `.metadata`, which is read in a process of its own. A
    background save of this process ends first.

    Args:
        url: where the checkpoint stands: an fsspec URL or a path.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.

    Returns:
        The manifest; offsets and sizes in it are bytes, shapes are elements.

    Raises:
        CheckpointNotFound: nothing is committed at the URL.
        CheckpointCorrupted: its `.metadata` or its manifest is damaged.
        EngineError: the URL can't be opened, or its store can't be asked.
    """
    try:
        pending.wait_before(url)
        store = open_store(fspath(url), storage_options)
        found = snapshot.read(store)
        manifest = found.manifest(store.url)
        manifest.check()
        return manifest if found.trailer else sized(store, manifest)
    except Exception as error:
        raise _translated(error, url) from error


def preflight_save(
    url: str | PathLike[str],
    *,
    overwrite: bool = False,
    storage_options: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
) -> CheckpointInfo | None:
    """Find out, before any rank starts, whether a save can work. Not collective: one process calls it.

    The store takes a new file and gives it up again, and nothing is committed at the URL unless `overwrite` is set.

    Args:
        url: where the checkpoint goes: an fsspec URL or a path.
        overwrite: the save may replace what is committed there.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        origin: who is about to save.

    Returns:
        The earlier commit of the same `origin` if there is one, since then there is nothing left to do; else None.

    Raises:
        EngineError: CheckpointExists, StorageDenied, StorageUnavailable and so on.
    """
    try:
        pending.wait_before(url)
        store = open_store(fspath(url), storage_options)
        found, info = _described(store)
    except Exception as error:
        raise _translated(error, url) from error
    if info and origin and origin.made(info.origin):
        return info
    if found and not overwrite:
        raise protocol.conflict(store, found)
    _try_out(store, overwrite=overwrite)
    return None


def preflight_export(
    source: str | PathLike[str],
    destination: str | PathLike[str],
    *,
    overwrite: bool = False,
    source_options: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
) -> CheckpointInfo | None:
    """Find out, before torch is loaded, whether an export can work. Not collective: one process calls it.

    Args:
        source: URL or path of the checkpoint.
        destination: URL or path of the folder where the export goes. The store takes a new file and gives it up again.
        overwrite: the export may replace the model that stands there.
        source_options: options of the source's store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        storage_options: those of the destination's store.
        origin: who is about to export.

    Returns:
        The earlier export of the same `origin` if it stands there, since then there is nothing left to do; else None.

    Raises:
        EngineError: CheckpointNotFound, CheckpointExists, StorageDenied and so on.
    """
    try:
        store = open_store(fspath(destination), storage_options)
        there = export_index.found(store)
        if there and origin and origin.made(there.index.origin):
            return export_index.describe(store, there)
        export_index.refuse(store, overwrite=overwrite)
    except Exception as error:
        raise _translated(error, destination) from error
    preflight_load(source, storage_options=source_options)
    _try_out(store, overwrite=overwrite)
    return None


def preflight_load(
    url: str | PathLike[str], *, storage_options: Mapping[str, Any] | None = None
) -> CheckpointInfo | None:
    """Find out, before any rank starts, whether a load or a verify can work. Not collective: one process calls it.

    Args:
        url: where the checkpoint stands: an fsspec URL or a path.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.

    Returns:
        What is committed at the URL.

    Raises:
        EngineError: CheckpointNotFound, CheckpointCorrupted, StorageDenied, StorageUnavailable and so on.
    """
    try:
        pending.wait_before(url)
        store = open_store(fspath(url), storage_options)
        found, info = _described(store)
    except NotADirectoryError as error:
        raise snapshot.not_found(store, error) from error
    except Exception as error:
        raise _translated(error, url) from error
    if found is None:
        raise snapshot.not_found(store)
    _intact(found)
    return info


def preflight_import(url: str | PathLike[str], *, file: bool, storage_options: Mapping[str, Any] | None = None) -> None:
    """Find out, before any rank starts, whether there is something to import. Not collective: one process calls it.

    Args:
        url: a folder of safetensors, or a file of `torch.save`: an fsspec URL or a path.
        file: whether it is the file.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.

    Raises:
        EngineError: CheckpointNotFound, CheckpointCorrupted, StorageDenied, StorageUnavailable and so on.
    """
    try:
        if not file:
            safetensors_folder.read(open_store(fspath(url), storage_options), None)
            return
        folder, name = layout.file_place(fspath(url))
        torch_container.directory(open_store(folder, storage_options), name)
    except Exception as error:
        raise _translated(error, url) from error


def _described(store: Store) -> tuple[protocol.Committed | None, CheckpointInfo | None]:
    found = protocol.committed(store)
    return found, protocol.describe(store, found) if found else None


def _intact(found: protocol.Committed) -> protocol.Committed:
    """Refuse a checkpoint that is to be read and is damaged."""
    if found.damage:
        raise found.damage
    return found


def _try_out(store: Store, *, overwrite: bool) -> None:
    """Create a file and delete it. Without `overwrite` a store that forbids deletes will do."""
    path = f"{layout.data_folder(layout.new_save_id())}/probe"
    try:
        store.create(path, b"")
    except Exception as error:
        raise _translated(error, store.url) from error
    try:
        store.delete([path])
    except Exception as error:
        known = _translated(error, store.url)
        if overwrite or not isinstance(known, StorageDenied):
            raise known from error
        protocol.LOG.warning("%s: the store forbids deletes; a failed save would leave its files", store.url)


def _translated(error: Exception, url: str | PathLike[str]) -> EngineError:
    if is_missing_file(error):
        return CheckpointCorrupted(fspath(url), f"a file is missing: {error}")
    return translate(error)
