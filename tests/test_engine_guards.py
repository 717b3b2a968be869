"""What a store's own refusals are worth: each guard is tried out, said, and trusted for its own kind of write alone."""

import fcntl
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

import dcp_engine
import flaky_proxy
import s3_server
from dcp_engine.errors import CheckpointExists, EngineError, StaleVersion, StorageFull, StorageUnavailable
from dcp_engine.format import layout
from dcp_engine.stores import locks, object_store
from dcp_engine.stores.local_store import LocalStore
from dcp_engine.stores.object_store import ObjectStore
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import ATOMIC, BEST_EFFORT, weaker

pytestmark = pytest.mark.tier("ranks")

CREATES, REPLACES = "if-none-match", "if-match"


def state(value: float) -> dict[str, Any]:
    return {"w": torch.full((70_000,), value)}


def value_at(url: str | Path, options: dict[str, Any] | None = None) -> float:
    found = {"w": torch.zeros(70_000)}
    dcp_engine.load(found, url, storage_options=options)
    return float(found["w"][0])


# Which locks hold, and for whom.

MOUNTINFO = """\
22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:40 / /mnt/nfs rw,relatime shared:9 - nfs4 server:/export rw,vers=4.2,local_lock=none,addr=10.0.0.1
31 22 0:41 / /mnt/alone rw - nfs server:/export rw,vers=3,nolock,local_lock=all
32 22 0:42 / /mnt/half rw - nfs server:/export rw,vers=3,local_lock=flock
33 22 0:43 / /mnt/lustre rw - lustre mgs@tcp:/fs rw,flock,lazystatfs
34 22 0:44 / /mnt/local\\040lustre rw - lustre mgs@tcp:/fs rw,localflock
35 22 0:45 / /mnt/bucket rw,nosuid - fuse.gcsfuse bucket rw,user_id=0
36 22 0:46 / /mnt/9p rw - 9p share rw,cache=none
37 22 0:47 / /mnt/smb rw - cifs //server/share rw,vers=3.1.1
38 30 0:48 / /mnt/nfs/scratch rw - xfs /dev/sdb rw
39 22 0:49 / /mnt/hidden rw - nfs4 server:/x rw
40 22 0:50 / /mnt/hidden rw - tmpfs tmpfs rw
41 22 0:51 / /mnt/ceph rw master:2 propagate_from:3 - ceph mon:/ rw
nonsense
42 22 0:52 /
"""


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("path", "kind", "apart"),
    [
        ("/", "ext4", True),
        ("/mnt", "ext4", True),
        ("/mnt/nfs/run/1", "nfs4", True),
        ("/mnt/nfs-other", "ext4", True),
        ("/mnt/alone/x", "nfs", False),
        ("/mnt/half/x", "nfs", True),
        ("/mnt/lustre", "lustre", True),
        ("/mnt/local lustre/x", "lustre", False),
        ("/mnt/bucket/x", "fuse.gcsfuse", False),
        ("/mnt/9p/x", "9p", False),
        ("/mnt/smb/x", "cifs", False),
        ("/mnt/nfs/scratch/x", "xfs", True),
        ("/mnt/hidden/x", "tmpfs", True),
        ("/mnt/ceph/x", "ceph", True),
    ],
)
def test_which_file_systems_share_their_locks(path: str, kind: str, *, apart: bool) -> None:
    """E-M3 a."""
    found, options = locks.mounted(MOUNTINFO, path)
    assert found == kind
    assert locks.keeps_apart(found, options, file_locked=True) is apart
    # A file that may not be written to, or a server that keeps no locks.
    local = kind in {"ext4", "xfs", "tmpfs"}
    assert locks.keeps_apart(found, options, file_locked=False) is local


@pytest.mark.adversary
def test_of_an_unknown_mount_nothing_is_promised() -> None:
    assert locks.mounted("", "/x") == ("", frozenset())
    assert not locks.keeps_apart("", frozenset(), file_locked=True)


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("kind", "options", "guard"),
    [
        ("ext4", "rw", ATOMIC),
        ("nfs4", "rw,local_lock=none", ATOMIC),
        ("nfs", "rw,nolock", BEST_EFFORT),
        ("fuse", "rw", BEST_EFFORT),
    ],
)
def test_a_result_says_what_its_file_system_is_worth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: str, guard: str
) -> None:
    """E-M3 a."""
    mounts = tmp_path / "mountinfo"
    mounts.write_text(f"1 0 0:1 / {tmp_path.resolve()} rw - {kind} source {options}\n")
    monkeypatch.setattr(locks, "_MOUNTINFO", mounts)
    url = tmp_path / "run"
    assert dcp_engine.save(state(1), url).conflict_guard == ATOMIC, "hard links, wherever they are to be had, refuse"
    assert dcp_engine.save(state(2), url, overwrite=True).conflict_guard == guard
    assert value_at(url) == 2


@pytest.fixture
def as_on_two_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let locks of folders keep nobody apart, as on NFS and Lustre."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


def both_at_once(step: Callable[[int], Any]) -> list[Any]:
    """Run a step twice, released together; return what came out."""
    barrier = threading.Barrier(2)

    def one(number: int) -> Any:
        barrier.wait(10)
        try:
            return step(number)
        except Exception as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(one, range(2)))


@pytest.mark.adversary
@pytest.mark.usefixtures("as_on_two_hosts")
def test_of_two_replacers_of_one_version_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """E-M3 a: between the look at the version and the rename there is always room for another's."""
    rename = os.rename
    monkeypatch.setattr(os, "rename", lambda *args, **options: (threading.Event().wait(0.01), rename(*args, **options)))
    for number in range(10):
        store = LocalStore(str(tmp_path / str(number)))
        store.create(layout.METADATA, b"first")
        version = store.read(layout.METADATA).version

        def replace(saver: int, store: LocalStore = store, version: Any = version) -> str:
            LocalStore(store.url).replace(layout.METADATA, b"by %d" % saver, version)
            return f"by {saver}"

        ends = both_at_once(replace)
        assert sum(isinstance(end, StaleVersion) for end in ends) == 1, ends
        assert store.read(layout.METADATA).data.decode() in ends


@pytest.mark.adversary
@pytest.mark.usefixtures("as_on_two_hosts")
def test_a_look_at_the_file_gives_no_lock_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """E-M3 a: of a process's POSIX locks any close of the file ends all."""
    store = LocalStore(str(tmp_path))
    store.create(layout.METADATA, b"first")
    version = store.read(layout.METADATA).version
    rename = os.rename

    def looking(*args: Any, **options: Any) -> None:
        store.read(layout.METADATA)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", rename)
            patch.setattr(locks, "PATIENCE_SECONDS", 0.1)
            with pytest.raises(StorageUnavailable, match="kept the lock"):
                LocalStore(store.url).replace(layout.METADATA, b"second", version)
        rename(*args, **options)

    monkeypatch.setattr(os, "rename", looking)
    store.replace(layout.METADATA, b"third", version)
    assert store.read(layout.METADATA).data == b"third"


@pytest.mark.adversary
@pytest.mark.parametrize("where", ["folder", "file"])
def test_a_lock_that_is_never_given_up_ends_in_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """E-M3 a: whoever may read the folder may lock it."""
    monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.2)
    dcp_engine.save(state(1), tmp_path)
    path = tmp_path if where == "folder" else tmp_path / layout.METADATA
    descriptor = os.open(path, os.O_RDONLY if where == "folder" else os.O_RDWR)
    try:
        if where == "folder":
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, locks._RANGE)
        holder = rf"process {os.getpid()} \(\w+" if where == "folder" else "another process"
        with pytest.raises(StorageUnavailable, match=rf"{holder}.* kept the lock for replacing it for 0\.2 s"):
            dcp_engine.save(state(2), tmp_path, overwrite=True)
    finally:
        os.close(descriptor)
    assert value_at(tmp_path) == 1
    dcp_engine.save(state(3), tmp_path, overwrite=True)
    assert value_at(tmp_path) == 3


def test_who_locks_is_told_where_the_kernel_tells() -> None:
    locks_of_all = [
        "1: FLOCK  ADVISORY  WRITE 29 fe:00:77 0 EOF",
        "1: -> FLOCK  ADVISORY  WRITE 30 fe:00:77 0 EOF",
        "2: FLOCK  ADVISORY  READ 31 fe:00:177 0 EOF",
        "3: OFDLCK ADVISORY  WRITE -1 fe:00:77 0 EOF",
        "4: FLOCK  ADVISORY  READ 0 fe:00:77 0 EOF",
        "5: POSIX  ADVISORY  READ 32 fe:00:77 0 EOF",
        "",
    ]
    assert locks.locked_by(locks_of_all, 77) == {29, 32}


def test_a_child_that_is_forked_under_a_lock_keeps_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A child has the same open files for as long as it lives, as a worker of a DataLoader does."""
    dcp_engine.save(state(1), tmp_path)
    children: list[int] = []

    def full(*_: Any, **__: Any) -> None:
        held = {str(tmp_path), str(tmp_path / layout.METADATA)}
        open_files = [(int(file.name), os.path.realpath(file)) for file in Path("/proc/self/fd").iterdir()]
        children.extend(os.dup(number) for number, path in open_files if path in held)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", full)
        with pytest.raises(StorageFull):
            dcp_engine.save(state(2), tmp_path, overwrite=True)
    try:
        assert len(children) >= 2
        monkeypatch.setattr(locks, "PATIENCE_SECONDS", 0.2)
        dcp_engine.save(state(3), tmp_path, overwrite=True)
    finally:
        for number in children:
            os.close(number)
    assert value_at(tmp_path) == 3


# Object stores.


@pytest.fixture
def proxy(s3: s3_server.S3Server) -> Iterator[flaky_proxy.FlakyProxy]:
    """Return a store that is yet to be tried out: its port may be one that an earlier store had."""
    object_store._guards.clear()
    with flaky_proxy.before(s3) as proxy:
        yield proxy


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("ignored", "unknown", "create", "replace"),
    [
        ("", "", ATOMIC, ATOMIC),
        (REPLACES, "", ATOMIC, BEST_EFFORT),
        (CREATES, "", BEST_EFFORT, ATOMIC),
        (f"{CREATES} {REPLACES}", "", BEST_EFFORT, BEST_EFFORT),
        ("", REPLACES, ATOMIC, BEST_EFFORT),
        ("", CREATES, BEST_EFFORT, ATOMIC),
        ("", f"{CREATES} {REPLACES}", BEST_EFFORT, BEST_EFFORT),
    ],
)
def test_a_store_is_saved_to_whatever_it_knows(
    proxy: flaky_proxy.FlakyProxy,
    s3: s3_server.S3Server,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    ignored: str,
    unknown: str,
    create: str,
    replace: str,
) -> None:
    """E-M3 b, B-8: conditions that are honoured, ignored, or answered with 501."""
    proxy.ignored, proxy.unknown = frozenset(ignored.split()), frozenset(unknown.split())
    url, options = proxy.server.url(tmp_path.name), proxy.server.options
    assert dcp_engine.save(state(1), url, storage_options=options).conflict_guard == create
    with pytest.raises(CheckpointExists):
        dcp_engine.save(state(2), url, storage_options=options)
    assert dcp_engine.save(state(3), url, storage_options=options, overwrite=True).conflict_guard == weaker(
        create, replace
    )
    assert value_at(url, options) == 3
    store = open_store(url, options)
    assert [store.guard("create"), store.guard("replace")] == [create, replace]
    warned = [record for record in caplog.records if "two savers at the same moment" in record.getMessage()]
    assert (warned == []) is (create == replace == ATOMIC)
    assert s3.keys(f"{tmp_path.name}/data-probe") == []


@pytest.mark.adversary
def test_each_guard_is_tried_out_once(proxy: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    """E-M3 b: one request more than for creating, where something is to be replaced."""
    url, options = proxy.server.url(tmp_path.name), proxy.server.options

    def probes() -> list[str]:
        found = [method for method, path, _ in proxy.answered if "data-probe" in path]
        proxy.answered.clear()
        return found

    dcp_engine.save(state(1), url, storage_options=options, overwrite=True)
    assert sorted(probes())[-3:] == ["PUT"] * 3
    dcp_engine.save(state(2), url, storage_options=options, overwrite=True)
    assert probes() == []
    object_store._guards.clear()
    dcp_engine.save(state(1), f"{url}-2", storage_options=options)
    assert sorted(probes())[-2:] == ["PUT"] * 2


@pytest.mark.adversary
def test_a_look_still_refuses_what_the_store_does_not(proxy: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    """E-M3 b: one after the other nobody is overwritten, conditions or none."""
    proxy.unknown = frozenset({CREATES, REPLACES})
    store = open_store(proxy.server.url(tmp_path.name), proxy.server.options)
    store.create("x", b"1")
    with pytest.raises(FileExistsError):
        store.create("x", b"2")
    version = store.read("x").version
    store.replace("x", b"3", version)
    with pytest.raises(StaleVersion):
        store.replace("x", b"4", version)
    with pytest.raises(StaleVersion):
        store.replace("y", b"4", version)
    assert store.read("x").data == b"3"


@pytest.mark.adversary
@pytest.mark.parametrize("unknown", [False, True], ids=["ignored", "501"])
def test_a_late_write_that_nobody_refuses_finds_its_data(
    proxy: flaky_proxy.FlakyProxy,
    s3: s3_server.S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    unknown: bool,
) -> None:
    """E-M3 b: a replace gets no answer, another saver commits, then it arrives. The guard of creating is Atomic."""
    if unknown:
        proxy.unknown = frozenset({REPLACES})
    else:
        proxy.ignored = frozenset({REPLACES})
    url, options = proxy.server.url(tmp_path.name), proxy.server.options | {"max_attempts": 2}
    dcp_engine.save(state(1), url, storage_options=options)
    late: list[Callable[[], None]] = []
    put_over = ObjectStore._put_over

    def unanswered(store: ObjectStore, path: str, data: bytes) -> None:
        monkeypatch.setattr(ObjectStore, "_put_over", put_over)
        late.append(lambda: put_over(store, path, data))
        dcp_engine.save(state(3), url, storage_options=options, overwrite=True)
        raise TimeoutError("no answer")

    monkeypatch.setattr(ObjectStore, "_put_over", unanswered)
    with pytest.raises(EngineError, match="not known whether the save was committed") as caught:
        dcp_engine.save(state(2), url, storage_options=options, overwrite=True)
    assert caught.value.commit_unknown
    assert value_at(url, options) == 3
    late[0]()
    assert value_at(url, options) == 2
    dcp_engine.verify(url, storage_options=options)


@pytest.mark.adversary
def test_where_nothing_is_compared_nothing_is_sent_twice(proxy: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    """E-M3 b: a first try that arrives after another's commit would bring back what that one replaced."""
    proxy.ignored = frozenset({CREATES, REPLACES})
    url, options = proxy.server.url(tmp_path.name), proxy.server.options
    store = open_store(url, options)
    assert store.guard("replace") == BEST_EFFORT
    proxy.rule = lambda method, path: "reset" if method == "PUT" and ".metadata" in path else None
    with pytest.raises(StorageUnavailable) as caught:
        dcp_engine.save(state(1), url, storage_options=options)
    assert caught.value.commit_unknown
    assert proxy.faults == ["reset"]
    # What was answered without having been begun is another matter.
    proxy.faults.clear()
    proxy.rule = flaky_proxy.once("503", "PUT", ".metadata")
    dcp_engine.save(state(2), url, storage_options=options)
    assert value_at(url, options) == 2
    assert proxy.faults == ["503"]


def test_a_bucket_that_can_not_be_reached_is_not_taken_for_a_weak_one(
    proxy: flaky_proxy.FlakyProxy, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, options = proxy.server.url(f"{tmp_path.name}/if-match"), proxy.server.options | {"max_attempts": 2}
    proxy.rule = lambda method, path: "reset" if method == "PUT" else None
    with pytest.raises(StorageUnavailable):
        dcp_engine.save(state(1), url, storage_options=options)
    proxy.rule = lambda *_: None
    assert dcp_engine.save(state(1), url, storage_options=options, overwrite=True).conflict_guard == ATOMIC
    assert "two savers at the same moment" not in caplog.text
