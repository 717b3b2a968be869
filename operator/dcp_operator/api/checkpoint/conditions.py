"""The conditions that follow from where a Checkpoint stands."""

from datetime import datetime
from typing import Final, Literal

from dcp_operator.api.checkpoint.status import Condition, Phase, Status

SPEC_CHANGED: Final = "SpecChanged"
"""The condition of a status that tells of another spec than the one that stands beside it."""
FREE_FORM_FIELDS: Final = "spec.workload.args, spec.storage.options or spec.workers.podTemplate"

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
