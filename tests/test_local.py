"""What the processes of `dcp run` are given, and how their lines are told apart."""

import os
import signal
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console

from dcp_contract.checkpoint_info import Provenance
from dcp_contract.environment import TASK_ENV
from dcp_contract.operations import Operation
from dcp_contract.progress import Progress
from dcp_contract.reasons import Reason
from dcp_contract.sections import Storage
from dcp_contract.task import Task
from dcp_operator.api.site import LOCAL
from dcp_operator.local import documents, processes
from dcp_operator.local.run import Run
from dcp_operator.local.view import view
from dcp_worker.rank.process import import_path

MANIFEST = """
apiVersion: dcp-operator.io/v1alpha1
kind: Checkpoint
metadata: {name: one}
spec:
  operation: Verify
  storage: {url: "s3://bucket/run", credentialsSecretRef: {name: s3}}
"""
SECRET = """
---
apiVersion: v1
kind: Secret
metadata: {name: s3}
stringData: {AWS_ACCESS_KEY_ID: from the Secret, PATH: /nowhere}
"""


def environment(text: str, folder: Path) -> tuple[dict[str, str], str]:
    path = folder / "file.yaml"
    path.write_text(text)
    console = Console(record=True, width=200)
    found = documents.read([str(path)], LOCAL)
    (source,) = found.checkpoints
    run = Run(found, view(console), verbose=False, folder=folder)
    return run.environment(source, source.checkpoint), console.export_text()


def test_a_secret_in_the_files_replaces_the_environments_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from the environment")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "from the environment")
    given, said = environment(MANIFEST + SECRET, tmp_path)
    assert given["AWS_ACCESS_KEY_ID"] == "from the Secret"
    assert "AWS_SESSION_TOKEN" not in given
    assert given["PATH"] == os.environ["PATH"]
    assert os.environ["AWS_ACCESS_KEY_ID"] == "from the environment"
    assert said == ""


def test_without_the_secret_the_environments_credentials_are_used_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from the environment")
    given, said = environment(MANIFEST, tmp_path)
    assert given["AWS_ACCESS_KEY_ID"] == "from the environment"
    assert said == "one: Secret default/s3 is in none of the files; using the environment's credentials\n"


def test_entrypoints_are_found_in_the_current_folder_then_beside_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    given, _ = environment(MANIFEST, tmp_path)
    assert given["PYTHONPATH"] == "/elsewhere"
    known = ["/usr/lib/python3", "/usr/lib/python3/site-packages"]
    assert import_path(known, given) == ["/elsewhere", *known, str(Path.cwd()), str(tmp_path)]
    assert import_path(["/elsewhere", *known], given) == ["/elsewhere", *known, str(Path.cwd()), str(tmp_path)]
    assert import_path(known, {}) == known


@pytest.mark.adversary
def test_no_file_beside_a_manifest_takes_the_place_of_a_module_of_the_launchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nt` is a module of the standard library on Windows alone: elsewhere Python asks whether it is there."""
    monkeypatch.chdir(tmp_path)
    for name in ("nt", "queue", "typing", "pydantic", "dcp_engine"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from beside the manifest')")
    given, _ = environment(MANIFEST, tmp_path)
    ended, lines = threading.Event(), list[str]()
    task = Task(
        operation=Operation.VERIFY, storage=Storage(url=f"file://{tmp_path}/nowhere"), origin=Provenance(uid="uid-1")
    )
    process = processes.Process(
        0,
        environment={**given, TASK_ENV: task.to_json()},
        folder=tmp_path,
        now=lambda: datetime.now(UTC),
        changed=ended.set,
        output=lambda _, line: lines.append(line),
    )
    process.join()
    assert process.report is not None, lines
    (failure,) = process.report.failures
    assert (failure.reason, failure.stage) == (Reason.CHECKPOINT_NOT_FOUND, "preflight")


LINES = {
    "progress": ('{"dcpProgress": {"stage": "writing", "bytes": 50, "totalBytes": 200}}', 25),
    "compact": ('{"dcpProgress":{"bytes":200,"totalBytes":200}}', 100),
    "other JSON": ('{"loss": 1.5}', None),
    "progress and more": ('{"dcpProgress": {}, "loss": 1.5}', None),
    "torn": ('{"dcpProgress": {"stage": "wri', None),
    "unknown fields": ('{"dcpProgress": {"speed": 3}}', None),
    "text": ("loss 1.5", None),
    "nothing": ("", None),
}


@pytest.mark.parametrize(("line", "percent"), LINES.values(), ids=LINES.keys())
def test_progress_lines_are_told_from_the_workloads_own(line: str, percent: int | None) -> None:
    progress = Progress.of_line(line)
    assert (progress.percent if progress is not None else None) == percent


LEAVES_ONE = """
import os, pathlib, subprocess, sys
for number in range(5000):
    print(number)
sys.stdout.flush()
other = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
pathlib.Path(os.environ["LEFT"]).write_text(str(other.pid))
print("left", other.pid)
"""


def test_a_pod_ends_though_a_process_that_left_it_holds_its_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "DRAIN_SECONDS", 1.0)
    worker = tmp_path / "dcp_worker"
    worker.mkdir()
    (worker / "__init__.py").touch()
    (worker / "__main__.py").write_text(LEAVES_ONE)
    ended, lines, left = threading.Event(), list[str](), tmp_path / "left"
    process = processes.Process(
        0,
        environment={**os.environ, "PYTHONPATH": str(tmp_path), "LEFT": str(left)},
        folder=tmp_path,
        now=lambda: datetime.now(UTC),
        changed=ended.set,
        output=lambda _, line: lines.append(line),
    )
    try:
        assert ended.wait(30)
        assert process.exit_code == 0
        assert lines == [*map(str, range(5000)), f"left {left.read_text()}"]
    finally:
        os.kill(int(left.read_text()), signal.SIGKILL)
        process.join()
