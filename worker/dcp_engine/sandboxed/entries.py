"""Looks at what `torch.load(weights_only=True)` is about to read: what it would call, and what that would take.

torch calls what its own list allows, with whatever a pickle gives: `torch.Tensor(10**10)` takes the room, a tensor
larger than its storage makes the storage larger. Here stand-ins are called in their place. They know what each call
takes; a pickle that takes far more than its bytes, and those stored beside it, is refused.
"""

# ruff: noqa: ANN401 - of what a pickle holds nothing is known

import _codecs
import _compat_pickle
import io
import json
import math
import pickle
import re
import struct
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any, BinaryIO, NoReturn

from .limits import Refused

_FREE = 4096
_TIMES = 4
"""Bytes, or members, that calls may make for each byte that is stored. What is named once may be given to many."""
_EXPANDED = 64 << 20
"""Bytes that a pickle's tensors may have beyond those of their storages: an expanded one repeats its values."""
_WIDEST = 16
"""Bytes of an element of a type that is not known here."""


class _Budget:
    """What the calls of one pickle have made so far, and may make."""

    def __init__(self) -> None:
        self.begin(0, {})

    def begin(self, pickled: int, stored: Mapping[str, int]) -> None:
        """Begin with the next pickle, of so many bytes, and the bytes that are stored beside it, by key."""
        self.left = _FREE + _TIMES * (pickled + sum(stored.values()))
        self.expanded = _EXPANDED
        self.stored = stored
        self.storages: dict[str, _DescribedStorage] = {}

    def make(self, count: int) -> None:
        """Count what a call makes."""
        self.left -= count
        if self.left < 0:
            raise Refused("it makes far more than it has bytes")

    def expand(self, count: int) -> None:
        """Count the bytes of a tensor that its storage does not have."""
        self.expanded -= max(0, count)
        if self.expanded < 0:
            raise Refused("its tensors have far more values than it has bytes")


_budget = _Budget()


class _Fixed:
    """What a pickle may name, and not change."""

    __slots__ = ()

    def __setstate__(self, state: object) -> NoReturn:
        raise Refused("it changes what can't be changed")


class _Named(_Fixed):
    """Stands for a class or function that pickles name, and none calls."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: object) -> NoReturn:
        raise Refused(f"it calls {self.name}, which no pickle of a tensor does")


class _Sized(_Named):
    """Stands for a dtype, or the class of a storage: of each element the bytes are known."""

    __slots__ = ("itemsize",)

    def __init__(self, name: str, itemsize: int) -> None:
        super().__init__(name)
        self.itemsize = itemsize


class _Called(_Fixed):
    """Stands for a function."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., object]) -> None:
        self.make = make

    def __call__(self, *args: object) -> object:
        return self.make(*args)


class _DescribedStorage(_Fixed):
    __slots__ = ("itemsize", "nbytes")

    def __init__(self, nbytes: int, itemsize: int) -> None:
        self.nbytes = nbytes
        self.itemsize = itemsize


class _DescribedTensor(_Fixed):
    __slots__ = ("numel",)

    def __init__(self, numel: int) -> None:
        self.numel = numel


class _Anything:
    """Stands for an object of any class, which may be a key, a container, or called."""

    def __init__(self, *_: object) -> None:
        pass

    def __call__(self, *_: object) -> "_Anything":
        return _Anything()

    def __setstate__(self, state: object) -> None:
        _budget.make(_length(state))

    def __setitem__(self, key: object, value: object) -> None:
        # What a mapping of the real class would do.
        hash(key)

    def append(self, value: object) -> None:
        pass

    def extend(self, values: object) -> None:
        pass


class _DescribedArray(_Anything):
    """Stands for numpy's array, which is given its bytes, and copies them."""

    nbytes = 0

    def __setstate__(self, state: Any) -> None:
        self.nbytes = _lengths(state)
        _budget.make(self.nbytes)


class _Id:
    """Stands for a UUID, whose number is its hash."""

    def __setstate__(self, state: Any) -> None:
        self.int = state["int"]

    def __hash__(self) -> int:
        return hash(self.int)

    def __eq__(self, other: object) -> bool:
        return type(other) is _Id and self.int == other.int


class _Filled:
    """A mapping that a pickle makes of what it gives, which is copied."""

    def __init__(self, *args: Any) -> None:
        _budget.make(_lengths(args))
        super().__init__(*args)

    def __setstate__(self, state: object) -> None:
        _budget.make(_length(state))


class _Ordered(_Filled, OrderedDict[Any, Any]):
    pass


class _Counter(_Filled, Counter[Any]):
    pass


def _length(value: object) -> int:
    return len(value) if isinstance(value, (str, bytes, bytearray, tuple, list, dict, set, frozenset)) else 1


def _lengths(values: tuple[object, ...]) -> int:
    return sum(map(_length, values))


def _counted(make: Callable[..., object]) -> _Called:
    """Return what makes something as large as what it is given."""

    def made(*args: object) -> object:
        _budget.make(_lengths(args))
        return make(*args)

    return _Called(made)


def _of_bytes(make: Callable[..., object]) -> _Called:
    """Return what makes bytes; of a number it would make as many zeros."""

    def made(*args: object) -> object:
        if any(isinstance(each, int) for each in args):
            raise Refused("it makes bytes that it only counts")
        _budget.make(_lengths(args))
        return make(*args)

    return _Called(made)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)) or not all(map(_is_size, value)):
        raise Refused("it has something else where a tensor's sizes should be")
    return tuple(value)


def _itemsize(dtype: object) -> int:
    return dtype.itemsize if isinstance(dtype, _Sized) else _WIDEST


def _laid(storage: Any, offset: Any, size: Any, stride: Any, itemsize: int) -> _DescribedTensor:
    """Return a tensor over a storage; torch makes the storage larger for one that reaches beyond its end."""
    shape, strides = _shape(size), _shape(stride)
    if not isinstance(storage, _DescribedStorage) or not _is_size(offset) or len(shape) != len(strides):
        raise Refused("it has a tensor that lies nowhere")
    numel = math.prod(shape)
    last = sum((length - 1) * step for length, step in zip(shape, strides, strict=True)) if numel else -1
    if (offset * bool(numel) + last + 1) * itemsize > storage.nbytes:
        raise Refused("it has a tensor that reaches beyond its bytes")
    _budget.expand(numel * itemsize - storage.nbytes)
    return _DescribedTensor(numel)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> _DescribedTensor:
    return _laid(storage, offset, size, stride, getattr(storage, "itemsize", _WIDEST))


def _tensor_of_type(storage: Any, offset: Any, size: Any, stride: Any, *more: object) -> _DescribedTensor:
    _grad, _hooks, dtype, *_ = more
    return _laid(storage, offset, size, stride, _itemsize(dtype))


def _quantized(storage: Any, offset: Any, size: Any, stride: Any, scheme: Any, *_: object) -> _DescribedTensor:
    made = _tensor(storage, offset, size, stride)
    # It is made before its storage is put in place; scales may be lists, of which tensors are made.
    _budget.make(made.numel * storage.itemsize + 8 * _lengths(tuple(scheme)))
    return made


def _of_parts(layout: object, data: Any) -> _DescribedTensor:
    del layout
    if any(isinstance(each, (list, bytes, bytearray)) for each in data):
        raise Refused("it makes a sparse tensor of something else than tensors")
    _budget.make(sum(each.numel for each in data if isinstance(each, _DescribedTensor)))
    return _DescribedTensor(0)


def _parameter(data: object = None, *more: object) -> object:
    if not isinstance(data, (_DescribedTensor, _Anything)):
        raise Refused("it makes a parameter of something else than a tensor")
    _budget.make(_length(more[2]) if len(more) > 2 else 0)  # noqa: PLR2004 - the state, which is copied
    return data


def _copied(data: object, dtype: object, *_: object) -> _DescribedTensor:
    """Return a tensor for another device: a copy, of perhaps another type."""
    if isinstance(data, _DescribedArray):
        _budget.make(2 * data.nbytes)
        return _DescribedTensor(data.nbytes)
    if not isinstance(data, _DescribedTensor):
        raise Refused("it copies something else than a tensor")
    _budget.make(data.numel * _itemsize(dtype))
    return _DescribedTensor(data.numel)


def _of_class(make: Any, kind: object, args: Any, state: object) -> object:
    del kind
    _budget.make(_length(state))
    return make(*args)


def _anywhere(*_: object) -> _DescribedTensor:
    """Return a tensor without memory."""
    return _DescribedTensor(0)


class _Parameter:
    def __new__(cls, *args: object) -> Any:
        return _parameter(*args[:1])


_REAL: dict[str, Any] = {
    "_codecs.encode": _counted(_codecs.encode),
    "collections.Counter": _Counter,
    "collections.OrderedDict": _Ordered,
    "datetime.date": date,
    "datetime.datetime": datetime,
    "datetime.time": time,
    "datetime.timedelta": timedelta,
    "datetime.timezone": timezone,
    "decimal.Decimal": _counted(Decimal),
    "fractions.Fraction": _counted(Fraction),
    **{f"builtins.{made.__name__}": _counted(made) for made in (frozenset, list, dict, set, tuple)},
    **{f"builtins.{made.__name__}": _of_bytes(made) for made in (bytearray, bytes)},
    "builtins.complex": complex,
    "builtins.range": range,
    "builtins.slice": slice,
}
"""What costs as much here as where it is wanted, as its hash may, and runs nothing."""
_SIZED = _counted(lambda *_: _Anything())
_STANDS_FOR: dict[str, Any] = {
    **{f"numpy.{core}.multiarray._reconstruct": _Called(lambda *_: _DescribedArray()) for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _SIZED for core in ("core", "_core")},
    **{
        f"pathlib.{local}{name}": _SIZED
        for local in ("", "_local.")
        for name in ("PosixPath", "PurePosixPath", "Path", "PurePath", "WindowsPath", "PureWindowsPath")
    },
    "numpy.ndarray": _DescribedArray,
    "uuid.UUID": _Id,
    "torch.Size": _Called(lambda *args: _shape(*args or ((),))),
    "torch.nn.parameter.Parameter": _Parameter,
    "torch._utils._rebuild_tensor": _Called(_tensor),
    "torch._utils._rebuild_tensor_v2": _Called(_tensor),
    "torch._utils._rebuild_tensor_v3": _Called(_tensor_of_type),
    "torch._utils._rebuild_qtensor": _Called(_quantized),
    "torch._utils._rebuild_sparse_tensor": _Called(_of_parts),
    "torch._utils._rebuild_parameter": _Called(_parameter),
    "torch._utils._rebuild_parameter_with_state": _Called(_parameter),
    "torch._utils._rebuild_meta_tensor_no_storage": _Called(_anywhere),
    "torch._utils._rebuild_wrapper_subclass": _Called(_anywhere),
    "torch._utils._rebuild_device_tensor_from_numpy": _Called(_copied),
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _Called(_copied),
    "torch._tensor._rebuild_from_type_v2": _Called(_of_class),
}
_DTYPE = re.compile(r"torch\.(?:bool|(?:b?float|complex|q?u?int|bits)(\d+)\w*)")
_STORAGE = re.compile(r"torch\.(?:\w+\.)*(\w+)Storage")
_TENSOR = re.compile(r"torch\.(?:Tensor|(?:\w+\.)*(?:BFloat16|Bool|Byte|Char|Double|Float|Half|Int|Long|Short)Tensor)")
_ITEMSIZES = {
    **dict.fromkeys(("Untyped", "Bool", "Byte", "Char", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"), 1),
    **dict.fromkeys(("BFloat16", "Half", "Short"), 2),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("ComplexFloat", "Double", "Long"), 8),
    **dict.fromkeys(("ComplexDouble", "Typed"), 16),
}


def _stand_in(name: str) -> Any:
    """Return what stands for a name: anything for one unknown here, which torch refuses, or its user allows."""
    if found := _REAL.get(name) or _STANDS_FOR.get(name):
        return found
    if dtype := _DTYPE.fullmatch(name):
        return _Sized(name, max(1, int(dtype[1] or 8) // 8))
    if (storage := _STORAGE.fullmatch(name)) and storage[1] in _ITEMSIZES:
        return _Sized(name, _ITEMSIZES[storage[1]])
    return _Named(name) if _TENSOR.fullmatch(name) else _Anything


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # torch joins them, too, and knows the names of Python 2.
        module, name = _compat_pickle.NAME_MAPPING.get(
            (module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
        )
        return _stand_in(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _DescribedStorage:
        kind, of, key, _, count = pid
        kind = kind.decode() if isinstance(kind, bytes) else kind
        if kind != "storage" or type(of) is not _Sized or type(key) is not str or not _is_size(count):
            raise Refused("it refers to something else than a storage")
        storage = _DescribedStorage(count * of.itemsize, of.itemsize)
        if storage.nbytes > _budget.stored.get(key, 0):
            raise Refused("it refers to a storage that has more bytes than are stored")
        first = _budget.storages.setdefault(key, storage)
        if first.nbytes != storage.nbytes:
            _budget.make(storage.nbytes)  # torch reads it once more
        return storage


def examine(stream: BinaryIO) -> Iterator[None]:
    """Read pickles, each followed by the bytes of its storages as JSON, by key; both lengths stand before it."""
    while head := stream.read(16):
        pickled, stored = struct.unpack("<QQ", head)
        data = stream.read(pickled)
        _budget.begin(pickled, json.loads(stream.read(stored)))
        value = _Unpickler(io.BytesIO(data), encoding="latin1").load()
        del value
        yield
