"""What an API server refuses before anything is stored: the admission policies and the CRD's rules, by CEL.

etcd and kube-apiserver are real; the operator isn't there at all.
"""

import copy
import json
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import yaml

from admission_cases import (
    BAD,
    BAD_OPTIONS,
    BAD_URLS,
    GOOD,
    GOOD_OPTIONS,
    GOOD_URLS,
    PROFILE,
    SECRET,
    Template,
    env,
    worker,
)
from cluster.controlplane import ControlPlane, api_server
from cluster.places import TREE
from cluster.processes import until
from dcp_operator.api.bounds import LEVELS
from dcp_operator.api.pod.refused_job import explained
from dcp_operator.controllers.checkpoint.actions import CreateAttempt
from dcp_operator.kube.client.api import JOBS
from dcp_operator.kube.kinds.checkpoint import CHECKPOINT
from dcp_operator.objects.job import Builder
from scenes import checkpoint, manifest
from target_cases import JUDGED_BY_THE_OPERATOR, REFUSED, TAKEN, TARGETED

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(300)]

COLLECTION = "/apis/dcp-operator.io/v1alpha1/namespaces/default/checkpoints"
TEMPLATE = "spec.workers.podTemplate"
EVERYTHING = {**BAD, **PROFILE}


@dataclass
class Api:
    """The API server, asked without kubectl: some hundred objects are tried."""

    plane: ControlPlane

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        config = json.loads(self.plane.kubeconfig().read_text())
        headers = {"Authorization": f"Bearer {config['users'][0]['user']['token']}", "Content-Type": "application/json"}
        context = ssl.create_default_context(cafile=str(self.plane.certificate))
        connection = HTTPSConnection(self.plane.address, self.plane.port, timeout=30, context=context)
        try:
            connection.request(method, path, body and json.dumps(body), headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def tried(self, body: dict[str, Any]) -> str:
        """Return what the API server has against an object; nothing where it would take it."""
        status, answer = self("POST", f"{COLLECTION}?dryRun=All", body)
        return "" if status == HTTPStatus.CREATED else str(answer["message"])


def of(template: Template | None, **changes: Any) -> dict[str, Any]:
    body = manifest({TEMPLATE: template, **changes})
    for key in ("uid", "creationTimestamp", "namespace"):
        body["metadata"].pop(key, None)
    return body


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with api_server(controllers=False) as plane:
        plane.kubectl("apply", "-k", str(TREE / "manifests/api"))
        found = Api(plane)
        policies_hold(found)
        yield found


def policies_hold(api: Api) -> None:
    """Wait: a policy holds a moment after it was applied, and a kind is served a moment after its definition."""
    until(lambda: "hostNetwork" in api.tried(of({"spec": {"hostNetwork": True}})), "the restricted policy")
    until(lambda: "plain text" in api.tried(of(env("AWS_SECRET_ACCESS_KEY", SECRET))), "the policy of pods")


def test_what_is_asked_for_in_the_examples_is_taken(api: Api) -> None:
    assert api.tried(of(None)) == ""


@pytest.mark.adversary
@pytest.mark.parametrize(("template", "said"), EVERYTHING.values(), ids=EVERYTHING)
def test_what_the_operator_refuses_is_refused_before_it_is_stored(api: Api, template: Template, said: str) -> None:
    message = api.tried(of(template))
    assert "denied request: spec.workers.podTemplate" in message, message
    assert said in message
    assert SECRET not in message


@pytest.mark.parametrize("template", GOOD.values(), ids=GOOD)
def test_what_the_operator_takes_is_taken(api: Api, template: Template) -> None:
    assert api.tried(of(template)) == ""


@pytest.mark.adversary
@pytest.mark.parametrize("field", ["spec.workload.args", TEMPLATE])
def test_a_free_form_field_may_be_so_deep(api: Api, field: str) -> None:
    below = f"{field}.metadata.annotations"

    def nested(levels: int) -> Any:
        return json.loads('{"a": [' * (levels // 2) + "1" + "]}" * (levels // 2))

    assert api.tried(of({}, **{below: nested(LEVELS - 2)})) == ""
    for levels in (LEVELS, 100):
        assert f"{field}: is nested too deeply; write at most 32 levels" in api.tried(of({}, **{below: nested(levels)}))


def stored_at(url: str, options: dict[str, Any]) -> dict[str, Any]:
    mounted = worker(volumeMounts=[{"name": "v", "mountPath": "/data"}])
    return of(mounted, **{"spec.storage.url": url, "spec.storage.options": options})


@pytest.mark.adversary
@pytest.mark.parametrize(("url", "said"), BAD_URLS.values(), ids=BAD_URLS)
@pytest.mark.parametrize("field", ["spec.storage.url", "spec.save.from.url", "spec.save.from.torch"])
def test_urls_that_are_refused(api: Api, field: str, url: str, said: str) -> None:
    if field != "spec.storage.url" and "gone with the pod" in said:
        pytest.skip("what is read may lie in the image")
    body = stored_at(url, {}) if field == "spec.storage.url" else of(None, **{field: url})
    message = api.tried(body)
    assert field in message or "denied request: spec.storage.url" in message
    assert said in message


@pytest.mark.parametrize("given", [(), ("url", "torch"), ("safetensors", "torch")], ids=str)
def test_a_save_starts_from_one_thing(api: Api, given: tuple[str, ...]) -> None:
    source = dict.fromkeys(given, "s3://bucket/x")
    message = api.tried(of(None, **{"spec.save.from": source}))
    assert "spec.save.from: " in message
    assert "write exactly one of url, safetensors, torch" in message
    assert api.tried(of(None, **{"spec.save.from.safetensors": "s3://bucket/x"})) == ""


@pytest.mark.adversary
@pytest.mark.parametrize(("url", "options", "said"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_options_that_are_refused(api: Api, url: str, options: dict[str, Any], said: str) -> None:
    message = api.tried(stored_at(url, options))
    assert "spec.storage.options." in message
    assert said in message


@pytest.mark.parametrize("url", GOOD_URLS)
def test_urls_that_are_taken(api: Api, url: str) -> None:
    assert api.tried(stored_at(url, {})) == ""


@pytest.mark.parametrize(("url", "options"), GOOD_OPTIONS.values(), ids=GOOD_OPTIONS)
def test_options_that_are_taken(api: Api, url: str, options: dict[str, Any]) -> None:
    assert api.tried(stored_at(url, options)) == ""


@pytest.mark.parametrize("name", [name for name in REFUSED if name not in JUDGED_BY_THE_OPERATOR])
def test_what_a_training_has_of_its_own_is_refused(api: Api, name: str) -> None:
    changes, line = REFUSED[name]
    message = api.tried(of(None, **TARGETED | changes))
    assert line.partition(":")[0] in message or "spec.workload" in message, message


@pytest.mark.parametrize("name", TAKEN)
def test_what_may_be_said_of_a_target_is_taken(api: Api, name: str) -> None:
    assert api.tried(of(None, **TARGETED | TAKEN[name])) == ""


@pytest.mark.adversary
def test_a_large_template_can_be_judged(api: Api) -> None:
    sidecars = [
        {"name": f"c{at}", "image": "i", "env": [{"name": f"N{n}", "value": "x" * 50} for n in range(250)]}
        for at in range(20)
    ]
    template = {"spec": {"containers": [*worker()["spec"]["containers"], *sidecars]}}
    assert api.tried(of(template)) == ""
    sidecars[-1]["env"] = [*sidecars[-1]["env"], {"name": "HF_TOKEN", "value": SECRET}]
    assert "holds a secret in plain text" in api.tried(of(template))


@pytest.mark.parametrize("name", ["one-node", "two-nodes-s3", "cuda-template-rerun", "queued-probe"])
def test_what_the_operator_makes_has_no_field_that_kubernetes_does_not_know(api: Api, name: str) -> None:
    for each in yaml.safe_load_all((TREE / f"tests/golden/{name}.yaml").read_text()):
        where = CHECKPOINT.resources[each["kind"]].path("default")
        body = {**each, "metadata": {**each["metadata"], "namespace": "default"}}
        status, answer = api("POST", f"{where}?dryRun=All&fieldValidation=Strict", body)
        assert status == HTTPStatus.CREATED, answer


@pytest.mark.adversary
def test_a_typo_is_told_where_it_was_written(api: Api) -> None:
    template: dict[str, Any] = {"spec": {"nodeselector": {}, "containers": [{"name": "worker", "resource": {}}]}}
    made = checkpoint({TEMPLATE: template, "metadata.namespace": "default"})
    action = CreateAttempt(job_name=made.job_name(1), attempt=1, task=made.task(1), suspend=False)
    job = Builder(image="w").objects(made, action)[-1]
    status, answer = api("POST", f"{JOBS.path('default')}?dryRun=All&fieldValidation=Strict", job)
    assert status == HTTPStatus.BAD_REQUEST
    assert sorted(explained(answer["message"], job, template), reverse=True) == [
        f"{TEMPLATE}.spec.nodeselector: unknown field; did you mean nodeSelector?",
        f"{TEMPLATE}.spec.containers[0].resource: unknown field; did you mean resources?",
    ]


@pytest.fixture
def load(api: Api) -> Iterator[dict[str, Any]]:
    body = of(None, **{"spec.operation": "Load", "spec.load": {"include": []}, "spec.suspend": True})
    status, made = api("POST", COLLECTION, body)
    assert status == HTTPStatus.CREATED, made
    yield made
    api("DELETE", f"{COLLECTION}/{made['metadata']['name']}")


def put(api: Api, body: dict[str, Any]) -> str:
    status, answer = api("PUT", f"{COLLECTION}/{body['metadata']['name']}?dryRun=All", body)
    return "" if status == HTTPStatus.OK else str(answer["message"])


IMMUTABLE = (
    "is immutable; apply another Checkpoint under another name, or delete this one first: its data stays "
    "(deletionPolicy: Retain)"
)


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("path", "value", "field", "says"),
    [
        (("storage", "url"), "s3://b/other", "spec.storage.url: Forbidden: ", IMMUTABLE),
        (("operation",), "Save", "spec.operation: Forbidden: ", IMMUTABLE),
        (("load", "include"), ["model.*"], "spec.load.include: Forbidden: ", IMMUTABLE),
        (("load",), None, "spec.load: Forbidden: ", "can't be added or removed; apply another"),
        (("workload",), None, "spec.workload: Forbidden: ", "can't be added or removed; apply another"),
        (("workload", "args"), {"a": 1}, "spec.workload.args: Forbidden: ", "can't be added or removed"),
        (("workers", "gpuResource"), "amd.com/gpu", "spec.workers.gpuResource: Forbidden: ", IMMUTABLE),
        (("storage", "caSecretRef"), {"name": "ca"}, "spec.storage.caSecretRef: Forbidden: ", IMMUTABLE),
        (("storage", "options"), {"region": "x"}, "spec.storage.options: Forbidden: ", IMMUTABLE),
    ],
    ids=lambda each: ".".join(each) if isinstance(each, tuple) else "",
)
def test_what_may_not_change_is_named_once(
    api: Api, load: dict[str, Any], path: tuple[str, ...], value: Any, field: str, says: str
) -> None:
    at = load["spec"]
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    if value is None:
        del at[path[-1]]
    message = put(api, load)
    assert f"{field}{says}" in message


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("retries", 5),
        ("timeouts", {"startSeconds": 86400}),
        ("load", {}),
        ("suspend", False),
        ("ttlSecondsAfterFinished", -1),
        ("ttlSecondsAfterFinished", 0),
        ("runId", "2"),
    ],
)
def test_what_may_change(api: Api, load: dict[str, Any], field: str, value: Any) -> None:
    load["spec"][field] = value
    assert put(api, load) == ""


def kustomized(plane: ControlPlane, folder: Path, component: str) -> list[dict[str, Any]]:
    def below(path: str) -> str:
        return f"{'../' * len(folder.parts[1:])}{str(TREE / path).lstrip('/')}"

    made = {"resources": [below("manifests")], "components": [below(f"manifests/options/{component}")]}
    (folder / "kustomization.yaml").write_text(json.dumps(made))
    return list(yaml.safe_load_all(plane.kubectl("kustomize", str(folder))))


def named(found: list[dict[str, Any]], kind: str) -> list[str]:
    return sorted(each["metadata"]["name"] for each in found if each["kind"] == kind)


def the_operator(found: list[dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = next(each for each in found if each["kind"] == "Deployment")["spec"]["template"]["spec"]
    return spec


@pytest.mark.adversary
def test_a_namespace_may_judge(api: Api, tmp_path: Path) -> None:
    found = kustomized(api.plane, tmp_path, "pod-security-namespace")
    names = (
        "checkpoints-operator",
        "checkpoints-pods",
        "checkpoints-read-only",
        "checkpoints-shallow",
        "checkpoints-still",
        "checkpointseries-pods",
    )
    left = [f"{name}.dcp-operator.io" for name in (*names, "checkpointseries-shallow")]
    assert named(found, "ValidatingAdmissionPolicy") == named(found, "ValidatingAdmissionPolicyBinding") == left
    environment = the_operator(found)["containers"][0]["env"]
    assert {"name": "DCP_POD_SECURITY", "value": "namespace"} in environment
    assert "DCP_WORKER_IMAGE" in [each["name"] for each in environment]


@pytest.mark.adversary
def test_openshift_chooses_the_users(api: Api, tmp_path: Path) -> None:
    spec = the_operator(kustomized(api.plane, tmp_path, "openshift"))
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert {"name": "DCP_WORKER_UID", "value": "none"} in spec["containers"][0]["env"]


@pytest.mark.adversary
def test_what_was_stored_before_a_stricter_policy_can_be_suspended_and_labelled(api: Api) -> None:
    policies = ["checkpoints-pods.dcp-operator.io", "checkpoints-restricted.dcp-operator.io"]
    bindings = [f"validatingadmissionpolicybinding/{name}" for name in policies]
    kept = [api.plane.kubectl.get(name) for name in bindings]
    api.plane.kubectl("delete", *bindings)
    body = of({"spec": {"hostNetwork": True, "hostname": "x"}})
    body["metadata"]["name"] = "stored"
    until(lambda: api.tried(body) == "", "the end of the policies")
    api("POST", COLLECTION, body)
    api.plane.kubectl.apply([{**each, "metadata": {"name": each["metadata"]["name"]}} for each in kept])
    policies_hold(api)
    _, stored = api("GET", f"{COLLECTION}/stored")
    stored["spec"]["suspend"] = True
    stored["metadata"]["labels"] = {"team": "ml"}
    status, answer = api("PUT", f"{COLLECTION}/stored", stored)
    assert status == HTTPStatus.OK, answer
    changed = copy.deepcopy(answer)
    changed["spec"]["workers"]["podTemplate"]["spec"]["hostPID"] = True
    status, answer = api("PUT", f"{COLLECTION}/stored", changed)
    assert status != HTTPStatus.OK
    assert "spec.workers.podTemplate" in answer["message"]
