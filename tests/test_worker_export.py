"""An Export in whole pods: what it writes, what it refuses in a spec's words, and what a later attempt finds."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import pytest
from safetensors import safe_open

import dcp_engine
from dcp_contract.checkpoint_info import Origin
from dcp_contract.operations import ExportFields, Operation
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure
from dcp_contract.task import Task
from dcp_engine.format.safetensors import INDEX
from worker_process import Pod, ran, ran_anew, started, started_anew, task, until

pytestmark = pytest.mark.tier("pods")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    assert ran(task(folder / "url"), folder / "pod").result is Reason.SAVED
    return folder / "url"


@pytest.fixture
def mounted(tmp_path: Path) -> Path:
    """Return the path of a file in a ConfigMap's volume, which consists of links."""
    (tmp_path / "config/..2026").mkdir(parents=True)
    (tmp_path / "config/..2026/config.json").write_text('{"hidden": 8}')
    (tmp_path / "config/..data").symlink_to("..2026")
    (tmp_path / "config/config.json").symlink_to("..data/config.json")
    return tmp_path / "config/config.json"


def export(source: Path, url: Path, *, uid: str = "uid-2", attempt: int = 1, **fields: Any) -> Task:
    asked = ExportFields.model_validate({"from": {"url": f"file://{source}"}, **fields})
    given = task(url, operation=Operation.EXPORT, uid=uid, attempt=attempt)
    # By JSON, as a pod gets it.
    return Task.decode(given.model_copy(update={"workload": None, "save": None, "export": asked}).to_json())


def refused(work: Task, folder: Path) -> RankFailure:
    report = ran(work, folder)
    assert report.result is None
    (failure,) = report.failures
    return failure


def model(url: Path) -> dict[str, Any]:
    index: dict[str, Any] = json.loads((url / INDEX).read_text())
    return index


def shards(url: Path) -> set[str]:
    return {path.name for path in url.glob("*.safetensors")}


def test_an_export_is_what_was_asked_for(saved: Path, mounted: Path, tmp_path: Path) -> None:
    keys = [{"glob": "model.0.weight", "name": "head.weight"}, {"glob": "model.*", "name": "net.*"}]
    asked: dict[str, Any] = {"dtype": "bfloat16", "include": ["model"], "keys": keys, "configFiles": [str(mounted)]}
    report = ran(export(saved, tmp_path / "hf", **asked), tmp_path / "pod")
    assert (report.result, report.warnings, report.failures) == (Reason.EXPORTED, [], [])
    index, info = model(tmp_path / "hf"), report.checkpoint
    assert index["weight_map"].keys() == {"head.weight", "net.0.bias"}
    (shard,) = shards(tmp_path / "hf")
    with safe_open(tmp_path / "hf" / shard, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118 - no mapping
    assert (tmp_path / "hf/config.json").read_text() == '{"hidden": 8}'
    assert info is not None
    assert (info.url, info.step, info.tensors, info.files) == (f"file://{tmp_path / 'hf'}", 1, 2, 1)
    assert info.save_id == index["metadata"]["dcpOperator"]["exportId"]
    assert info.origin == Origin(namespace="team", name="one", uid="uid-2")
    assert report.bytes_moved == info.bytes == (tmp_path / "hf" / shard).stat().st_size


def test_another_attempt_finds_the_export_of_a_lost_one_and_loads_no_torch(saved: Path, tmp_path: Path) -> None:
    """Even where the source has gone since. Another run exports anew, if it may."""
    first = ran(export(saved, tmp_path / "hf"), tmp_path / "1")
    with started(export(tmp_path / "gone", tmp_path / "hf", attempt=2), tmp_path / "2") as pod:
        again = pod.report
        assert "torch" not in pod.log
    assert again.result is Reason.EXPORTED
    assert first.checkpoint is not None
    assert again.checkpoint is not None
    same = {"save_id", "step", "bytes", "files", "tensors", "origin", "url"}
    assert again.checkpoint.model_dump(include=same) == first.checkpoint.model_dump(include=same)
    other = ran(export(saved, tmp_path / "hf", uid="uid-3", ifExists="Replace"), tmp_path / "3")
    assert other.checkpoint is not None
    assert other.checkpoint.save_id != first.checkpoint.save_id
    assert shards(tmp_path / "hf") == {*model(tmp_path / "hf")["weight_map"].values()}


def test_a_model_that_stands_there_is_a_conflict_that_names_its_holder(saved: Path, tmp_path: Path) -> None:
    assert ran(export(saved, tmp_path / "hf"), tmp_path / "1").result is Reason.EXPORTED
    report = ran(export(saved, tmp_path / "hf", uid="uid-3"), tmp_path / "2")
    (failure,) = report.failures
    assert (report.result, failure.reason) == (None, Reason.OVERWRITE_CONFLICT)
    assert "by Checkpoint team/one (uid uid-2)" in failure.message
    assert "Write export.ifExists: Replace to replace it, or export to another URL." in failure.message
    assert report.conflict is not None
    assert report.conflict.origin == Origin(namespace="team", name="one", uid="uid-2")
    assert report.conflict.message == failure.message


def test_what_can_not_be_exported_is_said_in_the_fields_of_a_spec(saved: Path, mounted: Path, tmp_path: Path) -> None:
    url = tmp_path / "hf"
    assert ran(export(saved, url, configFiles=[str(mounted)]), tmp_path / "0").result is Reason.EXPORTED
    stood = model(url)
    nothing = refused(export(tmp_path / "nowhere", tmp_path / "x"), tmp_path / "1")
    assert nothing.reason is Reason.CHECKPOINT_NOT_FOUND
    idle = [{"glob": "encoder.*", "name": "*"}]
    failure = refused(export(saved, tmp_path / "x", keys=idle), tmp_path / "2")
    assert (failure.reason, failure.message.partition(":")[0]) == (Reason.STATE_MISMATCH, "export.keys")
    failure = refused(export(saved, tmp_path / "x", include=["encoder"]), tmp_path / "3")
    assert (failure.reason, failure.message.partition(":")[0]) == (Reason.STATE_MISMATCH, "export.include")
    failure = refused(export(saved, tmp_path / "x", configFiles=["/nowhere/config.json"]), tmp_path / "4")
    assert (failure.reason, failure.message) == (
        Reason.INVALID_SPEC,
        "export.configFiles: /nowhere/config.json is not there",
    )
    mounted.write_text('{"hidden": 16}')
    changed = export(saved, url, uid="uid-3", configFiles=[str(mounted)], ifExists="Replace")
    failure = refused(changed, tmp_path / "5")
    assert failure.reason is Reason.INVALID_SPEC, "no attempt and no ifExists would help"
    assert "whose config.json is another one" in failure.message
    assert "leave it out of export.configFiles" in failure.message
    assert "ifExists" not in failure.message
    assert model(url) == stood
    assert not (tmp_path / "x").exists() or shards(tmp_path / "x") == set()


def test_a_sigterm_in_the_middle_leaves_nothing_and_the_model_that_stood_there(saved: Path, tmp_path: Path) -> None:
    """The rank waits for a config file, which is a pipe, and is told to stop there: its next bytes are its last."""
    url, pipe = tmp_path / "hf", tmp_path / "config.json"
    assert ran(export(saved, url), tmp_path / "1").result is Reason.EXPORTED
    before = {path: path.read_bytes() for path in url.rglob("*")}
    os.mkfifo(pipe)
    work = export(saved, url, uid="uid-3", configFiles=[str(pipe)], ifExists="Replace")
    with started(work, tmp_path / "2") as pod:
        writer = opened(pipe, pod)
        until(lambda: readers(pod, pipe) != [])
        (rank,) = readers(pod, pipe)
        woken = switches(rank)
        pod.send(signal.SIGTERM)
        until(lambda: switches(rank) > woken)
        os.close(writer)
        report = pod.report
        assert pod.processes() == []
    assert report.terminated
    assert report.result is None
    assert {failure.reason for failure in report.failures} == {Reason.WORKER_LOST}
    assert {path: path.read_bytes() for path in url.rglob("*")} == before


def opened(pipe: Path, pod: Pod) -> int:
    """Return the writing end of a pipe, once somebody reads it."""
    found: list[int] = []

    def tried() -> bool:
        try:
            found.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return pod.process.poll() is not None
        return True

    until(tried)
    assert found, pod.log
    return found[0]


def readers(pod: Pod, pipe: Path) -> list[int]:
    def reads(pid: int) -> bool:
        return any(each.readlink() == pipe for each in Path(f"/proc/{pid}/fd").iterdir())

    return [pid for pid in pod.processes() if pid != os.getpid() and reads(pid)]


def switches(pid: int) -> int:
    """Return how often a process has waited: one that waits, and gets a signal, wakes and waits again."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


LARGE: Final = """
import sys, torch, dcp_engine
state = {str(n): torch.full((64, 1 << 20), float(n), dtype=torch.bfloat16) for n in range(16)}
dcp_engine.save({"model": state}, sys.argv[1], no_dist=True)
"""


@pytest.mark.tier("matrix")
def test_a_pod_exports_two_gigabytes_in_less_than_600_mib() -> None:
    """Of memory that can't be reclaimed, in all of its processes: the pages of torch's libraries come from files."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-W", "ignore", "-c", LARGE, folder / "run"], check=True, timeout=250)
        peak = 0
        with started_anew(export(folder / "run", folder / "hf", shardBytes=700 << 20), folder / "pod") as pod:
            while pod.process.poll() is None:
                peak = max(peak, sum(map(anonymous, pod.processes())))
                time.sleep(0.05)
            assert pod.report.result is Reason.EXPORTED
        print(f"{peak >> 10} MiB")
        assert 200 << 10 < peak < 600 << 10
        assert sum(path.stat().st_size for path in (folder / "hf").glob("model-*")) > 2 << 30


def anonymous(pid: int) -> int:
    """Return the KiB of memory of a process that no file holds; what it shares counts by its part."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    told = rollup.partition("\nPss_Anon:")[2].split()
    return int(told[0]) if told else 0


def test_a_pod_exports_from_its_own_start(saved: Path, tmp_path: Path) -> None:
    """No test has loaded torch for it: what the export needs is imported by the pod itself."""
    assert ran_anew(export(saved, tmp_path / "hf"), tmp_path / "pod").result is Reason.EXPORTED
    assert dcp_engine.preflight_export(saved, tmp_path / "other") is None
