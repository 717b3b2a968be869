"""What the engine promises when things break: the old checkpoint or the new one, whole, and an error that says why."""

import os
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch

import dcp_engine
import engine_programs as programs
import flaky_proxy
import s3_server
from dcp_contract.reasons import Reason
from dcp_engine import failpoints
from dcp_engine.errors import CheckpointCorrupted, EngineError, PeerHung, StorageDenied, StorageFull, StorageUnavailable
from dcp_engine.format import layout
from dcp_engine.stores import options as engine_options
from dcp_engine.stores import retry
from rank_group import run_ranks, values

pytestmark = pytest.mark.tier("ranks")

MEBI = 1 << 20
QUICK = {"max_attempts": 3, "read_timeout": 2}


@pytest.fixture
def hooked() -> Iterator[None]:
    yield
    failpoints.hook = None


def state(seed: int, mebi: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(mebi * MEBI // 4, generator=generator), "b": torch.full((3,), float(seed)), "step": seed}


def loaded(url: str, options: dict[str, Any] | None = None, mebi: int = 1) -> int:
    """Return which seed's state is at the URL, having compared every value."""
    found: dict[str, Any] = {"w": torch.zeros(mebi * MEBI // 4), "b": torch.zeros(3), "step": -1}
    dcp_engine.load(found, url, storage_options=options)
    expected = state(found["step"], mebi)
    assert torch.equal(found["w"], expected["w"])
    assert torch.equal(found["b"], expected["b"])
    return int(found["step"])


@pytest.mark.parametrize(
    ("point", "dying", "stands", "unknown"),
    [
        ("planning", 0, 1, False),
        ("planning", 1, 1, False),
        ("mid-part", 0, 1, True),
        ("mid-part", 1, 1, False),
        ("before manifest", 0, 1, True),
        ("before commit", 0, 1, True),
        ("after commit", 0, 2, True),
        ("before removal", 0, 2, False),
    ],
)
def test_a_killed_rank_leaves_the_old_checkpoint_or_the_new_one(
    tmp_path: Path, point: str, dying: int, stands: int, *, unknown: bool
) -> None:
    """Of a rank 0 that dies while it writes, the others can't tell whether it committed first."""
    url = str(tmp_path / "checkpoint")
    values(run_ranks(2, programs.save, url, None, 1))
    results = run_ranks(2, programs.save_and_die, url, None, point, dying, 2)
    assert results[dying].exit_code == -signal.SIGKILL
    survivor = results[1 - dying].error
    if point == "before removal":
        assert survivor is None, "whatever becomes of rank 0 then, the result is known"
    else:
        assert isinstance(survivor, EngineError)
        assert survivor.reason is Reason.WORKER_LOST
        assert survivor.commit_unknown is unknown
        if dying == 1:
            assert survivor.rank == 1
    assert values(run_ranks(1, programs.load, url, None, stands)) == [[]]
    assert dcp_engine.verify(url).save_id == dcp_engine.inspect(url).save_id
    # What the kill left behind is no hindrance, and no checkpoint.
    values(run_ranks(2, programs.save_args, url, None, 3, {"overwrite": True}))
    assert values(run_ranks(1, programs.load, url, None, 3)) == [[]]


def test_a_hung_rank_is_named_and_the_others_stop(tmp_path: Path) -> None:
    url = str(tmp_path / "checkpoint")
    values(run_ranks(3, programs.save, url, None, 1))
    first, _, third = run_ranks(3, programs.save_with_a_hung_rank, url, 1, ends=[0, 2], timeout=30)
    assert isinstance(first.error, PeerHung)
    assert (first.error.reason, first.error.rank) == (Reason.RANK_HUNG, 1)
    assert "rank 1 did not finish writing within 2 s" in str(first.error)
    assert isinstance(third.error, EngineError)
    assert values(run_ranks(1, programs.load, url, None, 1)) == [[]]


@pytest.mark.parametrize("point", ["planning", "mid-part", "before manifest", "before commit"])
@pytest.mark.usefixtures("hooked")
def test_a_failed_save_removes_its_own_files_only(tmp_path: Path, point: str) -> None:
    url = str(tmp_path / "checkpoint")
    dcp_engine.save(state(1), url)
    before = sorted(path.name for path in Path(url).rglob("*"))

    def hook(reached: str) -> None:
        if reached == point:
            raise OSError(28, "No space left on device")

    failpoints.hook = hook
    with pytest.raises(StorageFull):
        dcp_engine.save(state(2), url, overwrite=True)
    failpoints.hook = None
    assert sorted(path.name for path in Path(url).rglob("*")) == before
    assert loaded(url) == 1


@pytest.mark.parametrize(("rounds", "where"), [(200, "local"), (20, "s3")])
def test_of_two_savers_released_together_exactly_one_commits(
    tmp_path: Path, s3: s3_server.S3Server, rounds: int, where: str
) -> None:
    base, options = (s3.url(f"{tmp_path.name}"), s3.options) if where == "s3" else (str(tmp_path), {})
    first, second = values(run_ranks(2, programs.race, base, options, rounds))
    for number, ends in enumerate(zip(first, second, strict=True)):
        assert sorted(end for end, _ in ends) == ["refused", "saved"], f"race {number}"
        assert len({save_id for _, save_id in ends}) == 1, "the loser names the winner"
    if where == "local":
        folders = [path.parent for path in tmp_path.rglob("manifest.json")]
        assert len(folders) == rounds, "the loser leaves nothing"


def test_savers_that_replace_one_another_leave_one_whole_checkpoint(tmp_path: Path) -> None:
    url = str(tmp_path / "base")
    for ends in zip(*values(run_ranks(2, programs.race_to_replace, url)), strict=True):
        assert {end for end, _ in ends} == {"saved"}
    for number in range(10):
        info = dcp_engine.verify(f"{url}/{number}")
        assert len(list(Path(url, str(number)).glob("data-*"))) == 1
        assert info.save_id in next(Path(url, str(number)).glob("data-*")).name


def test_503s_are_ridden_out(flaky: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    url = flaky.server.url(tmp_path.name)
    flaky.rule = flaky_proxy.sometimes("503", 0.15, seed=7)
    dcp_engine.save(state(1, 20), url, storage_options=flaky.server.options)
    assert loaded(url, flaky.server.options, 20) == 1
    assert flaky.faults


@pytest.mark.parametrize("fault", ["reset", "truncate"])
def test_broken_answers_are_fetched_again(flaky: flaky_proxy.FlakyProxy, tmp_path: Path, fault: Any) -> None:
    url = flaky.server.url(tmp_path.name)
    dcp_engine.save(state(1, 20), url, storage_options=flaky.server.options)
    flaky.rule = flaky_proxy.once(fault, "GET", "distcp")
    assert loaded(url, flaky.server.options, 20) == 1
    assert flaky.faults == [fault]


def save_in_parts(state: dict[str, Any], url: str, options: dict[str, Any]) -> None:
    """Save values that don't lie side by side, with too little memory to hold them: they go in parts."""
    dcp_engine.save(state | {"w": programs.apart(state["w"])}, url, storage_options=options, memory_limit=8 * MEBI)


def save_in_one_request(state: dict[str, Any], url: str, options: dict[str, Any]) -> None:
    dcp_engine.save(state, url, storage_options=options)


IN_BOTH_WAYS = pytest.mark.parametrize(
    ("save", "request_of"), [(save_in_one_request, "__0_0.distcp"), (save_in_parts, "partNumber=2")]
)


@IN_BOTH_WAYS
def test_a_reset_request_is_sent_again(
    flaky: flaky_proxy.FlakyProxy, tmp_path: Path, save: Any, request_of: str
) -> None:
    url = flaky.server.url(tmp_path.name)
    flaky.rule = flaky_proxy.once("reset", "PUT", request_of)
    save(state(1, 20), url, flaky.server.options)
    assert flaky.faults == ["reset"]
    assert loaded(url, flaky.server.options, 20) == 1


def test_a_stall_ends_with_the_read_timeout(flaky: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    url = flaky.server.url(tmp_path.name)
    options = flaky.server.options | QUICK
    dcp_engine.save(state(1), url, storage_options=options)
    flaky.rule = flaky_proxy.once("stall", "GET", "distcp")
    assert loaded(url, options) == 1
    assert flaky.faults == ["stall"]


@pytest.mark.parametrize("attempts", [1, 3])
def test_a_range_is_asked_for_as_often_as_the_options_say(
    flaky: flaky_proxy.FlakyProxy, tmp_path: Path, attempts: int
) -> None:
    url = flaky.server.url(tmp_path.name)
    dcp_engine.save(state(1), url, storage_options=flaky.server.options)
    flaky.rule = lambda method, path: "reset" if method == "GET" and "distcp" in path else None
    with pytest.raises(StorageUnavailable):
        loaded(url, flaky.server.options | {"max_attempts": attempts})
    assert flaky.faults == ["reset"] * attempts


def test_a_bucket_that_is_not_there_is_no_checkpoint_that_is_not_there(s3: s3_server.S3Server) -> None:
    for attempt in (loaded, lambda url, options: dcp_engine.find(url, storage_options=options)):
        with pytest.raises(StorageUnavailable, match="NoSuchBucket"):
            attempt("s3://nowhere/x", s3.options)


@IN_BOTH_WAYS
def test_a_store_that_stays_sick_is_unavailable_and_nothing_remains(
    flaky: flaky_proxy.FlakyProxy,
    s3: s3_server.S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    save: Any,
    request_of: str,
) -> None:
    monkeypatch.setattr(retry, "PATIENCE_SECONDS", 2)
    monkeypatch.setattr(engine_options, "PATIENCE_SECONDS", 2)
    url = flaky.server.url(tmp_path.name)
    flaky.rule = lambda method, path: "503" if method == "PUT" and request_of in path else None
    with pytest.raises(StorageUnavailable):
        save(state(1, 20), url, flaky.server.options | QUICK)
    assert s3.keys(tmp_path.name) == []
    assert s3.uploads(tmp_path.name) == []
    assert dcp_engine.find(url, storage_options=s3.options) is None


def test_a_lost_answer_to_ones_own_commit_is_recognised(flaky: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    url = flaky.server.url(tmp_path.name)
    flaky.rule = flaky_proxy.once("lose answer", "PUT", ".metadata")
    info = dcp_engine.save(state(1), url, storage_options=flaky.server.options)
    assert flaky.faults == ["lose answer"]
    found = dcp_engine.find(url, storage_options=flaky.server.options)
    assert found is not None
    assert found.save_id == info.save_id


@pytest.mark.parametrize(
    ("faults", "error", "unknown"),
    [(["403"], StorageDenied, False), (["reset", "403"], StorageUnavailable, True)],
    ids=["refused", "refused after a try that may still arrive"],
)
@pytest.mark.parametrize("overwrite", [False, True], ids=["create", "replace"])
def test_only_a_commit_that_was_refused_at_once_is_none(
    flaky: flaky_proxy.FlakyProxy,
    s3: s3_server.S3Server,
    tmp_path: Path,
    faults: list[flaky_proxy.Fault],
    error: type[EngineError],
    *,
    unknown: bool,
    overwrite: bool,
) -> None:
    url = flaky.server.url(tmp_path.name)
    if overwrite:
        dcp_engine.save(state(1), url, storage_options=s3.options)
    before = s3.keys(tmp_path.name)
    flaky.rule = _in_turn(faults)
    with pytest.raises(error) as caught:
        dcp_engine.save(state(2), url, storage_options=flaky.server.options, overwrite=overwrite)
    assert caught.value.commit_unknown is unknown
    assert (s3.keys(tmp_path.name) == before) is not unknown
    assert flaky.faults == faults


def test_a_commit_that_is_refused_after_its_answer_got_lost_is_one(
    flaky: flaky_proxy.FlakyProxy, s3: s3_server.S3Server, tmp_path: Path
) -> None:
    url = flaky.server.url(tmp_path.name)
    flaky.rule = _in_turn(["lose answer", "403"])
    dcp_engine.save(state(2), url, storage_options=flaky.server.options)
    assert flaky.faults == ["lose answer", "403"]
    assert loaded(url, s3.options) == 2


def _in_turn(faults: list[flaky_proxy.Fault]) -> flaky_proxy.Rule:
    left = list(faults)
    return lambda method, path: left.pop(0) if left and method == "PUT" and ".metadata" in path else None


def test_a_byte_flipped_on_the_wire_is_noticed(flaky: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    url = flaky.server.url(tmp_path.name)
    dcp_engine.save(state(1), url, storage_options=flaky.server.options)
    flaky.rule = flaky_proxy.once("flip", "GET", "distcp")
    with pytest.raises(CheckpointCorrupted, match=r"__0_0\.distcp.*It holds .*w"):
        loaded(url, flaky.server.options)


def test_only_the_bytes_that_are_needed_travel(flaky: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    url = flaky.server.url(tmp_path.name)
    saved = {f"layer{number}": torch.randn(8 * MEBI // 4) for number in range(4)}
    dcp_engine.save(saved, url, storage_options=flaky.server.options)
    flaky.answered.clear()
    dcp_engine.load({"layer2": torch.zeros(8 * MEBI // 4)}, url, storage_options=flaky.server.options)
    fetched = sum(size for method, path, size in flaky.answered if method == "GET" and "distcp" in path)
    assert fetched <= 1.05 * 8 * MEBI


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (lambda file: _flip(file, 700_000), "does not have the digest"),
        (lambda file: os.truncate(file, 600_000), "ends before byte"),
        (lambda file: file.unlink(), "missing"),
    ],
    ids=["flipped", "truncated", "gone"],
)
def test_damaged_data_are_named(tmp_path: Path, harm: Any, what: str) -> None:
    url = str(tmp_path / "checkpoint")
    dcp_engine.save(state(1), url)
    harm(next(Path(url).rglob("*.distcp")))
    with pytest.raises(CheckpointCorrupted, match=what):
        loaded(url)
    with pytest.raises(CheckpointCorrupted) as caught:
        dcp_engine.verify(url)
    assert "w" in caught.value.tensors
    assert "__0_0.distcp" in str(caught.value)


@pytest.mark.parametrize("name", ["manifest.json", "blocks.crc32c", ".metadata"])
def test_damage_beside_the_data_is_noticed(tmp_path: Path, name: str) -> None:
    """What a load reads of it; of `.metadata` it reads the last line alone, and leaves the pickle to stock readers."""
    url = str(tmp_path / "checkpoint")
    dcp_engine.save(state(1), url)
    file = next(path for path in Path(url).rglob("*") if path.name == name)
    _flip(file, file.stat().st_size // 2)
    with pytest.raises(CheckpointCorrupted) if name != ".metadata" else nullcontext():
        assert loaded(url) == 1
    with pytest.raises(CheckpointCorrupted):
        dcp_engine.verify(url)


@pytest.mark.usefixtures("hooked")
def test_a_load_under_a_replace_starts_over_and_never_mixes(tmp_path: Path) -> None:
    url = str(tmp_path / "checkpoint")
    dcp_engine.save(state(1), url)
    replaced: list[int] = []

    def hook(reached: str) -> None:
        if reached == "reading" and not replaced:
            replaced.append(1)
            failpoints.hook = None
            dcp_engine.save(state(2), url, overwrite=True)

    failpoints.hook = hook
    assert loaded(url) == 2
    assert replaced


def test_a_full_disk(tmp_path: Path) -> None:
    import subprocess

    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        dcp_engine.save(state(1), f"{small}/checkpoint")
        with pytest.raises(StorageFull):
            dcp_engine.save(state(2), f"{small}/checkpoint", overwrite=True)
        assert loaded(f"{small}/checkpoint") == 1
        assert len(list(small.rglob("*.distcp"))) == 1
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_async_saves_keep_their_order_and_lose_no_error(tmp_path: Path) -> None:
    first, second = values(run_ranks(2, programs.async_saves, str(tmp_path), 1))
    assert first == second
    assert first[0] == "CheckpointExists 0"
    assert values(run_ranks(2, programs.load, f"{tmp_path}/1", None, 1)) == [[], []]
    assert values(run_ranks(2, programs.load, f"{tmp_path}/3", None, 3)) == [[], []]


def test_orphans_are_left_to_an_explicit_clean_up(tmp_path: Path) -> None:
    url = tmp_path / "checkpoint"
    orphan = url / layout.data_folder(layout.new_save_id()) / "__0_0.distcp"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"somebody may still be writing this")
    dcp_engine.save(state(1), str(url))
    dcp_engine.save(state(2), str(url), overwrite=True)
    assert dcp_engine.clean(url) == []  # too young
    gone = orphan.relative_to(url).as_posix()
    assert dcp_engine.clean(url, older_than=timedelta(0), dry_run=True) == [gone]
    assert orphan.exists()
    assert dcp_engine.clean(url, older_than=timedelta(0)) == [gone]
    assert not orphan.parent.exists()
    assert loaded(str(url)) == 2


def test_a_clean_up_removes_what_a_probe_or_a_commit_left_and_nothing_like_it(tmp_path: Path) -> None:
    dcp_engine.save(state(1), tmp_path)
    number = layout.new_save_id()
    left = [f".metadata.{number}.tmp", f"data-probe-{number}/probe", f"probe.{number}.link", f"probe.{number}.tmp"]
    others = [".metadata.tmp", f"metadata.{number}.tmp", "probe.txt", f"data-{number}.txt", f"notes/probe.{number}.tmp"]
    for name in left + others:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert dcp_engine.clean(tmp_path) == []
    assert dcp_engine.clean(tmp_path, older_than=timedelta(0)) == left
    assert all((tmp_path / name).exists() for name in others)
    assert loaded(str(tmp_path)) == 1


def test_stale_uploads_are_aborted_by_a_clean_up(s3: s3_server.S3Server, tmp_path: Path) -> None:
    url = s3.url(tmp_path.name)
    dcp_engine.save(state(1), url, storage_options=s3.options)
    key = f"{tmp_path.name}/{layout.data_path(layout.new_save_id(), 0, 0)}"
    s3.client().create_multipart_upload(Bucket=s3.bucket, Key=key)
    # moto says that every upload began in 2010, so this one counts as stale at once.
    name = key.partition("/")[2]
    assert dcp_engine.clean(url, storage_options=s3.options, dry_run=True) == [name]
    assert s3.uploads(tmp_path.name) == [key]
    assert dcp_engine.clean(url, storage_options=s3.options) == [name]
    assert s3.uploads(tmp_path.name) == []
    assert loaded(url, s3.options) == 1


def _flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 1]))
