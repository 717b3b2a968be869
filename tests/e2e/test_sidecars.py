"""Pods with a second container that never ends by itself, as a service mesh's webhook puts it in."""

import uuid

import pytest

from cluster.facts import Facts
from e2e.kube import Body, Kube, until
from e2e.objects import gpt

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(420)]

FOREVER = ["sleep", "infinity"]


def workers(facts: Facts, *, native: bool = False) -> Body:
    """Return one pod whose second container outlives the ranks; a native sidecar is ended by the kubelet."""
    sidecar: Body = {"name": "proxy", "image": facts.images["examples"], "command": FOREVER}
    spec = {"initContainers": [sidecar | {"restartPolicy": "Always"}]} if native else {"containers": [sidecar]}
    return {"numProcPerNode": 1, "device": "cpu", "podTemplate": {"spec": spec}}


@pytest.mark.adversary
@pytest.mark.parametrize(
    "native",
    [
        pytest.param(False, id="classic", marks=pytest.mark.slow("it takes no SIGTERM: the pod's grace passes")),
        pytest.param(True, id="native"),
    ],
)
def test_a_pod_with_a_sidecar_succeeds_and_fails_on_time(kube: Kube, facts: Facts, *, native: bool) -> None:
    space = f"sidecars/{uuid.uuid4().hex[:8]}"
    beside = workers(facts, native=native)
    kube.apply(
        gpt(facts, "saves", f"{space}/saves", workers=beside),
        gpt(facts, "fails", f"{space}/fails", workers=beside, workload={"entrypoint": "nowhere:Workload"}),
    )
    # Far below timeouts.activeSeconds, which is what it took while the pod's phase was asked.
    assert kube.until_phase("saves", "Succeeded", seconds=150)["reason"] == "Saved"
    failed = kube.until_phase("fails", "Failed", seconds=60)
    assert failed["reason"] == "EntrypointError"
    assert "nowhere" in failed["failure"]["message"]
    if native:
        return
    until(lambda: kube.every("pod"), lambda pods: not pods, "the end of what the sidecars hold", 200)
    assert kube.status("saves")["phase"] == "Succeeded"
