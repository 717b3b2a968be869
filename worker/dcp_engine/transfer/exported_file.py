"""One export to a file of `torch.save`: streamed, and there once it is whole. One process, on a CPU."""

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, ReadItem

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict
from dcp_engine import failpoints
from dcp_engine.call_options import ExportOptions
from dcp_engine.errors import CheckpointCorrupted, CheckpointExists, InvalidOption
from dcp_engine.format import key_mapping
from dcp_engine.format.digest import Bytes
from dcp_engine.format.key_mapping import KeyMapping
from dcp_engine.format.nested import Nest
from dcp_engine.format.torch_archive import TorchArchive
from dcp_engine.format.torch_zip_write import PickledTensor
from dcp_engine.stores.protocol import Buffer, Store, WritesWhole
from dcp_engine.torch_internals import OBJ_PATH
from dcp_engine.transfer.exported_folder import LARGEST_BATCH, cast
from dcp_engine.transfer.file_plan import PlannedFile
from dcp_engine.transfer.load_transfer import LoadTransfer
from dcp_engine.transfer.meter import Meter
from dcp_engine.transfer.tensor_stream import SlabPlanner, Wanted, stream
from dcp_engine.translate import is_missing_file, translate

_NOWHERE: Final = torch.Size((0,))


def refuse(store: Store, name: str, *, overwrite: bool) -> None:
    """Refuse a destination before any byte moves.

    Raises:
        CheckpointExists: A file stands there, and `overwrite` is false.
        InvalidOption: In this store a file would show before it is whole.
    """
    if not isinstance(store, WritesWhole):
        raise InvalidOption(
            f"{store.url}: through fsspec a file may show before it is whole; export to a file system or a bucket"
        )
    if overwrite:
        return
    try:
        store.read(name, tail=1)
    except FileNotFoundError as error:
        if is_missing_file(error):
            return
        raise
    raise _conflict(store, name)


class FileExport:
    """One try of an export, from one save."""

    def __init__(self, transfer: LoadTransfer, store: Store, name: str, options: ExportOptions) -> None:
        self.transfer = transfer
        self.store = store
        self.name = name
        self.options = options
        self._drawn = False
        """Whether the store has all of the file, and may show it."""
        entries = transfer.manifest.tensors
        self.paths = _paths(transfer, options)
        """Entry -> its place in the file's state dict."""
        self.tensors: dict[str, PickledTensor] = {}
        for entry in self.paths:
            if (dtype := entries[entry].dtype) is not None:
                kind = getattr(torch, cast(dtype, options.dtype))
                self.tensors[entry] = PickledTensor(kind, torch.Size(entries[entry].shape))

    def run(self) -> CheckpointInfo:
        """Write the file; what fails before it is whole leaves none."""
        values: dict[str, Any] = {**self.tensors, **self._objects()}
        nest = Nest(len(self.transfer.manifest.tensors))
        try:
            for entry, path in self.paths.items():
                nest.put(path, values[entry])
        except ValueError as error:
            raise CheckpointCorrupted(self.transfer.manifest.source, str(error)) from error
        archive = TorchArchive(nest.state, list(self.tensors.values()))
        limit = self.options.memory_limit
        part_size, parallel = PlannedFile(self.name, (), archive.size, limit // 2).parts()
        assert isinstance(self.store, WritesWhole)  # noqa: S101 - `refuse` saw to it
        try:
            guard = self.store.write_whole(
                self.name,
                self._pieces(archive),
                part_size=part_size,
                parallel=parallel,
                overwrite=self.options.overwrite,
            )
        except FileExistsError:
            raise _conflict(self.store, self.name) from None
        except Exception as error:
            known = translate(error, url=self.store.url)
            if self._drawn:
                known.message += f" (it is not known whether {self.name} is there)"
                known.commit_unknown = True
            raise known from error
        manifest = self.transfer.manifest
        return CheckpointInfo(
            url=f"{self.store.url.rstrip('/')}/{self.name}",
            step=manifest.step,
            bytes=archive.size,
            files=1,
            tensors=len(self.tensors),
            world_size=manifest.world_size,
            torch_version=manifest.torch_version,
            conflict_guard=guard,
        )

    def _pieces(self, archive: TorchArchive) -> Iterator[Buffer]:
        meter = Meter(archive.size, self.options.on_progress)
        for piece in archive.pieces(self._values()):
            yield piece.data
            meter.add(len(piece))
            failpoints.reach("mid-part")
        self._drawn = True

    def _values(self) -> Iterator[Bytes]:
        wanted = (Wanted(entry, tensor.dtype) for entry, tensor in self.tensors.items())
        return stream(self.transfer, wanted, max(1, min(LARGEST_BATCH, self.options.memory_limit // 8)))

    def _objects(self) -> dict[str, Any]:
        """Read what is no tensor."""
        names = [entry for entry in self.paths if entry not in self.tensors]
        found = _ObjectPlanner()
        self.transfer.read(LoadPlan([_whole(entry) for entry in names]), found)
        return found.values


class _ObjectPlanner(SlabPlanner):
    """Takes the values of entries that are no tensors."""

    def __init__(self) -> None:
        super().__init__({})
        self.values: dict[str, Any] = {}

    def load_value(self, read_item: ReadItem, value: object) -> None:
        """Keep a value."""
        self.values[read_item.dest_index.fqn] = value


def _whole(entry: str) -> ReadItem:
    index = MetadataIndex(entry)
    return ReadItem(LoadItemType.BYTE_IO, index, _NOWHERE, index, _NOWHERE, _NOWHERE)


def _paths(transfer: LoadTransfer, options: ExportOptions) -> dict[str, OBJ_PATH]:
    """Return the entries that are exported, each with its place; nested as they were saved where no new names are."""
    manifest = transfer.manifest
    names = key_mapping.chosen(list(manifest.tensors), options.select)
    if options.keys is not None:
        return {entry: (new,) for entry, new in KeyMapping(options.keys).renamed(names).items()}
    return {entry: manifest.tensors[entry].path or (entry,) for entry in names}


def _conflict(store: Store, name: str) -> CheckpointExists:
    url = f"{store.url.rstrip('/')}/{name}"
    return CheckpointExists(url, Conflict(message="a file stands there"))
