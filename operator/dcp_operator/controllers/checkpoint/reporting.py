"""What users see of a status: its conditions and columns, and the events of a change."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final, Literal

from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Condition, Phase, Status
from dcp_operator.api.checkpoint.text import human_duration
from dcp_operator.controllers.decision import Event

SPEC_CHANGED: Final = "SpecChanged"
"""The condition of a status that tells of another spec than the one that stands beside it."""
FREE_FORM_FIELDS: Final = "spec.workload.args, spec.storage.options or spec.workers.podTemplate"

_TRUTH: Final[dict[bool, Literal["True", "False"]]] = {True: "True", False: "False"}

_EVENT_LIMIT: Final = 1000
_MESSAGE_LIMIT: Final = 1800
_NEEDED: Final = (
    "phase", "reason", "conditions", "observedGeneration", "runId", "runGeneration", "freeFormDigest", "attempts",
    "retries", "startTime", "completionTime", "jobRef", "source", "store",
)  # fmt: skip


def with_conditions(
    status: Status, message: str, written: Status, generation: int, now: datetime, *, changed: bool = False
) -> Status:
    """Return the status with the conditions and the duration that follow from it.

    Args:
        status: What was decided.
        message: What a person reads first.
        written: The status as it stands in the cluster.
        generation: Of the spec that was decided on.
        now: The time.
        changed: Whether that spec is not the one that the run began with.
    """
    final = status.with_changes(
        observed_generation=generation,
        duration=human_duration(status.duration_seconds) if status.duration_seconds is not None else "",
    )
    text, stamp = message[:_MESSAGE_LIMIT], now.replace(microsecond=0)
    return final.with_changes(conditions=conditions(final, text, written.conditions, stamp, changed=changed))


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


def minimal(status: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have to be written even if the API server refuses the others.

    They say how the Checkpoint stands, and hold what `decide` has to remember: without them finished work would begin
    again.
    """
    return {name: status[name] for name in _NEEDED if name in status}


def status_refused(why: str) -> Event:
    """Return the event of a Checkpoint of whose status the API server takes no more than the minimal fields."""
    message = f"The API server refuses the status: {why}. Apply the CRD that belongs to this operator."
    return Event(type="Warning", reason="StatusRefused", message=message[:_EVENT_LIMIT])


def spec_changed(status: Status) -> bool:
    """Return whether a status says that it is about another spec than the Checkpoint's present spec."""
    return any(each.type == SPEC_CHANGED for each in status.conditions)


def events_of_change(written: Status, final: Status) -> Iterator[Event]:
    """Yield the events of a transition.

    There is one event for a spec that changed under way, one for a failed attempt that is followed by another attempt,
    and one for a change of phase or reason.
    """
    if spec_changed(final) and not spec_changed(written):
        yield Event(type="Warning", reason=SPEC_CHANGED, message=message_of(final.conditions, SPEC_CHANGED))
    failure = final.failure
    retried = failure is not None and failure != written.failure and not final.phase.terminal
    if retried and failure is not None:
        what = f"Attempt {failure.attempt} failed: {failure.message}"
        yield Event(type="Warning", reason=failure.reason.value, message=what[:_EVENT_LIMIT])
        if final.phase is Phase.PENDING:
            return
    if (written.phase, written.reason, written.attempts) == (final.phase, final.reason, final.attempts):
        return
    word = final.reason or final.phase
    normal = final.reason is None or REASONS[final.reason].phase in {Phase.SUCCEEDED, Phase.QUEUED, Phase.SUSPENDED}
    yield Event(
        type="Normal" if normal else "Warning",
        reason=word.value,
        message=message_of(final.conditions)[:_EVENT_LIMIT],
    )
