"""Every example of manifests/examples, as it stands there; only the store and the images are those of the cluster."""

import pytest
import yaml

from cluster.facts import Facts
from cluster.places import TREE
from e2e.kube import Body, Kube

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(420)]

EXAMPLES = TREE / "manifests/examples"


def documents(name: str, facts: Facts, space: str) -> list[Body]:
    """Return an example's objects with the cluster's store and image."""
    text = (EXAMPLES / name).read_text()
    text = text.replace("https://s3.example.com", facts.s3.endpoint).replace("us-east-1", facts.s3.region)
    text = text.replace("s3://checkpoints/examples", f"s3://{facts.s3.bucket}/{space}")
    text = text.replace("registry.invalid/dcp-examples:0.1.0", facts.images["examples"])
    return [each for each in yaml.safe_load_all(text) if each]


def test_quickstart_and_conflict(kube: Kube, facts: Facts) -> None:
    kube.apply(*documents("quickstart-save.yaml", facts, kube.namespace))
    kube("wait", "--for=condition=Complete", "checkpoint/quickstart-save", "--timeout=120s", timeout=130)
    for name in ("quickstart-load.yaml", "quickstart-verify.yaml", "conflict.yaml"):
        kube.apply(*documents(name, facts, kube.namespace))
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
    assert kinds.count("Checkpoint") == 10
    assert kinds.count("Secret") == 1
