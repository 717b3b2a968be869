"""The main job with kubectl: save the real MiniLM by two pods, load it by three ranks, refuse a second save."""

import hashlib

import pytest

from cluster.facts import Facts
from cluster.places import run_dir
from e2e.kube import Kube, condition
from e2e.objects import checkpoint, storage

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(420)]

MINILM = {"entrypoint": "minilm:Workload"}


def digests(facts: Facts, path: str) -> dict[str, str]:
    """Return the digest of every object under a path of the store, which keeps each in a file."""
    root = run_dir() / "s3" / facts.s3.bucket / path
    files = [each for each in root.rglob("*") if each.is_file()]
    return {str(each.relative_to(root)): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


def test_minilm_saved_by_two_pods_loads_on_three_ranks_and_is_not_overwritten(kube: Kube, facts: Facts) -> None:
    path = f"{kube.namespace}/minilm"
    save = {
        "operation": "Save",
        "storage": storage(facts, path),
        "workload": MINILM,
        "workers": {"numNodes": 2, "device": "cpu"},
    }
    kube.apply(checkpoint("save", save))
    kube("wait", "--for=condition=Complete", "checkpoint/save", "--timeout=180s", timeout=200)
    status = kube.status("save")
    assert (status["phase"], status["reason"], status["attempts"]) == ("Succeeded", "Saved", 1)
    assert status["checkpoint"]["worldSize"] == 2
    assert status["checkpoint"]["bytes"] > 80_000_000
    assert condition(status, "Ready")["status"] == "True"
    columns = kube("get", "checkpoints").split("\n")
    assert columns[0].split() == ["NAME", "OPERATION", "PHASE", "STEP", "SIZE", "DURATION", "REASON", "AGE"]
    assert columns[1].split()[:3] == ["save", "Save", "Succeeded"]
    before = digests(facts, path)
    assert before

    kube.apply(
        checkpoint(
            "load",
            {
                "operation": "Load",
                "storage": storage(facts, path),
                "workload": MINILM,
                "parallelism": {"strategy": "fsdp1"},
                "workers": {"numProcPerNode": 3, "device": "cpu"},
            },
        ),
        checkpoint("again", save),
    )
    kube("wait", "--for=condition=Complete", "checkpoint/load", "--timeout=180s", timeout=200)
    kube("wait", "--for=condition=Failed", "checkpoint/again", "--timeout=120s", timeout=130)
    refused = kube.status("again")
    assert (refused["phase"], refused["reason"]) == ("Conflict", "OverwriteConflict")
    assert condition(refused, "Stalled")["status"] == "True"
    assert refused["conflict"]["origin"]["name"] == "save"
    assert refused["attempts"] == 1
    assert digests(facts, path) == before
    kube.heard("again", "OverwriteConflict")
