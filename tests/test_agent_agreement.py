"""Ranks agree on the boundary at which they save: a model of skewed, slow and dying ranks over the protocol itself.

Every read, write and wait of every rank is a step of its own that Hypothesis puts in order. A wait with a deadline may
pass it whenever Hypothesis wants: that stands for any slowness.
"""

from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_agent.agreement import (
    NEVER,
    Await,
    AwaitDone,
    AwaitHalt,
    Count,
    Gate,
    GivenUp,
    Go,
    NextOrder,
    Passage,
    Read,
    Wish,
    WriteFirst,
    answered,
    ask,
    decoded,
    encoded,
    listen,
)
from hypothesis_profile import examples

STEPS = 5
WAIT = 10.0
Role = Generator[Any, Any, None]


@dataclass(frozen=True)
class Until:
    """Training waits, for a condition of its own rank or of the others' training."""

    condition: Callable[[], bool]


@dataclass
class Rank:
    """One rank of the model: its gate, and what its training did."""

    number: int
    gate: Gate = field(default_factory=Gate)
    saved: list[tuple[int, str]] = field(default_factory=list)
    """The boundaries at which it saved, and what for, in order."""
    given_up: int = 0
    left: str = ""
    """Why training is over: `end`, `stop`, `end given up`, or `dead`."""


class LostError(Exception):
    """The store that joined the ranks is gone."""


class World:
    """All ranks, their store, and who is to move."""

    def __init__(self, size: int, *, lockstep: bool) -> None:
        self.store: dict[str, str] = {}
        self.counts: dict[str, int] = {}
        self.ranks = [Rank(number) for number in range(size)]
        self.lockstep = lockstep
        self.lost = False
        self.orders: list[str] = []
        """What rank 0 has yet to have saved, for whom."""
        self.in_time: list[Wish] = []
        """The wishes that stood before any rank was at its end."""
        self.waiting: list[tuple[int, Role, Any]] = []
        """Rank, role, and what the role waits for."""
        for rank in self.ranks:
            rank.gate.open()
            self.begin(rank.number, listen(rank.number, size, rank.gate, WAIT))
            self.begin(rank.number, self.training(rank))

    def begin(self, rank: int, role: Role) -> None:
        self.go_on(rank, role, None)

    def go_on(self, rank: int, role: Role, value: object) -> None:
        with suppress(LostError, StopIteration):
            asked = role.send(value)
            if self.lost and not isinstance(asked, Until | AwaitHalt | AwaitDone | None):
                asked = role.throw(LostError)
            self.waiting.append((rank, role, asked))

    def have_reached(self, step: int) -> bool:
        return all(each.gate.at >= step for each in self.ranks)

    def training(self, rank: Rank) -> Role:
        """Train as `Agent.step` and `Agent.close` have it; each yield is a place where others may move."""
        gate = rank.gate
        for step in range(1, STEPS + 1):
            if self.lockstep:
                yield Until(partial(self.have_reached, step - 1))
            yield None
            gate.at = step
            yield None
            if step >= gate.limit:
                yield from self.halted(rank)
                if rank.left:
                    return
            for _ in range(2 * (step % 2)):
                gate.polled = gate.at
                yield None
                if gate.at >= gate.limit:
                    yield from self.halted(rank)
                    if rank.left:
                        return
        gate.end()
        while not rank.left:
            with suppress(LostError):
                yield from ask(Wish.END, 0, f"rank {rank.number}")
            yield from self.halted(rank)

    def halted(self, rank: Rank) -> Role:
        gate = rank.gate
        while (found := gate.passage()) is Passage.HALTED:
            yield Until(lambda: gate.answer is not None or gate.alone or (gate.limit >= NEVER and not gate.ended))
        if isinstance(found, GivenUp):
            rank.given_up += 1
            rank.left = "end given up" if gate.ended else ""
        elif isinstance(found, Go):
            assert gate.at == found.step or (gate.ended and gate.at < found.step), "past the agreed boundary"
            if found.save:
                rank.saved.append((gate.at, found.order))
                if rank.number == 0 and found.order:
                    assert self.orders.pop(0) == found.order, "an order was carried out twice"
            rank.left = "stop" if found.stop else "end" if found.end else ""

    def kill(self, number: int) -> None:
        self.ranks[number].left = "dead"
        self.waiting = [each for each in self.waiting if each[0] != number]

    def lose_store(self) -> None:
        """Let all that asks the store fail; the listeners abandon the gates, as `Agent` has them do."""
        self.lost = True
        for rank in self.ranks:
            rank.gate.abandon()
        asking = [each for each in self.waiting if not isinstance(each[2], Until | AwaitHalt | AwaitDone | None)]
        self.waiting = [each for each in self.waiting if each not in asking]
        for number, role, _ in asking:
            # Training goes on; a listener ends, and so does who asks for a save.
            with suppress(LostError, StopIteration):
                self.waiting.append((number, role, role.throw(LostError)))

    def is_ready(self, place: int) -> bool:
        rank, _, wanted = self.waiting[place]
        gate = self.ranks[rank].gate
        if isinstance(wanted, Await):
            return all(key in self.store for key in wanted.keys)
        if isinstance(wanted, AwaitHalt):
            return gate.halted
        if isinstance(wanted, AwaitDone):
            return gate.done
        return not isinstance(wanted, Until) or wanted.condition()

    def can_time_out(self, place: int) -> bool:
        wanted = self.waiting[place][2]
        return isinstance(wanted, AwaitHalt) or (isinstance(wanted, Await) and wanted.seconds is not None)

    def move(self, place: int) -> None:
        """Carry out what a role waits for, and let the role go on to its next question."""
        ready = self.is_ready(place)
        rank, role, wanted = self.waiting.pop(place)
        value: object = None
        if isinstance(wanted, Read):
            value = self.store.get(wanted.key)
        elif isinstance(wanted, WriteFirst):
            self.store.setdefault(wanted.key, wanted.value)
        elif isinstance(wanted, NextOrder):
            value = next(iter(self.orders), "")
        elif isinstance(wanted, Count):
            value = self.counts[wanted.key] = self.counts.get(wanted.key, 0) + wanted.amount
        elif isinstance(wanted, Await):
            value = ready
        self.go_on(rank, role, value)

    def run_out(self) -> None:
        """Let all move fairly, and let deadlines pass only where nobody else can move."""
        for _ in range(5_000):
            places = [place for place in range(len(self.waiting)) if self.is_ready(place)]
            if not places:
                late = [place for place in range(len(self.waiting)) if self.can_time_out(place)]
                places = sorted(late, key=lambda place: self.waiting[place][2].seconds)
            if not places:
                return
            # Whoever waits longest: a role that moves is put at the end.
            self.move(places[0])
        raise AssertionError("the roles never come to rest")

    def answers(self) -> list[Go | GivenUp]:
        found: list[Go | GivenUp] = []
        while answered(len(found)) in self.store:
            found.append(decoded(self.store[answered(len(found))]))
        return found


def scrambled(
    data: st.DataObject, world: World, wishes: list[tuple[int, Wish]], deaths: list[int], *, late: bool
) -> None:
    """Let Hypothesis put moves, wishes, deaths and passed deadlines in order, for a while."""
    for _ in range(data.draw(st.integers(0, 150))):
        places = [
            place
            for place in range(len(world.waiting))
            if world.is_ready(place) or (late and world.can_time_out(place))
        ]
        halts = [place for place in range(len(world.waiting)) if isinstance(world.waiting[place][2], AwaitHalt)]
        events: list[Callable[[], None]] = [partial(world.move, place) for place in sorted({*places, *halts})]
        if wishes:
            events.append(lambda: wish(world, *wishes.pop()))
        if deaths:
            events.append(lambda: world.kill(deaths.pop()))
        if not events:
            return
        data.draw(st.sampled_from(events))()


def wish(world: World, rank: int, what: Wish) -> None:
    """Have a thread of a rank ask for something."""

    if rank == 0 and what is Wish.SAVE:
        world.orders.append(f"order {len(world.orders)}")

    def asking() -> Role:
        yield from ask(what, 0, f"rank {rank}")
        # A wish that comes as training ends may be too late: whoever wished sees so in the last answer.
        if Wish.END.key not in world.store:
            world.in_time.append(what)

    if world.ranks[rank].left == "":
        world.begin(rank, asking())


WISHES = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([Wish.SAVE, Wish.SAVE, Wish.STOP])), max_size=4)


@settings(max_examples=examples(40, 3_000), deadline=None)
@given(data=st.data(), size=st.integers(1, 3), lockstep=st.booleans(), wishes=WISHES)
def test_every_wish_is_carried_out_at_one_boundary(
    *, data: st.DataObject, size: int, lockstep: bool, wishes: list[tuple[int, Wish]]
) -> None:
    world = World(size, lockstep=lockstep)
    scrambled(data, world, [(rank % size, what) for rank, what in wishes], [], late=False)
    world.run_out()
    first, *others = world.ranks
    assert first.left in {"end", "stop"}
    assert all((rank.left, rank.saved) == (first.left, first.saved) for rank in others)
    assert not any(rank.given_up for rank in world.ranks)
    assert Wish.STOP not in world.in_time or first.left == "stop"
    if first.left == "end":
        last = world.answers()[-1]
        assert isinstance(last, Go)
        assert last.saves >= world.in_time.count(Wish.SAVE)
    assert bool(first.saved) >= bool(world.in_time)
    assert len(first.saved) <= len(wishes)


@settings(max_examples=examples(40, 3_000), deadline=None)
@given(data=st.data(), size=st.integers(1, 3), lockstep=st.booleans(), wishes=WISHES)
def test_deadlines_that_pass_never_part_the_ranks(
    *, data: st.DataObject, size: int, lockstep: bool, wishes: list[tuple[int, Wish]]
) -> None:
    world = World(size, lockstep=lockstep)
    scrambled(data, world, [(rank % size, what) for rank, what in wishes], [], late=True)
    world.run_out()
    assert all(rank.left for rank in world.ranks), "a rank waits for ever"
    assert len({tuple(rank.saved) for rank in world.ranks}) == 1
    if Wish.STOP in world.in_time:
        assert {rank.left for rank in world.ranks} <= {"stop", "end given up"}


@settings(max_examples=examples(40, 3_000), deadline=None)
@given(st.data(), st.integers(2, 3), WISHES, st.integers(0, 2))
def test_a_rank_that_dies_ends_the_round_and_is_named(
    data: st.DataObject, size: int, wishes: list[tuple[int, Wish]], victim: int
) -> None:
    victim %= size
    world = World(size, lockstep=False)
    scrambled(data, world, [(rank % size, what) for rank, what in wishes], [victim], late=False)
    if world.ranks[victim].left == "":
        world.kill(victim)
    world.run_out()
    alive = [rank for rank in world.ranks if rank.number != victim]
    assert all(rank.left for rank in alive), "a rank waits for ever"
    for answer in world.answers():
        if isinstance(answer, GivenUp):
            # Rank 0, where it is dead; otherwise the dead, and who has left without the others.
            gone = {rank.number for rank in world.ranks if rank.left in {"dead", "end given up"}}
            assert answer.silent == (0,) or victim in answer.silent
            assert set(answer.silent) <= gone | {0}


@settings(max_examples=examples(40, 3_000), deadline=None)
@given(st.data(), st.integers(1, 3), WISHES)
def test_a_store_that_is_lost_ends_no_training(data: st.DataObject, size: int, wishes: list[tuple[int, Wish]]) -> None:
    world = World(size, lockstep=False)
    scrambled(data, world, [(rank % size, what) for rank, what in wishes], [], late=True)
    world.lose_store()
    world.run_out()
    assert all(rank.left for rank in world.ranks), "a rank waits for ever"


def test_a_given_up_round_names_the_silent() -> None:
    assert str(GivenUp((1,), 10.0)) == "no word of rank 1 within 10 s"
    assert str(GivenUp((0, 2), 2.5)) == "no word of ranks 0, 2 within 2.5 s"


@pytest.mark.parametrize("answer", [Go(3, True), Go(3, False, 2, stop=True, end=True), GivenUp((0, 2), 1.5)], ids=str)
def test_an_answer_survives_the_store(answer: Go | GivenUp) -> None:
    assert decoded(encoded(answer)) == answer
