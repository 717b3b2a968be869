"""What a manifest may say, and the lines that a bad one gets."""

import re
from typing import TYPE_CHECKING, Any

import pytest

from dcp_contract.operations import Operation
from dcp_contract.sections import Device, Strategy
from dcp_operator.api.checkpoint import parsing
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import CLUSTER, LOCAL, Site
from scenes import URL, manifest

if TYPE_CHECKING:
    from dcp_operator.api.checkpoint.spec import Checkpoint

POD_TEMPLATE = "spec.workers.podTemplate"


def problems(changes: dict[str, Any], site: Site = CLUSTER) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse(manifest(changes), site=site)
    return caught.value.problems


def worker(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "worker", **fields}]}}


def test_defaults() -> None:
    spec = parse(manifest()).spec
    assert spec.operation is Operation.SAVE
    assert spec.parallelism.strategy is Strategy.FSDP2
    assert (spec.workers.num_nodes, spec.workers.num_proc_per_node, spec.workers.device) == (2, 1, Device.AUTO)
    assert (spec.retries, spec.suspend, spec.ttl_seconds_after_finished, spec.run_id) == (2, False, 86400, "")
    assert (spec.timeouts.start_seconds, spec.timeouts.active_seconds) == (600, 3600)


def test_who_it_is() -> None:
    found = parse(manifest({"spec.runId": "2", "metadata.labels": {"kueue.x-k8s.io/queue-name": "gpus"}}))
    assert str(found.origin) == "Checkpoint team/save-1000 (uid 67649f17-63b8-4886-af6e-54d25698fc75, run 2)"
    assert found.queue == "gpus"
    assert found.created.isoformat() == "2026-11-24T08:00:00+00:00"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        pytest.param(
            {"apiVersion": "v1"}, "apiVersion: is another group or version; write dcp-operator.io/v1alpha1", id="group"
        ),
        pytest.param({"kind": "Job"}, "kind: is another kind; write Checkpoint", id="kind"),
        pytest.param({"data": {}}, "data: unknown field; write apiVersion, kind, metadata, spec", id="top level"),
        pytest.param(
            {"metadata.name": None}, "metadata.name: is missing; write a name such as save-1000", id="no name"
        ),
        pytest.param(
            {"metadata.name": "Save"},
            "metadata.name: is a label too; write at most 63 of a-z, 0-9 and '-'",
            id="capital",
        ),
        pytest.param({"metadata.name": "a" * 64}, "metadata.name: is a label too; write at most 63", id="long name"),
        pytest.param({"spec.storage": None}, "spec.storage.url: is missing; write one such as s3://", id="no storage"),
        pytest.param(
            {"spec.storage.optoins": {}}, "spec.storage.optoins: unknown field; did you mean options?", id="typo"
        ),
        pytest.param(
            {"spec.workers.num_nodes": 2},
            "spec.workers.num_nodes: unknown field; did you mean numNodes?",
            id="snake case",
        ),
        pytest.param(
            {"spec.operation": "Verify", "spec.workload": None, "spec.verify.deep": True},
            "spec.verify.deep: unknown field, and none is known; drop it",
            id="unknown where no field is known",
        ),
        pytest.param(
            {"spec.save.from": {"url": "s3://bucket/run", "include": [""]}},
            "spec.save.from.include[0]: is too short; write at least 1 character(s)",
            id="an entry of a list",
        ),
        pytest.param({"spec.banana": 2}, "spec.banana: unknown field; write one of: clean, copy, ", id="unknown"),
        pytest.param(
            {"spec.operation": "save"},
            "spec.operation: is not one of its values; write 'Save', 'Load', 'Verify', 'Delete', 'Copy', 'Validate', "
            "'Export' or 'Clean'",
            id="enum",
        ),
        pytest.param(
            {"spec.workers.numNodes": "2"},
            "spec.workers.numNodes: has the wrong type; write a whole number",
            id="quoted",
        ),
        pytest.param(
            {"spec.suspend": "no"},
            "spec.suspend: has the wrong type; write true or false, without quotes",
            id="no bool",
        ),
        pytest.param(
            {"spec.storage": "s3://b/x"}, "spec.storage: has the wrong type; write a mapping", id="no mapping"
        ),
        pytest.param(
            {"spec.save.from": {"url": URL, "include": "m"}},
            "spec.save.from.include: has the wrong type; write a list",
            id="no list",
        ),
        pytest.param({"spec.retries": 21}, "spec.retries: is too large; write 20 or less", id="too large"),
        pytest.param(
            {"spec.workers.numNodes": 0}, "spec.workers.numNodes: is too small; write 1 or more", id="too small"
        ),
        pytest.param(
            {"spec.workload.entrypoint": "train"},
            "spec.workload.entrypoint: does not have the right form; write",
            id="pattern",
        ),
        pytest.param(
            {"spec.storage.url": ""}, "spec.storage.url: is too short; write at least 1 character(s)", id="empty"
        ),
        pytest.param(
            {"spec.workload.args": {"x": float("nan")}}, "spec: holds a value that JSON does not have", id="NaN"
        ),
        pytest.param(
            {"spec.workload.args": {"x": "x" * 65536}},
            "spec.workload.args: is larger than 64 KiB; write",
            id="large args",
        ),
        pytest.param({"spec.runId": "a b"}, "spec.runId: does not have the right form; write", id="run id"),
        pytest.param(
            {"spec.workload": None}, "spec.workload: is missing; write workload: {entrypoint:", id="no workload"
        ),
        pytest.param(
            {"spec.operation": "Verify"}, "spec.workload: a Verify builds no model; drop workload", id="verify workload"
        ),
        pytest.param(
            {"spec.operation": "Verify"},
            "spec.workers: a Verify runs as one process; write numNodes: 1",
            id="verify ranks",
        ),
        pytest.param(
            {"spec.operation": "Verify", "spec.workers": {"device": "cuda"}},
            "spec.workers.device: a Verify needs no GPU; drop device",
            id="verify GPU",
        ),
        pytest.param(
            {"spec.operation": "Load", "spec.save": {"ifExists": "Replace"}},
            "spec.save: is for a Save, and this is a Load; drop it, or write operation: Save",
            id="save of a load",
        ),
        pytest.param(
            {"spec.load": {}},
            "spec.load: is for a Load, and this is a Save; drop it, or write operation: Load",
            id="load of a save",
        ),
        pytest.param(
            {"spec.verify": {}},
            "spec.verify: is for a Verify, and this is a Save; drop it, or write operation: Verify",
            id="verify of a save",
        ),
        pytest.param(
            {"spec.operation": "Delete", "spec.workload": None, "spec.delete.saveId": "../" * 10 + "ab"},
            "spec.delete.saveId: does not have the right form",
            id="no save id",
        ),
        pytest.param(
            {"spec.save.ifExists": "Merge"},
            "spec.save.ifExists: is not one of its values; write 'Fail', 'Replace' or 'Adopt'",
            id="if exists",
        ),
        pytest.param(
            {"spec.save.from": {"url": "gs://b/x"}},
            "spec.save.from.url: is read with the options of spec.storage; write a URL of the same protocol",
            id="other store",
        ),
    ],
)
def test_a_bad_field_gets_one_line(changes: dict[str, Any], line: str) -> None:
    found = problems(changes)
    assert any(each.startswith(line) for each in found), found
    assert all("\n" not in each for each in found)


@pytest.mark.parametrize(
    ("strategy", "replicate", "nodes", "line"),
    [
        ("fsdp2", 2, 4, "only hsdp has replica groups"),
        ("hsdp", 1, 4, "hsdp with one replica group is fsdp2"),
        ("hsdp", 2, 1, "2 replica groups need at least 4 ranks, and there are 1"),
        ("hsdp", 2, 2, "2 replica groups need at least 4 ranks, and there are 2"),
        ("hsdp", 2, 3, "2 replica groups need at least 4 ranks, and there are 3"),
        ("hsdp", 2, 5, "5 ranks can't be divided into 2 equal groups; write a divisor of 5"),
    ],
)
def test_worlds_that_can_not_be(strategy: str, replicate: int, nodes: int, line: str) -> None:
    parallelism = {"strategy": strategy, "replicate": replicate}
    (found,) = problems({"spec.parallelism": parallelism, "spec.workers.numNodes": nodes})
    assert found.startswith(f"spec.parallelism.replicate: {line}")


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("simplecache::s3://b/x", "chained URLs are not accepted; write"),
        ("bucket/x", "has no protocol; write file:///bucket/x for a mounted path, or s3://bucket/path"),
        (
            "http://host/x",
            "protocol 'http' is not allowed (s3 gs az abfs file); write a URL of one of: s3 gs az abfs file",
        ),
        ("s3a://b/x", "protocol 's3a' is not allowed (s3 gs az abfs file); write s3://..."),
        ("memory://x", "protocol 'memory' is not allowed"),
        ("s3://b/../x", "is not a plain URL; write protocol://bucket/path without '..'"),
        ("s3://b/x?versionId=1", "holds a space or one of ? # \\ *"),
        ("s3://key:secret@b/x", "holds credentials; write the URL alone and move them to credentialsSecretRef"),
        ("s3://b", "names no path in a bucket; write s3://bucket/path"),
        ("file://relative/x", "names no absolute path; write file:///path"),
        ("file:///tmp/x", "a path of the pod's own file system is gone with the pod; mount a volume"),
    ],
)
def test_bad_urls(url: str, line: str) -> None:
    found = problems({"spec.storage.url": url})
    assert any(each.startswith(f"spec.storage.url: {line}") for each in found), found
    assert "secret@" not in "".join(found)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        (
            "key",
            "AKIA",
            "looks like a secret, which a spec must not hold; move it to spec.storage.credentialsSecretRef",
        ),
        ("secret", "hush", "looks like a secret"),
        ("token", "hush", "looks like a secret"),
        ("aws_secret_access_key", "hush", "looks like a secret"),
        ("endpoint", "http://h", "is not an option of this protocol; write endpointUrl"),
        ("endpoint_url", "http://h", "is how Python spells it; write endpointUrl"),
        ("sse_kms_key_id", "k", "is how Python spells it; write sseKmsKeyId"),
        ("account_name", "a", "is not an option of this protocol; write one of:"),
        (
            "client_kwargs",
            {"password": "hush"},
            "is not an option of this protocol; write one of: addressingStyle, anon",
        ),
        ("anon", "true", "has the wrong type or value; write true or false"),
        ("maxAttempts", 0, "has the wrong type or value; write a whole number"),
        ("connectTimeout", 0, "has the wrong type or value; write a number of seconds"),
        ("keepReplaced", -1, "has the wrong type or value; write a number of seconds"),
        ("connectTimeout", True, "has the wrong type or value; write a number of seconds"),
        ("uploadChecksum", "crc32c", "has the wrong type or value; write crc64nvme or sha256 or none"),
        ("addressingStyle", "dns", "has the wrong type or value; write auto or path or virtual"),
        ("endpointUrl", "minio:9000", "is not an address; write http://host:port"),
        ("endpointUrl", "http://u:hush@h", "holds credentials"),
        ("endpointUrl", "http://169.254.169.254", "link-local and metadata addresses are refused"),
        ("endpointUrl", "http://169.254.169.254.", "link-local and metadata addresses are refused"),
        ("endpointUrl", "http://2852039166", "link-local and metadata addresses are refused"),
        ("endpointUrl", "http://0xa9.0xfe.0xa9.0xfe", "link-local and metadata addresses are refused"),
        ("endpointUrl", "http://[::ffff:169.254.169.254]", "link-local and metadata addresses are refused"),
        ("endpointUrl", "http://[fe80::1%25eth0]", "link-local and metadata addresses are refused"),
        ("endpointUrl", "http://metadata.google.internal", "link-local and metadata addresses are refused"),
        ("proxyUrl", "http://[fd00:ec2::254]", "link-local and metadata addresses are refused"),
    ],
)
def test_bad_options(name: str, value: object, line: str) -> None:
    (found,) = problems({"spec.storage.options": {name: value}})
    assert found.startswith(f"spec.storage.options.{name}: {line}")
    assert "hush" not in found


@pytest.mark.parametrize("seconds", [0, 0.5, 86_400])
@pytest.mark.parametrize("url", ["s3://b/run", "gs://b/run", "az://c/run"])
def test_replaced_data_are_kept_as_long_as_a_spec_says(url: str, seconds: float) -> None:
    spec = parse(manifest({"spec.storage.url": url, "spec.storage.options": {"keepReplaced": seconds}})).spec
    assert spec.storage.options["keepReplaced"] == seconds


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000", "https://s3.example.com", "http://[::1]:7070"])
def test_good_endpoints(url: str) -> None:
    assert parse(manifest({"spec.storage.options": {"endpointUrl": url, "readTimeout": 3}})).spec.storage.options


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ({"kind": "Pod"}, ".kind: unknown field; write metadata"),
        ({"spec": []}, ": metadata and spec have the wrong type; write mappings"),
        (
            {"spec": {"containers": {"name": "worker"}}},
            ".spec.containers: has the wrong type; write a list of mappings",
        ),
        ({"spec": {"volumes": ["x"]}}, ".spec.volumes: has the wrong type; write a list of mappings"),
        (worker(env={"A": "b"}), ".spec.containers[0].env: has the wrong type; write a list of mappings"),
        (worker(resources={"limits": "1Gi"}), ".spec.containers[0].resources: has the wrong type; write limits"),
        ({"metadata": {"name": "x"}}, ".metadata.name: is not accepted; write labels or annotations"),
        ({"spec": {"securityContext": {"runAsUser": 0}}}, ".spec.securityContext.runAsUser: is not accepted; write"),
        ({"spec": {"hostNetwork": True}}, ".spec.hostNetwork: is not accepted; drop it"),
        ({"spec": {"nodeName": "n"}}, ".spec.nodeName: is not accepted; write nodeSelector"),
        (
            {"spec": {"automountServiceAccountToken": True}},
            ".spec.automountServiceAccountToken: workers get no API token",
        ),
        (
            {"spec": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}},
            ".spec.volumes[0].hostPath: is not accepted",
        ),
        (
            {"spec": {"volumes": [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {}}]}}]}},
            ".spec.volumes[0].projected: workers get no API token",
        ),
        (
            worker(securityContext={"privileged": True}),
            ".spec.containers[0].securityContext.privileged: is not accepted",
        ),
        (
            worker(image="x"),
            ".spec.containers[0].image: is not accepted in the container worker; write spec.workers.image",
        ),
        (worker(command=["x"]), ".spec.containers[0].command: is not accepted"),
        (worker(ports=[{"hostPort": 80}]), ".spec.containers[0].ports: a hostPort is not accepted"),
        (
            worker(volumeMounts=[{"mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]),
            ".spec.containers[0].volumeMounts: workers get no API token",
        ),
        (
            worker(env=[{"name": "AWS_SECRET_ACCESS_KEY", "value": "hush"}]),
            ".spec.containers[0].env: AWS_SECRET_ACCESS_KEY holds a secret in plain text; move it to",
        ),
        ({"spec": {"initContainers": [{"image": "x"}]}}, ".spec.initContainers[0].name: is missing"),
        (
            worker(env=[{"name": ["A"], "value": "x"}]),
            ".spec.containers[0].env[0].name: has the wrong type; write a str",
        ),
        (worker(volumeMounts=[{"mountPath": {}}]), ".spec.containers[0].volumeMounts[0].mountPath: has the wrong type"),
        ({"spec": {"containers": [{"name": ["x"]}]}}, ".spec.containers[0].name: has the wrong type; write a string"),
        ({"spec": {"initContainers": [{"name": 5}]}}, ".spec.initContainers[0].name: has the wrong type"),
        ({"spec": {"volumes": [{"name": {"a": 1}}]}}, ".spec.volumes[0].name: has the wrong type; write a string"),
        ({"spec": {"tolerations": [{"key": ["x"]}]}}, ".spec.tolerations[0].key: has the wrong type; write a string"),
        ({"spec": {"tolerations": [{"effect": []}]}}, ".spec.tolerations[0].effect: has the wrong type"),
    ],
)
def test_bad_templates(template: dict[str, Any], line: str) -> None:
    (found,) = problems({POD_TEMPLATE: template})
    assert found.startswith(POD_TEMPLATE + line), found
    assert "hush" not in found


@pytest.mark.parametrize("spec", ["nope", ["nope"], 5, True])
def test_a_template_of_another_shape_mounts_nothing(spec: object) -> None:
    (found,) = problems({POD_TEMPLATE: {"spec": spec}, "spec.storage.url": "file:///data/x"})
    assert found == f"{POD_TEMPLATE}: metadata and spec have the wrong type; write mappings"


@pytest.mark.adversary
@pytest.mark.parametrize("levels", [300, 3000])
@pytest.mark.parametrize("field", [POD_TEMPLATE, "spec.workload.args"])
def test_what_is_nested_too_deeply_is_said(field: str, levels: int) -> None:
    deep: dict[str, Any] = {}
    for _ in range(levels):
        deep = {"spec": deep}
    body = manifest()
    *parents, last = field.split(".")
    at = body
    for part in parents:
        at = at[part]
    at[last] = deep
    with pytest.raises(SpecError) as caught:
        parse(body)
    (found,) = caught.value.problems
    assert re.match(r"spec.*: (can't be read|is nested too deeply).*; write at most 32 levels", found), found


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"metadata.namespace": 5}, "metadata.namespace: has the wrong type; write a string"),
        ({"metadata.labels": ["x"]}, "metadata.labels: has the wrong type; write a mapping"),
        ({"metadata.labels": {"a": 1}}, "metadata.labels.a: has the wrong type; write a string"),
        ({"metadata.generation": "x"}, "metadata.generation: has the wrong type; write a whole number"),
        ({"metadata.creationTimestamp": "now"}, "metadata.creationTimestamp: has the wrong type; write a time such as"),
        ({"metadata.creationTimestamp": "2026-01-01"}, "metadata.creationTimestamp: has the wrong type; write a time"),
    ],
)
def test_bad_metadata(changes: dict[str, Any], line: str) -> None:
    (found,) = problems(changes)
    assert found.startswith(line), found


def test_what_nobody_thought_of_is_a_problem_of_the_object_that_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "rule_problems", lambda *_: 1 / 0)
    with pytest.raises(SpecError, match=r"^spec: can't be read \(ZeroDivisionError\)") as caught:
        parse(manifest())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_a_good_template() -> None:
    template = {
        "metadata": {"labels": {"team": "ml"}},
        "spec": {
            "serviceAccountName": "trainer",
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "containers": [{"name": "worker", "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        },
    }
    found = parse(manifest({POD_TEMPLATE: template, "spec.storage.url": "file:///data/x"}))
    assert found.spec.workers.pod_template == template


def test_this_machine_keeps_files_and_knows_memory() -> None:
    assert parse(manifest({"spec.storage.url": "file:///tmp/x"}), site=LOCAL)
    assert parse(manifest({"spec.storage.url": "memory://x", "spec.workers": {}}), site=LOCAL)
    (found,) = problems({"spec.storage.url": "memory://x"}, LOCAL)
    assert found == "spec.storage.url: memory lives in one process; write one rank, or file:///path"


def test_every_problem_is_listed() -> None:
    found = problems({"metadata.name": "A", "spec.operation": "x", "spec.retries": "y"})
    assert [each.partition(":")[0] for each in found] == ["metadata.name", "spec.operation", "spec.retries"]


def test_a_task_says_what_ranks_need_and_no_more() -> None:
    found = parse(
        manifest({"spec.storage.credentialsSecretRef": {"name": "s3"}, "spec.workers.image": "w", "spec.runId": "7"})
    )
    task = found.task(3)
    assert type(task).model_validate_json(task.to_json()) == task
    assert (task.attempt, task.origin.run_id, task.workers.world_size, task.hang_seconds) == (3, "7", 2, 300)
    assert "image" not in task.to_json()
    assert "credentials" not in task.to_json()


def test_a_probe_is_one_process_without_a_gpu() -> None:
    task = parse(manifest({"spec.workers.device": "cuda"})).task(2, probe=True)
    assert task.probe
    assert (task.workers.world_size, task.workers.device) == (1, Device.CPU)


def test_a_hung_rank_can_be_named_before_the_deadline() -> None:
    assert parse(manifest({"spec.timeouts": {"activeSeconds": 10}})).task(1).hang_seconds == 5


def keyed(url: str, **changes: Any) -> str:
    return parse(manifest({"spec.storage.url": url, **changes}), site=LOCAL).place


OPTIONS = "spec.storage.options"


def test_two_spellings_of_one_place_have_one_key() -> None:
    assert keyed("s3://b/x") == keyed("s3://b//x/") == keyed("s3://b/./x")
    assert keyed("s3://b/x", **{OPTIONS: {"endpointUrl": "http://H:80"}}) == keyed(
        "s3://b/x", **{OPTIONS: {"endpointUrl": "http://h/"}}
    )


def test_two_places_have_two_keys() -> None:
    assert keyed("s3://b/x") != keyed("s3://b/X")
    assert keyed("s3://b/x") != keyed("s3://b/x", **{OPTIONS: {"endpointUrl": "http://h"}})
    one: dict[str, Any] = {"spec.workers": {}}
    assert keyed("memory://x", **one) != keyed("memory://x", **one, **{"metadata.uid": "u"})


def digest(changes: dict[str, Any]) -> str:
    found: Checkpoint = parse(manifest(changes))
    return found.free_form_digest


def test_the_digest_sees_what_the_api_server_can_not_hold_still() -> None:
    assert digest({}) != digest({"spec.workload.args": {"a": 1}})
    assert digest({}) != digest({POD_TEMPLATE: {"spec": {"nodeSelector": {"a": "b"}}}})
    assert digest({}) == digest({"spec.suspend": True, "spec.runId": "2"})


def test_job_names_derive_from_uid_run_and_attempt() -> None:
    found = parse(manifest({"metadata.name": "a" * 63}))
    names = {found.job_name(1), found.job_name(2), parse(manifest({"spec.runId": "2"})).job_name(1)}
    assert len(names) == 3
    assert found.job_name(1) == found.job_name(1)
    assert len(f"{found.job_name(9999)}-4095") <= 63
