"""What the manifests let the operator and the users of a namespace do: no more than is listed here."""

from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.adversary

MANIFESTS = Path(__file__).resolve().parents[1] / "manifests"
GRANTED = {
    ("dcp-operator.io", "checkpoints"): {"get", "list", "watch", "create", "delete", "patch"},
    ("dcp-operator.io", "checkpoints/status"): {"update"},
    ("dcp-operator.io", "checkpointseries"): {"get", "list", "watch"},
    ("dcp-operator.io", "checkpointseries/status"): {"update"},
    ("dcp-operator.io", "checkpointstores"): {"get", "list", "watch"},
    ("dcp-operator.io", "checkpointstores/status"): {"update"},
    ("batch", "jobs"): {"get", "list", "watch", "create", "delete"},
    ("", "pods"): {"get", "list", "watch"},
    ("", "services"): {"get", "create", "delete"},
    ("networking.k8s.io", "networkpolicies"): {"get", "create", "delete"},
    ("", "events"): {"create", "list"},
}
CHANNEL = {
    ("authentication.k8s.io", "tokenreviews"): {"create"},
    ("", "configmaps"): {"create"},
    ("", "configmaps/dcp-operator-ca"): {"get", "update"},
    ("", "namespaces"): {"get"},
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations/dcp-operator-evictions"): {"get", "patch"},
}
"""For the channel to trainings, which an install in one namespace does not have."""
TRAININGS = (
    ("batch", "jobs"),
    ("jobset.x-k8s.io", "jobsets"),
    ("trainer.kubeflow.org", "trainjobs"),
    ("kubeflow.org", "pytorchjobs"),
)
"""What the operator may patch with a component; its admission policy leaves one annotation of that."""
DISRUPTIONS = {
    "components/drain-signals/rbac.yaml": {("", "nodes"): {"get"}},
    "components/disruption-budget/rbac.yaml": {
        ("policy", "poddisruptionbudgets"): {"list", "create", "update", "delete"},
    },
}
"""What components give for trainings that are to save before a drain."""
LEASE = {
    ("coordination.k8s.io", "leases"): {"create"},
    ("coordination.k8s.io", "leases/dcp-operator"): {"get", "update"},
}


def documents(*paths: str) -> list[dict[str, Any]]:
    return [each for path in paths for each in yaml.safe_load_all((MANIFESTS / path).read_text()) if each]


def granted(body: dict[str, Any]) -> dict[tuple[str, str], set[str]]:
    """Return the verbs that a role gives, by group and resource, with the name of the object where it names one."""
    found: dict[tuple[str, str], set[str]] = {}
    for rule in body["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", [None]):
                    key = (group, resource if name is None else f"{resource}/{name}")
                    found.setdefault(key, set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize(
    ("path", "kind", "expected"),
    [
        ("cluster-wide/rbac.yaml", "ClusterRole", GRANTED | CHANNEL),
        ("namespaced/rbac.yaml", "Role", GRANTED),
        ("operator/lease.yaml", "Role", LEASE),
    ],
)
def test_the_operator_may_do_no_more_than_it_needs(
    path: str, kind: str, expected: dict[tuple[str, str], set[str]]
) -> None:
    """No Secret, no exec, no creation of pods, no wildcard."""
    (role,) = (each for each in documents(path) if each["kind"] == kind)
    assert granted(role) == expected


def test_every_role_is_listed_here() -> None:
    """A role that is added elsewhere is one that nobody has looked at."""
    holding = {
        str(path.relative_to(MANIFESTS))
        for path in MANIFESTS.rglob("*.yaml")
        for each in yaml.safe_load_all(path.read_text())
        if each and each.get("kind") in {"Role", "ClusterRole"}
    }
    logs = {f"components/{name}/rbac.yaml" for name in ("progress", "progress-namespaced")}
    announced = "components/last-checkpoint-time/rbac.yaml"
    assert holding == {
        "api/user-roles.yaml",
        "cluster-wide/rbac.yaml",
        "namespaced/rbac.yaml",
        "operator/lease.yaml",
        *logs,
        announced,
        *DISRUPTIONS,
    }
    for path, expected in DISRUPTIONS.items():
        (role,) = (each for each in documents(path) if each["kind"] == "ClusterRole")
        assert granted(role) == expected
    (role,) = (each for each in documents(announced) if each["kind"] == "ClusterRole")
    assert granted(role) == {key: {"get", "patch"} for key in TRAININGS}
    for path in logs:
        (role,) = (each for each in documents(path) if each["kind"] in {"Role", "ClusterRole"})
        assert granted(role) == {("", "pods/log"): {"get"}}


def test_users_write_no_status() -> None:
    """Whoever could would tell the operator that an attempt had ended, or whose it was."""
    for role in documents("api/user-roles.yaml"):
        assert {*granted(role)} == {
            ("dcp-operator.io", each) for each in ("checkpoints", "checkpointseries", "checkpointstores")
        }


def test_the_operators_own_pod_is_restricted() -> None:
    (deployment,) = documents("operator/deployment.yaml")
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    (policy,) = documents("operator/networkpolicy.yaml")
    ports = [{"protocol": "TCP", "port": port} for port in (8080, 8443)]
    assert policy["spec"]["ingress"] == [{"ports": ports}]


def test_the_operator_reaches_an_api_server_on_whichever_port_it_has() -> None:
    """O S3-9: a policy sees the port behind the Service, which is another one in each distribution."""
    (policy,) = documents("operator/networkpolicy.yaml")
    open_to_all = [rule["ports"] for rule in policy["spec"]["egress"] if "to" not in rule]
    assert [{"protocol": "TCP"}] in [[port for port in ports if "port" not in port] for ports in open_to_all]
