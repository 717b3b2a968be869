"""Places that checkpoints are copied from and to, and what is done there in tests."""

from pathlib import Path
from typing import Any, Final

import pytest

import dcp_engine
from dcp_engine.stores.opening import open_store
from engine_places import SIZE, Place

PAIRS: Final = ["file to file", "file to s3", "s3 to s3", "s3 to memory"]


def place_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path, name: str) -> Place:
    if kind == "s3":
        server = request.getfixturevalue("s3")
        return Place(server.url(f"{tmp_path.name}/{name}"), server.options)
    return Place(f"memory://{tmp_path.name}/{name}" if kind == "memory" else str(tmp_path / name), None)


def pair_of(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Place, Place]:
    """Return the two places that a fixture's parameter, one of PAIRS, names."""
    source, _, destination = request.param.partition(" to ")
    return place_of(source, request, tmp_path, "source"), place_of(destination, request, tmp_path, "copy")


def copied(source: Place, destination: Place, **more: Any) -> Any:
    return dcp_engine.copy(
        source.url, destination.url, source_options=source.options, storage_options=destination.options, **more
    )


def data(place: Place) -> dict[str, bytes]:
    store = open_store(place.url, place.options)
    return {path: store.read(path).data for path in place.files()}


def damage(place: Place, path: str, at: int = SIZE) -> None:
    store = open_store(place.url, place.options)
    changed = bytearray(store.read(path).data)
    changed[at] ^= 1
    store.delete([path])
    store.write(path, [bytes(changed)], part_size=1 << 30, parallel=1)
