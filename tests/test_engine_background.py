"""What a process does beside its own background save, and how it ends while one is on its way."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType, async_save
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

import dcp_engine
import engine_programs as programs
import s3_server
from dcp_engine import failpoints, pending
from dcp_engine.errors import EngineError, StorageFull
from rank_group import run_ranks, values

pytestmark = pytest.mark.tier("ranks")


def state(value: float) -> dict[str, Any]:
    return {"w": torch.full((70_000,), float(value))}


def loaded(url: Path | str) -> float:
    found = state(0)
    dcp_engine.load(found, url)
    return float(found["w"][0])


def bare_loaded(url: Path) -> float:
    found = state(0)
    dcp.load(found, storage_reader=dcp_engine.CheckpointReader(url), no_dist=True)
    return float(found["w"][0])


@pytest.fixture
def held() -> Iterator[threading.Event]:
    """Hold the background save before its commit until somebody waits for it; a set event makes it fail."""
    fails = threading.Event()

    def hook(reached: str) -> None:
        if reached == "before commit":
            threading.Event().wait(0.3)
            if fails.is_set():
                raise OSError(28, "No space left on device")

    failpoints.hook = hook
    yield fails
    failpoints.hook = None
    fails.clear()
    pending._last.clear()


LOOKS: dict[str, Callable[[Path], Any]] = {
    "load": loaded,
    "find": lambda url: (found := dcp_engine.find(url)) and found.step,
    "inspect": lambda url: dcp_engine.inspect(url).step,
    "verify": lambda url: dcp_engine.verify(url).step,
    "preflight": lambda url: (found := dcp_engine.preflight_load(url)) and found.step,
    "bare load": bare_loaded,
}


@pytest.mark.adversary
@pytest.mark.usefixtures("held")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("stood", [False, True], ids=["B16 nothing stood there", "B16 old values stood there"])
def test_whoever_looks_waits_for_the_save_on_its_way(
    tmp_path: Path, look: Callable[[Path], Any], *, stood: bool
) -> None:
    if stood:
        dcp_engine.save(state(1), tmp_path, step=1)
    dcp_engine.async_save(state(2), tmp_path, step=2, overwrite=True)
    assert look(tmp_path) == 2


@pytest.mark.adversary
@pytest.mark.usefixtures("held")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("name", ["save", "clean", "bare save"])
def test_whoever_changes_waits_for_the_save_on_its_way(tmp_path: Path, name: str) -> None:
    saving = dcp_engine.async_save(state(2), tmp_path / "it", step=2)
    if name == "clean":
        assert dcp_engine.clean(tmp_path / "it", older_than=timedelta(0)) == []
    elif name == "save":
        dcp_engine.save(state(3), tmp_path / "other")
    else:
        dcp.save(state(3), storage_writer=dcp_engine.CheckpointWriter(tmp_path / "other"), no_dist=True)
    assert saving.done()
    assert loaded(tmp_path / "it") == 2


@pytest.mark.adversary
@pytest.mark.parametrize("spelling", ["{}", "file://{}", "{}/", "{}/../it"])
@pytest.mark.parametrize("look", [loaded, dcp_engine.verify], ids=["load", "verify"])
def test_old_values_are_not_read_for_those_of_a_save_that_failed(
    tmp_path: Path, held: threading.Event, spelling: str, look: Callable[[str], Any]
) -> None:
    url = tmp_path / "it"
    dcp_engine.save(state(1), url)
    held.set()
    dcp_engine.async_save(state(2), url, overwrite=True)
    with pytest.raises(StorageFull):
        look(spelling.format(url))
    assert loaded(url) == 1  # whoever was told may load what there is


def test_the_error_of_a_save_elsewhere_is_not_that_of_a_load(tmp_path: Path, held: threading.Event) -> None:
    dcp_engine.save(state(1), tmp_path / "good")
    held.set()
    dcp_engine.async_save(state(2), tmp_path / "failed")
    assert loaded(tmp_path / "good") == 1
    assert dcp_engine.find(tmp_path / "failed") is None  # what is there is the truth
    with pytest.raises(StorageFull):
        dcp_engine.save(state(3), tmp_path / "next")
    held.clear()
    dcp_engine.save(state(3), tmp_path / "next")


def test_an_error_that_was_seen_is_raised_by_nothing_else(tmp_path: Path, held: threading.Event) -> None:
    dcp_engine.save(state(1), tmp_path)
    held.set()
    saving = dcp_engine.async_save(state(2), tmp_path, overwrite=True)
    with pytest.raises(StorageFull):
        saving.wait()
    assert loaded(tmp_path) == 1


def test_a_save_that_looks_at_checkpoints_itself_does_not_wait_for_itself(tmp_path: Path) -> None:
    class Curious:
        def __init__(self) -> None:
            self.seen: list[Any] = []

        def create_global_plan(self, plans: Any) -> Any:
            self.seen.append(dcp_engine.find(tmp_path))
            return self.planner.create_global_plan(plans)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.planner, name)

        planner = dcp.DefaultSavePlanner()

    planner: Any = Curious()
    dcp_engine.async_save(state(2), tmp_path, planner=planner).wait(60)
    assert planner.seen == [None]


@pytest.mark.adversary
def test_every_rank_waits_and_all_are_told(tmp_path: Path) -> None:
    found = values(run_ranks(2, programs.load_while_saving, str(tmp_path)))
    assert found == [["load 2.0", "load 2.0", "StorageFull 1", "load 2.0"]] * 2


PROGRAM = """
import atexit, json, os, signal, sys, threading
first = []  # what a forked child does before all else
os.register_at_fork(after_in_child=lambda: [act() for act in first])
import torch
import dcp_engine
from dcp_engine import background, failpoints, loading

# Python forgets that Ctrl-C ended it when a thread makes a dataclass later on, as an import does.
dcp_engine.warm()
cases, ends = json.loads(sys.stdin.read()), {}
for name, case in cases.items():
    os.mkdir(name)
    sys.stdout.flush()
    pid = os.fork()  # torch is imported once for all
    if not pid:
        os.chdir(name)
        for number, file in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY), number)
        break
    ends[name] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
else:
    print(json.dumps(ends))
    os._exit(0)

atexit.register(lambda: print("an atexit handler"))
log = open("log", "w")
def hook(reached):
    if reached == case["point"]:
        if case["killed"]:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(0.3)
        if case["fails"]:
            raise OSError(28, "No space left on device")
def main():
    dcp_engine.async_save({"w": torch.full((70_000,), 5.0)}, "it")
failpoints.hook = hook
log.write("buffered")
exec(case["program"])
"""


@dataclasses.dataclass(frozen=True)
class Case:
    """A program that has a save on its way, and how it is to end."""

    program: str
    code: int
    says: str = ""
    fails: bool = True
    killed: bool = False
    committed: bool = False
    point: failpoints.Point = "before commit"
    prints: str = ""


CAUGHT = "try: sys.exit(3)\nexcept SystemExit: pass"
FORKED = (
    "import multiprocessing as m; c = m.get_context('fork').Process(target=main); "
    "c.start(); c.join(); print(c.exitcode)"
)
BUSY = (
    "import multiprocessing as m; held, go_on = threading.Event(), threading.Event(); "
    "failpoints.hook = lambda reached: reached == 'mid-part' and (held.set(), go_on.wait()); main(); held.wait(); "
    "c = m.get_context('fork').Process(target=int); c.start(); c.join(60); print(c.exitcode); c.kill(); go_on.set()"
)
LOADS = "assert len(list(torch.utils.data.DataLoader(range(4), num_workers=2, multiprocessing_context='fork'))) == 4"
ENDED = (
    "import multiprocessing as m; f = m.get_context('fork'); up = f.Event()\n"
    # signal.pause would sleep on where the signal came just before it; Python forgets one that comes before `up`.
    "def nap():\n    up.set()\n    while True: threading.Event().wait(0.05)\n"
    "c = f.Process(target=nap); c.start(); up.wait(); c.terminate(); c.join(); assert c.exitcode == -15"
)
STRUCK = (
    "first.append(lambda: os.kill(os.getpid(), 15)); pid = os.fork(); first.clear(); "
    "assert os.waitpid(pid, 0)[1] == signal.SIGTERM"
)
SLEEP = "main(); import time; time.sleep(30)"
HANDLER = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
FAILED = "the last async_save failed: rank 0: [Errno 28] No space left on device"
CASES = {
    "B18-just-ends": Case("main()", 1, FAILED),
    "B18-sys.exit": Case("main(); sys.exit(0)", 1, FAILED),
    "B18-sys.exit-caught": Case(f"main()\n{CAUGHT}", 1, FAILED),
    "B18-multiprocessing": Case(FORKED, 0, FAILED, prints="1\n"),
    "child-waits-for-no-save-of-its-parents": Case(BUSY, 0, "", fails=False, committed=True, prints="0\n"),
    "exit-3-stays-3": Case("main(); sys.exit(3)", 3, FAILED),
    "exit-with-words": Case("main(); sys.exit('no')", 1, FAILED),
    "own-exception": Case("main(); raise ValueError('own')", 1, FAILED),
    "ctrl-c": Case("main(); raise KeyboardInterrupt", -signal.SIGINT, FAILED),
    "good": Case("main(); sys.exit(0)", 0, "", fails=False, committed=True),
    "good-in-planning": Case("main()", 0, "", fails=False, committed=True, point="planning"),
    "good-mid-part": Case("main()", 0, "", fails=False, committed=True, point="mid-part"),
    "loader-forks": Case(f"main(); {LOADS}; sys.exit(3)", 3, FAILED),
    "loader-forks-good": Case(f"dcp_engine.finish_on_sigterm(); main(); {LOADS}", 0, "", fails=False, committed=True),
    "child-is-terminated": Case(f"dcp_engine.finish_on_sigterm(); main()\n{ENDED}", 0, "", fails=False, committed=True),
    "child-is-terminated-at-once": Case(
        f"dcp_engine.finish_on_sigterm(); main(); {STRUCK}", 0, "", fails=False, committed=True
    ),
    "second-to-the-same-url": Case("main(); main()", 1, "Checkpoint already exists", fails=False, committed=True),
    "second-after-a-failure": Case("main(); main()", 1, "StorageFull: rank 0: [Errno 28]", fails=True),
    "good-exit-3": Case("main(); sys.exit(3)", 3, "", fails=False, committed=True),
    "F11-default": Case(SLEEP, -signal.SIGTERM, "", fails=False, killed=True),
    "F11-asked": Case(f"dcp_engine.finish_on_sigterm(); {SLEEP}", -signal.SIGTERM, "", False, True, True),
    "F11-asked-at-the-end": Case("dcp_engine.finish_on_sigterm(); main()", -signal.SIGTERM, "", False, True, True),
    "F11-briefly": Case(
        f"dcp_engine.finish_on_sigterm(0.1); {SLEEP}", -signal.SIGTERM, "not end within 0.1 s", False, True
    ),
    "F11-own-handler": Case(f"{HANDLER}; dcp_engine.finish_on_sigterm(); {SLEEP}", 7, "", False, True, True),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    folder = tmp_path_factory.mktemp("programs")
    cases = json.dumps({name: dataclasses.asdict(case) for name, case in CASES.items()})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=cases,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    return folder, json.loads(done.stdout)


@pytest.mark.adversary
@pytest.mark.parametrize("name", CASES)
def test_a_program_that_ends_ends_its_save_first(ended: tuple[Path, dict[str, int]], name: str) -> None:
    """Its failure, if nobody saw it, shows in the exit code; SIGTERM waits where it was told to."""
    folder, case = ended[0] / name, CASES[name]
    errors = (folder / "stderr").read_text()
    assert ended[1][name] == case.code, errors
    assert errors.count(case.says) == 1 if case.says else errors == ""
    assert "Warning" not in errors, errors
    assert (dcp_engine.find(folder / "it") is not None) is case.committed
    assert not case.committed or loaded(folder / "it") == 5
    if case.code >= 0 or name == "ctrl-c":  # else a signal ended it, and with it whatever was to come
        assert (folder / "log").read_text() == "buffered"
        assert (folder / "stdout").read_text() == case.prints + "an atexit handler\n"


def test_a_save_is_waited_for_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SIGTERM may come in between; and one that can't begin is waited for by nobody."""
    seen: list[object] = []

    def start(thread: threading.Thread) -> None:
        seen.append(pending.last())
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="new thread"):
            dcp_engine.async_save(state(1), tmp_path)
    assert [each is not None for each in seen] == [True]
    assert pending.last() is None
    dcp_engine.save(state(2), tmp_path)
    assert loaded(tmp_path) == 2


@pytest.mark.adversary
def test_finish_on_sigterm_leaves_alone_what_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = signal.getsignal(signal.SIGTERM)
    try:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        dcp_engine.finish_on_sigterm()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, earlier)
    caught: list[EngineError] = []

    def elsewhere() -> None:
        try:
            dcp_engine.finish_on_sigterm()
        except EngineError as error:
            caught.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def save_by_stocks_process(rank: int, places: dict[str, dict[str, Any]]) -> list[tuple[float, Any]]:
    """Save to each place twice in a process of stock's own, which stays for the next save, and load the second."""
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined] # else it has no children
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    state = {"w": distribute_tensor(torch.full((8, 4), 2.0), mesh, [Shard(0)]), "text": "same"}
    seen = []
    for place, options in places.items():
        for name in ("first", "second"):
            writer = dcp_engine.CheckpointWriter(f"{place}/{name}", storage_options=options)
            done: Any = async_save(state, storage_writer=writer, async_checkpointer_type=AsyncCheckpointerType.PROCESS)
            done.result()
        found: dict[str, Any] = {"w": torch.zeros(8, 4), "text": ""}
        dcp_engine.load(found, f"{place}/second", storage_options=options)
        seen.append((float(found["w"].mean()), found["text"]))
    return seen


@pytest.mark.adversary
def test_stocks_process_for_saves_writes_through_our_writer(s3: s3_server.S3Server, tmp_path: Path) -> None:
    """F5: it gets the writer as a pickle, for one save after the other."""
    places = {str(tmp_path): {}, s3.url("by-process"): s3.options}
    assert values(run_ranks(2, save_by_stocks_process, places, timeout=240)) == [[(2.0, "same")] * 2] * 2
    for place, options in places.items():
        for name in ("first", "second"):
            assert dcp_engine.verify(f"{place}/{name}", storage_options=options).tensors == 1
