"""What each reason means: the phase that it stands for, its documentation, and what its reader does next."""

from dataclasses import dataclass
from typing import Final

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import Phase


@dataclass(frozen=True)
class Meaning:
    """A row of the table of reasons: it is the documentation as well."""

    phase: Phase
    doc: str
    advice: str = ""
    """What the person who reads it does next."""
    retriable: bool = False


REASONS: Final[dict[Reason, Meaning]] = {
    Reason.SAVED: Meaning(Phase.SUCCEEDED, "The checkpoint is committed."),
    Reason.LOADED: Meaning(Phase.SUCCEEDED, "Every rank loaded the checkpoint."),
    Reason.VERIFIED: Meaning(Phase.SUCCEEDED, "Every byte of the checkpoint was read and is as it was saved."),
    Reason.OVERWRITE_CONFLICT: Meaning(
        Phase.CONFLICT,
        "The URL holds another committed checkpoint.",
        "Write another spec.storage.url, or save.ifExists: Replace, in a new Checkpoint.",
    ),
    Reason.INVALID_SPEC: Meaning(
        Phase.FAILED,
        "The spec holds what the operator or the worker can't work on; the message names the fields.",
        "Mend the named fields and apply the Checkpoint again.",
    ),
    Reason.ENTRYPOINT_ERROR: Meaning(
        Phase.FAILED,
        "The workload could not be imported or built.",
        "Look at status.failure.traceback, mend the workload or the image, and apply a new Checkpoint.",
    ),
    Reason.RANK_FAILED: Meaning(
        Phase.FAILED,
        "A rank raised an exception or was killed by a signal.",
        "Look at status.failure.traceback and the pod's log.",
        retriable=True,
    ),
    Reason.RANK_HUNG: Meaning(
        Phase.FAILED,
        "A rank made no progress. The message names the rank and the stage that it was in.",
        "Look at that rank's node and at the store's latency.",
        retriable=True,
    ),
    Reason.OUT_OF_MEMORY: Meaning(
        Phase.FAILED,
        "The kernel killed a worker at its memory limit.",
        "Raise resources.limits.memory in spec.workers.podTemplate, or use more ranks.",
        retriable=True,
    ),
    Reason.WORKER_LOST: Meaning(
        Phase.FAILED,
        "A worker pod went away: preempted, drained, evicted, deleted, or its node was lost.",
        "Look at the node and at who deletes pods; a preempted attempt is repeated and not counted.",
        retriable=True,
    ),
    Reason.IMAGE_PULL_FAILED: Meaning(
        Phase.FAILED,
        "The kubelet can't pull the worker image.",
        "Mend spec.workers.image or its pull secret, and apply a new Checkpoint.",
    ),
    Reason.UNSCHEDULABLE: Meaning(
        Phase.STARTING,
        "The scheduler finds no node for a worker pod. The attempt ends as StartTimeout if none is found in time.",
        "Add nodes, or mend resources, nodeSelector or tolerations in spec.workers.podTemplate.",
    ),
    Reason.START_TIMEOUT: Meaning(
        Phase.FAILED,
        "Not every worker pod ran within timeouts.startSeconds.",
        "Mend what keeps the pods, or raise timeouts.startSeconds; change spec.runId to run again.",
    ),
    Reason.DEADLINE_EXCEEDED: Meaning(
        Phase.FAILED,
        "The attempt ran longer than timeouts.activeSeconds.",
        "Find what is slow in the pods' logs, or raise timeouts.activeSeconds; change spec.runId to run again.",
    ),
    Reason.STORAGE_UNAVAILABLE: Meaning(
        Phase.FAILED,
        "The store could not be reached, or answered with errors that may pass.",
        "Look at endpointUrl, the network and the store's health.",
        retriable=True,
    ),
    Reason.STORAGE_DENIED: Meaning(
        Phase.FAILED,
        "The store refused the credentials, or they lack a permission.",
        "Look at the Secret of credentialsSecretRef and the bucket's policy; change spec.runId to run again.",
    ),
    Reason.STORAGE_FULL: Meaning(
        Phase.FAILED,
        "The store has no room left.",
        "Free space or raise the quota; change spec.runId to run again.",
    ),
    Reason.CHECKPOINT_NOT_FOUND: Meaning(
        Phase.FAILED,
        "No committed checkpoint is at the URL.",
        "Look at the URL with `dcp inspect`; a folder with data but without .metadata was never committed.",
    ),
    Reason.CHECKPOINT_CORRUPTED: Meaning(
        Phase.FAILED,
        "Bytes of the checkpoint are not what was saved.",
        "Restore the named file or load an older checkpoint.",
    ),
    Reason.STATE_MISMATCH: Meaning(
        Phase.FAILED,
        "The checkpoint and the workload's state differ in names, shapes or types.",
        "Mend the workload, or choose with include, exclude and strict of load, or of save.from.",
    ),
    Reason.SUSPENDED: Meaning(
        Phase.SUSPENDED, "spec.suspend is true.", "Write suspend: false to go on with a new attempt."
    ),
    Reason.QUEUED: Meaning(Phase.QUEUED, "The Job is suspended and waits for its queue to admit it."),
    Reason.DEVICE_UNAVAILABLE: Meaning(
        Phase.FAILED,
        "device: cuda was asked for, and a rank sees no GPU.",
        "Look at the node's driver and device plugin, or write device: auto.",
        retriable=True,
    ),
    Reason.URL_IN_USE: Meaning(
        Phase.PENDING,
        "Another Save of the namespace works on the URL. This Save is tried when the other has ended.",
        "Suspend or delete the other to have this one go first, or write another spec.storage.url in a new Checkpoint.",
    ),
    Reason.NOT_ENABLED: Meaning(
        Phase.PENDING,
        "The options of the operator do not allow what the spec asks for. The operator looks again at its next start.",
        "Ask whoever runs the operator for it, or write something else in a new Checkpoint.",
    ),
    Reason.FORBIDDEN: Meaning(
        Phase.PENDING,
        "A quota or a policy of the cluster does not let the attempt's objects be created. The attempt is tried again.",
        "Raise the quota, or mend what the policy names; or delete what uses the quota up.",
    ),
}
