"""`.metadata`: DCP's pickled Metadata, read with an allow-list, written with our trailer behind it."""

import copyreg
import hashlib
import io
import pickle
import re
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)

from dcp_worker.engine.errors import CheckpointCorrupted
from dcp_worker.engine.garbage import uncollected
from dcp_worker.engine.layout import METADATA, Trailer, parse_trailer
from dcp_worker.engine.record import Written

_DCP: Final = "torch.distributed.checkpoint"
_ALLOWED: Final = frozenset(
    {
        (f"{_DCP}.metadata", "Metadata"),
        (f"{_DCP}.metadata", "MetadataIndex"),
        (f"{_DCP}.metadata", "TensorStorageMetadata"),
        (f"{_DCP}.metadata", "BytesStorageMetadata"),
        (f"{_DCP}.metadata", "ChunkStorageMetadata"),
        (f"{_DCP}.metadata", "StorageMeta"),
        (f"{_DCP}.metadata", "_MEM_FORMAT_ENCODING"),
        (f"{_DCP}.filesystem", "_StorageInfo"),
        ("torch", "Size"),
        ("torch.serialization", "_get_layout"),
        ("collections", "OrderedDict"),
        ("pathlib", "PosixPath"),
        ("pathlib", "PurePosixPath"),
        ("pathlib._local", "PosixPath"),
        ("pathlib._local", "PurePosixPath"),
    }
)
"""All that stock writers of torch 2.3 and later put into `.metadata`, dtypes and TensorProperties aside."""


_OWN_FILE: Final = re.compile(rb"data-[0-9a-f]{32}/__\d+_\d+\.distcp")
_PROPERTIES: Final = 5
"""What every torch keeps of a tensor's properties. Since 2.15 there are strides, too, on which earlier ones choke."""


class _Sealed(type):
    """Of a class that stands for another while a pickle is read: a pickle may set attributes on what it names."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"it changes {cls.__name__}.{name}")


def _sealed(real: Any) -> Any:  # noqa: ANN401 - a class or a function
    """Return what makes the same as `real` when it is called or instantiated, and can't be changed by a pickle."""

    class Meta(_Sealed):
        __call__ = staticmethod(real)

    new = staticmethod(lambda _, *args: real.__new__(real, *args))
    return Meta(real.__name__, (), {"__new__": new})


class _Properties(TensorProperties, metaclass=_Sealed):
    """Becomes TensorProperties once its state is there, of which the running torch may know less."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        known = (_MEM_FORMAT_ENCODING(one.value) if isinstance(one, _Encoding) else one for one in state)
        super().__setstate__(tuple(known)[: len(fields(TensorProperties))])  # type: ignore[no-untyped-call]
        self.__class__ = TensorProperties  # type: ignore[assignment]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - pickle's own signature
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("builtins", "getattr"):
            return _sealed(_member)
        if (module, name) == (f"{_DCP}.metadata", "TensorProperties"):
            return _Properties
        if (module, name) == (f"{_DCP}.metadata", "_MEM_FORMAT_ENCODING"):
            return _Encoding
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is not on the allow-list")
        # What Python 3.13 calls pathlib._local is pathlib elsewhere.
        return _sealed(super().find_class(module.removesuffix("._local"), name))


class _Encoding(metaclass=_Sealed):
    """Stands for a member of the enumeration of memory formats; members are one and the same for the whole process."""

    def __init__(self, value: int) -> None:
        self.value = value


def _member(owner: type, name: str) -> _Encoding:
    """Stand in for getattr, by which early releases of Python 3.11 pickle a member of an enumeration."""
    if owner is not _Encoding or name not in _MEM_FORMAT_ENCODING.__members__:
        raise pickle.UnpicklingError(f"it takes {name!r} of {owner!r}, which is not on the allow-list")
    return _Encoding(_MEM_FORMAT_ENCODING[name].value)


@dataclass(frozen=True)
class Parts:
    """`.metadata` taken apart: the pickle, and the trailer of one of our saves."""

    pickled: bytes
    trailer: Trailer | None

    @property
    def sha256(self) -> str:
        """Return the digest of the pickle, which the manifest carries."""
        return hashlib.sha256(self.pickled).hexdigest()


def take_apart(data: bytes) -> Parts:
    """Split the bytes of `.metadata`.

    Raises:
        CheckpointCorrupted: its end is damaged, or one of our saves has lost its trailer, and with it all digests.
    """
    trailer, length = parse_trailer(data)
    if trailer is None and _OWN_FILE.search(data):
        raise CheckpointCorrupted(METADATA, "has lost its last line, which names the digests of what it names")
    return Parts(data[: len(data) - length], trailer)


class _Pickler(pickle.Pickler):
    """Writes the classes of which there are millions as calls of their constructors: faster, and half the size.

    Names, paths, offsets and sizes come from many ranks: those that are equal are written once. A Written becomes what
    stock readers know, of any release.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        known: dict[Any, Any] = {}
        once = known.setdefault

        def index(of: MetadataIndex) -> tuple[Any, ...]:
            return MetadataIndex, (once(of.fqn, of.fqn), once(of.offset, of.offset), of.index)

        def chunk(of: ChunkStorageMetadata) -> tuple[Any, ...]:
            return ChunkStorageMetadata, (once(of.offsets, of.offsets), once(of.sizes, of.sizes))

        def place(of: Written) -> tuple[Any, ...]:
            return _StorageInfo, (once(of.relative_path, of.relative_path), of.offset, of.length)

        def properties(of: TensorProperties) -> tuple[Any, ...]:
            new = copyreg.__newobj__  # type: ignore[attr-defined] # pickle has an opcode for it
            return new, (TensorProperties,), of.__getstate__()[:_PROPERTIES]  # type: ignore[no-untyped-call]

        self.dispatch_table = copyreg.dispatch_table | {
            MetadataIndex: index,
            ChunkStorageMetadata: chunk,
            Written: place,
            TensorProperties: properties,
        }


def dump(metadata: Metadata) -> bytes:
    """Pickle for stock readers."""
    file = io.BytesIO()
    with uncollected():
        _Pickler(file).dump(metadata)
    return file.getvalue()


def load(pickled: bytes) -> Metadata:
    """Unpickle with the allow-list: a crafted file can name nothing that runs."""
    try:
        with uncollected():
            metadata = _Unpickler(io.BytesIO(pickled)).load()
    except Exception as error:
        raise CheckpointCorrupted(METADATA, f"can't be read: {error}") from error
    if not isinstance(metadata, Metadata):
        raise CheckpointCorrupted(METADATA, f"holds a {type(metadata).__name__}, not DCP's Metadata")
    return metadata
