"""How all ranks come to save at one step, without a collective and without a question at each step.

The ranks talk through the key-value store that joined them. Rounds are numbered from 0. In round n:

1. Whoever wants a save writes down the wish and rings: it sets `asked/<n>` of the first round without an answer.
2. A rank that hears the ring has its training halt at the next boundary, which is the end of a step. It promises, as
   `promised/<n>/<rank>`, the boundary that it does not pass before it knows the answer: the one where training has
   halted, or else the one that ends the step under way.
3. Rank 0 answers: all save at the greatest promised boundary. A rank that waited too long for a promise or for the
   answer gives the round up. Both write `answered/<n>`, where the first one stands, and every rank acts on what stands.
4. A rank that has halted before the agreed boundary trains on up to that boundary. There every rank saves.

So no rank is ever past the agreed boundary, and no two ranks save at different ones. What is here is the protocol
alone: each role is a generator that yields what it asks of the store (`Ask`) or of its own training, and is sent the
answer. Threads and sockets perform it (`agent`), and so does a model that lets ranks be slow, skewed and dead
(`tests/test_agent_agreement.py`).

The idea of a greatest step that all ranks reach is that of JAX's preemption sync manager.
"""

import json
from collections.abc import Generator
from dataclasses import asdict, dataclass
from enum import Enum, auto
from typing import Any, Final

NEVER: Final = 1 << 62
"""A boundary that no training reaches."""
ARRIVAL_SECONDS: Final = 1.0
"""How long a promise waits for a training that polls to halt, so that it can name the boundary where that stands."""
MARGIN_SECONDS: Final = 2.0
"""How much longer a rank waits for the answer than rank 0 waits for promises: so rank 0 can name who is late."""


WISHES: Final = "wishes"
"""Counts all wishes: rank 0 rings for what came too late for a round."""
SAVES: Final = "saves"
"""Counts the wishes for a save."""


class Wish(Enum):
    """What is asked of a round."""

    SAVE = auto()
    STOP = auto()
    """A save, after which every rank leaves. It stands, as the key `stop`, until it has been carried out."""
    ORDER = auto()
    """A save that rank 0 has an order for, `NextOrder`; asked for again as long as the order waits."""
    END = auto()
    """Nothing more to train: a rank is at its last boundary. It stands, as the key `end`."""

    @property
    def key(self) -> str:
        """The key at which it stands."""
        return self.name.lower()


@dataclass(frozen=True)
class Go:
    """The answer on which every rank acts at one boundary."""

    step: int
    """The boundary: how many steps of training come before it."""
    save: bool
    """Whether a save is wished for; False where a rank only said that its training ends."""
    saves: int = 0
    """How many of the wishes for a save, counted from the first, this round and those before it carry out."""
    stop: bool = False
    """Whether every rank leaves, once the save is committed."""
    end: bool = False
    """Whether this is the last round."""
    order: str = ""
    """What rank 0 has to say of the save to all ranks; the protocol does not read it."""


@dataclass(frozen=True)
class GivenUp:
    """The answer after which training goes on as if nobody had asked."""

    silent: tuple[int, ...]
    """The ranks that were waited for, in order."""
    seconds: float
    """How long they were waited for."""

    def __str__(self) -> str:
        if not self.silent:
            return "the ranks can't talk any more"
        ranks = ", ".join(map(str, self.silent))
        return f"no word of rank{'s' * (len(self.silent) > 1)} {ranks} within {self.seconds:g} s"


Answer = Go | GivenUp


def encoded(answer: Answer) -> str:
    """Return an answer as it stands in the store."""
    return json.dumps({type(answer).__name__: asdict(answer)})


def decoded(text: str) -> Answer:
    """Return an answer from the store."""
    ((kind, fields),) = json.loads(text).items()
    if kind == Go.__name__:
        return Go(**fields)
    return GivenUp(tuple(fields["silent"]), fields["seconds"])


def asked(number: int) -> str:
    """Return the key at which a round is rung."""
    return f"asked/{number}"


def promised(number: int, rank: int) -> str:
    """Return the key of a rank's promise in a round."""
    return f"promised/{number}/{rank}"


def answered(number: int) -> str:
    """Return the key of a round's answer."""
    return f"answered/{number}"


def left(rank: int) -> str:
    """Return the key at which a rank says that it knows the last answer."""
    return f"left/{rank}"


@dataclass(frozen=True)
class Read:
    """Ask the store for a value: the text, or None where nothing stands."""

    key: str


@dataclass(frozen=True)
class WriteFirst:
    """Set a key that nobody has set. Nothing is returned: who must know what stands reads it."""

    key: str
    value: str


@dataclass(frozen=True)
class Count:
    """Add to a number that begins at 0; the sum is returned."""

    key: str
    amount: int


@dataclass(frozen=True)
class Await:
    """Wait until all keys are set; whether they were within the seconds is returned. None waits for ever."""

    keys: tuple[str, ...]
    seconds: float | None


@dataclass(frozen=True)
class AwaitHalt:
    """Wait until this rank's training has halted at a boundary, at most so many seconds."""

    seconds: float


@dataclass(frozen=True)
class AwaitDone:
    """Wait until this rank's training has acted on the answer."""


@dataclass(frozen=True)
class NextOrder:
    """Ask rank 0 what the next save is for: `Go.order`."""


Ask = Read | WriteFirst | Count | Await | AwaitHalt | AwaitDone | NextOrder
Role = Generator[Ask, Any, None]


class Passage(Enum):
    """What a boundary says to training where it is not an answer to act on."""

    FREE = auto()
    HALTED = auto()


class Gate:
    """Where the training of one rank stands, and how far it may go.

    Training writes `at` at each boundary and calls `passage` at the limit; the listener calls the rest. The listener's
    `halt` comes before its `promise` reads `at`, and training writes `at` before it reads `limit`: so training either
    shows the step that it has begun, or halts. All but these plain reads and writes want one lock around them.
    """

    def __init__(self, at: int = 0) -> None:
        self.at = at
        """The last boundary that training has reached."""
        self.polled = -1
        """The last boundary at which training has polled: it is between two steps, and may poll there again."""
        self.limit = 0
        """The boundary at which training has to ask `passage`: the first one, where the rank begins to listen."""
        self.number = 0
        """The first round without an answer, as far as this rank knows."""
        self.halted = False
        self.ended = False
        """Whether `at` is the last boundary of this rank's training."""
        self.left = False
        """Whether training has ended without the others: this rank takes part no more."""
        self.alone = False
        """Whether nothing is heard of the others any more."""
        self.answer: Answer | None = None
        """The answer of the round under way, until training has acted on it."""

    def open(self) -> None:
        """Let training pass freely, from its first boundary on."""
        self.limit = NEVER

    def passage(self) -> Answer | Passage:
        """Return what training does at the boundary `at`; an answer is handed out once, and is then done."""
        answer = self.answer
        if answer is None and self.alone:
            return GivenUp((), 0.0) if self.ended else Passage.FREE
        if answer is None:
            self.halted = self.ended or self.limit < NEVER
            return Passage.HALTED if self.halted else Passage.FREE
        if isinstance(answer, Go) and self.at < answer.step and not self.ended:
            self.limit, self.halted = answer.step, False
            return Passage.FREE
        self.answer, self.limit, self.halted = None, NEVER, self.ended
        self.left = self.ended and isinstance(answer, GivenUp)
        return answer

    def end(self) -> None:
        """Say that training is at its last boundary, where it halts for any answer and acts on it."""
        self.ended = self.halted = True

    def halt(self) -> None:
        """Have training halt at its next boundary."""
        self.limit = 0

    def promise(self) -> int:
        """Return the boundary that training does not pass before `settle`."""
        return self.at if self.halted else self.at + 1

    def settle(self, answer: Answer) -> None:
        """Let training go on: up to the agreed boundary, or freely."""
        self.number += 1
        if isinstance(answer, GivenUp) and not self.halted:
            self.limit = NEVER
        else:
            self.answer = answer

    def abandon(self) -> None:
        """Let training go on freely, for good: nothing is heard of the others any more."""
        self.alone = True
        if self.answer is None:
            self.limit = NEVER

    @property
    def done(self) -> bool:
        """Whether training has acted on the answer."""
        return self.answer is None


def listen(rank: int, world: int, gate: Gate, wait: float) -> Role:
    """Take part in every round until the last one. One thread of each rank does this.

    Args:
        rank: This rank.
        world: How many ranks there are.
        gate: This rank's.
        wait: Seconds after which a round is given up.
    """
    number = seen = served = 0
    """The round; on rank 0: the wishes that rounds have seen, and the wishes for a save that were carried out."""
    while True:
        if rank == 0 and (yield from _is_wanted(seen)):
            yield WriteFirst(asked(number), "a wish that came too late for the round before")
        yield Await((asked(number),), None)
        gate.halt()
        if gate.polled == gate.at:
            yield AwaitHalt(min(ARRIVAL_SECONDS, wait / 2))
        yield WriteFirst(promised(number, rank), str(gate.promise()))
        if rank == 0:
            seen = yield from _answer(number, world, served, wait)
        elif not (yield Await((answered(number),), wait + MARGIN_SECONDS)):
            yield WriteFirst(answered(number), encoded(GivenUp((0,), wait + MARGIN_SECONDS)))
        answer = decoded((yield Read(answered(number))))
        gate.settle(answer)
        yield AwaitDone()
        if gate.left or (isinstance(answer, Go) and (answer.end or answer.stop)):
            yield WriteFirst(left(rank), "")
            if rank == 0:
                # Rank 0 may hold the store: who has not read the answer yet could not, once it is gone.
                yield Await(tuple(map(left, range(world))), wait)
            return
        if isinstance(answer, Go):
            served = answer.saves
        number += 1


def _is_wanted(seen: int) -> Generator[Ask, Any, bool]:
    """Tell whether a wish came too late for its round, or one to stop is yet to be carried out."""
    stop = yield Read(Wish.STOP.key)
    return stop is not None or bool((yield Count(WISHES, 0)) > seen)


def _answer(number: int, world: int, served: int, wait: float) -> Generator[Ask, Any, int]:
    """Answer a round, on rank 0; the count of the wishes that it has seen is returned."""
    keys = tuple(promised(number, each) for each in range(world))
    yield Await(keys, wait)
    wishes = yield Count(WISHES, 0)
    promises = []
    for key in keys:
        promises.append((yield Read(key)))  # noqa: PERF401 - a comprehension can't yield
    if None not in promises:
        stop = (yield Read(Wish.STOP.key)) is not None
        end = (yield Read(Wish.END.key)) is not None
        saves = yield Count(SAVES, 0)
        order = yield NextOrder()
        save = saves > served or stop or bool(order)
        answer: Answer = Go(max(map(int, promises)), save, saves, stop, end, order)
    else:
        answer = GivenUp(tuple(each for each, promise in enumerate(promises) if promise is None), wait)
    yield WriteFirst(answered(number), encoded(answer))
    return int(wishes)


def ask(wish: Wish, number: int, by: str) -> Generator[Ask, Any, int]:
    """Wish for something and ring; any rank may, in any thread.

    The wish stands before the ring: a rank 0 that answers in between finds the wish afterwards, and rings itself.

    Args:
        wish: What for.
        number: A round that was not answered when this rank last looked.
        by: Who asks, for the log.

    Returns:
        The round that was rung.
    """
    if wish is Wish.SAVE:
        yield Count(SAVES, 1)
    elif wish is not Wish.ORDER:
        yield WriteFirst(wish.key, by)
    yield Count(WISHES, 1)
    while (yield Read(answered(number))) is not None:
        number += 1
    yield WriteFirst(asked(number), by)
    return number
