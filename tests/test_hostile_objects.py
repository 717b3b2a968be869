"""No object that anybody may write stops the operator, or makes it blind to another one."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from dcp_operator.api import bodies
from dcp_operator.api.bodies import shared
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import ATTEMPT_LABEL, INDEX_LABEL, JOB_LABEL, UID_LABEL
from dcp_operator.controllers.checkpoint import pods
from dcp_operator.controllers.checkpoint.observed import observe
from dcp_operator.kube.client import ownership
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, PODS, ObjectKey
from dcp_operator.kube.feed import resync
from dcp_operator.kube.feed.resync import Resync, WentBackError
from dcp_operator.kube.feed.watches import listener
from dcp_operator.kube.kopf_seam.watching import Change
from dcp_operator.kube.loop.queue import WorkQueue
from dcp_operator.kube.view.cache import Cache
from fake_api import FakeApi, reconciling
from pod_bodies import job, pod
from scenes import UID, manifest, stamp

pytestmark = pytest.mark.adversary

KEY = CHECKPOINTS.key("team", "save-1000")


def labelled(version: int = 5, **metadata: Any) -> Body:
    """Return a pod that somebody has put the operator's label on."""
    body = pod()
    labels = {UID_LABEL: UID, **metadata.pop("labels", {})}
    body["metadata"] |= {"uid": "pod", "namespace": "evil", "resourceVersion": str(version), "labels": labels}
    body["metadata"] |= metadata
    return body


@pytest.mark.parametrize(
    "body",
    [
        labelled(labels={INDEX_LABEL: "abc"}),
        labelled(labels={INDEX_LABEL: "-1"}),
        labelled(labels={INDEX_LABEL: "9" * 60}),
        labelled(annotations={INDEX_LABEL: "1.5"}),
        labelled(labels={ATTEMPT_LABEL: "9" * 60, JOB_LABEL: "x"}),
        labelled(deletionTimestamp=stamp(0), deletionGracePeriodSeconds=10**12),
        labelled(deletionTimestamp=stamp(0), deletionGracePeriodSeconds=-(10**17)),
        labelled(deletionTimestamp="-0001-01-01T00:00:00Z"),
        labelled(ownerReferences=[{"controller": True}]),
    ],
    ids=[
        "index of letters",
        "negative index",
        "large index",
        "index of an annotation",
        "large attempt",
        "long grace",
        "negative grace",
        "time before all times",
        "half an owner",
    ],
)
def test_a_pod_that_makes_no_sense_is_taken_in(body: Body) -> None:
    cache = Cache()
    assert cache.put(PODS, body) is None
    assert cache.version(PODS, "evil", body["metadata"]["name"], "pod") == 5, "an audit would call the watch dead"


@pytest.mark.parametrize("index", ["abc", "7", "9" * 60])
def test_a_pod_of_no_node_is_none_of_the_attempts(index: str) -> None:
    strange, own = pod(0), pod(1)
    strange["metadata"]["labels"][INDEX_LABEL] = index
    (attempt,) = observe([job()], [strange, own]).attempts
    assert [each.index for each in attempt.pods] == [1]


@pytest.mark.parametrize(
    ("spec", "nodes"),
    [
        ({"parallelism": 2}, 2),
        ({"parallelism": 0, "completions": 2}, 2),
        ({"parallelism": 1, "completions": 2}, 2),
        ({"parallelism": 0}, 1),
        ({"parallelism": None, "completions": None}, 1),
    ],
)
def test_a_job_whose_parallelism_was_changed_has_as_many_nodes_as_before(spec: Body, nodes: int) -> None:
    body = job()
    body["spec"] = spec
    (attempt,) = observe([body], []).attempts
    assert attempt.nodes == nodes
    assert attempt.active
    assert attempt.running_since is None


def unlabelled(api: FakeApi, reconciler: Any, resource: Any, body: Body) -> Body:
    """Take the label off an object and put it back, as its watch by label tells of that."""
    metadata = body["metadata"]
    gone: Any = {**body, "metadata": {**metadata, "resourceVersion": "500"}}
    unused: Any = None
    listener(resource, reconciler.view, WorkQueue[ObjectKey](unused))(Change.DELETED, gone)
    back = {**body, "metadata": {**metadata, "resourceVersion": "501"}}
    api.objects[resource.path(metadata["namespace"], metadata["name"])] = back
    return back


def scene(make: Callable[[], Body], resource: Any) -> tuple[FakeApi, Any, Body]:
    api = FakeApi()
    api.add(CHECKPOINTS, manifest())
    body = make()
    body["metadata"] |= {"namespace": "team", "uid": "labelled"}
    body["metadata"]["labels"] |= {UID_LABEL: UID}
    body = api.add(resource, body)
    return api, reconciling(api), body


KINDS = pytest.mark.parametrize(("make", "resource"), [(pod, PODS), (job, JOBS)], ids=["pod", "job"])


@KINDS
def test_an_object_that_gets_its_label_back_is_seen_again(make: Callable[[], Body], resource: Any) -> None:
    api, reconciler, body = scene(make, resource)
    back = unlabelled(api, reconciler, resource, body)
    name = back["metadata"]["name"]
    assert (
        reconciler.view.ingest(resource, {**body, "metadata": {**body["metadata"], "resourceVersion": "499"}}) is None
    )
    assert reconciler.cache.count(resource) == 0
    assert reconciler.view.ingest(resource, back) == KEY
    assert reconciler.cache.version(resource, "team", name, "labelled") == 501


@KINDS
def test_an_object_that_gets_its_label_back_is_no_restored_backup(
    make: Callable[[], Body], resource: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resync, "PATIENCE", 0.05)
    api, reconciler, body = scene(make, resource)
    unlabelled(api, reconciler, resource, body)
    woken: list[ObjectKey] = []
    try:
        asyncio.run(Resync(api, reconciler.view, woken.append, ("team",)).compare(resource))
    except WentBackError:
        pytest.fail("whoever may label a pod ends the operator of all")
    assert woken == [KEY]
    assert reconciler.cache.count(resource) == 1


def test_a_label_that_changes_again_and_again_leaves_nothing_behind() -> None:
    cache = Cache()
    for number in range(100):
        cache.put(PODS, labelled(number + 1, labels={UID_LABEL: f"uid-{number}"}))
    assert len(cache.owned._shelves) == 1


def test_what_labels_say_is_shared_and_not_kept_for_ever() -> None:
    cache = Cache()
    for number in range(2):
        named = {"name": f"p{number}", "uid": f"p{number}", "labels": {JOB_LABEL: "a-job-of-some-name"}}
        cache.put(PODS, labelled(number + 1, **named))
    one, two = (held.value for held in cache.owned._shelves["evil", UID]["Pod"].values())
    assert one.job is two.job
    assert shared.cache_info().maxsize == 8192, "Python 3.12 never forgets what sys.intern was given"
    assert "intern(" not in inspect.getsource(bodies) + inspect.getsource(pods) + inspect.getsource(ownership)
