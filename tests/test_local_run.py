"""`dcp run` as its user runs it: real processes, real ranks, the status that comes out."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dcp_run import DEADLINE, ran, started

pytestmark = pytest.mark.tier("pods")


def manifest(name: str, url: Path | str, entrypoint: str = "run_workloads:Tiny", **spec: Any) -> dict[str, Any]:
    where = str(url) if "://" in str(url) else f"file://{url}"
    workload, steps = {"entrypoint": entrypoint, "args": spec.pop("args", {})}, spec.pop("steps", 1)
    body: dict[str, Any] = {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "Checkpoint", "metadata": {"name": name}}
    body["spec"] = {
        "operation": "Save",
        "storage": {"url": where},
        "workload": workload,
        "workers": {"device": "cpu"},
        "retries": 0,
        **spec,
    }
    if body["spec"]["operation"] == "Save":
        body["spec"]["save"] = {"steps": steps}
    if body["spec"]["operation"] not in {"Save", "Load"}:
        del body["spec"]["workload"]
    return body


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.05)


def committed(folder: Path) -> bool:
    return (folder / ".metadata").exists()


def test_two_nodes_save_and_the_object_comes_out_with_the_operators_status(tmp_path: Path) -> None:
    url = tmp_path / "run"
    body = manifest("save", url, workers={"numNodes": 2, "device": "cpu"})
    code, out, err = ran(body)
    assert code == 0, err
    save = json.loads(out)
    assert committed(url)
    status = save["status"]
    assert (status["phase"], status["reason"], status["ranks"], status["attempts"]) == (
        "Succeeded",
        "Saved",
        "2 (2x1)",
        1,
    )
    assert status["checkpoint"]["worldSize"] == 2
    assert status["checkpoint"]["step"] == 1
    assert status["checkpoint"]["origin"]["uid"] == save["metadata"]["uid"]
    assert {each["type"]: each["status"] for each in status["conditions"]}["Complete"] == "True"
    assert "save: Succeeded, 2 ranks" in err


def test_a_checkpoint_is_saved_and_removed(tmp_path: Path) -> None:
    url = tmp_path / "run"
    code, out, err = ran(manifest("save", url), manifest("delete", url, operation="Delete"))
    assert code == 0, err
    saved, deleted = (body["status"] for body in json.loads(out)["items"])
    assert (deleted["phase"], deleted["reason"]) == ("Succeeded", "Deleted")
    assert deleted["checkpoint"]["saveId"] == saved["checkpoint"]["saveId"]
    assert "Deleted step 1: " in deleted["conditions"][0]["message"]
    assert not url.exists()


def test_a_checkpoint_is_saved_and_copied(tmp_path: Path) -> None:
    copy = manifest("copy", tmp_path / "copy", operation="Copy")
    copy["spec"]["copy"] = {"from": {"url": f"file://{tmp_path / 'run'}"}}
    code, out, err = ran(manifest("save", tmp_path / "run"), copy)
    assert code == 0, err
    saved, copied = (body["status"] for body in json.loads(out)["items"])
    assert (copied["phase"], copied["reason"]) == ("Succeeded", "Copied")
    assert copied["checkpoint"]["manifestDigest"] == saved["checkpoint"]["manifestDigest"]
    assert copied["checkpoint"]["verified"] == "1 file by the crc32c of each block"
    assert "Copied step 1: " in copied["conditions"][0]["message"]


def test_a_failure_shows_the_last_lines_and_does_not_keep_the_next_from_running(tmp_path: Path) -> None:
    code, out, err = ran(
        manifest("raises", tmp_path / "run", "run_workloads:Raises"),
        manifest("absent", tmp_path / "run", operation="Verify"),
        options=(),
    )
    assert code == 1
    header, raises, absent = (line.split() for line in out.splitlines())
    assert header == ["Name", "Operation", "Phase", "Step", "Size", "Duration", "Reason", "Age"]
    assert {"raises", "Save", "Failed", "EntrypointError"} <= {*raises}
    assert {"absent", "Verify", "Failed", "CheckpointNotFound"} <= {*absent}
    assert "the model is not for you" in err
    assert "[raises] about to fail" in err
    assert not committed(tmp_path / "run")


@pytest.mark.parametrize("times", [1, 2], ids=["Ctrl-C", "Ctrl-C twice"])
def test_ctrl_c_stops_the_ranks_and_says_so_in_the_status(times: int, tmp_path: Path) -> None:
    began, url = tmp_path / "began", tmp_path / "run"
    blocks = manifest("blocks", url, "run_workloads:Blocks", args={"began": str(began)})
    with started(blocks, manifest("next", url)) as process:
        until(lambda: began.exists() and began.read_text() != "")
        rank = int(began.read_text())
        for _ in range(times):
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130, err
    assert not _alive(rank)
    assert not committed(url)
    first, second = json.loads(out)["items"]
    assert (first["status"]["phase"], first["status"]["reason"]) == ("Suspended", "Suspended")
    assert first["spec"]["suspend"] is True
    assert second["status"]["phase"] == "Suspended"
    assert second["status"].get("attempts", 0) == 0
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)],
    ids=str,
)
def test_a_signal_is_named_in_the_status_and_is_the_exit_code(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    began = tmp_path / "began"
    with started(manifest("blocks", tmp_path / "run", "run_workloads:Blocks", args={"began": str(began)})) as process:
        until(lambda: began.exists() and began.read_text() != "")
        process.send_signal(number)
        out, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == code, err
    said = {each["message"] for each in json.loads(out)["status"]["conditions"]}
    assert any(text.startswith(f"{number.name} stopped this run, as suspend: true would") for text in said), said
    assert not any("spec.suspend is true" in text for text in said), said


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
