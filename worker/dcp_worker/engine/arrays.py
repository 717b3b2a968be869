"""Stand-ins with which the restricted unpickler reads numpy's arrays, scalars and types: plain data, and nothing else.

numpy's own code trusts what it unpickles: a type whose state hides that it holds objects makes pointers of bytes. What
passes here is safe for numpy itself to read: one of its simple types, and as many bytes as the shape asks for. The
forms are those of `__reduce__` of `numpy.ndarray`, `numpy.generic` and `numpy.dtype`, of numpy 1 and 2.
"""

import math
import pickle
import re
from itertools import product
from typing import Any, Final, Self

import numpy as np

_SIMPLE: Final = re.compile(r"[biufcSUmM?]\d*")
_ORDERS: Final = {"<", ">", "|", "="}
_ALIGNMENTS: Final = {-1, 1, 2, 4, 8, 16}
_FLAGS: Final = {0, 8}
"""Of a type that holds no objects and no pointers; numpy sets 8 for text."""


class _Type:
    """Stands for a `numpy.dtype`."""

    def __new__(cls, code: str = "", *_: object) -> Self:
        if type(code) is not str or not _SIMPLE.fullmatch(code):
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL numpy.dtype.{code}")
        made = super().__new__(cls)
        made.size = np.dtype(code).itemsize
        return made

    size: int

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, base, names, fields, size, alignment, flags, *unit = state
        plain = (base, names, fields) == (None, None, None) and order in _ORDERS and alignment in _ALIGNMENTS
        if not plain or size not in {-1, self.size} or flags not in _FLAGS or any(noted for noted, _ in unit):
            raise pickle.UnpicklingError("a numpy type is not what its name says")


class _Array:
    """Stands for a `numpy.ndarray`."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, _is_fortran, data = state
        _need(kind, data, math.prod(shape) if all(type(size) is int and size >= 0 for size in shape) else -1)


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> _Array:
    if (kind, shape, code) != (_Array, (0,), b"b"):
        raise pickle.UnpicklingError("an array begins as none that numpy writes")
    return _Array()


def _scalar(kind: _Type, data: bytes) -> None:
    _need(kind, data, 1)


def _no_bytes() -> bytes:
    """Return what the old protocol of pickle writes as a call of `bytes`."""
    return b""


def _need(kind: object, data: object, count: int) -> None:
    if type(kind) is not _Type or type(data) is not bytes or len(data) != count * kind.size:
        raise pickle.UnpicklingError("an array holds something else than as many bytes as its shape and type ask for")


ALLOWED: Final[tuple[tuple[Any, str], ...]] = (
    (_Type, "numpy.dtype"),
    (_Array, "numpy.ndarray"),
    *((_no_bytes, f"{builtins}.bytes") for builtins in ("builtins", "__builtin__")),
    *(
        (made, f"numpy.{core}.multiarray.{name}")
        for core, (name, made) in product(("core", "_core"), (("_reconstruct", _reconstruct), ("scalar", _scalar)))
    ),
)
"""For `torch.serialization.safe_globals`."""
