"""What to do for a store now: a pure function of the store, what is known beside it, its status and the time.

A validation is a Checkpoint that the store controls. Its result is taken into the status, and then it goes; one that
failed stays until the next one begins, for its pod's log. No two of a store are under way at once, and between the end
of one and the beginning of the next lies a pause, however often the spec changes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from dcp_operator.api.checkpoint.status import Condition
from dcp_operator.api.checkpoint.text import sentence
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import validation_name
from dcp_operator.api.problems import SpecError
from dcp_operator.api.store.spec import CheckpointStore
from dcp_operator.api.store.status import AVAILABLE, DEFAULT, Guards, StoreReason, StoreStatus
from dcp_operator.controllers.decision import Decision, Event
from dcp_operator.controllers.store.actions import DropValidation, StartValidation, StoreAction
from dcp_operator.controllers.store.reporting import Stand, condition, events_of_change, validated, with_conditions
from dcp_operator.controllers.store.validation import StoreObserved, Validation

SHORTEST_PAUSE: Final = timedelta(seconds=10)
"""Between the end of a validation and the beginning of the next one, at least."""
AFTER_FAILURE: Final = timedelta(minutes=5)
"""The same after a validation that failed, if the interval is longer: who mends a Secret changes no spec."""
_FIRST_AGAIN: Final = timedelta(seconds=30)
CLOCKS_DIFFER: Final = timedelta(minutes=10)
"""What is further in the future was written by a clock that was wrong: nothing may wait for that time to come."""

StoreDecision = Decision[StoreAction]


def decide(store: CheckpointStore, observed: StoreObserved, status: Mapping[str, Any], now: datetime) -> StoreDecision:
    """Return the actions to carry out, the status to write, and when to decide again.

    Args:
        store: The parsed object.
        observed: What is known beside it.
        status: The status as it stands in the cluster.
        now: The time, with a time zone.
    """
    written, observed = _by_right_clocks(StoreStatus.read(status), observed, now)
    latest, under_way = observed.latest, observed.under_way
    news = latest if latest is not None and _is_news(latest, written) else None
    base = _with_result(written, news)
    stand = _stand(store, base, written, news, under_way)
    fine = stand.available == "True" and (latest is None or latest.succeeded)
    due = _due(store, base, now, fine=fine) if under_way is None else None
    start = StartValidation(name=_next_name(store, base)) if due is not None and due <= now else None
    runs = start.name if start is not None else under_way.name if under_way is not None else ""
    failed = latest.name if latest is not None and not latest.succeeded and start is None else ""
    final = with_conditions(
        base.with_changes(validation=runs or failed),
        stand,
        _default(store, observed, written, now),
        written,
        store.generation,
        now,
    )
    return StoreDecision(
        actions=(*([start] if start is not None else ()), *_drops(observed, failed)),
        status=final.to_dict(),
        events=tuple(events_of_change(written, final)),
        wake_at=due if start is None else None,
    )


def refuse(error: SpecError, body: ReadBody, observed: StoreObserved, now: datetime) -> StoreDecision:
    """Return what to do for a store whose spec can't be parsed: say why. Nothing can use it."""
    written = StoreStatus.read(body.get("status"))
    if not error.writable:
        said = f"{'; '.join(error.problems)}. No status is written for it."
        event = Event(type="Warning", reason=StoreReason.INVALID_SPEC.value, message=said)
        return StoreDecision(actions=(), status=dict(body.get("status") or {}), events=(event,))
    reason = StoreReason.NOT_ENABLED if error.configured else StoreReason.INVALID_SPEC
    said = "; ".join(error.problems)[:1024]
    stand = Stand(available="False", reason=reason, message=said, stalled=not error.configured)
    final = with_conditions(
        written.with_changes(validation=""), stand, None, written, body["metadata"].get("generation", 1), now
    )
    return StoreDecision(
        actions=tuple(_drops(observed, "")), status=final.to_dict(), events=tuple(events_of_change(written, final))
    )


def wait_for_creation(
    store: CheckpointStore, status: Mapping[str, Any], decision: StoreDecision, why: str, now: datetime
) -> StoreDecision:
    """Return the decision when the API server does not take the Checkpoint that validates: it is tried again."""
    written, planned = StoreStatus.read(status), StoreStatus.read(decision.status)
    message = f"The Checkpoint that validates it can't be created: {sentence(why[:512])} It is tried again."
    known = planned.condition(AVAILABLE)
    keeps = known is not None and planned.validated_generation == store.generation
    stand = Stand(
        available=known.status if keeps and known is not None else "Unknown",
        reason=StoreReason.VALIDATION_REFUSED,
        message=message,
    )
    final = with_conditions(
        planned.with_changes(validation=""), stand, planned.condition(DEFAULT), written, store.generation, now
    )
    return replace(
        decision,
        actions=(),
        status=final.to_dict(),
        events=tuple(events_of_change(written, final)),
        wake_at=now + _FIRST_AGAIN,
    )


def _by_right_clocks(written: StoreStatus, observed: StoreObserved, now: datetime) -> tuple[StoreStatus, StoreObserved]:
    """Return what is known but for times that have yet to come, and for the validations that ended then."""
    last = written.last_validation_time
    if last is not None and last > now + CLOCKS_DIFFER:
        written = written.with_changes(last_validation_time=None)
    ahead = tuple(each for each in observed.validations if each.ended and each.ended > now + CLOCKS_DIFFER)
    right = tuple(each for each in observed.validations if each not in ahead)
    return written, replace(observed, validations=right, others=(*observed.others, *ahead))


def _is_news(latest: Validation, written: StoreStatus) -> bool:
    known = written.last_validation_time
    return latest.ended is not None and (known is None or latest.ended > known)


def _with_result(written: StoreStatus, news: Validation | None) -> StoreStatus:
    """Return the status with what a validation found; one that could not look leaves what was found before."""
    if news is None:
        return written
    base = written.with_changes(last_validation_time=news.ended, validated_generation=news.generation)
    if not news.conclusive:
        return base
    facts = news.facts
    guards = Guards(create=facts.create_guard[:63], replace=facts.replace_guard[:63]) if facts is not None else None
    return base.with_changes(
        guards=guards if guards != Guards() else None,
        versioning=facts.versioning[:63] if facts is not None else "",
        object_lock=facts.object_lock[:63] if facts is not None else "",
    )


def _due(store: CheckpointStore, base: StoreStatus, now: datetime, *, fine: bool) -> datetime:
    """Return when the next validation begins."""
    last = base.last_validation_time
    if last is None:
        return now
    if base.validated_generation != store.generation:
        return last + SHORTEST_PAUSE
    return last + (store.spec.interval if fine else min(store.spec.interval, AFTER_FAILURE))


def _next_name(store: CheckpointStore, base: StoreStatus) -> str:
    after = f"{base.last_validation_time:%Y%m%d%H%M%S}" if base.last_validation_time is not None else ""
    return validation_name(store.name, store.uid, store.generation, after)


def _drops(observed: StoreObserved, kept: str) -> Iterator[DropValidation]:
    """Yield the deletions of what has ended, but for the latest one if that failed and nothing follows it yet."""
    for each in (*observed.validations, *observed.others):
        if each.ended is not None and each.name != kept and not each.deleting:
            yield DropValidation(name=each.name, why="its result is in the status of the store")


def _stand(
    store: CheckpointStore,
    base: StoreStatus,
    written: StoreStatus,
    news: Validation | None,
    under_way: Validation | None,
) -> Stand:
    """Return how the store stands."""
    if base.validated_generation != store.generation:
        message = "It is validated first."
        if under_way is not None:
            told = f" {sentence(under_way.message[:512])}" if under_way.message else ""
            message = f"Checkpoint {under_way.name} validates it.{told}"
        return Stand(available="Unknown", reason=StoreReason.VALIDATING, message=message)
    if news is not None and news.conclusive:
        return validated(store, base, news)
    known = written.condition(AVAILABLE)
    same = known is not None and written.validated_generation == store.generation
    if news is not None:
        why = news.reason.value if news.reason is not None else news.phase.value
        said = f"The latest validation came to nothing: {why}: {sentence(news.message[:512])}"
        if same and known is not None and known.status != "Unknown":
            return Stand(available=known.status, reason=known.reason, message=said, stalled=known.status == "False")
        return Stand(available="Unknown", reason=why, message=said)
    if known is None:
        return Stand(available="Unknown", reason=StoreReason.VALIDATING, message="It is validated first.")
    return Stand(available=known.status, reason=known.reason, message=known.message, stalled=known.status == "False")


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
