"""What each reason means, the conditions that follow from where a Checkpoint stands, and the strings of its columns."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from dcp_contract.checkpoint_info import LoadSummary
from dcp_contract.reasons import Reason
from dcp_contract.sections import Workers
from dcp_operator.api.checkpoint.status import Condition, Phase, Status


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
        "Write another spec.storage.url, or overwrite: true to replace it, in a new Checkpoint.",
    ),
    Reason.INVALID_SPEC: Meaning(
        Phase.FAILED,
        "The spec can't be worked on.",
        "Mend the named fields and apply the Checkpoint again.",
    ),
    Reason.ENTRYPOINT_ERROR: Meaning(
        Phase.FAILED,
        "The workload could not be imported or built.",
        "Look at failure.traceback, mend the workload or the image, and apply a new Checkpoint.",
    ),
    Reason.RANK_FAILED: Meaning(
        Phase.FAILED,
        "A rank raised an exception or was killed by a signal.",
        "Look at failure.traceback and the pod's log.",
        retriable=True,
    ),
    Reason.RANK_HUNG: Meaning(
        Phase.FAILED,
        "A rank made no progress; it is named, with the stage it was in.",
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
        "The scheduler finds no node for a worker pod; if it stays so, the attempt ends as StartTimeout.",
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
        "Raise timeouts.activeSeconds in a new Checkpoint, or find what is slow in the pods' logs.",
    ),
    Reason.STORAGE_UNAVAILABLE: Meaning(
        Phase.FAILED,
        "The store could not be reached, or answered with errors that pass.",
        "Look at endpoint_url, the network and the store's health.",
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
        "Mend the workload, or choose with load.include, load.exclude and load.strict.",
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
        "Another Save of the namespace works on the URL; this one is tried when that has ended.",
        "Suspend or delete the other to have this one go first, or write another spec.storage.url in a new Checkpoint.",
    ),
    Reason.NOT_ENABLED: Meaning(
        Phase.PENDING,
        "The operator is configured not to accept what the spec asks for; it looks again when it is started anew.",
        "Ask whoever runs the operator for it, or write something else in a new Checkpoint.",
    ),
    Reason.FORBIDDEN: Meaning(
        Phase.PENDING,
        "A quota or a policy of the cluster does not let the attempt's objects be created; it is tried again.",
        "Raise the quota, or mend what the policy names; or delete what uses the quota up.",
    ),
}

SPEC_CHANGED: Final = "SpecChanged"
"""The condition of a status that tells of another spec than the one that stands beside it."""
FREE_FORM_FIELDS: Final = "spec.workload.args, spec.storage.options or spec.workers.podTemplate"

_NO_SIZE: Final = 1_000_000
_TRUTH: Final[dict[bool, Literal["True", "False"]]] = {True: "True", False: "False"}


def conditions(
    status: Status, message: str, before: tuple[Condition, ...], now: datetime, *, changed: bool = False
) -> tuple[Condition, ...]:
    """Return the conditions of a status: kstatus's three, and the Job's own. A time changes only with its state.

    `SpecChanged` is there only where it is true, so that no status without it says so of what nobody compared.

    kstatus reads `Ready=False` alone as "in progress for ever": a failure has `Stalled=True` beside it, work under way
    `Reconciling=True`.
    """
    phase, word = status.phase, status.reason or status.phase
    succeeded, failed = phase is Phase.SUCCEEDED, phase in {Phase.CONFLICT, Phase.FAILED}
    states = {
        "Ready": succeeded,
        "Reconciling": not phase.terminal and phase is not Phase.SUSPENDED,
        "Stalled": failed,
        "Complete": succeeded,
        "Failed": failed,
        "Suspended": phase is Phase.SUSPENDED,
    }
    words = {kind: (word.value, message if holds or kind == "Ready" else "") for kind, holds in states.items()}
    if changed:
        states[SPEC_CHANGED] = True
        words[SPEC_CHANGED] = (SPEC_CHANGED, _changed_message(status))
    known = {each.type: each for each in before}
    return tuple(
        Condition(
            type=kind,
            status=state,
            reason=words[kind][0],
            message=words[kind][1],
            last_transition_time=old.last_transition_time if (old := known.get(kind)) and old.status == state else now,
            observed_generation=status.observed_generation,
        )
        for kind, state in ((kind, _TRUTH[holds]) for kind, holds in states.items())
    )


def _changed_message(status: Status) -> str:
    return (
        f"{FREE_FORM_FIELDS} is another by now. This status is about the spec that the run began with "
        f"(freeFormDigest {status.free_form_digest})."
    )


def message_of(known: tuple[Condition, ...], kind: str = "Ready") -> str:
    """Return the message of a condition: the one of Ready is what a person reads."""
    return next((each.message for each in known if each.type == kind), "")


def sentence(text: str) -> str:
    """Return the text with a full stop, so that another sentence can follow."""
    text = text.strip()
    return text if not text or text[-1] in ".!?…" else f"{text}."


def human_bytes(count: float) -> str:
    """Return `418 MiB` or `1.5 GiB`: three digits at most."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1000:  # noqa: PLR2004 - three digits
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"  # noqa: PLR2004
        count /= 1024
    return f"{count:.0f} PiB" if count < _NO_SIZE else "over 999999 PiB"


def human_duration(seconds: int) -> str:
    """Return `12s`, `1m12s` or `3h05m`."""
    minutes, rest = divmod(seconds, 60)
    if minutes == 0:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def counted(number: int, what: str) -> str:
    """Return `1 pod` or `2 pods`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def human_ranks(workers: Workers) -> str:
    """Return `16 (2x8)`: the world size, and pods x ranks per pod."""
    return f"{workers.world_size} ({workers.num_nodes}x{workers.num_proc_per_node})"


def human_entries(entries: LoadSummary) -> str:
    """Return `16 loaded, 8 left out, 2 converted`, without what is none."""
    rest = {"left out": entries.left_out, "converted": entries.converted}
    return ", ".join([f"{entries.loaded} loaded", *(f"{count} {what}" for what, count in rest.items() if count)])
