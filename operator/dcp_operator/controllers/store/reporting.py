"""What users see of a store's status: its conditions, and the events of a change."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from dcp_operator.api.checkpoint.status import Condition
from dcp_operator.api.checkpoint.text import sentence
from dcp_operator.api.store.spec import CheckpointStore
from dcp_operator.api.store.status import AVAILABLE, BEST_EFFORT, DEFAULT, Guards, StoreReason, StoreStatus
from dcp_operator.controllers.decision import Event
from dcp_operator.controllers.store.validation import PROBED, Validation

Truth = Literal["True", "False", "Unknown"]
_EVENT_LIMIT: Final = 1000
_MESSAGE_LIMIT: Final = 1800


@dataclass(frozen=True, kw_only=True)
class Stand:
    """How a store stands: whether it is available, in one word and for a person."""

    available: Truth
    reason: str
    message: str
    stalled: bool = False
    """A person has to act."""


def with_conditions(
    status: StoreStatus, stand: Stand, default: Condition | None, written: StoreStatus, generation: int, now: datetime
) -> StoreStatus:
    """Return the status with its conditions. A condition's time changes only with its state.

    Args:
        status: The status without them.
        stand: How the store stands.
        default: The condition that says whether it is the default one; None where it does not ask to be.
        written: The status as it stands in the cluster.
        generation: Of the spec.
        now: The time.
    """
    ready: Truth = "True" if stand.available == "True" else "False"
    waits: Truth = "True" if ready == "False" and not stand.stalled else "False"
    states: dict[str, Truth] = {
        AVAILABLE: stand.available,
        "Ready": ready,
        "Reconciling": waits,
        "Stalled": "True" if stand.stalled else "False",
    }
    speaks = {AVAILABLE, "Ready"}
    own = tuple(
        condition(
            kind,
            state,
            stand.reason,
            stand.message if state == "True" or kind in speaks else "",
            written,
            generation,
            now,
        )
        for kind, state in states.items()
    )
    others = (default,) if default is not None else ()
    return status.with_changes(observed_generation=generation, conditions=(*own, *others))


def condition(
    kind: str, state: Truth, reason: str, message: str, written: StoreStatus, generation: int, now: datetime
) -> Condition:
    """Return a condition; one whose state was written already has the time of that."""
    old = written.condition(kind)
    same = old is not None and old.status == state
    return Condition(
        type=kind,
        status=state,
        reason=reason,
        message=message[:_MESSAGE_LIMIT].strip(),
        last_transition_time=old.last_transition_time if same and old is not None else now.replace(microsecond=0),
        observed_generation=generation,
    )


def validated(store: CheckpointStore, found: StoreStatus, news: Validation) -> Stand:
    """Return how a store stands by a validation that says something of it.

    Args:
        store: The store.
        found: The status with what was found.
        news: The validation.
    """
    if not news.succeeded:
        why = news.reason.value if news.reason is not None else news.phase.value
        told = sentence(news.message[:1200].replace(f"/{PROBED}", ""))
        message = f"{told} Checkpoint {news.name} and its pod's log tell more."
        return Stand(available="False", reason=why, message=message, stalled=True)
    said = ["It can hold checkpoints." if store.spec.writable else "Its checkpoints can be read."]
    guards = found.guards or Guards()
    if guards.create == BEST_EFFORT:
        said.append("The store ignores If-None-Match: of two that save to one URL at one moment both may succeed.")
    if guards.replace == BEST_EFFORT:
        said.append("The store ignores If-Match: of two that replace a checkpoint at one moment both may succeed.")
    if found.versioning == "Enabled" and store.spec.writable:
        said.append(
            "It keeps versions: removed bytes stay as noncurrent versions until a lifecycle rule "
            "(NoncurrentVersionExpiration) takes them."
        )
    unguarded = BEST_EFFORT in {guards.create, guards.replace}
    reason = StoreReason.UNGUARDED if unguarded else StoreReason.VALIDATED
    return Stand(available="True", reason=reason, message=" ".join(said))


def events_of_change(written: StoreStatus, final: StoreStatus) -> Iterator[Event]:
    """Yield the events of a transition: another reason of what the store is."""
    for kind, good in ((AVAILABLE, "True"), (DEFAULT, "True")):
        before, after = written.condition(kind), final.condition(kind)
        if after is None or (before is not None and before.reason == after.reason):
            continue
        normal = after.status in {good, "Unknown"}
        yield Event(type="Normal" if normal else "Warning", reason=after.reason, message=after.message[:_EVENT_LIMIT])
