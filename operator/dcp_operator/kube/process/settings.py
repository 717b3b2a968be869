"""What the Deployment may say about the operator; the rest is decided in the code."""

import difflib
import os
import re
import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from dcp_contract.training import TRAINING_PORT
from dcp_operator.api.pod.rules import PodSecurity
from dcp_operator.api.site import CLUSTER, Site
from dcp_operator.api.storage_url import DEFAULT_PROTOCOLS
from dcp_operator.objects.job import NetworkIsolation
from dcp_operator.objects.worker_pod import WORKER_UID

NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_CLUSTER_ID: Final = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_IMAGE: Final = re.compile(r"\S{1,512}")
_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespace() -> str:
    """Return the namespace that this pod runs in; `default` outside of a cluster."""
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"


def own_identity() -> str:
    """Return a name for this process that no other replica has, nor an earlier process of the same pod."""
    pod = os.environ.get("POD_NAME") or socket.gethostname()
    return f"{pod}_{uuid.uuid4().hex[:8]}"


class SettingError(ValueError):
    """An option whose value can't be meant; it says what to write."""


def split(values: Iterable[str]) -> tuple[str, ...]:
    """Return the words of a repeated option or of a variable, which people part by blanks or by commas; each once."""
    return tuple(dict.fromkeys(word for value in values for word in re.split(r"[\s,]+", value) if word))


def protocols(values: Iterable[str]) -> tuple[str, ...]:
    """Return the protocols of an option.

    Raises:
        SettingError: One is unknown. It would be accepted in no URL, and all the others would be refused with it.
    """
    found = split(values)
    for each in found:
        if each not in DEFAULT_PROTOCOLS:
            near = difflib.get_close_matches(each.partition(":")[0].lower(), DEFAULT_PROTOCOLS, n=1)
            raise SettingError(f"{each!r} is no protocol; write {near[0] if near else ' '.join(DEFAULT_PROTOCOLS)}")
    return found


def namespaces(values: Iterable[str]) -> tuple[str, ...]:
    """Return the namespaces of an option.

    Raises:
        SettingError: One can't be the name of a namespace: its watch would fail for ever.
    """
    found = split(values)
    for each in found:
        if not NAMESPACE.fullmatch(each):
            raise SettingError(f"{each!r} is no name of a namespace; write at most 63 of a-z, 0-9 and '-'")
    return found


def image(value: str) -> str:
    """Return the image of an option, without blanks around it.

    Raises:
        SettingError: It can't be the name of an image: every Job without one of its own would be refused.
    """
    found = value.strip()
    if not _IMAGE.fullmatch(found):
        raise SettingError(f"{value!r} is no image; write one such as registry.example.com/dcp-worker:1.0")
    return found


def cluster_id(value: str) -> str:
    """Return the id of an option.

    Raises:
        SettingError: It would stand in no manifest.
    """
    if value and not _CLUSTER_ID.fullmatch(value):
        raise SettingError(f"{value!r} is no id of a cluster; write at most 63 of A-Z, a-z, 0-9, '.', '_' and '-'")
    return value


def channel_url(value: str) -> str:
    """Return the URL of an option.

    Raises:
        SettingError: No agent could connect by it.
    """
    found = urlsplit(value)
    if value and (found.scheme != "https" or not found.hostname or found.path not in {"", "/"}):
        raise SettingError(f"{value!r} is no address; write one such as https://dcp-operator.dcp-operator.svc:8443")
    return value.rstrip("/")


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
        channel_port: Where the agents of trainings connect to; 0 for nowhere.
        channel_url: Under which they reach it; empty means the Service `dcp-operator`.
        cluster_id: Id of the cluster; empty means the uid of its namespace kube-system, as far as that may be read.
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
    channel_port: int = TRAINING_PORT
    channel_url: str = ""
    cluster_id: str = ""

    @property
    def site(self) -> Site:
        """What is accepted of a spec."""
        protocols = self.protocols or CLUSTER.protocols
        known = {"cluster_id": self.cluster_id, "knows_cluster": bool(self.cluster_id)}
        return CLUSTER.model_copy(update={"protocols": protocols, "pod_security": self.pod_security, **known})
