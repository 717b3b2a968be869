"""A night of a series whose training saves by itself, beside the runs of a schedule, equals a model's answer.

The operator ends at any request, the agent comes and goes, people delete objects. Each save of the training is told of
by one Checkpoint, the agent forgets none before, nothing of another prefix is taken, and what the retention leaves in
the store is what its rules say of all that was heard of.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from hypothesis import event, given, settings
from hypothesis import strategies as st

from dcp_contract.training import AgentState, EndedSave
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import REPORTED_LABEL
from dcp_operator.controllers.target.reported import save_of
from dcp_operator.kube.channel.callers import Caller
from dcp_operator.kube.channel.hub import Hub
from dcp_operator.kube.view.adopting_series import AdoptingSeries
from dcp_operator.kube.view.targeted_saves import TargetedSaves
from hypothesis_profile import examples
from report_scenes import ADOPTS, LABELS, failed, own
from series_scenes import PREFIX
from series_world import KEY, OperatorEndedError, World, save_id

CALLER = Caller("team", "rank0", "u0")
LAST, EVERY = 2, 5


class Night(World):
    """A world with a training whose agent may be connected."""

    def start(self) -> None:
        """Start an operator that nobody is connected to."""
        super().start()
        cache, runs = self.reconciler.cache, self.reconciler.runs
        self.adopting = AdoptingSeries(cache, runs, now=lambda: self.now)
        self.hub = Hub(TargetedSaves(cache), self.adopting, self.woken.append)
        self.reconciler.hub = self.hub
        self.adopting.note(KEY, self.series)

    def speaks(self, training: "Training") -> None:
        """Have the agent post what it lists, if it is connected, and forget what it need not list."""
        if not training.connected:
            self.hub.forget(CALLER)
            return
        listed = list(training.listed.values())
        self.hub.hear(CALLER, AgentState(group="g", world=2, prefix=PREFIX, ended=listed[:8]), LABELS)
        (agent,) = self.hub.agents("team")
        for each in self.adopting.settled("team", agent):
            training.forgets(each)

    def told(self) -> dict[str, Body]:
        """Return the Checkpoints that tell of a save, by the save."""
        there = [self.checkpoint(name) for name in self.names]
        found = [each for each in there if REPORTED_LABEL in each["metadata"]["labels"]]
        by_save = {each["metadata"]["labels"][REPORTED_LABEL]: each for each in found}
        assert len(by_save) == len(found), "a save was told of twice"
        return by_save


@dataclass
class Training:
    """What the training has saved, what of that was heard of, and what a retention has to leave."""

    step: int = 0
    connected: bool = True
    listed: dict[str, EndedSave] = field(default_factory=dict)
    store: set[str] = field(default_factory=set)
    known: dict[str, tuple[int, datetime]] = field(default_factory=dict)
    """What Checkpoints tell of, by URL: the step, and when it was told."""
    told: set[str] = field(default_factory=set)
    """Reports whose outcome stood in a status."""

    def saves(self, what: str, steps: int) -> None:
        """Train, save, and list the save from now on."""
        self.step += 1 + steps
        ended = failed(self.step) if what == "fail" else own(self.step)
        if what == "foreign":
            ended = own(self.step, f"s3://bucket/other/step-{self.step}")
        self.listed[ended.id] = ended
        if what == "save":
            self.store.add(ended.url)

    def forgets(self, report: str) -> None:
        """Forget a save, of which the outcome is written or which no series takes."""
        ended = self.listed.pop(report)
        assert report in self.told or not ended.url.startswith(f"{PREFIX}/"), "it was forgotten before it was told"

    def retained(self) -> set[str]:
        """Return what of all that is known stays."""
        newest = sorted(self.known, key=lambda url: self.known[url][0], reverse=True)[:LAST]
        last = max(self.known, key=lambda url: (self.known[url][1], self.known[url][0]), default="")
        return {
            *newest,
            *([last] if last else []),
            *(url for url, (step, _) in self.known.items() if step % EVERY == 0),
        }


async def dies(world: Night, requests: int, *, answered: bool) -> None:
    """Let the operator end at a request, and another one start."""
    world.hear()
    world.api.dies_after(requests, answered=answered)
    try:
        await world.reconciler(KEY)
        event("survived")
    except OperatorEndedError:
        event("died")
    world.start()


def progress(world: Night, training: Training) -> bool:
    """Do what Checkpoints' own reconciles and worker pods would; return whether there was something to do."""
    open_ = [each for each in world.names if "completionTime" not in (world.checkpoint(each).get("status") or {})]
    reports = {save_of(each): each for each in training.listed.values()} if training.connected else {}
    busy = False
    for name in open_:
        body = world.checkpoint(name)
        save, operation = body["metadata"]["labels"].get(REPORTED_LABEL), body["spec"]["operation"]
        if operation == "Delete":
            url = body["spec"]["storage"]["url"]
            world.end(name, "Succeeded")
            training.store.remove(url)
            del training.known[url]
        elif save is None and training.connected:
            training.step += 1
            url = f"{PREFIX}/step-{training.step}"
            saved = {"url": url, "saveId": save_id(f"step-{training.step}"), "step": training.step}
            world.end(name, "Succeeded", checkpoint=saved)
            training.store.add(url)
            training.known[url] = (training.step, world.now)
        elif save in reports:
            ended = reports[save]
            assert body["spec"]["storage"]["url"] == ended.url
            training.told.add(ended.id)
            if ended.checkpoint is None:
                world.end(name, "Failed")
            else:
                saved = {"url": ended.url, "saveId": ended.checkpoint.save_id, "step": ended.step}
                world.end(name, "Succeeded", checkpoint=saved)
                training.known[ended.url] = (ended.step or 0, world.now)
        else:
            continue
        busy = True
    return busy


async def settle(world: Night, training: Training) -> None:
    """Let everybody do his part until nothing is left to do."""
    world.speaks(training)
    for _ in range(30):
        await world.settle()
        listed, busy = len(training.listed), progress(world, training)
        world.hear()
        world.speaks(training)
        if not busy and listed == len(training.listed):
            return
    raise AssertionError("it never comes to rest")


def compare(world: Night, training: Training) -> None:
    told = world.told()
    assert all(each["spec"]["storage"]["url"].startswith(f"{PREFIX}/") for each in told.values())
    if training.connected:
        assert training.listed == {}, "the agent lists what is told of"
    assert set(training.known) == training.retained()
    assert set(training.known) <= training.store
    latest = world.status.get("latest", {}).get("url")
    last = max(training.known, key=lambda url: (training.known[url][1], training.known[url][0]), default=None)
    assert latest == last


STEPS = st.lists(
    st.tuples(
        st.integers(2, 25),
        st.sampled_from(["save", "save", "save", "fail", "foreign", "work", "away", "die", "die", "delete"]),
        st.integers(0, 6),
        st.booleans(),
    ),
    min_size=10,
    max_size=40,
)


async def played(world: Night, steps: list[tuple[int, str, int, bool]]) -> None:
    training = Training()
    for minutes, what, number, answered in steps:
        world.now += timedelta(minutes=minutes, seconds=7)
        training.connected = what != "away"
        if what in {"save", "fail", "foreign"}:
            training.saves(what, number)
        if what in {"away", "die"}:
            # Something is under way as it happens.
            training.saves("save", 0)
        world.speaks(training)
        if what == "die":
            await dies(world, number, answered=answered)
        if what == "delete" and (there := sorted(training.known)):
            # A person takes a checkpoint out of the series: its data stay for ever.
            url = there[number % len(there)]
            for name in world.names:
                if (world.checkpoint(name).get("status") or {}).get("checkpoint", {}).get("url") == url:
                    world.remove(name)
            del training.known[url]
        await settle(world, training)
        compare(world, training)


@settings(max_examples=examples(25, 600), deadline=None)
@given(steps=STEPS, every=st.sampled_from([None, "1h"]))
def test_a_night_of_saves_is_what_the_model_says(steps: list[tuple[int, str, int, bool]], every: str | None) -> None:
    rules = {"last": LAST, "everySteps": EVERY}
    asyncio.run(played(Night({**ADOPTS, "spec.every": every, "spec.retention": rules}), steps))
