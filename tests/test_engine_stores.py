"""How the engine stands what stores, networks and whoever sets them up do: patience, expired keys, wrong addresses."""

import itertools
import os
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import dcp_engine
import flaky_proxy
import s3_server
from dcp_engine import redact
from dcp_engine.errors import EngineError, InvalidOption, StorageDenied, StorageUnavailable
from dcp_engine.ranks import Ranks
from dcp_engine.stores import addresses, guarded_obstore, pages, retry
from dcp_engine.stores.object_store import ObjectStore
from dcp_engine.stores.opening import open_store
from dcp_engine.translate import translate
from dcp_worker.cli import app as cli
from flaky_proxy import Answer
from rank_group import run_ranks, values

pytestmark = pytest.mark.tier("ranks")

SLOW_DOWN = Answer(503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>")
TOO_MANY = Answer(429, b"too many")
LIMITED = Answer(400, b"<Error><Code>RequestLimitExceeded</Code></Error>")
BUSY = Answer(503, b"<Error><Code>ServerBusy</Code></Error>")
BROKEN = Answer(500, b"<Error><Code>InternalError</Code></Error>")
EXPIRED = Answer(400, b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>")
QUICK = {"max_attempts": 2, "read_timeout": 5}


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait as often, and not as long."""
    monkeypatch.setattr(retry, "_PAUSE_SECONDS", 0.001)


def state(value: float = 1) -> dict[str, Any]:
    return {"w": torch.full((70_000,), float(value)), "step": int(value)}


def loaded(url: str, options: dict[str, Any]) -> float:
    found = state(0)
    dcp_engine.load(found, url, storage_options=options)
    return float(found["w"][0])


def store_at(proxy: flaky_proxy.FlakyProxy, folder: str, **options: Any) -> ObjectStore:
    store = open_store(proxy.server.url(folder), proxy.server.options | QUICK | options)
    assert isinstance(store, ObjectStore)
    return store


def fill(store: ObjectStore, path: str, size: int) -> bytes:
    target = bytearray(size)
    for _ in store.fill(path, 0, [memoryview(target)]):
        pass
    return bytes(target)


@pytest.mark.adversary
def test_other_bytes_than_were_asked_for_are_none(flaky: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    """A cache on the way may answer with another range, which only its header tells of, where there are no digests."""
    store = store_at(flaky, tmp_path.name)
    store.write("there", [bytes(range(200))], part_size=1000, parallel=1)
    flaky.rule = flaky_proxy.once("shift", "GET", "there")
    with pytest.raises(StorageUnavailable, match=r"there: the store answered with bytes 1-100/200, not .* from 0 on"):
        fill(store, "there", 100)
    assert fill(store, "there", 100) == bytes(range(100))


# Patience.

Op = Callable[[ObjectStore], Any]
PARTS: dict[str, Any] = {"part_size": 5 << 20, "parallel": 2}
OPERATIONS: dict[str, tuple[str, Op]] = {
    "put": ("PUT", lambda store: store.write("new", [b"data"], part_size=100, parallel=1)),
    "part": ("PUT", lambda store: store.write("parts", [bytes(6 << 20)] * 2, **PARTS)),
    "begin parts": ("POST", lambda store: store.write("parts", [bytes(6 << 20)] * 2, **PARTS)),
    "create": ("PUT", lambda store: store.create("once", b"data")),
    "replace": ("PUT", lambda store: store.replace("there", b"data", store.read("there").version)),
    "read": ("GET", lambda store: store.read("there")),
    "read the end": ("GET", lambda store: store.read("there", tail=3)),
    "list": ("GET", lambda store: [entry.path for entry in store.list("")]),
    "delete": ("POST", lambda store: store.delete(["there"])),
}


def times(answer: Answer, count: int, method: str) -> flaky_proxy.Rule:
    left = itertools.count()
    return lambda of, _path: answer if of == method and next(left) < count else None


@pytest.mark.adversary
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("answer", [SLOW_DOWN, TOO_MANY], ids=["SlowDown", "429"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_throttling_is_waited_out_and_is_no_try(
    flaky: flaky_proxy.FlakyProxy, tmp_path: Path, name: str, answer: Answer
) -> None:
    method, operation = OPERATIONS[name]
    store = store_at(flaky, f"{tmp_path.name}{answer.status}")
    store.guard("replace")
    store.write("there", [b"data"], part_size=100, parallel=1)
    count = 3 if name.endswith("part") or "parts" in name else 7  # obstore itself waits between those
    flaky.rule = times(answer, count, method)
    operation(store)
    assert flaky.faults == [answer] * count


@pytest.mark.adversary
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("answer", [SLOW_DOWN, LIMITED, BUSY, TOO_MANY], ids=lambda answer: answer.body[13:20])
def test_whole_saves_and_loads_wait_throttling_out(
    flaky: flaky_proxy.FlakyProxy, tmp_path: Path, answer: Answer
) -> None:
    left = itertools.count()
    flaky.rule = lambda *_: answer if next(left) % 4 else None
    url = flaky.server.url(tmp_path.name)
    dcp_engine.save(state(3), url, storage_options=flaky.server.options | QUICK)
    assert loaded(url, flaky.server.options | QUICK) == 3


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("answer", "name", "tries"),
    [
        (BROKEN, "put", 2),
        (BROKEN, "create", 2),
        (BROKEN, "read", 2),
        (BROKEN, "list", 2),
        (BROKEN, "delete", 2),
        (Answer(400, b"<Error><Code>InvalidRequest</Code></Error>"), "put", 1),
        (Answer(403, b"<Error><Code>AccessDenied</Code></Error>"), "read", 1),
    ],
)
def test_other_failures_are_tried_as_often_as_was_said(
    flaky: flaky_proxy.FlakyProxy, tmp_path: Path, answer: Answer, name: str, tries: int
) -> None:
    method, operation = OPERATIONS[name]
    store = store_at(flaky, f"{tmp_path.name}")
    store.guard("replace")
    flaky.rule = lambda of, _: answer if of == method else None
    with pytest.raises(Exception, match=str(answer.status)):
        operation(store)
    assert flaky.faults == [answer] * tries


@pytest.mark.adversary
def test_patience_has_an_end(flaky: flaky_proxy.FlakyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PATIENCE_SECONDS", 0.5)
    flaky.rule = lambda *_: SLOW_DOWN
    started = time.monotonic()
    with pytest.raises(StorageUnavailable, match="SlowDown: Please reduce your request rate"):
        dcp_engine.find(flaky.server.url(tmp_path.name), storage_options=flaky.server.options)
    assert time.monotonic() - started < 10
    assert len(flaky.faults) > 1


@pytest.mark.adversary
def test_patience_is_minutes_and_a_pause_seconds() -> None:
    assert 60 <= retry.PATIENCE_SECONDS <= 180
    assert retry.LONGEST_PAUSE_SECONDS == 10


@pytest.mark.usefixtures("hasty")
def test_a_listing_goes_on_where_it_broke_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_PAGE", 3)
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "3")
    names = [f"{number}" for number in range(7)]
    with s3_server.running() as server, flaky_proxy.before(server) as proxy:
        for name in names:
            server.client().put_object(Bucket=server.bucket, Key=f"{tmp_path.name}/{name}", Body=b"")
        asked: list[str] = []

        def rule(_: str, path: str) -> Answer | None:
            asked.append(path)
            return SLOW_DOWN if len(asked) in {1, 3, 4} else None

        store = store_at(proxy, tmp_path.name)
        proxy.rule = rule
        assert [entry.path for entry in store.list("")] == names
    assert len(proxy.faults) == 3
    assert [f"start-after={tmp_path.name}" in path for path in asked] == [False, False, False, True, True, True]


@pytest.mark.parametrize(
    ("text", "again"),
    [
        ("PUT http://169.254.169.254/latest/api/token - HTTP error: operation timed out", True),
        ("PUT http://169.254.169.254/latest/api/token - status code: 429 Too Many Requests: ", True),
        ("PUT http://169.254.169.254/latest/api/token - status code: 404 Not Found: ", False),
        ("status code: 409 Conflict: ConditionalRequestConflict", True),
        ("status code: 400 Bad Request: BadDigest", True),
        ("status code: 501 Not Implemented: x", True),
        ("status code: 401 Unauthorized: x", False),
    ],
)
def test_what_may_pass_is_tried_again(text: str, *, again: bool) -> None:
    assert retry.transient(OSError(text)) is again


# Credentials.


def signed(path: str) -> bool:
    return "X-Amz-Signature" in path


@pytest.mark.adversary
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("refusal", "always", "requests"),
    [
        (EXPIRED, False, 2),
        (EXPIRED, True, 3),
        (Answer(403, b"<Error><Code>AccessDenied</Code></Error>"), True, 3),
        (Answer(400, b"<Error><Code>RequestExpired</Code></Error>"), False, 2),
        (Answer(401), True, 3),
    ],
    ids=["E-M5 expired once", "E-M5 expired for good", "403", "E-M5 request expired", "401"],
)
def test_a_refused_url_is_signed_anew_once_and_then_done_without(
    flaky: flaky_proxy.FlakyProxy, tmp_path: Path, refusal: Answer, requests: int, *, always: bool
) -> None:
    store = store_at(flaky, tmp_path.name)
    for path in ("good", "refused"):
        store.write(path, [b"data"], part_size=100, parallel=1)
    assert fill(store, "good", 4) == b"data"
    seen: list[str] = []

    def rule(_: str, path: str) -> Answer | None:
        seen.append(path)
        return refusal if signed(path) and "/refused?" in path and (always or len(seen) == 1) else None

    flaky.rule = rule
    assert fill(store, "refused", 4) == b"data"
    assert len(seen) == requests
    assert [signed(path) for path in seen] == [True, True, False][:requests]
    seen.clear()
    fill(store, "good", 4)
    fill(store, "refused", 4)
    assert [signed(path) for path in seen] == [True, not always]  # what is refused is one object, not all


@pytest.mark.adversary
def test_a_broken_answer_costs_the_url_that_was_signed_for_it(flaky: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    store = store_at(flaky, tmp_path.name)
    store.write("a", [b"data"], part_size=100, parallel=1)
    assert store._direct
    fill(store, "a", 4)
    assert "a" in store._direct._signed
    flaky.rule = lambda *_: BROKEN
    with pytest.raises(StorageUnavailable):
        fill(store, "a", 4)
    assert "a" not in store._direct._signed
    flaky.rule = lambda *_: None
    fill(store, "a", 4)
    assert re.search(r"X-Amz-Expires=900\b", store._direct._signed["a"][1])


@pytest.mark.adversary
def test_whoever_accepts_no_signed_url_is_not_asked_for_ever(flaky: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    store = store_at(flaky, tmp_path.name)
    for path in "abcdef":
        store.write(path, [b"data"], part_size=100, parallel=1)
    flaky.rule = lambda _, path: Answer(403) if signed(path) else None
    for path in "abcdef":
        assert fill(store, path, 4) == b"data"
    assert len(flaky.faults) == 2 * 4


WORDS = {
    "B26 expired": (EXPIRED, StorageDenied, "credentials have expired: renew them"),
    "B9 checksum": (
        Answer(400, b"<Error><Code>InvalidArgument</Code><Message>Unsupported header 'x-amz-checksum-crc64nvme'"
               b" received for this API call.</Message></Error>"),
        InvalidOption, "upload_checksum to none",
    ),
    "B9 not implemented": (
        Answer(501, b"<Error><Code>NotImplemented</Code><Message>Header 'x-amz-sdk-checksum-algorithm' is not"
               b" implemented</Message></Error>"),
        InvalidOption, "upload_checksum to none",
    ),
    "wrong region": (
        Answer(400, b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'us-east-1' is wrong;"
               b" expecting 'eu-1'</Message><Region>eu-1</Region></Error>"),
        InvalidOption, r"expecting 'eu-1' \(region eu-1\)\. The bucket is in another region",
    ),
    "redirect": (Answer(301, b"<Error><Code>PermanentRedirect</Code></Error>"), InvalidOption, "another region"),
}  # fmt: skip


@pytest.mark.adversary
@pytest.mark.parametrize("name", WORDS)
def test_an_error_says_what_to_do(flaky: flaky_proxy.FlakyProxy, tmp_path: Path, name: str) -> None:
    answer, kind, words = WORDS[name]
    flaky.rule = lambda method, _: answer if method == "PUT" else None
    with pytest.raises(kind, match=words) as caught:
        dcp_engine.save(state(), flaky.server.url(tmp_path.name), storage_options=flaky.server.options | QUICK)
    assert type(caught.value) is kind


@pytest.mark.adversary
@pytest.mark.usefixtures("hasty")
def test_missing_credentials_are_said_to_be_missing(
    flaky: flaky_proxy.FlakyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "mine")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", flaky.server.endpoint)
    flaky.rule = lambda *_: Answer(404)
    words = "No credentials were found: set AWS_ACCESS_KEY_ID.*AWS_PROFILE and ~/.aws are not read"
    with pytest.raises(StorageDenied, match=words):
        dcp_engine.find(flaky.server.url("x"), storage_options=flaky.server.options | QUICK)


@pytest.mark.adversary
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_command_without_credentials_says_so_and_how_to_give_them(
    command: str, flaky: flaky_proxy.FlakyProxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_METADATA_ENDPOINT", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, flaky.server.endpoint)
    flaky.rule = lambda *_: Answer(404)
    assert cli.run([command, "s3://bucket/run"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "StorageDenied: " in err
    assert "No credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in err
    assert "Traceback" not in err


# What must not be told.

CANARY = "c4n4ry7f3e9Zq"
CANARIES = {
    "S3 quotes the request": (
        403,
        (
            f"<?xml version='1.0'?><Error><Code>SignatureDoesNotMatch</Code><Message>It does not match.</Message>"
            f"<AWSAccessKeyId>{CANARY}</AWSAccessKeyId><StringToSign>AWS4-HMAC-SHA256 {CANARY}</StringToSign>"
            f"<CanonicalRequest>GET /b X-Amz-Security-Token={CANARY}</CanonicalRequest></Error>"
        ),
    ),
    "S3 quotes the token": (
        400, f"<Error><Code>ExpiredToken</Code><Message>It expired.</Message><Token-0>{CANARY}</Token-0></Error>"
    ),
    "an answer that is cut": (403, f"<Error><Code>AccessDenied</Code><Message>No.</Message><Token>{CANARY}"),
    "STS": (400, f"<ErrorResponse><Error><Code>InvalidIdentityToken</Code></Error><X>{CANARY}</X></ErrorResponse>"),
    "JSON": (403, f'{{"error": {{"code": 403, "message": "no"}}, "access_token": "{CANARY}"}}'),
    "JSON that is cut": (403, f'{{"error": {{"code": 403}}, "access_token": "{CANARY}'),
    "a page": (502, f"<html><body>Bad gateway <a href='https://x/?sig={CANARY}'>{CANARY}</a></body></html>"),
    "words": (500, f"could not sign with secret_key={CANARY}"),
    "a header": (500, f"bad header Authorization: Bearer {CANARY}"),
    "a message with a URL": (
        500, f"<Error><Code>InternalError</Code><Message>GET https://x/b?sig={CANARY}&amp;x=1</Message></Error>"
    ),
    "its own secret": (500, "<Error><Code>InternalError</Code><Message>hm: test-secret-key</Message></Error>"),
}  # fmt: skip


def told(error: EngineError) -> str:
    """All that an error says, to whoever prints it."""
    return "".join([*traceback.format_exception(error), error.message, error.traceback, repr(error), str(vars(error))])


@pytest.mark.adversary
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("name", CANARIES)
@pytest.mark.parametrize("where", ["save", "load", "signed load", "find", "clean", "verify"])
def test_no_secret_of_an_answer_is_told(
    flaky: flaky_proxy.FlakyProxy, tmp_path: Path, name: str, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    status, body = CANARIES[name]
    url, options = flaky.server.url(tmp_path.name), flaky.server.options | QUICK
    if "load" in where or where == "verify":
        dcp_engine.save(state(), url, storage_options=options)
    parts = {"signed load": "X-Amz-Signature", "verify": "/data-"}
    flaky.rule = lambda _, path: Answer(status, body.encode()) if parts.get(where, "") in path else None
    steps: dict[str, Callable[[], Any]] = {
        "save": lambda: dcp_engine.save(state(), url, storage_options=options),
        "find": lambda: dcp_engine.find(url, storage_options=options),
        "clean": lambda: dcp_engine.clean(url, storage_options=options),
        "verify": lambda: dcp_engine.verify(url, storage_options=options),
    }
    try:
        (steps.get(where) or partial(loaded, url, options))()
    except EngineError as error:
        said = told(error)
    else:
        assert where == "signed load"  # which does without
        said = ""
    for text in (said, caplog.text):
        assert CANARY not in text
        assert "test-secret-key" not in text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"GET https://a.blob.x/c/b?sv=1&sig={CANARY}&se=2 failed", "GET https://a.blob.x/c/b failed"),
        (f"via http://user:{CANARY}@proxy:3128/", "via http://user:***@proxy:3128/"),
        (f"az://c/x?sig={CANARY}", "az://c/x?sig=***"),
        (f'"client_secret": "{CANARY}"', '"client_secret": "***"'),
        (f"x: AWS4-HMAC-SHA256 Credential={CANARY}/x, Signature={CANARY}", "x: AWS4-HMAC-SHA256 ***"),
        ("model.signature.weight: the checkpoint holds (3,)", "model.signature.weight: the checkpoint holds (3,)"),
        ("<class 'Foo'> in <module>", "<class 'Foo'> in <module>"),
        ("layer[sig].w differs: 1", "layer[sig].w differs: 1"),
    ],
)  # fmt: skip
@pytest.mark.adversary
def test_what_is_masked(text: str, left: str) -> None:
    assert redact.mask(text) == left
    assert str(EngineError(text)) == left


@pytest.mark.adversary
def test_the_secrets_of_this_process_are_masked_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_SAS_KEY", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.setenv(name, f"{name}/se+cret=")
        assert str(translate(OSError(f"<{name}/se+cret=> and {name}%2Fse%2Bcret%3D"))) == "<***> and ***"


# Addresses.


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("http://127.0.0.1:9000", ""),
        ("https://s3.eu-central-1.amazonaws.com", ""),
        ("HTTP://[::1]:9000/", ""),
        ("http://my_host:1/a/b", ""),
        ("127.0.0.1:9000", "no scheme; write http://127.0.0.1:9000 or"),
        ("minio:9000", "no scheme; write http://minio:9000 or"),
        ("//minio:9000", "no scheme; write http://minio:9000 or"),
        ("http:/minio:9000", "no scheme; write http://minio:9000 or"),
        ("", "empty"),
        (" ", "empty"),
        ("ftp://minio", "scheme 'ftp'"),
        ("http://", "no host"),
        ("http://:9000", "no host"),
        ("http://a b:9000", "space"),
        ("http://minio:9000 ", "space"),
        ("http://minio:9000\n", "space"),
        ("http://münchen:9000", "space or a character"),
        ("http://minio:99999", "port"),
        ("http://minio:0", "port"),
        ("http://minio:-1", "port"),
        ("http://minio:http", "port"),
        ("http://::1:9000", "without brackets"),
        ("http://[::1", "brackets"),
        ("http://[minio]:9000", "brackets"),
        ("http://%zz:9000", "host"),
        ("http://a..b", "host"),
        ("http://key:secret@minio:9000", "user name"),
        ("http://minio:9000?x=1", "query"),
        ("http://minio:9000#x", "fragment"),
    ],
)
def test_an_address_that_can_not_be_is_told_from_one_that_can(address: str, fault: str) -> None:
    found = addresses.address_fault(address)
    assert found if fault else not found
    assert fault in found


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("url", "options", "variables", "says"),
    [
        ("s3://b/x", {"endpoint_url": "minio:9000"}, {}, "storage option endpoint_url: 'minio:9000' has no scheme"),
        ("s3://b/x", {}, {"AWS_ENDPOINT_URL": "minio:9000"}, "environment variable AWS_ENDPOINT_URL: 'minio:9000'"),
        ("s3://b/x", {}, {"AWS_ENDPOINT_URL_S3": "a b"}, "environment variable AWS_ENDPOINT_URL_S3: 'a b'"),
        ("s3://b/x", {}, {"AWS_ENDPOINT": ""}, "environment variable AWS_ENDPOINT is empty"),
        ("s3://b/x", {"region": "eu 1"}, {}, "storage option region: 'eu 1' is no region"),
        ("s3://b/x", {}, {"AWS_REGION": "eu\n"}, "environment variable AWS_REGION"),
        ("s3://b/x", {}, {"AWS_SECRET_ACCESS_KEY": "abc\n"}, "variable AWS_SECRET_ACCESS_KEY begins or ends"),
        ("s3://b/x", {"proxy_url": "proxy:3128"}, {}, "storage option proxy_url: 'proxy:3128' has no scheme"),
        ("gs://b/x", {"endpoint_url": "minio:9000"}, {}, "storage option endpoint_url: 'minio:9000' has no scheme"),
        ("az://b/x", {"account_name": "a"}, {"AZURE_STORAGE_ENDPOINT": "x:1"}, "variable AZURE_STORAGE_ENDPOINT"),
        ("az://b/x", {"account_name": "a b"}, {}, "invalid international domain name"),
        ("s3://b/\x00", {}, {}, "illegal character"),
        ("s3://key:secret@b/x", {}, {}, "names a user"),
    ],
)  # fmt: skip
def test_what_can_not_be_is_named_with_its_place(
    monkeypatch: pytest.MonkeyPatch, url: str, options: dict[str, str], variables: dict[str, str], says: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    looks: list[Callable[[], Any]] = [
        partial(dcp_engine.find, url, storage_options=options),
        partial(dcp_engine.save, {}, url, storage_options=options),
    ]
    for look in looks:
        with pytest.raises(InvalidOption) as caught:
            look()
        assert says in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "secret" not in str(caught.value).lower().replace("aws_secret_access_key", "")


class PanicException(BaseException):
    """As pyo3 names what a panic of Rust's becomes."""


def panic() -> None:
    raise PanicException("called `Result::unwrap()` on an `Err` value: InvalidPort")


@pytest.mark.adversary
def test_a_panic_becomes_an_error() -> None:
    with pytest.raises(InvalidOption, match="InvalidPort"):
        guarded_obstore.guarded(panic)()
    with pytest.raises(EngineError, match="InvalidPort"):
        Ranks().agree("planning", panic)


# Forks.


def in_a_fork(step: Callable[[], str]) -> str:
    """Return what a step says in a forked child; a child that hangs is killed."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        torch.set_num_threads(1)  # as in a worker of a DataLoader: OpenMP's threads don't come with a fork either
        try:
            said = step()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    killer = threading.Timer(30, os.kill, (pid, 9))
    killer.start()
    try:
        with os.fdopen(reader) as pipe:
            return pipe.read()
    finally:
        killer.cancel()
        os.waitpid(pid, 0)


@pytest.mark.adversary
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
@pytest.mark.parametrize("name", ["find", "inspect", "verify", "clean", "save", "async_save", "load", "inherited"])
def test_a_child_that_was_forked_after_a_store_was_used_is_told_so_at_once(
    s3: s3_server.S3Server, tmp_path: Path, name: str
) -> None:
    url, options = s3.url(tmp_path.name), s3.options
    dcp_engine.save(state(), url, storage_options=options)
    store = open_store(url, options)
    assert isinstance(store, ObjectStore)
    fill(store, ".metadata", 8)
    steps: dict[str, Callable[[], Any]] = {
        "save": lambda: dcp_engine.save(state(), f"{url}-2", storage_options=options),
        "async_save": lambda: dcp_engine.async_save(state(), f"{url}-2", storage_options=options).wait(),
        "load": lambda: loaded(url, options),
        "inherited": lambda: fill(store, ".metadata", 8),
    }
    step = steps.get(name) or (lambda: getattr(dcp_engine, name)(url, storage_options=options))
    started = time.monotonic()
    said = in_a_fork(lambda: str(step()))
    assert said.startswith("InvalidOption: ")
    assert "was forked after its parent used an object store" in said
    assert "spawn or forkserver" in said
    assert time.monotonic() - started < 20
    assert fill(store, ".metadata", 8)  # the parent goes on


@pytest.mark.adversary
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_may_use_local_files(tmp_path: Path) -> None:
    dcp_engine.save(state(4), tmp_path)
    assert in_a_fork(lambda: str(loaded(str(tmp_path), {}))) == "4.0"


@pytest.mark.adversary
def test_a_child_whose_parent_used_no_store_uses_one(s3: s3_server.S3Server, tmp_path: Path) -> None:
    program = f"""
import os
import dcp_engine
from dcp_worker.cli import app as cli
from dcp_engine.stores.opening import open_store
open_store({s3.url(tmp_path.name)!r}, {s3.options!r})
for _ in range(2):
    if not os.fork():
        print(dcp_engine.find({s3.url(tmp_path.name)!r}, storage_options={s3.options!r}))
        break
    os.wait()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "None\nNone\n"


@pytest.mark.adversary
def test_a_child_of_a_rank_is_told_that_the_group_is_not_its_own(tmp_path: Path) -> None:
    import engine_programs as programs

    for said in values(run_ranks(2, programs.load_in_a_forked_child, str(tmp_path))):
        assert said == ["InvalidOption", "2.0"]
