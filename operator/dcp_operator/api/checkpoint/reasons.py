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
    Reason.ALREADY_SAVED: Meaning(
        Phase.SUCCEEDED,
        "An earlier Checkpoint of the same namespace, name and spec had saved it, and save.ifExists is Adopt. Its data "
        "stay when this Checkpoint is deleted.",
    ),
    Reason.LOADED: Meaning(Phase.SUCCEEDED, "Every rank loaded the checkpoint."),
    Reason.VERIFIED: Meaning(Phase.SUCCEEDED, "Every byte of the checkpoint was read and is as it was saved."),
    Reason.DELETED: Meaning(Phase.SUCCEEDED, "The checkpoint is removed, with its data; or it was gone already."),
    Reason.COPIED: Meaning(
        Phase.SUCCEEDED, "The copy is committed; or this very save stood at the URL already, and is whole."
    ),
    Reason.VALIDATED: Meaning(
        Phase.SUCCEEDED, "The store can hold checkpoints; status.checkpoint.store says what it does by itself."
    ),
    Reason.EXPORTED: Meaning(Phase.SUCCEEDED, "The model is at the URL, whole, as other programs read it."),
    Reason.CLEANED: Meaning(
        Phase.SUCCEEDED, "What belonged to no checkpoint is removed; or, with clean.dryRun, found and left there."
    ),
    Reason.OVERWRITE_CONFLICT: Meaning(
        Phase.CONFLICT,
        "The URL holds another committed checkpoint, or the model of another export.",
        "Write another spec.storage.url, or save.ifExists: Replace (of a Copy copy.ifExists, of an Export "
        "export.ifExists), in a new Checkpoint.",
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
    Reason.SAVE_MISMATCH: Meaning(
        Phase.FAILED,
        "Another save stands at the URL than the one that was to be removed. Nothing was removed.",
        "Look at the URL with `dcp inspect`; name the save that stands there in a new Checkpoint.",
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
        "Another Checkpoint of the namespace works on the URL. A Save, a Copy, an Export or a Clean waits for one "
        "of these, a Delete for anything, and anything for a Delete. This one is tried when the other has ended.",
        "Suspend or delete the other to have this one go first, or write another spec.storage.url in a new Checkpoint.",
    ),
    Reason.SERIES_NOT_FOUND: Meaning(
        Phase.PENDING,
        "There is no series of the name in spec.storage.latestOf. The Checkpoint waits for it.",
        "Apply the CheckpointSeries, or write another name, or a url, in a new Checkpoint.",
    ),
    Reason.NOTHING_SAVED: Meaning(
        Phase.PENDING,
        "The series of spec.storage.latestOf has no committed checkpoint yet. The Checkpoint waits for the first one.",
        "Look at the series' status, or write a url in a new Checkpoint.",
    ),
    Reason.STORE_NOT_FOUND: Meaning(
        Phase.PENDING,
        "There is no CheckpointStore of the name in spec.storage.store; or none is named, and the namespace has no "
        "default one. The Checkpoint waits for it.",
        "Apply the CheckpointStore, or write another name, or a url, in a new Checkpoint.",
    ),
    Reason.STORE_NOT_AVAILABLE: Meaning(
        Phase.PENDING,
        "The CheckpointStore of spec.storage.store is not Available, or not validated yet. The Checkpoint waits until "
        "it is.",
        "Look at the store with `kubectl describe checkpointstore`, and mend what its condition names.",
    ),
    Reason.STORE_READ_ONLY: Meaning(
        Phase.FAILED,
        "The CheckpointStore of spec.storage.store is ReadOnly, and the operation would change what stands there.",
        "Write another store; or write accessMode: ReadWrite in this one, and change spec.runId to run again.",
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
    Reason.TARGET_NOT_FOUND: Meaning(
        Phase.PENDING,
        "No pod of the target runs. The Save waits for one until timeouts.activeSeconds.",
        "Look at the labels or the name in spec.target, and at the target's pods.",
    ),
    Reason.TARGET_NOT_LISTENING: Meaning(
        Phase.PENDING,
        "Pods of the target run, and no agent in them is connected to the operator. The message names pods.",
        "Have the training make a dcp_agent.Agent, and mount the token and the ConfigMap that the agent connects with.",
    ),
    Reason.TARGET_AMBIGUOUS: Meaning(
        Phase.PENDING,
        "The target's pods are of several process groups, so that it is not clear which one is to save.",
        "Write a spec.target that selects the pods of one training job alone, in a new Checkpoint.",
    ),
    Reason.TARGET_REFUSED: Meaning(
        Phase.FAILED,
        "The training refused the Save, such as for a URL that is under none of its prefixes.",
        "Leave spec.storage.url out, or write one under the prefix that the agent saves under.",
    ),
    Reason.TARGET_ENDED: Meaning(
        Phase.FAILED,
        "The training ended or restarted before the Save was committed.",
        "Apply a new Checkpoint, or change spec.runId, once the training runs again.",
    ),
}
