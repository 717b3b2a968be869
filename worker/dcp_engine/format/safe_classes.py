"""Stand-ins with which the restricted unpickler reads the common classes that are no tensors, and nothing else of them.

What stands here runs no code of others, and takes no more time and memory than its bytes are worth: its arguments must
be those that pickle writes. torch's unpickler appends to lists and sets items of dicts alone, so a deque is a list, and
a defaultdict a dict, until all is read; `Reading.real` puts what is meant in place of every stand-in.
"""

import argparse
import copyreg
import io
import os
import pickle
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from types import NoneType, SimpleNamespace
from typing import Any, Final, Self
from uuid import UUID, SafeUUID

import numpy as np
import torch

from dcp_engine.format import safe_numpy

_FRACTION: Final = re.compile(r"-?\d{1,4000}(?:/\d{1,4000})?", re.ASCII)
"""Exponents are left out: a few bytes of them are gigabytes of digits."""
_BEHIND: Final = 64 << 20
_DATE, _TIME, _DATETIME = 4, 6, 10
"""Bytes that pickle writes of each."""
_BOUNDS: Final = {int, NoneType, float, str}


def _need(holds: bool, what: str) -> None:  # noqa: FBT001 - it is what this is about
    if not holds:
        raise pickle.UnpicklingError(f"a {what} is made as none is pickled")


class _Callable:
    """Stands for a class that pickle calls; for one that it does not call if nothing is to be made."""

    def __init__(self, real: type, make: Callable[..., object] | None = None) -> None:
        self.real = real
        self._make = make

    def __call__(self, *args: object) -> object:
        _need(self._make is not None, self.real.__name__)
        return self._make(*args)  # type: ignore[misc] # need looked


class _Later:
    """Stands for a value that is filled once it is there, or that nothing may iterate over before all is read."""

    real: Any


class _File(_Later):
    def __setstate__(self, state: tuple[object, ...]) -> None:
        data, position, attributes = state
        _need(type(data) is bytes and type(position) is int and attributes in (None, {}), "BytesIO")
        # A write puts zeros between the end and a position behind it, as `truncate(0)` leaves one.
        _need(0 <= position <= len(data) + _BEHIND, "BytesIO")  # type: ignore[arg-type, operator] # looked at above
        self.real = io.BytesIO(data)  # type: ignore[arg-type]
        self.real.seek(position)


class _Uuid(_Later):
    def __setstate__(self, state: Mapping[str, Any]) -> None:
        safe = SafeUUID(state.get("is_safe", SafeUUID.unknown.value))
        _need(type(state["int"]) is int, "UUID")
        self.real = UUID(int=state["int"], is_safe=safe)


class _Attributes(_Later):
    """Stands for what has attributes alone."""

    kind: type

    def __new__(cls) -> Self:
        made = super().__new__(cls)
        made.real = cls.kind()
        return made

    def __setstate__(self, state: dict[str, object]) -> None:
        _need(type(state) is dict and all(type(name) is str for name in state), self.kind.__name__)
        vars(self.real).update(state)


class _Namespace(_Attributes):
    kind = argparse.Namespace


class _SimpleNamespace(_Attributes):
    kind = SimpleNamespace


def _range(*bounds: Any) -> _Later:  # noqa: ANN401
    _need(len(bounds) == 3 and all(type(each) is int for each in bounds), "range")  # noqa: PLR2004 - start, stop, step
    made = _Later()
    made.real = range(*bounds)
    return made


def _slice(*bounds: object) -> slice:
    _need(len(bounds) == 3 and all(type(each) in _BOUNDS for each in bounds), "slice")  # noqa: PLR2004
    return slice(*bounds)


def _frozenset(members: object = None) -> frozenset[Any]:
    _need(members is None or type(members) is list, "frozenset")
    return frozenset(members or ())  # type: ignore[call-overload, no-any-return]


def _date(data: Any) -> date:  # noqa: ANN401
    _need(type(data) is bytes and len(data) == _DATE, "date")
    kind: Any = date
    return kind(data).replace()  # type: ignore[no-any-return]  # which looks at what it is given, as reading a pickle does not


def _time(data: Any, zone: Any = None) -> time:  # noqa: ANN401
    _need(type(data) is bytes and len(data) == _TIME and type(zone) in {NoneType, timezone}, "time")
    return time(data, zone).replace()


def _datetime(data: Any, zone: Any = None) -> datetime:  # noqa: ANN401
    _need(type(data) is bytes and len(data) == _DATETIME and type(zone) in {NoneType, timezone}, "datetime")
    kind: Any = datetime
    return kind(data, zone).replace()  # type: ignore[no-any-return]


def _timedelta(*parts: Any) -> timedelta:  # noqa: ANN401
    _need(len(parts) == 3 and all(type(each) is int for each in parts), "timedelta")  # noqa: PLR2004 - days, s, us
    return timedelta(*parts)


def _timezone(offset: Any, *name: Any) -> timezone:  # noqa: ANN401
    _need(type(offset) is timedelta and all(type(each) is str for each in name), "timezone")
    return timezone(offset, *name)


def _decimal(text: object) -> Decimal:
    _need(type(text) is str, "Decimal")
    return Decimal(text)  # type: ignore[arg-type]


def _fraction(*parts: Any) -> Fraction:  # noqa: ANN401
    is_text = len(parts) == 1 and type(parts[0]) is str and _FRACTION.fullmatch(parts[0]) is not None
    _need(is_text or (len(parts) == 2 and all(type(each) is int for each in parts)), "Fraction")  # noqa: PLR2004
    return Fraction(*parts)


def _path(kind: type[Any]) -> Callable[..., object]:
    def make(*parts: object) -> object:
        _need(all(type(each) is str for each in parts), kind.__name__)
        return kind(*parts)

    return make


_PATHS: Final[dict[str, type[Any]]] = {
    "PurePath": PurePath,
    "Path": Path,
    "PurePosixPath": PurePosixPath,
    "PureWindowsPath": PureWindowsPath,
    "PosixPath": PosixPath if os.name == "posix" else PurePosixPath,
    "WindowsPath": PureWindowsPath if os.name == "posix" else WindowsPath,
}
_CLASSES: Final[dict[str, type]] = {
    "_io.BytesIO": _File,
    "argparse.Namespace": _Namespace,
    "types.SimpleNamespace": _SimpleNamespace,
    "uuid.UUID": _Uuid,
}
_REAL_CLASSES: Final[dict[object, type]] = {
    _File: io.BytesIO,
    _Namespace: argparse.Namespace,
    _SimpleNamespace: SimpleNamespace,
    _Uuid: UUID,
}
_CALLED: Final = {
    f"{each.real.__module__}.{each.real.__name__}": each
    for each in (
        _Callable(range, _range),
        _Callable(slice, _slice),
        _Callable(frozenset, _frozenset),
        _Callable(date, _date),
        _Callable(time, _time),
        _Callable(datetime, _datetime),
        _Callable(timedelta, _timedelta),
        _Callable(timezone, _timezone),
        _Callable(Decimal, _decimal),
        _Callable(Fraction, _fraction),
        *(_Callable(each) for each in (bool, dict, float, int, list, str, tuple)),
    )
} | {
    f"{module}.{name}": _Callable(kind, _path(kind))
    for module in ("pathlib", "pathlib._local")
    for name, kind in _PATHS.items()
}
_FACTORIES: Final[set[object]] = {
    *(None, set, OrderedDict, Counter, bytearray, complex, bool, dict, float, int, list, str, tuple, frozenset, deque)
}
"""What a defaultdict may make of what is missing: something empty."""


class Reading:
    """What is read of one pickle; remembers which lists and dicts stand for something else."""

    def __init__(self) -> None:
        self._deques: dict[int, tuple[list[Any], deque[Any]]] = {}
        self._defaults: dict[int, tuple[dict[Any, Any], defaultdict[Any, Any]]] = {}
        self._known: dict[int, Any] = {}
        self._deque = _Callable(deque, self._make_deque)

    def allowed(self, allow: Iterable[type] = ()) -> list[Any]:
        """Return what is given to `torch.serialization.safe_globals`: `allow`, too, but for what stands here."""
        own = {
            **_CLASSES,
            **_CALLED,
            "collections.deque": self._deque,
            "collections.defaultdict": _Callable(defaultdict, self._make_defaultdict),
        }
        others = [each for each in allow if f"{each.__module__}.{each.__qualname__}" not in own]
        return [*safe_numpy.ALLOWED, *((made, name) for name, made in own.items()), *others]

    def real(self, value: Any) -> Any:  # noqa: ANN401 - whatever was read
        """Return a value with what is meant in place of the stand-ins, wherever it holds them."""
        if isinstance(value, _Callable):
            return value.real
        if isinstance(value, type):
            return _REAL_CLASSES.get(value, value)
        if isinstance(value, safe_numpy.STAND_INS):
            return value.real
        if isinstance(value, (str, bytes, int, float, np.generic, torch.Tensor)) or value is None:
            return value
        if id(value) not in self._known:
            self._known[id(value)] = self._begun(value)  # it may hold itself
            self._known[id(value)] = self._filled(value)
        return self._known[id(value)]

    def _make_deque(self, start: object = (), longest: Any = None) -> list[Any]:  # noqa: ANN401
        _need(start == () and (longest is None or (type(longest) is int and longest >= 0)), "deque")
        made: list[Any] = []
        self._deques[id(made)] = made, deque(maxlen=longest)
        return made

    def _make_defaultdict(self, factory: Any = None) -> dict[Any, Any]:  # noqa: ANN401
        made: dict[Any, Any] = {}
        real = factory.real if isinstance(factory, _Callable) else factory
        if real not in _FACTORIES:
            raise pickle.UnpicklingError(f"a defaultdict makes its values, but got {type(real)}")
        self._defaults[id(made)] = made, defaultdict(real)
        return made

    def _begun(self, value: Any) -> Any:  # noqa: ANN401
        for stand_ins in (self._deques, self._defaults):
            if id(value) in stand_ins:
                return stand_ins[id(value)][1]
        return value.real if isinstance(value, _Later) else value

    def _filled(self, value: Any) -> Any:  # noqa: ANN401 - one for each kind
        made = self._known[id(value)]
        if isinstance(value, _Later):
            if isinstance(value, _Attributes):
                self._fill_dict(vars(made), vars(made))
        elif isinstance(made, deque) and isinstance(value, list):
            made.extend(map(self.real, value))
        elif isinstance(value, (list, deque)):
            for place, each in enumerate(value):
                value[place] = self.real(each)
        elif isinstance(value, dict):
            self._fill_dict(made, value)
        elif isinstance(value, (tuple, set, frozenset)):
            return self._with_real_members(value)
        elif not isinstance(value, (range, slice)):
            self._fill_attributes(value)
        return made

    def _fill_dict(self, made: dict[Any, Any], value: dict[Any, Any]) -> None:
        items = [(self.real(key), self.real(each)) for key, each in value.items()]
        made.clear()
        made.update(items)

    def _with_real_members(self, value: Any) -> Any:  # noqa: ANN401
        made = [self.real(each) for each in value]
        if all(new is old for new, old in zip(made, value, strict=True)):
            return value
        # A named tuple takes its members one by one.
        return tuple.__new__(type(value), made) if isinstance(value, tuple) else type(value)(made)

    def _fill_attributes(self, value: Any) -> None:  # noqa: ANN401
        if isinstance(attributes := getattr(value, "__dict__", None), dict):
            self._fill_dict(attributes, attributes)
        for name in copyreg._slotnames(type(value)):  # type: ignore[attr-defined] # noqa: SLF001 - as pickle finds them
            if hasattr(value, name):
                object.__setattr__(value, name, self.real(getattr(value, name)))
