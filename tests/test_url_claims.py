"""Two on one URL: in one namespace the later Save or Delete waits, across namespaces the store decides."""

import asyncio
import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from dcp_contract.checkpoint_info import Conflict, Origin
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure, Report
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.api.json_types import Body
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import LOCAL
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, ObjectKey
from fake_api import FakeApi, put_pod, reconciling, seen, status
from scenes import (
    NOW,
    RUNNING,
    URL,
    after_first_attempt,
    at,
    attempt,
    checkpoint,
    created,
    decided,
    ended,
    failed,
    manifest,
    message,
    phase,
    running,
    stamp,
)

if TYPE_CHECKING:
    from dcp_operator.kube.loop.checkpoint import CheckpointReconciler

OPTIONS, SECRET, TEMPLATE = "spec.storage.options", "spec.storage.credentialsSecretRef", "spec.workers.podTemplate"


def place(url: str, **changes: Any) -> str:
    return parse(manifest({"spec.storage.url": url, **changes}), site=LOCAL).place


def env(**values: Any) -> Body:
    container = {"name": "worker", "env": [{"name": name, "value": value} for name, value in values.items()]}
    return {TEMPLATE: {"spec": {"containers": [container]}}}


def volume(name: str, mount: str, source: Body, **more: Any) -> Body:
    container = {"name": "worker", "volumeMounts": [{"name": name, "mountPath": mount, **more}]}
    return {TEMPLATE: {"spec": {"volumes": [{"name": name, **source}], "containers": [container]}}}


def claim(name: str, **more: Any) -> Body:
    return {"persistentVolumeClaim": {"claimName": name, **more}}


SAME: dict[str, tuple[str, str]] = {
    "slashes": (place("s3://b/x"), place("s3://b//x/")),
    "dots": (place("s3://b/x"), place("s3://b/./x")),
    "default port, case": (
        place("s3://b/x", **{OPTIONS: {"endpointUrl": "http://H:80"}}),
        place("s3://b/x", **{OPTIONS: {"endpointUrl": "http://h/"}}),
    ),
    "az and abfs": (place("az://c/x"), place("abfs://c/x")),
    "account by option or by environment": (
        place("az://c/x", **{OPTIONS: {"accountName": "one"}}),
        place("az://c/x", **env(AZURE_STORAGE_ACCOUNT_NAME="one")),
    ),
    "endpoint by option or by environment": (
        place("s3://b/x", **{OPTIONS: {"endpointUrl": "http://minio:9000"}}),
        place("s3://b/x", **env(AWS_ENDPOINT_URL="http://minio:9000")),
    ),
    "environment that says nothing of a store": (place("s3://b/x"), place("s3://b/x", **env(SEED="1"))),
    "one claim, two volume names": (
        place("file:///d/x", **volume("one", "/d", claim("data"))),
        place("file:///d/x", **volume("two", "/d", claim("data", readOnly=False))),
    ),
    "one claim, mounted elsewhere": (
        place("file:///d/x", **volume("one", "/d", claim("data"))),
        place("file:///mnt/e/x", **volume("one", "/mnt/e/", claim("data"))),
    ),
    "one claim, part of the path as subPath": (
        place("file:///d/x/y", **volume("one", "/d", claim("data"))),
        place("file:///d/y", **volume("one", "/d", claim("data"), subPath="x")),
    ),
}
OTHER: dict[str, tuple[str, str]] = {
    "path": (place("s3://b/x"), place("s3://b/X")),
    "bucket": (place("s3://b/x"), place("s3://c/x")),
    "protocol": (place("s3://b/x"), place("gs://b/x")),
    "endpoint": (place("s3://b/x"), place("s3://b/x", **{OPTIONS: {"endpointUrl": "http://h"}})),
    "O S1-2: endpoint in the environment": (
        place("s3://b/x", **env(AWS_ENDPOINT_URL="http://one")),
        place("s3://b/x", **env(AWS_ENDPOINT_URL="http://two")),
    ),
    "S3's own endpoint before the general one": (
        place("s3://b/x", **env(AWS_ENDPOINT_URL="http://one")),
        place("s3://b/x", **env(AWS_ENDPOINT_URL="http://one", AWS_ENDPOINT_URL_S3="http://two")),
    ),
    "O S1-2: account": (
        place("az://c/x", **{OPTIONS: {"accountName": "one"}}),
        place("az://c/x", **{OPTIONS: {"accountName": "two"}}),
    ),
    "account in the URL": (place("abfs://c@one/x"), place("abfs://c@two/x")),
    "O S1-2: account in the Secret": (
        place("az://c/x", **{SECRET: {"name": "one"}}),
        place("az://c/x", **{SECRET: {"name": "two"}}),
    ),
    "credentials in the environment": (
        place("s3://b/x", **env(AWS_PROFILE="one")),
        place("s3://b/x", **env(AWS_PROFILE="two")),
    ),
    "claim": (
        place("file:///d/x", **volume("v", "/d", claim("one"))),
        place("file:///d/x", **volume("v", "/d", claim("two"))),
    ),
    "subPath": (
        place("file:///d/x", **volume("v", "/d", claim("one"), subPath="a")),
        place("file:///d/x", **volume("v", "/d", claim("one"), subPath="b")),
    ),
    "a volume of each pod's own": (
        place("file:///d/x", **volume("v", "/d", {"emptyDir": {}})),
        place("file:///d/x", **volume("v", "/d", {"emptyDir": {}}), **{"metadata.uid": "u"}),
    ),
    "a driver's volume": (
        place("file:///d/x", **volume("v", "/d", {"csi": {"driver": "one"}})),
        place("file:///d/x", **volume("v", "/d", {"csi": {"driver": "two"}})),
    ),
    "memory": (
        place("memory://x", **{"spec.workers": {}}),
        place("memory://x", **{"spec.workers": {}, "metadata.uid": "u"}),
    ),
}


@pytest.mark.parametrize(("one", "two"), SAME.values(), ids=SAME)
def test_two_spellings_of_one_place(one: str, two: str) -> None:
    assert one == two


@pytest.mark.adversary
@pytest.mark.parametrize(("one", "two"), OTHER.values(), ids=OTHER)
def test_two_places(one: str, two: str) -> None:
    assert one != two


def claimed(name: str, uid: str = "0", seconds: float = 0, status: Status | None = None, **spec: Any) -> UrlClaim:
    changes = {f"spec.{key}": value for key, value in spec.items()}
    other = checkpoint({"metadata.name": name, "metadata.uid": uid, **changes})
    made = UrlClaim.of(replace(other, created=at(seconds)), status or Status())
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("other", "waits"),
    [
        pytest.param(claimed("older", seconds=-1), True, id="older"),
        pytest.param(claimed("younger", seconds=1), False, id="younger"),
        pytest.param(claimed("twin", uid="0"), True, id="as old, smaller uid"),
        pytest.param(claimed("twin", uid="z"), False, id="as old, larger uid"),
        pytest.param(claimed("begun", seconds=1, status=Status(attempts=1)), True, id="younger, but under way"),
        pytest.param(claimed("stopping", seconds=1, suspend=True), True, id="younger, its pods are ending"),
        pytest.param(claimed("spelt", seconds=-1, storage={"url": URL + "/"}), True, id="other spelling"),
        pytest.param(claimed("else", seconds=-1, storage={"url": URL + "0"}), False, id="other place"),
    ],
)
def test_a_save_waits_for_another_and_is_not_refused(other: UrlClaim, *, waits: bool) -> None:
    found = decided(rivals=(other,))
    assert phase(found) == (("Pending", "UrlInUse") if waits else ("Starting", None))
    assert bool(created(found)) is not waits
    if waits:
        assert f"Checkpoint {other.name} " in message(found)
        assert f"the same URL ({URL})" in message(found)
        assert "ifExists" not in message(found)
        assert found.wake_at is not None
        assert found.wake_at <= at(60)
        assert not {"completionTime", "conflict", "failure"} & found.status.keys()
        again = decided(rivals=(other,), status=found.status, now=at(86_400 * 30))
        assert again.status == found.status
        assert created(decided(status=found.status, now=at(86_400 * 30))) == [(1, False)]


def test_of_any_two_that_are_live_exactly_one_goes() -> None:
    """So nobody waits in a circle, and the one that waits has its turn."""
    states = itertools.product((0, 1), (0, 1), (False, True))
    made = [
        claimed(f"c{index}", str(index), seconds, Status(attempts=begun), suspend=suspend)
        for index, (begun, seconds, suspend) in enumerate(states)
    ]
    for one in made:
        for two in made:
            assert one.uid == two.uid or (one.order < two.order) is not (two.order < one.order)


def test_an_attempt_that_is_under_way_goes_on_and_the_next_waits_its_turn() -> None:
    older = claimed("older", seconds=-1, status=Status(attempts=1))
    assert phase(decided(attempt(running(0), running(1)), rivals=(older,)))[0] == "Running"
    lost = after_first_attempt(ended(0, failed()), ended(1, failed(rank=1))).status
    assert phase(decided(status=lost, now=at(99), rivals=(older,))) == ("Pending", "UrlInUse")
    begun_later = replace(older, created=at(1))
    assert phase(decided(status=lost, now=at(99), rivals=(begun_later,)))[0] == "Starting"


# Whole reconciles: who is woken, and when.


def save(name: str, namespace: str = "team", seconds: float = 0, **changes: Any) -> Body:
    spec = {f"spec.{key}": value for key, value in changes.items()}
    metadata = {"metadata.name": name, "metadata.namespace": namespace, "metadata.creationTimestamp": stamp(seconds)}
    body = manifest({**metadata, **spec})
    body["metadata"]["uid"] = f"uid-{namespace}-{name}"
    body["spec"]["workers"] = {"device": "cpu"}
    return body


def keyed(name: str, namespace: str = "team") -> ObjectKey:
    return CHECKPOINTS.key(namespace, name)


class Scene:
    """An operator and its API server, with the Saves `first` and `second` on one URL."""

    def __init__(self, **first: Any) -> None:
        self.api = FakeApi()
        self.woken: list[ObjectKey] = []
        self.api.add(CHECKPOINTS, save("first", **first))
        self.api.add(CHECKPOINTS, save("second", seconds=1))
        self.reconciler: CheckpointReconciler = reconciling(self.api)
        self.reconciler.live_claims.wake = self.woken.append
        self.look("first", "second")

    def look(self, *names: str) -> None:
        for name in names:
            asyncio.run(self.reconciler(keyed(name)))
            seen(self.api, self.reconciler)

    def state(self, name: str) -> tuple[str, str | None]:
        found = status(self.api, keyed(name))
        return found["phase"], found.get("reason")

    def change(self, name: str, **changes: Any) -> None:
        path = CHECKPOINTS.path("team", name)
        there = self.api.objects[path]
        metadata = there["metadata"] | {"generation": there["metadata"]["generation"] + 1} | changes.pop("metadata", {})
        self.api.add(CHECKPOINTS, {**there, "metadata": metadata, **changes})
        seen(self.api, self.reconciler)

    def pod(self, phase_: str, report: Report | None = None) -> None:
        """Have the pod of `first` in this phase."""
        state: Body = {"running": {"startedAt": stamp(0)}}
        if report is not None:
            state = {"terminated": {"exitCode": 1, "finishedAt": stamp(0), "startedAt": stamp(0)}}
            state["terminated"]["message"] = report.encode()
        put_pod(self.api, phase_, state)
        seen(self.api, self.reconciler)

    def remove(self, kind: str) -> None:
        """Have everything of a kind gone that belongs to `first`."""
        for path, each in list(self.api.objects.items()):
            if each["kind"] == kind and (kind != "Checkpoint" or each["metadata"]["name"] == "first"):
                del self.api.objects[path]
        seen(self.api, self.reconciler)


@pytest.mark.adversary
def test_the_later_save_waits_and_is_woken_when_the_first_has_ended() -> None:
    scene = Scene()
    assert (scene.state("first")[0], scene.state("second")) == ("Starting", ("Pending", "UrlInUse"))
    scene.pod("Running")
    scene.look("first")
    assert scene.woken == []
    scene.pod("Failed", failed(Reason.STORAGE_FULL))
    scene.look("first")
    assert scene.state("first") == ("Failed", "StorageFull")
    assert scene.woken[-1] == keyed("second")
    scene.look("second")
    assert scene.state("second")[0] == "Starting"


@pytest.mark.adversary
def test_a_squatter_holds_up_nobody_after_it_is_gone() -> None:
    """O S1-2: it waits for a queue that never admits it, for ever."""
    scene = Scene(storage={"url": URL})
    assert scene.state("second") == ("Pending", "UrlInUse")
    assert "Checkpoint first is saving" in status(scene.api, keyed("second"))["conditions"][0]["message"]
    scene.remove("Checkpoint")
    scene.remove("Job")
    scene.look("second")
    assert scene.state("second")[0] == "Starting"


@pytest.mark.adversary
@pytest.mark.parametrize("how", ["deleted", "suspended", "terminating"])
def test_a_claim_is_kept_until_the_pods_are_gone(how: str) -> None:
    """O S3-5 and its kind: whatever ends a Save, its pods may still commit until they have stopped."""
    scene = Scene()
    scene.pod("Running")
    scene.look("first")
    if how == "deleted":
        scene.remove("Checkpoint")
        scene.remove("Job")
    elif how == "suspended":
        spec = scene.api.objects[CHECKPOINTS.path("team", "first")]["spec"]
        scene.change("first", spec=spec | {"suspend": True})
        scene.look("first", "first")
    else:
        scene.change("first", metadata={"deletionTimestamp": stamp(0), "finalizers": ["example.com/keep"]})
        scene.look("first", "first")
    assert [each["kind"] for each in scene.api.objects.values() if each["kind"] == "Job"] == []
    assert keyed("second") in scene.woken
    scene.look("second")
    assert scene.state("second") == ("Pending", "UrlInUse")
    assert "pods of Checkpoint first still run" in status(scene.api, keyed("second"))["conditions"][0]["message"]
    scene.remove("Pod")
    scene.look("second")
    assert scene.state("second")[0] == "Starting"


def test_a_suspended_one_that_is_resumed_waits_its_turn() -> None:
    scene = Scene(suspend=True)
    assert (scene.state("first")[0], scene.state("second")[0]) == ("Suspended", "Starting")
    spec = scene.api.objects[CHECKPOINTS.path("team", "first")]["spec"]
    scene.change("first", spec=spec | {"suspend": False})
    scene.look("first")
    assert scene.state("first") == ("Pending", "UrlInUse")


def test_an_attempt_that_no_status_tells_of_yet_is_under_way() -> None:
    """In a burst the Job comes first: an older Save that is resumed in between must not be taken for the next."""
    api = FakeApi()
    for body in (save("first", suspend=True), save("second", seconds=1)):
        api.add(CHECKPOINTS, body)
    reconciler = reconciling(api)
    reconciler.context.busy = lambda: True
    asyncio.run(reconciler(keyed("second")))
    assert "phase" not in status(api, keyed("second"))
    resumed = save("first")
    resumed["metadata"]["generation"] = 2
    api.add(CHECKPOINTS, resumed)
    seen(api, reconciler)
    asyncio.run(reconciler(keyed("first")))
    assert status(api, keyed("first"))["reason"] == "UrlInUse"


@pytest.mark.adversary
def test_across_namespaces_the_store_decides() -> None:
    """O S1-2: a Save in another namespace holds up nobody, and is named nowhere."""
    api = FakeApi()
    api.add(CHECKPOINTS, save("squat", "evil"))
    api.add(CHECKPOINTS, save("nightly", "prod", seconds=1))
    reconciler = reconciling(api)
    for key in (keyed("squat", "evil"), keyed("nightly", "prod")):
        asyncio.run(reconciler(key))
        assert status(api, key)["phase"] == "Starting"
    assert "evil" not in str(status(api, keyed("nightly", "prod")))
    assert len(api.names(JOBS)) == 2


def test_a_claim_of_one_that_is_gone_is_not_kept_for_ever() -> None:
    scene = Scene()
    scene.pod("Running")
    scene.remove("Checkpoint")
    assert len(scene.reconciler.live_claims._claims) == 2
    for kind in ("Job", "Pod"):
        scene.remove(kind)
    for name in ("a", "b"):
        scene.api.add(CHECKPOINTS, save(name, storage={"url": f"s3://elsewhere/{name}"}))
        seen(scene.api, scene.reconciler)
        del scene.api.objects[CHECKPOINTS.path("team", name)]
        seen(scene.api, scene.reconciler)
    assert list(scene.reconciler.live_claims._claims) == ["uid-team-second"]


def test_a_spec_that_can_not_be_parsed_claims_nothing() -> None:
    scene = Scene(storage={"url": "s3a://bucket/a"})
    assert isinstance(scene.reconciler.cache.served.parsed(keyed("first")), SpecError)
    assert scene.state("second")[0] == "Starting"


FOREIGN = Origin(namespace="prod", name="nightly", uid="1234-abcd", run_id="7")
TOLD = f"Checkpoint already exists at {URL}: save s0 by {FOREIGN} on 2026-11-24 07:00:00 UTC. Set overwrite."


@pytest.mark.adversary
@pytest.mark.parametrize(
    "report",
    [
        pytest.param(
            Report(conflict=Conflict(save_id="s0", origin=FOREIGN, created_time=NOW, message=TOLD)), id="whole"
        ),
        pytest.param(Report(conflict=Conflict(save_id="s0", origin=FOREIGN, created_time=NOW)), id="no message"),
        pytest.param(
            Report(conflict=Conflict(save_id="s0", origin=FOREIGN, message="save s0 by prod/nightly")), id="other words"
        ),
        pytest.param(
            Report(failures=[RankFailure(rank=0, reason=Reason.OVERWRITE_CONFLICT, message=TOLD, traceback=TOLD)]),
            id="a rank's words alone",
        ),
        pytest.param(
            Report(failures=[RankFailure(rank=0, reason=Reason.RANK_FAILED, message=TOLD[:110], traceback=TOLD)]),
            id="in another failure, cut",
        ),
        pytest.param(Report(conflict=Conflict(message=TOLD), warnings=[TOLD]), id="in a warning"),
    ],
)
def test_no_status_names_an_object_of_another_namespace(report: Report) -> None:
    """O S1-2: what the store's manifest says of it stays in the store."""
    found = after_first_attempt(ended(0, report), ended(1))
    said = str([found.status, found.events])
    assert "prod" not in said
    assert "nightly" not in said
    assert "1234-abcd" not in said
    assert "a Checkpoint of another namespace" in said
    assert "s0" in said


def test_who_holds_it_in_ones_own_namespace_is_named() -> None:
    origin = FOREIGN.model_copy(update={"namespace": "team"})
    told = TOLD.replace("prod/", "team/")
    found = after_first_attempt(
        ended(0, Report(conflict=Conflict(save_id="s0", origin=origin, message=told))), ended(1)
    )
    assert phase(found) == ("Conflict", "OverwriteConflict")
    assert "Checkpoint team/nightly (uid 1234-abcd" in message(found)
    assert found.status["conflict"]["origin"]["name"] == "nightly"


def test_overwrite_is_no_advice_to_one_that_overwrites() -> None:
    of = checkpoint({"spec.save.ifExists": "Replace"})
    found = decided(attempt(ended(0, Report(conflict=Conflict(save_id="s0"))), ended(1), of=of), of=of, status=RUNNING)
    assert phase(found) == ("Conflict", "OverwriteConflict")
    assert message(found).endswith("To replace it, change spec.runId to run again.")
