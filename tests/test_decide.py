"""The way of an attempt that goes well, what keeps it waiting, and its progress."""

from dataclasses import replace
from importlib import import_module
from inspect import isfunction
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

import pytest

from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_operator.api.naming import ATTEMPT_LABEL, INDEX_LABEL, JOB_LABEL
from dcp_operator.controllers.checkpoint import checks
from dcp_operator.controllers.checkpoint.actions import CreateAttempt
from dcp_operator.controllers.checkpoint.decide import CHECKS, decide
from dcp_operator.controllers.checkpoint.observed import observe
from scenes import (
    NOW,
    RUNNING,
    SAVED_PODS,
    STARTED,
    after_first_attempt,
    at,
    attempt,
    checkpoint,
    created,
    decided,
    ended,
    failed,
    message,
    observed,
    pending,
    phase,
    running,
    saved,
    stamp,
    true,
)

QUEUED_LABEL = {"metadata.labels": {"kueue.x-k8s.io/queue-name": "gpus"}}


def test_every_check_is_in_the_chain() -> None:
    modules = [import_module(f"{checks.__name__}.{each.name}") for each in iter_modules(checks.__path__)]
    of_modules = [each for module in modules for name, each in vars(module).items() if is_check(module, name, each)]
    assert len(of_modules) == len(modules), "one check in each file"
    assert sorted(CHECKS, key=repr) == sorted(of_modules, key=repr)


def is_check(module: ModuleType, name: str, item: object) -> bool:
    return isfunction(item) and item.__module__ == module.__name__ and not name.startswith("_")


def test_a_new_checkpoint_gets_its_first_attempt() -> None:
    found = decided()
    (action,) = found.actions
    assert isinstance(action, CreateAttempt)
    assert (action.job_name, action.attempt, action.suspend) == (checkpoint().job_name(1), 1, False)
    assert phase(found) == ("Starting", None)
    assert true(found) == {"Reconciling"}
    assert found.status["observedGeneration"] == 1
    assert found.status["jobRef"] == {"name": action.job_name}
    assert (found.status["ranks"], found.status["attempts"]) == ("2 (2x1)", 1)
    assert [(each.type, each.reason) for each in found.events] == [("Normal", "Starting")]


def test_a_job_that_is_not_seen_yet_is_created_again() -> None:
    found = decided(status=STARTED)
    assert created(found) == [(1, False)]
    assert found.status == STARTED
    assert found.events == ()


def test_a_lost_status_write_is_made_up_for() -> None:
    assert decided(attempt(nodes=2)).status == STARTED


def test_starting_pods_change_nothing() -> None:
    found = decided(attempt(running(0), nodes=2), status=STARTED)
    assert (found.status, found.actions, found.events) == (STARTED, (), ())
    assert found.wake_at == at(30)
    every = decided(attempt(running(0), running(1, started=None, phase="Pending")), status=STARTED, now=at(30))
    assert (every.status, every.wake_at) == (STARTED, at(600))


def test_running() -> None:
    found = decided(attempt(running(0), running(1)), status=STARTED)
    assert phase(found) == ("Running", None)
    assert found.wake_at == at(3630)
    assert [each.reason for each in found.events] == ["Running"]


def test_saved() -> None:
    found = decided(attempt(*SAVED_PODS), status=RUNNING, now=at(72))
    assert phase(found) == ("Succeeded", "Saved")
    assert true(found) == {"Ready", "Complete"}
    assert message(found) == "Saved step 1000: 418 MiB in 4 files, saved by 2 ranks. It took 1m12s."
    status = found.status
    assert (status["size"], status["duration"], status["throughput"]) == ("418 MiB", "1m12s", "209 MiB/s")
    assert (status["durationSeconds"], status["conflictGuard"]) == (72, "Atomic")
    assert status["checkpoint"]["saveId"] == "s1"
    assert [(each.type, each.reason) for each in found.events] == [("Normal", "Saved")]


def test_after_the_commit_nothing_changes_the_result() -> None:
    done = after_first_attempt(ended(0, saved()), running(1))
    assert phase(done) == ("Succeeded", "Saved")
    for pods in ((ended(0), ended(1)), (running(0, oom_killed=True),), ()):
        again = decided(attempt(*pods, nodes=2), status=done.status, now=at(30))
        assert (again.status, again.events, created(again)) == (done.status, (), [])
    assert decided(status=done.status).status == done.status


def test_success_has_no_failure_of_an_earlier_attempt() -> None:
    first = after_first_attempt(ended(0, failed()), ended(1, failed(rank=1)))
    second = attempt(*SAVED_PODS, number=2)
    found = decided(second, status=first.status, now=at(20))
    assert phase(found) == ("Succeeded", "Saved")
    assert not {"failure", "failedRanks", "failedRankCount"} & found.status.keys()
    assert found.status["attempts"] == 2


@pytest.mark.parametrize(
    ("operation", "result", "spec"),
    [
        ("Load", Reason.LOADED, {"spec.operation": "Load"}),
        ("Verify", Reason.VERIFIED, {"spec.operation": "Verify", "spec.workload": None, "spec.workers": {}}),
        ("Delete", Reason.DELETED, {"spec.operation": "Delete", "spec.workload": None, "spec.workers": {}}),
        (
            "Copy",
            Reason.COPIED,
            {"spec.operation": "Copy", "spec.copy.from.url": "s3://b/x", "spec.workload": None, "spec.workers": {}},
        ),
        ("Validate", Reason.VALIDATED, {"spec.operation": "Validate", "spec.workload": None, "spec.workers": {}}),
        (
            "Export",
            Reason.EXPORTED,
            {"spec.operation": "Export", "spec.export.from.url": "s3://b/x", "spec.workload": None, "spec.workers": {}},
        ),
        ("Clean", Reason.CLEANED, {"spec.operation": "Clean", "spec.workload": None, "spec.workers": {}}),
    ],
)
def test_loads_and_verifies(operation: str, result: Reason, spec: dict[str, Any]) -> None:
    of = checkpoint(spec)
    pods = [ended(index, Report(result=result)) for index in range(of.spec.workers.num_nodes)]
    found = decided(attempt(*pods, of=of), of=of)
    assert of.spec.operation == operation
    assert phase(found) == ("Succeeded", result)


@pytest.mark.parametrize(
    ("pod", "reason", "text"),
    [
        pytest.param({"unschedulable": "0/3 nodes"}, "StartTimeout", "can't be scheduled: 0/3 nodes", id="node"),
        pytest.param({"waiting": "ErrImagePull"}, "ImagePullFailed", "is ErrImagePull", id="pull"),
        pytest.param({"waiting": "ContainerCreating"}, "StartTimeout", "is ContainerCreating", id="volume"),
    ],
)
def test_why_it_did_not_start(pod: dict[str, str], reason: str, text: str) -> None:
    waiting = pending(1, **pod)
    found = decided(attempt(running(0), waiting), status=STARTED, now=at(600))
    assert phase(found) == ("Failed", reason)
    assert text in message(found)
    assert found.status["failure"]["pod"] == "pod-1"
    assert "retriable" not in found.status["failure"]


def test_no_pod_was_made() -> None:
    live = attempt(nodes=2)
    assert decided(live, status=STARTED).wake_at == at(30)
    soon = decided(live, status=STARTED, now=at(30))
    assert phase(soon) == ("Pending", "Forbidden")
    assert message(soon) == f"Attempt 1: 0 of 2 pods were created; look at the events of Job {live.job_name}."
    assert decided(live, status=soon.status, now=at(600)).status == soon.status


@pytest.mark.parametrize(
    ("waiting", "text", "at_once"),
    [
        ("InvalidImageName", "", True),
        ("ImagePullBackOff", "rpc error: ... not found", True),
        ("ImagePullBackOff", "i/o timeout", False),
        ("ErrImagePull", "not found", False),
    ],
)
def test_a_hopeless_image_fails_at_once(waiting: str, text: str, at_once: bool) -> None:  # noqa: FBT001
    pod = pending(0, waiting=waiting, waiting_message=text)
    found = decided(attempt(pod), status=STARTED, now=at(1))
    assert phase(found) == ("Failed" if at_once else "Starting", "ImagePullFailed")


def test_the_queue_decides_when_it_starts() -> None:
    of = checkpoint(QUEUED_LABEL)
    first = decided(of=of)
    (action,) = first.actions
    assert isinstance(action, CreateAttempt)
    assert action.suspend
    assert phase(first) == ("Queued", "Queued")
    waiting = attempt(nodes=2, of=of, suspended=True, started=None)
    for now in (NOW, at(100_000)):
        found = decided(waiting, of=of, status=first.status, now=now)
        assert (found.status, found.actions) == (first.status, ())
    admitted = replace(waiting, suspended=False)
    assert phase(decided(admitted, of=of, status=first.status, now=at(100_000)))[0] == "Starting"
    pod = pending(0)
    late = replace(admitted, started=at(100_000), pods=(pod, replace(pod, index=1)))
    assert phase(decided(late, of=of, status=first.status, now=at(100_599)))[0] == "Starting"
    assert phase(decided(late, of=of, status=first.status, now=at(100_600)))[0] == "Failed"


def test_a_queue_may_take_its_admission_back() -> None:
    of = checkpoint(QUEUED_LABEL)
    pods = (ended(0, Report(terminated=True)), ended(1, Report(terminated=True)))
    found = decided(attempt(*pods, of=of, suspended=True), of=of, status=RUNNING)
    assert phase(found) == ("Queued", "Queued")
    assert found.actions == ()


def test_pods_of_before_a_resume_say_nothing_until_the_job_controller_has_resumed_it() -> None:
    """Kueue takes the admission back and gives it again after startSeconds; pods are seen later than their Job."""
    of = checkpoint(QUEUED_LABEL | {"spec.workers.numNodes": 1})
    labels = {ATTEMPT_LABEL: "1", JOB_LABEL: of.job_name(1)}
    told = Report(terminated=True).encode()
    ended_ = {"startedAt": stamp(0), "finishedAt": stamp(30), "exitCode": 1, "message": told}
    old = {
        "metadata": {
            "name": "old",
            "creationTimestamp": stamp(0),
            "labels": labels | {INDEX_LABEL: "0"},
            "deletionTimestamp": stamp(80),
        },
        "status": {"phase": "Failed", "containerStatuses": [{"name": "worker", "state": {"terminated": ended_}}]},
    }
    fresh = {
        "metadata": {"name": "new", "creationTimestamp": stamp(904), "labels": labels | {INDEX_LABEL: "0"}},
        "status": {
            "phase": "Running",
            "containerStatuses": [{"name": "worker", "state": {"running": {"startedAt": stamp(904)}}}],
        },
    }

    def job(started: float, suspended: str, since: float) -> dict[str, Any]:
        condition = {"type": "Suspended", "status": suspended, "lastTransitionTime": stamp(since)}
        return {
            "metadata": {"name": of.job_name(1), "creationTimestamp": stamp(0), "labels": labels},
            "spec": {"parallelism": 1, "suspend": False},
            "status": {"startTime": stamp(started), "conditions": [condition]},
        }

    status = RUNNING
    for now, bodies, expected in (
        (903, (job(0, "True", 20), [old]), "Queued"),
        (905, (job(905, "False", 905), [old]), "Starting"),
        (905, (job(905, "False", 905), [old, fresh]), "Running"),
        (1600, (job(905, "False", 905), [old, fresh]), "Running"),
    ):
        found = decide(of, observe([bodies[0]], bodies[1]), status, at(now))
        assert (phase(found)[0], found.actions) == (expected, ())
        status = found.status
    assert status["attempts"] == 1


def test_a_field_that_can_not_be_read_does_not_cost_the_rest() -> None:
    done = after_first_attempt(ended(0, saved())).status
    torn = done | {"conditions": "?", "invented": 1, "retries": {"lastEnded": "x"}}
    found = decided(status=torn)
    assert (phase(found), created(found)) == (("Succeeded", "Saved"), [])


def test_the_generation_is_always_observed() -> None:
    done = after_first_attempt(ended(0, saved())).status
    newer = decide(replace(checkpoint(), generation=7), observed(), done, NOW)
    assert newer.status["observedGeneration"] == 7
    assert {each["observedGeneration"] for each in newer.status["conditions"]} == {7}
