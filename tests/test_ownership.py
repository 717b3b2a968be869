"""Nobody makes the operator touch what is not a Checkpoint's: labels, names and owner references are free to write."""

import asyncio
from typing import Any

import pytest

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import job_name
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, NETWORK_POLICIES, PODS, SERVICES
from dcp_operator.kube.client.ownership import Claimed, Owner, belongs
from dcp_operator.kube.kinds.checkpoint import jobs_and_pods
from fake_api import FakeApi, reconciling, seen, status
from scenes import MANIFEST

pytestmark = pytest.mark.adversary

KEY, UID = CHECKPOINTS.key("team", "mine"), "uid-mine"
MINE = Owner(CHECKPOINTS, "mine", UID)
SUSPENDED: Body = {"suspend": True}
OWNER: Body = {
    "apiVersion": "dcp-operator.io/v1alpha1",
    "kind": "Checkpoint",
    "name": "mine",
    "uid": UID,
    "controller": True,
}
LABELS = {"dcp-operator.io/owner-uid": UID, "dcp-operator.io/attempt": "1"}
OTHER_RUN = LABELS | {"dcp-operator.io/run-id": "other"}
OWN_NAME = job_name("mine", UID, "other", 1)


def mine(**spec: Any) -> Body:
    return {"metadata": {"name": "mine", "namespace": "team"}, "spec": MANIFEST["spec"] | spec}


def job(name: str, labels: dict[str, str], *owners: Body) -> Body:
    metadata = {"name": name, "namespace": "team", "labels": labels, "ownerReferences": list(owners)}
    return {"metadata": metadata, "spec": {"parallelism": 1}, "status": {}}


FORGED = {
    "O S1-1: another's name, own Checkpoint": job("default-deny", OTHER_RUN, OWNER),
    "O S1-1: not its controller": job("default-deny", OTHER_RUN, OWNER | {"controller": False}),
    "the due name, not its controller": job(OWN_NAME, OTHER_RUN, OWNER | {"controller": False}),
    "the due name, no owner": job(OWN_NAME, OTHER_RUN),
    "the due name, kind of another group": job(OWN_NAME, OTHER_RUN, OWNER | {"apiVersion": "example.com/v1"}),
    "the due name, another kind": job(OWN_NAME, OTHER_RUN, OWNER | {"kind": "Backup"}),
    "the due name, another's uid": job(OWN_NAME, OTHER_RUN, OWNER | {"uid": "uid-theirs"}),
    "the due name of another attempt": job(OWN_NAME, OTHER_RUN | {"dcp-operator.io/attempt": "2"}, OWNER),
    "the due name of another run": job(OWN_NAME, LABELS, OWNER),
    "no attempt": job(OWN_NAME, {"dcp-operator.io/owner-uid": UID, "dcp-operator.io/run-id": "other"}, OWNER),
    "attempt 0": job(job_name("mine", UID, "", 0), LABELS | {"dcp-operator.io/attempt": "0"}, OWNER),
    "an attempt that is no number": job(OWN_NAME, OTHER_RUN | {"dcp-operator.io/attempt": "one"}, OWNER),
    "the name that another Checkpoint's attempt has": job(job_name("theirs", "uid-theirs", "", 1), LABELS, OWNER),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
@pytest.mark.parametrize("spec", [SUSPENDED, {"operation": "Nonsense"}], ids=["suspended", "invalid"])
def test_a_forged_job_deletes_nothing(forged: Body, spec: Body, caplog: pytest.LogCaptureFixture) -> None:
    api, name = FakeApi(), forged["metadata"]["name"]
    api.add(CHECKPOINTS, mine(**spec))
    api.add(JOBS, forged)
    for resource in (SERVICES, NETWORK_POLICIES):
        api.add(resource, {"metadata": {"name": name, "namespace": "team"}})
    reconciler = reconciling(api)
    for _ in range(3):
        asyncio.run(reconciler(KEY))
        seen(api, reconciler)
    assert [each for each in api.writes() if "checkpoints" not in each] == []
    assert api.names(SERVICES) == api.names(NETWORK_POLICIES) == api.names(JOBS) == [name]
    warned = [each.getMessage() for each in caplog.records if "is ignored" in each.getMessage()]
    assert warned == [f"team/mine: Job {name} is labelled as an attempt, but is none; it is ignored"]


def test_what_is_named_like_an_attempt_and_is_anothers_stays() -> None:
    """An attempt's own Service and NetworkPolicy go with it; others of that name were there before."""
    api = FakeApi()
    api.add(CHECKPOINTS, mine(suspend=True))
    api.add(JOBS, job(OWN_NAME, OTHER_RUN, OWNER))
    service = {"name": OWN_NAME, "namespace": "team", "labels": OTHER_RUN, "ownerReferences": [OWNER]}
    api.add(SERVICES, {"metadata": service})
    policy = {"name": OWN_NAME, "namespace": "team", "ownerReferences": [OWNER | {"controller": None}]}
    api.add(NETWORK_POLICIES, {"metadata": policy})
    asyncio.run(reconciling(api)(KEY))
    assert (api.names(JOBS), api.names(SERVICES), api.names(NETWORK_POLICIES)) == ([], [], [OWN_NAME])


def test_every_deletion_is_of_the_very_object_that_was_looked_at() -> None:
    """What took its place in the meantime stays."""
    api = FakeApi()
    api.add(CHECKPOINTS, mine(suspend=True))
    api.add(JOBS, job(OWN_NAME, OTHER_RUN, OWNER))
    reconciler = reconciling(api)
    del api.objects[JOBS.path("team", OWN_NAME)]
    api.add(JOBS, {"metadata": {"name": OWN_NAME, "namespace": "team", "uid": "another"}})
    asyncio.run(reconciler(KEY))
    assert api.names(JOBS) == [OWN_NAME]


@pytest.mark.parametrize(
    ("labels", "owner"),
    [
        pytest.param(LABELS, OWNER | {"controller": False}, id="not controlled"),
        pytest.param(LABELS, OWNER | {"uid": "uid-theirs"}, id="another's"),
        pytest.param(LABELS, OWNER | {"apiVersion": "example.com/v1"}, id="of another group"),
        pytest.param(OTHER_RUN, OWNER, id="of another run, so that it would never be seen"),
        pytest.param({}, OWNER, id="without labels"),
    ],
)
def test_a_job_that_holds_the_next_name_is_not_adopted(labels: dict[str, str], owner: Body) -> None:
    api, name = FakeApi(), job_name("mine", UID, "", 1)
    api.add(CHECKPOINTS, mine())
    reconciler = reconciling(api)
    api.add(JOBS, job(name, labels, owner))
    asyncio.run(reconciler(KEY))
    assert status(api, KEY)["phase"] == "Pending"
    assert f"Job team/{name} exists already" in status(api, KEY)["conditions"][0]["message"]


def test_a_job_of_ours_that_holds_the_next_name_is_adopted() -> None:
    api = FakeApi()
    api.add(CHECKPOINTS, mine())
    reconciler = reconciling(api)
    api.add(JOBS, job(job_name("mine", UID, "", 1), LABELS, OWNER))
    asyncio.run(reconciler(KEY))
    assert status(api, KEY)["phase"] == "Starting"


def test_a_job_whose_label_names_another_checkpoint_by_now_is_that_ones() -> None:
    """What its label named before must not show it as running for ever."""
    api = FakeApi()
    for name in ("mine", "theirs"):
        api.add(CHECKPOINTS, {"metadata": {"name": name, "namespace": "team"}, "spec": MANIFEST["spec"]})
    api.add(JOBS, job(OWN_NAME, OTHER_RUN, OWNER))
    reconciler = reconciling(api)
    assert len(jobs_and_pods(reconciler.cache.owned.of(KEY, UID))[0]) == 1
    api.add(JOBS, job(OWN_NAME, OTHER_RUN | {"dcp-operator.io/owner-uid": "uid-theirs"}, OWNER))
    seen(api, reconciler)
    assert jobs_and_pods(reconciler.cache.owned.of(KEY, UID)) == ([], [])


POD_OWNER: Body = {"apiVersion": "batch/v1", "kind": "Job", "name": OWN_NAME, "uid": "uid-job", "controller": True}
POD_LABELS = OTHER_RUN | {"dcp-operator.io/job": OWN_NAME}


@pytest.mark.parametrize(
    ("labels", "owner", "gone", "ours"),
    [
        pytest.param(POD_LABELS, POD_OWNER, False, True, id="ours"),
        pytest.param(POD_LABELS, POD_OWNER, True, True, id="ours, whose Job is gone"),
        pytest.param(POD_LABELS, POD_OWNER | {"uid": "x"}, False, False, id="another Job's of that name"),
        pytest.param(POD_LABELS, POD_OWNER | {"controller": False}, False, False, id="not controlled"),
        pytest.param(POD_LABELS, POD_OWNER | {"controller": False}, True, False, id="not controlled, Job gone"),
        pytest.param(POD_LABELS, POD_OWNER | {"apiVersion": "batch.example.com/v1"}, False, False, id="another group"),
        pytest.param(POD_LABELS, POD_OWNER | {"kind": "ReplicaSet"}, True, False, id="another kind"),
        pytest.param(POD_LABELS, POD_OWNER | {"name": "x"}, True, False, id="another Job's"),
        pytest.param(LABELS | {"dcp-operator.io/job": OWN_NAME}, POD_OWNER, True, False, id="another attempt's"),
        pytest.param(
            POD_LABELS | {"dcp-operator.io/job": "x"}, POD_OWNER | {"name": "x"}, True, False, id="no Job of ours"
        ),
    ],
)  # fmt: skip
def test_whose_pod_it_is(labels: dict[str, str], owner: Body, *, gone: bool, ours: bool) -> None:
    pod = {"metadata": {"name": "p", "labels": labels, "ownerReferences": [owner]}}
    by = {} if gone else {OWN_NAME: "uid-job"}
    assert belongs(Claimed.of(pod), "p", MINE, JOBS, by) is ours


def test_one_controller_is_asked_and_no_uid_is_nobodys() -> None:
    made = job(OWN_NAME, OTHER_RUN, {"kind": "Backup", "uid": "b"}, OWNER)
    assert belongs(Claimed.of(made), OWN_NAME, MINE)
    assert not belongs(Claimed.of(made), OWN_NAME, MINE._replace(uid=""))
    assert not belongs(Claimed.of({"metadata": {}}), "", Owner(PODS, "", ""))
