"""What a cluster has beside its node: an S3 store, a registry for our images, a name service."""

import secrets
import socket
from pathlib import Path
from typing import Any, Final

from cluster.builds import program
from cluster.controlplane import ControlPlane
from cluster.facts import S3
from cluster.node import CLUSTER_DNS
from cluster.places import cache_dir
from cluster.processes import Processes
from cluster.sandbox import NODE_ADDRESS

REGISTRY: Final = f"{NODE_ADDRESS}:5000"
"""The registry, seen from the machine. containerd knows it as localhost:5000, which it trusts without TLS."""

_S3_PORT: Final = 7070
_BUCKET: Final = "checkpoints"
_REGION: Final = "us-east-1"

_REGISTRY: Final = """version: 0.1
storage:
  filesystem: {{rootdirectory: {root}}}
http: {{addr: ":5000"}}
"""

_COREFILE: Final = """cluster.local in-addr.arpa {{
    bind {address}
    errors
    kubernetes {{
        kubeconfig {kubeconfig}
        ttl 1
    }}
}}
. {{
    bind {address}
    template ANY ANY {{
        rcode NXDOMAIN
    }}
}}
"""


def start_registry(processes: Processes, plane: ControlPlane) -> None:
    """Start the registry on the layers that the cache keeps."""
    path = plane.folder / "registry.yaml"
    path.write_text(_REGISTRY.format(root=cache_dir() / "registry"))
    processes.start("registry", ["docker-registry", "serve", path], {"OTEL_TRACES_EXPORTER": "none"})
    processes.wait("registry", lambda: _listens(NODE_ADDRESS, 5000))


def start_s3(processes: Processes, folder: Path, address: str) -> S3:
    """Start the S3 server on an empty bucket of the run folder, with fresh keys."""
    buckets = folder / "s3"
    (buckets / _BUCKET).mkdir(parents=True, exist_ok=True)
    s3 = S3(f"http://{address}:{_S3_PORT}", _BUCKET, f"key{secrets.token_hex(8)}", secrets.token_hex(20), _REGION)
    command: list[str | Path] = [
        program("versitygw"),
        "--quiet",
        "--port",
        f"{address}:{_S3_PORT}",
        "--region",
        _REGION,
    ]
    keys = {"ROOT_ACCESS_KEY": s3.access_key, "ROOT_SECRET_KEY": s3.secret_key}
    processes.start("versitygw", [*command, "posix", buckets], keys)
    processes.wait("versitygw", lambda: _listens(address, _S3_PORT))
    return s3


def start_dns(processes: Processes, plane: ControlPlane) -> None:
    """Start CoreDNS beside the node and put it behind the Service that every pod's resolver asks."""
    plane.kubectl.apply(_dns_objects())
    path = plane.folder / "Corefile"
    path.write_text(_COREFILE.format(address=NODE_ADDRESS, kubeconfig=plane.kubeconfig("coredns")))
    processes.start("coredns", [program("coredns"), "-conf", path])
    processes.wait("coredns", lambda: _listens(NODE_ADDRESS, 53))


def _listens(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def _dns_objects() -> list[dict[str, Any]]:
    place = {"name": "kube-dns", "namespace": "kube-system"}
    ports = [{"name": protocol.lower(), "port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    watched = [
        {"apiGroups": [""], "resources": ["services", "namespaces", "pods"], "verbs": ["list", "watch"]},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    rbac = "rbac.authorization.k8s.io"
    name = {"name": "system:coredns"}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {**place, "labels": {"k8s-app": "kube-dns"}},
            "spec": {"clusterIP": CLUSTER_DNS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {**place, "labels": {"kubernetes.io/service-name": "kube-dns"}},
            "addressType": "IPv4",
            "ports": ports,
            "endpoints": [{"addresses": [NODE_ADDRESS], "conditions": {"ready": True}}],
        },
        {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": name, "rules": watched},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": name,
            "subjects": [{"apiGroup": rbac, "kind": "User", "name": "coredns"}],
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", **name},
        },
    ]
