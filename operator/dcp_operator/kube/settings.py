"""What the Deployment may say about the operator; the rest is decided in the code."""

import os
import socket
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dcp_operator.checkpoint.pod_rules import PodSecurity
from dcp_operator.kube.network import NetworkIsolation
from dcp_operator.kube.worker_pod import WORKER_UID

_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespace() -> str:
    """Return the namespace that this pod runs in; `default` outside of a cluster."""
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"


def own_identity() -> str:
    """Return a name for this process that no other replica has, nor an earlier process of the same pod."""
    pod = os.environ.get("POD_NAME") or socket.gethostname()
    return f"{pod}_{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class Settings:
    """How this operator runs.

    Args:
        namespaces: Which namespaces are served; empty means all.
        worker_image: The image of workers whose spec names none.
        protocols: Which storage URLs are accepted.
        workers: Checkpoints reconciled at the same time.
        port: Where the probes and the metrics are served; 0 for nowhere.
        elect: Whether to wait for the Lease before working.
        lease_namespace: Where the Lease is.
        lease_name: What it is called.
        pod_security: Who judges what a worker pod may do to its node.
        worker_uid: User, group and fsGroup of worker pods whose template names none; None leaves them to the cluster.
        isolation: Whether each attempt gets a NetworkPolicy of its own.
    """

    worker_image: str
    namespaces: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()
    workers: int = 32
    port: int = 8080
    elect: bool = True
    lease_namespace: str = field(default_factory=own_namespace)
    lease_name: str = "dcp-operator"
    identity: str = field(default_factory=own_identity)
    pod_security: PodSecurity = PodSecurity.RESTRICTED
    worker_uid: int | None = WORKER_UID
    isolation: NetworkIsolation = NetworkIsolation.ATTEMPT
