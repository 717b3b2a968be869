"""Typos in a podTemplate: none is dropped in silence, and each is named where its author wrote it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from admission_cases import GOOD
from dcp_operator.api.pod.fields import unknown_fields, wrong_types
from dcp_operator.api.pod.refused_job import explained
from dcp_operator.api.pod.rules import PodSecurity
from dcp_operator.api.site import Site
from dcp_operator.cli.app import app
from dcp_operator.controllers.checkpoint.actions import CreateAttempt
from dcp_operator.kube.client.api import CHECKPOINTS, ApiRequest, RefusedError
from dcp_operator.objects.job import Builder
from fake_api import FakeApi, reconciling, status
from scenes import checkpoint, manifest

FIELD = "spec.workers.podTemplate"
TEMPLATE: dict[str, Any] = {
    "spec": {
        "nodeselector": {"gpu": "h100"},
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimNam": "data"}}],
        "containers": [
            {"name": "log", "image": "Log:1", "imagepullpolicy": "Always"},
            {
                "name": "worker",
                "resource": {"limits": {"nvidia.com/gpu": 8}},
                "env": [{"name": "A", "valueFrom": {"secretKeyRf": {}}}],
                "volumeMounts": [{"name": "data", "mountPath": "/data", "readonly": True}],
            },
        ],
    }
}
TYPOS = {
    "spec.nodeselector": "did you mean nodeSelector?",
    "spec.volumes[0].persistentVolumeClaim.claimNam": "did you mean claimName?",
    "spec.containers[0].imagepullpolicy": "did you mean imagePullPolicy?",
    "spec.containers[1].resource": "did you mean resources?",
    "spec.containers[1].env[0].valueFrom.secretKeyRf": "did you mean secretKeyRef?",
    "spec.containers[1].volumeMounts[0].readonly": "did you mean readOnly?",
}


def job(template: dict[str, Any]) -> dict[str, Any]:
    of = checkpoint({FIELD: template})
    action = CreateAttempt(job_name=of.job_name(1), attempt=1, task=of.task(1), suspend=False)
    return Builder(image="w").objects(of, action)[-1]


@pytest.mark.adversary
def test_each_typo_is_named_with_what_was_meant() -> None:
    assert list(unknown_fields(TEMPLATE)) == [
        f"{FIELD}.{path}: unknown field; {meant}" for path, meant in TYPOS.items()
    ]


def test_what_kubernetes_knows_passes() -> None:
    template = {
        "metadata": {"labels": {"any": "thing"}, "annotations": {"at": "all"}},
        "spec": {
            "nodeSelector": {"any": "thing"},
            "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1}]}},
            "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "x"}],
            "containers": [
                {"name": "worker", "resources": {"limits": {"amd.com/gpu": 1}, "claims": [{"name": "gpu"}]}},
                {"name": "b", "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}},
            ],
            "volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {"storageClassName": "s"}}}}],
        },
    }
    assert list(unknown_fields(template)) == []


@pytest.mark.parametrize("template", [{}, {"spec": None}, {"spec": {"containers": None, "volumes": [None]}}])
def test_nothing_is_no_typo(template: dict[str, Any]) -> None:
    assert list(unknown_fields(template)) == []


LIST, MAPPINGS, MAPPING = "write a list", "write a list of mappings", "write a mapping"
SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "spec.nodeSelector": ({"nodeSelector": ["a"]}, MAPPING),
    "spec.affinity": ({"affinity": "any"}, MAPPING),
    "spec.imagePullSecrets": ({"imagePullSecrets": {"name": "x"}}, MAPPINGS),
    "spec.imagePullSecrets[0]": ({"imagePullSecrets": ["x"]}, MAPPING),
    "spec.volumes[0].projected.sources": ({"volumes": [{"name": "v", "projected": {"sources": {}}}]}, MAPPINGS),
    "spec.securityContext.supplementalGroups": ({"securityContext": {"supplementalGroups": 5}}, LIST),
    "spec.containers[0].ports": ({"containers": [{"name": "worker", "ports": {"containerPort": 80}}]}, MAPPINGS),
    "spec.containers[0].command": ({"containers": [{"name": "b", "command": "sleep 1"}]}, LIST),
    "spec.containers[0].securityContext.capabilities": (
        {"containers": [{"name": "worker", "securityContext": {"capabilities": ["ALL"]}}]},
        MAPPING,
    ),
}


@pytest.mark.adversary
@pytest.mark.parametrize("path", SHAPES)
def test_what_should_be_a_list_or_a_mapping_is_named(path: str) -> None:
    spec, wanted = SHAPES[path]
    assert list(wrong_types({"spec": spec})) == [f"{FIELD}.{path}: has the wrong type; {wanted}"]


def test_lists_and_mappings_in_their_places_pass() -> None:
    assert list(wrong_types(TEMPLATE)) == []
    for template in GOOD.values():
        assert list(wrong_types(template)) == []


@pytest.mark.adversary
def test_no_job_can_be_made_of_it_and_the_field_is_named() -> None:
    """It was "no Job can be made of it (AttributeError)", and no field was named."""
    path = "spec.containers[0].securityContext.capabilities"
    spec, wanted = SHAPES[path]
    api, key = FakeApi(), CHECKPOINTS.key("team", "save-1000")
    api.add(CHECKPOINTS, manifest({FIELD: {"spec": spec}}))
    reconciler = reconciling(api, Site(pod_security=PodSecurity.NAMESPACE))
    reconciler.builder = Builder(image="worker", security=PodSecurity.NAMESPACE)
    asyncio.run(reconciler(key))
    found = status(api, key)
    assert (found["phase"], found["reason"]) == ("Failed", "InvalidSpec")
    assert found["failure"]["message"] == f"{FIELD}.{path}: has the wrong type; {wanted}"


REFUSED = "The API server refuses the attempt's objects: "
STRICT = 'Job in version "v1" cannot be handled as a Job: strict decoding error: '


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("message", "lines"),
    [
        pytest.param(
            STRICT + 'unknown field "spec.template.spec.nodeselector", unknown field "spec.template.spec.containers[0].'
            'resource", unknown field "spec.template.spec.containers[1].imagepullpolicy"',
            [
                f"{FIELD}.spec.nodeselector: unknown field; did you mean nodeSelector?",
                f"{FIELD}.spec.containers[1].resource: unknown field; did you mean resources?",
                f"{FIELD}.spec.containers[0].imagepullpolicy: unknown field; did you mean imagePullPolicy?",
            ],
            id="O S2-5: places in the author's lists",
        ),
        pytest.param(
            STRICT + 'unknown field "spec.template.spec.volumes[2].persistentVolumeClaim.claimNam"',
            [f"{FIELD}.spec.volumes[0].persistentVolumeClaim.claimNam: unknown field; did you mean claimName?"],
            id="a volume behind ours",
        ),
        pytest.param(
            STRICT + 'unknown field "spec.template.spec.containers[0].env[5].valueFrom.secretKeyRf"',
            [f"{FIELD}.spec.containers[1].env[0].valueFrom.secretKeyRf: unknown field; did you mean secretKeyRef?"],
            id="a variable behind ours",
        ),
        pytest.param(
            'invalid: spec.template.spec.containers[1].image: Invalid value: "Log:1", spec.template.spec.priority: no',
            [f'{REFUSED}invalid: {FIELD}.spec.containers[0].image: Invalid value: "Log:1", {FIELD}.spec.priority: no'],
            id="a value",
        ),
        pytest.param(
            'Job.batch "x" is invalid: spec.template.spec.containers[0].image: Invalid value: " w"',
            [f'{REFUSED}Job.batch "x" is invalid: spec.workers.image: Invalid value: " w"'],
            id="the worker's image",
        ),
        pytest.param(
            "exceeded your patience",
            [f"{REFUSED}exceeded your patience"],
            id="words",
        ),
    ],
)
def test_an_answer_names_what_was_written(message: str, lines: list[str]) -> None:
    assert explained(message, job(TEMPLATE), TEMPLATE) == lines


def refusing(message: str) -> Callable[[ApiRequest], Exception | None]:
    def refuse(request: ApiRequest) -> Exception | None:
        if request.method != "POST" or request.resource is None or request.resource.kind != "Job":
            return None
        assert request.query == {"fieldValidation": "Strict"}
        return RefusedError(message, 400)

    return refuse


@pytest.mark.adversary
def test_a_typo_ends_as_a_spec_that_is_invalid() -> None:
    api = FakeApi()
    key = CHECKPOINTS.key("team", "save-1000")
    api.add(CHECKPOINTS, manifest({FIELD: {"spec": {"nodeselector": {}}}}))
    api.refuse = refusing(STRICT + 'unknown field "spec.template.spec.nodeselector"')
    asyncio.run(reconciling(api)(key))
    found = status(api, key)
    assert (found["phase"], found["reason"]) == ("Failed", "InvalidSpec")
    assert f"{FIELD}.spec.nodeselector: unknown field; did you mean nodeSelector?" in str(found["failure"])


@pytest.mark.adversary
@pytest.mark.parametrize("arguments", [["validate"], ["validate", "--local"], ["run", "--rehearse"]])
def test_the_command_line_names_them_too(arguments: list[str]) -> None:
    text = yaml.safe_dump(manifest({FIELD: TEMPLATE, "metadata.uid": None}))
    result = CliRunner().invoke(app, [*arguments, "-f", "-"], input=text)
    assert result.exit_code == 2
    for path, meant in TYPOS.items():
        assert f"standard input, document 1: {FIELD}.{path}: unknown field; {meant}" in result.stderr.splitlines()
