"""Which devices the engine waits for, and which device its threads work on: by a runtime that writes down its calls."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._shard.sharded_tensor import (  # type: ignore[attr-defined] # torch exports nothing by name
    Shard,
    init_from_local_shards,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

import dcp_engine
from dcp_engine.transfer import devices

pytestmark = pytest.mark.tier("ranks")

OWN = torch.device("cuda", 3)
"""The device of the rank; the tensors of these tests lie on `cpu`, which counts as another one."""


@dataclass
class Recorder:
    """A runtime in which the CPU is an accelerator."""

    host: frozenset[str] = frozenset({"meta"})
    calls: list[tuple[str, str, torch.device]] = field(default_factory=list)
    device: threading.local = field(default_factory=threading.local)

    def current(self) -> torch.device | None:
        return getattr(self.device, "current", None)

    def use(self, device: torch.device) -> None:
        self.device.current = device
        self.calls.append(("use", _thread(), device))

    def synchronize(self, device: torch.device) -> None:
        self.calls.append(("synchronize", _thread(), device))

    def of(self, call: str) -> set[tuple[str, torch.device]]:
        return {(thread, device) for name, thread, device in self.calls if name == call}


def _thread() -> str:
    return threading.current_thread().name.partition("_")[0]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    found = Recorder()
    found.device.current = OWN
    monkeypatch.setattr(devices, "layer", found)
    return found


CPU = torch.device("cpu")
STATE = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.arange(6).reshape(2, 3).T, "text": "no tensor"}


def _state() -> dict[str, object]:
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in STATE.items()}


@pytest.mark.adversary
def test_a_save_waits_for_the_devices_of_its_tensors_before_it_copies(recorder: Recorder, tmp_path: Path) -> None:
    dcp_engine.save(_state(), tmp_path / "c")
    assert recorder.of("synchronize") == {("MainThread", CPU)}
    assert recorder.of("use") == {("dcp-write", OWN)}
    first = next(number for number, call in enumerate(recorder.calls) if call[0] == "use")
    assert {call[0] for call in recorder.calls[:first]} == {"synchronize"}


@pytest.mark.adversary
def test_a_load_waits_before_it_fills_and_after(recorder: Recorder, tmp_path: Path) -> None:
    tensors = {name: value for name, value in _state().items() if name != "text"}
    dcp_engine.save(tensors, tmp_path / "c")
    recorder.calls.clear()
    dcp_engine.load(tensors, tmp_path / "c")
    assert [call for call in recorder.calls if call[0] == "synchronize"] == [("synchronize", "MainThread", CPU)] * 2
    assert recorder.of("use") == {("dcp-read", OWN)}
    assert recorder.calls[0][0] == recorder.calls[-1][0] == "synchronize"


@pytest.mark.adversary
def test_async_save_waits_in_the_foreground_alone(recorder: Recorder, tmp_path: Path) -> None:
    """The staged copy is the host's; the background neither waits for the training's device nor goes to device 0."""
    staged: list[str] = []
    waited = recorder.synchronize

    def synchronize(device: torch.device) -> None:
        waited(device)
        staged.append(_thread())
        if len(staged) == 2:
            recorder.host = frozenset({"cpu", "meta"})

    recorder.synchronize = synchronize  # type: ignore[method-assign]
    dcp_engine.async_save(_state(), tmp_path / "c").wait()
    assert staged == ["MainThread", "MainThread"]
    assert {thread for thread, device in recorder.of("use") if device == OWN} == {"dcp-save", "dcp-write"}


@pytest.mark.adversary
def test_nothing_is_asked_of_a_process_without_devices(recorder: Recorder, tmp_path: Path) -> None:
    recorder.host = frozenset({"cpu", "meta"})
    recorder.device.current = None
    dcp_engine.async_save(_state(), tmp_path / "c").wait()
    dcp_engine.load(_state(), tmp_path / "c")
    assert recorder.calls == []


def test_each_device_counts_once_and_the_host_not_at_all() -> None:
    with FakeTensorMode():
        values = [torch.empty(2, device=name) for name in ("cuda:1", "cpu", "cuda:0", "meta", "cuda:1")]
    assert devices.of([*values, "text", None]) == (torch.device("cuda:0"), torch.device("cuda:1"))
    assert devices.of([]) == ()


@pytest.fixture
def _one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("_one_rank")
def test_the_device_of_a_sharded_tensor_is_that_of_its_shards() -> None:
    mesh = init_device_mesh("cpu", (1,))
    assert devices.of([DTensor.from_local(torch.ones(2), mesh)]) == ()
    with FakeTensorMode():
        local = torch.empty(2, 2, device="cuda:2")
    sharded = init_from_local_shards([Shard.from_tensor_and_offsets(torch.ones(2, 2), [0, 0], 0)], 2, 2)
    assert devices.of([sharded]) == ()
    sharded.local_shards()[0].tensor = local
    assert devices.of([sharded]) == (torch.device("cuda:2"),)


@pytest.mark.adversary
def test_to_ask_torch_for_the_current_device_makes_no_context() -> None:
    before = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    found = devices.TorchLayer().current()
    assert torch.cuda.is_initialized() == before  # type: ignore[no-untyped-call]
    assert (found is not None) == before
