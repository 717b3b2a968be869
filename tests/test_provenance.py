"""What tells a save of one cluster and one spec from another: who it goes to, and who has to read it without."""

import json
from typing import Any

import pytest

from dcp_contract.checkpoint_info import CheckpointInfo, Origin, Provenance
from dcp_contract.operations import Operation
from dcp_contract.report import Report
from dcp_contract.save_fields import SaveFields
from dcp_contract.sections import Workload
from dcp_contract.task import Task
from dcp_engine.format import provenance
from dcp_engine.format.manifest import Manifest
from dcp_engine.format.safetensors import ModelIndex
from dcp_operator.api.checkpoint.spec_digest import spec_digest
from dcp_operator.api.site import CLUSTER
from dcp_operator.kube.kinds.checkpoint import CHECKPOINT
from scenes import checkpoint, manifest

PLAIN = Origin(namespace="team", name="save-1000", uid="u", run_id="2")
FULL = Provenance(**dict(PLAIN), cluster_id="c-1", spec_digest="d-1")
URL = "s3://bucket/run/step-1000"
SAVE_ID = "0" * 32


def test_a_manifest_says_what_is_newer_beside_the_origin() -> None:
    document = json.loads(Manifest(save_id=SAVE_ID, origin=FULL, block_size=65536).encode())
    # Of these four fields alone a reader of release 0.1 makes an Origin, and refuses any other.
    assert document["origin"] == {"namespace": "team", "name": "save-1000", "uid": "u", "runId": "2"}
    assert (document["clusterId"], document["specDigest"]) == ("c-1", "d-1")
    assert provenance.decoded(document) == FULL


@pytest.mark.parametrize("origin", [None, PLAIN], ids=str)
def test_a_manifest_without_them_is_as_it_was(origin: Origin | None) -> None:
    encoded = Manifest(save_id=SAVE_ID, origin=origin, block_size=65536).encode()
    assert not {"clusterId", "specDigest"} & json.loads(encoded).keys()
    assert Manifest.decode(encoded, save_id=SAVE_ID).origin == origin


@pytest.mark.parametrize("field", ["clusterId", "specDigest"])
def test_what_is_no_text_is_no_manifest(field: str) -> None:
    document = json.loads(Manifest(save_id=SAVE_ID, origin=FULL, block_size=65536).encode()) | {field: 7}
    with pytest.raises(ValueError, match=field):
        Manifest.decode(json.dumps(document).encode(), save_id=SAVE_ID)


def test_nothing_that_an_earlier_release_reads_has_them() -> None:
    report = Report(checkpoint=CheckpointInfo(url=URL, origin=FULL))
    index = ModelIndex(files={"a": "b"}, export_id="e", origin=FULL)
    for text in (report.to_json(), index.encode().decode()):
        assert "save-1000" in text
        assert "c-1" not in text
        assert "d-1" not in text
    assert ModelIndex.decode(index.encode()).origin == PLAIN


def test_a_worker_of_an_earlier_release_may_leave_them_out() -> None:
    task = json.loads(checkpoint_of("c-1").task(1).to_json())
    assert task["ignorable"] == ["origin.clusterId", "origin.specDigest"]
    # As a worker that knows none of two others.
    renamed = {name.upper() if name.endswith(("Id", "Digest")) else name: each for name, each in task["origin"].items()}
    told = {**task, "origin": renamed, "ignorable": ["origin.CLUSTERID", "origin.SPECDIGEST"]}
    assert Task.decode(json.dumps(told)).origin == Provenance(**dict(checkpoint_of("c-1").origin))


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (FULL, PLAIN, True),
        (PLAIN, FULL, True),
        (FULL, FULL.model_copy(update={"cluster_id": "c-2", "spec_digest": ""}), True),
        (FULL, FULL.model_copy(update={"run_id": "3"}), False),
        (FULL, None, False),
        (Provenance(), Provenance(), False),
    ],
)
def test_a_run_knows_its_own_save_whichever_operator_began_it(ours: Origin, theirs: Origin, *, same: bool) -> None:
    assert ours.made(theirs) is same


def checkpoint_of(cluster: str, changes: dict[str, Any] | None = None, *, begun: bool = False) -> Any:
    body = manifest(changes or {})
    return CHECKPOINT.parse(body, CLUSTER.model_copy(update={"cluster_id": cluster}), begun)


@pytest.mark.parametrize("begun", [False, True])
def test_a_task_has_the_cluster_of_the_operator(*, begun: bool) -> None:
    task = checkpoint_of("c-1", begun=begun).task(1)
    assert task.origin.cluster_id == "c-1"
    assert task.origin.spec_digest
    assert "cluster" not in checkpoint().task(1).to_json()


def test_only_what_commits_has_a_digest() -> None:
    verify = {"spec.operation": "Verify", "spec.workload": None, "spec.workers": None}
    assert checkpoint_of("c-1", verify).task(1).operation is Operation.VERIFY
    assert checkpoint_of("c-1", verify).task(1).origin.spec_digest == ""


ARGS = {"hidden": 64, "rate": 0.5, "names": ["a", "ü"], "none": None}
FROM = {"url": "s3://bucket/run/step-1/", "strict": False, "include": ["model.*"]}
FROZEN = {
    "the least": (("", URL, Workload(entrypoint="a.b:C"), SaveFields()), "6c1548798801abf5fc15b5a77e529c8d"),
    "all": (
        (
            "2",
            URL,
            Workload(entrypoint="a.b:C", args=ARGS, allow=["a.b.D"]),
            SaveFields.model_validate({"steps": 3, "from": FROM}),
        ),
        "423e5037f79a40a889ff848a5d1bea3e",
    ),
}


@pytest.mark.parametrize(("spec", "digest"), FROZEN.values(), ids=FROZEN)
def test_a_digest_stays_as_it_was_written_into_manifests(spec: tuple[Any, ...], digest: str) -> None:
    assert spec_digest(*spec) == digest


def test_what_says_the_same_has_the_same_digest() -> None:
    one = checkpoint_of("", {"spec.workload.args": {"a": 1.0, "b": [2.0, {"c": 3}]}}).provenance
    for changes in (
        {"spec.workload.args": {"b": [2, {"c": 3.0}], "a": 1}},
        {"spec.workload.args": {"a": 1, "b": [2, {"c": 3}]}, "spec.storage.url": f"{URL}/"},
        {"spec.workload.args": {"a": 1, "b": [2, {"c": 3}]}, "spec.workers.numNodes": 4, "spec.retries": 7},
        {"spec.workload.args": {"a": 1, "b": [2, {"c": 3}]}, "spec.parallelism": {"strategy": "ddp"}},
        {"spec.workload.args": {"a": 1, "b": [2, {"c": 3}]}, "spec.save": {"ifExists": "Replace", "steps": 0}},
    ):
        assert checkpoint_of("", changes).provenance.spec_digest == one.spec_digest, changes


@pytest.mark.parametrize(
    "changes",
    [
        {"spec.runId": "2"},
        {"spec.storage.url": "s3://bucket/run/step-2000"},
        {"spec.workload.entrypoint": "my_pkg.train:Other"},
        {"spec.workload.args": {"a": None}},
        {"spec.workload.args": {"a": True}},
        {"spec.workload.args": {"a": 1}},
        {"spec.workload.args": {"a": "1"}},
        {"spec.save": {"steps": 1}},
        {"spec.save": {"from": {"url": "s3://bucket/run/step-1"}}},
        {"spec.save": {"from": {"url": "s3://bucket/run/step-1", "strict": False}}},
        {"spec.save": {"from": {"url": "s3://bucket/run/step-1", "exclude": ["optim.*"]}}},
    ],
    ids=str,
)
def test_what_asks_for_something_else_has_another_digest(changes: dict[str, Any]) -> None:
    others = {checkpoint_of("", each).provenance.spec_digest for each in ({}, {"spec.save": {"steps": 2}})}
    assert checkpoint_of("", changes).provenance.spec_digest not in others
