"""What a launcher settles by itself: in about a second, and without torch."""

import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dcp_contract.environment import CA_FILE_ENV, CREDENTIALS_ENV, NODE_RANK_ENV, TASK_ENV
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_contract.save_fields import SaveFields
from dcp_contract.sections import SOURCE_FIELDS, Source
from dcp_contract.storage_options import CREDENTIAL_KEYS
from worker_process import Pod, ran, started, started_anew, task

pytestmark = pytest.mark.tier("pods")

WITHOUT_TORCH = "loading torch"
"""The line of progress that a launcher prints before it starts ranks."""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-test"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the run `uid-1`."""
    folder = tmp_path_factory.mktemp("saved")
    report = ran(task(folder / "url"), folder / "pod")
    assert report.result is Reason.SAVED
    return folder / "url"


def settled(pod: Pod, within: float = 10) -> None:
    """Wait for an end without ranks. The limit is for a busy machine; an idle one needs less than a second."""
    began = time.monotonic()
    pod.wait()
    assert time.monotonic() - began < within
    assert WITHOUT_TORCH not in pod.log


def test_a_refused_save_names_who_holds_the_url(saved: Path, tmp_path: Path) -> None:
    with started_anew(task(saved, uid="uid-2"), tmp_path) as pod:
        settled(pod)
        report = pod.report
        assert pod.process.returncode == 1
    assert report.result is None
    assert report.conflict is not None
    assert report.conflict.origin is not None
    assert report.conflict.origin.uid == "uid-1"
    assert report.conflict.save_id
    (failure,) = report.failures
    assert (failure.reason, failure.rank, failure.stage) == (Reason.OVERWRITE_CONFLICT, None, "preflight")
    assert "Checkpoint already exists" in failure.message
    assert "Checkpoint team/one (uid uid-1)" in failure.message


def test_a_rerun_of_the_same_run_finds_its_own_commit(saved: Path, tmp_path: Path) -> None:
    with started(task(saved), tmp_path) as pod:
        settled(pod)
        assert pod.report.result is Reason.SAVED
        assert pod.report.checkpoint is not None
        assert pod.report.checkpoint.step == 1
        assert pod.process.returncode == 0


def test_a_probe_finds_its_own_commit(saved: Path, tmp_path: Path) -> None:
    with started(task(saved, probe=True), tmp_path) as pod:
        settled(pod)
        assert pod.report.result is Reason.SAVED
        assert pod.report.checkpoint is not None


def test_a_validate_starts_no_rank(tmp_path: Path) -> None:
    with started(task(tmp_path / "store", operation=Operation.VALIDATE), tmp_path) as pod:
        settled(pod)
        assert pod.report.result is Reason.VALIDATED
        assert pod.report.checkpoint is not None
        assert pod.report.checkpoint.store is not None
        assert pod.report.checkpoint.store.create_guard == "Atomic"
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(("there", "uid"), [(False, "uid-1"), (True, "uid-2"), (True, "")], ids=str)
def test_a_probe_that_finds_nothing_of_its_own_is_neither_a_result_nor_a_failure(
    *, there: bool, uid: str, saved: Path, tmp_path: Path
) -> None:
    url = saved if there else tmp_path / "nothing"
    with started(task(url, uid=uid, probe=True), tmp_path / "pod") as pod:
        settled(pod)
        assert pod.process.returncode == 1
    report = pod.report
    assert (report.result, report.checkpoint, report.failures, report.conflict) == (None, None, [], None)


@pytest.mark.parametrize("operation", [Operation.LOAD, Operation.VERIFY])
def test_nothing_at_the_url(operation: Operation, tmp_path: Path) -> None:
    with started(task(tmp_path / "nothing", operation=operation), tmp_path / "pod") as pod:
        settled(pod)
    (failure,) = pod.report.failures
    assert failure.reason is Reason.CHECKPOINT_NOT_FOUND
    assert str(tmp_path / "nothing") in failure.message


@pytest.mark.parametrize("field", SOURCE_FIELDS)
def test_nothing_at_the_url_to_start_from(tmp_path: Path, field: str) -> None:
    """Said before any rank starts, and before torch is loaded."""
    work = task(tmp_path / "url")
    source = Source.model_validate({field: f"file://{tmp_path}/nothing"})
    with started(
        work.model_copy(update={"save": SaveFields.model_validate({"from": source})}), tmp_path / "pod"
    ) as pod:
        settled(pod)
    (failure,) = pod.report.failures
    assert failure.reason is Reason.CHECKPOINT_NOT_FOUND
    assert source.place in failure.message


@pytest.mark.parametrize(
    ("given", "words"),
    {
        "no JSON": ("run this", "Invalid JSON"),
        "no Task": ('{"operation": "Save"}', "origin"),
        "another API's": ('{"operation": "Merge", "origin": {}, "storage": {"url": "file:///x"}}', "'Save'"),
        "a Copy of nothing": ('{"operation": "Copy", "origin": {}, "storage": {"url": "s3://x"}}', "copy: is missing"),
        "nothing": ("", "Invalid JSON"),
    }.values(),
    ids=str,
)
def test_what_is_no_task_is_an_invalid_spec(given: str, words: str, tmp_path: Path) -> None:
    with started(given, tmp_path) as pod:
        settled(pod)
    (failure,) = pod.report.failures
    assert failure.reason is Reason.INVALID_SPEC
    assert TASK_ENV in failure.message
    assert words in failure.message
    assert "Traceback" not in pod.log


def test_a_node_that_is_no_number_is_an_invalid_spec(tmp_path: Path) -> None:
    report = ran(task(tmp_path / "url"), tmp_path / "pod", **{NODE_RANK_ENV: "first"})
    assert [failure.reason for failure in report.failures] == [Reason.INVALID_SPEC]


def test_started_by_hand_it_says_what_there_is_to_start(tmp_path: Path) -> None:
    log = str(tmp_path / "absent" / "report")
    done = subprocess.run(
        [sys.executable, "-m", "dcp_worker"],
        env={"DCP_TERMINATION_LOG": log},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "DCP_TASK is not set" in done.stderr
    assert "inspect URL" in done.stderr
    assert f"can't write the Report to {log}" in done.stderr
    assert "Traceback" not in done.stderr


class Refusing(BaseHTTPRequestHandler):
    """Refuses every request as S3 does, and quotes the secret as careless servers do."""

    protocol_version = "HTTP/1.1"
    answer = (403, "SignatureDoesNotMatch", f"you signed with {CREDENTIALS['AWS_SECRET_ACCESS_KEY']}")

    def refuse(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, code, message = self.answer
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = refuse  # noqa: N815 - http.server's names

    def log_message(self, *args: object) -> None:
        del args


class NoBucket(Refusing):
    answer = (404, "NoSuchBucket", "The specified bucket does not exist")


@pytest.fixture
def endpoint(request: pytest.FixtureRequest) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), request.param)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [(Refusing, Reason.STORAGE_DENIED), (NoBucket, Reason.STORAGE_UNAVAILABLE)],
    ids=["wrong credentials", "no such bucket"],
    indirect=["endpoint"],
)
@pytest.mark.parametrize("operation", [Operation.SAVE, Operation.LOAD])
def test_a_store_that_refuses(operation: Operation, endpoint: str, reason: Reason, tmp_path: Path) -> None:
    options = {"endpoint_url": endpoint, "region": "us-east-1"}
    work = task("s3://bucket/run", operation=operation, options=options)
    with started(work, tmp_path, **CREDENTIALS) as pod:
        settled(pod)
    (failure,) = pod.report.failures
    assert failure.reason is reason, failure.message
    secret = CREDENTIALS["AWS_SECRET_ACCESS_KEY"].encode()
    assert secret not in pod.written
    assert secret not in pod.log.encode()


@pytest.mark.parametrize("given", [{}, {"AWS_ACCESS_KEY": "misspelt"}], ids=["no Secret", "no key of it"])
def test_a_secret_that_gives_nothing_is_named(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for key in (*CREDENTIAL_KEYS["s3"], CA_FILE_ENV):
        monkeypatch.delenv(key, raising=False)
    with started(task("s3://bucket/run"), tmp_path, **given, **{CREDENTIALS_ENV: "s3-typo"}) as pod:
        settled(pod)
    (failure,) = pod.report.failures
    assert (failure.reason, failure.stage) == (Reason.STORAGE_DENIED, "preflight")
    keys = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, ca.crt"
    assert failure.message == f"Secret s3-typo is not there, or holds none of {keys}"


class Silent(socketserver.BaseRequestHandler):
    """Takes connections and never answers."""

    def handle(self) -> None:
        self.request.recv(1 << 16)
        threading.Event().wait(60)


@pytest.fixture
def silent() -> Iterator[str]:
    socketserver.ThreadingTCPServer.daemon_threads = True
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Silent)
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_store_that_does_not_answer_is_not_waited_for_beyond_the_deadline(silent: str, tmp_path: Path) -> None:
    options = {"endpoint_url": silent, "region": "us-east-1"}
    with started(task("s3://bucket/run", options=options, active_seconds=2), tmp_path, **CREDENTIALS) as pod:
        settled(pod)
    (failure,) = pod.report.failures
    assert (failure.reason, failure.stage) == (Reason.STORAGE_UNAVAILABLE, "preflight")
    assert "s3://bucket/run" in failure.message
