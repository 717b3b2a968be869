"""Nothing is removed twice by a series whose watch is behind, and whose operator ends at any request.

What is created and changed a watch tells of in its order. What is deleted it tells of at any time: of two objects the
one that was deleted later may be told of first. Of what is deleted between the first list and the watch it never tells.
"""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from dcp_operator.api.json_types import Body
from dcp_operator.kube.client.api import CHECKPOINTS, SERIES
from hypothesis_profile import examples
from series_world import KEY, OperatorEndedError, World

CHANGES = {"spec.every": "10m", "spec.concurrencyPolicy": "Allow", "spec.retention": {"last": 1}}
Step = tuple[str, int, bool]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["save", "remove", "remove", "hear", "hear of a deletion", "hear of a deletion", "fail", "wait", "die"]
        ),
        st.integers(0, 5),
        st.booleans(),
    ),
    min_size=15,
    max_size=50,
)


class LateWorld(World):
    """A world whose watch tells of one change after the other, and that notes what is removed."""

    def __init__(self) -> None:
        super().__init__(CHANGES)
        self.saves = 0
        self.removed: list[str] = []

    @property
    def there(self) -> list[Body]:
        """The Checkpoints that exist, the one that was written first first."""
        return sorted(map(self.checkpoint, self.names), key=lambda each: int(each["metadata"]["resourceVersion"]))

    def begun(self, operation: str) -> list[str]:
        """Return those that the operator has heard of, and so begins, and that have not ended."""
        served = self.reconciler.cache.served
        open_ones = [each for each in self.there if "completionTime" not in each.get("status", {})]
        found = [each["metadata"] for each in open_ones if each["spec"]["operation"] == operation]
        return [each["name"] for each in found if served.uid(CHECKPOINTS.key("team", each["name"])) == each["uid"]]

    def hear_of_changes(self, number: int) -> None:
        """Have the watch tell of the next objects that were created or changed; of all if the number is 0."""
        self.reconciler.view.ingest(SERIES, self.series)
        news = [each for each in self.there if self._is_news(each["metadata"])]
        for each in news[: number or len(news)]:
            self.reconciler.view.ingest(CHECKPOINTS, each)

    def _is_news(self, metadata: Body) -> bool:
        known = self.reconciler.cache.version(CHECKPOINTS, "team", metadata["name"], metadata["uid"])
        return known < int(metadata["resourceVersion"])

    def hear_of_a_deletion(self, number: int) -> None:
        """Have the watch tell that one of the objects which are gone is gone."""
        uids = {each["metadata"]["uid"] for each in self.there}
        gone = [each for each in self.reconciler.view.cache.known(CHECKPOINTS) if each[2] not in uids]
        if gone:
            namespace, name, uid, _ = gone[number % len(gone)]
            self.reconciler.view.forget(CHECKPOINTS, namespace, name, uid)

    def save_next(self, number: int) -> None:
        """Have a run commit a checkpoint."""
        if names := self.begun("Save"):
            self.saves += 1
            self.save(names[number % len(names)], self.saves)

    def carry_out(self, name: str) -> None:
        """Carry out a Delete."""
        url = self.checkpoint(name)["spec"]["storage"]["url"]
        assert url not in self.removed, "removed twice"
        self.removed.append(url)
        self.end(name, "Succeeded")
        event("removed")


async def played(world: LateWorld, steps: list[Step]) -> None:
    for what, number, told in steps:
        world.now += timedelta(minutes=61 if what == "wait" else 0, seconds=7)
        deletes = world.begun("Delete")
        match what:
            case "save":
                world.now += timedelta(minutes=10)
                world.save_next(number)
            case "remove" if deletes:
                world.carry_out(deletes[number % len(deletes)])
            case "fail" if deletes:
                world.end(deletes[number % len(deletes)], "Failed")
            case "hear of a deletion":
                world.hear_of_a_deletion(number)
            case "die":
                world.api.dies_after(number, answered=told)
        if told:
            world.hear_of_changes(number)
        try:
            await world.reconciler(KEY)
        except OperatorEndedError:
            event("died")
        if what == "die":
            world.start()
    await rest(world)


async def rest(world: LateWorld) -> None:
    """Have all told and carried out."""
    for _ in range(5):
        world.now += timedelta(minutes=61)
        await world.settle()
        for each in world.begun("Delete"):
            world.carry_out(each)
    await world.settle()
    told = {each["spec"]["storage"]["url"] for each in world.there if each.get("status", {}).get("reason") == "Saved"}
    assert told.isdisjoint(world.removed)
    assert len(told) + len(world.removed) == world.saves


@pytest.mark.adversary
@settings(max_examples=examples(40, 2000), deadline=None)
@given(steps=STEPS)
def test_nothing_is_removed_twice(steps: list[Step]) -> None:
    async def whole() -> None:
        world = LateWorld()
        for _ in range(3):
            world.now += timedelta(minutes=10)
            await world.settle()
            world.save_next(0)
        await played(world, steps)

    asyncio.run(whole())
