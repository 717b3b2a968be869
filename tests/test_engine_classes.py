"""Objects of the common classes come back without `allow`; of others every save says that no plain load takes them."""

import argparse
import dataclasses
import enum
import io
import logging
import time
import warnings
import zipfile
from collections import Counter, OrderedDict, UserList, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from datetime import time as clock
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import SimpleNamespace
from typing import Any, Final, NamedTuple
from uuid import UUID, SafeUUID

import numpy as np
import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemWriter

import dcp_engine
import stock_dcp as dcp
from dcp_engine.errors import CheckpointCorrupted, StateMismatch, UnsavableState
from dcp_engine.format import torch_zip_read

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


class Color(enum.Enum):
    RED = 1


class Size(enum.Enum):
    LARGE = 9


@dataclasses.dataclass
class Config:
    width: int = 8
    more: Any = None


@dataclasses.dataclass(slots=True)
class Slotted:
    when: Any
    __own: Any = None


class Stack(deque[int]):
    pass


class Point(NamedTuple):
    x: Any
    y: Any


def file(data: bytes, position: int = 0) -> io.BytesIO:
    made = io.BytesIO(data)
    made.seek(position)
    return made


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the engine warned of."""
    found = [record for record in caplog.records if record.name.startswith("dcp_engine")]
    assert {record.levelno for record in found} <= {logging.WARNING}
    return [record.getMessage() for record in found]


EAST: Final = timezone(timedelta(hours=5, minutes=30), "east")
COMMON: Final[dict[str, Any]] = {
    "BytesIO": file(b"losses", 3),
    "BytesIO, empty": io.BytesIO(),
    "date": date(2026, 11, 26),
    "time": clock(1, 2, 3, 4, UTC),
    "datetime": datetime(2026, 11, 26, 7, 30),  # noqa: DTZ001 - without a zone, too
    "datetime with a zone": datetime(2026, 11, 26, tzinfo=EAST),
    "timedelta": timedelta(-3, 5, 7),
    "timezone": EAST,
    "Path": Path("/data/corpus"),
    "PurePosixPath": PurePosixPath("a/../b"),
    "PureWindowsPath": PureWindowsPath("C:/data"),
    "deque": deque([1, (2, 3)], maxlen=5),
    "deque of deques": deque([deque([1]), deque(maxlen=2)]),
    "defaultdict": [defaultdict(list, {"a": [1]}), defaultdict(deque, b=deque([2]))],
    "defaultdict of nothing": [defaultdict(None, a=1)],
    "OrderedDict": [OrderedDict(b=1, a=2)],
    "Counter": [Counter("aab")],
    "range": range(0, 10**30, 7),
    "slice": slice(1, None, -2),
    "Decimal": Decimal("-1.50e400"),
    "Decimal, not a number": [Decimal("Infinity"), Decimal("-0")],
    "Fraction": Fraction(-22, 7),
    "UUID": UUID(int=7, is_safe=SafeUUID.safe),
    "complex": 1 - 2j,
    "frozenset": frozenset({1, ("a", Path("b"))}),
    "bytearray": bytearray(b"\0\xff"),
    "SimpleNamespace": SimpleNamespace(a=1, b=SimpleNamespace(c=deque([1]))),
    "Namespace": argparse.Namespace(lr=0.1, out=Path("/o"), ranges=[range(3)]),
    "Namespace, empty": argparse.Namespace(),
    "classes": [int, str, float, dict, frozenset, deque, Path, UUID, io.BytesIO, datetime],
    "keys": [{UUID(int=1): 1, range(3): 2, Path("a"): 3, date(2026, 1, 1): 4, Fraction(1, 2): 5, (UUID(int=3),): 6}],
    "members": {UUID(int=5), range(2), timedelta(1)},
    "with arrays": [deque([np.arange(3).tolist(), np.float32(2)]), SimpleNamespace(n=np.int64(4))],
    "with tensors": (deque([torch.arange(3).tolist()]), {"at": datetime(2026, 1, 1, tzinfo=UTC)}),
}


def like(value: Any) -> Any:
    """Return something that is equal where the values are."""
    if isinstance(value, io.BytesIO):
        return type(value), value.getvalue(), value.tell()
    if isinstance(value, (list, tuple, deque)):
        return type(value), getattr(value, "maxlen", None), [like(each) for each in value]
    if isinstance(value, dict):
        return type(value), getattr(value, "default_factory", None), [(like(key), like(value[key])) for key in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, value))
    if isinstance(value, (SimpleNamespace, argparse.Namespace)):
        return type(value), like(vars(value))
    return type(value), value, repr(value)


@pytest.mark.adversary
@pytest.mark.parametrize("way", ["engine", "async", "dcp", "stock"])
def test_common_classes_come_back(tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str) -> None:
    """T F2, F3."""
    state: dict[str, Any] = {name: (value,) for name, value in COMMON.items()}
    found = dict.fromkeys(COMMON)
    if way == "engine":
        dcp_engine.save(state, tmp_path / "c", unloadable="refuse")
    elif way == "async":
        dcp_engine.async_save(state, tmp_path / "c", unloadable="refuse").wait()
    else:
        writer = FileSystemWriter(tmp_path / "c") if way == "stock" else dcp_engine.CheckpointWriter(tmp_path / "c")
        dcp.save(state, storage_writer=writer, no_dist=True)
    if way == "dcp":
        dcp.load(found, storage_reader=dcp_engine.CheckpointReader(tmp_path / "c"), no_dist=True)
    else:
        dcp_engine.load(found, tmp_path / "c")
    assert {name: like(value) for name, value in found.items()} == {name: like((COMMON[name],)) for name in found}
    assert said(caplog) == []


@pytest.mark.adversary
def test_what_holds_itself_comes_back(tmp_path: Path) -> None:
    inner: deque[Any] = deque()
    outer = SimpleNamespace(inner=inner, again=inner)
    inner.extend((outer, [inner]))
    dcp_engine.save({"o": [outer]}, tmp_path / "c")
    found: dict[str, Any] = {"o": None}
    dcp_engine.load(found, tmp_path / "c")
    [back] = found["o"]
    assert back.inner is back.again
    assert back.inner[0] is back
    assert back.inner[1][0] is back.inner


@pytest.mark.adversary
def test_allowed_classes_hold_common_ones(tmp_path: Path) -> None:
    value = (Config(3, deque([UUID(int=1)])), Slotted(UUID(int=2), range(2)), Point(UUID(int=3), Color.RED))
    allow = [Config, Slotted, Point, Color]
    dcp_engine.save({"o": value}, tmp_path / "c", allow=allow, unloadable="refuse")
    found: dict[str, Any] = {"o": None}
    dcp_engine.load(found, tmp_path / "c", allow=allow)
    assert found["o"] == value


# What no plain load takes

REFUSED: Final[dict[str, tuple[Any, str]]] = {
    "an enum": (Color.RED, f"{__name__}.Color"),
    "a dataclass": (Config(), f"{__name__}.Config"),
    "several": ([Config(), Color.RED, {"a": Size.LARGE}], f"{__name__}.Color, {__name__}.Config, {__name__}.Size"),
    "a function": (len, "builtins.len"),
    "a default of its own": ([defaultdict(Config, a=1)], f"{__name__}.Config"),
    "within a deque": (deque([Color.RED]), f"{__name__}.Color"),
    "a class": (Config, f"{__name__}.Config"),
}
UNREADABLE: Final[dict[str, tuple[Any, str]]] = {
    "an array of objects": (np.array([{}, None], dtype=object), "numpy.dtype.O8"),
}
SAVES: Final[dict[str, Callable[..., Any]]] = {
    "save": dcp_engine.save,
    "async_save": lambda *args, **options: dcp_engine.async_save(*args, **options).wait(),
    "dcp.save": lambda state, url, **options: dcp.save(
        state, storage_writer=dcp_engine.CheckpointWriter(url, **options), no_dist=True
    ),
}


@pytest.mark.adversary
@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_what_a_load_refuses_a_save_warns_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, save: Callable[..., Any]
) -> None:
    """F3: entries and classes, all at once, on both sides. B 14: where `allow` does not help nothing says it would."""
    state = {name: (value,) for name, (value, _) in (REFUSED | UNREADABLE).items()}
    save({"w": torch.ones(2), "fine": 3, **state}, tmp_path / "c")
    [words] = said(caplog)
    for name, (_, held) in (REFUSED | UNREADABLE).items():
        assert f"{name} holds {held}" in words
    assert words.endswith("list the classes in `allow`, in the save and in every load.")
    assert "numpy.dtype.O8, which can't be read even if it is in `allow`" in words
    with pytest.raises(StateMismatch) as caught:
        dcp_engine.load({"w": torch.zeros(2), "fine": 0, **dict.fromkeys(state)}, tmp_path / "c")
    for name, (_, held) in (REFUSED | UNREADABLE).items():
        assert f"{name} holds {held}" in str(caught.value)
    assert str(caught.value).endswith(
        "not on the allow-list. If you trust the checkpoint, pass the classes in `allow`."
    )


def test_a_number_that_torch_does_not_read_is_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dcp_engine.save({"big": (1 << 2400,)}, tmp_path / "c")
    assert "big can't be read back, even if" in caplog.text
    with pytest.raises(CheckpointCorrupted, match="big"):
        dcp_engine.load({"big": None}, tmp_path / "c")


@pytest.mark.adversary
def test_a_class_that_is_allowed_and_filled_as_no_load_can(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dcp_engine.save({"cfg": (Stack([1]),)}, tmp_path / "c", allow=[Stack])
    assert f"holds {__name__}.Stack, which can't be read even if it is in `allow`" in caplog.text
    with pytest.raises(StateMismatch, match="even if it is in `allow`"):
        dcp_engine.load({"cfg": None}, tmp_path / "c", allow=[Stack])


def test_what_is_allowed_is_saved_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    value = (Config(), Color.RED, UserList([1]))
    for number, save in enumerate(SAVES.values()):
        save({"cfg": value}, tmp_path / str(number), allow=[Config, Color, UserList])
    assert said(caplog) == []


@pytest.mark.adversary
@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_a_save_that_refuses_writes_nothing(tmp_path: Path, save: Callable[..., Any]) -> None:
    state = {"w": torch.ones(2), "cfg": (Config(),), "more": (Color.RED, Size.LARGE)}
    with pytest.raises((UnsavableState, CheckpointException)) as caught:
        save(state, tmp_path / "c", unloadable="refuse")
    message = str(caught.value)
    assert all(
        each in message for each in (f"cfg holds {__name__}.Config", f"{__name__}.Color, {__name__}.Size", "`allow`")
    )
    assert [*tmp_path.rglob("*.distcp")] == []


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ValueError("I stay here")


def test_what_cant_be_pickled_is_named(tmp_path: Path) -> None:
    state = {"a": {"b": [Unpicklable()]}, "c": (lambda: 0,)}
    with pytest.raises(
        UnsavableState, match=r"a\.b\S* can't be pickled: ValueError: I stay here; c can't be pickled: "
    ):
        dcp_engine.save(state, tmp_path / "c")
    assert dcp_engine.find(tmp_path / "c") is None


def test_text_that_looks_like_a_class_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dcp_engine.save({"log": ("cat\ndog\ncos\nsystem\n", b"cmy\nConfig\n", "O8V16")}, tmp_path / "c")
    assert said(caplog) == []


# Crafted objects


def called(name: str, *arguments: bytes) -> bytes:
    return b"c%s\n(%stR" % (name.replace(" ", "\n").encode(), b"".join(arguments))


def text(value: str) -> bytes:
    return b"X%s%s" % (len(value).to_bytes(4, "little"), value.encode())


def raw(*values: int) -> bytes:
    return called("_codecs encode", text(bytes(values).decode("latin1")), text("latin1"))


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a%c%s" % (size, value.to_bytes(size, "little", signed=True))


def built(name: str, state: bytes, new: bytes = b")\x81") -> bytes:
    return b"c%s\n%s%sb" % (name.replace(" ", "\n").encode(), new, state)


def pair(key: bytes, value: bytes) -> bytes:
    return b"}" + key + value + b"s"


NONE, LIST = b"N", b"]"
LONG: Final = called("__builtin__ range", number(0), number(1 << 31), number(1))
CRAFTED: Final = {
    "a range as members": called("__builtin__ set", LONG),
    "a range as frozen members": called("__builtin__ frozenset", LONG),
    "a range as a size": called("torch Size", LONG),
    "a range counted": called("collections Counter", LONG),
    "a range in order": called("collections OrderedDict", LONG),
    "a range in a deque": called("collections deque", LONG),
    "a range as bytes": called("__builtin__ bytearray", LONG),
    "a range listed": called("__builtin__ list", LONG),
    "a range of text": called("__builtin__ range", text("a"), number(1), number(1)),
    "a range that is filled": LONG + b"}b",
    "a fraction with an exponent": called("fractions Fraction", text("1e999999999")),
    "a fraction over nothing": called("fractions Fraction", number(1), number(0)),
    "a fraction of fractions": called("fractions Fraction", b"G?\xf0\0\0\0\0\0\0"),
    "a decimal of parts": called("decimal Decimal", b"(K\0K\x01\x85K\x7ft"),
    "no decimal": called("decimal Decimal", text("a")),
    "a deque of no length": called("collections deque", b")", number(-1)),
    "a deque that is too long": called("collections deque", b")", number(1 << 80)),
    "a default that runs": called("collections defaultdict", b"c_codecs\nencode\n"),
    "a default that asks": called("collections defaultdict", b"cdatetime\ndate\n"),
    "a default of a stranger's": called("collections defaultdict", b"cos\nsystem\n"),
    "a date of no month": called("datetime date", raw(7, 1, 99, 1)),
    "a date of no day": called("datetime date", raw(7, 1, 1, 99)),
    "a date of no year": called("datetime date", raw(0, 0, 1, 1)),
    "a time of no hour": called("datetime time", raw(99, 1, 1, 1, 1, 1)),
    "a datetime of no day": called("datetime datetime", raw(7, 1, 1, 99, 1, 1, 1, 1, 1, 1)),
    "a datetime of no zone": called("datetime datetime", raw(7, 1, 1, 1, 1, 1, 1, 1, 1, 1), number(1)),
    "an endless time": called("datetime timedelta", number(1 << 900), number(0), number(0)),
    "a zone of no offset": called("datetime timezone", number(1)),
    "a zone far away": called("datetime timezone", called("datetime timedelta", number(99), number(0), number(0))),
    "a path of numbers": called("pathlib PosixPath", number(1)),
    "a path that is filled": called("pathlib PosixPath", text("a")) + pair(text("_drv"), number(1)) + b"b",
    "a file at no place": built("_io BytesIO", b"(" + raw(97) + number(1 << 40) + b"Nt"),
    "a file of no bytes": built("_io BytesIO", b"(K\x01K\0Nt"),
    "a file of nothing": b"c_io\nBytesIO\n)\x81",
    "a uuid of text": built("uuid UUID", pair(text("int"), text("a"))),
    "a uuid of nothing": b"cuuid\nUUID\n)\x81",
    "a uuid that is too long": built("uuid UUID", pair(text("int"), number(1 << 900))),
    "a slice of lists": called("__builtin__ slice", LIST, LIST, LIST),
    "a frozenset of text": called("__builtin__ frozenset", text("ab")),
    "a namespace of numbers": built("types SimpleNamespace", pair(number(1), number(1)), b")R"),
    "a class that is filled": built("argparse Namespace", pair(text("a"), number(1)), b""),
    "a class that is called": called("__builtin__ int", text("1")),
    "uuids that collide": called(
        "__builtin__ set",
        b"](%se" % b"".join(built("uuid UUID", pair(text("int"), number(((1 << 61) - 1) * n))) for n in range(60_000)),
    ),
}


@pytest.mark.adversary
@pytest.mark.parametrize("crafted", CRAFTED.values(), ids=CRAFTED)
def test_crafted_objects_are_refused_soon(tmp_path: Path, crafted: bytes) -> None:
    dcp_engine.save({"o": ("x" * 200,)}, tmp_path / "saved")
    pickled = b"\x80\x02" + crafted + b"."
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name, data in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n")):
            packed.writestr(f"archive/{name}", data)
    assert bytes(torch_zip_read.pickle_in(torch_zip_read.members(stream.getbuffer()))) == pickled
    place = tmp_path / "c"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save({"o": stream}, checkpoint_id=place, planner=AsIs(), no_dist=True)
    began = time.monotonic()
    with pytest.raises((CheckpointCorrupted, StateMismatch)) as caught:
        dcp_engine.load({"o": None}, place)
    assert time.monotonic() - began < 20, "the limits are 2 s of the processor and one start of an interpreter"
    assert "o" in str(caught.value)


class AsIs(dcp.DefaultSavePlanner):
    """Writes bytes as they are given."""

    def transform_object(self, write_item: Any, object: Any) -> Any:  # noqa: A002 - torch's name
        del write_item
        return object


@pytest.mark.adversary
def test_what_is_allowed_is_so_for_one_load(tmp_path: Path) -> None:
    dcp_engine.save({"o": (Config(),)}, tmp_path / "c", allow=[Config])
    before = {*torch.serialization.get_safe_globals()}
    dcp_engine.load({"o": None}, tmp_path / "c", allow=[Config])
    assert {*torch.serialization.get_safe_globals()} == before
    with pytest.raises(StateMismatch):
        dcp_engine.load({"o": None}, tmp_path / "c")
