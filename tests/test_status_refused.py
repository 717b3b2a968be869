"""Statuses that a CRD would refuse: whatever a worker says, how a Checkpoint stands gets written."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.progress import Progress
from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_contract.sizes import human_bytes
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.observed import observe
from dcp_operator.controllers.checkpoint.reporting import minimal
from dcp_operator.generate.crd import custom_resource_definition
from dcp_operator.kube.loop.queue import RetryLaterError
from hypothesis_profile import examples
from pod_bodies import job, pod, runs
from scenes import RUNNING, STARTED, at, checkpoint, decided, phase, stamp
from test_operator_parts import Picky, after_a_failed_rank

SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]
ACCEPTS = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())

HUGE = 100_000_000_000_000_000_000
numbers = st.sampled_from(
    [0, -1, HUGE, -HUGE, 10**400, 2**63 - 1, 2**63, 1e300, 5e-324, float("inf"), float("nan"), 7, "1" * 20, "inf"]
)
texts = st.sampled_from(["", "x" * 4096, "\x00", "é" * 2000, "2026-11-24T08:00:00", "0001-01-01T00:00:00+14:00"])
moments = st.sampled_from(
    ["2026-11-24T08:00:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", "2026-11-24T08:00:00+23:59"]
)
origins = st.fixed_dictionaries({}, optional={"namespace": texts, "name": texts, "uid": texts, "runId": texts})
checkpoints = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("step", "bytes", "files", "tensors", "worldSize"), numbers),
        **dict.fromkeys(("url", "saveId", "torchVersion", "conflictGuard", "verified"), texts),
        "createdTime": moments,
        "origin": origins,
    },
)
conflicts = st.fixed_dictionaries(
    {}, optional={"saveId": texts, "origin": origins, "createdTime": moments, "message": texts}
)
failures = st.fixed_dictionaries(
    {"reason": st.sampled_from([each.value for each in Reason])},
    optional={
        **dict.fromkeys(("rank", "time", "exitCode"), numbers),
        **dict.fromkeys(("message", "stage", "traceback"), texts),
    },
)
reports = st.fixed_dictionaries(
    {},
    optional={
        "result": st.sampled_from(["Saved", "Loaded", "Verified"]),
        "checkpoint": checkpoints,
        "conflict": conflicts,
        "failures": st.lists(failures, max_size=20),
        **dict.fromkeys(("node", "failedRankCount", "bytesMoved", "seconds"), numbers),
        "warnings": st.lists(texts, max_size=20),
        "terminated": st.booleans(),
    },
)


def integers(value: Any) -> Iterator[int]:
    if isinstance(value, dict):
        for each in value.values():
            yield from integers(each)
    elif isinstance(value, list):
        for each in value:
            yield from integers(each)
    elif isinstance(value, int):
        yield value


def written(status: dict[str, Any]) -> dict[str, Any]:
    """Return a status that the API server takes: by its schema, and by what 64 bits hold."""
    stored: dict[str, Any] = json.loads(json.dumps(status, allow_nan=False))
    ACCEPTS.validate(stored)
    assert all(-(2**63) <= each < 2**63 for each in integers(stored))
    return stored


@pytest.mark.adversary
@settings(max_examples=examples(daily=8, long=40), deadline=None)
@example({"conflict": {"saveId": "x" * 4096, "origin": {"namespace": "theirs", "name": "n", "uid": "u"}}}, 0)
@given(reports, st.sampled_from([0, 1]))
def test_whatever_a_worker_reports_can_be_written(report: dict[str, Any], code: int) -> None:
    message = json.dumps(report)
    state = {"startedAt": stamp(1), "finishedAt": stamp(15), "exitCode": code, "message": message}
    bodies = [pod(0, {"terminated": state}, phase="Failed" if code else "Succeeded")]
    of = checkpoint({"spec.workers": {}})
    found = decide(of, observe([job(nodes=1)], bodies), STARTED, at(100))
    status = written(found.status)
    for event in found.events:
        assert len(event.message) <= 1024
    again = decide(of, observe([job(nodes=1)], bodies), status, at(101))
    written(again.status)


@pytest.mark.adversary
def test_a_step_that_no_api_server_stores_is_unknown() -> None:
    numbers = f'"step":{HUGE},"bytes":{10**400},"files":3'
    report = Report.decode(f'{{"result":"Saved","checkpoint":{{{numbers}}}}}')
    assert report is not None
    assert report.checkpoint == CheckpointInfo(files=3)


@pytest.mark.adversary
@pytest.mark.parametrize(
    "line",
    [
        '{"dcpProgress": {"bytesPerSecond": Infinity}}',
        '{"dcpProgress": {"bytesPerSecond": NaN, "bytes": 5}}',
        '{"dcpProgress": {"bytesPerSecond": 1e300}}',
        '{"dcpProgress": {"bytes": -5, "totalBytes": 10}}',
        '{"dcpProgress": {"bytes": 5, "totalBytes": -10}}',
        json.dumps({"dcpProgress": {"bytes": 10**400, "totalBytes": 10**400}}),
        json.dumps({"dcpProgress": {"stage": "x" * 9000}}),
        '{"dcpProgress": {"stage": "\\ud800"}}',
    ],
)
def test_whatever_a_worker_prints_can_be_written(line: str) -> None:
    progress = Progress.of_line(line)
    jobs, pods = [job()], [pod(0, runs()), pod(1, runs())]
    name = jobs[0]["metadata"]["name"]
    observed = observe(jobs, pods, {name: progress} if progress is not None else {})
    written(decide(checkpoint(), observed, RUNNING, at(20)).status)


@pytest.mark.parametrize("count", [0, 999, 1e18, 1e300, float("inf"), 10**40])
def test_a_size_is_short_whatever_it_is(count: float) -> None:
    assert len(human_bytes(count)) <= 16


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        pytest.param({"phase": "Archived"}, True, id="a newer operator's phase"),
        pytest.param({"reason": "QuotaExceeded"}, True, id="a newer operator's reason"),
        pytest.param({"failure": {"reason": "NodeOnFire"}}, True, id="a newer operator's failure"),
        pytest.param({"failedRanks": [{"reason": "NodeOnFire"}]}, True, id="of a rank"),
        pytest.param({"reason": "no word"}, False, id="a sentence"),
        pytest.param({"reason": "x" * 64}, False, id="too long"),
    ],
)
def test_a_crd_takes_the_words_of_a_newer_operator(changes: dict[str, Any], *, accepted: bool) -> None:
    assert ACCEPTS.is_valid(Status().to_dict() | changes) is accepted


@pytest.mark.adversary
def test_of_a_status_that_is_refused_twice_what_is_needed_is_written(caplog: pytest.LogCaptureFixture) -> None:
    cluster = Picky("failure")
    posted: list[str] = []
    asyncio.run(after_a_failed_rank(cluster, posted.append))
    assert cluster.__dict__["seen"][-4:] == ["PUT status", "refused failure", "refused failure", "PUT status"]
    status = cluster.__dict__["status"]
    assert (status["phase"], status["reason"], status["observedGeneration"]) == ("Failed", "StorageFull", 1)
    assert status["completionTime"]
    assert {each["type"] for each in status["conditions"] if each["status"] == "True"} == {"Stalled", "Failed"}
    assert posted[-2:] == ["StatusRefused", "StorageFull"]
    assert "Apply the CRD that belongs to this operator" in caplog.text


@pytest.mark.adversary
def test_a_status_that_is_refused_to_the_last_is_said_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    posted: list[str] = []
    with pytest.raises(RetryLaterError):
        asyncio.run(after_a_failed_rank(Picky("phase"), posted.append))
    assert posted == ["StatusRefused"]
    assert [each.levelname for each in caplog.records if "refuses the status" in each.getMessage()] == ["WARNING"]


def test_what_is_needed_leads_to_the_same_decision() -> None:
    whole = decided(status=STARTED, now=at(30)).status | {"failure": {"reason": "RankFailed", "message": "x"}}
    assert phase(decided(status=minimal(whole), now=at(31))) == phase(decided(status=whole, now=at(31)))
