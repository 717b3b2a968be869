"""What to do for a store now: a pure function of the store, what is known beside it, its status and the time."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dcp_operator.api.checkpoint.status import Condition
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.problems import SpecError
from dcp_operator.api.store.spec import CheckpointStore
from dcp_operator.api.store.status import DEFAULT, StoreReason, StoreStatus
from dcp_operator.controllers.decision import Decision, Event
from dcp_operator.controllers.store.actions import StoreAction
from dcp_operator.controllers.store.observed import StoreObserved
from dcp_operator.controllers.store.reporting import Stand, condition, events_of_change, with_conditions

StoreDecision = Decision[StoreAction]


def decide(store: CheckpointStore, observed: StoreObserved, status: Mapping[str, Any], now: datetime) -> StoreDecision:
    """Return the actions to carry out, the status to write, and when to decide again.

    Args:
        store: The parsed object.
        observed: What is known beside it.
        status: The status as it stands in the cluster.
        now: The time, with a time zone.
    """
    written = StoreStatus.read(status)
    stand = Stand(available="Unknown", reason=StoreReason.NOT_VALIDATED, message="It was not validated yet.")
    final = with_conditions(written, stand, _default(store, observed, written, now), written, store.generation, now)
    return StoreDecision(actions=(), status=final.to_dict(), events=tuple(events_of_change(written, final)))


def refuse(error: SpecError, body: ReadBody, observed: StoreObserved, now: datetime) -> StoreDecision:
    """Return what to do for a store whose spec can't be parsed: say why. Nothing can use it."""
    del observed
    written = StoreStatus.read(body.get("status"))
    if not error.writable:
        said = f"{'; '.join(error.problems)}. No status is written for it."
        event = Event(type="Warning", reason=StoreReason.INVALID_SPEC.value, message=said)
        return StoreDecision(actions=(), status=dict(body.get("status") or {}), events=(event,))
    reason = StoreReason.NOT_ENABLED if error.configured else StoreReason.INVALID_SPEC
    said = "; ".join(error.problems)[:1024]
    stand = Stand(available="False", reason=reason, message=said, stalled=not error.configured)
    final = with_conditions(written, stand, None, written, body["metadata"].get("generation", 1), now)
    return StoreDecision(actions=(), status=final.to_dict(), events=tuple(events_of_change(written, final)))


def _default(store: CheckpointStore, observed: StoreObserved, written: StoreStatus, now: datetime) -> Condition | None:
    """Return the condition that says whether a store is the default one; None where it does not ask to be."""
    if not store.spec.default:
        return None
    if observed.default in {"", store.name}:
        message = "A storage of this namespace that names no store means this one."
        return condition(DEFAULT, "True", StoreReason.OLDEST, message, written, store.generation, now)
    message = (
        f"{observed.default} has spec.default: true as well and is older: a storage that names no store means "
        "that one. Write default: false in one of them."
    )
    return condition(DEFAULT, "False", StoreReason.OLDER_DEFAULT, message, written, store.generation, now)
