"""Stand-ins with which the restricted unpickler reads numpy's arrays, scalars and types: plain data, and nothing else.

numpy's own code trusts what it unpickles: a type whose state hides that it holds objects makes pointers of bytes. What
passes here is one of its simple types, and as many bytes as the shape asks for; `values` puts numpy's own in its place.
The forms are those of `__reduce__` of `numpy.ndarray`, `numpy.generic` and `numpy.dtype`, of numpy 1 and 2.
"""

import math
import pickle
import re
import sys
from itertools import product
from typing import Any, Final, Literal, Self

import numpy as np

_SIMPLE: Final = re.compile(r"[biufcSUmM?]\d*")
_ORDERS: Final = {"<", ">", "|", "="}
_FOREIGN: Final = {">"} if sys.byteorder == "little" else {"<"}
_ALIGNMENTS: Final = {-1, 1, 2, 4, 8, 16}
_FLAGS: Final = {0, 8}
"""Of a type that holds no objects and no pointers; numpy sets 8 for text."""


class _Type:
    """Stands for a `numpy.dtype`."""

    def __new__(cls, code: str = "", *_: object) -> Self:
        if type(code) is not str or not _SIMPLE.fullmatch(code):
            raise pickle.UnpicklingError(f"Unsupported global: GLOBAL numpy.dtype.{code}")
        made = super().__new__(cls)
        made.real = np.dtype(code)
        return made

    real: np.dtype[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, order, base, names, fields, size, alignment, flags, *unit = state
        plain = (base, names, fields) == (None, None, None) and order in _ORDERS and alignment in _ALIGNMENTS
        if not plain or size not in {-1, self.real.itemsize} or flags not in _FLAGS or any(noted for noted, _ in unit):
            raise pickle.UnpicklingError("a numpy type is not what its name says")
        for _, (name, number, *_divided) in unit:
            if not name.isalpha():
                raise pickle.UnpicklingError("a numpy type counts time in no unit")
            self.real = np.dtype(f"{self.real.kind}8[{int(number)}{name.decode()}]")
        if order in _FOREIGN:
            self.real = self.real.newbyteorder(order)


class _Array:
    """Stands for a `numpy.ndarray`."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _version, shape, kind, is_fortran, data = state
        _need(kind, data, math.prod(shape) if all(type(size) is int and size >= 0 for size in shape) else -1)
        self.real = _made(kind.real, shape, data, "F" if is_fortran else "C")

    real: np.ndarray[Any, Any]


def _reconstruct(kind: type, shape: tuple[int, ...], code: bytes) -> _Array:
    if (kind, shape, code) != (_Array, (0,), b"b"):
        raise pickle.UnpicklingError("an array begins as none that numpy writes")
    return _Array()


def _scalar(kind: _Type, data: bytes) -> object:
    _need(kind, data, 1)
    return _made(kind.real, (), data, "C")[()]


def _made(kind: np.dtype[Any], shape: tuple[int, ...], data: bytes, order: Literal["C", "F"]) -> np.ndarray[Any, Any]:
    if not data:
        return np.zeros(shape, kind, order)
    return np.ndarray(shape, kind, bytearray(data), order=order)


def _no_bytes() -> bytes:
    """Return what the old protocol of pickle writes as a call of `bytes`."""
    return b""


def _need(kind: object, data: object, count: int) -> None:
    if type(kind) is not _Type or type(data) is not bytes or len(data) != count * kind.real.itemsize:
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

STAND_INS: Final = (_Type, _Array)
"""They have what they stand for as `real`."""
