"""A Hypothesis state machine: saves, replaces, failures, kills and loads of one URL, against a model of one value."""

import os
import shutil
import signal
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import dcp_engine
from dcp_engine import failpoints
from dcp_engine.commit.replaced import AT_MOST
from dcp_engine.errors import CheckpointExists, CheckpointNotFound, StorageFull

pytestmark = pytest.mark.tier("ranks")

BEFORE = ["planning", "mid-part", "before manifest", "before commit"]
AFTER = ["after commit", "before removal"]
NONE = timedelta(0)
KEEP = st.sampled_from([NONE, timedelta(hours=1)])


def _state(seed: int) -> dict[str, Any]:
    return {"w": torch.full((3000,), float(seed)), "step": seed}


class Checkpoints(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.url = str(self.folder / "checkpoint")
        self.committed: int | None = None
        self.seed = 0

    def teardown(self) -> None:
        failpoints.hook = None
        shutil.rmtree(self.folder)

    def _next(self) -> dict[str, Any]:
        self.seed += 1
        return _state(self.seed)

    @rule(overwrite=st.booleans(), keep=KEEP)
    def save(self, *, overwrite: bool, keep: timedelta) -> None:
        state = self._next()
        try:
            info = dcp_engine.save(state, self.url, overwrite=overwrite, step=self.seed, keep_replaced=keep)
        except CheckpointExists as error:
            refused = error.conflict
        else:
            assert overwrite or self.committed is None
            assert info.step == self.seed
            self.committed = self.seed
            return
        assert not overwrite
        assert self.committed is not None
        assert refused is not None

    @rule(point=st.sampled_from(BEFORE), overwrite=st.booleans(), keep=KEEP)
    def fail_a_save(self, point: str, *, overwrite: bool, keep: timedelta) -> None:
        before = self._files()

        def hook(reached: str) -> None:
            if reached == point:
                raise OSError(28, "No space left on device")

        failpoints.hook = hook
        try:
            dcp_engine.save(self._next(), self.url, overwrite=overwrite, keep_replaced=keep)
        except StorageFull:
            pass
        except CheckpointExists:
            assert not overwrite
            assert self.committed is not None
        else:
            raise AssertionError(point)
        finally:
            failpoints.hook = None
        assert self._files() == before

    @rule(point=st.sampled_from([*BEFORE, *AFTER]), overwrite=st.booleans(), keep=KEEP)
    def kill_a_save(self, point: str, *, overwrite: bool, keep: timedelta) -> None:
        state = self._next()
        child = os.fork()
        if not child:
            torch.set_num_threads(1)
            failpoints.hook = lambda reached: os.kill(os.getpid(), signal.SIGKILL) if reached == point else None
            try:
                dcp_engine.save(state, self.url, overwrite=overwrite, keep_replaced=keep)
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        refused = self.committed is not None and not overwrite
        reached = os.WIFSIGNALED(status)
        if point in AFTER and not refused and (reached or point == "before removal"):
            self.committed = self.seed

    @rule(keep=st.sampled_from([None, NONE]))
    def clean(self, keep: timedelta | None) -> None:
        dcp_engine.clean(self.url, older_than=NONE, keep_replaced=keep)
        saves = len(list(Path(self.url).glob("data-*")))
        if keep is None:
            assert saves <= (self.committed is not None) + AT_MOST
        else:
            assert saves == (self.committed is not None)
            assert len(list(Path(self.url).glob("*"))) == 2 * saves

    @rule()
    def load(self) -> None:
        found: dict[str, Any] = {"w": torch.zeros(3000), "step": 0}
        try:
            info = dcp_engine.load(found, self.url)
        except CheckpointNotFound:
            assert self.committed is None
        else:
            assert self.committed == found["step"]
            assert torch.equal(found["w"], _state(found["step"])["w"])
            assert info.save_id

    @rule()
    def verify(self) -> None:
        if self.committed is not None:
            dcp_engine.verify(self.url)

    @invariant()
    def found_is_what_was_committed(self) -> None:
        assert (dcp_engine.find(self.url) is None) == (self.committed is None)

    def _files(self) -> list[str]:
        return sorted(str(path) for path in self.folder.rglob("*") if path.is_file())


class ManyCheckpoints(Checkpoints):
    """The same, looked at longer."""


def _settings(max_examples: int) -> settings:
    return settings(
        max_examples=max_examples, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
    )


TestCheckpoints = Checkpoints.TestCase
TestCheckpoints.settings = _settings(20)
TestManyCheckpoints = pytest.mark.tier("matrix")(ManyCheckpoints.TestCase)
TestManyCheckpoints.settings = _settings(60)
