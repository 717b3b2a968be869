"""A folder of safetensors as rank 0 sees it for all."""

import json
from pathlib import Path

from dcp_engine.commit import safetensors_folder
from dcp_engine.format.safetensors import INDEX, SINGLE, StoredTensor, header
from dcp_engine.stores.opening import open_store


def write(path: Path, values: int) -> None:
    """Write a file with one tensor of so many bytes."""
    path.write_bytes(header([StoredTensor("w", "uint8", (values,))], {}) + b"1" * values)


def test_it_knows_which_version_of_each_file_it_has_looked_into(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    write(tmp_path / "a.safetensors", 4)
    found = safetensors_folder.read(store, None)
    assert found.versions == {"a.safetensors": store.read("a.safetensors").version}
    write(tmp_path / "a.safetensors", 8)
    assert found.versions != {"a.safetensors": store.read("a.safetensors").version}
    write(tmp_path / SINGLE, 8)
    assert safetensors_folder.read(store, None).versions == {SINGLE: store.read(SINGLE).version}
