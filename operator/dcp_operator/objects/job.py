"""An attempt's objects: headless Service, NetworkPolicy and Indexed Job. Deterministic: the same in, the same out.

The Job retries nothing by itself: `backoffLimitPerIndex: 0` lets the other pods of a failed one end by themselves, with
their Reports, where `backoffLimit: 0` would have them deleted. Its deadline is a backstop for a time when no operator
runs, and it has no TTL: a Job goes only after its Report stands in the status.

By the NetworkPolicy its ranks talk to one another, to name servers and to stores; nobody else talks to them. Policies
add up: one of the namespace that lets more in or out holds beside this one, by `app.kubernetes.io/managed-by:
dcp-operator`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from dcp_contract.storage_options import CREDENTIAL_KEYS
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import (
    API_VERSION,
    ATTEMPT_LABEL,
    CHECKPOINT_LABEL,
    GENERATION_ANNOTATION,
    JOB_LABEL,
    KIND,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    PROBE_LABEL,
    RUN_LABEL,
    SPEC_ANNOTATION,
    UID_LABEL,
)
from dcp_operator.api.pod.known_secrets import CREDENTIAL_ENV
from dcp_operator.api.pod.rules import PodSecurity
from dcp_operator.api.pod.template import TemplateView
from dcp_operator.api.storage_url import METADATA_NETWORKS, Network, protocol
from dcp_operator.controllers.checkpoint.actions import CreateAttempt
from dcp_operator.objects.worker_pod import MASTER_PORT, WORKER_UID, PodSettings, pod_template

_BACKSTOP_SECONDS: Final = 300


class NetworkIsolation(StrEnum):
    """Whether an attempt gets a NetworkPolicy of its own."""

    ATTEMPT = "attempt"
    """For both directions. Policies add up: in a namespace that denies egress it opens TCP to anywhere."""
    INGRESS = "ingress"
    """For what comes in alone: what goes out is the namespace's own affair."""
    NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Makes the objects of attempts, as the operator is configured."""

    image: str
    """Worker image of a Checkpoint that names none."""
    security: PodSecurity = PodSecurity.RESTRICTED
    user: int | None = WORKER_UID
    """User, group and fsGroup of pods whose template names none; None leaves them to the cluster."""
    isolation: NetworkIsolation = NetworkIsolation.ATTEMPT

    def objects(self, checkpoint: Checkpoint, action: CreateAttempt) -> tuple[Body, ...]:
        """Return what to create, in this order: the Job is last, so that where it is, the others are."""
        settings = PodSettings(image=self.image, security=self.security, user=self.user)
        found = [_service(checkpoint, action)] if action.task.workers.num_nodes > 1 else []
        if self.isolation is not NetworkIsolation.NONE:
            found.append(_network_policy(checkpoint, action, self.isolation))
        return (*found, _job(checkpoint, action, settings))


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


def _network_policy(checkpoint: Checkpoint, action: CreateAttempt, isolation: NetworkIsolation) -> Body:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(checkpoint, action),
        "spec": _policy_spec(checkpoint, action.job_name, isolation),
    }


def _policy_spec(checkpoint: Checkpoint, job_name: str, isolation: NetworkIsolation) -> Body:
    """Return the policy's spec for the pods of a Job.

    A store's port can't be named: behind a Service it is the pod's. An ipBlock means addresses outside of the cluster,
    and some network plugins take that at its word (Cilium): the peers of every namespace are named beside it.
    """
    ranks: Body = {"podSelector": {"matchLabels": {JOB_LABEL: job_name}}}
    inward: Body = {
        "podSelector": ranks["podSelector"],
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [ranks], "ports": [{"protocol": "TCP"}]}],
    }
    if isolation is NetworkIsolation.INGRESS:
        return inward
    # A worker that has credentials has no use for the addresses that hand out the identity of its node.
    closed = METADATA_NETWORKS if _has_credentials(checkpoint) else ()
    blocks = [_block("0.0.0.0/0", 4, closed), _block("::/0", 6, closed)]
    dns = [{"protocol": each, "port": 53} for each in ("UDP", "TCP")]
    return {
        **inward,
        "policyTypes": ["Ingress", "Egress"],
        "egress": [
            {"to": [ranks], "ports": [{"protocol": "TCP"}]},
            {"ports": dns},
            {
                "to": [*({"ipBlock": block} for block in blocks), {"namespaceSelector": {}}],
                "ports": [{"protocol": "TCP"}],
            },
        ],
    }


def _block(everything: str, version: int, closed: Iterable[Network]) -> Body:
    """Return a block of all addresses but those that are closed."""
    but = [str(network) for network in closed if network.version == version]
    return {"cidr": everything} | ({"except": but} if but else {})


def _has_credentials(checkpoint: Checkpoint) -> bool:
    """Say whether the worker is given credentials, or is to use none: then the node's identity is not its own."""
    storage = checkpoint.spec.storage
    keys = CREDENTIAL_KEYS.get(protocol(storage.url), ())
    by_secret = storage.credentials_secret_ref is not None and bool(keys)
    given = TemplateView.of(checkpoint.spec.workers.pod_template).worker_env
    by_template = any(entry.get("name") in CREDENTIAL_ENV for entry in given)
    return by_secret or by_template or bool(storage.options.get("anon"))


def _job(checkpoint: Checkpoint, action: CreateAttempt, settings: PodSettings) -> Body:
    timeouts, nodes = checkpoint.spec.timeouts, action.task.workers.num_nodes
    metadata = _metadata(checkpoint, action)
    metadata["annotations"] = {
        GENERATION_ANNOTATION: str(checkpoint.generation),
        SPEC_ANNOTATION: checkpoint.free_form_digest,
    }
    if action.suspend:
        metadata["labels"] |= checkpoint.queue_labels
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
            "template": pod_template(checkpoint, action, _labels(checkpoint, action), settings),
        },
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
