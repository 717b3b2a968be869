"""Files of safetensors as bytes: ours are read by the library, and what a stranger wrote is read in bounds."""

import importlib
import json
import struct
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_contract.checkpoint_info import Origin
from dcp_engine.errors import InvalidOption, StateMismatch
from dcp_engine.format import safetensors
from dcp_engine.format.key_mapping import KeyMapping
from dcp_engine.format.safetensors import BYTES, CODES, ModelIndex, StoredTensor

ENTRIES: Final = st.lists(
    st.tuples(st.text(min_size=1), st.sampled_from(sorted(CODES)), st.lists(st.integers(0, 4), max_size=3)),
    unique_by=lambda each: each[0],
)


@settings(deadline=None)
@given(ENTRIES)
def test_the_library_finds_each_tensor_where_we_put_it(given: list[tuple[str, str, list[int]]]) -> None:
    library: Any = importlib.import_module("safetensors")
    entries = safetensors.in_file_order(StoredTensor(name, dtype, tuple(shape)) for name, dtype, shape in given)
    values = {each.name: bytes([number % 251] * each.size) for number, each in enumerate(entries)}
    data = safetensors.header(entries, {"format": "pt"}) + b"".join(values[each.name] for each in entries)
    found = dict(library.deserialize(data))
    assert {name: bytes(each["data"]) for name, each in found.items()} == values
    assert {name: each["dtype"] for name, each in found.items()} == {each.name: CODES[each.dtype] for each in entries}
    length = safetensors.header_length(data)
    parsed = safetensors.parse_header(data[8 : 8 + length], len(data) - 8 - length)
    assert {name: entry for name, (entry, _) in parsed.items()} == {each.name: each for each in entries}
    assert all(start % BYTES[entry.dtype] == 0 for entry, start in parsed.values() if entry.size), "aligned"
    assert length % 8 == 0


HEADERS: Final[dict[str, tuple[Any, str]]] = {
    "no JSON": (b"{", "Expecting property name"),
    "a list": ([], "not a header"),
    "a type that torch has not": ({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}, "type F4"),
    "more bytes than the file": ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, "a does not lie"),
    "fewer bytes than values": ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 4]}}, "a does not lie"),
    "a negative size": ({"a": {"dtype": "U8", "shape": [-1], "data_offsets": [0, -1]}}, "sizes that can't be"),
    "a fraction": ({"a": {"dtype": "U8", "shape": [1.5], "data_offsets": [0, 1]}}, "sizes that can't be"),
    "shared bytes": (
        {
            "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
            "b": {"dtype": "U8", "shape": [4], "data_offsets": [3, 7]},
        },
        "b shares bytes",
    ),
}


@pytest.mark.adversary
@pytest.mark.parametrize(("header", "words"), HEADERS.values(), ids=HEADERS)
def test_a_header_that_lies_is_refused(header: Any, words: str) -> None:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    with pytest.raises(ValueError, match=words):
        safetensors.parse_header(data, 8)


@pytest.mark.adversary
@pytest.mark.parametrize("data", [b"", b"1234567", struct.pack("<Q", 1 << 62), struct.pack("<Q", 0)])
def test_a_beginning_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="safetensors"):
        safetensors.header_length(data)


def test_shards_keep_the_order_and_the_limit() -> None:
    entries = [StoredTensor(name, "float32", (size,)) for name, size in zip("abcdef", (2, 2, 9, 1, 1, 0), strict=True)]
    names = [[each.name for each in shard] for shard in safetensors.shards(entries, 20)]
    assert names == [["a", "b"], ["c"], ["d", "e", "f"]]
    assert safetensors.shards([], 20) == [[]]


@pytest.mark.adversary
@given(ENTRIES, st.integers(1, 2000))
def test_no_header_is_longer_than_its_limit(given: list[tuple[str, str, list[int]]], limit: int) -> None:
    """Readers refuse a file with a longer one: that of a million tensors of a few bytes each is."""
    entries = [StoredTensor(name, dtype, tuple(shape)) for name, dtype, shape in given]
    for shard in safetensors.shards(entries, 1 << 60, limit):
        assert len(shard) == 1 or len(safetensors.header(shard, {"format": "pt"})) <= limit + 48


def test_an_index_comes_back_as_it_was() -> None:
    origin = Origin(namespace="n", name="x", uid="u")
    index = ModelIndex(files={"a": "f"}, total_size=4, export_id="e" * 32, origin=origin, replaced=("r" * 32,))
    assert ModelIndex.decode(index.encode()) == index
    assert ModelIndex.decode(b'{"metadata": {"total_size": 1.0}, "weight_map": {"a": "f"}}').files == {"a": "f"}


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"weight_map": {"a": 1}}', b'{"weight_map": 3}', b"[" * 90_000])
def test_what_is_no_index_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"index|Expecting|no text"):
        ModelIndex.decode(data)


def test_only_shards_of_exports_have_their_names() -> None:
    mine = safetensors.shard_name("0" * 32, 3, 12)
    assert (mine, safetensors.export_of(mine)) == (f"model-{'0' * 32}-00003-of-00012.safetensors", "0" * 32)
    others = ["model.safetensors", "model-00001-of-00002.safetensors", f"x/{mine}", f"{mine}.tmp"]
    assert not any(map(safetensors.export_of, others))


TABLES: Final[dict[str, tuple[dict[str, str], dict[str, str]]]] = {
    "a prefix goes": ({"model.*": "*"}, {"model.a.w": "a.w", "model.b": "b"}),
    "the first line counts": ({"model.b": "x", "model.*": "y.*"}, {"model.a.w": "y.a.w", "model.b": "x"}),
    "stars in their order": ({"*.*.w": "*_*"}, {"model.a.w": "model_a"}),
    "a star may be dropped": ({"model.*.*": "*"}, {"model.a.w": "a"}),
    "letters that mean something in a pattern": ({"op[0]+(x)": "y"}, {"op[0]+(x)": "y"}),
}


@pytest.mark.parametrize(("table", "expected"), TABLES.values(), ids=TABLES)
def test_names_become_others(table: dict[str, str], expected: dict[str, str]) -> None:
    assert KeyMapping(table).renamed(["model.a.w", "model.b", "op[0]+(x)"]) == expected


def test_a_table_that_chooses_nothing_or_loses_something_is_refused() -> None:
    with pytest.raises(StateMismatch, match=r"nothing is chosen by x\.\*; there are a, b"):
        KeyMapping({"*": "*", "x.*": "*"}).renamed(["a", "b"])
    with pytest.raises(InvalidOption, match="a and b both become c"):
        KeyMapping({"*": "c"}).renamed(["a", "b"])
    with pytest.raises(InvalidOption, match="more stars"):
        KeyMapping({"a": "*"})
