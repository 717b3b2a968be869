"""The cache's promises: never back in time, what is deleted stays so, a pod's last state outlives the pod."""

from typing import Any

import pytest

from dcp_operator.api.naming import job_name
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, PODS, Resource
from dcp_operator.kube.kinds.checkpoint import jobs_and_pods
from dcp_operator.kube.view.attempts import UnconfirmedJobs
from dcp_operator.kube.view.cache import Cache

KEY = CHECKPOINTS.key("team", "save")
J1, J2 = (job_name("save", "uid-save", "", number) for number in (1, 2))


def body(name: str, version: int, *, uid: str = "", labels: dict[str, str] | None = None, **sections: Any) -> Any:
    metadata = {"name": name, "namespace": "team", "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"metadata": metadata | {"labels": labels or {}}, **sections}


def owned(name: str, version: int, job: str = "", **sections: Any) -> Any:
    labels = {"dcp-operator.io/owner-uid": "uid-save", "dcp-operator.io/job": job or name}
    labels["dcp-operator.io/attempt"] = (job or name).rpartition("-")[2]
    made = body(name, version, labels=labels, **sections)
    owner = {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "Checkpoint", "uid": "uid-save"}
    if job:
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": f"uid-{job}"}
    made["metadata"]["ownerReferences"] = [owner | {"controller": True}]
    return made


@pytest.fixture
def cache() -> Cache:
    made = Cache()
    assert made.put(CHECKPOINTS, body("save", 10, spec={"operation": "Save"})) == KEY
    return made


@pytest.mark.parametrize(
    ("version", "news"),
    [
        pytest.param(9, False, id="an older one, which the watch brings late"),
        pytest.param(10, False, id="our own write, coming back on the watch"),
        pytest.param(11, True, id="a newer one"),
    ],
)
def test_only_a_newer_body_is_news(cache: Cache, *, version: int, news: bool) -> None:
    assert (cache.put(CHECKPOINTS, body("save", version)) is not None) is news


def test_a_job_and_its_pods_are_found_by_the_checkpoint(cache: Cache) -> None:
    assert cache.put(JOBS, owned(J1, 11)) == KEY
    assert cache.put(PODS, owned(f"{J1}-0", 12, J1)) == KEY
    jobs, pods = jobs_and_pods(cache.owned.of(KEY, "uid-save"))
    assert ([each.name for each in jobs], [each.name for each in pods]) == ([J1], [f"{J1}-0"])


def test_objects_of_a_checkpoint_that_is_not_here_yet_wait_for_it() -> None:
    cache = Cache()
    assert cache.put(JOBS, owned(J1, 11)) is None
    assert cache.put(CHECKPOINTS, body("save", 10)) == KEY
    assert len(jobs_and_pods(cache.owned.of(KEY, "uid-save"))[0]) == 1


def forged(made: Any, **metadata: Any) -> Any:
    return {**made, "metadata": made["metadata"] | metadata}


@pytest.mark.parametrize(
    ("resource", "made"),
    [
        pytest.param(JOBS, forged(owned(J1, 50, status={"x": 1}), namespace="other"), id="Job of another namespace"),
        pytest.param(JOBS, forged(owned(J2, 50), ownerReferences=[]), id="Job without an owner"),
        pytest.param(JOBS, forged(owned(J2, 50), ownerReferences=[{"uid": "else"}]), id="Job of another owner"),
        pytest.param(PODS, forged(owned(f"{J1}-0", 50, J1), namespace="other"), id="Pod of another namespace"),
        pytest.param(PODS, forged(owned("x", 50, J1), ownerReferences=[]), id="Pod without an owner"),
        pytest.param(PODS, forged(owned("x", 50, J1), ownerReferences=[{"uid": "uid-save"}]), id="Pod of no Job"),
        pytest.param(PODS, forged(owned("x", 50, J2), ownerReferences=[]), id="Pod of a Job that is not here"),
        pytest.param(
            PODS,
            forged(owned("x", 50, J1), ownerReferences=[{"kind": "Job", "name": J1, "uid": "old"}]),
            id="Pod of another Job of that name",
        ),
    ],
)
def test_a_label_alone_makes_nothing_an_attempt(cache: Cache, resource: Resource, made: Any) -> None:
    cache.put(JOBS, owned(J1, 11))
    cache.put(PODS, owned(f"{J1}-0", 12, J1))
    before = jobs_and_pods(cache.owned.of(KEY, "uid-save"))
    key = cache.put(resource, made)
    assert jobs_and_pods(cache.owned.of(KEY, "uid-save")) == before
    assert key is None or made["metadata"]["namespace"] == "team"
    # It is known all the same: an audit would take what is left out for a watch that has fallen behind.
    where = made["metadata"]
    assert cache.version(resource, where["namespace"], where["name"], where["uid"]) == 50


def test_pods_of_a_job_that_is_gone_are_there_until_they_are_gone_as_well(cache: Cache) -> None:
    """A new run waits for them, and has a Job of its own by the time the last is removed."""
    cache.put(JOBS, owned(J1, 11))
    for index in (0, 1):
        cache.put(PODS, owned(f"{J1}-{index}", 12, J1))
    cache.remove(JOBS, "team", J1, f"uid-{J1}")
    jobs, pods = jobs_and_pods(cache.owned.of(KEY, "uid-save"))
    assert (jobs, [each.name for each in pods]) == ([], [f"{J1}-0", f"{J1}-1"])

    assert cache.remove(PODS, "team", f"{J1}-0", f"uid-{J1}-0") == KEY
    cache.put(JOBS, owned(J2, 13))
    assert [each.name for each in jobs_and_pods(cache.owned.of(KEY, "uid-save"))[1]] == [f"{J1}-1"]
    cache.remove(PODS, "team", f"{J1}-1", f"uid-{J1}-1")
    assert jobs_and_pods(cache.owned.of(KEY, "uid-save"))[1] == []
    assert cache.count(PODS) == 0


def test_somebody_elses_job_is_nobodys(cache: Cache) -> None:
    assert cache.put(JOBS, body("other", 11)) is None
    assert cache.count(JOBS) == 0


@pytest.mark.parametrize("resource", [CHECKPOINTS, JOBS])
def test_what_is_deleted_does_not_come_back_with_a_late_answer(cache: Cache, resource: Resource) -> None:
    name = "save" if resource is CHECKPOINTS else J1
    cache.put(JOBS, owned(J1, 11))
    assert cache.remove(resource, "team", name, f"uid-{name}") == KEY
    late = body("save", 50) if resource is CHECKPOINTS else owned(J1, 50)
    assert cache.put(resource, late) is None
    assert cache.count(resource) == 0


def test_an_object_made_anew_under_the_same_name_survives_the_old_ones_deletion(cache: Cache) -> None:
    assert cache.put(CHECKPOINTS, body("save", 20, uid="new")) == KEY
    assert cache.remove(CHECKPOINTS, "team", "save", "uid-save") is None
    found = cache.served.body(KEY)
    assert found is not None
    assert found["metadata"]["uid"] == "new"


def test_a_pods_last_state_is_kept_until_its_job_goes(cache: Cache) -> None:
    cache.put(JOBS, owned(J1, 11))
    cache.put(PODS, owned(f"{J1}-0", 12, J1, status={"phase": "Running"}))
    assert cache.remove(PODS, "team", f"{J1}-0", f"uid-{J1}-0") == KEY
    assert jobs_and_pods(cache.owned.of(KEY, "uid-save"))[1][0].phase == "Running"
    assert list(cache.known(PODS)) == []
    cache.remove(JOBS, "team", J1, f"uid-{J1}")
    assert jobs_and_pods(cache.owned.of(KEY, "uid-save")) == ([], [])


def test_what_is_finished_is_packed_and_reads_the_same(cache: Cache) -> None:
    made = body("save", 20, status={"phase": "Succeeded", "completionTime": "now"})
    cache.put(CHECKPOINTS, made)
    found = cache.served.body(KEY)
    assert found is not None
    assert found["status"] == made["status"]
    assert cache.version(CHECKPOINTS, "team", "save", "uid-save") == 20


def test_what_nobody_reads_is_left_out(cache: Cache) -> None:
    heavy = owned(J1, 12, spec={"parallelism": 2, "template": ["much"]}, status={})
    heavy["metadata"]["managedFields"] = ["much"]
    cache.put(JOBS, heavy)
    ((found,), _) = jobs_and_pods(cache.owned.of(KEY, "uid-save"))
    assert found.nodes == 2
    assert "much" not in repr(cache)
    heavy = body("save", 13, spec={"operation": "Save"})
    heavy["metadata"]["managedFields"] = ["much"]
    heavy["metadata"]["annotations"] = {
        "kubectl.kubernetes.io/last-applied-configuration": "much",
        "dcp-operator.io/kept": "x",
    }
    cache.put(CHECKPOINTS, heavy)
    kept = cache.served.body(KEY)
    assert kept is not None
    assert kept["metadata"]["annotations"] == {"dcp-operator.io/kept": "x"}
    assert "managedFields" not in kept["metadata"]


COMPLETE = {"conditions": [{"type": "Complete", "status": "True"}]}


def test_a_job_that_ended_before_its_pods_did_is_to_be_confirmed_once(cache: Cache) -> None:
    cache.put(JOBS, owned(J1, 11, spec={"parallelism": 2}, status={}))
    cache.put(PODS, owned(f"{J1}-0", 12, J1, status={"phase": "Succeeded"}))
    cache.put(PODS, owned(f"{J1}-1", 13, J1, status={"phase": "Running"}))
    unconfirmed = UnconfirmedJobs()
    assert unconfirmed.among(*jobs_and_pods(cache.owned.of(KEY, "uid-save"))) == []
    cache.put(JOBS, owned(J1, 14, spec={"parallelism": 2}, status=COMPLETE))
    (job,) = unconfirmed.among(*jobs_and_pods(cache.owned.of(KEY, "uid-save")))
    unconfirmed.confirm(job)
    assert unconfirmed.among(*jobs_and_pods(cache.owned.of(KEY, "uid-save"))) == []


def test_a_job_whose_pods_have_all_ended_needs_no_confirmation(cache: Cache) -> None:
    cache.put(JOBS, owned(J1, 14, spec={"parallelism": 1}, status=COMPLETE))
    cache.put(PODS, owned(f"{J1}-0", 15, J1, status={"phase": "Failed"}))
    assert UnconfirmedJobs().among(*jobs_and_pods(cache.owned.of(KEY, "uid-save"))) == []


@pytest.mark.parametrize(
    ("status", "rests"),
    [
        pytest.param({}, False, id="not begun"),
        pytest.param({"observedGeneration": 2}, False, id="under way"),
        pytest.param({"observedGeneration": 2, "completionTime": "now"}, True, id="finished"),
        pytest.param({"observedGeneration": 1, "completionTime": "now"}, False, id="changed since"),
    ],
)
def test_what_rests_can_wait_at_a_start(cache: Cache, status: dict[str, Any], *, rests: bool) -> None:
    made = body("save", 20, status=status)
    made["metadata"]["generation"] = 2
    cache.put(CHECKPOINTS, made)
    assert cache.served.at_rest(KEY) is rests
