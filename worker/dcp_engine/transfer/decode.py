"""Items that only `torch.load` can decode: state dict entries that are no tensors, and tensors that stock DCP saved.

An item's bytes are decoded once, with `weights_only=True`, and only after their container and their pickle were found
to do no harm. A planner of DCP, which would decode them again, unrestricted, gets bytes that are made of the value.
"""

import io
import pickle
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import torch
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlanner, ReadItem

from dcp_engine.errors import ALLOW, CheckpointCorrupted, StateMismatch, some
from dcp_engine.format import safe_classes, sandbox, torch_zip_read
from dcp_engine.format.manifest import Chunk
from dcp_engine.torch_internals import narrow_tensor_by_index
from dcp_engine.transfer import conversion, ranges, tensors

_ALLOWING: Final = threading.Lock()
"""What torch allows holds for the whole process: a thread that is done takes away what another one allowed too."""
_UNREADABLE: Final = re.compile(r"(?:GLOBAL:? |but got <class ')([\w.]+)")
"""How torch's restricted unpickler names a class that it can't fill, and `arrays` a type."""
_SAID: Final = re.compile(r"WeightsUnpickler error:\s*(.*?)\s*(?:Check the documentation|$)", re.DOTALL)
"""What of torch's page of advice says what is wrong."""
_SMALL: Final = 96
"""Bytes of a pickle that calls nothing and can't do harm: tuples in tuples take three each."""
_KEPT: Final = 4096
"""Bytes of a pickle that is remembered as harmless: those of tensors of one shape are the same."""


class Item:
    """One item, with memory for its bytes."""

    def __init__(self, read: ReadItem, file: str, chunk: Chunk) -> None:
        self.read = read
        self.file = file
        self.chunk = chunk
        self.data = np.empty(chunk.length, dtype=np.uint8)

    def reads(self) -> Iterator[ranges.ByteRange]:
        """Give the reads that fetch it."""
        return ranges.cut(self.file, self.chunk.offset, self.chunk.offset + self.chunk.length, self.data)

    @property
    def name(self) -> str:
        """The entry's name in the checkpoint."""
        return self.read.storage_index.fqn

    def undecodable(self, why: object) -> CheckpointCorrupted:
        """Return the error for bytes that are not what they should be."""
        return CheckpointCorrupted(self.file, f"{self.name} can't be decoded: {why}", [self.name])


class ClassesRefused(Exception):
    """An entry holds classes that are not read."""

    def __init__(self, classes: Sequence[str], *, may_be_allowed: bool) -> None:
        super().__init__(", ".join(classes))
        self.classes = classes
        self.may_be_allowed = may_be_allowed

    def __str__(self) -> str:
        """Say it as it follows an entry's name."""
        held = f"holds {', '.join(self.classes)}"
        return held if self.may_be_allowed else f"{held}, which can't be read even if it is in {ALLOW}"


class Harmless:
    """Remembers what was examined, for one load."""

    def __init__(self) -> None:
        self._known: set[sandbox.Pickled] = set()

    def need(self, items: Iterable[Item]) -> None:
        """Make sure that items can be decoded without harm to this process.

        Raises:
            CheckpointCorrupted: one can't.
        """
        asked: dict[sandbox.Pickled, Item] = {}
        for item in items:
            try:
                found = torch_zip_read.members(item.data.data)
                pickled = sandbox.Pickled(bytes(torch_zip_read.pickle_in(found)), torch_zip_read.storages_in(found))
            except ValueError as error:
                raise item.undecodable(error) from error
            if not _is_small(pickled.data) and pickled not in self._known:
                asked.setdefault(pickled, item)
        if not asked:
            return
        try:
            sandbox.examine(list(asked))
        except sandbox.Harmful as error:
            raise list(asked.values())[min(error.done, len(asked) - 1)].undecodable(error) from error
        self._known.update(pickled for pickled in asked if len(pickled.data) <= _KEPT)


def _is_small(pickled: bytes) -> bool:
    """Tell whether it is a number or a short text.

    It calls nothing (GLOBAL, INST, STACK_GLOBAL), and notes nothing at a place of its choice (PUT, LONG_BINPUT).
    """
    return len(pickled) <= _SMALL and not any(code in pickled for code in (b"c", b"i", b"\x93", b"p", b"r"))


def place_all(items: Iterable[Item], planner: LoadPlanner, allow: Sequence[type]) -> None:
    """Decode items, which were found harmless, and give them to the planner.

    Raises:
        StateMismatch: some hold classes that are not allowed, or do not fit; it names all of the former.
        CheckpointCorrupted: one can't be decoded.
    """
    refused: dict[str, ClassesRefused] = {}
    for item in items:
        try:
            _place(item, planner, allow)
        except ClassesRefused as error:
            refused[item.name] = error
    if refused:
        listed = [f"{name} {why}" for name, why in refused.items()]
        may_be_allowed = any(why.may_be_allowed for why in refused.values())
        way_out = f" If you trust the checkpoint, pass the classes in {ALLOW}." if may_be_allowed else ""
        raise StateMismatch(f"{some(listed, separator='; ')}: not on the allow-list.{way_out}")


def _place(item: Item, planner: LoadPlanner, allow: Sequence[type]) -> None:
    """Decode one item, which was found harmless, and give it to the planner."""
    value = decode(item.name, item.file, io.BytesIO(item.data), allow)  # type: ignore[arg-type]
    if item.read.type == LoadItemType.BYTE_IO:
        hand_over(item.read, value, planner)
        return
    if not isinstance(value, torch.Tensor):
        raise CheckpointCorrupted(item.file, f"holds a {type(value).__name__} in place of a tensor", [item.name])
    if tuple(value.shape) != item.chunk.sizes:
        detail = f"holds {tuple(value.shape)} of {item.name} in place of {item.chunk.sizes}"
        raise CheckpointCorrupted(item.file, detail, [item.name])
    name = item.read.dest_index.fqn
    target = planner.resolve_tensor(item.read)
    for holder, tensor in (("the checkpoint", value), ("the state dict", target)):
        if why := tensors.fault(tensor):
            raise StateMismatch(f"{name} of {holder} {why}")
    source = narrow_tensor_by_index(value, item.read.storage_offsets, item.read.lengths)
    if target.size() != source.size():
        raise StateMismatch.of_shape(name, tuple(source.size()), tuple(target.size()))
    with torch.no_grad():
        if not tensors.fill(name, target, source):
            conversion.copy(name, tensors.plain(source), tensors.plain(target))
    planner.commit_tensor(item.read, target)


def hand_over(item: ReadItem, value: object, planner: LoadPlanner) -> None:
    """Give the planner the value; as bytes, of our own making, to one that knows nothing else."""
    take = getattr(planner, "load_value", None)
    if take:
        take(item, value)
        return
    stream = io.BytesIO()
    torch.save(value, stream)
    stream.seek(0)
    planner.load_bytes(item, stream)


def decode(name: str, file: str, stream: io.BytesIO, allow: Sequence[type] = ()) -> object:
    """Read with the restricted unpickler.

    Raises:
        ClassesRefused: it holds classes that are not allowed, or that can't be.
        CheckpointCorrupted: it can't be decoded.
    """
    try:
        return _restricted(stream, allow)
    except ClassesRefused:
        raise
    except Exception as error:  # torch trips over damaged bytes in many ways
        said = _SAID.search(str(error))
        what = said[1] if said else f"{type(error).__name__}: {error}"
        raise CheckpointCorrupted(file, f"{name} can't be decoded: {what}", [name]) from error


def _restricted(stream: io.BytesIO, allow: Sequence[type]) -> object:
    with _ALLOWING:
        try:
            return torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            stream.seek(0)
        known = torch.serialization.get_safe_globals()
        reading = safe_classes.Reading()
        allowed = reading.allowed(each for each in allow if each not in known)
        with torch.serialization.safe_globals(allowed):
            try:
                return reading.real(torch.load(stream, map_location="cpu", weights_only=True))
            except pickle.UnpicklingError as error:
                stream.seek(0)
                if unlisted := _unlisted(stream):
                    raise ClassesRefused(unlisted, may_be_allowed=True) from error
                if unreadable := _UNREADABLE.search(str(error)):
                    raise ClassesRefused([unreadable[1]], may_be_allowed=False) from error
                raise


def _unlisted(stream: io.BytesIO) -> list[str]:
    """Return all that the pickle names and that is not allowed."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(stream))
    except Exception:  # noqa: BLE001 - it looks at no more than the restricted unpickler knows
        return []
