"""`probe`: what is wrong with a store is told from what else may be wrong with it, and nothing is left behind."""

import json
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import pytest

import dcp_engine
import flaky_proxy
import s3_server
import versitygw
from cluster import builds
from dcp_contract.checkpoint_info import StoreFacts
from dcp_engine import probing
from dcp_engine.errors import StorageDenied, StorageUnavailable
from dcp_engine.stores import object_store
from dcp_engine.stores.protocol import ATOMIC, BEST_EFFORT
from dcp_operator.kube.channel.certificate import Certificate
from free_ports import free_port
from versitygw import Gateway

pytestmark = pytest.mark.tier("faults")

USER: Final = {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "reader-secret"}
BOTH: Final = {"create_guard": ATOMIC, "replace_guard": ATOMIC}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A store that checks keys, with a user beside its root."""
    users = str(tmp_path_factory.mktemp("users"))
    with versitygw.running(more_flags=("--iam-dir", users)) as gateway:
        yield gateway


@pytest.fixture
def proxy(gateway: Gateway) -> Iterator[flaky_proxy.FlakyProxy]:
    """The same store behind an address of its own, which is yet to be tried out."""
    object_store._guards.clear()
    with flaky_proxy.before(gateway.server) as proxy:
        yield proxy


def test_a_store_that_works(gateway: Gateway) -> None:
    object_store._guards.clear()
    facts = dcp_engine.probe(gateway.server.url("works"), storage_options=gateway.server.options)
    assert facts == StoreFacts(**BOTH, versioning=facts.versioning, object_lock="Disabled")
    assert gateway.files("works") == []


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("ignored", "found"),
    [
        ("if-match", StoreFacts(create_guard=ATOMIC, replace_guard=BEST_EFFORT)),
        ("if-none-match", StoreFacts(create_guard=BEST_EFFORT, replace_guard=ATOMIC)),
    ],
)
def test_a_store_that_ignores_a_condition_is_told(s3: s3_server.S3Server, ignored: str, found: StoreFacts) -> None:
    object_store._guards.clear()
    with flaky_proxy.before(s3) as proxy:
        proxy.ignored = frozenset({ignored})
        facts = dcp_engine.probe(proxy.server.url("weak"), storage_options=proxy.server.options)
    assert (facts.create_guard, facts.replace_guard) == (found.create_guard, found.replace_guard)
    assert s3.keys("weak") == []


def test_wrong_keys(gateway: Gateway) -> None:
    with s3_server.environment(AWS_ACCESS_KEY_ID="nobody", AWS_SECRET_ACCESS_KEY="hunter2-hunter2"):
        said = failure(StorageDenied, gateway.server.url("keys"), gateway.server.options)
    assert "does not accept these credentials: mend the keys" in said
    assert "hunter2" not in said
    with s3_server.environment(AWS_SECRET_ACCESS_KEY="hunter2-hunter2"):
        assert "mend the keys" in failure(StorageDenied, gateway.server.url("keys"), gateway.server.options)


def test_no_bucket(gateway: Gateway) -> None:
    for read_only in (False, True):
        said = failure(StorageUnavailable, "s3://nowhere/team", gateway.server.options, read_only=read_only)
        assert said.startswith("s3://nowhere: there is no such bucket: make it, or mend the URL.")


def test_keys_that_may_read_alone_are_enough_to_read(gateway: Gateway) -> None:
    url, options = gateway.server.url("read"), gateway.server.options
    with reader(gateway):
        assert dcp_engine.probe(url, storage_options=options, read_only=True).create_guard == ""
        said = failure(StorageDenied, url, options)
    assert "may not write there" in said
    assert "or set read_only" in said
    assert gateway.files("read") == []


def test_reading_alone_writes_nothing(gateway: Gateway) -> None:
    before = len(gateway.requests())
    dcp_engine.probe(gateway.server.url("quiet"), storage_options=gateway.server.options, read_only=True)
    methods = {request.operation for request in gateway.requests()[before:]}
    assert methods
    assert not {each for each in methods if re.search("Put|Delete|Create|Copy", each)}


def test_keys_that_may_not_remove(proxy: flaky_proxy.FlakyProxy) -> None:
    proxy.rule = lambda method, path: "403" if method == "DELETE" or "?delete" in path else None
    assert "may not remove there" in failure(StorageDenied, proxy.server.url("keep"), proxy.server.options)


def test_keys_that_may_not_list(proxy: flaky_proxy.FlakyProxy) -> None:
    proxy.rule = lambda _, path: "403" if "list-type" in path else None
    assert "may not list there" in failure(StorageDenied, proxy.server.url("blind"), proxy.server.options)


def test_nobody_is_there() -> None:
    options = {"endpoint_url": f"http://127.0.0.1:{free_port()}", "region": "us-east-1", "max_attempts": 2}
    with s3_server.environment(**USER):
        said = failure(StorageUnavailable, "s3://bucket/team", options)
    assert "can't be reached or does not answer: look at endpoint_url" in said


def test_a_certificate_that_nobody_vouches_for() -> None:
    options = {"region": "us-east-1", "max_attempts": 2}
    with s3_server.environment(**USER), with_tls() as endpoint:
        said = failure(StorageUnavailable, "s3://bucket/team", {**options, "endpoint_url": endpoint})
    assert "the store's certificate is not trusted: give the authority that signed it as ca.crt" in said


def test_versions_and_locks_are_told(tmp_path: Path) -> None:
    if lacking := builds.lacking(programs=["versitygw"]):
        pytest.skip(lacking)
    (tmp_path / "versions").mkdir()
    with s3_server.versitygw(tmp_path / "data", versions=tmp_path / "versions") as server:
        client = server.client()
        client.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
        told = [
            dcp_engine.probe(f"s3://{bucket}/team", storage_options=server.options)
            for bucket in ("locked", server.bucket)
        ]
    assert [(each.versioning, each.object_lock) for each in told] == [("Enabled", "Enabled"), ("Disabled", "Disabled")]


def test_what_a_killed_probe_has_left_goes_with_the_next(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of one that may be under way: it is younger."""
    left = f"left/data-probe-{'0' * 32}/probe"
    client = gateway.server.client()
    client.put_object(Bucket=gateway.server.bucket, Key=left, Body=b"left")
    client.put_object(Bucket=gateway.server.bucket, Key="left/mine/probe", Body=b"kept")
    url, options = gateway.server.url("left"), gateway.server.options
    dcp_engine.probe(url, storage_options=options)
    assert len(gateway.files("left")) == 2
    monkeypatch.setattr(probing, "LEFT_AGE", timedelta(0))
    dcp_engine.probe(url, storage_options=options)
    assert gateway.files("left") == ["mine/probe"]


def test_a_folder(tmp_path: Path) -> None:
    assert dcp_engine.probe(tmp_path / "new") == StoreFacts(**BOTH)
    assert list(tmp_path.rglob("*")) == []


def failure(kind: type[Exception], url: str, options: dict[str, Any], *, read_only: bool = False) -> str:
    with pytest.raises(kind) as caught:
        dcp_engine.probe(url, storage_options=options, read_only=read_only)
    return str(caught.value)


@contextmanager
def reader(gateway: Gateway) -> Iterator[None]:
    """Be a user who may list and read in the bucket, and nothing else."""
    server, (key, secret) = gateway.server, USER.values()
    admin = [str(builds.program("versitygw")), "admin", "-a", s3_server.ACCESS_KEY, "-s", s3_server.SECRET_KEY]
    admin += ["-er", server.endpoint]
    made = subprocess.run(
        [*admin, "create-user", "-a", key, "-s", secret, "-r", "user"], check=False, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stdout + made.stderr
    allowed = ["s3:GetObject", "s3:ListBucket"]
    on = [f"arn:aws:s3:::{server.bucket}", f"arn:aws:s3:::{server.bucket}/*"]
    rules = [
        {"Effect": "Allow", "Principal": {"AWS": [key]}, "Action": [action], "Resource": [resource]}
        for action, resource in zip(allowed, reversed(on), strict=True)
    ]

    server.client().put_bucket_policy(Bucket=server.bucket, Policy=json.dumps({"Statement": rules}))
    with s3_server.environment(**USER):
        yield


@contextmanager
def with_tls() -> Iterator[str]:
    """Serve TLS with a certificate of an authority that nobody knows."""
    context = Certificate.make(["127.0.0.1"]).context
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # broken handshakes are the point
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
