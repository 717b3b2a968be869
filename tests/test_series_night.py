"""A series over a night of a fake clock, with an operator that ends at any request, equals a model's answer.

The model knows the rules of a schedule by lists of times alone. The operator is the real reconciler over an API server
in memory: no run comes twice, none that is due is left out, what was missed is counted once, and the objects that are
kept are those of the limits.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from dcp_operator.api.naming import run_name
from hypothesis_profile import examples
from scenes import NOW
from series_world import KEY, OperatorEndedError, World

SCHEDULES: dict[str, tuple[dict[str, Any], timedelta]] = {
    "every 20 minutes": ({"spec.every": "20m"}, timedelta(minutes=20)),
    "at each full hour": ({"spec.every": None, "spec.schedule": "0 * * * *"}, timedelta(hours=1)),
}
NIGHT = timedelta(hours=14)


@dataclass
class Model:
    """What a night comes to. `NOW` is a full hour: both schedules have their times at whole periods after it."""

    policy: str
    deadline: timedelta | None
    kept: tuple[int, int]
    times: list[datetime]
    suspended: bool = False
    begun: set[datetime] = field(default_factory=set)
    missed: set[datetime] = field(default_factory=set)
    there: dict[datetime, tuple[str, datetime] | None] = field(default_factory=dict)
    """The objects: how each ended and when; None while it runs."""
    last_failure: datetime | None = None

    @property
    def running(self) -> list[datetime]:
        return [time for time, ended in self.there.items() if ended is None]

    def due(self, now: datetime) -> datetime | None:
        """Return the time whose run an operator begins now."""
        passed = [time for time in self.times if time <= now]
        over = max((*self.begun, *self.missed), default=datetime.min.replace(tzinfo=NOW.tzinfo))
        if not passed or passed[-1] <= over or self.suspended:
            return None
        late = self.deadline is not None and now - passed[-1] >= self.deadline
        waits = self.policy == "Forbid" and self.running
        return None if late or waits else passed[-1]

    def look(self, now: datetime) -> None:
        """Let an operator bring everything in order."""
        begins = self.due(now)
        passed = [time for time in self.times if time <= now]
        if begins is not None:
            self.begin(begins)
        late = bool(passed) and self.deadline is not None and now - passed[-1] >= self.deadline
        self.missed |= {time for time in (passed if late else passed[:-1]) if time not in self.begun}
        if self.policy == "Replace":
            for time in sorted(self.running)[:-1]:
                del self.there[time]
        for outcome, kept in zip(("Succeeded", "Failed"), self.kept, strict=True):
            ended = sorted((how[1], time) for time, how in self.there.items() if how and how[0] == outcome)
            if outcome == "Failed" and ended:
                known = self.last_failure
                self.last_failure = ended[-1][1] if known is None else max(known, ended[-1][1])
            for _, time in ended[: max(0, len(ended) - kept)]:
                del self.there[time]

    def begin(self, time: datetime) -> None:
        assert time not in self.begun, "a run came twice"
        self.begun.add(time)
        self.there[time] = None


STEPS = st.lists(
    st.tuples(
        st.integers(1, 25),
        st.sampled_from(
            ["work", "work", "work", "die", "die for long", "away", "end", "end", "fail", "suspend", "forget"]
        ),
        st.integers(0, 4),
        st.booleans(),
    ),
    min_size=20,
    max_size=60,
)


async def played(world: World, model: Model, steps: list[tuple[int, str, int, bool]]) -> None:
    for minutes, what, number, answered in steps:
        # Ends of runs have times of their own, so that which of them was the last is no question.
        world.now += timedelta(minutes=minutes, seconds=7)
        if world.now > NOW + NIGHT:
            return
        match what:
            case "away":
                continue
            case "end" | "fail":
                await ends(world, model, number, "Succeeded" if what == "end" else "Failed")
            case "suspend":
                model.suspended = not model.suspended
                world.change("spec.suspend", model.suspended)
            case "forget" if answered and (ended := [time for time, how in model.there.items() if how]):
                # A person deletes the object of a run.
                time = ended[number % len(ended)]
                world.remove(run_name("nightly", time))
                del model.there[time]
        if what.startswith("die"):
            await dies(world, model, number, answered=answered)
            if what == "die for long":
                continue
        await world.settle()
        model.look(world.now)
        compare(world, model)


async def ends(world: World, model: Model, number: int, phase: str) -> None:
    """Have one of the runs that are known end."""
    if running := sorted(model.running):
        time = running[number % len(running)]
        world.end(run_name("nightly", time), phase)
        model.there[time] = (phase, world.now)


async def dies(world: World, model: Model, requests: int, *, answered: bool) -> None:
    """Let the operator end at a request; of what it did only a creation counts, since the rest is done again."""
    world.hear()
    before, due = set(world.names), model.due(world.now)
    world.api.dies_after(requests, answered=answered)
    try:
        await world.reconciler(KEY)
        event("survived")
    except OperatorEndedError:
        event("died")
    created = set(world.names) - before
    assert created <= ({run_name("nightly", due)} if due is not None else set())
    if created and due is not None:
        model.begin(due)
    for gone in before - set(world.names):
        model.there = {time: how for time, how in model.there.items() if run_name("nightly", time) != gone}
    world.start()


def compare(world: World, model: Model) -> None:
    assert world.names == sorted(run_name("nightly", time) for time in model.there)
    status = world.status
    assert status.get("missed", {}).get("count", 0) == len(model.missed)
    assert status["activeCount"] == len(model.running)
    assert status.get("lastScheduleTime") == (f"{max(model.begun):%Y-%m-%dT%H:%M:%SZ}" if model.begun else None)
    saved = [(how[1], time) for time, how in model.there.items() if how and how[0] == "Succeeded"]
    assert status.get("latest", {}).get("name") == (run_name("nightly", max(saved)[1]) if saved else None)


@settings(max_examples=examples(25, 1200), deadline=None)
@given(
    steps=STEPS,
    schedule=st.sampled_from(sorted(SCHEDULES)),
    policy=st.sampled_from(["Forbid", "Allow", "Replace"]),
    deadline=st.sampled_from([None, 600, 1500]),
    kept=st.tuples(st.integers(1, 3), st.integers(0, 2)),
    immediate=st.booleans(),
)
def test_a_night_is_what_the_model_says(
    steps: list[tuple[int, str, int, bool]],
    schedule: str,
    policy: str,
    deadline: int | None,
    kept: tuple[int, int],
    *,
    immediate: bool,
) -> None:
    changes, period = SCHEDULES[schedule]
    options = {
        "spec.concurrencyPolicy": policy,
        "spec.startingDeadlineSeconds": deadline,
        "spec.historyLimit": {"successful": kept[0], "failed": kept[1]},
        "spec.immediate": immediate,
    }
    times = [NOW + number * period for number in range(0 if immediate else 1, NIGHT // period + 1)]
    late = None if deadline is None else timedelta(seconds=deadline)
    model = Model(policy=policy, deadline=late, kept=kept, times=times)
    asyncio.run(played(World({**changes, **options}), model, steps))
