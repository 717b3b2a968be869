"""What has begun is carried to its end: by a stricter operator, at a quota, and when its Job is deleted by hand."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from dcp_contract.report import Report
from dcp_operator.api.checkpoint import parsing
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.json_types import Body
from dcp_operator.api.pod.rules import PodSecurity
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import CLUSTER, Site
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.observed import Observed
from dcp_operator.controllers.checkpoint.refused_creation import wait_for_creation
from dcp_operator.controllers.checkpoint.refused_spec import refuse_spec
from dcp_operator.kube.client.api import CHECKPOINTS, EVENTS, JOBS, ApiRequest, RefusedError
from fake_api import FakeApi, put_pod, reconciling, seen, status
from scenes import (
    NOW,
    RUNNING,
    STARTED,
    after_first_attempt,
    at,
    attempt,
    checkpoint,
    created,
    decided,
    deleted,
    ended,
    failed,
    manifest,
    message,
    observed,
    pending,
    phase,
    refused,
    running,
    saved,
    stamp,
)

KEY = CHECKPOINTS.key("team", "save-1000")
NO_S3 = Site(protocols=("gs",))
ONE_POD = {"spec.workers": {"device": "cpu"}}


def look(api: FakeApi, site: Site = CLUSTER, times: int = 1) -> Body:
    """Have an operator that has just been started look at the Checkpoint; return its status."""
    reconciler = reconciling(api, site)
    for _ in range(times):
        asyncio.run(reconciler(KEY))
        seen(api, reconciler)
    return status(api, KEY)


def begun(changes: Body | None = None) -> FakeApi:
    api = FakeApi()
    api.add(CHECKPOINTS, manifest(ONE_POD | (changes or {})))
    assert look(api)["phase"] == "Starting"
    return api


def run_pod(api: FakeApi) -> None:
    put_pod(api, "Running", {"running": {"startedAt": "2026-11-24T08:00:00Z"}})


def end_pod(api: FakeApi, report: Report) -> None:
    times = dict.fromkeys(("startedAt", "finishedAt"), "2026-11-24T08:00:00Z")
    code = 0 if report.result else 1
    state = {"terminated": {"exitCode": code, "message": report.encode(), **times}}
    put_pod(api, "Failed" if code else "Succeeded", state)


def stricter_rule(monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(parsing, "rule_problems", lambda *_: iter(["spec.workers: is no longer accepted"]))
    return CLUSTER


def fewer_protocols(monkeypatch: pytest.MonkeyPatch) -> Site:
    del monkeypatch
    return NO_S3


STRICTER = {
    "O S1-3: an option": fewer_protocols,
    "a new rule": stricter_rule,
}


@pytest.mark.adversary
@pytest.mark.parametrize("stricter", STRICTER.values(), ids=STRICTER)
def test_a_stricter_operator_carries_on_what_has_begun(
    stricter: Callable[[pytest.MonkeyPatch], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = begun()
    site = stricter(monkeypatch)
    run_pod(api)
    assert look(api, site, 2)["phase"] == "Running"
    end_pod(api, saved())
    assert look(api, site)["reason"] == "Saved"
    assert [each for each in api.writes() if each.startswith("DELETE")] == []


@pytest.mark.adversary
@pytest.mark.parametrize("stricter", STRICTER.values(), ids=STRICTER)
def test_a_stricter_operator_starts_its_next_attempt_as_well(
    stricter: Callable[[pytest.MonkeyPatch], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = begun()
    end_pod(api, failed())
    assert look(api)["phase"] == "Pending"
    reconciler = reconciling(api, stricter(monkeypatch))
    reconciler.context.now = lambda: at(600)
    asyncio.run(reconciler(KEY))
    assert (status(api, KEY)["phase"], status(api, KEY)["attempts"]) == ("Starting", 2)


@pytest.mark.parametrize("stricter", STRICTER.values(), ids=STRICTER)
def test_a_job_that_no_status_tells_of_yet_has_begun(
    stricter: Callable[[pytest.MonkeyPatch], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator died between the two writes, and was replaced."""
    api = begun()
    del api.objects[CHECKPOINTS.path(KEY.namespace, KEY.name)]["status"]
    run_pod(api)
    assert look(api, stricter(monkeypatch))["phase"] == "Running"


def test_what_runs_of_a_spec_that_can_not_be_read_whole_ends_and_is_not_repeated() -> None:
    """An older operator comes back, which knows fewer fields: it must not start what it only half understands."""
    api = begun()
    api.objects[CHECKPOINTS.path(KEY.namespace, KEY.name)]["spec"]["invented"] = {"much": 1}
    run_pod(api)
    assert look(api)["phase"] == "Running"
    end_pod(api, failed())
    assert look(api)["phase"] == "Pending"
    reconciler = reconciling(api)
    reconciler.context.now = lambda: at(600)
    asyncio.run(reconciler(KEY))
    found = status(api, KEY)
    assert (found["phase"], found["reason"], found["attempts"]) == ("Pending", "InvalidSpec", 1)
    assert "spec.invented: unknown field" in found["conditions"][0]["message"]


@pytest.mark.parametrize(
    ("changes", "unread"),
    [
        pytest.param({"spec.retries": 21}, ["spec.retries"], id="a bound"),
        pytest.param({"spec.invented": 1}, ["spec.invented"], id="an unknown field"),
        pytest.param({"spec.storage.invented": 1}, ["spec.storage.invented"], id="an unknown field of a section"),
        pytest.param({"spec.parallelism": {"strategy": "pp"}}, ["spec.parallelism.strategy"], id="an unknown value"),
        pytest.param(
            {"spec.save.from": {"url": "s3://b/x", "include": [1, 2]}},
            ["spec.save.from.include[0]"],
            id="two findings in one field",
        ),
        pytest.param({"spec.retries": "x", "spec.suspend": "y"}, ["spec.retries", "spec.suspend"], id="two fields"),
    ],
)
def test_what_can_not_be_read_of_what_has_begun_is_left_out(changes: Body, unread: list[str]) -> None:
    with pytest.raises(SpecError):
        parse(manifest(changes))
    found = parse(manifest(changes), begun=True)
    assert sorted(line.partition(":")[0] for line in found.unread) == unread
    assert found.spec.storage.url == checkpoint().spec.storage.url


@pytest.mark.parametrize("changes", [{"spec.operation": None}, {"spec.operation": "Sing"}, {"spec.storage": None}])
def test_without_what_a_spec_is_about_it_is_left_alone(changes: Body) -> None:
    with pytest.raises(SpecError) as error:
        parse(manifest(changes), begun=True)
    live = attempt(running(0), running(1))
    for before in (RUNNING, None):
        found = refuse_spec(error.value, generation=1, run_id="", observed=observed(live), status=before, now=NOW)
        assert (deleted(found), found.status["reason"]) == ([], "InvalidSpec")
        assert found.status["phase"] in {"Running", "Pending"}
        assert "The spec was accepted once, and this operator can't go on with it" in message(found)


def test_an_invalid_new_run_ends_the_earlier_one() -> None:
    live = attempt(running(0), running(1))
    found = refused(live, run_id="two", status=RUNNING)
    assert (phase(found), deleted(found), found.status["runId"]) == (("Failed", "InvalidSpec"), [1], "two")


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("changes", "narrow", "wide", "says"),
    [
        pytest.param(ONE_POD, NO_S3, CLUSTER, "protocol 's3' is not allowed (gs)", id="a protocol"),
        pytest.param(
            {"spec.workers": {"podTemplate": {"spec": {"hostNetwork": True}}}},
            CLUSTER,
            Site(pod_security=PodSecurity.NAMESPACE),
            "hostNetwork: is not accepted",
            id="a freedom of pods",
        ),
    ],
)
def test_what_is_not_enabled_is_waited_for(changes: Body, narrow: Site, wide: Site, says: str) -> None:
    api = FakeApi()
    api.add(CHECKPOINTS, manifest(changes))
    found = look(api, narrow)
    assert (found["phase"], found["reason"]) == ("Pending", "NotEnabled")
    assert says in found["conditions"][0]["message"]
    assert look(api, narrow) == found
    assert look(api, wide)["phase"] == "Starting"


@pytest.mark.parametrize(
    ("changes", "site", "reason"),
    [
        pytest.param({"spec.storage.url": "s3a://b/x"}, CLUSTER, "InvalidSpec", id="unknown to every operator"),
        pytest.param({"spec.storage.url": "memory://x"}, NO_S3, "InvalidSpec", id="never in a cluster"),
        pytest.param({"spec.save.ifExists": "No"}, NO_S3, "InvalidSpec", id="wrong beside it"),
        pytest.param({"spec.storage.options": {"a": "b"}}, NO_S3, "InvalidSpec", id="a rule beside it"),
    ],
)
def test_what_is_wrong_by_itself_is_refused(changes: Body, site: Site, reason: str) -> None:
    api = FakeApi()
    api.add(CHECKPOINTS, manifest(ONE_POD | changes))
    found = look(api, site)
    assert (found["phase"], found["reason"]) == ("Failed", reason)


def test_what_never_began_is_judged_anew_by_other_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeApi()
    api.add(CHECKPOINTS, manifest(ONE_POD))
    with monkeypatch.context() as patched:
        site = stricter_rule(patched)
        assert look(api, site)["reason"] == "InvalidSpec"
    assert look(api)["phase"] == "Starting"


# At a quota.

QUOTA = "jobs.batch is forbidden: exceeded quota: few, requested: count/jobs.batch=1, used: 0, limited: 0"


def no_jobs(request: ApiRequest) -> Exception | None:
    return RefusedError(QUOTA, 403) if (request.method, request.resource) == ("POST", JOBS) else None


@pytest.mark.adversary
def test_a_quota_is_waited_for_without_end() -> None:
    """O S3-3: Kubernetes waits at a quota as well."""
    api = FakeApi()
    api.add(CHECKPOINTS, manifest(ONE_POD))
    object.__setattr__(api, "refuse", no_jobs)
    for seconds in (0, 600, 86_400 * 30):
        reconciler = reconciling(api)
        reconciler.context.now = partial(at, seconds)
        assert asyncio.run(reconciler(KEY)) == pytest.approx(30 if seconds < 300 else min(300, max(30, seconds / 10)))
        found = status(api, KEY)
        assert (found["phase"], found["reason"], found.get("attempts", 0)) == ("Pending", "Forbidden", 0)
        assert QUOTA in found["conditions"][0]["message"]
    object.__setattr__(api, "refuse", lambda _: None)
    assert look(api)["phase"] == "Starting"


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("before", "number", "counted"),
    [
        pytest.param(RUNNING, 1, 1, id="a Job that was never seen"),
        pytest.param(after_first_attempt(ended(0, exit_code=137)).status, 2, 2, id="a probe"),
        pytest.param(after_first_attempt(ended(0, failed())).status, 2, 1, id="a retry"),
    ],
)
def test_a_later_attempt_waits_for_a_quota_too(before: Any, number: int, counted: int) -> None:
    last = before
    for now, again in ((9000, 30), (9030, 30), (9600, 60), (9_000_000, 300)):
        intended = decided(status=last, now=at(now))
        assert [each for each, _ in created(intended)] == [number]
        found = wait_for_creation(checkpoint(), intended, last, "exceeded quota", at(now))
        assert (phase(found), found.status["attempts"]) == (("Pending", "Forbidden"), counted)
        assert message(found) == f"Attempt {number} can't be created: exceeded quota. It is tried again."
        assert (found.status["firstRefusedTime"], found.wake_at) == (stamp(9000), at(now + again))
        assert found.status.get("retries") == before.get("retries"), "no field has two meanings"
        last = found.status


@pytest.mark.parametrize("changes", [{}, {"spec.suspend": True}, {"spec.runId": "2"}])
def test_a_status_that_tells_of_no_refused_creation_has_no_time_of_one(changes: Body) -> None:
    before = wait_for_creation(checkpoint(), decided(), {}, "exceeded quota", at(0)).status
    found = decided(of=checkpoint(changes), status=before, now=at(60))
    assert "firstRefusedTime" not in found.status
    again = wait_for_creation(checkpoint(changes), found, found.status, "exceeded quota", at(60))
    assert again.status["firstRefusedTime"] == stamp(60)


def test_a_spec_that_is_refused_later_has_no_time_of_a_refused_creation() -> None:
    before = wait_for_creation(checkpoint(), decided(), {}, "exceeded quota", at(0)).status
    found = refused(status=before, now=at(60))
    assert "firstRefusedTime" not in found.status


def test_what_the_api_server_calls_invalid_by_now_waits_where_it_was_accepted_before() -> None:
    api = begun()
    end_pod(api, failed())
    look(api)
    refusal = RefusedError("strict decoding error: unknown field", 400)
    object.__setattr__(api, "refuse", lambda request: refusal if request.method == "POST" else None)
    reconciler = reconciling(api)
    reconciler.context.now = lambda: at(600)
    asyncio.run(reconciler(KEY))
    found = status(api, KEY)
    assert (found["phase"], found["reason"]) == ("Pending", "InvalidSpec")
    assert "strict decoding error" in found["conditions"][0]["message"]


@pytest.mark.adversary
def test_pods_over_quota_are_waited_for_in_the_quotas_words() -> None:
    api = begun()
    (job,) = [each for each in api.objects.values() if each["kind"] == "Job"]
    api.add(JOBS, job | {"status": {"startTime": "2026-11-24T08:00:00Z"}})
    said = 'Error creating: pods "save-1000-x-1-0-{}" is forbidden: exceeded quota: few'
    for number in (1, 2):
        event = {"name": f"e{number}", "namespace": "team"}
        api.add(
            EVENTS, {"metadata": event, "message": said.format(number), "lastTimestamp": f"2026-11-24T08:00:0{number}Z"}
        )
    found = {}
    for seconds in (31, 601, 86_400):
        reconciler = reconciling(api)
        reconciler.context.now = partial(at, seconds)
        assert asyncio.run(reconciler(KEY)) == 30
        found = status(api, KEY)
        assert (found["phase"], found["reason"]) == ("Pending", "Forbidden")
    assert "0 of 1 pods were created; Error creating: pods is forbidden: exceeded quota: few" in str(
        found["conditions"]
    )


def test_an_attempt_that_a_quota_gives_half_of_its_pods_is_let_go_and_tried_again() -> None:
    """Two of them would wait for each other for ever."""
    found = decided(attempt(running(0), nodes=2), status=STARTED, now=at(600))
    assert phase(found) == ("Pending", "StartTimeout")
    assert found.status["retries"]["uncounted"] == 1
    again = decided(attempt(running(0), nodes=2), status=found.status, now=at(600))
    assert deleted(again) == [1]


def test_an_attempt_whose_job_ran_out_of_time_without_a_pod_is_tried_again() -> None:
    """The Job's own deadline is a backstop; to wait for a quota costs none of the hundred tries."""
    job = attempt(nodes=2, finished=at(4500), job_failure="DeadlineExceeded")
    found = decided(job, status=STARTED, now=at(4600))
    assert phase(found) == ("Pending", "StartTimeout")
    assert found.status["retries"] == {"lastEnded": 1, "nextTime": found.status["retries"]["nextTime"]}


@pytest.mark.adversary
def test_time_that_pods_wait_for_a_quota_counts_against_no_timeout() -> None:
    waiting = pending(0, created=at(9000))
    job = attempt(waiting, replace(waiting, index=1))
    assert phase(decided(job, status=STARTED, now=at(9599)))[0] == "Starting"
    assert phase(decided(job, status=STARTED, now=at(9600)))[0] == "Failed"


def test_a_job_whose_deadline_was_eaten_by_a_quota_is_tried_again() -> None:
    late = replace(ended(0, Report(terminated=True)), created=at(4000))
    cut: Any = {"finished": at(4500), "job_failure": "DeadlineExceeded"}
    found = decided(attempt(late, **cut), status=RUNNING, now=at(4600))
    assert (created(found), found.status["retries"]["uncounted"]) == ([(2, True)], 1)
    early = replace(late, created=at(1))
    assert phase(decided(attempt(early, **cut), status=RUNNING, now=at(4600)))[1] != "StartTimeout"
    done = replace(late, report=saved())
    assert phase(decided(attempt(done, **cut), status=RUNNING, now=at(4600))) == ("Succeeded", "Saved")


# Jobs deleted by hand.


@pytest.mark.adversary
def test_a_job_that_was_created_stands_in_the_status_by_its_uid() -> None:
    api = begun()
    (job,) = [each for each in api.objects.values() if each["kind"] == "Job"]
    assert status(api, KEY)["jobRef"] == {"name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}


@pytest.mark.adversary
def test_a_job_that_is_deleted_by_hand_is_a_lost_worker() -> None:
    """O S2-11: it is not counted, and a Save may have committed."""
    api = begun({"spec.retries": 0})
    run_pod(api)
    look(api)
    for path in [path for path, each in api.objects.items() if each["kind"] in {"Job", "Pod"}]:
        del api.objects[path]
    found = look(api)
    assert (found["attempts"], found["retries"]) == (2, {"lastEnded": 1, "uncounted": 1, "probe": True})
    assert (found["failure"]["reason"], found["failure"]["attempt"]) == ("WorkerLost", 1)
    assert "was deleted, and not by the operator" in found["failure"]["message"]
    (job,) = [each for each in api.objects.values() if each["kind"] == "Job"]
    assert job["metadata"]["labels"]["dcp-operator.io/probe"] == "true"


SEEN: Any = {**STARTED} | {"jobRef": {"name": checkpoint().job_name(1), "uid": "u"}}


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("before", "attempts", "started"),
    [
        pytest.param(STARTED, (), [(1, False)], id="created, and never seen: created again"),
        pytest.param(SEEN, (), [(2, True)], id="seen and gone: lost"),
        pytest.param(SEEN, (attempt(nodes=2, uid="u"),), [], id="there"),
        pytest.param(SEEN, (attempt(nodes=2, uid="u", deleting=True),), [], id="going"),
        pytest.param(
            SEEN | {"retries": {"lastEnded": 1}, "attempts": 1}, (), [(2, False)], id="gone after it was settled"
        ),
    ],
)
def test_what_becomes_of_a_job_that_is_not_there(before: Any, attempts: Any, started: Any) -> None:
    assert created(decided(*attempts, status=before)) == started


@pytest.mark.adversary
def test_a_load_whose_job_is_deleted_backs_off_and_has_an_end() -> None:
    of = checkpoint({"spec.operation": "Load", "spec.retries": 0})
    last: Any = decided(of=of).status
    count = 0
    for number in range(1, 200):
        last = {**last, "jobRef": {"name": of.job_name(number), "uid": "u"}, "attempts": number}
        found = decided(of=of, status=last, now=at(number * 1000))
        last = found.status
        if last["phase"] == "Failed":
            break
        assert phase(found) == ("Pending", "WorkerLost")
        assert [each.reason for each in found.events] == ["WorkerLost"]
        count += 1
    assert (count, last["reason"]) == (100, "WorkerLost")


def test_pods_of_a_job_that_was_deleted_are_waited_for() -> None:
    left = Observed(leftover=(running(0),))
    found = decide(checkpoint(), left, SEEN, NOW)
    assert (phase(found)[0], created(found)) == ("Pending", [])
    assert found.status["failure"]["reason"] == "WorkerLost"


def test_a_probe_whose_job_is_deleted_is_made_again_three_times() -> None:
    last: Any = decided(status=SEEN).status
    started = []
    for number in range(2, 9):
        last = {**last, "jobRef": {"name": checkpoint().job_name(number), "uid": "u"}}
        found = decided(status=last, now=at(number * 1000))
        if not created(found):
            found = decided(status=found.status, now=at(number * 1000 + 600))
        started += created(found)
        last = found.status
        if not created(found):
            break
    assert started[:3] == [(3, True), (4, True), (5, False)]
