"""What hosts with mounts of their own see alike of a file."""

import os
import pickle
import shutil
from pathlib import Path

from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import of_any_host


def test_an_inode_is_of_one_mount(tmp_path: Path) -> None:
    """As of a file in an image, of which each node has a copy."""
    (tmp_path / "one").mkdir()
    (tmp_path / "one/file").write_bytes(b"1234")
    shutil.copytree(tmp_path / "one", tmp_path / "other")

    def seen(host: str) -> object:
        return pickle.loads(pickle.dumps(open_store(str(tmp_path / host)).read("file").version))

    assert seen("one") != seen("other")
    assert of_any_host(seen("one")) == of_any_host(seen("other"))
    os.utime(tmp_path / "other/file", (0, 0))
    assert of_any_host(seen("one")) != of_any_host(seen("other"))
    assert of_any_host({"e_tag": "x"}) == {"e_tag": "x"}
