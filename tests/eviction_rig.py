"""A channel that the API server asks about evictions; a pod trains, and a series has it save before a disruption."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

from channel_rig import FakeAgent, Rig, TokenApi, run
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import disruption_name
from dcp_operator.kube.channel.admission_review import EVICTION_PATH
from dcp_operator.kube.channel.evictions import Evictions
from dcp_operator.kube.client.api import CHECKPOINTS, PODS, SERIES
from scenes import NOW, stamp
from series_scenes import TARGET, series_manifest

NAME: Final = disruption_name("run", "uid-run", "")
LABELS: Final = {"batch.kubernetes.io/job-name": "train"}


def put_series(api: TokenApi, name: str = "run", namespace: str = "team", **changes: Any) -> None:
    body = series_manifest({**TARGET, "spec.onDisruption": {"hold": "10m"}, **changes})
    body["metadata"] = {"name": name, "namespace": namespace}
    api.add(SERIES, body)


def train(api: TokenApi, name: str = "train-0", **pod: Any) -> None:
    """Have a pod train that was created an hour ago."""
    metadata = {"name": name, "namespace": "team", "labels": LABELS, "creationTimestamp": ago(3600)}
    api.add(PODS, {"metadata": metadata, "spec": {}, "status": {"phase": "Running"}, **pod})


def ago(seconds: float) -> str:
    """Return a time before that at which the fake API server creates everything, which is now."""
    return stamp(-seconds)


def put_disruption(api: TokenApi, begun: float = 0, **status: Any) -> None:
    """Have the Save of a disruption be there, which the operator has made."""
    owner = {"apiVersion": SERIES.api_version, "kind": SERIES.kind, "name": "run", "uid": "uid-run", "controller": True}
    labels = {"dcp-operator.io/series": "run", "dcp-operator.io/disruption": "true"}
    metadata = {"name": NAME, "namespace": "team", "labels": labels, "ownerReferences": [owner]}
    metadata |= {"creationTimestamp": ago(begun), "annotations": {"dcp-operator.io/evicted-pod": "uid-train-0"}}
    api.add(CHECKPOINTS, {"metadata": metadata, "spec": {}, "status": {"runId": "", **status}})


def review(pod: str = "train-0", namespace: str = "team", **changes: Any) -> Body:
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "policy", "version": "v1", "kind": "Eviction"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "subResource": "eviction",
        "name": pod,
        "namespace": namespace,
        "operation": "CREATE",
        "userInfo": {"username": "admin", "groups": ["system:masters"]},
        "object": {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}},
        "dryRun": False,
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request | changes}


async def asked(rig: Rig, of: Body) -> Body:
    """Return the response to a question, on a connection of its own."""
    async with FakeAgent(rig.port, rig.trusting(), "") as client:
        answer = await client.post_to(EVICTION_PATH, json.dumps(of).encode())
    assert answer.status == 200, answer.body
    # A connection that is closed while the API server sends its next question would let that eviction through.
    assert answer.headers["connection"] == "close"
    found: Body = json.loads(answer.body)
    assert (found["apiVersion"], found["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: Body = found["response"]
    assert response["uid"] == of["request"]["uid"]
    return response


def checkpoints(api: TokenApi) -> list[str]:
    return api.names(CHECKPOINTS)


def is_held(response: Body) -> bool:
    held = response["allowed"] is False
    if held:
        assert (response["status"]["code"], response["status"]["reason"]) == (429, "TooManyRequests")
        assert "\n" not in response["status"]["message"]
    return held


def held_by_a_series(test: Callable[[Rig], Awaitable[None]], **changes: Any) -> None:
    """Run a test where a pod trains and a series has it save before a disruption."""

    async def begun(rig: Rig) -> None:
        train(rig.api)
        put_series(rig.api, **changes)
        rig.channel.evictions = Evictions(rig.api, now=lambda: NOW, patience=0.15, fresh=0.0)
        rig.api.writes()
        await test(rig)

    run(begun)
