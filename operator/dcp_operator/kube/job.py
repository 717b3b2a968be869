"""An attempt's objects: headless Service, NetworkPolicy and Indexed Job. Deterministic: the same in, the same out.

The Job retries nothing by itself: `backoffLimitPerIndex: 0` lets the other pods of a failed one end by themselves, with
their Reports, where `backoffLimit: 0` would have them deleted. Its deadline is a backstop for a time when no operator
runs, and it has no TTL: a Job goes only after its Report stands in the status.
"""

from dataclasses import dataclass
from typing import Any, Final

from dcp_operator.checkpoint.naming import (
    API_VERSION,
    ATTEMPT_LABEL,
    CHECKPOINT_LABEL,
    JOB_LABEL,
    KIND,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    PROBE_LABEL,
    QUEUE_LABEL,
    RUN_LABEL,
    UID_LABEL,
    WORKER_CONTAINER,
)
from dcp_operator.checkpoint.pod_template import merged
from dcp_operator.checkpoint.spec import Checkpoint
from dcp_operator.checkpoint.storage_url import protocol
from dcp_operator.decision.actions import CreateAttempt
from dcp_worker.contract import (
    CA_ENV,
    CA_KEY,
    CREDENTIAL_KEYS,
    CREDENTIALS_ENV,
    MASTER_ADDR_ENV,
    MASTER_PORT_ENV,
    POD_REPORTS_LIMIT,
    REPORT_LIMIT,
    REPORT_LIMIT_ENV,
    TASK_ENV,
    Device,
)

Body = dict[str, Any]

MASTER_PORT: Final = 29500
GPU: Final = "nvidia.com/gpu"
_USER: Final = 65532
_BACKSTOP_SECONDS: Final = 300
_LOST_NODE_SECONDS: Final = 60
"""How long a node may be silent before its pods are given up; Kubernetes' own default is five minutes."""
_REPORT_SECONDS: Final = 60
"""How long terminated ranks have to stop, abort their uploads and report."""
_INJECTED: Final = 2
"""Containers that an admission webhook may add to a pod: a proxy, and what sets it up."""


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Makes the objects of attempts, as the operator is configured."""

    image: str
    """Worker image of a Checkpoint that names none."""

    def objects(self, checkpoint: Checkpoint, action: CreateAttempt) -> tuple[Body, ...]:
        """Return what to create, in this order: the Job is last, so that where it is, the others are."""
        service = (_service(checkpoint, action),) if action.task.workers.num_nodes > 1 else ()
        return (*service, _network_policy(checkpoint, action), _job(checkpoint, action, self.image))


def _service(checkpoint: Checkpoint, action: CreateAttempt) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(checkpoint, action),
        "spec": {
            "clusterIP": "None",
            # Ranks look for rank 0 before its pod could be called ready.
            "publishNotReadyAddresses": True,
            "selector": {JOB_LABEL: action.job_name},
            "ports": [{"name": "rendezvous", "port": MASTER_PORT, "protocol": "TCP"}],
        },
    }


def _network_policy(checkpoint: Checkpoint, action: CreateAttempt) -> Body:
    """Let the ranks of one attempt talk to one another, to DNS and to stores, and nobody else talk to them.

    A store's port can't be named: behind a Service it is the pod's. Link-local addresses, where clouds hand out the
    node's identity, are open only to a worker that has no credentials of its own.
    """
    ranks = {"podSelector": {"matchLabels": {JOB_LABEL: action.job_name}}}
    storage = checkpoint.spec.storage
    closed = storage.credentials_secret_ref is not None or bool(storage.options.get("anon"))
    blocks: list[Body] = [{"cidr": "0.0.0.0/0"}, {"cidr": "::/0"}]
    if closed:
        blocks = [{"cidr": "0.0.0.0/0", "except": ["169.254.0.0/16"]}, {"cidr": "::/0", "except": ["fe80::/10"]}]
    dns = [{"protocol": each, "port": 53} for each in ("UDP", "TCP")]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(checkpoint, action),
        "spec": {
            "podSelector": ranks["podSelector"],
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [ranks], "ports": [{"protocol": "TCP"}]}],
            "egress": [
                {"to": [ranks], "ports": [{"protocol": "TCP"}]},
                {"ports": dns},
                {"to": [{"ipBlock": block} for block in blocks], "ports": [{"protocol": "TCP"}]},
            ],
        },
    }


def _job(checkpoint: Checkpoint, action: CreateAttempt, default_image: str) -> Body:
    timeouts, nodes = checkpoint.spec.timeouts, action.task.workers.num_nodes
    metadata = _metadata(checkpoint, action)
    if checkpoint.queue:
        metadata["labels"] |= {QUEUE_LABEL: checkpoint.queue}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {
            "completionMode": "Indexed",
            "completions": nodes,
            "parallelism": nodes,
            "backoffLimitPerIndex": 0,
            "podReplacementPolicy": "Failed",
            "activeDeadlineSeconds": timeouts.start_seconds + timeouts.active_seconds + _BACKSTOP_SECONDS,
            "suspend": action.suspend,
            "template": _pod_template(checkpoint, action, default_image),
        },
    }


def _pod_template(checkpoint: Checkpoint, action: CreateAttempt, default_image: str) -> Body:
    """Return the user's template with ours merged over it."""
    pod: Body = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # As its container's process 1 the launcher would never get a SIGTERM that comes before Python can take it: the
        # kernel drops it, and the pod would hold its GPUs until its grace is over.
        "shareProcessNamespace": True,
        "terminationGracePeriodSeconds": _REPORT_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "tolerations": [
            {"key": f"node.kubernetes.io/{trouble}", "operator": "Exists", "effect": "NoExecute"}
            | {"tolerationSeconds": _LOST_NODE_SECONDS}
            for trouble in ("not-ready", "unreachable")
        ],
        "volumes": [
            {"name": "dcp-tmp", "emptyDir": {}},
            {"name": "dcp-shm", "emptyDir": {"medium": "Memory"}},
        ],
        "containers": [_container(checkpoint, action, default_image)],
    }
    if action.task.workers.num_nodes > 1:
        pod["subdomain"] = action.job_name
    ours = {"metadata": {"labels": _labels(checkpoint, action)}, "spec": pod}
    template = merged(checkpoint.spec.workers.pod_template, ours)
    for kind in ("initContainers", "containers"):
        for container in template["spec"].get(kind, ()):
            container["securityContext"] = _restricted()
    _set_gpus(template, action)
    _set_report_limit(template)
    return template


def _container(checkpoint: Checkpoint, action: CreateAttempt, default_image: str) -> Body:
    environment = {
        TASK_ENV: action.task.to_json(),
        MASTER_ADDR_ENV: f"{action.job_name}-0.{action.job_name}" if action.task.workers.num_nodes > 1 else "127.0.0.1",
        MASTER_PORT_ENV: str(MASTER_PORT),
        # The root file system is read-only: whoever caches (torch, matplotlib, Hugging Face) caches here.
        "HOME": "/tmp",  # noqa: S108 - the pod's own emptyDir
    }
    return {
        "name": WORKER_CONTAINER,
        "image": checkpoint.spec.workers.image or default_image,
        "command": ["python", "-m", "dcp_worker"],
        # Kubernetes reads $(NAME) in a value as a reference; a doubled $ is a plain one.
        "env": [{"name": name, "value": value.replace("$", "$$")} for name, value in environment.items()]
        + _credentials(checkpoint),
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "volumeMounts": [
            {"name": "dcp-tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own emptyDir
            {"name": "dcp-shm", "mountPath": "/dev/shm"},  # noqa: S108 - the pod's own emptyDir
        ],
    }


def _credentials(checkpoint: Checkpoint) -> list[Body]:
    """Return the Secret's known keys as references: their values never pass through the operator."""
    reference = checkpoint.spec.storage.credentials_secret_ref
    if reference is None:
        return []
    keys = CREDENTIAL_KEYS.get(protocol(checkpoint.spec.storage.url), ())
    if not keys:
        return []
    names = {key: key for key in keys} | {CA_ENV: CA_KEY}
    # No key need be there, so no reference can be required: the launcher says it where none was.
    return [{"name": CREDENTIALS_ENV, "value": reference.name}] + [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": reference.name, "key": key, "optional": True}}}
        for name, key in names.items()
    ]


def _set_gpus(template: Body, action: CreateAttempt) -> None:
    """Ask for one GPU per rank where the template asks for no other number; a probe needs none."""
    worker = next(each for each in template["spec"]["containers"] if each["name"] == WORKER_CONTAINER)
    asked = [section for section in ("limits", "requests") if GPU in worker.get("resources", {}).get(section, {})]
    if action.task.probe:
        for section in asked:
            del worker["resources"][section][GPU]
    elif action.task.workers.device is Device.CUDA and not asked:
        worker.setdefault("resources", {}).setdefault("limits", {})[GPU] = action.task.workers.num_proc_per_node


def _set_report_limit(template: Body) -> None:
    """Tell the launcher how much of its Report the kubelet will keep, where that is less than it reads."""
    containers = sum(len(template["spec"].get(kind, ())) for kind in ("initContainers", "containers")) + _INJECTED
    limit = POD_REPORTS_LIMIT // containers
    if limit < REPORT_LIMIT:
        worker = next(each for each in template["spec"]["containers"] if each["name"] == WORKER_CONTAINER)
        worker["env"].append({"name": REPORT_LIMIT_ENV, "value": str(limit)})


def _restricted() -> Body:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
    }


def _metadata(checkpoint: Checkpoint, action: CreateAttempt) -> Body:
    return {
        "name": action.job_name,
        "namespace": checkpoint.namespace,
        "labels": _labels(checkpoint, action),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": checkpoint.name,
                "uid": checkpoint.uid,
                "controller": True,
            }
        ],
    }


def _labels(checkpoint: Checkpoint, action: CreateAttempt) -> dict[str, str]:
    labels = {
        MANAGED_BY_LABEL: MANAGED_BY,
        CHECKPOINT_LABEL: checkpoint.name,
        UID_LABEL: checkpoint.uid,
        ATTEMPT_LABEL: str(action.attempt),
        JOB_LABEL: action.job_name,
    }
    if checkpoint.spec.run_id:
        labels[RUN_LABEL] = checkpoint.spec.run_id
    if action.task.probe:
        labels[PROBE_LABEL] = "true"
    return labels
