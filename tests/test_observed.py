"""Job and Pod bodies as the API server gives them, read into one value."""

from typing import Any

import pytest

from dcp_contract.progress import Progress
from dcp_operator.api.naming import ATTEMPT_LABEL, INDEX_LABEL, JOB_LABEL, PROBE_LABEL, RUN_LABEL
from dcp_operator.controllers.checkpoint.observed import Attempt, Pod, observe
from scenes import NOW, at, saved

T0, T5, T9 = "2026-11-24T08:00:00Z", "2026-11-24T08:00:05Z", "2026-11-24T08:00:09Z"


def job(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    labels = {ATTEMPT_LABEL: "2", RUN_LABEL: "r", JOB_LABEL: "j"}
    return {
        "metadata": {"name": "j", "creationTimestamp": T0, "labels": labels},
        "spec": {"parallelism": 2, "suspend": False, **spec},
        "status": {"startTime": T0, **(status or {})},
    }


def pod(index: int = 0, created: str = T0, **status: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "name": f"j-{index}-x",
            "creationTimestamp": created,
            "labels": {JOB_LABEL: "j", INDEX_LABEL: str(index)},
        },
        "spec": {"nodeName": "n1"},
        "status": {"phase": "Running", **status},
    }


def container(**state: Any) -> list[dict[str, Any]]:
    return [{"name": "sidecar", "state": {"running": {"startedAt": T0}}}, {"name": "worker", "state": state}]


def seen(body: dict[str, Any]) -> Pod:
    (attempt,) = observe([job()], [body]).attempts
    return attempt.pods[0]


def seen_attempt(*pods: dict[str, Any], body: dict[str, Any] | None = None) -> Attempt:
    (attempt,) = observe([body or job()], pods).attempts
    return attempt


def test_a_job() -> None:
    found = seen_attempt()
    assert (found.job_name, found.attempt, found.run_id, found.nodes) == ("j", 2, "r", 2)
    assert (found.created, found.started, found.finished) == (NOW, NOW, None)
    assert (found.suspended, found.probe, found.deleting, found.job_failure) == (False, False, False, "")
    assert found.active
    assert found.chief is None


def test_a_failed_job() -> None:
    condition = {"type": "Failed", "status": "True", "reason": "FailedIndexes", "lastTransitionTime": T9}
    found = seen_attempt(body=job({"conditions": [condition]}))
    assert (found.finished, found.job_failure) == (at(9), "FailedIndexes")
    assert not found.active


def test_a_complete_job_has_no_failure() -> None:
    condition = {"type": "Complete", "status": "True", "reason": "CompletionsReached", "lastTransitionTime": T9}
    found = seen_attempt(body=job({"conditions": [condition]}))
    assert (found.finished, found.job_failure) == (at(9), "")


def test_a_suspended_probe_that_is_being_deleted() -> None:
    body = job({"startTime": None}, suspend=True)
    body["metadata"]["labels"][PROBE_LABEL] = "true"
    body["metadata"]["deletionTimestamp"] = T9
    found = seen_attempt(body=body)
    assert (found.suspended, found.probe, found.deleting, found.started) == (True, True, True, None)


def test_a_job_without_our_label_is_not_ours() -> None:
    body = job()
    del body["metadata"]["labels"][ATTEMPT_LABEL]
    assert observe([body], []).attempts == ()


def test_progress_comes_along() -> None:
    (attempt,) = observe([job()], [], {"j": Progress(bytes=1)}).attempts
    assert attempt.progress == Progress(bytes=1)


def test_a_running_pod() -> None:
    found = seen(pod(containerStatuses=container(running={"startedAt": T5})))
    assert (found.index, found.name, found.node, found.phase) == (0, "j-0-x", "n1", "Running")
    assert (found.started, found.finished, found.ended, found.failed) == (at(5), None, False, False)


def test_a_pod_with_a_report() -> None:
    state = {"startedAt": T0, "finishedAt": T9, "exitCode": 0, "reason": "Completed", "message": saved().encode()}
    found = seen(pod(phase="Succeeded", containerStatuses=container(terminated=state)))
    assert (found.started, found.finished, found.exit_code) == (NOW, at(9), 0)
    assert found.report == saved()
    assert found.ended
    assert not found.failed


def test_a_torn_report_is_none() -> None:
    state = {"startedAt": T0, "finishedAt": T9, "exitCode": 137, "reason": "OOMKilled", "message": '{"result":"Sa'}
    found = seen(pod(phase="Failed", containerStatuses=container(terminated=state)))
    assert (found.report, found.oom_killed, found.exit_code) == (None, True, 137)


def test_an_unschedulable_pod() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
    found = seen(pod(phase="Pending", conditions=[condition]))
    assert found.unschedulable == "0/3 nodes"


@pytest.mark.parametrize(
    ("reason", "is_pull_error"),
    [("ErrImagePull", True), ("ImagePullBackOff", True), ("InvalidImageName", True), ("ContainerCreating", False)],
)
def test_a_waiting_pod(reason: str, is_pull_error: bool) -> None:  # noqa: FBT001 - a table's column
    found = seen(pod(phase="Pending", containerStatuses=container(waiting={"reason": reason, "message": "m"})))
    assert (found.waiting, found.waiting_message, found.pull_error) == (reason, "m", is_pull_error)


def test_a_preempted_pod() -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}
    found = seen(pod(phase="Failed", conditions=[condition | {"lastTransitionTime": T9}]))
    assert (found.disrupted, found.finished) == ("PreemptionByScheduler", at(9))


def test_an_evicted_pod() -> None:
    found = seen(pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."))
    assert found.rejected == "Evicted: The node was low on resource: memory."


def test_a_container_that_could_not_start_has_not_started() -> None:
    state = {"startedAt": "1970-01-01T00:00:00Z", "finishedAt": T9, "exitCode": 128, "reason": "StartError"}
    found = seen(pod(phase="Failed", containerStatuses=container(terminated=state | {"message": "no python"})))
    assert (found.started, found.exit_reason, found.exit_message) == (None, "StartError", "no python")


def test_a_failed_init_container() -> None:
    init = [{"name": "fetch", "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}]
    found = seen(
        pod(
            phase="Failed",
            initContainerStatuses=init,
            containerStatuses=container(waiting={"reason": "PodInitializing"}),
        )
    )
    assert (found.exit_reason, found.exit_message) == ("init container fetch ended with exit code 3", "Error")


def test_a_lost_node() -> None:
    body = pod()
    body["metadata"]["deletionTimestamp"] = T0
    found = seen(body)
    assert not found.lost(at(29))
    assert found.lost(at(30))
    assert found.given_up_at == at(30)


def test_running_since_the_last_pod_started() -> None:
    first, second = (
        pod(0, containerStatuses=container(running={"startedAt": T0})),
        pod(1, containerStatuses=container(running={"startedAt": T9})),
    )
    assert seen_attempt(first).running_since is None
    assert seen_attempt(first, second).running_since == at(9)


def test_of_two_pods_with_one_index_the_one_that_says_more_counts() -> None:
    state = {"startedAt": T0, "finishedAt": T9, "exitCode": 0, "message": saved().encode()}
    told, fresh = pod(0, phase="Succeeded", containerStatuses=container(terminated=state)), pod(0, phase="Pending")
    fresh["metadata"]["name"] = "j-0-y"
    assert seen_attempt(told, fresh).pods == seen_attempt(fresh, told).pods
    assert seen_attempt(told, fresh).pods[0].name == "j-0-x"


SUSPENDED = {"type": "Suspended", "status": "True", "lastTransitionTime": T0}
RESUMED = {"type": "Suspended", "status": "False", "lastTransitionTime": T5}


def deleted(body: dict[str, Any], due: str, seconds: int | None = None) -> dict[str, Any]:
    grace = {} if seconds is None else {"deletionGracePeriodSeconds": seconds}
    return {**body, "metadata": body["metadata"] | {"deletionTimestamp": due} | grace}


@pytest.mark.parametrize(
    ("body", "suspended"),
    [
        pytest.param(job({"conditions": [SUSPENDED]}, suspend=True), True, id="suspended"),
        pytest.param(job({"conditions": [SUSPENDED]}), True, id="resumed, and the Job controller has not seen it"),
        pytest.param(job({"conditions": [RESUMED]}), False, id="resumed"),
        pytest.param(job({"conditions": [RESUMED]}, suspend=True), True, id="suspended anew"),
        pytest.param(
            job({"conditions": [SUSPENDED, {"type": "Failed", "status": "True", "lastTransitionTime": T9}]}),
            False,
            id="ended under suspension",
        ),
    ],
)
def test_a_job_is_suspended_until_its_controller_has_resumed_it(body: dict[str, Any], suspended: bool) -> None:  # noqa: FBT001
    assert seen_attempt(body=body).suspended is suspended


LIVE = container(running={"startedAt": T5})
TOLD = container(terminated={"startedAt": T0, "finishedAt": T9, "exitCode": 1, "message": '{"terminated":true}'})
A_MINUTE_AFTER_RESUME, A_MINUTE_AFTER_RESUME_AND_ONE = "2026-11-24T08:01:05Z", "2026-11-24T08:01:06Z"


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        pytest.param(pod(created=T0, containerStatuses=LIVE), True, id="created before the Job controller says so"),
        pytest.param(pod(created=T9, containerStatuses=LIVE), True, id="created after"),
        pytest.param(deleted(pod(containerStatuses=LIVE), A_MINUTE_AFTER_RESUME), False, id="deleted by suspension"),
        pytest.param(deleted(pod(phase="Failed", containerStatuses=TOLD), T9, 9), False, id="and ended"),
        pytest.param(deleted(pod(phase="Pending"), T5, 0), False, id="and never scheduled"),
        pytest.param(deleted(pod(containerStatuses=LIVE), A_MINUTE_AFTER_RESUME_AND_ONE), True, id="drained later"),
        pytest.param(deleted(pod(phase="Failed", containerStatuses=TOLD), T9, 0), True, id="deleted at once later"),
        pytest.param(pod(phase="Failed", containerStatuses=TOLD), True, id="failed by itself, and is not replaced"),
    ],
)
def test_pods_that_a_suspension_deleted_do_not_count(body: dict[str, Any], counts: bool) -> None:  # noqa: FBT001
    found = seen_attempt(body, body=job({"startTime": T5, "conditions": [RESUMED]}))
    assert bool(found.pods) is counts


def test_without_a_suspension_a_deleted_pod_counts() -> None:
    assert seen_attempt(deleted(pod(containerStatuses=LIVE), T0)).pods


def test_pods_created_before_a_late_start_time_count() -> None:
    assert seen_attempt(pod(0, created=T0), body=job({"startTime": T5})).pods[0].index == 0


def test_attempts_are_in_order() -> None:
    first, second = job(), job()
    second["metadata"]["labels"][ATTEMPT_LABEL] = "1"
    assert [each.attempt for each in observe([first, second], []).attempts] == [1, 2]


def test_pods_of_a_job_that_is_gone() -> None:
    found = observe([], [pod(0, containerStatuses=LIVE)])
    assert (found.attempts, [each.name for each in found.leftover]) == ((), ["j-0-x"])
    assert observe(iter([job()]), [pod(0)]).leftover == ()
