"""Whether evictions wait for the saves of a series: a condition beside those that its runs make."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from dcp_operator.api.checkpoint.status import Condition
from dcp_operator.api.checkpoint.text import sentence
from dcp_operator.api.naming import budget_name
from dcp_operator.api.problems import SpecError
from dcp_operator.api.series.spec import Series
from dcp_operator.api.series.status import SeriesStatus
from dcp_operator.controllers.decision import Event
from dcp_operator.controllers.series.actions import SeriesDecision

EVICTIONS_HELD: Final = "EvictionsHeld"
_LOOK_AGAIN: Final = timedelta(seconds=60)
"""What a person has to do for it, labels of namespaces among it, is not watched."""


def asks_for_holding(series: Series | SpecError) -> bool:
    """Return whether a series asks that evictions wait for it."""
    return isinstance(series, Series) and series.spec.on_disruption is not None


def with_evictions(
    decision: SeriesDecision, series: Series | SpecError, lacking: str | None, now: datetime, *, budget: bool = False
) -> SeriesDecision:
    """Return a decision whose status says whether evictions wait.

    Args:
        decision: What was decided on the series.
        series: The series.
        lacking: Why evictions do not wait; empty if they do, None where that is not known yet.
        now: The time.
        budget: Whether a PodDisruptionBudget holds them in place of the webhook.
    """
    lacking = "" if budget else lacking
    status = SeriesStatus.read(decision.status)
    before = next((each for each in status.conditions if each.type == EVICTIONS_HELD), None)
    if isinstance(series, SpecError) or not asks_for_holding(series):
        return decision if before is None else _with_condition(decision, status, None)
    if lacking is None:
        return _looking_again(decision, now)
    made = _condition(series, lacking, before, now, budget=budget)
    events = decision.events
    if lacking and (before is None or before.status == "True"):
        events = (*events, Event(type="Warning", reason="EvictionsNotHeld", message=made.message))
    return _looking_again(replace(_with_condition(decision, status, made), events=events), now)


def _condition(series: Series, lacking: str, before: Condition | None, now: datetime, *, budget: bool) -> Condition:
    hold = series.spec.on_disruption.hold if series.spec.on_disruption is not None else ""
    message = f"An eviction of a pod of {series.spec.template.spec.target} waits for a save, {hold} at most."
    if budget:
        message = (
            f"The PodDisruptionBudget {budget_name(series.name)} refuses evictions of pods of "
            f"{series.spec.template.spec.target} while they train. When a node of theirs is cordoned, or tainted to be "
            f"removed, the training saves, and then its pods may be evicted: {hold} later at most."
        )
    if lacking:
        message = f"Evictions do not wait for a save: {sentence(lacking)}"
    state = before.status if before is not None else None
    same = before is not None and (state == "False") == bool(lacking)
    return Condition(
        type=EVICTIONS_HELD,
        status="False" if lacking else "True",
        reason="NotServed" if lacking else "Budget" if budget else "Served",
        message=message[:1024],
        last_transition_time=before.last_transition_time if same and before is not None else now.replace(microsecond=0),
        observed_generation=series.generation,
    )


def _with_condition(decision: SeriesDecision, status: SeriesStatus, made: Condition | None) -> SeriesDecision:
    others = [each for each in status.conditions if each.type != EVICTIONS_HELD]
    conditions = (*others, made) if made is not None else tuple(others)
    return replace(decision, status=status.with_changes(conditions=conditions).to_dict())


def _looking_again(decision: SeriesDecision, now: datetime) -> SeriesDecision:
    again = now + _LOOK_AGAIN
    return replace(decision, wake_at=min(decision.wake_at or again, again))
