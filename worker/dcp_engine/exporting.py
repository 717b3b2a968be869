"""`export`: a checkpoint as other programs read it, written by one process on a CPU, in bounded memory."""

from collections.abc import Callable, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

import torch

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_engine import pending
from dcp_engine.call_options import ExportFormat, ExportOptions, ProgressCallback
from dcp_engine.commit import export_index, snapshot
from dcp_engine.errors import CheckpointReplaced
from dcp_engine.format import layout
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import MEMORY_LIMIT
from dcp_engine.transfer import exported_file
from dcp_engine.transfer.exported_folder import FolderExport
from dcp_engine.transfer.load_transfer import LoadTransfer
from dcp_engine.translate import translate


def export(  # noqa: PLR0913 - keyword-only, each with its default
    source: str | PathLike[str],
    destination: str | PathLike[str],
    *,
    format: ExportFormat = "safetensors",  # noqa: A002 - what it is called
    dtype: str | torch.dtype | None = None,
    keys: Mapping[str, str] | None = None,
    select: Sequence[str] = (),
    shard_bytes: int = 5_000_000_000,
    config_files: Sequence[str | PathLike[str]] = (),
    overwrite: bool = False,
    check: bool = True,
    memory_limit: int = MEMORY_LIMIT,
    source_options: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
    on_progress: ProgressCallback | None = None,
) -> CheckpointInfo:
    """Write a checkpoint as a folder of safetensors, or a file of `torch.save`. Not collective: one process calls it.

    The folder is what Hugging Face's libraries read: shards, and `model.safetensors.index.json`, which says which of
    them holds which tensor. The index is written last, in one step: whoever reads it finds the export before or this
    one, whole. What is replaced stays as long as the store keeps what is replaced, an hour in a bucket. A background
    save of this process ends first.

    The file is what `torch.load(weights_only=True)` reads: the state as it was saved, nested. It appears when whole.

    Args:
        source: URL or path of a committed checkpoint, also of one by stock DCP.
        destination: URL or path of the folder, or of the file.
        format: "safetensors" is a folder, "torch" a file.
        dtype: the type that floating-point values get, such as "bfloat16". A value that it can't hold is refused.
        keys: globs -> new names: `{"model.*": "*"}` takes `model.` off and leaves out what is not below it. A `*`
            stands for any text; each of the new name takes the text of one of the glob. The first glob that matches
            counts. If None: that very table, or all names as they are where nothing is below `model`, or in a file.
        select: which names are taken, before `keys`: names with all below them, or globs. A folder takes tensors alone.
        shard_bytes: bytes of values in one file of safetensors at most, unless one tensor is larger.
        config_files: paths or URLs of small files that are copied beside the index, such as `config.json`.
        overwrite: replace the model that an index at the destination names, or the file.
        check: compare every byte with its digest before it goes on.
        memory_limit: bytes that may be held for transfers.
        source_options: options of the source's store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.
        storage_options: those of the destination's store.
        origin: who exports; stands in the index. A torch file has no place for it.
        on_progress: called with (bytes done, bytes in all), one call at a time, until `export` returns; must be cheap.

    Returns:
        What was written: the export's id as `save_id` (a torch file has none), the source's step, bytes and files.

    Raises:
        CheckpointExists: a model stands at the destination, and `overwrite` is false; or other config files do.
        CheckpointNotFound: nothing is committed at the source.
        CheckpointCorrupted: bytes of the source are not what was saved; the error names the tensors and the file.
        StateMismatch: a glob chooses nothing, or a value does not fit `dtype`.
        InvalidOption: an option is none, or a tensor's type has no form in safetensors.
        EngineError: another subclass per cause. Whatever is raised, the destination's model is what it was, unless the
            error has `commit_unknown`.
    """
    options = ExportOptions(
        format=format,
        dtype=str(dtype).removeprefix("torch.") if dtype is not None else None,
        keys=keys,
        select=select,
        shard_bytes=shard_bytes,
        config_files=config_files,
        overwrite=overwrite,
        check=check,
        memory_limit=memory_limit,
        source_options=source_options,
        storage_options=storage_options,
        origin=origin,
        on_progress=on_progress,
    )
    try:
        options.refuse_wrong()
        pending.wait_before(source, raises=True)
        return _exported(fspath(source), fspath(destination), options)
    except Exception as error:
        raise translate(error) from error


def _exported(source: str, destination: str, options: ExportOptions) -> CheckpointInfo:
    once = _file(destination, options) if options.format == "torch" else _folder(destination, options)
    reading = open_store(source, options.source_options)
    try:
        return once(LoadTransfer(reading, options.of_load(), snapshot.read(reading)))
    except CheckpointReplaced:
        # As a load, it starts over, once, with the new one.
        return once(LoadTransfer(reading, options.of_load(), snapshot.read(reading)))


def _folder(destination: str, options: ExportOptions) -> Callable[[LoadTransfer], CheckpointInfo]:
    store = open_store(destination, options.storage_options)
    export_index.refuse(store, overwrite=options.overwrite)
    return lambda transfer: FolderExport(transfer, store, options, layout.new_save_id()).run()


def _file(destination: str, options: ExportOptions) -> Callable[[LoadTransfer], CheckpointInfo]:
    folder, name = layout.file_place(destination)
    store = open_store(folder, options.storage_options)
    exported_file.refuse(store, name, overwrite=options.overwrite)
    return lambda transfer: exported_file.FileExport(transfer, store, name, options).run()
