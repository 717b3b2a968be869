"""Small files that go along with an export: read by path or URL, and written beside the index before it.

Nobody can write them in one step with the index. So of two exports at once each looks again: whoever has written over a
file puts it back if a model came to stand there meanwhile, and whoever has committed puts back what is its own.
"""

import logging
from collections.abc import Mapping
from os import fspath
from pathlib import Path
from typing import Any, Final

from dcp_contract.checkpoint_info import Conflict
from dcp_engine.call_options import ExportOptions
from dcp_engine.commit import export_index
from dcp_engine.errors import CheckpointExists, InvalidOption
from dcp_engine.format import layout, safetensors
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.options import protocol_of
from dcp_engine.stores.protocol import Store
from dcp_engine.translate import translate

LOG: Final = logging.getLogger("dcp_engine")
_LARGEST: Final = 256 << 20
"""Bytes of one; a tokenizer has some tens of MiB."""
_OTHER_WEIGHTS: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json")
"""Of a model in another form, to which the config files beside it belong, too."""


def read(options: ExportOptions, source: str, destination: str) -> dict[str, bytes]:
    """Return name -> bytes of the files that the options name.

    Raises:
        InvalidOption: One is not there, is too large, or has a name that an export uses itself.
    """
    found: dict[str, bytes] = {}
    for given in options.config_files:
        url = fspath(given)
        name = url.rstrip("/").rpartition("/")[2]
        weights = name in {safetensors.INDEX, layout.METADATA} or name.endswith((".safetensors", ".distcp"))
        if not name or weights:
            raise InvalidOption(f"config_files: {url} has no name of a config file")
        if name in found:
            raise InvalidOption(f"config_files: two of them are named {name}")
        try:
            found[name] = _read(url, name, _options_for(url, options, source, destination))
        except FileNotFoundError as error:
            raise InvalidOption(f"config_files: {url} is not there") from error
        if len(found[name]) > _LARGEST:
            raise InvalidOption(f"config_files: {url} has more than {_LARGEST} bytes")
    return found


def refuse_others(store: Store, files: Mapping[str, bytes]) -> None:
    """Refuse files that differ from those of a model that stands there: both could not change in one step.

    Raises:
        CheckpointExists: One does.
    """
    if not files or not _model_stands(store):
        return
    for name, data in files.items():
        try:
            there = store.read(name)
        except FileNotFoundError:
            continue
        if there.data != data:
            raise _other(store, name)


def write(store: Store, files: Mapping[str, bytes]) -> None:
    """Write the files; one that is there already stays.

    Raises:
        CheckpointExists: One is there with other bytes, and a model that it belongs to.
    """
    for name, data in files.items():
        try:
            store.create(name, data)
        except FileExistsError:
            there = store.read(name)
            if there.data == data:
                continue
            if _model_stands(store):
                raise _other(store, name) from None
            store.replace(name, data, there.version)
            if export_index.found(store) is not None:  # committed meanwhile, with the file that stood there
                store.replace(name, there.data, store.read(name).version)
                raise _other(store, name) from None


def need(store: Store, files: Mapping[str, bytes]) -> None:
    """Make sure, just before the commit, that the files are those of this export.

    Raises:
        CheckpointExists: Another export has written over one.
    """
    for name, data in files.items():
        if store.read(name).data != data:
            what = f"{name} of another export that is under way; export again, or to another URL"
            raise CheckpointExists(store.url, Conflict(message=what))


def keep(store: Store, files: Mapping[str, bytes]) -> None:
    """Put back, after the commit, what another export has written over; a failure is a warning."""
    for name, data in files.items():
        try:
            there = store.read(name)
            if there.data != data:
                store.replace(name, data, there.version)
        except Exception as error:  # noqa: BLE001 - the model is committed
            LOG.warning("%s: %s may be that of another export: %s", store.url, name, translate(error))


def _model_stands(store: Store) -> bool:
    """Tell whether a model stands there, whoever wrote it, and in whatever form."""
    return export_index.found(store) is not None or any(_is_there(store, name) for name in _OTHER_WEIGHTS)


def _is_there(store: Store, name: str) -> bool:
    try:
        store.read(name, tail=1)
    except FileNotFoundError:
        return False
    return True


def _other(store: Store, name: str) -> CheckpointExists:
    what = (
        f"a model whose {name} is another one, and both can't be replaced in one step (export to another URL, or "
        "leave it out of config_files)"
    )
    return CheckpointExists(store.url, Conflict(message=what))


def _read(url: str, name: str, options: Mapping[str, Any] | None) -> bytes:
    if "://" not in url:
        return Path(url).read_bytes()  # links are followed: a download cache consists of them
    store = open_store(url.rstrip("/").rpartition("/")[0], options)
    return store.read(name, tail=_LARGEST + 1).data


def _options_for(url: str, options: ExportOptions, source: str, destination: str) -> Mapping[str, Any] | None:
    """Return the options of the store that a config file is in: the source's or the destination's, by the protocol."""
    for other, given in ((source, options.source_options), (destination, options.storage_options)):
        if protocol_of(url) == protocol_of(other):
            return given
    return None
