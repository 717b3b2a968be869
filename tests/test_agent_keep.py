"""What an agent removes by itself: after every commit, also after one that comes while it removes."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import dcp_engine
from dcp_agent.keeping import Keep, Remover

pytestmark = pytest.mark.tier("ranks")


def test_a_commit_during_a_look_brings_another_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the last one of the training."""
    looks, go_on = threading.Semaphore(0), threading.Event()
    list_checkpoints = dcp_engine.list_checkpoints

    def listed(*where: Any, **options: Any) -> Any:
        found = list_checkpoints(*where, **options)
        looks.release()
        assert go_on.wait(10)
        return found

    def commit(step: int) -> None:
        dcp_engine.save({"weights": torch.zeros(2)}, tmp_path / f"step-{step}", step=step, no_dist=True)
        remover.committed()

    monkeypatch.setattr(dcp_engine, "list_checkpoints", listed)
    remover = Remover(str(tmp_path), Keep(last=1), None, lambda: True)
    commit(1)
    assert looks.acquire(timeout=10)
    commit(2)
    go_on.set()
    remover.close()
    assert [each.step for each in list_checkpoints(tmp_path)] == [2]
