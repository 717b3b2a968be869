"""The operator's parts that need no API server: what a refusal means, whose URL it is, the last progress of a log."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus
from typing import Any

import pytest

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint import parsing
from dcp_operator.api.json_types import Body
from dcp_operator.api.problems import SpecError
from dcp_operator.controllers.checkpoint.jobs import Job
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim
from dcp_operator.controllers.decision import Event
from dcp_operator.kube.client.api import (
    CHECKPOINTS,
    JOBS,
    PODS,
    ApiError,
    ApiRequest,
    ConflictError,
    GoneError,
    NameTakenError,
    ObjectKey,
    RefusedError,
    Resource,
    UnavailableError,
    refusal,
)
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.feed.initial_list import fill
from dcp_operator.kube.kinds.checkpoint import jobs_and_pods
from dcp_operator.kube.loop.queue import RetryLaterError, WorkQueue
from dcp_operator.kube.loop.reconcile import LATER, AnyReconciler
from dcp_operator.kube.view.attempts import last_progress
from dcp_operator.kube.view.cache import Cache, ClusterView
from dcp_operator.kube.view.live_claims import LiveClaims
from dcp_operator.objects.job import Builder
from fake_api import checkpoints
from scenes import failed, running

NOW = "2026-11-24T12:00:00Z"
TERMINATING = {"message": "being terminated", "details": {"causes": [{"reason": "NamespaceTerminating"}]}}


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        pytest.param(404, {}, GoneError, id="no such object"),
        pytest.param(403, TERMINATING, GoneError, id="its namespace is being deleted"),
        pytest.param(403, {"message": "exceeded quota"}, RefusedError, id="a quota"),
        pytest.param(422, {"message": "invalid"}, RefusedError, id="an invalid object"),
        pytest.param(409, {}, ConflictError, id="a newer version, or a name that is taken"),
        pytest.param(401, {}, UnavailableError, id="a token that ran out on its way"),
        pytest.param(429, {}, UnavailableError, id="too many requests"),
        pytest.param(500, {}, UnavailableError, id="an error inside"),
        pytest.param(503, {}, UnavailableError, id="starting or stopping"),
    ],
)
def test_what_a_refusal_means(status: int, answer: dict[str, Any], expected: type[ApiError]) -> None:
    request = ApiRequest("POST", JOBS, JOBS.path("team"))
    assert type(refusal(request, status, {}, json.dumps(answer).encode())) is expected


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"message": "quota of jobs"}', "quota of jobs"),
        (b"<html>busy</html>", "POST /apis/batch/v1/namespaces/team/jobs: HTTP 400"),
        (b"[]", "POST /apis/batch/v1/namespaces/team/jobs: HTTP 400"),
    ],
)
def test_a_refusal_is_in_the_servers_words_where_it_has_any(raw: bytes, message: str) -> None:
    assert str(refusal(ApiRequest("POST", JOBS, JOBS.path("team")), 400, {}, raw)) == message


def test_a_refusal_says_when_to_come_back() -> None:
    request = ApiRequest("GET", None, "/readyz")
    assert refusal(request, HTTPStatus.TOO_MANY_REQUESTS, {"Retry-After": "7"}, b"{}").retry_after == 7


def test_a_taken_name_says_by_whom() -> None:
    owner = {"kind": "CronJob", "name": "nightly"}
    existing = {"kind": "Job", "metadata": {"namespace": "team", "name": "save-1", "ownerReferences": [owner]}}
    assert "Job team/save-1 exists already and belongs to CronJob nightly" in str(NameTakenError(existing))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (PODS.path(None), "/api/v1/pods"),
        (PODS.path("a", "b", "log"), "/api/v1/namespaces/a/pods/b/log"),
        (CHECKPOINTS.path("a", "b", "status"), "/apis/dcp-operator.io/v1alpha1/namespaces/a/checkpoints/b/status"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected


PROGRESS = '{"dcpProgress": {"stage": "saving", "bytes": 5, "totalBytes": 10}}'


@pytest.mark.parametrize(
    ("log", "stage"),
    [
        pytest.param("", None, id="nothing yet"),
        pytest.param(f"loading\n{PROGRESS}\nstep 3\n", "saving", id="among the workload's own lines"),
        pytest.param(f"{PROGRESS}\n" + PROGRESS.replace("saving", "committing"), "committing", id="the last one"),
        pytest.param(f"{PROGRESS}\n" + '{"dcpProgress": {"sta', "saving", id="a line that is cut"),
        pytest.param('print("dcpProgress")', None, id="a line that only speaks of it"),
        pytest.param('{"dcpProgress": {"unknown": 1}}', None, id="of another version"),
    ],
)
def test_the_last_progress_of_a_log(log: str, stage: str | None) -> None:
    found = last_progress(log)
    assert (found and found.stage) == stage


def test_a_checkpoint_that_is_gone_is_followed_no_more() -> None:
    unused: Any = None
    key = CHECKPOINTS.key("team", "gone")
    job = Job(name="gone-1")
    pod = replace(running(0), name="gone-1-0", job="gone-1")

    async def scenario() -> None:
        reconciler = checkpoints(unused)
        progress = reconciler.progress
        assert progress.of(key, [job], [pod]) == {}
        assert progress.following == {key}
        assert await reconciler(key) is None
        assert progress.following == set()

    asyncio.run(scenario())


def save(name: str, url: str = "s3://bucket/a", **status: Any) -> Any:
    return {
        "metadata": {"name": name, "namespace": "team", "uid": f"uid-{name}", "generation": 1, "resourceVersion": "1"},
        "spec": {
            "operation": "Save",
            "storage": {"url": url},
            "workload": {"entrypoint": "gpt:Workload"},
            "ttlSecondsAfterFinished": 0,
        },
        "status": status,
    }


def noted(*bodies: Body) -> tuple[ClusterView, LiveClaims]:
    """Return a view that has heard of these Checkpoints."""
    cache = Cache()
    live_claims = LiveClaims(cache)
    view = ClusterView(cache, {CHECKPOINTS.kind: (live_claims,)})
    for body in bodies:
        view.ingest(CHECKPOINTS, body)
    return view, live_claims


def test_live_claims_to_one_url_are_rivals_and_others_are_not() -> None:
    view, live_claims = noted(
        save("one"), save("two"), save("elsewhere", "s3://bucket/b"), save("done", completionTime="now")
    )
    one = CHECKPOINTS.key("team", "one")
    parsed = view.cache.served.parsed(one)
    assert not isinstance(parsed, SpecError)
    assert [rival.name for rival in live_claims.rivals(one, parsed)] == ["two"]
    done = save("two", phase="Succeeded", completionTime="now")
    view.ingest(CHECKPOINTS, done | {"metadata": done["metadata"] | {"resourceVersion": "2"}})
    assert live_claims.rivals(one, parsed) == ()


def test_a_claim_goes_with_its_checkpoint() -> None:
    view, live_claims = noted(save("one"), save("two"))
    one = CHECKPOINTS.key("team", "one")
    parsed = view.cache.served.parsed(one)
    assert not isinstance(parsed, SpecError)
    view.forget(CHECKPOINTS, "team", "two", "uid-two")
    assert live_claims.rivals(one, parsed) == ()


def test_a_spec_that_can_not_be_parsed_claims_nothing() -> None:
    view, live_claims = noted(save("broken", "s3a://bucket/a"))
    assert isinstance(view.cache.served.parsed(CHECKPOINTS.key("team", "broken")), SpecError)
    assert live_claims._claims == {}


DEEP = '{"spec":' * 3000 + "{}" + "}" * 3000


class Listing(Cluster):
    """A cluster whose lists hold these Checkpoints, as JSON."""

    def __init__(self, *items: str) -> None:
        unused: Any = None
        super().__init__(unused)
        object.__setattr__(self, "items", items)

    async def _send(self, request: ApiRequest) -> bytes:
        items: tuple[str, ...] = self.__dict__["items"] if request.resource is CHECKPOINTS else ()
        return f'{{"metadata": {{}}, "items": [{", ".join(items)}]}}'.encode()


def templated(name: str, template: str) -> str:
    body = save(name)
    body["spec"]["workers"] = {"podTemplate": "TEMPLATE"}
    return json.dumps(body).replace('"TEMPLATE"', template)


@pytest.mark.adversary
@pytest.mark.parametrize(
    "template",
    [
        pytest.param(
            '{"spec": {"containers": [{"name": "worker", "env": [{"name": ["A"]}]}]}}', id="a key that is a list"
        ),
        pytest.param('{"spec": "nope"}', id="a spec that is text"),
        pytest.param(DEEP, id="nested deeply"),
    ],
)
def test_a_malformed_checkpoint_keeps_no_other_from_being_worked_on(template: str) -> None:
    unused: Any = None
    cluster, queue = Listing(templated("bad", template), json.dumps(save("good"))), WorkQueue[ObjectKey](unused)
    cache = Cache()
    asyncio.run(fill(cluster, ClusterView(cache, {CHECKPOINTS.kind: (LiveClaims(cache),)}), queue, [None]))
    assert (cache.count(CHECKPOINTS), queue.depth) == (2, 2)
    assert isinstance(cache.served.parsed(CHECKPOINTS.key("team", "bad")), SpecError)


def test_what_can_not_be_read_is_logged_once_with_its_cause(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(parsing, "rule_problems", lambda *_: 1 / 0)
    view, _ = noted(save("one"))
    for _ in range(2):
        assert isinstance(view.cache.served.parsed(CHECKPOINTS.key("team", "one")), SpecError)
    (record,) = caplog.records
    assert record.getMessage() == "team/one: the spec can't be read"
    assert record.exc_info is not None


@pytest.mark.adversary
def test_a_claim_that_can_not_be_made_is_that_checkpoints_trouble_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(UrlClaim, "of", lambda *_: 1 / 0)
    view, _ = noted()
    assert view.ingest(CHECKPOINTS, save("one")) == CHECKPOINTS.key("team", "one")
    assert "team/one" in caplog.text


class Written(Cluster):
    """A cluster that takes every write and notes it, with the last status."""

    def __init__(self) -> None:
        unused: Any = None
        super().__init__(unused)
        object.__setattr__(self, "seen", [])
        object.__setattr__(self, "status", {})

    async def _send(self, request: ApiRequest) -> bytes:
        seen: list[str] = self.__dict__["seen"]
        body = request.body or {}
        if request.method == "GET":
            raise GoneError(request.path)
        if request.method == "DELETE":
            plural = request.path.split("/")[-2]
            seen.append(f"DELETE {plural} {body.get('preconditions', {}).get('uid', '')}".strip())
            return b"{}"
        seen.append(f"{request.method} {request.path.split('/')[-1]}")
        self.__dict__["status"].update(body.get("status", {}))
        metadata = body["metadata"]
        given = {"uid": f"uid-of-{metadata['name']}", "creationTimestamp": NOW}
        return json.dumps({"metadata": given | metadata | {"resourceVersion": str(len(seen) + 1)}}).encode()


def reconciling(
    cluster: Cluster, busy: Callable[[], bool] = lambda: False, builder: type[Builder] = Builder
) -> AnyReconciler:
    """Return a reconciler that knows of one new Checkpoint."""
    reconciler = checkpoints(cluster, builder=builder(image="worker"), busy=busy)
    reconciler.view.ingest(
        CHECKPOINTS, {**save("one"), "metadata": save("one")["metadata"] | {"creationTimestamp": NOW}}
    )
    return reconciler


@pytest.mark.parametrize(
    ("busy", "writes"),
    [
        pytest.param([], ["POST networkpolicies", "POST jobs", "PUT status"], id="alone"),
        pytest.param(["another"], ["POST networkpolicies", "POST jobs"], id="while others wait"),
        pytest.param(["another", ""], ["POST networkpolicies", "POST jobs", "PUT status"], id="and told afterwards"),
    ],
)
def test_in_a_burst_jobs_come_before_what_is_said_of_them(busy: list[str], writes: list[str]) -> None:
    cluster, key = Written(), CHECKPOINTS.key("team", "one")
    waiting = list(busy) or [""]
    reconciler = reconciling(cluster, lambda: bool(waiting[0]))

    async def scenario() -> None:
        while True:
            later = await reconciler(key)
            assert (later == LATER) is bool(waiting[0])
            if len(waiting) == 1:
                break
            waiting.pop(0)

    asyncio.run(scenario())
    assert cluster.__dict__["seen"] == writes


class Broken(Builder):
    """Makes no objects of what no check has foreseen."""

    def objects(self, *_: object) -> Any:
        raise TypeError("unhashable type: 'list'")


def test_what_no_job_can_be_made_of_is_an_invalid_spec(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Written()
    assert asyncio.run(once(reconciling(cluster, builder=Broken))) is None
    assert cluster.__dict__["seen"] == ["PUT status"]
    status = cluster.__dict__["status"]
    assert (status["phase"], status["reason"]) == ("Failed", "InvalidSpec")
    assert "no Job can be made of it (TypeError)" in status["failure"]["message"]
    assert "unhashable" in caplog.text


class Told(EventRecorder):
    """Says which events would be posted."""

    def __init__(self, posted: Callable[[str], object]) -> None:
        unused: Any = None
        super().__init__(unused, lambda: True)
        self.posted = posted

    def record(self, resource: Resource, body: Body, event: Event) -> None:
        self.posted(event.reason)


async def once(reconciler: AnyReconciler) -> float | None:
    return await reconciler(CHECKPOINTS.key("team", "one"))


class NoJobs(Written):
    """Refuses Jobs, for this reason."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__()
        object.__setattr__(self, "reason", status)

    async def _send(self, request: ApiRequest) -> bytes:
        if request.method == "POST" and request.resource is JOBS:
            raise RefusedError("no", self.__dict__["reason"])
        return await super()._send(request)


def test_what_was_made_for_a_job_that_is_refused_goes_again() -> None:
    cluster = NoJobs(HTTPStatus.UNPROCESSABLE_ENTITY)
    asyncio.run(once(reconciling(cluster)))
    made, discarded, told = cluster.__dict__["seen"]
    assert (made, told) == ("POST networkpolicies", "PUT status")
    assert discarded.startswith("DELETE networkpolicies uid-of-one-")


def test_what_was_made_for_a_job_that_is_forbidden_waits_for_it() -> None:
    cluster = NoJobs(HTTPStatus.FORBIDDEN)
    asyncio.run(once(reconciling(cluster)))
    assert cluster.__dict__["seen"] == ["POST networkpolicies", "PUT status"]


def test_a_job_is_deleted_as_the_one_that_was_seen() -> None:
    cluster = Written()
    reconciler = asyncio.run(after_a_failed_rank(cluster))
    (job,), _ = jobs_and_pods(reconciler.cache.owned.of(CHECKPOINTS.key("team", "one"), "uid-one"))
    asyncio.run(once(reconciler))
    *_, last = cluster.__dict__["seen"]
    assert last == f"DELETE jobs {job.uid}"


class Picky(Written):
    """Refuses statuses that hold any of these fields."""

    def __init__(self, *fields: str) -> None:
        super().__init__()
        object.__setattr__(self, "fields", fields)

    async def _send(self, request: ApiRequest) -> bytes:
        for name in self.__dict__["fields"]:
            if name in (request.body or {}).get("status", {}):
                self.__dict__["seen"].append(f"refused {name}")
                raise RefusedError(f"status.{name}: Invalid value", HTTPStatus.UNPROCESSABLE_ENTITY)
        return await super()._send(request)


async def after_a_failed_rank(cluster: Written, posted: Callable[[str], object] = str) -> AnyReconciler:
    """Reconcile a Checkpoint, then once more when its only pod has failed; `posted` gets each event's reason."""
    reconciler = reconciling(cluster)
    reconciler.recorder = Told(posted)
    await once(reconciler)
    (job,), _ = jobs_and_pods(reconciler.cache.owned.of(CHECKPOINTS.key("team", "one"), "uid-one"))
    name, of = job.name, {"owner-uid": "uid-one", "job": job.name, "run-id": "", "attempt": "1"}
    labels = {f"dcp-operator.io/{label}": value for label, value in of.items()}
    ended = {"exitCode": 1, "finishedAt": NOW, "message": failed(Reason.STORAGE_FULL).encode()}
    metadata: Any = {
        "name": f"{name}-0",
        "namespace": "team",
        "uid": "p",
        "resourceVersion": "99",
        "creationTimestamp": NOW,
    }
    controller: Body = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job.uid}
    controller |= {"controller": True}
    metadata |= {"labels": labels, "ownerReferences": [controller]}
    status = {"phase": "Failed", "containerStatuses": [{"name": "worker", "state": {"terminated": ended}}]}
    reconciler.view.ingest(PODS, {"metadata": metadata, "status": status})
    await once(reconciler)
    return reconciler


def test_a_status_that_is_refused_is_written_without_its_decoration(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Picky("failedRanks")
    asyncio.run(after_a_failed_rank(cluster))
    assert cluster.__dict__["seen"][-3:] == ["PUT status", "refused failedRanks", "PUT status"]
    status = cluster.__dict__["status"]
    assert (status["phase"], status["reason"], status["failedRankCount"]) == ("Failed", "StorageFull", 1)
    (line,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert line.getMessage().startswith("team/one: written without failedRanks, since the status is refused: ")
    assert line.exc_info is None


def test_a_status_that_is_refused_whole_is_tried_again_later() -> None:
    with pytest.raises(RetryLaterError, match=r"status\.phase: Invalid value"):
        asyncio.run(once(reconciling(Picky("phase"))))
