"""The NetworkPolicy of an attempt: its ranks talk to one another, to name servers and to stores; nobody else to them.

Policies add up: one of the namespace that lets more in or out holds beside this one, by
`app.kubernetes.io/managed-by: dcp-operator`.
"""

from collections.abc import Iterable
from enum import StrEnum

from dcp_contract.storage_options import CREDENTIAL_KEYS
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import JOB_LABEL
from dcp_operator.api.pod.known_secrets import CREDENTIAL_ENV
from dcp_operator.api.pod.template import TemplateView
from dcp_operator.api.storage_url import METADATA_NETWORKS, Network, protocol


class NetworkIsolation(StrEnum):
    """Whether an attempt gets a NetworkPolicy of its own."""

    ATTEMPT = "attempt"
    """For both directions. Policies add up: in a namespace that denies egress it opens TCP to anywhere."""
    INGRESS = "ingress"
    """For what comes in alone: what goes out is the namespace's own affair."""
    NONE = "none"


def policy_spec(checkpoint: Checkpoint, job_name: str, isolation: NetworkIsolation = NetworkIsolation.ATTEMPT) -> Body:
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
    closed = METADATA_NETWORKS if has_credentials(checkpoint) else ()
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


def has_credentials(checkpoint: Checkpoint) -> bool:
    """Say whether the worker is given credentials, or is to use none: then the node's identity is not its own."""
    storage = checkpoint.spec.storage
    keys = CREDENTIAL_KEYS.get(protocol(storage.url), ())
    by_secret = storage.credentials_secret_ref is not None and bool(keys)
    given = TemplateView.of(checkpoint.spec.workers.pod_template).worker_env
    by_template = any(entry.get("name") in CREDENTIAL_ENV for entry in given)
    return by_secret or by_template or bool(storage.options.get("anon"))
