"""A file of `torch.save`, looked at as a checkpoint: a tensor lies where its storage does. Anybody may have made it.

Its directory, its local headers and its pickle are read, and nothing else of it. A process of its own looks at the
pickle first (`sandbox`), as at any entry of a checkpoint. Then torch reads it, restricted, with storages that have no
memory. So each rank reads the bytes of its own shards, straight from the storages.
"""

import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod
from operator import mul
from typing import Any, Final

import torch
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlanner, ReadItem

from dcp_engine.commit import snapshot, torch_container
from dcp_engine.commit.safetensors_folder import read_range
from dcp_engine.errors import CheckpointCorrupted, InvalidOption
from dcp_engine.format import sandbox
from dcp_engine.format.key_mapping import KeyMapping
from dcp_engine.format.manifest import Chunk, DataFile, Manifest, Tensor
from dcp_engine.format.nested import need_bounded
from dcp_engine.format.torch_zip_read import ListedMember
from dcp_engine.stores.protocol import Blob, Store
from dcp_engine.torch_internals import FakeTensorMode, flatten_state_dict, record_offset, tree_leaves
from dcp_engine.transfer import decode, ranges
from dcp_engine.transfer.conversion import short
from dcp_engine.transfer.load_transfer import LoadTransfer, reads_of

_LARGEST: Final = 64 << 20
"""Bytes of a pickle, or of a directory, that are read: a tensor takes some 300 of them."""
_TIMES: Final = 4
_FREE: Final = 64 << 20
"""Bytes that tensors may have beyond _TIMES those of the file: they may share storages, or repeat their values."""
_FREE_NAMES: Final = 4 << 20
"""What a state may say beyond _TIMES the bytes of its pickle, counted as `nested` does."""
_MOST_CHUNKS: Final = 100_000
"""Pieces without a gap that a tensor may have: of one that is cut out of a larger one, or strided."""
_MOST_TOGETHER: Final = 1_000_000
"""Those that all tensors of a file may have, the first of each left out: many may be strided over one storage."""


@dataclass(frozen=True)
class TorchSnapshot(snapshot.Snapshot):
    """One torch file, as rank 0 read it for all ranks."""

    objects: Mapping[str, Any] = field(default_factory=dict)
    """The values of what is no tensor."""
    orders: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Tensors that do not lie in row-major order: their dimensions in the order in which they lie."""


def read(
    store: Store, name: str, keys: Mapping[str, str] | None, allow: Sequence[type], *, below: str = ""
) -> TorchSnapshot:
    """Return what a file holds, and where.

    Args:
        store: The folder that the file lies in.
        name: The file's.
        keys: Globs over the names in the file -> the entries' names; None: as they are, nested.
        allow: Classes, beyond the common ones, that objects in the file may be of.
        below: In place of keys: take what is below this key, or where the file has none put all of it there.

    Raises:
        CheckpointNotFound: There is no such file.
        CheckpointCorrupted: It is none that torch writes, or can't be.
        InvalidOption: Its tensors can't be loaded as they are.
    """
    end, directory = torch_container.directory(store, name)
    try:
        places = torch_container.places(store, name, directory)
        state = _state(store, name, places, allow)
        if below:
            nested = isinstance(state.value, dict) and isinstance(state.value.get(below), dict)
            keys = {f"{below}.*" if nested else "*": f"{below}.*"}
        return _described(state, name, end, keys)
    except ValueError as error:
        raise CheckpointCorrupted(name, f"is no file that torch.save writes: {error}") from error


class TorchFileTransfer(LoadTransfer):
    """A load from a torch file."""

    def __init__(self, store: Store, options: Any, found: TorchSnapshot, name: str) -> None:  # noqa: ANN401
        super().__init__(store, options, found, name)
        self._found = found

    def _need_apart(self, places: Sequence[tuple[str, Chunk]], files: Sequence[DataFile]) -> None:
        """Let tensors share a storage, as tied ones do; that they lie in the file was seen when it was looked at."""

    def _reads(self, item: ReadItem, chunk: Chunk, target: torch.Tensor) -> Iterator[ranges.ByteRange]:
        order = self._found.orders.get(item.storage_index.fqn)
        if order is None:
            return super()._reads(item, chunk, target)

        def turned(sizes: Sequence[int]) -> torch.Size:
            return torch.Size(sizes[dim] for dim in order)

        lying = replace(item, storage_offsets=turned(item.storage_offsets), lengths=turned(item.lengths))
        where = Chunk(chunk.offsets, tuple(turned(chunk.sizes)), *chunk[2:])
        return reads_of(lying, where, target.permute(order), self.manifest)

    def _decode(self, pickled: Sequence[tuple[ReadItem, Chunk]], planner: LoadPlanner, *_: object) -> None:
        for item, _chunk in pickled:
            assert item.type == LoadItemType.BYTE_IO  # noqa: S101 - tensors lie in the storages
            decode.hand_over(item, self._found.objects[item.storage_index.fqn], planner)


@dataclass(frozen=True)
class _State:
    """What a file's pickle says."""

    value: object
    """Nested, with tensors that have no memory."""
    starts: Mapping[int, int]
    """What torch notes of a storage -> its first byte in the file."""


def _state(store: Store, name: str, places: Mapping[str, tuple[ListedMember, int]], allow: Sequence[type]) -> _State:
    if "data.pkl" not in places:
        raise ValueError("it holds no data.pkl")

    def small(member: str) -> bytes:
        listed, at = places[member]
        if listed.size > _LARGEST:
            raise ValueError(f"its {member} has {listed.size} bytes, more than any")
        return read_range(store, name, at, listed.size)

    if "byteorder" in places and small("byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")
    pickled = small("data.pkl")
    storages = {member: place for member, place in places.items() if member.startswith("data/")}
    sizes = tuple((member.removeprefix("data/"), listed.size) for member, (listed, _) in storages.items())
    try:
        sandbox.examine([sandbox.Pickled(pickled, sizes)])
    except sandbox.Harmful as error:
        raise ValueError(str(error)) from error
    stream, noted = _without_values(pickled, storages)
    try:
        with FakeTensorMode():
            value = decode.decode("its pickle", name, stream, allow)
    except decode.ClassesRefused as error:
        raise InvalidOption(f"{name} {error}; if you trust it, pass the classes in allow") from error
    need_bounded(value, _FREE_NAMES + _TIMES * len(pickled))
    return _State(value, {note: storages[member][1] for note, member in noted.items()})


def _without_values(pickled: bytes, storages: Iterable[str]) -> tuple[io.BytesIO, dict[int, str]]:
    """Return a container with this pickle whose storages are empty, and where in it each of them is."""
    stream = io.BytesIO()
    noted = {}
    with zipfile.ZipFile(stream, "w") as made:
        made.writestr("archive/data.pkl", pickled)
        made.writestr("archive/byteorder", "little")
        made.writestr("archive/version", "3\n")
        for member in storages:
            made.writestr(f"archive/{member}", b"")
            noted[stream.tell()] = member
    stream.seek(0)
    return stream, noted


def _described(state: _State, name: str, end: Blob, keys: Mapping[str, str] | None) -> TorchSnapshot:
    """Return the entries as a save of the same state would name them."""
    if not isinstance(state.value, dict):
        raise InvalidOption(f"{name} holds a {type(state.value).__name__}; a dict of tensors can be loaded")
    flat, paths = flatten_state_dict(state.value)
    names = KeyMapping(keys).renamed(flat) if keys is not None else {each: each for each in flat}
    tensors: dict[str, Tensor] = {}
    objects: dict[str, Any] = {}
    orders: dict[str, tuple[int, ...]] = {}
    total, left = 0, _MOST_TOGETHER
    most = _FREE + _TIMES * end.size
    for old, new in names.items():
        value = flat[old]
        path = paths[old] if keys is None and paths[old] != (old,) else ()
        if not isinstance(value, torch.Tensor):
            if any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(value)):
                raise InvalidOption(f"{name} holds tensors within {old}, a {type(value).__name__}, where none is read")
            objects[new] = value
            tensors[new] = Tensor(None, (), (Chunk((), (), 0, 0, 0, None),), path)
            continue
        total += value.numel() * value.itemsize
        if total > most:
            raise ValueError(f"its tensors would have more than {most} bytes, and it has {end.size}")
        lying = _lying(old, value, state.starts, min(_MOST_CHUNKS, left + 1))
        left -= max(0, len(lying.chunks) - 1)
        if lying.order is not None:
            orders[new] = lying.order
        tensors[new] = Tensor(short(value.dtype), tuple(value.shape), lying.chunks, path)
    manifest = Manifest(files=(DataFile(name, 0),), tensors=tensors)
    return TorchSnapshot(None, manifest.encode(), end.version, objects, orders)


@dataclass(frozen=True)
class _Lying:
    """Where a tensor lies: as chunks without a gap, each with its dimensions in one order."""

    chunks: tuple[Chunk, ...]
    order: tuple[int, ...] | None


def _lying(name: str, tensor: torch.Tensor, starts: Mapping[int, int], most: int) -> _Lying:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        raise InvalidOption(f"{name} is no plain tensor, and can't be read from a torch file: save a plain one")
    shape, strides = tuple(tensor.shape), tensor.stride()
    first = starts[record_offset(tensor)] + tensor.storage_offset() * tensor.itemsize
    # What repeats its values has a stride of 0: no run of values goes along it.
    order = tuple(sorted(range(len(shape)), key=lambda dim: (strides[dim] != 0, -strides[dim], dim)))
    chunks = []
    for offsets, sizes in _dense(shape, strides, order):
        at = first + sum(map(mul, offsets, strides)) * tensor.itemsize
        length = prod(sizes) * tensor.itemsize
        chunks.append(Chunk(offsets, sizes, 0, at, length, 0))
        if len(chunks) > most:
            raise InvalidOption(f"{name} lies in too many pieces: save it with .contiguous()")
    return _Lying(tuple(chunks), None if order == tuple(range(len(shape))) else order)


def _dense(
    shape: tuple[int, ...], strides: tuple[int, ...], order: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Cut a strided tensor into boxes whose values lie without a gap; give offsets and sizes of each."""
    lead = [dim for dim in order if shape[dim] != 1]
    step = 1
    if 0 in shape:
        lead = []
    while lead and strides[lead[-1]] == step:
        step *= shape[lead.pop()]
    sizes = tuple([1 if dim in lead else size for dim, size in enumerate(shape)])
    for place in product(*(range(shape[dim]) for dim in lead)):
        at = dict(zip(lead, place, strict=True))
        yield tuple(at.get(dim, 0) for dim in range(len(shape))), sizes
