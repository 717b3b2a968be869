"""`kubectl drain` on a real cluster where no webhook holds evictions: a budget does, and goes with the operator."""

import pytest

from cluster.facts import Facts
from cluster.places import TREE
from dcp_contract.training import CHANNEL_CONFIG_MAP
from dcp_operator.api.naming import BUDGET_LABEL, LAST_CHECKPOINT_ANNOTATION
from e2e.drains import SELECTOR, drain, saves, series
from e2e.kube import Body, Kube, KubectlError, condition, rolled_out, until
from e2e.test_training_channel import training

pytestmark = [
    pytest.mark.tier("e2e"),
    pytest.mark.alone,
    pytest.mark.timeout(500),
    pytest.mark.slow("the operator starts anew, and is then away for longer than evictions are held"),
]
HOLD = 30
COMPONENTS = (
    "drain-signals/rbac",
    "disruption-budget/rbac",
    "last-checkpoint-time/rbac",
    "last-checkpoint-time/admission",
)


def ending_soon(body: Body) -> Body:
    """Return a Job whose pods need no time to end."""
    if body["kind"] == "Job":
        body["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 1
    return body


def refused(kube: Kube) -> str:
    """Try to evict a pod of the training; return what is said against it."""
    name = kube("get", "pod", "-l", SELECTOR, "-o", "jsonpath={.items[0].metadata.name}")
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": kube.namespace}}
    path = f"/api/v1/namespaces/{kube.namespace}/pods/{name}/eviction?dryRun=All"
    try:
        kube("create", "--raw", path, "-f", "-", objects=body)
    except KubectlError as error:
        return error.output
    return ""


def stands(kube: Kube) -> None:
    """Wait until the budget refuses evictions."""
    until(lambda: kube("get", "pdb", "-o", "name"), lambda found: "run-hold" in found, "the budget", 90)
    until(lambda: refused(kube), lambda why: "disruption budget" in why, "a refused eviction", 30)


def saved_last(annotations: Body) -> bool:
    return LAST_CHECKPOINT_ANNOTATION in annotations


def test_a_drain_waits_for_the_save_and_for_no_operator_that_is_away(
    kube: Kube, admin: Kube, operator: Kube, facts: Facts
) -> None:
    files = [argument for name in COMPONENTS for argument in ("-f", str(TREE / f"manifests/components/{name}.yaml"))]
    admin("apply", *files)
    try:
        # What was forbidden is believed to be so for ten minutes.
        operator("rollout", "restart", "deployment/dcp-operator")
        rolled_out(operator)
        kube.apply(series(f"{HOLD}s"))
        until(lambda: kube.every("configmap"), lambda found: CHANNEL_CONFIG_MAP in str(found), "the ConfigMap", 90)
        kube.apply(*(ending_soon(each) for each in training(facts)))
        stands(kube)
        held = until(
            lambda: condition(kube.get("checkpointseries", "run").get("status") or {}, "EvictionsHeld"),
            lambda found: found.get("reason") == "Budget",
            "the word that a budget holds evictions",
            90,
        )
        assert held["status"] == "True"
        assert kube.every("checkpoint") == []
        drain(kube, 120)
        (save,) = saves(kube)
        assert (save["status"]["phase"], save["status"]["reason"]) == ("Succeeded", "Saved")
        # Schedulers are told of it, by an account that may change nothing else of the Job.
        told = until(
            lambda: kube.get("job", "train")["metadata"].get("annotations") or {}, saved_last, "the annotation", 30
        )
        assert told[LAST_CHECKPOINT_ANNOTATION] == save["status"]["completionTime"]

        stands(kube)
        operator("scale", "deployment/dcp-operator", "--replicas=0")
        until(lambda: operator("get", "pods", "-o", "name"), lambda found: not found, "the end of the operator", 60)
        assert "disruption budget" in refused(kube)
        assert drain(kube, 120) < HOLD + 60
        assert len(kube.every("checkpoint")) == 1
        until(lambda: kube("get", "pdb,job", "-l", BUDGET_LABEL, "-o", "name"), lambda found: not found, "the end", 30)
    finally:
        operator("scale", "deployment/dcp-operator", "--replicas=2")
        admin("delete", *files, "--ignore-not-found")
        rolled_out(operator)
