"""Config files that go along with an export: those of a model that stands at the URL are never written over."""

from pathlib import Path

import pytest

from dcp_engine.errors import CheckpointExists
from dcp_engine.stores.opening import open_store
from dcp_engine.transfer import config_files


@pytest.mark.parametrize(
    "weights", ["model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]
)
def test_a_model_in_any_form_keeps_its_config_files(tmp_path: Path, weights: str) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / "config.json").write_bytes(b"its own")
    (tmp_path / weights).write_bytes(b'{"weight_map": {}}')
    for step in (config_files.refuse_others, config_files.write):
        with pytest.raises(CheckpointExists, match=r"a model whose config\.json is another one"):
            step(store, {"config.json": b"another"})
        step(store, {"config.json": b"its own"})
    assert (tmp_path / "config.json").read_bytes() == b"its own"


def test_what_an_export_left_that_came_to_nothing_is_written_over(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    (tmp_path / "config.json").write_bytes(b"of a failed one")
    files = {"config.json": b"another"}
    config_files.refuse_others(store, files)
    config_files.write(store, files)
    assert (tmp_path / "config.json").read_bytes() == b"another"
