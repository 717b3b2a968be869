"""One export to a folder of safetensors: shards, then config files, then the index. One process, on a CPU."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import torch

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine import failpoints
from dcp_engine.call_options import ExportOptions
from dcp_engine.commit import export_index
from dcp_engine.errors import CheckpointCorrupted, EngineError, InvalidOption, some
from dcp_engine.format import key_mapping, safetensors
from dcp_engine.format.key_mapping import KeyMapping
from dcp_engine.format.manifest import Manifest
from dcp_engine.format.safetensors import ModelIndex, StoredTensor
from dcp_engine.stores.protocol import Buffer, Store, weaker
from dcp_engine.transfer import config_files
from dcp_engine.transfer.block_digests import ends_of
from dcp_engine.transfer.file_plan import PlannedFile
from dcp_engine.transfer.load_transfer import LoadTransfer
from dcp_engine.transfer.meter import Meter
from dcp_engine.transfer.tensor_stream import Wanted, stream

LARGEST_BATCH: Final = 32 << 20
"""Bytes that are read at once, as far as the memory allows."""
_BELOW_MODEL: Final = {"model.*": "*"}


@dataclass(frozen=True)
class Chosen:
    """A tensor of the checkpoint, and what it becomes."""

    name: str
    """In the checkpoint."""
    entry: StoredTensor
    """In the export."""


def chosen(manifest: Manifest, options: ExportOptions) -> list[Chosen]:
    """Return what is exported, in the order of the checkpoint.

    Raises:
        StateMismatch: A glob chooses nothing.
        InvalidOption: A type has no form in safetensors, or two tensors get one name.
    """
    names = [name for name, tensor in manifest.tensors.items() if tensor.dtype is not None]
    names = key_mapping.chosen(names, options.select)
    keys = options.keys
    if keys is None:
        keys = _BELOW_MODEL if any(name.startswith("model.") for name in names) else {"*": "*"}
    if not names:
        raise InvalidOption(f"{manifest.url} holds no tensor, and safetensors hold nothing else")
    found = []
    unknown = []
    for name, new in KeyMapping(keys).renamed(names).items():
        if not safetensors.may_be_named(new):
            raise InvalidOption(f"keys: safetensors have no tensor named {new!a}; give {name!a} another name")
        there = manifest.tensors[name]
        dtype = cast(there.dtype or "", options.dtype)
        if dtype not in safetensors.CODES:
            unknown.append(f"{name} ({dtype})")
            continue
        found.append(Chosen(name, StoredTensor(new, dtype, tuple(there.shape))))
    if unknown:
        raise InvalidOption(f"safetensors have no type for {some(unknown)}; leave them out by select, or cast by dtype")
    return found


def cast(dtype: str, wanted: str | None) -> str:
    """Return the type that values of a type get: a floating-point one is cast, any other stays.

    Raises:
        InvalidOption: `wanted` is no floating-point type that safetensors have.
    """
    if wanted is None:
        return dtype
    if wanted not in safetensors.CODES or not getattr(torch, wanted).is_floating_point:
        known = [name for name in safetensors.CODES if getattr(torch, name).is_floating_point]
        raise InvalidOption(f"dtype: {wanted!r} is none of {', '.join(known)}")
    kind = getattr(torch, dtype, None)
    return wanted if isinstance(kind, torch.dtype) and kind.is_floating_point else dtype


class FolderExport:
    """One try of an export, from one save, under an id of its own."""

    def __init__(self, transfer: LoadTransfer, store: Store, options: ExportOptions, export_id: str) -> None:
        self.transfer = transfer
        self.store = store
        self.options = options
        self.export_id = export_id
        self.chosen = chosen(transfer.manifest, options)
        by_name = {each.entry.name: each for each in self.chosen}
        shards = safetensors.shards((each.entry for each in self.chosen), options.shard_bytes)
        self.shards: dict[str, list[Chosen]] = {
            safetensors.shard_name(export_id, number, len(shards)): [by_name[entry.name] for entry in shard]
            for number, shard in enumerate(shards, 1)
        }
        """File -> the tensors in it, in their order."""
        self.heads = {
            path: safetensors.header([each.entry for each in shard], {"format": "pt"})
            for path, shard in self.shards.items()
        }
        self.meter = Meter(sum(self._size(path) for path in self.shards), options.on_progress)

    def run(self) -> CheckpointInfo:
        """Write everything, the index last; what fails before that leaves no shard."""
        try:
            config = config_files.read(self.options, self.transfer.store.url, self.store.url)
            config_files.refuse_others(self.store, config)
            for path in self.shards:
                self._write(path)
            failpoints.reach("before manifest")
            self._check_sizes()
            config_files.write(self.store, config)
            guard, keep = self._guard(), self.store.keep_replaced
            config_files.need(self.store, config)
        except BaseException:
            self._remove()
            raise
        replaced = self._publish(keep)
        failpoints.reach("after commit")
        config_files.keep(self.store, config)
        if replaced and replaced.index.export_id and not keep:
            export_index.remove(self.store, [replaced.index.export_id])
        return self._info().model_copy(update={"conflict_guard": guard})

    def _publish(self, keep: timedelta) -> export_index.Found | None:
        """Write the index; what fails for sure leaves no shard. After a Ctrl-C nobody knows: the shards stay."""
        try:
            return export_index.publish(self.store, self._index(), overwrite=self.options.overwrite, keep=keep)
        except Exception as error:
            if not (isinstance(error, EngineError) and error.commit_unknown):
                self._remove()
            raise

    def _remove(self) -> None:
        export_index.remove(self.store, [self.export_id])

    def _guard(self) -> str:
        """Return whether the store itself refuses a second export; tried out before the commit, not after it."""
        create = self.store.guard("create")
        return weaker(create, self.store.guard("replace")) if self.options.overwrite else create

    def _write(self, path: str) -> None:
        limit = self.options.memory_limit
        part_size, parallel = PlannedFile(path, (), self._size(path), limit // 2).parts()
        self.store.write(path, self._pieces(path), part_size=part_size, parallel=parallel)

    def _pieces(self, path: str) -> Iterator[Buffer]:
        yield self.heads[path]
        self.meter.add(len(self.heads[path]))
        wanted = (Wanted(each.name, getattr(torch, each.entry.dtype)) for each in self.shards[path])
        for piece in stream(self.transfer, wanted, max(1, min(LARGEST_BATCH, self.options.memory_limit // 8))):
            yield piece.data
            self.meter.add(len(piece))
            failpoints.reach("mid-part")

    def _size(self, path: str) -> int:
        return len(self.heads[path]) + sum(each.entry.size for each in self.shards[path])

    def _check_sizes(self) -> None:
        """Make sure that every shard is there in full: somebody may have cleaned up too eagerly."""
        try:
            ends = ends_of(self.store, list(self.shards))
        except FileNotFoundError as error:
            raise CheckpointCorrupted(str(error), "was written, but is gone before the commit") from error
        for path, end in ends.items():
            if end.size != self._size(path):
                raise CheckpointCorrupted(path, f"has {end.size} bytes before the commit, not {self._size(path)}")

    def _index(self) -> ModelIndex:
        manifest = self.transfer.manifest
        return ModelIndex(
            files={each.entry.name: path for path, shard in self.shards.items() for each in shard},
            total_size=sum(each.entry.size for each in self.chosen),
            export_id=self.export_id,
            source={"saveId": manifest.save_id or None, "step": manifest.step},
            origin=self.options.origin,
            created_time=datetime.now(UTC),
        )

    def _info(self) -> CheckpointInfo:
        manifest = self.transfer.manifest
        return CheckpointInfo(
            url=self.store.url,
            save_id=self.export_id,
            step=manifest.step,
            bytes=sum(map(self._size, self.shards)),
            files=len(self.shards),
            tensors=len(self.chosen),
            world_size=manifest.world_size,
            torch_version=manifest.torch_version,
            created_time=datetime.now(UTC),
            origin=self.options.origin,
        )
