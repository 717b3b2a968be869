"""What the tests of drains share: a series that holds evictions of a training, and the drain as a person types it."""

import time
from collections.abc import Mapping
from typing import Any, Final

from e2e.kube import Body, Kube

SELECTOR: Final = "batch.kubernetes.io/job-name=train"
TRAIN: Final = {"kind": "Job", "name": "train"}


def series(hold: str = "10m", target: Mapping[str, Any] = TRAIN) -> Body:
    """Return a series that asks for nothing but a save before the pods of its target are evicted."""
    template = {"spec": {"operation": "Save", "target": dict(target)}}
    spec = {"every": "24h", "onDisruption": {"hold": hold}, "template": template}
    kind = {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "CheckpointSeries"}
    return kind | {"metadata": {"name": "run"}, "spec": spec}


def drain(kube: Kube, seconds: int) -> float:
    """Drain the cluster's one node of the training's pods; return the seconds that it took."""
    (node,) = kube("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}").split()
    began = time.monotonic()
    try:
        said = kube("drain", node, f"--pod-selector={SELECTOR}", f"--timeout={seconds}s", timeout=seconds + 30)
    finally:
        kube("uncordon", node)
    assert f"node/{node} drained" in said
    return time.monotonic() - began


def saves(kube: Kube) -> list[Body]:
    """Return the Checkpoints by which a training was asked to save before an eviction."""
    return kube.every("checkpoint", "dcp-operator.io/disruption=true")
