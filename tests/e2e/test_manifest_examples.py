"""Every example of manifests/examples, as it stands there; only the store and the images are those of the cluster."""

import shutil
import subprocess
from typing import Any

import pytest
import yaml

from cluster.facts import Facts
from cluster.places import TREE
from e2e.kube import Body, Kube

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(420)]

EXAMPLES = TREE / "manifests/examples"


def documents(name: str, facts: Facts, space: str) -> list[Body]:
    """Return an example's objects with the cluster's store and image."""
    text = (EXAMPLES / name).read_text()
    text = text.replace("https://s3.example.com", facts.s3.endpoint).replace("us-east-1", facts.s3.region)
    text = text.replace("s3://checkpoints/examples", f"s3://{facts.s3.bucket}/{space}")
    text = text.replace("ghcr.io/dcp-operator/dcp-examples:0.1.0", facts.images["examples"])
    return [each for each in yaml.safe_load_all(text) if each]


def test_quickstart_and_conflict(kube: Kube, facts: Facts) -> None:
    save, load, verify = documents("quickstart.yaml", facts, kube.namespace)
    kube.apply(save)
    kube("wait", "--for=condition=Complete", "checkpoint/quickstart-save", "--timeout=120s", timeout=130)
    kube.apply(load, verify, *documents("conflict.yaml", facts, kube.namespace))
    kube("wait", "--for=condition=Complete", "checkpoint/quickstart-load", "--timeout=120s", timeout=130)
    kube("wait", "--for=condition=Complete", "checkpoint/quickstart-verify", "--timeout=120s", timeout=130)
    kube("wait", "--for=condition=Failed", "checkpoint/conflict", "--timeout=120s", timeout=130)
    assert kube.status("conflict")["phase"] == "Conflict"


def test_multi_node(kube: Kube, facts: Facts) -> None:
    kube.apply(*documents("multi-node.yaml", facts, kube.namespace))
    kube("wait", "--for=condition=Complete", "checkpoint/multi-node", "--timeout=120s", timeout=130)
    assert kube.status("multi-node")["ranks"] == "2 (2x1)"


def test_kueue(kube: Kube, facts: Facts) -> None:
    kube.apply(*documents("kueue.yaml", facts, kube.namespace))
    assert kube.until_phase("queued", "Queued", seconds=30)["reason"] == "Queued"


def test_the_examples_are_one_kustomization(kube: Kube) -> None:
    shown = kube.within("")("kustomize", str(EXAMPLES))
    kinds = [each["kind"] for each in yaml.safe_load_all(shown)]
    assert kinds.count("Checkpoint") == 6
    assert kinds.count("Secret") == 1


@pytest.mark.skipif(shutil.which("lua") is None, reason="no Lua interpreter on this machine")
@pytest.mark.parametrize(
    ("conditions", "health"),
    [
        ({"Ready": "False", "Reconciling": "True"}, "Progressing"),
        ({"Ready": "True", "Complete": "True"}, "Healthy"),
        ({"Ready": "False", "Stalled": "True", "Failed": "True"}, "Degraded"),
        ({"Ready": "False", "Suspended": "True"}, "Suspended"),
    ],
)
def test_argo_cd_health(conditions: dict[str, str], health: str) -> None:
    found: Any = yaml.safe_load((EXAMPLES / "gitops/argocd-health.yaml").read_text())
    (script,) = found["data"].values()
    rows = ", ".join(f'{{type="{kind}", status="{status}", message="m"}}' for kind, status in conditions.items())
    program = (
        f"local obj = {{metadata = {{generation = 1}}, status = {{observedGeneration = 1, conditions = {{{rows}}}}}}}\n"
        f"local function check()\n{script}\nend\nprint(check().status)"
    )
    done = subprocess.run(["lua", "-e", program], capture_output=True, text=True, timeout=10, check=True)
    assert done.stdout.strip() == health
