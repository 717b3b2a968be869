"""What an entry's pickle calls: `torch.load` would run it, so a look before refuses what takes more than is stored."""

import argparse
import io
import pickle
import struct
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from dcp_engine.format import sandbox, torch_zip_read
from dcp_engine.transfer import decode

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.adversary]
MANY = 10**10


def name(module: str, called: str) -> bytes:
    return f"c{module}\n{called}\n".encode()


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def called(module: str, what: str, *arguments: bytes) -> bytes:
    return name(module, what) + b"(" + b"".join(arguments) + b"tR"


def storage(count: int = 4, kind: str = "Float", key: bytes = text("0")) -> bytes:
    module = "torch.storage" if kind in {"Untyped", "Typed"} else "torch"
    return b"(" + text("storage") + name(module, f"{kind}Storage") + key + text("cpu") + number(count) + b"tQ"


def tensor(size: bytes, stride: bytes, offset: int = 0, of: bytes | None = None) -> bytes:
    return called("torch._utils", "_rebuild_tensor_v2", of or storage(), number(offset), size, stride, b"\x89", b"N")


def of_type(dtype: str, size: int, of: bytes) -> bytes:
    parts = (of, number(0), numbers(size), numbers(1), b"\x89", b"N", name("torch", dtype))
    return called("torch._utils", "_rebuild_tensor_v3", *parts)


def again(made: bytes, call: bytes, times: int = 1000) -> bytes:
    """Give one thing to a call again and again."""
    return made + b"q\x01]q\x02(" + call * times + b"e"


def given(module: str, what: str) -> bytes:
    return name(module, what) + b"h\x01\x85R"


LIST = b"](" + b"K\x01" * 1000 + b"e"
BYTES = called("_codecs", "encode", text("a" * 1000), text("latin1"))
BOMBS = {
    "a tensor of a size": called("torch", "Tensor", number(MANY)),
    "a tensor of a size, made anew": name("torch", "Tensor") + numbers(MANY) + b"\x81",
    "a tensor of a type and size": called("torch", "FloatTensor", number(MANY)),
    "a tensor on a GPU": called("torch.cuda", "FloatTensor", number(MANY)),
    "a sparse tensor of a size": called("torch.sparse", "FloatTensor", number(MANY), number(MANY)),
    "a storage of a size": called("torch.storage", "UntypedStorage", number(MANY)),
    "a storage of a size, made anew": name("torch.storage", "UntypedStorage") + numbers(MANY) + b"\x81",
    "a typed storage of a size": called("torch.storage", "TypedStorage", number(MANY)),
    "by another call": called(
        "torch._tensor", "_rebuild_from_type_v2", name("torch", "Tensor"), name("torch", "Tensor"), numbers(MANY), b"N"
    ),
    "its name cut elsewhere": called("torch", "storage.UntypedStorage", number(MANY)),
    "bytes that are counted": called("__builtin__", "bytearray", number(1 << 25)),
    "larger than its storage": tensor(numbers(MANY), numbers(1)),
    "behind its storage": tensor(numbers(4), numbers(1), 1),
    "strides beyond its storage": tensor(numbers(2), numbers(MANY)),
    "negative": tensor(numbers(-1), numbers(1)),
    "sizes that are one number": tensor(number(4), number(1)),
    "expanded": tensor(numbers(1 << 40), numbers(0)),
    "expanded, then copied": called(
        "torch._utils",
        "_rebuild_device_tensor_from_cpu_tensor",
        tensor(numbers(1 << 20), numbers(0)),
        name("torch", "complex128"),
        text("cpu"),
        b"\x89",
    ),
    "windows of windows": tensor(numbers(*[2] * 30), numbers(*[0] * 30)),
    "a wider type": of_type("complex128", 4, storage()),
    "a type that is not known": of_type("something", 16, storage(16, "Untyped")),
    "set anew": tensor(numbers(4), numbers(1)) + b"(" + storage() + number(0) + numbers(MANY) + numbers(1) + b"tb",
    "a storage of more than is stored": storage(5),
    "a storage that is not there": storage(1, key=text("1")),
    "a storage of a key that is no text": storage(4, key=b"K\x00"),
    "a storage of another type": storage() + b"}" + text("dtype") + name("torch", "complex128") + b"sb",
    "one storage again and again": b"]("
    + storage(1024, key=text("2"))
    + storage(1, key=text("2"))
    + storage((1024) - 1, key=text("2")) * 1000
    + b"e",
    "a set again and again": again(LIST, given("builtins", "set")),
    "a set by its old name": again(LIST, given("__builtin__", "set")),
    "a dict by its old name": again(
        b"}(" + b"".join(b"M" + struct.pack("<H", n) + b"N" for n in range(999)) + b"u",
        given("UserDict", "OrderedDict"),
    ),
    "bytes again and again": again(BYTES, given("__builtin__", "bytearray")),
    "an array again and again": again(
        b"(K\x01" + numbers(1000) + b"N\x89" + BYTES + b"t",
        given("numpy.core.multiarray", "_reconstruct") + b"h\x01b",
    ),
    "attributes again and again": again(
        b"}(" + b"".join(text(f"a{n}") + b"N" for n in range(999)) + b"u",
        name("argparse", "Namespace") + b")\x81h\x01b",
    ),
    "a path again and again": again(text("a" * 1000), given("pathlib", "PosixPath")),
    "a state again and again": again(
        b"}(" + b"".join(text(f"a{n}") + b"N" for n in range(999)) + b"u",
        name("collections", "OrderedDict") + b")Rh\x01b",
    ),
    "members of a tensor": called("__builtin__", "set", tensor(numbers(4), numbers(1))),
}
STORED = (("0", 16), ("2", 4096))


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_call_that_takes_more_than_is_stored_is_refused(bomb: str) -> None:
    with pytest.raises(sandbox.Harmful):
        sandbox.examine([sandbox.Pickled(b"\x80\x02" + BOMBS[bomb] + b".", STORED)])


class Holder:
    def __init__(self) -> None:
        self.values = list(range(1000))


VALUES: dict[str, Callable[[], object]] = {
    "tensors": lambda: [
        torch.arange(6.0).view(2, 3).t(),
        torch.zeros(0, 3),
        torch.tensor(1),
        torch.zeros(3, dtype=torch.bool),
    ],
    "types": lambda: [
        torch.zeros(3).to(kind) for kind in (torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.uint16)
    ],
    "expanded": lambda: torch.zeros(1).expand(1000, 1000),
    "windows": lambda: torch.arange(1000).unfold(0, 100, 1),
    "one storage": lambda: [torch.arange(10)[2:5], torch.arange(10).view(2, 5)],
    "a parameter": lambda: [torch.nn.Parameter(torch.ones(3)), torch.nn.Buffer(torch.ones(2))],
    "sparse": lambda: torch.eye(3).to_sparse(),
    "sparse rows": lambda: torch.eye(3).to_sparse_csr(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
    "meta": lambda: torch.empty(1 << 40, device="meta"),
    "storages": lambda: torch.arange(4).untyped_storage(),
    "a state dict": lambda: torch.nn.Linear(3, 4).state_dict(),
    "an optimizer": lambda: torch.optim.SGD([torch.nn.Parameter(torch.ones(2))]).state_dict(),
    "arrays": lambda: [
        np.zeros(10_000),
        np.arange(10),
        np.float32(1),
        np.array(["a", "b"]),
        np.datetime64("2026-11-26"),
    ],
    "bytes": lambda: [b"\xff" * 10_000, bytearray(b"\x00" * 10_000), b"", bytearray()],
    "containers": lambda: [
        {1, 2},
        frozenset({3}),
        Counter("abc"),
        OrderedDict(a=1),
        defaultdict(list, a=[1]),
        deque([1], 3),
    ],
    "many members": lambda: [set(range(10_000)), Counter(range(10_000)), OrderedDict.fromkeys(range(10_000))],
    "times": lambda: [datetime(2026, 11, 26, tzinfo=UTC), timedelta(3)],
    "numbers": lambda: [Decimal("1.5"), Fraction(1, 3), 10**200, complex(1, 2), range(10**12), slice(1, None)],
    "paths": lambda: [Path("/a/b/c") / str(n) for n in range(1000)],
    "an id": uuid.uuid4,
    "sizes": lambda: [torch.Size([2, 3]), torch.Size([]), torch.float32, torch.device("cpu"), torch.strided],
    "attributes": lambda: argparse.Namespace(a=1, b=list(range(1000))),
    "own classes": lambda: [Holder() for _ in range(3)],
}


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.filterwarnings("ignore")
def test_what_torch_saves_is_found_harmless(value: str) -> None:
    saved = io.BytesIO()
    torch.save(VALUES[value](), saved)
    found = torch_zip_read.members(saved.getbuffer())
    pickled = bytes(torch_zip_read.pickle_in(found))
    sandbox.examine([sandbox.Pickled(pickled, torch_zip_read.storages_in(found))])
    if value not in {"own classes", "storages"}:
        saved.seek(0)
        decode.decode(value, "", saved)
