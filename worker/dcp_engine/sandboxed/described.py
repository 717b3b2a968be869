"""What a stock checkpoint's `.metadata` says, as the JSON of a manifest.

Its classes are stand-ins, of which nothing runs anything. Only the standard library is there.
"""

# ruff: noqa: ANN401 - of what a pickle holds nothing is known

import io
import json
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from .limits import Refused

_MOST_DIMENSIONS = 64
_FREE = 1 << 20
_TIMES = 4
"""Characters of JSON for each byte that was read, at most; an honest pickle has about as many. What is named once in a
pickle and referred to from everywhere stands everywhere in the JSON."""

_METADATA = {
    f"torch.distributed.{package}"
    for package in (
        "checkpoint.metadata",
        "checkpoint.filesystem",
        "_shard.checkpoint.metadata",
        "_shard.checkpoint.filesystem",
        "_shard.sharded_tensor.metadata",
    )
}
"""Where torch, from 1.13 to now, defines the classes of `.metadata`; the properties were those of sharded tensors."""


class _Record:
    """Stands for an object of which some attributes are wanted, however it was pickled."""

    names: tuple[str, ...] = ()

    def __init__(self, *values: Any) -> None:
        self.__dict__.update(zip(self.names, values, strict=False))


class _Metadata(_Record):
    names = ("state_dict_metadata", "planner_data", "storage_data", "storage_meta", "version")
    state_dict_metadata: Any


class _Index(_Record):
    names = ("fqn", "offset", "index")
    fqn: Any
    offset: Any = None

    def __hash__(self) -> int:
        return hash((self.fqn, self.offset))

    def __eq__(self, other: object) -> bool:
        return type(other) is _Index and (self.fqn, self.offset) == (other.fqn, other.offset)


class _Tensor(_Record):
    names = ("properties", "size", "chunks")
    properties: Any
    size: Any
    chunks: Any


class _Bytes(_Record):
    pass


class _Chunk(_Record):
    names = ("offsets", "sizes")


class _Place(_Record):
    names = ("relative_path", "offset", "length", "transform_descriptors")


class _Properties(_Record):
    names = ("dtype",)

    def __setstate__(self, state: Any) -> None:
        self.dtype = state["dtype"] if type(state) is dict else state[0]


class _Dtype(str):
    __slots__ = ()


class _Size(tuple[int, ...]):
    __slots__ = ()


def _ignored(*_: object) -> None:
    """Stand for whatever makes a value that nobody looks at: a layout, a memory format, a path of where it was."""


_STANDS_FOR: dict[str, Any] = {
    "Metadata": _Metadata,
    "MetadataIndex": _Index,
    "TensorStorageMetadata": _Tensor,
    "BytesStorageMetadata": _Bytes,
    "ChunkStorageMetadata": _Chunk,
    "StorageMeta": _Record,
    "TensorProperties": _Properties,
    "_StorageInfo": _Place,
    "_MEM_FORMAT_ENCODING": _ignored,
    "MEM_FORMAT_ENCODING": _ignored,
}
_OTHERS: dict[tuple[str, str], Any] = {
    ("torch", "Size"): _Size,
    ("torch.serialization", "_get_layout"): _ignored,
    ("builtins", "getattr"): _ignored,
    ("collections", "OrderedDict"): OrderedDict,
    **{
        (module, name): _ignored
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "Path", "PurePath", "WindowsPath", "PureWindowsPath")
    },
}


class _MetadataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in _METADATA and name in _STANDS_FOR:
            return _STANDS_FOR[name]
        if (module, name) in _OTHERS:
            return _OTHERS[module, name]
        if module == "torch" and re.fullmatch(r"[a-z][a-z0-9_]*", name):
            return _Dtype(name)
        raise Refused(f"it names {module}.{name}, which is not on the allow-list")


def manifest(pickled: bytes) -> str:
    """Return what a stock checkpoint's `.metadata` says as the JSON of a manifest."""
    found = _MetadataUnpickler(io.BytesIO(pickled)).load()
    if type(found) is not _Metadata:
        raise Refused(f"it holds a {type(found).__name__.lstrip('_')}, not DCP's Metadata")
    paths = _mapping(getattr(found, "planner_data", None) or {})
    numbers: dict[str, int] = {}
    texts = _BoxTexts()
    entries: dict[str, _Entry] = {}
    for name, stored in _mapping(found.state_dict_metadata).items():
        if type(name) is not str:
            raise Refused("it has a name that is no text")
        if type(stored) is _Tensor:
            sizes = {chunk.offsets: chunk.sizes for chunk in stored.chunks}
            entries[name] = _Entry(str(_typed(stored.properties.dtype, _Dtype)), texts[stored.size], sizes)
        else:
            _typed(stored, _Bytes)
            entries[name] = _Entry(None, "[]", {(): ()})
    for index, place in _mapping(getattr(found, "storage_data", None) or {}).items():
        _typed(place, _Place)
        entry = entries.get(_typed(index, _Index).fqn)
        if entry is None:
            raise Refused("it says where a name lies that it does not list")
        if getattr(place, "transform_descriptors", None):
            entry.transformed = True
        offset = index.offset
        if offset is None:
            offset = next(iter(entry.sizes), ())
        if offset not in entry.sizes:
            raise Refused("it says where a part of a tensor lies that it does not list")
        file = numbers.setdefault(_typed(place.relative_path, str), len(numbers))
        entry.lines.append(
            f"[{texts[offset]},{texts[entry.sizes[offset]]},{file},{_number(place.offset)},{_number(place.length)},null]"
        )
    return _in_bounds(_document(entries, list(numbers), paths), len(pickled))


def _in_bounds(found: str, size: int) -> str:
    if len(found) > _FREE + _TIMES * size:
        raise Refused("it says far more than it has bytes")
    return found


class _Entry:
    __slots__ = ("dtype", "lines", "shape", "sizes", "transformed")

    def __init__(self, dtype: str | None, shape: str, sizes: dict[Any, Any]) -> None:
        self.dtype = dtype
        self.shape = shape
        self.sizes = sizes
        self.lines: list[str] = []
        self.transformed = False


class _BoxTexts(dict[tuple[int, ...], str]):
    """Offsets or sizes -> their JSON; they are few beside the chunks that have them."""

    def __missing__(self, box: Any) -> str:
        if not isinstance(box, tuple) or len(box) > _MOST_DIMENSIONS:
            raise Refused("it has sizes that are none")
        text = self[box] = f"[{','.join(str(_number(size)) for size in box)}]"
        return text


def _document(entries: Mapping[str, _Entry], files: list[str], paths: Mapping[str, Any]) -> str:
    tensors = ",".join(
        f'{json.dumps(name)}:{{"dtype":{json.dumps(entry.dtype)},"shape":{entry.shape},'
        f'"chunks":[{",".join(entry.lines)}]{_path(name, paths)}{_transformed(entry)}}}'
        for name, entry in entries.items()
    )
    listed = ",".join(f'{{"path":{json.dumps(path)},"size":-1,"crc32c":null,"firstBlock":0}}' for path in files)
    return (
        '{"format":1,"saveId":"","origin":null,"step":null,"worldSize":null,"torchVersion":"","createdTime":null,'
        f'"conflictGuard":"","metadataSha256":"","blockSize":0,"files":[{listed}],"tensors":{{{tensors}}}}}'
    )


def _transformed(entry: _Entry) -> str:
    return ',"transformed":true' if entry.transformed else ""


def _path(name: str, paths: Mapping[str, Any]) -> str:
    """Return where an entry stood in the nested state dict, if that is more than its name."""
    path = paths.get(name)
    if type(path) not in {tuple, list} or not path or not all(type(key) in {str, int} for key in path):
        return ""
    return f',"path":{json.dumps(list(path), separators=(",", ":"))}'


def _mapping(value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, dict):
        raise Refused("it has something else where names should be")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not -1 << 63 <= value < 1 << 63:
        raise Refused("it has something else where a number of bytes or elements should be")
    return value


def _typed(value: Any, wanted: type) -> Any:
    if type(value) is not wanted:
        raise Refused(f"it has something else where a {wanted.__name__.lstrip('_')} should be")
    return value
