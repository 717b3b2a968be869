"""What the operator's process is to its surroundings: waits that it is asked for, its resync, its metrics."""

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from aiohttp import ClientResponseError
from kopf._cogs.clients import api
from multidict import CIMultiDict
from prometheus_client.parser import text_string_to_metric_families

import dcp_operator
from dcp_operator.controllers.checkpoint.jobs import Job
from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import (
    CHECKPOINTS,
    JOBS,
    LONGEST_WAIT,
    ApiRequest,
    GoneError,
    ObjectKey,
    RefusedError,
    UnavailableError,
    refusal,
)
from dcp_operator.kube.feed import resync
from dcp_operator.kube.feed.resync import Resync
from dcp_operator.kube.kinds.registry import KINDS
from dcp_operator.kube.kopf_seam.internals import read_any_retry_after
from dcp_operator.kube.kopf_seam.watching import settings
from dcp_operator.kube.loop.checkpoint import count
from dcp_operator.kube.process.assembly import Assembly
from dcp_operator.kube.process.runtime import Runtime
from dcp_operator.kube.process.settings import Settings
from dcp_operator.kube.view.attempts import ProgressReader
from fake_api import FakeApi, reconciling
from scenes import at, manifest, running, stamp


class Busy:
    """kopf's session, with an API server that is busy once."""

    closed = False

    def __init__(self, headers: dict[str, str]) -> None:
        self.answers = [(429, CIMultiDict(headers)), (200, CIMultiDict())]

    async def request(self, **_: Any) -> Any:
        status, headers = self.answers.pop(0)

        async def body() -> Any:
            return {"kind": "Status", "code": status}

        def checked() -> None:
            unused: Any = SimpleNamespace(real_url="https://api")
            raise ClientResponseError(unused, (), status=status, headers=headers)

        return SimpleNamespace(status=status, headers=headers, json=body, raise_for_status=checked)


@pytest.mark.adversary
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"Retry-After": "0"}, id="seconds"),
        pytest.param({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, id="a date"),
        pytest.param({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, id="a date in small letters"),
        pytest.param({"Retry-After": "soon"}, id="a word"),
        pytest.param({"Retry-After": "nan"}, id="no number"),
    ],
)
def test_a_watch_waits_for_a_busy_api_server_whatever_it_says(headers: dict[str, str]) -> None:
    """kopf took the header for a number, and the ValueError ended the operator's watch."""
    read_any_retry_after()
    session = Busy(headers)
    context = SimpleNamespace(session=session, server="https://api")
    unwrapped: Any = vars(api.request)["__wrapped__"]
    how = {"settings": settings(), "backoffs": [0.0], "context": context, "logger": logging.getLogger("x")}
    asyncio.run(unwrapped("get", "/x", **how))
    assert session.answers == []


def waits(said: str) -> float | None:
    found = refusal(ApiRequest("GET", None, "/readyz"), 503, {"Retry-After": said}, b"<html>busy</html>")
    assert isinstance(found, UnavailableError)
    return found.retry_after


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("9999999", LONGEST_WAIT),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST_WAIT),
        ("Wednesday, 21-Oct-15 07:28:00 GMT", 0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("nan", None),
    ],
)
def test_how_long_an_answer_asks_to_wait(said: str, seconds: float | None) -> None:
    """O S3-13: a date raised an error, so that a proxy's 503 passed for a bug."""
    assert waits(said) == seconds


@pytest.mark.adversary
def test_a_date_to_come_is_waited_for() -> None:
    found = waits(format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True))
    assert found is not None
    assert 50 < found <= 60


class Asked(FakeApi):
    """Notes what is listed, and how."""

    async def _send(self, request: ApiRequest) -> bytes:
        if request.method == "GET" and request.resource in KINDS.watched:
            self.__dict__.setdefault("queries", []).append(dict(request.query))
        return await super()._send(request)


@pytest.mark.adversary
def test_an_audit_asks_the_api_servers_watch_and_a_start_its_database() -> None:
    """O S3-8: of all pods of a cluster, once a minute, to find a handful."""
    api = Asked()

    async def listed() -> None:
        assert [each async for each in api.list_metadata(JOBS, "team", "x")] == []
        assert [each async for each in api.list_bodies(JOBS, "team", "x")] == []

    asyncio.run(listed())
    first, second = api.__dict__["queries"]
    assert first == {"limit": "500", "labelSelector": "x", "resourceVersion": "0"}
    assert second == {"limit": "500", "labelSelector": "x"}


def late(monkeypatch: pytest.MonkeyPatch, change: Callable[[FakeApi], None]) -> tuple[int, list[ObjectKey]]:
    """Resync the Checkpoints after a change that no watch has delivered; return how many were late, and which."""
    monkeypatch.setattr(resync, "PATIENCE", 0.05)
    api = FakeApi()
    api.add(CHECKPOINTS, manifest())
    reconciler = reconciling(api)
    added: list[ObjectKey] = []
    change(api)
    found = asyncio.run(Resync(api, reconciler.view, added.append, ("team",)).compare(CHECKPOINTS))
    return found, added


@pytest.mark.adversary
def test_what_the_list_has_not_yet_has_not_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    """The API server's watch may be behind ours, and behind our own writes."""
    read = FakeApi._read

    def behind(_: FakeApi) -> None:
        monkeypatch.setattr(
            FakeApi,
            "_read",
            lambda self, request: (
                {"metadata": {}, "items": []} if request.path.endswith("/checkpoints") else read(self, request)
            ),
        )

    assert late(monkeypatch, behind) == (0, [])


@pytest.mark.adversary
def test_what_is_gone_has_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    assert late(monkeypatch, lambda api: api.objects.clear()) == (1, [CHECKPOINTS.key("team", "save-1000")])


@pytest.mark.adversary
def test_what_is_newer_was_late(monkeypatch: pytest.MonkeyPatch) -> None:
    def newer(api: FakeApi) -> None:
        api.add(CHECKPOINTS, manifest())

    assert late(monkeypatch, newer) == (1, [CHECKPOINTS.key("team", "save-1000")])


def scraped() -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


@pytest.mark.adversary
def test_checkpoints_are_counted_by_phase_and_namespace_when_they_are_asked_for() -> None:
    """O S3-17: nothing told of one that had been Pending for an hour."""

    def of(namespace: str) -> dict[str, float]:
        samples = scraped().get("dcp_checkpoints", {}).items()
        return {dict(labels)["phase"]: count for labels, count in samples if dict(labels)["namespace"] == namespace}

    api = FakeApi()
    for name, suspend in (("a", True), ("b", True), ("c", False)):
        body = manifest({"metadata.name": name, "metadata.namespace": "counted", "spec.suspend": suspend})
        body["metadata"]["uid"] = f"uid-{name}"
        body["spec"]["storage"] = {"url": f"s3://bucket/{name}"}
        api.add(CHECKPOINTS, body)
    reconciler = reconciling(api)
    assert of("counted") == {"Pending": 3}
    for name in "abc":
        asyncio.run(reconciler(CHECKPOINTS.key("counted", name)))
    assert of("counted") == {"Suspended": 2, "Starting": 1}
    reconciler.view.forget(CHECKPOINTS, "counted", "a", "uid-a")
    assert of("counted") == {"Suspended": 1, "Starting": 1}


@pytest.mark.adversary
@pytest.mark.parametrize(
    "name",
    [
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "python_gc_collections_total",
        "python_info",
        "dcp_build_info",
    ],
)
def test_the_process_itself_is_measured(name: str) -> None:
    assert scraped()[name]


@pytest.mark.adversary
def test_how_long_a_start_takes_is_counted_once() -> None:
    def counted() -> float:
        return scraped().get("dcp_checkpoint_start_seconds_count", {}).get((("operation", "Save"),), 0)

    before = counted()
    written: Any = {"spec": {"operation": "Save"}, "status": {"phase": "Running", "attempts": 1, "startTime": stamp(0)}}
    count({"phase": "Starting"}, written, at(42))
    count({"phase": "Running"}, written, at(50))
    written["status"]["attempts"] = 2
    count({"phase": "Starting"}, written, at(60))
    assert counted() == before + 1


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("status", "soonest"),
    [pytest.param(404, 5, id="not there yet"), pytest.param(403, 300, id="not granted, which is optional")],
)
def test_a_log_that_may_not_be_read_is_asked_for_seldom(status: int, soonest: float) -> None:
    """O S3-12: progress is all that the permission is for."""
    api = FakeApi()
    object.__setattr__(api, "refuse", lambda _: RefusedError("no", status) if status == 403 else GoneError("no", 404))

    async def scenario() -> None:
        reader, key = ProgressReader(api, lambda _: None), CHECKPOINTS.key("team", "one")
        job = Job(name="one-1")
        reader.of(key, [job], [running(0, name="one-1-0", job="one-1")])
        (followed,) = reader._followed.values()
        await reader._read(key, "one-1", "one-1-0", followed)
        assert followed.timer is not None
        assert followed.timer.when() - asyncio.get_running_loop().time() == pytest.approx(soonest, abs=1)
        reader.stop()

    asyncio.run(scenario())


class Chatty(FakeApi):
    """Has one log: a line of progress, and what a workload of its own printed since."""

    async def _send(self, request: ApiRequest) -> bytes:
        if not request.path.endswith("/log"):
            return await super()._send(request)
        lines = [json.dumps({"dcpProgress": {"stage": "saving", "bytes": 5}}), *(["loss 0.1"] * 400)]
        return "\n".join(lines[-int(request.query["tailLines"]) :]).encode()


@pytest.mark.adversary
def test_a_workload_that_prints_much_has_progress() -> None:
    """O S3-12: of twenty lines none was of progress where a step prints one."""

    async def scenario() -> None:
        key, changed = CHECKPOINTS.key("team", "one"), list[ObjectKey]()
        reader = ProgressReader(Chatty(), changed.append)
        job = Job(name="one-1")
        reader.of(key, [job], [running(0, name="one-1-0", job="one-1")])
        (followed,) = reader._followed.values()
        await reader._read(key, "one-1", "one-1-0", followed)
        reader.stop()
        assert changed == [key]

    asyncio.run(scenario())


@pytest.mark.adversary
def test_what_waits_and_what_is_here_is_counted_when_it_is_asked_for() -> None:
    """O S3-17: both were as old as the last probe."""
    settings, api = Settings(worker_image="w"), FakeApi()
    parts = Assembly.of(settings, api)
    Runtime(settings, api).watch_over(parts)
    assert scraped()["dcp_queue_depth"] == {(): 0}
    parts.queue.add(CHECKPOINTS.key("team", "one"))
    parts.view.ingest(CHECKPOINTS, api.add(CHECKPOINTS, manifest()))
    assert scraped()["dcp_queue_depth"] == {(): 1}
    assert scraped()["dcp_cached_objects"][(("kind", "checkpoints"),)] == 1


@pytest.mark.adversary
def test_the_operator_reads_no_logs_unless_it_is_granted_apart() -> None:
    manifests = Path(dcp_operator.__file__).parents[2] / "manifests"
    granting = {
        str(path.parent.relative_to(manifests))
        for path in manifests.rglob("*.yaml")
        for each in yaml.safe_load_all(path.read_text())
        for rule in (each or {}).get("rules") or ()
        if "pods/log" in rule.get("resources", ())
    }
    assert granting == {"components/progress", "components/progress-namespaced"}
