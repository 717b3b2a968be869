"""What the engine promises when things break, on a real S3 server: versitygw, behind a proxy that breaks connections.

`test_engine_faults.py` has the same promises on local disk and on moto. Here ranks die, connections and the store go
away in the middle of uploads, in one request and in parts, and the server's own log, files and counters say what
happened.
"""

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import dcp_engine
import engine_programs as programs
import fault_situations
import flaky_proxy
import toxiproxy
import versitygw
from cluster.processes import until
from dcp_contract.reasons import Reason
from dcp_engine.errors import CheckpointCorrupted, EngineError, StorageUnavailable
from dcp_engine.stores import object_store
from engine_programs import Strike
from rank_group import Result, run_ranks, values
from rank_processes import CONTEXT
from versitygw import Gateway, Request

pytestmark = pytest.mark.tier("faults")

MEBI = 1 << 20
NOW = timedelta(0)
IMPATIENT = {"max_attempts": 2, "read_timeout": 1}
CUT_OFF = r"reset by peer|Broken pipe|the connection ended"


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with versitygw.running() as gateway:
        yield gateway


@pytest.fixture
def proxy(gateway: Gateway) -> Iterator[toxiproxy.Proxy]:
    with toxiproxy.before(gateway.server) as proxy:
        yield proxy


@pytest.fixture
def flaky(gateway: Gateway) -> Iterator[flaky_proxy.FlakyProxy]:
    with flaky_proxy.before(gateway.server) as proxy:
        yield proxy


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A prefix of its own for every test."""
    return re.sub(r"[^a-zA-Z0-9-]", "-", tmp_path.name)


class Store:
    """One checkpoint's URL, looked at past every proxy."""

    def __init__(self, gateway: Gateway, path: str) -> None:
        self.gateway = gateway
        self.path = path
        self.url = gateway.server.url(path)
        self.options = gateway.server.options

    def holds(self, seed: int) -> None:
        """Make sure that the save of a seed is committed and whole, by its digests and by every value."""
        found = dcp_engine.verify(self.url, storage_options=self.options)
        assert found.verified == "every byte, by its crc32c"
        expected = programs.large_values(seed)
        state: dict[str, Any] = {name: torch.zeros_like(value) for name, value in expected.items()} | {"step": 0}
        dcp_engine.load(state, self.url, storage_options=self.options)
        assert state["step"] == seed
        assert [name for name, value in expected.items() if not torch.equal(state[name], value)] == []

    def tidy(self) -> bool:
        """Tell whether nothing lies there but the committed checkpoint."""
        files = self.gateway.files(self.path)
        committed = dcp_engine.inspect(self.url, storage_options=self.options).save_id
        strangers = [name for name in files if name != ".metadata" and not name.startswith(f"data-{committed}/")]
        return strangers == [] and len(files) == 5 and versitygw.parts(self.gateway.server, self.path) == {}

    def clean(self) -> list[str]:
        return dcp_engine.clean(self.url, storage_options=self.options, older_than=NOW)


@pytest.fixture(scope="module")
def saved(gateway: Gateway) -> Path:
    """The files of a checkpoint that two ranks saved, of seed 1."""
    store = Store(gateway, "saved")
    values(run_ranks(2, programs.save_large, store.url, store.options, 1))
    return gateway.folder / store.path


@pytest.fixture
def store(gateway: Gateway, path: str, saved: Path) -> Store:
    """A store that holds a checkpoint, the save of seed 1."""
    shutil.copytree(saved, gateway.folder / path)
    return Store(gateway, path)


@contextmanager
def going_on(program: Callable[..., Any], *args: Any) -> Iterator["Future[list[Result]]"]:
    """Run two ranks while the block runs."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(run_ranks, 2, program, *args)


def error_of(results: list[Result]) -> EngineError:
    """Return the error, which both ranks raise, after a look at whether it says who failed at what."""
    first, second = (result.error for result in results)
    assert isinstance(first, EngineError)
    assert str(first) == str(second)
    assert first.rank in {0, 1}
    assert str(first).startswith(f"rank {first.rank}: ")
    return first


def broken_off(requests: list[Request]) -> bool:
    """Tell whether the server refused an upload of data, since it had not received it whole."""
    return any(".distcp" in one.key and one.error != "-" for one in requests)


class Gone:
    """Counts the connections that have ended since the first look."""

    def __init__(self, proxy: toxiproxy.Proxy) -> None:
        self._proxy = proxy
        self._seen: set[int] = set()

    def count(self) -> int:
        now = self._proxy.clients()
        self._seen |= now
        return len(self._seen - now)


# A rank is killed.


@pytest.mark.parametrize(
    ("point", "dying", "stands"),
    [
        ("planning", 0, 1),
        ("planning", 1, 1),
        ("mid-part", 0, 1),
        ("mid-part", 1, 1),
        ("before manifest", 0, 1),
        ("before manifest", 1, 2),
        ("before commit", 0, 1),
        ("before commit", 1, 2),
        ("after commit", 0, 2),
        ("after commit", 1, 2),
    ],
)
def test_a_killed_rank_leaves_the_old_checkpoint_or_the_new_one(
    store: Store, point: str, dying: int, stands: int
) -> None:
    results = run_ranks(2, programs.save_large_and_die, store.gateway.server, store.path, 2, point, dying)
    assert results[dying].exit_code == -signal.SIGKILL
    survivor = results[1 - dying].error
    if stands == 1 or survivor:
        assert isinstance(survivor, EngineError)
        assert survivor.reason is Reason.WORKER_LOST
        if dying == 1:
            assert str(survivor).startswith("rank 1: rank 1 went away during ")
    if point == "mid-part":
        assert any(f"/__{dying}_0.distcp" in key for key in versitygw.parts(store.gateway.server, store.path))
    dcp_engine.verify(store.url, storage_options=store.options)
    # What the kill left behind is no hindrance, and no checkpoint; it goes when somebody says that nobody is saving.
    values(run_ranks(2, programs.load_and_replace_large, store.url, store.options, stands, 3))
    store.clean()
    assert store.tidy()
    dcp_engine.verify(store.url, storage_options=store.options)


@pytest.mark.tier("matrix")
def test_a_saver_may_be_killed_at_any_request(gateway: Gateway, flaky: flaky_proxy.FlakyProxy, path: str) -> None:
    """Before a request gets there, or after it, by turns: data, tombstone, commit, and what is due after it."""
    stands = Store(gateway, f"{path}/stands")
    for seed in (1, 2, 3):
        fault_situations.save_to(stands.url, stands.options, seed)
    killed: list[str] = []
    for number in range(1000):
        store = Store(gateway, f"{path}/{number}")
        shutil.copytree(gateway.folder / stands.path, gateway.folder / store.path)
        given = (dict(os.environ), store.url, flaky.server.options, 4)
        saver = CONTEXT.Process(target=fault_situations.save_in, args=given)
        seen: list[str] = []
        began = threading.Event()

        def rule(
            method: str, of: str, number: int = number, saver: Any = saver, seen: Any = seen, began: Any = began
        ) -> flaky_proxy.Fault | None:
            seen.append(f"{method} {of.rpartition('/')[2].partition('&')[0]}")
            if len(seen) != number + 1:
                return None
            began.wait(10)
            os.kill(saver.pid, signal.SIGKILL)
            return "lose answer" if number % 2 else "reset"

        flaky.rule = rule
        saver.start()
        began.set()
        saver.join(60)
        if saver.exitcode == 0:
            break
        assert saver.exitcode == -signal.SIGKILL
        killed.append(seen[number])
        assert fault_situations.held(store.url, store.options) in {3, 4}, killed
        fault_situations.save_to(store.url, store.options, 5)
        dcp_engine.clean(store.url, storage_options=store.options, older_than=NOW, keep_replaced=NOW)
        assert fault_situations.held(store.url, store.options) == 5, killed
        assert len(gateway.files(store.path)) == 4, (killed, gateway.files(store.path))
    assert "PUT .metadata" in killed
    assert any("?delete" in request for request in killed), killed


@pytest.mark.parametrize("dying", [0, 1])
def test_a_rank_killed_while_it_sends_leaves_the_old_checkpoint(
    store: Store, proxy: toxiproxy.Proxy, dying: int
) -> None:
    proxy.add("bandwidth", stream="upstream", rate=4_000)  # 16 MiB of each rank take seconds
    results = run_ranks(2, programs.save_large_and_die_sending, store.url, proxy.server.options, 2, dying)
    assert results[dying].exit_code == -signal.SIGKILL
    assert isinstance(error := results[1 - dying].error, EngineError)
    assert error.reason is Reason.WORKER_LOST
    assert not any(f"__{dying}_0.distcp" in name for name in store.clean()), "a file that was not sent whole is none"
    assert store.tidy()
    store.holds(1)


# Connections break, stall or are slow.

IN_BOTH_WAYS = pytest.mark.parametrize(
    ("save", "operation"),
    [(programs.save_large, "s3_PutObject"), (programs.save_in_parts, "s3_UploadPart")],
    ids=["in one request", "in parts"],
)


@IN_BOTH_WAYS
@pytest.mark.parametrize(
    ("toxic", "how"), [("limit_data", {"bytes": 3 * MEBI}), ("reset_peer", {"timeout": 150})], ids=["cut off", "reset"]
)
def test_what_broke_off_is_sent_again(
    store: Store, proxy: toxiproxy.Proxy, toxic: str, how: dict[str, int], save: Any, operation: str
) -> None:
    proxy.add("bandwidth", stream="upstream", rate=10_000)  # else all may have arrived before the reset
    before, taken = len(store.gateway.requests()), store.gateway.bytes_taken()
    with going_on(save, store.url, proxy.server.options | {"max_attempts": 20}, 2) as saving:
        # In the middle of a request: of one that begins with the toxic the server never hears.
        until(lambda: store.gateway.bytes_taken() > taken + MEBI, "a request under way", seconds=60)
        proxy.add(toxic, stream="upstream", **how)
        until(lambda: broken_off(store.gateway.requests()[before:]), "a request that broke off", seconds=60)
        proxy.remove(toxic, stream="upstream")
    values(saving.result())
    sent = [one.uri for one in store.gateway.requests()[before:] if one.operation == operation]
    assert any(".distcp" in uri for uri in sent)
    if toxic == "limit_data":
        assert len(set(sent)) < len(sent), "the server has seen a request twice"
    assert store.tidy()
    store.holds(2)


@IN_BOTH_WAYS
def test_what_breaks_off_every_time_leaves_the_old_checkpoint_and_nothing_else(
    store: Store, proxy: toxiproxy.Proxy, save: Any, operation: str
) -> None:
    strike = Strike("mid-part", partial(proxy.add, "limit_data", stream="upstream", bytes=3 * MEBI), times=4)
    options = proxy.server.options | {"max_attempts": 3}
    error = error_of(run_ranks(2, save, store.url, options, 2, strike))
    assert isinstance(error, StorageUnavailable)
    part = r"\?partNumber" if operation == "s3_UploadPart" else ""
    assert re.search(rf"/{store.path}/data-\w+/__{error.rank}_0\.distcp{part}.*({CUT_OFF})", str(error))
    assert store.tidy()
    store.holds(1)


@IN_BOTH_WAYS
def test_a_stall_is_noticed_and_ridden_out(store: Store, proxy: toxiproxy.Proxy, save: Any, operation: str) -> None:
    del operation
    strike = Strike("mid-part", partial(proxy.add, "timeout", stream="upstream", timeout=0), times=4)
    options = proxy.server.options | {"read_timeout": 1}
    with going_on(save, store.url, options, 2, strike) as saving:
        # The proxy holds every connection for as long as it takes: it is the ranks that give up on them.
        until(lambda: proxy.toxics() == ["timeout"], "the stall", seconds=60)
        gone = Gone(proxy)
        until(lambda: gone.count() > 0, "a rank that gives up on a connection", seconds=20)
        proxy.remove("timeout", stream="upstream")
    values(saving.result())
    assert store.tidy()
    store.holds(2)


@IN_BOTH_WAYS
def test_a_stall_without_end_is_an_error_in_time(
    store: Store, proxy: toxiproxy.Proxy, save: Any, operation: str
) -> None:
    del operation
    strike = Strike("mid-part", partial(proxy.add, "timeout", stream="upstream", timeout=0), times=4)
    begun = time.monotonic()
    options = proxy.server.options | {"max_attempts": 2, "read_timeout": 0.5}
    error = error_of(run_ranks(2, save, store.url, options, 2, strike))
    assert time.monotonic() - begun < 30
    assert isinstance(error, StorageUnavailable)
    assert re.search(rf"/{store.path}/data-\w+/__{error.rank}_0\.distcp.*no answer in time", str(error))
    store.holds(1)
    # A store that can't be reached can't be told to abort an upload either.
    assert all(".distcp" in name for name in store.clean())
    assert store.tidy()


def test_a_stall_under_a_load_is_noticed_and_ridden_out(store: Store, proxy: toxiproxy.Proxy) -> None:
    strike = Strike("reading", partial(proxy.add, "timeout", timeout=0))
    options = proxy.server.options | {"read_timeout": 1}
    with going_on(programs.load_large, store.url, options, 1, strike) as loading:
        until(lambda: proxy.toxics() == ["timeout"], "the stall", seconds=60)
        gone = Gone(proxy)
        until(lambda: gone.count() > 0, "a rank that gives up on a connection", seconds=20)
        proxy.remove("timeout")
    values(loading.result())


def test_slow_is_not_stalled(store: Store, proxy: toxiproxy.Proxy) -> None:
    for stream in ("upstream", "downstream"):
        proxy.add("latency", stream=stream, latency=20, jitter=10)
        proxy.add("slicer", stream=stream, average_size=16_384, size_variation=4_096, delay=100)
        proxy.add("bandwidth", stream=stream, rate=5_000)
    values(run_ranks(2, programs.save_large, store.url, proxy.server.options, 2))
    assert store.tidy()
    begun = time.monotonic()
    values(run_ranks(2, programs.load_large, store.url, proxy.server.options | IMPATIENT, 2))
    assert time.monotonic() - begun > 8 * MEBI / 5e6, "one request alone takes longer than the read timeout"


# The store goes away.


@pytest.mark.parametrize(("point", "rank"), [("mid-part", 1), ("before manifest", 0), ("before commit", 0)])
def test_a_store_that_comes_back_is_waited_for(store: Store, proxy: toxiproxy.Proxy, point: Any, rank: int) -> None:
    strike = Strike(point, partial(proxy.switch, on=False), rank, times=4 if point == "mid-part" else 1)
    with going_on(programs.save_large, store.url, proxy.server.options, 2, strike) as saving:
        until(lambda: not proxy.listens(), "the store to go away", seconds=20)
        with proxy.turning_away() as turned_away:
            until(lambda: turned_away.count() >= 2, "clients that try again", seconds=20)
        assert not saving.done()
        proxy.switch(on=True)
    values(saving.result())
    assert store.tidy()
    store.holds(2)


@pytest.mark.parametrize(("point", "rank"), [("mid-part", 1), ("before manifest", 0), ("before commit", 0)])
def test_a_store_that_stays_away_is_unavailable_and_the_old_checkpoint_stays(
    store: Store, proxy: toxiproxy.Proxy, point: Any, rank: int
) -> None:
    strike = Strike(point, partial(proxy.switch, on=False), rank, times=4 if point == "mid-part" else 1)
    error = error_of(run_ranks(2, programs.save_large, store.url, proxy.server.options | IMPATIENT, 2, strike))
    assert isinstance(error, StorageUnavailable)
    assert re.search(rf"/{store.path}/.*(Connection refused|{CUT_OFF})", str(error))
    assert not error.commit_unknown
    proxy.switch(on=True)
    store.holds(1)
    store.clean()
    assert store.tidy()


# The store answers, but badly.


def small(seed: int) -> dict[str, Any]:
    """9 MiB by columns, from one process: two parts if memory is scant, else one request."""
    by_columns = (torch.arange(9 << 18).float() + seed).reshape(9, -1).t().contiguous().t()
    return {"w": by_columns, "b": torch.full((3,), float(seed)), "step": seed}


def small_at(store: Store, options: dict[str, Any]) -> int:
    found: dict[str, Any] = {"w": torch.zeros(9, 1 << 18), "b": torch.zeros(3), "step": -1}
    dcp_engine.load(found, store.url, storage_options=options)
    expected = small(found["step"])
    assert torch.equal(found["w"], expected["w"])
    assert torch.equal(found["b"], expected["b"])
    return int(found["step"])


def test_503s_are_ridden_out(store: Store, flaky: flaky_proxy.FlakyProxy) -> None:
    flaky.rule = flaky_proxy.sometimes("503", 0.1, seed=3)
    values(run_ranks(2, programs.save_large, store.url, flaky.server.options, 2))
    saved = len(flaky.faults)
    values(run_ranks(2, programs.load_large, store.url, flaky.server.options, 2))
    assert 0 < saved < len(flaky.faults)
    assert store.tidy()
    store.holds(2)


@pytest.mark.parametrize("fault", ["503", "reset", "lose answer"])
def test_any_one_request_may_fail(gateway: Gateway, flaky: flaky_proxy.FlakyProxy, path: str, fault: Any) -> None:
    failed = failed_one_by_one(gateway, flaky, path, fault)
    assert {"PUT __0_0.distcp", "PUT probe", "PUT .metadata", "POST ?delete", "GET ?list-type"} <= set(failed)
    assert {"PUT manifest.json", "PUT blocks.crc32c"} & set(failed)  # they travel together, in no fixed order
    assert versitygw.parts(gateway.server, path) == {}


@pytest.mark.parametrize("fault", ["503", "reset", "lose answer"])
def test_any_one_request_of_a_save_in_parts_may_fail(
    gateway: Gateway, flaky: flaky_proxy.FlakyProxy, path: str, fault: Any
) -> None:
    failed = failed_one_by_one(gateway, flaky, path, fault, memory_limit=8 * MEBI)
    assert {"POST ?uploads", "PUT ?partNumber", "POST ?uploadId"} <= set(failed)
    # The answer to the begin of an upload names it. Where it got lost, nobody but `clean` knows of the upload.
    assert len(versitygw.parts(gateway.server, path)) == (fault == "lose answer")
    Store(gateway, f"{path}/{failed.index('POST ?uploads')}").clean()
    assert versitygw.parts(gateway.server, path) == {}


def failed_one_by_one(
    gateway: Gateway, flaky: flaky_proxy.FlakyProxy, path: str, fault: flaky_proxy.Fault, **options: Any
) -> list[str]:
    """Save as often as a save has requests, another one of which fails each time; return which they were."""
    number = 0
    failed: list[str] = []
    while len(failed) == number:
        store = Store(gateway, f"{path}/{number}")
        dcp_engine.save(small(1), store.url, storage_options=store.options)
        object_store._guards.clear()  # so that the store is tried out anew, by requests that may fail, too
        flaky.rule = fail_the(number, fault, failed)
        options["keep_replaced"] = NOW
        dcp_engine.save(small(2), store.url, storage_options=flaky.server.options, overwrite=True, **options)
        assert small_at(store, store.options) == 2, failed
        assert len(gateway.files(store.path)) == 4, failed
        number += 1
    return failed


def fail_the(number: int, fault: flaky_proxy.Fault, failed: list[str]) -> flaky_proxy.Rule:
    """Return a rule that fails one request and notes which it was."""
    count = iter(range(1000))

    def rule(method: str, path: str) -> flaky_proxy.Fault | None:
        if next(count) != number:
            return None
        name, _, query = path.rpartition("/")[2].partition("?")
        failed.append(f"{method} " + (f"?{re.split('[=&]', query)[0]}" if query else name))
        return fault

    return rule


def test_a_commit_of_which_nothing_is_known_keeps_its_data(store: Store, flaky: flaky_proxy.FlakyProxy) -> None:
    tries: list[str] = []

    def rule(method: str, path: str) -> flaky_proxy.Fault | None:
        if not tries and not (method == "PUT" and path.endswith("/.metadata")):
            return None
        tries.append(method)
        return "lose answer" if len(tries) == 1 else "reset"

    flaky.rule = rule
    error = error_of(run_ranks(2, programs.save_large, store.url, flaky.server.options | IMPATIENT, 2))
    assert isinstance(error, StorageUnavailable)
    assert error.commit_unknown
    assert "not known whether the save was committed" in str(error)
    store.holds(2)


def test_a_save_that_was_committed_and_replaced_under_a_lost_answer_does_not_come_back(
    store: Store, flaky: flaky_proxy.FlakyProxy
) -> None:
    first = dcp_engine.inspect(store.url, storage_options=store.options).save_id
    tries: list[str] = []

    def rule(method: str, path: str) -> flaky_proxy.Fault | None:
        if method != "PUT" or not path.endswith("/.metadata"):
            return None
        tries.append(path)
        if len(tries) == 2:
            # It stands by now, and nobody but the store knows. Who replaces it removes its data.
            dcp_engine.save(small(3), store.url, storage_options=store.options, overwrite=True, keep_replaced=NOW)
        return "lose answer" if len(tries) == 1 else None

    flaky.rule = rule
    with pytest.raises(StorageUnavailable, match=r"/\.metadata"):
        dcp_engine.save(small(2), store.url, storage_options=flaky.server.options, overwrite=True, keep_replaced=NOW)
    assert len(tries) == 2
    assert small_at(store, store.options) == 3
    dcp_engine.verify(store.url, storage_options=store.options)
    # Of its own it leaves nothing. What it had replaced stays: it never heard that it had.
    assert {name.partition("/")[0] for name in store.clean()} == {f"data-{first}"}


# Bytes change.


@pytest.mark.parametrize(
    ("memory_limit", "request_of"), [(256 * MEBI, r"__0_0\.distcp"), (8 * MEBI, r"__0_0\.distcp\?partNumber")]
)
def test_bytes_that_change_on_their_way_to_the_store_are_refused_by_it(
    store: Store, flaky: flaky_proxy.FlakyProxy, memory_limit: int, request_of: str
) -> None:
    flaky.rule = lambda method, path: "flip sent" if method == "PUT" and ".distcp" in path else None
    with pytest.raises(StorageUnavailable, match=f"{request_of}.*what arrived is not what was sent"):
        dcp_engine.save(
            small(2), store.url, storage_options=flaky.server.options, overwrite=True, memory_limit=memory_limit
        )
    assert store.tidy()
    store.holds(1)


def test_a_file_that_arrives_changed_is_sent_again(store: Store, flaky: flaky_proxy.FlakyProxy) -> None:
    flaky.rule = flaky_proxy.once("flip sent", "PUT", ".distcp")
    dcp_engine.save(small(2), store.url, storage_options=flaky.server.options, overwrite=True)
    assert flaky.faults == ["flip sent"]
    assert small_at(store, store.options) == 2


def test_bytes_that_change_on_the_wire_are_noticed(store: Store, flaky: flaky_proxy.FlakyProxy) -> None:
    flaky.rule = flaky_proxy.once("flip", "GET", "__1_0.distcp")
    error = error_of(run_ranks(2, programs.load_large, store.url, flaky.server.options, 1))
    assert flaky.faults == ["flip"]
    assert isinstance(error, CheckpointCorrupted)
    assert re.fullmatch(r"data-\w+/__1_0\.distcp", error.file)
    assert "rows" in error.tensors
    assert "__1_0.distcp: the block at byte" in str(error)
    store.holds(1)


def test_an_answer_that_ends_too_early_is_fetched_again(store: Store, flaky: flaky_proxy.FlakyProxy) -> None:
    flaky.rule = flaky_proxy.once("truncate", "GET", "distcp")
    values(run_ranks(2, programs.load_large, store.url, flaky.server.options, 1))
    assert flaky.faults == ["truncate"]


def test_answers_that_end_too_early_every_time_are_an_error(store: Store, flaky: flaky_proxy.FlakyProxy) -> None:
    flaky.rule = lambda _, path: "truncate" if "__1_0.distcp" in path else None
    error = error_of(run_ranks(2, programs.load_large, store.url, flaky.server.options, 1))
    assert isinstance(error, StorageUnavailable)
    assert re.search(rf"/__1_0\.distcp: no whole answer from 127.*({CUT_OFF})", str(error))


@pytest.mark.parametrize(
    ("harm", "what"),
    [("flip", "does not have the digest"), ("truncate", "ends before byte"), ("unlink", "missing")],
)
def test_files_that_change_in_the_store_are_named(store: Store, harm: str, what: str) -> None:
    (file,) = (store.gateway.folder / store.path).rglob("__1_0.distcp")
    if harm == "flip":
        at = file.stat().st_size // 2
        with file.open("r+b") as opened:
            opened.seek(at)
            byte = opened.read(1)[0]
            opened.seek(at)
            opened.write(bytes([byte ^ 1]))
    elif harm == "truncate":
        os.truncate(file, file.stat().st_size // 2)
    else:
        file.unlink()
    error = error_of(run_ranks(2, programs.load_large, store.url, store.options, 1))
    assert isinstance(error, CheckpointCorrupted)
    assert what in str(error)
    assert "/__1_0.distcp" in str(error)
    if harm != "unlink":
        assert "rows" in error.tensors
    with pytest.raises(CheckpointCorrupted, match=r"/__1_0\.distcp.*It holds .*rows") as caught:
        dcp_engine.verify(store.url, storage_options=store.options)
    assert "rows" in caught.value.tensors


# Two savers; the bytes of a load.


@pytest.mark.parametrize("rounds", [40, pytest.param(200, marks=pytest.mark.tier("matrix"))])
def test_of_two_savers_released_together_exactly_one_commits(gateway: Gateway, path: str, rounds: int) -> None:
    first, second = values(
        run_ranks(2, programs.race, gateway.server.url(path), gateway.server.options, rounds, timeout=200)
    )
    for number, ends in enumerate(zip(first, second, strict=True)):
        assert sorted(end for end, _ in ends) == ["refused", "saved"], f"race {number}"
        assert len({save_id for _, save_id in ends}) == 1, "the loser names the winner"
    for number, (_, save_id) in enumerate(first):
        files = gateway.files(f"{path}/{number}")
        assert len(files) == 4
        assert all(name == ".metadata" or name.startswith(f"data-{save_id}/") for name in files), "the loser's remains"
    assert versitygw.parts(gateway.server, path) == {}


@pytest.fixture
def counted(path: str) -> Iterator[Store]:
    """A store of its own, whose count of bytes no other test adds to, with a checkpoint that four ranks saved."""
    with versitygw.running() as gateway:
        store = Store(gateway, path)
        values(run_ranks(4, programs.save_large, store.url, store.options, 1))
        yield store


def test_a_resharded_load_fetches_what_it_needs(counted: Store) -> None:
    before = counted.gateway.bytes_sent()
    needed = sum(values(run_ranks(3, programs.load_large, counted.url, counted.options, 1)))
    fetched = counted.gateway.bytes_sent() - before
    print(f"needed {needed}, fetched {fetched}: {fetched / needed:.4f} times as much")
    assert needed > 32 * MEBI
    assert needed <= fetched <= 1.05 * needed


@pytest.mark.stock
@pytest.mark.filterwarnings("ignore")
def test_stock_fetches_more_than_a_resharded_load_needs(counted: Store) -> None:
    options = {"client_kwargs": {"endpoint_url": counted.gateway.server.endpoint, "region_name": "us-east-1"}}
    before = counted.gateway.bytes_sent()
    values(run_ranks(3, programs.stock_load_large, counted.url, options, 1))
    fetched = counted.gateway.bytes_sent() - before
    needed = torch.Size(programs.LARGE).numel() * 4
    print(f"needed {needed}, fetched {fetched}: {fetched / needed:.4f} times as much")
    assert fetched > 1.05 * needed


# What it takes.


@pytest.mark.parametrize("limit", [64 * MEBI, 256 * MEBI])
def test_a_save_takes_no_more_memory_than_it_may(gateway: Gateway, path: str, limit: int) -> None:
    """Of 512 MiB that don't lie as they are saved, so that they must be copied."""
    url = gateway.server.url(path)
    (taken,) = values(run_ranks(1, programs.peak_of_a_save_to_a_store, url, gateway.server.options, limit))
    assert taken < limit + 8 * MEBI
