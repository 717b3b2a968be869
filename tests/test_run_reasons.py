"""Each way to fail, through `dcp run`: what the object's status says of it. Everything runs in two invocations."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dcp_run import started
from forked_pods import ForkedRun

DEADLINE = 500
pytestmark = [pytest.mark.tier("pods"), pytest.mark.timeout(600)]
Status = dict[str, Any]


@dataclass(frozen=True)
class Expected:
    """What status has to say; `words` stand in failure.message, the last of `lines` ends failure.traceback."""

    reason: str
    rank: int | None
    words: str
    exit_code: int | None = None
    last_line: str = ""
    failed_ranks: int = 1
    retriable: bool = False


def _failing(folder: Path) -> dict[str, dict[str, Any]]:
    """Return manifests of Saves that fail in their ranks."""
    two = {"workers": {"numProcPerNode": 2, "device": "cpu"}}
    return {
        "imports": {"entrypoint": "no_such_module:Factory"},
        "names": {"entrypoint": "failing_workloads:Absent"},
        "raises": {"entrypoint": "failing_workloads:ModelRaises", "args": {"rank": 1}, **two},
        "dies": {"entrypoint": "failing_workloads:Dies", "args": {"rank": 1}, **two},
        "memory": {"entrypoint": "failing_workloads:NeedsTooMuch"},
        "exits": {"entrypoint": "failing_workloads:Exits"},
        "hangs": {
            "entrypoint": "failing_workloads:Blocks",
            "args": {"folder": str(folder), "rank": 1},
            **two,
            "timeouts": {"activeSeconds": 8},
        },
    }


def _reading(folder: Path) -> dict[str, dict[str, Any]]:
    """Return manifests that read what `seed` saved."""
    load = {"operation": "Load", "entrypoint": "failing_workloads:Fine"}
    return {
        "again": {"entrypoint": "failing_workloads:Fine", "url": folder / "seed"},
        "nothing": {**load, "url": folder / "nothing"},
        "shape": {**load, "url": folder / "seed", "args": {"width": 9}},
        "missing": {**load, "url": folder / "seed", "args": {"layers": 2}},
        "refused": {**load, "url": folder / "seed", "entrypoint": "failing_workloads:Suspicious"},
        "flipped": {**load, "url": folder / "flipped"},
        "verified": {"operation": "Verify", "url": folder / "flipped"},
        "other": {"operation": "Delete", "url": folder / "seed", "delete": {"saveId": "f" * 32}},
        "device": {"entrypoint": "failing_workloads:Fine", "workers": {"device": "cuda"}},
    }


EXPECTED = {
    "imports": Expected(
        "EntrypointError",
        0,
        "importing no_such_module raised ModuleNotFoundError",
        last_line="ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "names": Expected("EntrypointError", 0, "failing_workloads has no 'Absent'"),
    "raises": Expected(
        "EntrypointError",
        1,
        "model() raised ValueError: the data set has 7 columns",
        last_line="ValueError: the data set has 7 columns, expected 8",
        failed_ranks=2,
    ),
    "dies": Expected("RankFailed", 1, "ended by SIGKILL", exit_code=-9, failed_ranks=2, retriable=True),
    "memory": Expected("OutOfMemory", 0, "allocate", retriable=True),
    "exits": Expected("EntrypointError", 0, "step() 1 raised SystemExit: 3"),
    "hangs": Expected("RankHung", 1, "waits for no other rank", failed_ranks=2, retriable=True),
    "again": Expected("OverwriteConflict", None, "Checkpoint already exists", failed_ranks=0),
    "nothing": Expected("CheckpointNotFound", None, "No checkpoint is committed", failed_ranks=0),
    "shape": Expected("StateMismatch", 0, "0.weight"),
    "missing": Expected("StateMismatch", 0, "1.weight"),
    "refused": Expected(
        "StateMismatch",
        0,
        "loaded() raised AssertionError",
        last_line="AssertionError: the loss is not what it was",
    ),
    "flipped": Expected("CheckpointCorrupted", 0, ".distcp"),
    "verified": Expected("CheckpointCorrupted", 0, ".distcp"),
    "other": Expected("SaveMismatch", 0, "Nothing was removed."),
    "device": Expected("DeviceUnavailable", 0, "needs a GPU of its own", retriable=True),
    "full": Expected("StorageFull", 0, "No space left"),
}


def objects(process: ForkedRun) -> dict[str, Status]:
    out, err = process.communicate(timeout=DEADLINE)
    assert out, err
    found = json.loads(out)
    return {body["metadata"]["name"]: body["status"] for body in found.get("items", [found])}


def bodies(rows: dict[str, dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    return [_body(name, **{"url": folder / name, **row}) for name, row in rows.items()]


def _body(name: str, url: Path, entrypoint: str = "", **spec: Any) -> dict[str, Any]:
    args = spec.pop("args", {})
    body: dict[str, Any] = {
        "operation": "Save",
        "storage": {"url": f"file://{url}"},
        "workers": {"device": "cpu"},
        "retries": 0,
        **spec,
    }
    if entrypoint:
        body["workload"] = {"entrypoint": entrypoint, "args": args}
        if body["operation"] == "Save":
            body["save"] = {"steps": 1}
    return {
        "apiVersion": "dcp-operator.io/v1alpha1",
        "kind": "Checkpoint",
        "metadata": {"name": name},
        "spec": body,
    }


@pytest.fixture(scope="module")
def tmpfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | None]:
    """A file system with room for nothing, where this user may mount one."""
    folder = tmp_path_factory.mktemp("full")
    mount = shutil.which("mount")
    options = ["-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if mount is None or os.geteuid() or subprocess.run([mount, *options], check=False, capture_output=True).returncode:
        yield None
        return
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="module")
def statuses(tmp_path_factory: pytest.TempPathFactory, tmpfs: Path | None) -> dict[str, Status]:
    """The status of every manifest: what fails by itself runs beside what needs a checkpoint first."""
    folder = tmp_path_factory.mktemp("runs")
    with started(*bodies(_failing(folder), folder)) as failing:
        with started(*bodies({"seed": {"entrypoint": "failing_workloads:Fine"}}, folder)) as seeding:
            seed = objects(seeding)
        assert seed["seed"]["reason"] == "Saved", seed
        flip(folder / "seed", folder / "flipped")
        rows = _reading(folder)
        if tmpfs is not None:
            rows["full"] = {"entrypoint": "failing_workloads:Fine", "args": {"width": 512}, "url": tmpfs / "run"}
        with started(*bodies(rows, folder)) as reading:
            return {**seed, **objects(reading), **objects(failing)}


def flip(source: Path, target: Path) -> None:
    """Copy a checkpoint and change one byte of a tensor in it."""
    shutil.copytree(source, target)
    (path,) = target.rglob("*.distcp")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)


@pytest.fixture
def status_of(statuses: dict[str, Status]) -> Callable[[str], Status]:
    def of(name: str) -> Status:
        if name not in statuses:
            pytest.skip("no tmpfs can be mounted here")
        return statuses[name]

    return of


@pytest.mark.parametrize("name", EXPECTED)
def test_the_status_says_why(name: str, status_of: Callable[[str], Status]) -> None:
    expected, status = EXPECTED[name], status_of(name)
    failure = status["failure"]
    assert status["reason"] == failure["reason"] == expected.reason, failure["message"]
    assert status["phase"] == ("Conflict" if expected.reason == "OverwriteConflict" else "Failed")
    assert expected.words in failure["message"]
    assert (failure.get("rank"), failure.get("exitCode")) == (expected.rank, expected.exit_code)
    assert bool(failure.get("retriable")) is expected.retriable
    assert failure.get("traceback", "").strip().endswith(expected.last_line)
    conditions = {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}
    assert conditions["Failed"] == conditions["Stalled"] == ("True", expected.reason)
    assert conditions["Ready"][0] == "False"
    assert len(status.get("failedRanks", [])) == expected.failed_ranks
    assert status["attempts"] == 1
    assert status["completionTime"]


def test_the_first_of_the_failed_ranks_is_the_cause_and_the_other_its_echo(
    status_of: Callable[[str], Status],
) -> None:
    first, second = status_of("raises")["failedRanks"]
    assert (first["rank"], first["reason"]) == (1, "EntrypointError")
    assert (second["rank"], second["reason"]) == (0, "WorkerLost")


def test_a_conflict_names_who_holds_the_url(status_of: Callable[[str], Status]) -> None:
    status = status_of("again")
    assert status["conflict"]["origin"]["name"] == "seed"
    assert status["conflict"]["saveId"] == status_of("seed")["checkpoint"]["saveId"]


@pytest.mark.parametrize("name", ["flipped", "verified"])
def test_a_corrupted_file_is_named_with_its_tensors(name: str, status_of: Callable[[str], Status]) -> None:
    message = status_of(name)["failure"]["message"]
    assert status_of("seed")["checkpoint"]["saveId"] in message
    assert "It holds " in message
