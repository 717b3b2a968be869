"""The seed's rows on the file system layer: what a store does with a path, a failed write and a failed read."""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcp_engine.errors import InvalidOption
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import Store

Place = tuple[str, dict[str, Any]]
PART = 5 << 20
"""The smallest part that S3 takes."""


class Failed(Exception):
    """The writer's or the reader's own trouble."""


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.tier("ranks")), "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return str(tmp_path / "checkpoint"), {}
    if request.param == "memory":
        return f"memory://{tmp_path.name}", {}
    server = request.getfixturevalue("s3")
    return server.url(f"{tmp_path.name}/checkpoint"), server.options


@pytest.fixture
def store(place: Place) -> Store:
    url, options = place
    return open_store(url, options)


def listed(store: Store) -> dict[str, int]:
    return {entry.path: entry.size for entry in store.list("")}


def content(store: Store, path: str, size: int) -> bytes:
    target = bytearray(size)
    for _ in store.fill(path, 0, [memoryview(target)]):
        pass
    return bytes(target)


def failing(*chunks: bytes) -> Iterator[bytes]:
    yield from chunks
    raise Failed


def test_init_makes_nothing(place: Place, tmp_path: Path) -> None:
    url, options = place
    assert listed(open_store(url, options)) == {}
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("form", ["{}", "file://{}", "{}/"])
def test_init_takes_a_path_and_a_url(tmp_path: Path, form: str) -> None:
    open_store(form.format(tmp_path / "a b")).write("data/x", [b"12"], part_size=PART, parallel=1)
    assert (tmp_path / "a b" / "data" / "x").read_bytes() == b"12"


@pytest.mark.parametrize("url", ["s4://bucket/x", "file://host/x"])
def test_init_refuses_what_it_can_not_open(url: str) -> None:
    with pytest.raises(InvalidOption):
        open_store(url)


def test_concat(place: Place, store: Store) -> None:
    """A path is below the URL, whether or not this ends with a slash, and a nested one makes its folders."""
    url, options = place
    store.write("data-1/__0_0.distcp", [b"abc"], part_size=PART, parallel=1)
    assert listed(store) == {"data-1/__0_0.distcp": 3}
    assert listed(open_store(f"{url}/", options)) == {"data-1/__0_0.distcp": 3}
    assert listed(open_store(f"{url}/data-1", options)) == {"__0_0.distcp": 3}
    assert content(store, "data-1/__0_0.distcp", 3) == b"abc"


@pytest.mark.parametrize(
    "chunks",
    [[], [b"aaa"], [bytes(PART), b"more than one part"], [bytes(PART)] * 4],
    ids=["at once", "in the first part", "in the second part", "in the fifth part"],
)
def test_a_failed_write_leaves_no_file(
    place: Place, store: Store, request: pytest.FixtureRequest, chunks: list[bytes]
) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - libraries wrap it as they like
        store.write("writeable", failing(*chunks), part_size=PART, parallel=2)
    assert isinstance(caught.value, Failed) or "Failed" in repr(caught.value)
    assert listed(store) == {}
    with pytest.raises(FileNotFoundError):
        store.read("writeable")
    if place[0].startswith("s3"):
        server = request.getfixturevalue("s3")
        assert server.uploads(place[0].removeprefix(f"s3://{server.bucket}/")) == []


def test_a_failed_read_leaves_the_file(store: Store) -> None:
    store.write("readable", [b"bbb"], part_size=PART, parallel=1)
    assert listed(store) == {"readable": 3}
    target = bytearray(3)
    reading = store.fill("readable", 0, [memoryview(target)])
    next(reading)
    assert isinstance(reading, Generator)
    with pytest.raises(Failed):
        reading.throw(Failed)
    assert content(store, "readable", 3) == b"bbb"
    with pytest.raises(EOFError):
        content(store, "readable", 4)
    assert listed(store) == {"readable": 3}


def test_a_failed_create_leaves_the_first_file(store: Store) -> None:
    store.create("once", b"first")
    with pytest.raises(FileExistsError):
        store.create("once", b"second")
    assert store.read("once").data == b"first"
    assert listed(store) == {"once": 5}
