"""The pod template of an attempt: the user's, with ours merged over it; a probe's asks for little."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dcp_contract.environment import (
    CA_ENV,
    CA_KEY,
    CREDENTIALS_ENV,
    MASTER_ADDR_ENV,
    MASTER_PORT_ENV,
    POD_REPORTS_LIMIT,
    REPORT_LIMIT,
    REPORT_LIMIT_ENV,
    TASK_ENV,
)
from dcp_contract.sections import Device
from dcp_contract.storage_options import CREDENTIAL_KEYS
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import WORKER_CONTAINER
from dcp_operator.api.pod.rules import HOST_FIELDS, PodSecurity
from dcp_operator.api.pod.security_context import CONTAINER_PROFILE, POD_PROFILE, USER_IDS, permitted
from dcp_operator.api.pod.template import TemplateView, merged
from dcp_operator.api.storage_url import protocol
from dcp_operator.controllers.checkpoint.actions import CreateAttempt

MASTER_PORT: Final = 29500
WORKER_UID: Final = 65532
"""Who the images are built for."""
_LOST_NODE_SECONDS: Final = 60
"""How long a node may be silent before its pods are given up; Kubernetes' own default is five minutes."""
_REPORT_SECONDS: Final = 60
"""How long terminated ranks have to stop, abort their uploads and report."""
_INJECTED: Final = 2
"""Containers that an admission webhook may add to a pod: a proxy, and what sets it up."""
_SCRATCH: Final[Mapping[str, Body]] = {
    "/tmp": {"name": "dcp-tmp", "emptyDir": {}},  # noqa: S108 - the pod's own emptyDir
    "/dev/shm": {"name": "dcp-shm", "emptyDir": {"medium": "Memory"}},  # noqa: S108 - the pod's own emptyDir
}
"""Volumes of every worker by where they are mounted. A template's own mount there, or volume of that name, wins."""
_GPU: Final = re.compile(r"gpu|/mig-", re.IGNORECASE)
"""Names of GPUs as extended resources: nvidia.com/gpu, nvidia.com/gpu.shared, nvidia.com/mig-1g.10gb, amd.com/gpu,
gpu.intel.com/i915, aliyun.com/gpu-mem."""
_PER_RANK: Final = {"cpu": (100, "m"), "memory": (512, "Mi")}
"""Requests of a worker whose template says nothing of them: a pod without any is the first to be evicted."""
_PROBE: Final = {"cpu": "500m", "memory": "1Gi"}
_PROBE_LIMITS: Final = {"cpu": "2", "memory": "2Gi"}
"""Where the template has limits: a quota may ask for them."""
_PORTABLE: Final = re.compile(r"(kubernetes\.io/(os|arch)|topology\.kubernetes\.io/(zone|region))")
"""Labels of nodes that say nothing of their GPUs."""


@dataclass(frozen=True, kw_only=True)
class PodSettings:
    """What the operator's options say of every worker pod."""

    image: str
    """Worker image of a Checkpoint that names none."""
    security: PodSecurity = PodSecurity.RESTRICTED
    user: int | None = WORKER_UID
    """User, group and fsGroup of pods whose template names none; None leaves them to the cluster."""


def pod_template(checkpoint: Checkpoint, action: CreateAttempt, labels: Body, settings: PodSettings) -> Body:
    """Return the user's template with ours merged over it."""
    theirs: Body = copy.deepcopy(checkpoint.spec.workers.pod_template)
    if action.task.probe:
        theirs = _for_probe(theirs, keep_place=protocol(checkpoint.spec.storage.url) == "file")
    view = TemplateView.of(theirs)
    ours = {"metadata": {"labels": labels}, "spec": _pod(checkpoint, action, view, settings.image)}
    template = merged(theirs, ours)
    _secure(template["spec"], view.pod, settings)
    _set_resources(template["spec"], checkpoint, action)
    _set_report_limit(template["spec"])
    return template


def _pod(checkpoint: Checkpoint, action: CreateAttempt, theirs: TemplateView, image: str) -> Body:
    pod: Body = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "nodeSelector": {"kubernetes.io/os": "linux"},
        # As its container's process 1 the launcher would never get a SIGTERM that comes before Python can take it: the
        # kernel drops it, and the pod would hold its GPUs until its grace is over.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": _REPORT_SECONDS,
        "tolerations": [
            {"key": f"node.kubernetes.io/{trouble}", "operator": "Exists", "effect": "NoExecute"}
            | {"tolerationSeconds": _LOST_NODE_SECONDS}
            for trouble in ("not-ready", "unreachable")
        ],
        "volumes": [],
    }
    scratch = {path: volume for path, volume in _SCRATCH.items() if path not in theirs.mounted_paths}
    known = {volume.get("name") for _, volume in theirs.volumes}
    pod["volumes"] = [copy.deepcopy(volume) for volume in scratch.values() if volume["name"] not in known]
    mounts = [{"name": volume["name"], "mountPath": path} for path, volume in scratch.items()]
    pod["containers"] = [_container(checkpoint, action, theirs, image) | {"volumeMounts": mounts}]
    account = checkpoint.spec.storage.service_account_name
    if account and not (theirs.pod.get("serviceAccountName") or theirs.pod.get("serviceAccount")):
        pod["serviceAccountName"] = account
    if action.task.workers.num_nodes > 1:
        pod["subdomain"] = action.job_name
    if theirs.pod.get("hostNetwork") and not theirs.pod.get("dnsPolicy"):
        # On the node's network the node's name servers would be asked, which know no rank and no Service.
        pod["dnsPolicy"] = "ClusterFirstWithHostNet"
    return pod


def _container(checkpoint: Checkpoint, action: CreateAttempt, theirs: TemplateView, image: str) -> Body:
    nodes = action.task.workers.num_nodes
    ours = {
        TASK_ENV: action.task.to_json(),
        MASTER_ADDR_ENV: f"{action.job_name}-0.{action.job_name}" if nodes > 1 else "127.0.0.1",
        MASTER_PORT_ENV: str(MASTER_PORT),
    }
    defaults = {
        # The root file system is read-only: whoever caches (torch, matplotlib, Hugging Face) caches here.
        "HOME": "/tmp",  # noqa: S108 - the pod's own emptyDir
        # torch asks for the user's name, and a uid that the image does not know has none.
        "USER": "nonroot",
    }
    given = {entry.get("name") for entry in theirs.worker_env}
    environment = ours | {name: value for name, value in defaults.items() if name not in given}
    return {
        "name": WORKER_CONTAINER,
        "image": checkpoint.spec.workers.image or image,
        "command": ["python", "-m", "dcp_worker"],
        # Kubernetes reads $(NAME) in a value as a reference; a doubled $ is a plain one.
        "env": [{"name": name, "value": value.replace("$", "$$")} for name, value in environment.items()]
        + _credentials(checkpoint),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    }


def _credentials(checkpoint: Checkpoint) -> list[Body]:
    """Return the Secrets' known keys as references: their values never pass through the operator."""
    storage = checkpoint.spec.storage
    keys = CREDENTIAL_KEYS.get(protocol(storage.url), ())
    secret, authorities = storage.credentials_secret_ref, storage.ca_secret_ref or storage.credentials_secret_ref
    if not keys:
        return []
    # No key need be there, so no reference can be required: the launcher says it where none was.
    wanted = [(secret, key, key) for key in keys] + [(authorities, CA_ENV, CA_KEY)]
    found: list[Body] = [{"name": CREDENTIALS_ENV, "value": secret.name}] if secret is not None else []
    return found + [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": reference.name, "key": key, "optional": True}}}
        for reference, name, key in wanted
        if reference is not None
    ]


def _secure(pod: Body, theirs: Mapping[str, Any], settings: PodSettings) -> None:
    """Set the restricted profile; what a template may say of it, its author has said."""
    judged = settings.security is PodSecurity.RESTRICTED
    if judged:
        for field in HOST_FIELDS:
            pod.pop(field, None)
    users = dict.fromkeys(USER_IDS, settings.user) if settings.user is not None else {}
    profile: Body = {"runAsNonRoot": True, **users, "fsGroupChangePolicy": "OnRootMismatch"}
    said = theirs.get("securityContext") or {}
    pod["securityContext"] = _context(profile | copy.deepcopy(dict(POD_PROFILE)), said, POD_PROFILE, judged=judged)
    for kind in ("initContainers", "containers"):
        for container in pod.get(kind) or ():
            ours = copy.deepcopy(dict(CONTAINER_PROFILE))
            asked = container.get("securityContext") or {}
            if not judged:
                _give_way(ours, said, asked)
            container["securityContext"] = _context(ours, asked, CONTAINER_PROFILE, judged=judged)


def _context(ours: Body, theirs: Mapping[str, Any], profile: Mapping[str, object], *, judged: bool) -> Body:
    """Return a securityContext: theirs over ours where it may be; null leaves a field to the cluster."""
    result = ours
    for key, value in theirs.items():
        if value is None and (key in USER_IDS or not judged):
            result.pop(key, None)
        elif value is not None and (not judged or permitted(key, value, profile)):
            both = isinstance(value, Mapping) and key == "capabilities"
            result[key] = {**result[key], **value} if both else copy.deepcopy(value)
    return result


def _give_way(ours: Body, pod: Mapping[str, Any], container: Mapping[str, Any]) -> None:
    """Drop those of our defaults that would undo, or contradict, what a template asks for."""
    if "runAsNonRoot" in pod or pod.get("runAsUser") == 0 or container.get("runAsUser") == 0:
        ours.pop("runAsNonRoot")
    added = (container.get("capabilities") or {}).get("add") or ()
    if container.get("privileged") or "SYS_ADMIN" in added:
        ours.pop("allowPrivilegeEscalation")


def _set_report_limit(pod: Body) -> None:
    """Tell the launcher how much of its Report the kubelet will keep, where that is less than it reads."""
    containers = sum(len(pod.get(kind) or ()) for kind in ("initContainers", "containers")) + _INJECTED
    limit = POD_REPORTS_LIMIT // containers
    if limit < REPORT_LIMIT:
        worker = next(each for each in pod["containers"] if each["name"] == WORKER_CONTAINER)
        worker["env"].append({"name": REPORT_LIMIT_ENV, "value": str(limit)})


def _set_resources(pod: Body, checkpoint: Checkpoint, action: CreateAttempt) -> None:
    """Fill in what the worker's container asks for, where its template leaves it open."""
    worker = next(each for each in pod["containers"] if each["name"] == WORKER_CONTAINER)
    workers = action.task.workers
    resources = {key: value for key, value in (worker.get("resources") or {}).items() if value is not None}
    asked = {name for section in ("limits", "requests") for name in resources.get(section, {})}
    if action.task.probe:
        limits = {name: value for name, value in _PROBE_LIMITS.items() if name in resources.get("limits", {})}
        worker["resources"] = {"requests": dict(_PROBE)} | ({"limits": limits} if limits else {})
        return
    gpu = checkpoint.spec.workers.gpu_resource
    has_gpu = bool(resources.get("claims")) or gpu in asked or any("/" in name and _GPU.search(name) for name in asked)
    if workers.device is Device.CUDA and not has_gpu:
        resources["limits"] = {**resources.get("limits", {}), gpu: workers.num_proc_per_node}
    # Requests of containers have to fit into those of the pod.
    if not pod.get("resources"):
        ranks = workers.num_proc_per_node
        missing = {name: f"{each * ranks}{unit}" for name, (each, unit) in _PER_RANK.items() if name not in asked}
        if missing:
            resources["requests"] = {**resources.get("requests", {}), **missing}
    if resources:
        worker["resources"] = resources


def _for_probe(template: Mapping[str, Any], *, keep_place: bool) -> Body:
    """Return a template of a pod that needs no GPU, and that any node may run.

    Args:
        template: The user's.
        keep_place: Whether it has to run where the workers do, for the sake of their volumes.
    """
    result: Body = copy.deepcopy(dict(template))
    pod = result.get("spec") or {}
    for field in ("resources", "resourceClaims"):
        pod.pop(field, None)
    if _GPU.search(str(pod.get("runtimeClassName"))) or "nvidia" in str(pod.get("runtimeClassName")):
        pod.pop("runtimeClassName")
    if not keep_place:
        for field in ("affinity", "topologySpreadConstraints"):
            pod.pop(field, None)
        selector = {key: value for key, value in (pod.pop("nodeSelector", None) or {}).items() if _portable(key)}
        pod |= {"nodeSelector": selector} if selector else {}
    for kind in ("containers", "initContainers"):
        for container in pod.get(kind) or ():
            resources = container.get("resources") or {}
            resources.pop("claims", None)
            for section in resources.values():
                for name in [name for name in section or () if "/" in name]:
                    del section[name]
    return result


def _portable(label: str) -> bool:
    return _PORTABLE.fullmatch(label) is not None
