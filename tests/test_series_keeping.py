"""What a series keeps over a night of a fake clock equals a model's answer, whenever its operator ends.

The world saves, reads, pins, and carries out the Deletes, some of which fail. No checkpoint goes that somebody reads or
has pinned, nor the newest one; and when all comes to rest, what stands is what the rules keep, worked out anew from a
list of what was saved.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st

from dcp_operator.kube.client.api import CHECKPOINTS, ObjectKey
from hypothesis_profile import examples
from scenes import NOW
from series_world import KEY, OperatorEndedError, World

Step = tuple[int, str, int, bool]


@dataclass
class Save:
    """A checkpoint whose data stand."""

    url: str
    step: int
    time: datetime
    pinned: bool = False


@dataclass
class Model:
    last: int | None
    every_steps: int | None
    within: timedelta | None
    data: dict[str, Save] = field(default_factory=dict)
    """By the run that saved it."""
    loads: dict[str, str] = field(default_factory=dict)
    """By live Load, the run whose data it reads."""
    step: int = 0

    @property
    def newest_first(self) -> list[str]:
        return sorted(self.data, key=lambda name: (self.data[name].step, self.data[name].time), reverse=True)

    @property
    def committed_last(self) -> str:
        return max(self.data, key=lambda name: self.data[name].time)

    def kept(self, now: datetime) -> set[str]:
        """Return what the rules keep, and whoever wants it."""
        order = self.newest_first
        if not order or (self.last, self.every_steps, self.within) == (None, None, None):
            return set(order)
        wanted = {order[0], self.committed_last, *self.loads.values()}
        wanted |= {name for name, save in self.data.items() if save.pinned}
        wanted |= set(order[: self.last or 0])
        if self.every_steps:
            wanted |= {name for name, save in self.data.items() if save.step % self.every_steps == 0}
        if self.within is not None:
            wanted |= {name for name, save in self.data.items() if now - save.time <= self.within}
        return wanted


STEPS = st.lists(
    st.tuples(
        st.integers(1, 40),
        st.sampled_from(
            ["save", "save", "save", "back", "fail", "load", "done", "pin", "unpin", "delete", "refuse", "die", "work"]
        ),
        st.integers(0, 9),
        st.booleans(),
    ),
    min_size=15,
    max_size=50,
)


async def played(world: World, model: Model, steps: list[Step]) -> None:
    for minutes, what, number, answered in steps:
        # Whole seconds that no period of the rules is made of: no time is just over.
        world.now += timedelta(minutes=minutes, seconds=7)
        match what:
            case "save" | "back" | "fail":
                save(world, model, what, number)
            case "load":
                load(world, model)
            case "done" if model.loads:
                name = sorted(model.loads)[number % len(model.loads)]
                world.end(name, "Succeeded")
                del model.loads[name]
            case "pin" | "unpin" if model.data:
                pin(world, model, number, what)
            case "delete" | "refuse" if world.removals:
                carry_out(world, model, world.removals[number % len(world.removals)], well=what == "delete")
            case "die":
                await dies(world, number % 6, answered=answered)
        await world.settle()
        latest = world.status.get("latest", {}).get("name")
        assert latest == (model.committed_last if model.data else None)
    await rest(world, model)


def save(world: World, model: Model, what: str, number: int) -> None:
    """Have a run under way end: with a later step, with an earlier one, since the run went back, or not at all."""
    active = [each for each in world.names if each not in world.removals and each.startswith("nightly-2")]
    active = [each for each in active if "completionTime" not in world.checkpoint(each).get("status", {})]
    if not active:
        return
    if what == "fail":
        world.end(active[0], "Failed")
        return
    model.step = max(1, model.step - 3 * number) if what == "back" else model.step + 1 + number
    world.save(active[0], model.step)
    url = world.checkpoint(active[0])["spec"]["storage"]["url"]
    model.data[active[0]] = Save(url, model.step, world.now.replace(microsecond=0))


def load(world: World, model: Model) -> None:
    """Have a Load look up the latest. Its status says so at once, or a moment later."""
    world.hear()
    source = world.reconciler.runs.latest("team", "nightly").source
    if source is None:
        return
    name = f"load-{len(world.names)}-{len(model.loads)}-{world.now:%H%M}"
    spec = {"operation": "Load", "storage": {"latestOf": {"series": "nightly"}}}
    key: ObjectKey = world.read(name, spec, {"source": {"url": source.url}})
    world.reconciler.runs.reserve(key, source.url)
    assert source.name in model.data, "it reads what is gone"
    model.loads[name] = source.name


def pin(world: World, model: Model, number: int, what: str) -> None:
    name = sorted(model.data)[number % len(model.data)]
    condemned = {world.checkpoint(each)["spec"]["storage"]["url"] for each in world.removals}
    if model.data[name].url not in condemned:
        model.data[name].pinned = what == "pin"
        world.annotate(name, pinned=str(what == "pin").lower())


def carry_out(world: World, model: Model, delete: str, *, well: bool) -> None:
    """Do what a Delete asks for: this is where a mistake would cost somebody his data."""
    if "completionTime" in world.checkpoint(delete).get("status", {}):
        return
    if not well:
        world.end(delete, "Failed")
        return
    url = world.checkpoint(delete)["spec"]["storage"]["url"]
    for name in [name for name, save in model.data.items() if save.url == url]:
        assert name not in model.loads.values(), "somebody reads it"
        assert not model.data[name].pinned
        assert name not in {model.newest_first[0], model.committed_last}
        del model.data[name]
        event("removed")
    world.end(delete, "Succeeded")


async def dies(world: World, requests: int, *, answered: bool) -> None:
    world.hear()
    world.api.dies_after(requests, answered=answered)
    try:
        await world.reconciler(KEY)
    except OperatorEndedError:
        event("died")
    world.start()


async def rest(world: World, model: Model) -> None:
    """Carry out all that is asked for until nothing more is, and compare what stands."""
    for _ in range(40):
        world.now += timedelta(minutes=61)
        await world.settle()
        open_ones = [
            each for each in world.removals if "completionTime" not in world.checkpoint(each).get("status", {})
        ]
        for each in open_ones:
            carry_out(world, model, each, well=True)
        if not world.removals:
            break
    else:
        raise AssertionError("the removals never end")
    expected = model.kept(world.now)
    assert set(model.data) == expected
    there = {each for each in world.names if world.checkpoint(each).get("status", {}).get("reason") == "Saved"}
    assert there == expected | {each for each in there if each.startswith("load")}
    told = world.status.get("retention", {}).get("kept", [])
    assert [each["name"] for each in told] == model.newest_first[:32]
    assert all(each["reasons"] for each in told)
    for each in expected:
        assert CHECKPOINTS.path("team", each) in world.api.objects


@settings(max_examples=examples(30, 1000), deadline=None)
@given(
    steps=STEPS,
    last=st.none() | st.integers(1, 4),
    every_steps=st.none() | st.integers(2, 5),
    within=st.none() | st.sampled_from([1, 3]),
)
def test_what_is_kept_is_what_the_model_says(
    steps: list[Step], last: int | None, every_steps: int | None, within: int | None
) -> None:
    rules: dict[str, Any] = {"last": last, "everySteps": every_steps, "within": within and f"{within}h"}
    changes = {
        "spec.every": "10m",
        "spec.concurrencyPolicy": "Allow",
        "spec.startingDeadlineSeconds": 60,
        "spec.historyLimit": {"successful": 1, "failed": 1},
        "spec.retention": {name: value for name, value in rules.items() if value is not None},
    }
    model = Model(last, every_steps, timedelta(hours=within) if within else None)
    world = World(changes)
    world.now = NOW + timedelta(minutes=10)
    asyncio.run(played(world, model, steps))
